//! Proof: the gate, which must succeed before a job's first start, and the check, which must succeed before
//! a job counts as completed (SPEC 7). Both are commands of the owner's, each a process tree of its own.

use super::{Order, Worker};
use crate::agent::{Ending, Fault};
use crate::decide::{self, Next, State, Until};
use crate::error::{Error, Result};
use crate::files;
use crate::holds::{Kind, Own};
use crate::job::{ErrorKind, JobId, RUN_VARIABLE, Status};
use crate::outcome;
use crate::process::{self, Agent, Exit, Launch, SpawnFault, Token};
use crate::project::Policy;
use crate::record::{Check, Claim, HoldView};
use crate::runner::memory_file;
use crate::time::Wall;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

/// A gate has so long, as hooks have.
const GATE_MAX: Duration = Duration::from_secs(60);
/// Until a gate that is shut, or a check that cannot be started, is tried again.
const PAUSE: Duration = Duration::from_secs(60);
/// How late a cancel or a clock is noticed.
const LOOK: Duration = Duration::from_millis(200);
/// The end of a check's output that the agent and the result are told.
const OUTPUT_MAX: u64 = 4 << 10;

/// How a command ended.
struct Ran {
    exit: Exit,
    by: Ending,
    leftovers: u32,
    lasted: Duration,
}

