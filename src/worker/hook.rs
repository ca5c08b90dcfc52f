//! Commands of the owner's: gate and check, which prove a job, and `on_finish` and `on_hold`, which are run
//! when a job is done or a hold begins, with what happened in their environment. The next job of the
//! project waits for them, so that they may commit or deploy what a job left. None of them has the
//! credentials of `.env`.

use super::{Order, Worker};
use crate::agent::Ending;
use crate::decide::{State, Until, how};
use crate::error::{Error, Result};
use crate::files;
use crate::job::{ErrorKind, JobId, RUN_VARIABLE};
use crate::outcome::millis;
use crate::process::{self, Agent, Exit, Launch, SpawnFault, Token};
use crate::record::{Check, Outcome};
use crate::runner::memory_file;
use crate::time::Wall;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A hook has so long (SPEC 8).
const HOOK_MAX: Duration = Duration::from_secs(60);
/// How late a cancel or a clock is noticed.
const LOOK: Duration = Duration::from_millis(200);
/// The end of a command's output that is told.
const OUTPUT_MAX: u64 = 4 << 10;

/// Names and values of variables that a command is given.
pub(super) type Told = Vec<(&'static str, String)>;

/// A command to be run.
pub(super) struct Command<'a> {
    pub(super) argv: &'a [String],
    pub(super) told: Told,
    pub(super) out: &'a File,
    pub(super) err: &'a File,
    pub(super) limit: Duration,
    /// Whether what it starts on purpose outlives it.
    pub(super) is_hook: bool,
}

/// How a command ended.
pub(super) struct Ran {
    pub(super) check: Check,
    pub(super) by: Ending,
    pub(super) leftovers: u32,
}

impl Worker<'_> {
    /// What a command is told of a job (SPEC 8).
    pub(super) fn told_of(&self, outcome: &Outcome) -> Told {
        let output = outcome.worker_output.as_ref();
        let cost = output.and_then(|output| output.cost_usd);
        let kind = outcome.error_kind.map_or("", ErrorKind::as_str);
        let result = self.spool.result_path(&outcome.job_id);
        vec![
            ("JOB_MONITOR_JOB_ID", outcome.job_id.to_string()),
            ("JOB_MONITOR_STATUS", outcome.status.as_str().to_owned()),
            ("JOB_MONITOR_ERROR_KIND", kind.to_owned()),
            ("JOB_MONITOR_RESULT", result.to_string_lossy().into_owned()),
            ("JOB_MONITOR_DURATION", outcome.duration_seconds.to_string()),
            (
                "JOB_MONITOR_COST_USD",
                cost.map_or(String::new(), |cost| cost.to_string()),
            ),
        ]
    }

    /// Runs the person's command after a job that is done.
    pub(super) fn tell(&mut self, id: &JobId) -> Result<Option<Until>> {
        let policy = self.post.orders.policy();
        if let (Some(State::Done(told)), Some(argv)) = (self.jobs.remove(id), &policy.on_finish) {
            self.run_hook(&format!("on_finish for {id}.md"), argv, told);
        }
        Ok(None)
    }

    /// Runs a hook. Whatever it does changes nothing of what is decided.
    pub(super) fn run_hook(&mut self, name: &str, argv: &[String], told: Told) {
        self.write_lines();
        // Where the directory is not what the registry says, what is there now is another's.
        self.spool.rest();
        let mut stops = |worker: &mut Self| worker.is_stopping().then_some(Ending::Interrupted);
        let null = Path::new("/dev/null");
        let ran = File::options().write(true).open(null).and_then(|out| {
            let err = File::from(std::io::stderr().as_fd().try_clone_to_owned()?);
            Ok((out, err))
        });
        let ran = ran.map_err(|e| Error::io("open", null, e));
        let ran = ran.and_then(|(out, err)| {
            let command = Command {
                argv,
                told,
                out: &out,
                err: &err,
                limit: HOOK_MAX,
                is_hook: true,
            };
            self.run_command(&command, &mut stops)
        });
        let what = match ran {
            Ok(ran) if ran.check.exit_code == Some(0) => return,
            Ok(ran) if ran.by == Ending::Interrupted => "was ended, since the monitor stops".into(),
            Ok(ran) => how(&ran.check, HOOK_MAX),
            Err(error) => error.to_string(),
        };
        self.warn(format!("{name}: {:?} {what}", argv[0]));
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.post.orders.order() == Order::Stop
    }

    /// The program of a command.
    pub(super) fn program_of(&self, argv: &[String]) -> Result<PathBuf> {
        let mut variables = self.post.context.environment.iter();
        let path = variables.find(|(name, _)| name == "PATH");
        let path = path.map_or(OsStr::new(""), |(_, path)| path);
        process::find_program(argv[0].as_ref(), path, &self.post.project.path)
            .map_err(|missing| Error::new(format!("cannot be started: {missing}")))
    }

    /// Runs a command to its end. `look` is asked now and then whether somebody wants that.
    pub(super) fn run_command(
        &mut self,
        command: &Command<'_>,
        look: &mut dyn FnMut(&mut Self) -> Option<Ending>,
    ) -> Result<Ran> {
        let program = self.program_of(command.argv)?;
        let root = self.spool.root()?;
        let token = Token::new(&root);
        let argv: Vec<OsString> = command.argv.iter().map(OsString::from).collect();
        let run = if command.is_hook {
            "hook"
        } else {
            token.as_str()
        };
        let own = [("JOB_MONITOR_PROJECT", self.name()), (RUN_VARIABLE, run)];
        let told = command
            .told
            .iter()
            .map(|(name, value)| (*name, value.as_str()));
        let told = told
            .chain(own)
            .map(|(name, value)| (OsStr::new(name), OsStr::new(value)));
        let base = self.post.context.environment.iter();
        let base = base.map(|(name, value)| (name.as_os_str(), value.as_os_str()));
        let env: Vec<(&OsStr, &OsStr)> = base.chain(told).collect();
        let launch = Launch {
            program: &program,
            argv: &argv,
            env: &env,
            directory: &root,
            stdin: &memory_file("")?,
            stdout: command.out,
            stderr: command.err,
        };
        let grace = self.post.orders.policy().grace;
        let (started, started_at) = (Instant::now(), Wall::now());
        let agent = Agent::spawn(&launch, &token).map_err(|fault| match fault {
            SpawnFault::Missing(e) | SpawnFault::Passing(e) => Error::io("start", &program, e),
        })?;
        let by = loop {
            if agent.wait(LOOK) {
                break Ending::Itself;
            }
            let is_late = started.elapsed() >= command.limit;
            if let Some(end) = look(self).or(is_late.then_some(Ending::Timeout)) {
                agent.stop(grace);
                break end;
            }
        };
        let lasted = started.elapsed().as_secs_f64();
        let (exit, leftovers) = match command.is_hook {
            true => (agent.leave(), 0),
            false => agent.reap(),
        };
        let (exit_code, signal) = match exit {
            Exit::Code(code) => (Some(code), None),
            Exit::Signal(signal) => (None, Some(signal)),
        };
        let output = match command.is_hook {
            true => String::new(),
            false => files::tail(command.out, Path::new("the output"), OUTPUT_MAX)?,
        };
        let check = Check {
            started_at,
            duration_seconds: millis(lasted),
            exit_code,
            signal,
            output,
        };
        Ok(Ran {
            check,
            by,
            leftovers,
        })
    }
}
