//! job-monitor: a daemon that carries out a person's queue of coding-agent jobs.
//!
//! # The program in one breath
//!
//! A job is a Markdown file in a project's spool. One thread for each project looks at the spool,
//! decides, acts, and looks again. A job is finished when its result file exists; of those that
//! were, `worker::Memory` keeps the names, in case somebody takes a result away.
//! Everything in memory can be lost at any moment and is rebuilt by looking.
//!
//! # States of a job
//!
//! Which files exist: `I` document, `C` claim, `X` cancel mark, `H` hold mark, `D` result.
//!
//! | state | I C X H D | entered by | after a crash |
//! |---|---|---|---|
//! | unknown | − − − − − | | |
//! | waiting | + − − − − | the writer's rename or close | unchanged |
//! | held | + − − + − | `hold`; `register` of a project that has documents | unchanged |
//! | running | ? + ? ? − | the claim, durable before the agent starts | interrupted |
//! | checking | ? + ? ? − | an agent that did its work, where there is a check; the claim says so | the check is run again |
//! | suspended | ? + ? ? − | an attempt or a check that ended in a hold, a retry or a round; the claim says so | unchanged |
//! | interrupted | ? + ? ? − | a claim of a running attempt, found by a starting worker | its processes are ended, then `on_interrupt` |
//! | done | ? ? ? ? + | rename of the result: the commit | claim and marks are swept |
//!
//! `decide::Jobs` knows each job that is not finished with by what the table says: the waiting by their
//! documents, the begun by their claims, which say in which row they are; a claim that says *running* is
//! *interrupted* where nobody attends its agent. There is no other record of a state. Memory is ahead of the
//! disk only by the one decision that could not be written yet (`unwritten`); nothing is started meanwhile.
//!
//! `decide::decide` gives the step that is next, `decide::after_attempt` and its neighbours what follows. "What
//! happens to a job whose agent hits a usage limit while the disk is full?" is answered by `worker/end.rs`
//! (`conclude`, `write`), which asks `decide.rs` for what follows, puts the hold on `board.rs`, and keeps the
//! claim that could not be written; `worker/mod.rs` (`run`) tries again every two seconds.
//!
//! The order of effects is claim durable → agent → result durable → claim removed. Of all orders
//! that were tried under `kill -9` at every system call, only this one never started a job twice.
//!
//! # Layers
//!
//! A file imports only what stands below it (`tests/tidy.rs` checks it):
//!
//! ```text
//! main
//! --- faces:     command/  render  cli/
//! --- daemon:    daemon  worker/  runner
//! --- hands:     board  git  spool  registry  service  watch  process  settings  skills
//!                witness  files
//! --- decisions: decide  holds  outcome  agent/  document
//! --- words:     record  job  project  digest  time  error
//! ```
//!
//! Faces parse, ask and show. The daemon's threads hold the state of affairs. Each hand touches
//! one kind of outside world and decides nothing. Decisions are functions over plain data, with
//! the time as an argument. Words are shared by all.
//!
//! # Choices that are not obvious
//!
//! - *Who wakes whom.* All that can wake a worker comes through its one bell (`watch::Wake`). An
//!   event carries a name to look at, so that its cost does not depend on how many documents lie
//!   in the spool; when names are lost the worker looks at everything.
//! - *Directories are opened for a look and closed again*, so that an idle project pins no file system.
//!   The project's lock is taken before a claim, after which the worker looks once more, and kept until
//!   nothing is claimed. A write that fails opens them anew and is tried again.
//! - *Marks are poked.* The daemon writes into `state/` several times for each job, and watching it
//!   would cost more than the job's other bookkeeping together. So a command that leaves a mark
//!   also makes and removes a file in the documents' directory, which is watched anyway.
//! - *The agent is started with `posix_spawn` and awaited through a pidfd*; see `process::spawn`.
//!   `wait-timeout` awaits the commands that `doctor` runs.
//! - *What an agent left is known by the run's token in its environment, by its session, its group or its
//!   directory*; see `process::sweep`. Control groups would tell more, and were not worth their threads.
//! - *Lines for the log and the view of the queue are written after the agent's start*, not before:
//!   nothing that the agent does not need stands before it.

pub mod agent;
pub mod board;
pub mod cli;
pub mod command;
pub mod daemon;
pub mod decide;
pub mod digest;
pub mod document;
pub mod error;
pub mod files;
pub mod git;
pub mod holds;
pub mod job;
pub mod outcome;
pub mod process;
pub mod project;
pub mod record;
pub mod registry;
pub mod render;
pub mod runner;
pub mod service;
pub mod settings;
pub mod skills;
pub mod spool;
pub mod time;
pub mod watch;
pub mod witness;
pub mod worker;

pub use command::main;
