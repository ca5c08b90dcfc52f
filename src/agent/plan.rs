//! Job and settings -> what to start: arguments, environment, prompt. Data only; `runner` starts it.

use super::verdict::Fault;
use super::{Dialect, dialect};
use crate::document::Wishes;
use crate::job::{ErrorKind, JobId, RUN_VARIABLE};
use crate::project::{Policy, Project};
use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// The least money with which an agent is started, in US dollars: the CLI takes four digits, and no zero.
pub const BUDGET_MIN: f64 = 0.0001;

/// One start of a job, before it happens.
#[derive(Clone, Copy, Debug)]
pub struct Assignment<'a> {
    /// The project.
    pub project: &'a Project,
    /// The job.
    pub job: &'a JobId,
    /// What holds for this job.
    pub policy: &'a Policy,
    /// What its document asks for.
    pub wishes: &'a Wishes,
    /// The number of this start, from 1.
    pub start: u32,
    /// Afresh or not.
    pub opening: &'a Opening,
    /// The document's text for the agent.
    pub body: &'a str,
    /// Whether the project has the skill that the built-in prompt calls.
    pub has_skill: bool,
    /// What the job may still cost, if that is limited.
    pub budget_left_usd: Option<f64>,
    /// The run token.
    pub run: &'a str,
    /// A directory for the agent's temporary files, made for this start.
    pub scratch: &'a OsStr,
}

impl Assignment<'_> {
    /// The agent's own arguments, which a dialect puts where they win over its own.
    pub fn own_args(&self) -> impl Iterator<Item = String> {
        let args = self.policy.agent.args.iter();
        args.map(|text| fill(text, self.project, self.job, self.start))
    }
}

/// How a start begins.
#[derive(Clone, Debug, PartialEq)]
pub enum Opening {
    /// With the document, in a new session.
    Fresh {
        /// The session's id, where we choose it.
        session: Option<String>,
        /// Why it is not the job's first start, where the agent must know that.
        because: Option<Because>,
    },
    /// In the session that an earlier start, or an earlier job, began.
    Resume {
        /// Its id.
        session: String,
        /// Why it goes on.
        because: Because,
    },
}

/// Why a session goes on.
#[derive(Clone, Debug, PartialEq)]
pub enum Because {
    /// The start before ended early.
    Ended(ErrorKind),
    /// The check did not succeed.
    Check {
        /// What was run.
        command: String,
        /// How that ended.
        how: String,
        /// The end of what it wrote.
        output: String,
    },
    /// A person replies: the document is what they say.
    Reply,
}

/// What to start.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The program as it is to be looked up, and all its arguments after it.
    pub argv: Vec<String>,
    /// The whole environment, each name once.
    pub env: Vec<Variable<'a>>,
    /// Standard input.
    pub prompt: Cow<'a, str>,
    /// How the agent speaks.
    pub dialect: &'static Dialect,
    /// Whether it goes on in an old session.
    pub resumed: bool,
    /// The file that will hold the answer, where that is not standard output.
    pub answer: Option<PathBuf>,
    /// Whether the agent was given the scratch directory, which must be made then.
    pub uses_scratch: bool,
}

/// Name and value of an environment variable.
pub type Variable<'a> = (&'a OsStr, &'a OsStr);

/// Fills the placeholders of a command, an argument or a path.
pub fn fill(text: &str, project: &Project, job: &JobId, start: u32) -> String {
    text.replace("{project}", &project.path.to_string_lossy())
        .replace("{job_id}", job.as_str())
        .replace("{attempt}", &start.to_string())
}

