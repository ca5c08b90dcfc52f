//! Runs the owner's commands: gate and check for `proof`, and the hooks `on_finish` and `on_hold` when a job is
//! done or a hold begins, with what happened in their environment. The next job of the project waits for them,
//! so that they may commit or deploy what a job left. None of them has the credentials of `.env`.

use super::*;

/// A hook has so long (SPEC 8).
const HOOK_MAX: Duration = Duration::from_secs(60);
/// The end of a command's output that is told.
const OUTPUT_MAX: u64 = 4 << 10;

/// Names and values of variables that a command is given.
pub type Told = Vec<(&'static str, String)>;

/// How a command ended, who ended it, and how many processes it left that were swept.
pub type Ran = (Check, Ending, u32);

impl Worker<'_> {
    /// What a command is told of a job (SPEC 8), before its end as far as it is known.
    pub fn told_of(&self, claim: &Claim, end: Option<&End>) -> Told {
        let cost = outcome::cost_of(claim).map_or(String::new(), |cost| cost.to_string());
        let mut told = vec![
            ("JOB_MONITOR_JOB_ID", claim.job_id.to_string()),
            ("JOB_MONITOR_DURATION", outcome::lasted(claim).to_string()),
            ("JOB_MONITOR_COST_USD", cost),
        ];
        if let Some(End { fault, .. }) = end {
            let kind = fault.as_ref().map_or("", |fault| fault.kind.as_str());
            let status = outcome::status(fault.as_ref());
            let result = self.spool.result_path(&claim.job_id);
            told.push(("JOB_MONITOR_STATUS", status.to_owned()));
            told.push(("JOB_MONITOR_ERROR_KIND", kind.to_owned()));
            told.push(("JOB_MONITOR_RESULT", result.display().to_string()));
        }
        told
    }

    /// Runs a hook. Whatever it does changes nothing of what is decided.
    pub fn run_hook(&mut self, name: &str, argv: &[String], told: Told) {
        self.write_lines();
        let what = match self.run_command(argv, told, None, HOOK_MAX) {
            Ok((check, ..)) if check.exit_code == Some(0) => return,
            Ok((_, Ending::Interrupted, _)) => "was ended, since the monitor stops".to_owned(),
            Ok((check, ..)) => how(&check, HOOK_MAX),
            Err(error) => error.to_string(),
        };
        self.warn(format!("{name}: {:?} {what}", argv[0]));
    }

    /// The end of whatever runs, where the monitor is stopping.
    pub fn stopping(&self) -> Option<Ending> {
        (self.post.order() == Order::Stop).then_some(Ending::Interrupted)
    }

    /// The program of a command.
    pub fn program_of(&self, argv: &[String]) -> Result<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        process::find_program(argv[0].as_ref(), &path, &self.post.project.path)
            .map_err(|missing| Error::new(format!("cannot be started: {missing}")))
    }

    /// Runs a command to its end. `of_job` is given for a gate or a check, with the file for its output: what
    /// it leaves is swept, and marks are heard meanwhile. What a hook leaves is left alone.
    pub fn run_command(
        &mut self,
        argv: &[String],
        mut told: Told,
        of_job: Option<(&JobId, &File)>,
        limit: Duration,
    ) -> Result<Ran> {
        let (program, root) = (self.program_of(argv)?, self.spool.root()?);
        let (token, (job, output)) = (Token::new(&root), of_job.unzip());
        let run = output.map_or("hook", |_| token.as_str());
        told.push(("JOB_MONITOR_PROJECT", self.name().to_owned()));
        told.push((job::RUN_VARIABLE, run.to_owned()));
        let told = told.iter();
        let told = told.map(|(name, text)| (name.as_ref(), text.as_ref()));
        let base = self.post.context.environment.iter();
        let base = base.map(|(name, value)| (name.as_os_str(), value.as_os_str()));
        let env: Vec<(&OsStr, &OsStr)> = base.chain(told).collect();
        let (stdin, stderr) = (files::in_memory(b"")?, std::io::stderr());
        let sink = output.map_or(stderr.as_fd(), |out| out.as_fd());
        let launch = Launch {
            program: &program,
            argv,
            env: &env,
            directory: &root,
            streams: [stdin.as_fd(), sink, sink],
        };
        let heard = output.unwrap_or(&stdin).try_clone();
        let heard = heard.map_err(|e| Error::io("open", Path::new("the output"), e))?;
        let mut policy = Policy::clone(&self.policy);
        (policy.timeout, policy.silence_timeout) = (limit, None);
        // It is attended as a plain agent is.
        let (started_at, attended) = (Wall::now(), Output::new(&Claim::default(), heard, None));
        let agent = Agent::spawn(&launch, &token);
        let agent = agent.map_err(|e| Error::io("start", &program, e))?;
        let before = self.jobs.attended.clone();
        self.jobs.attended = job.or(before.as_ref()).cloned();
        let mut look = |_: &Agent, _: &Report| match job {
            Some(id) => self.look_while_running(id),
            None => self.stopping(),
        };
        let ran = attended.attend(agent, &policy, output.is_some(), &mut look);
        self.jobs.attended = before;
        let said = output.map(|out| files::tail(out, Path::new("the output"), OUTPUT_MAX));
        let check = Check {
            started_at,
            duration_seconds: millis(ran.duration.as_secs_f64()),
            exit_code: ran.ended.code,
            signal: ran.ended.signal,
            output: said.transpose()?.unwrap_or_default(),
        };
        Ok((check, ran.ended.by, ran.leftovers))
    }
}
