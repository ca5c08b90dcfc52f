//! Commands of the owner's: gate and check, which prove a job, and `on_finish` and `on_hold`, which are run
//! when a job is done or a hold begins, with what happened in their environment. The next job of the
//! project waits for them, so that they may commit or deploy what a job left. None of them has the
//! credentials of `.env`.

use super::*;

/// A hook has so long (SPEC 8).
const HOOK_MAX: Duration = Duration::from_secs(60);
/// How late a cancel or a clock is noticed.
const LOOK: Duration = Duration::from_millis(200);
/// The end of a command's output that is told.
const OUTPUT_MAX: u64 = 4 << 10;

/// Names and values of variables that a command is given.
pub type Told = Vec<(&'static str, String)>;

/// How a command ended, who ended it, and how many processes it left that were swept.
pub type Ran = (Check, Ending, u32);

impl Worker<'_> {
    /// What a command is told of a job (SPEC 8).
    pub fn told_of(&self, outcome: &Outcome) -> Told {
        let output = outcome.worker_output.as_ref();
        let cost = output.and_then(|output| output.cost_usd);
        let cost = cost.map_or(String::new(), |cost| cost.to_string());
        let kind = outcome.error_kind.map_or("", ErrorKind::as_str);
        let result = self.spool.result_path(&outcome.job_id);
        vec![
            ("JOB_MONITOR_JOB_ID", outcome.job_id.to_string()),
            ("JOB_MONITOR_STATUS", outcome.status.as_str().to_owned()),
            ("JOB_MONITOR_ERROR_KIND", kind.to_owned()),
            ("JOB_MONITOR_RESULT", result.to_string_lossy().into_owned()),
            ("JOB_MONITOR_DURATION", outcome.duration_seconds.to_string()),
            ("JOB_MONITOR_COST_USD", cost),
        ]
    }

    /// Runs the person's command after a job that is done.
    pub fn tell(&mut self, id: &JobId) {
        let policy = self.post.orders.policy();
        if let (Some(State::Done(told)), Some(argv)) = (self.jobs.remove(id), &policy.on_finish) {
            self.run_hook(&format!("on_finish for {id}.md"), argv, told);
        }
    }

    /// Runs a hook. Whatever it does changes nothing of what is decided.
    pub fn run_hook(&mut self, name: &str, argv: &[String], told: Told) {
        self.write_lines();
        // Where the directory is not what the registry says, what is there now is another's.
        self.spool.rest();
        let ran = self.run_command(argv, told, None, HOOK_MAX, &mut Worker::stopping);
        let what = match ran {
            Ok((check, ..)) if check.exit_code == Some(0) => return,
            Ok((_, Ending::Interrupted, _)) => "was ended, since the monitor stops".to_owned(),
            Ok((check, ..)) => how(&check, HOOK_MAX),
            Err(error) => error.to_string(),
        };
        self.warn(format!("{name}: {:?} {what}", argv[0]));
    }

    /// Whether the monitor stops, as the end of what runs.
    pub fn stopping(&mut self) -> Option<Ending> {
        (self.post.orders.order() == Order::Stop).then_some(Ending::Interrupted)
    }

    /// The program of a command.
    pub fn program_of(&self, argv: &[String]) -> Result<PathBuf> {
        let mut variables = self.post.context.environment.iter();
        let path = variables.find(|(name, _)| name == "PATH");
        let path = path.map_or(OsStr::new(""), |(_, path)| path);
        process::find_program(argv[0].as_ref(), path, &self.post.project.path)
            .map_err(|missing| Error::new(format!("cannot be started: {missing}")))
    }

    /// Runs a command to its end; with no file for its output, what it starts on purpose outlives it. `look`
    /// is asked now and then whether somebody wants it to end.
    pub fn run_command(
        &mut self,
        argv: &[String],
        mut told: Told,
        output: Option<&File>,
        limit: Duration,
        look: &mut dyn FnMut(&mut Self) -> Option<Ending>,
    ) -> Result<Ran> {
        let program = self.program_of(argv)?;
        let root = self.spool.root()?;
        let token = Token::new(&root);
        let run = output.map_or("hook", |_| token.as_str());
        told.push(("JOB_MONITOR_PROJECT", self.name().to_owned()));
        told.push((RUN_VARIABLE, run.to_owned()));
        let told = told.iter();
        let told = told.map(|(name, value)| (OsStr::new(*name), OsStr::new(value)));
        let base = self.post.context.environment.iter();
        let base = base.map(|(name, value)| (name.as_os_str(), value.as_os_str()));
        let env: Vec<(&OsStr, &OsStr)> = base.chain(told).collect();
        let null = |e| Error::io("open", Path::new("/dev/null"), e);
        let (stdout, stderr) = streams(output).map_err(null)?;
        let launch = Launch {
            program: &program,
            argv,
            env: &env,
            directory: &root,
            streams: [&files::in_memory(b"")?, &stdout, &stderr],
        };
        let (started, started_at) = (Instant::now(), Wall::now());
        let agent = Agent::spawn(&launch, &token);
        let agent = agent.map_err(|error| Error::io("start", &program, error))?;
        let by = self.attend_command(&agent, started + limit, look);
        let duration_seconds = millis(started.elapsed().as_secs_f64());
        let (exit, leftovers) = agent.reap(output.is_some());
        let said = output.map(|out| files::tail(out, Path::new("the output"), OUTPUT_MAX));
        let check = Check {
            started_at,
            duration_seconds,
            exit_code: exit.code,
            signal: exit.signal,
            output: said.transpose()?.unwrap_or_default(),
        };
        Ok((check, by, leftovers))
    }

    fn attend_command(
        &mut self,
        agent: &Agent,
        deadline: Instant,
        look: &mut dyn FnMut(&mut Self) -> Option<Ending>,
    ) -> Ending {
        let grace = self.post.orders.policy().grace;
        while !agent.wait(LOOK) {
            let is_late = Instant::now() >= deadline;
            if let Some(end) = look(self).or(is_late.then_some(Ending::Timeout)) {
                agent.stop(grace);
                return end;
            }
        }
        Ending::Itself
    }
}

/// Standard output and error of a command.
fn streams(output: Option<&File>) -> std::io::Result<(File, File)> {
    match output {
        Some(file) => Ok((file.try_clone()?, file.try_clone()?)),
        None => {
            let err = std::io::stderr().as_fd().try_clone_to_owned()?;
            Ok((File::options().write(true).open("/dev/null")?, err.into()))
        }
    }
}