/// Builds a start from what the agent's environment begins with and the credentials.
///
/// # Errors
/// The fault of a job that need not be started to know how it ends.
pub fn plan<'a>(
    assignment: &Assignment<'a>,
    base: &'a [(OsString, OsString)],
    credentials: &'a [(OsString, OsString)],
) -> Result<Plan<'a>, Fault> {
    let agent = &assignment.policy.agent;
    let dialect = dialect(agent.protocol);
    let (wishes, name) = (assignment.wishes, &agent.name);
    if wishes.max_turns.is_some() && !dialect.turns
        || wishes.max_budget_usd.is_some() && !dialect.costs
    {
        let error = format!(
            "the agent {name} can be given neither max-turns nor max-budget-usd; remove them"
        );
        return Err(Fault::new(ErrorKind::Rejected, error));
    }
    if assignment
        .budget_left_usd
        .is_some_and(|left| left < BUDGET_MIN)
    {
        let error = "the job's max_budget_usd was used up by its earlier starts; raise it, or split the job";
        return Err(Fault::new(ErrorKind::Budget, error));
    }
    let prompt = prompt(assignment, dialect);
    if let Some(max) = dialect
        .prompt_max
        .filter(|max| prompt.chars().count() > *max)
    {
        let error = format!(
            "the prompt is longer than the {max} characters that {} takes; split the job",
            agent.name
        );
        return Err(Fault::new(ErrorKind::PromptTooLong, error));
    }
    let fill = |text: &String| fill(text, assignment.project, assignment.job, assignment.start);
    let mut argv: Vec<String> = agent.command.iter().map(fill).collect();
    (dialect.args)(assignment, &mut argv);
    let (env, uses_scratch) = environment(assignment, dialect, base, credentials);
    let answer = agent
        .answer
        .as_ref()
        .map(|path| assignment.project.path.join(fill(path)));
    let resumed = matches!(assignment.opening, Opening::Resume { .. });
    Ok(Plan {
        dialect,
        resumed,
        argv,
        env,
        prompt,
        answer,
        uses_scratch,
    })
}

/// Later ones win: what we were given, the credentials, the agent's own, and the job's marks.
fn environment<'a>(
    assignment: &Assignment<'a>,
    dialect: &'static Dialect,
    base: &'a [(OsString, OsString)],
    credentials: &'a [(OsString, OsString)],
) -> (Vec<Variable<'a>>, bool) {
    let mut env: Vec<Variable<'a>> = base
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    let mut set = |name: &'a OsStr, value: &'a OsStr, replace: bool| {
        let old = env.iter_mut().find(|(known, _)| *known == name);
        match old {
            Some((_, old)) if replace => *old = value,
            Some(_) => {}
            None => env.push((name, value)),
        }
    };
    for (name, value) in dialect.env {
        set(name.as_ref(), value.as_ref(), false);
    }
    if let Some(scratch) = &dialect.scratch {
        set(
            scratch.variable.as_ref(),
            assignment.scratch,
            scratch.always,
        );
    }
    for (name, value) in credentials {
        set(name, value, true);
    }
    for (name, value) in &assignment.policy.agent.env {
        set(name.as_ref(), value.as_ref(), true);
    }
    for (name, value) in [
        ("JOB_MONITOR_JOB_ID", assignment.job.as_str()),
        ("JOB_MONITOR_PROJECT", &assignment.project.name),
        (RUN_VARIABLE, assignment.run),
    ] {
        set(name.as_ref(), value.as_ref(), true);
    }
    let uses_scratch = env.iter().any(|(_, value)| *value == assignment.scratch);
    (env, uses_scratch)
}

fn prompt<'a>(assignment: &Assignment<'a>, dialect: &Dialect) -> Cow<'a, str> {
    let because = match assignment.opening {
        Opening::Resume {
            because: Because::Reply,
            ..
        } => None,
        Opening::Resume { because, .. } => return Cow::Owned(going_on(because)),
        Opening::Fresh { because, .. } => because.as_ref(),
    };
    let prompt = opening_prompt(assignment, dialect);
    match because {
        Some(because) => Cow::Owned(format!(
            "{}\n\n---\n\n{}",
            prompt.trim_end(),
            going_on(because)
        )),
        None => prompt,
    }
}

