//! Job and settings -> what to start: arguments, environment, prompt. Data only; `runner` starts it.

use super::verdict::Fault;
use super::{Dialect, Scratch, dialect};
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

    /// Adds an option, unless the agent's own arguments have it: not every program lets it repeat.
    pub fn option(&self, argv: &mut Vec<String>, name: &str, value: Option<&str>) {
        let is_own = self.policy.agent.args.iter().any(|own| own == name);
        let value = value.filter(|_| !is_own).into_iter();
        argv.extend(value.flat_map(|value| [name.to_owned(), value.to_owned()]));
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

impl Opening {
    /// The option that names the session, of these for a new and an old one, and the session.
    pub fn session<'a>(&'a self, new: &'a str, old: &'a str) -> (&'a str, Option<&'a str>) {
        match self {
            Opening::Fresh { session, .. } => (new, session.as_deref()),
            Opening::Resume { session, .. } => (old, Some(session)),
        }
    }
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

impl Plan<'_> {
    /// A variable of the environment.
    pub fn variable(&self, name: &str) -> Option<&OsStr> {
        let mut env = self.env.iter();
        env.find(|(known, _)| *known == name)
            .map(|(_, value)| *value)
    }
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
    let (agent, wishes) = (&assignment.policy.agent, assignment.wishes);
    let (name, dialect) = (&agent.name, dialect(agent.protocol));
    let (max_turns, max_cost) = (wishes.max_turns.is_some(), wishes.max_budget_usd.is_some());
    if max_turns && !dialect.turns || max_cost && !dialect.costs {
        let error =
            format!("the agent {name} takes no max-turns and no max-budget-usd; remove them");
        return Err(Fault::new(ErrorKind::Rejected, error));
    }
    if assignment
        .budget_left_usd
        .is_some_and(|left| left < BUDGET_MIN)
    {
        let error =
            "the job's earlier starts used its max_budget_usd up; raise it, or split the job";
        return Err(Fault::new(ErrorKind::Budget, error));
    }
    let (prompt, max) = (prompt(assignment, dialect), dialect.prompt_max);
    if prompt.len() > max && prompt.chars().count() > max {
        let error = format!("{name} takes no prompt of more than {max} characters; split the job");
        return Err(Fault::new(ErrorKind::PromptTooLong, error));
    }
    let (project, job, start) = (assignment.project, assignment.job, assignment.start);
    let fill = |text: &String| fill(text, project, job, start);
    let mut argv: Vec<String> = agent.command.iter().map(fill).collect();
    (dialect.args)(assignment, &mut argv);
    let env = environment(assignment, dialect, base, credentials);
    Ok(Plan {
        dialect,
        resumed: matches!(assignment.opening, Opening::Resume { .. }),
        answer: agent
            .answer
            .as_ref()
            .map(|path| project.path.join(fill(path))),
        uses_scratch: env.iter().any(|(_, value)| *value == assignment.scratch),
        argv,
        env,
        prompt,
    })
}

/// Later ones win: what we were given, the credentials, the agent's own, and the job's marks.
fn environment<'a>(
    assignment: &Assignment<'a>,
    dialect: &'static Dialect,
    base: &'a [(OsString, OsString)],
    credentials: &'a [(OsString, OsString)],
) -> Vec<Variable<'a>> {
    let mut all: Vec<Variable<'a>> = Vec::new();
    let defaults = dialect
        .env
        .iter()
        .filter_map(|default| default.split_once('='));
    all.extend(defaults.map(|(name, value)| (name.as_ref(), value.as_ref())));
    match dialect.scratch {
        Scratch::Unless(name) => all.push((name.as_ref(), assignment.scratch)),
        Scratch::Always(_) | Scratch::None => {}
    }
    all.extend(base.iter().map(|(name, value)| (&**name, &**value)));
    if let Scratch::Always(name) = dialect.scratch {
        all.push((name.as_ref(), assignment.scratch));
    }
    all.extend(credentials.iter().map(|(name, value)| (&**name, &**value)));
    let own = assignment.policy.agent.env.iter();
    all.extend(own.map(|(name, value)| (name.as_ref(), value.as_ref())));
    all.extend([
        (
            "JOB_MONITOR_JOB_ID".as_ref(),
            assignment.job.as_str().as_ref(),
        ),
        (
            "JOB_MONITOR_PROJECT".as_ref(),
            assignment.project.name.as_ref(),
        ),
        (RUN_VARIABLE.as_ref(), assignment.run.as_ref()),
    ]);
    let mut env: Vec<Variable<'a>> = Vec::with_capacity(all.len());
    for (name, value) in all {
        match env.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => env.push((name, value)),
        }
    }
    env
}

fn prompt<'a>(assignment: &Assignment<'a>, dialect: &Dialect) -> Cow<'a, str> {
    let body = assignment.body;
    let opening = match &assignment.policy.agent.prompt {
        Some(template) => {
            let exposed = dialect.slash_commands && template.starts_with("{content}");
            let gap = if exposed { "\n" } else { "" };
            Cow::Owned(format!("{gap}{}", template.replace("{content}", body)))
        }
        None if dialect.read.is_none() => Cow::Borrowed(body),
        None => {
            let call = if assignment.has_skill {
                dialect.skill_call
            } else {
                ""
            };
            Cow::Owned(format!("{call}Execute the following job:\n\n{body}"))
        }
    };
    match assignment.opening {
        Opening::Resume {
            because: Because::Reply,
            ..
        }
        | Opening::Fresh { because: None, .. } => opening,
        Opening::Resume { because, .. } => Cow::Owned(going_on(because)),
        Opening::Fresh {
            because: Some(because),
            ..
        } => Cow::Owned(format!(
            "{}\n\n---\n\n{}",
            opening.trim_end(),
            going_on(because)
        )),
    }
}

/// What an agent is told that goes on with a job.
fn going_on(because: &Because) -> String {
    let reason = match because {
        Because::Check {
            command,
            how,
            output,
        } => {
            return format!(
                "The job is not done yet: the check that it must pass was run and {how}.\n\nThe check is \
                 `{command}`. The end of what it wrote:\n\n{output}\n\nFirst look at what is already done. Then \
                 mend what keeps the check from passing, without weakening the check itself, and finish the job.\n"
            );
        }
        Because::Ended(ErrorKind::UsageLimit) => {
            "the usage limit was reached, and has been reset since"
        }
        Because::Ended(ErrorKind::NotAuthenticated) => {
            "the credentials were not accepted, but are mended now"
        }
        Because::Ended(ErrorKind::Billing) => {
            "the account could not pay, and that has been mended since"
        }
        Because::Ended(ErrorKind::Overloaded) => "the service was overloaded",
        Because::Ended(ErrorKind::Network) => "the service could not be reached",
        Because::Ended(ErrorKind::RateLimited) => "there were too many requests",
        Because::Ended(ErrorKind::Interrupted) => "the monitor or the machine was restarted",
        Because::Ended(ErrorKind::Silent) => "nothing was heard of it for too long",
        Because::Ended(ErrorKind::Signal | ErrorKind::NoResult) => "the agent's program broke off",
        Because::Ended(_) | Because::Reply => "it was interrupted",
    };
    format!(
        "The previous run of this job ended early: {reason}. Nothing of the job has changed.\n\nFirst look at what \
         is already done, in the conversation above and in the files, since the last step may have been cut off in \
         the middle. Then go on from there and finish the job. Do not do again what is done.\n"
    )
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
            ..Policy::standard()
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
