//! job-monitor: a daemon that carries out a person's queue of coding-agent jobs.
//!
//! # The program in one breath
//!
//! A job is a Markdown file in a project's spool. One thread for each project looks at the spool,
//! decides, acts, and looks again. A job is finished when its result file exists; in case somebody takes a
//! result away, `worker::Memory` knows the jobs that were finished last.
//! Everything in memory can be lost at any moment and is rebuilt by looking.
//!
//! # Glossary
//!
//! - The *spool* is a project's directories for documents, results, logs and `state/`. A *layout* is how they are
//!   arranged; `tasks` is that of the *predecessor*, an older program whose files are still read.
//! - A *document* is the file of a job. Its front matter holds *wishes*, which may only tighten the *policy*: the
//!   settings in force for the project.
//! - A *claim* is the file in `state/` that says how far a job is that was begun. A *mark* is an empty file there, by
//!   which a command asks the daemon for something. The *view* is the file that shows the queue to commands.
//! - A *start* is one launch of an agent for a job, and has its number in the claim. An *attempt* is a start as it is
//!   told when it is over. A *run* is a start, a gate or a check: all its processes have its *token* in their
//!   environment. To *sweep* is to end the processes that a run left, its *leftovers*.
//! - A *suspended* job was begun, and waits for a time or for the end of a hold.
//! - A *hold* is a reason for which agents are not started: all of them, one, those of a project, or one there. It
//!   lasts until a time, or until a person or a *probe* ends it. A probe is a start that goes to see whether things
//!   are mended. The *board*, which all projects share, keeps the holds. The hold mark of a job is something else: by
//!   it a person keeps that one job back.
//! - A worker is *closed* as long as a hold, a shut gate, or the want of a *slot* (`max_parallel`) keeps it from a
//!   start.
//! - The *gate* is a command of the owner's that must succeed before a job's first start. The *check* must succeed
//!   after the agent's work; a *round* sends the agent back with what the check said.
//! - A *dialect* is how one kind of agent is talked to. It reads the output as *events*, which a *fold* adds up to a
//!   *report*. A *verdict* is what fold and exit mean: nothing, or a *fault*, whose kind has a *course*: what
//!   follows.
//! - A *post* is what a worker's thread is given. On its *desk* lies the *order*, which is what the main thread wants
//!   of it, and what the main thread must know of it. A *bell* wakes the thread that has its *ear*.
//! - A *stamp* is the time in a job's name; in `holds` and `board` it is what a file looked like.
//! - A *witness* is a file of an agent's own that says why the agent failed.
//! - `SPEC 7` is section 7 of the specification by which the program was written. It is not in this repository; a
//!   comment that names it can be understood without it.
//!
//! # States of a job
//!
//! Which files exist: `I` document, `C` claim, `X` cancel mark, `H` hold mark, `D` result.
//!
//! | state | I C X H D | entered by | after a crash |
//! |---|---|---|---|
//! | unknown | − − − − − | | |
//! | waiting | + − − − − | the writer's rename or close | unchanged |
//! | held | + − − + − | `hold`; `submit --hold`; `register` of a project that has documents | unchanged |
//! | running | ? + ? ? − | the claim, durable before the agent starts | interrupted |
//! | checking | ? + ? ? − | an agent that did its work, where there is a check; the claim says so | the check is run again |
//! | suspended | ? + ? ? − | an attempt or a check that ended in a hold, a retry or a round; the claim says so | unchanged |
//! | interrupted | ? + ? ? − | a claim of a running attempt, found by a starting worker | its processes are ended, then `on_interrupt` |
//! | done | ? ? ? ? + | rename of the result: the commit | claim and marks are swept |
//!
//! `decide::Jobs` knows each job that is not finished with by what the table says: the waiting by their
//! documents, the begun by their claims, which say in which row they are; a claim that says *running* is
//! *interrupted* where nobody attends its agent. There is no other record of a state. Of a job's state, memory is
//! ahead of the disk only by the one decision that could not be written yet (`unwritten`); nothing is started
//! meanwhile.
//!
//! `decide::decide` gives the step that is next, `decide::after_attempt` and its neighbours what follows. "What
//! happens to a job whose agent hits a usage limit while the disk is full?" is answered by `worker/end.rs`
//! (`conclude`, `write`), which asks `decide.rs` for what follows, puts the hold on `board.rs`, and keeps the
//! claim that could not be written; `worker/mod.rs` (`run`) tries again every two seconds. When the job goes on is
//! said by `holds.rs` (`fault`, `closed`), which `worker/start.rs` (`launch`) asks by the board.
//!
//! The order of effects is claim durable → agent → result durable → claim removed. Of all orders
//! that were tried under `kill -9` at every system call, only this one never started a job twice.
//!
//! # Layers
//!
//! A file imports only what stands below it, or behind it in its row (`tests/tidy.rs` checks it):
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
//!   The project's lock is taken before a claim, after which the worker looks once more for claims that another
//!   daemon left, and kept until nothing is claimed. A write that fails opens them anew and is tried again.
//! - *Marks are poked.* The daemon writes into `state/` several times for each job, and watching it
//!   would cost more than the job's other bookkeeping together. So a command that leaves a mark
//!   also makes and removes a file in the documents' directory, which is watched anyway. What a hand does
//!   there, or to results, is seen by the slow look, to which a directory that looks as before is no news.
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