fn opening_prompt<'a>(assignment: &Assignment<'a>, dialect: &Dialect) -> Cow<'a, str> {
    let body = assignment.body;
    match &assignment.policy.agent.prompt {
        Some(template) => {
            let prompt = template.replace("{content}", body);
            let exposed = dialect.slash_commands && template.starts_with("{content}");
            Cow::Owned(if exposed {
                format!("\n{prompt}")
            } else {
                prompt
            })
        }
        None if dialect.read.is_none() => Cow::Borrowed(body),
        None => {
            let call = dialect
                .skill_call
                .filter(|_| assignment.has_skill)
                .unwrap_or_default();
            Cow::Owned(format!("{call}Execute the following job:\n\n{body}"))
        }
    }
}

/// What an agent is told that goes on with a job.
fn going_on(because: &Because) -> String {
    match because {
        Because::Ended(kind) => format!(
            "The previous run of this job ended early: {}. Nothing of the job has changed.\n\nFirst look at what \
             is already done, in the conversation above and in the files, since the last step may have been cut off \
             in the middle. Then go on from there and finish the job. Do not do again what is done.\n",
            reason(*kind)
        ),
        Because::Check {
            command,
            how,
            output,
        } => format!(
            "The job is not done yet: the check that it must pass was run and {how}.\n\nThe check is `{command}`. \
             The end of what it wrote:\n\n{output}\n\nFirst look at what is already done. Then mend what keeps the \
             check from passing, without weakening the check itself, and finish the job.\n"
        ),
        Because::Reply => String::new(),
    }
}