impl Worker<'_> {
    /// Whether a job may be started: its check can be run afterwards, and before its first start the gate
    /// is open. Else the project is held.
    pub(super) fn may_be_proved(&mut self, claim: &Claim, policy: &Policy) -> bool {
        if let Some(check) = &policy.check
            && let Err(why) = self.program_of(check)
        {
            self.hold_for(Own::Check, &format!("the check {why}"));
            return false;
        }
        let Some(gate) = policy.gate.as_ref().filter(|_| claim.starts == 0) else {
            return true;
        };
        let ran = memory_file("").and_then(|out| {
            let stops = |worker: &mut Self| worker.orders.order() == Order::Stop;
            let mut look = |worker: &mut Self| stops(worker).then_some(Ending::Interrupted);
            let ran = self.run_command(gate, claim, &out, GATE_MAX, policy, &mut look)?;
            let output = files::tail(&out, Path::new("the gate's output"), OUTPUT_MAX)?;
            Ok((
                ran,
                output.trim().lines().last().unwrap_or_default().to_owned(),
            ))
        });
        let why = match ran {
            Ok((
                Ran {
                    exit: Exit::Code(0),
                    ..
                },
                _,
            )) => {
                self.unhold(Own::Gate);
                return true;
            }
            Ok((
                Ran {
                    by: Ending::Interrupted,
                    ..
                },
                _,
            )) => return false,
            Ok((_, said)) if !said.is_empty() => said,
            Ok((
                Ran {
                    exit: Exit::Code(code),
                    ..
                },
                _,
            )) => format!("it failed with exit status {code}"),
            Ok((
                Ran {
                    exit: Exit::Signal(signal),
                    ..
                },
                _,
            )) => format!("it was ended by signal {signal}"),
            Err(error) => error.to_string(),
        };
        self.hold_for(Own::Gate, &why);
        false
    }

    fn unhold(&self, own: Own) {
        let board = &self.context.board;
        board.change(|holds, _| holds.unhold_project(self.name(), own));
    }

    /// Holds the project for a minute, or until something rings.
    fn hold_for(&mut self, own: Own, why: &str) {
        let until = Wall::now().plus(PAUSE);
        let news = self
            .context
            .board
            .change(|holds, now| holds.hold_project(self.name(), own, why, Some(until), now));
        self.announce(news);
        self.set_hold(Some(HoldView {
            kind: Kind::Own(own).as_str().to_owned(),
            agent: None,
            reason: why.to_owned(),
            until: Some(until),
        }));
        self.closed = Some(Until {
            instant: None,
            wall: Some(until),
        });
    }

    /// Runs the check of a job whose agent did its work.
    pub(super) fn check(&mut self, id: JobId) -> Result<Option<Until>> {
        let Some(State::Checking(claim)) = self.jobs.get(&id).cloned() else {
            return Ok(None);
        };
        let mut claim = *claim;
        let policy = self.policy_of(&claim)?;
        let finished = self.read_back(&claim, &policy)?;
        let Some(command) = &policy.check else {
            let next = Next::Publish(Status::Completed);
            return Ok(self.follow(claim, next, None, finished, &policy, 0.0));
        };
        let name = match claim.checks.len() {
            0 => format!("{id}.check"),
            n => format!("{id}.check.{}", n + 1),
        };
        let out = self.spool.create_log(&name)?;
        let started_at = Wall::now();
        self.jobs.attended = Some(id.clone());
        self.view.stale = true;
        let max = policy.max_output;
        let mut look = |worker: &mut Self| {
            let is_full = out.metadata().is_ok_and(|meta| meta.len() > max);
            let end = worker.look_while_running(&id);
            end.or(is_full.then_some(Ending::OutputLimit))
        };
        let ran = self.run_command(
            command,
            &claim,
            &out,
            policy.check_timeout,
            &policy,
            &mut look,
        );
        self.jobs.attended = None;
        let ran = match ran {
            Ok(ran) => ran,
            Err(error) => {
                // Nothing could be proved, so nothing else is begun either.
                self.hold_for(Own::Check, &error.to_string());
                return Ok(None);
            }
        };
        self.unhold(Own::Check);
        claim.carried.leftovers += ran.leftovers;
        let (exit_code, signal) = match ran.exit {
            Exit::Code(code) => (Some(code), None),
            Exit::Signal(signal) => (None, Some(signal)),
        };
        let (next, fault) = match ran.by {
            // The claim says that it is to be checked, and so the next start of the daemon does.
            Ending::Interrupted => return Ok(None),
            Ending::Cancelled => {
                let fault = Fault::new(ErrorKind::Cancelled, "cancelled by hand");
                (Next::Publish(Status::Cancelled), Some(fault))
            }
            _ => {
                claim.checks.push(Check {
                    started_at,
                    duration_seconds: outcome::millis(ran.lasted.as_secs_f64()),
                    exit_code,
                    signal,
                    output: files::tail(&out, Path::new(&name), OUTPUT_MAX)?,
                });
                decide::after_check(&claim, &policy, Wall::now())
            }
        };
        Ok(self.follow(claim, next, fault.as_ref(), finished, &policy, 0.0))
    }

    /// The program of a command. The error says that there is none.
    fn program_of(&self, command: &[String]) -> std::result::Result<std::path::PathBuf, String> {
        let path = self
            .context
            .environment
            .iter()
            .find(|(name, _)| name == "PATH");
        let path = path.map_or(OsStr::new(""), |(_, path)| path);
        let root = &self.spool.project().path;
        process::find_program(command[0].as_ref(), path, root)
            .map_err(|missing| format!("cannot be started: {}", missing))
    }

    /// Runs a command to its end, without the credentials of `.env`.
    fn run_command(
        &mut self,
        command: &[String],
        claim: &Claim,
        out: &File,
        limit: Duration,
        policy: &Policy,
        look: &mut dyn FnMut(&mut Self) -> Option<Ending>,
    ) -> Result<Ran> {
        let program = self.program_of(command).map_err(Error::new)?;
        let root = self.spool.root()?;
        let token = Token::new(&root);
        let argv: Vec<OsString> = command.iter().map(OsString::from).collect();
        let outcome = outcome::of_claim(
            self.spool.project(),
            claim,
            Status::Completed,
            None,
            Wall::now(),
        );
        let mut told = self.told_of(&outcome);
        // Its result is not there yet.
        told.retain(|(name, _)| !matches!(*name, "JOB_MONITOR_STATUS" | "JOB_MONITOR_RESULT"));
        told.push(("JOB_MONITOR_PROJECT", self.spool.project().name.clone()));
        told.push((RUN_VARIABLE, token.as_str().to_owned()));
        let told = told
            .iter()
            .map(|(name, value)| (OsStr::new(*name), OsStr::new(value)));
        let base = self.context.environment.iter();
        let base = base.map(|(name, value)| (name.as_os_str(), value.as_os_str()));
        let env: Vec<(&OsStr, &OsStr)> = base.chain(told).collect();
        let launch = Launch {
            program: &program,
            argv: &argv,
            env: &env,
            directory: &root,
            stdin: &memory_file("")?,
            stdout: out,
            stderr: out,
        };
        let started = Instant::now();
        let agent = Agent::spawn(&launch, &token).map_err(|fault| match fault {
            SpawnFault::Missing(error) | SpawnFault::Passing(error) => {
                Error::io("start", &program, error)
            }
        })?;
        let by = loop {
            if agent.wait(LOOK) {
                break Ending::Itself;
            }
            let is_late = started.elapsed() >= limit;
            if let Some(end) = look(self).or(is_late.then_some(Ending::Timeout)) {
                agent.stop(policy.grace);
                break end;
            }
        };
        let lasted = started.elapsed();
        let (exit, leftovers) = agent.reap();
        Ok(Ran {
            exit,
            by,
            leftovers,
            lasted,
        })
    }
}
