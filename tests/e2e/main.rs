//! End-to-end tests: the built binary on a temporary directory with stand-in agents that the
//! tests write. One file for each theme; `space` is the harness they share.

mod claude_real;
mod running;
mod space;
