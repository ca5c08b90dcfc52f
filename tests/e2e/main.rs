//! End-to-end tests: the built binary on a temporary directory with stand-in agents that the
//! tests write. One file for each theme; `space` is the harness they share.

mod agents_real;
mod answers;
mod bad_input;
mod changes;
mod claude_real;
mod claude_standin;
mod clock;
#[path = "../common/mod.rs"]
mod common;
mod damage;
mod doctor;
mod hands;
mod holds;
mod hostile;
mod intruders;
mod launch;
mod limits;
#[path = "../common/machine.rs"]
mod machine;
mod minute;
mod mistaken;
mod mounts;
mod night;
mod plain_user;
mod processes;
mod proof;
mod recipes;
mod recorded;
mod recovery;
mod registry;
mod running;
mod saving;
mod screens;
mod settings;
mod shells;
mod slurm;
mod space;
mod stage;
mod stats;
mod steering;
mod terminal;
mod watching;
mod ways_out;