/// What ended a run, in words for the agent that takes it up again.
fn reason(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::UsageLimit => "the usage limit was reached, and has been reset since",
        ErrorKind::NotAuthenticated => {
            "the credentials were not accepted, and have been mended since"
        }
        ErrorKind::Billing => "the account could not pay, and that has been mended since",
        ErrorKind::Overloaded => "the service was overloaded",
        ErrorKind::Network => "the service could not be reached",
        ErrorKind::RateLimited => "there were too many requests",
        ErrorKind::Interrupted => "the monitor or the machine was restarted",
        ErrorKind::Silent => "nothing was heard of it for too long",
        ErrorKind::Signal | ErrorKind::NoResult => "the agent's program broke off",
        _ => "it was interrupted",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::{AgentSpec, Layout, Protocol};

    fn policy(protocol: Protocol) -> Policy {
        let mut agent = AgentSpec::new("a", protocol);
        let command = ["srun", "--chdir={project}", "--job-name={job_id}.{attempt}"];
        agent.command = command.map(str::to_owned).into();
        agent.args = vec!["--permission-mode".into(), "plan".into()];
        agent.env = vec![("B".into(), "agent".into())];
        Policy {
            agent,
            ..Policy::default()
        }
    }

    /// A plan that owns what it says.
    struct Planned {
        argv: Vec<String>,
        env: Vec<(String, String)>,
        prompt: String,
    }

    fn planned(
        policy: &Policy,
        opening: &Opening,
        has_skill: bool,
        credentials: &[(&str, &str)],
    ) -> Planned {
        let project = Project {
            name: "p".into(),
            path: "/w/p".into(),
            layout: Layout::Jobs,
        };
        let job = JobId::parse("job-20260130-143000-x").unwrap();
        let wishes = Wishes {
            model: Some("opus".into()),
            max_turns: dialect(policy.agent.protocol).turns.then_some(3),
            ..Wishes::default()
        };
        let os = |pairs: &[(&str, &str)]| -> Vec<(OsString, OsString)> {
            pairs.iter().map(|(n, v)| (n.into(), v.into())).collect()
        };
        let assignment = Assignment {
            project: &project,
            job: &job,
            policy,
            wishes: &wishes,
            start: 2,
            opening,
            body: "/help me",
            has_skill,
            budget_left_usd: Some(1.5),
            run: "token",
            scratch: OsStr::new("/tmp/s"),
        };
        let base = os(&[("A", "base"), ("B", "base"), ("C", "base")]);
        let credentials = os(credentials);
        let plan = plan(&assignment, &base, &credentials).unwrap();
        let text = |text: &OsStr| text.to_str().unwrap().to_owned();
        Planned {
            argv: plan.argv,
            env: plan.env.iter().map(|(n, v)| (text(n), text(v))).collect(),
            prompt: plan.prompt.into_owned(),
        }
    }

    #[test]
    fn claude_gets_its_options_before_the_agent_s_own() {
        let fresh = Opening::Fresh {
            session: Some("S".into()),
            because: None,
        };
        let plan = planned(&policy(Protocol::Claude), &fresh, true, &[]);
        let line = plan.argv.join(" ");
        assert_eq!(
            line,
            "srun --chdir=/w/p --job-name=job-20260130-143000-x.2 -p --output-format stream-json --verbose \
             --permission-mode acceptEdits --setting-sources project --disallowedTools Monitor,ScheduleWakeup,CronCreate \
             --session-id S --model opus --max-turns 3 \
             --max-budget-usd 1.5000 --permission-mode plan"
        );
        let resume = Opening::Resume {
            session: "S".into(),
            because: Because::Ended(ErrorKind::UsageLimit),
        };
        let plan = planned(&policy(Protocol::Claude), &resume, true, &[]);
        assert!(
            plan.argv.join(" ").contains("--resume S")
                && !plan.argv.contains(&"--session-id".to_owned())
        );
        assert!(plan.prompt.contains("usage limit") && !plan.prompt.contains("/help me"));
    }

    #[test]
    fn the_document_never_stands_at_the_head_of_claude_s_prompt() {
        let fresh = Opening::Fresh {
            session: None,
            because: None,
        };
        let mut policy = policy(Protocol::Claude);
        let prompt = |policy: &Policy, skill| planned(policy, &fresh, skill, &[]).prompt;
        assert_eq!(
            prompt(&policy, true),
            "/task-coordination\n\nExecute the following job:\n\n/help me"
        );
        assert_eq!(
            prompt(&policy, false),
            "Execute the following job:\n\n/help me"
        );
        policy.agent.prompt = Some("{content} now".into());
        assert_eq!(prompt(&policy, true), "\n/help me now");
        policy.agent.protocol = Protocol::Plain;
        assert_eq!(prompt(&policy, true), "/help me now");
        policy.agent.prompt = None;
        assert_eq!(prompt(&policy, true), "/help me");
    }

    #[test]
    fn the_environment_has_each_name_once_and_the_nearest_wins() {
        let fresh = Opening::Fresh {
            session: None,
            because: None,
        };
        let credentials = [("B", "file"), ("C", "file"), ("DISABLE_AUTOUPDATER", "0")];
        let plan = planned(&policy(Protocol::Claude), &fresh, false, &credentials);
        let get = |name: &str| {
            let mut all = plan
                .env
                .iter()
                .filter(|(n, _)| n == name)
                .map(|(_, v)| v.as_str());
            let value = all.next();
            assert_eq!(all.next(), None, "{name} twice");
            value
        };
        assert_eq!(
            (get("A"), get("B"), get("C")),
            (Some("base"), Some("agent"), Some("file"))
        );
        assert_eq!(get("DISABLE_AUTOUPDATER"), Some("0"));
        assert_eq!(get("CLAUDE_CODE_MAX_RETRIES"), None);
        assert_eq!(get("CLAUDE_CODE_DISABLE_BACKGROUND_TASKS"), Some("1"));
        assert_eq!(get("CLAUDE_CODE_TMPDIR"), Some("/tmp/s"));
        assert_eq!(get("JOB_MONITOR_JOB_ID"), Some("job-20260130-143000-x"));
        assert_eq!(get("JOB_MONITOR_RUN"), Some("token"));
        let plain = planned(&policy(Protocol::Plain), &fresh, false, &[]);
        assert!(
            !plain
                .env
                .iter()
                .any(|(name, _)| name == "CLAUDE_CODE_TMPDIR")
        );
    }
}
