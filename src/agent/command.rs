//! Job and settings -> what to start: arguments, environment, prompt. Data only; `runner` starts
//! it.

use crate::document::Wishes;
use crate::job::{ErrorKind, JobId, RUN_VARIABLE};
use crate::project::{AgentSpec, Policy, Project, Protocol};
use std::borrow::Cow;
use std::ffi::{OsStr, OsString};

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

/// How a start begins.
#[derive(Clone, Debug, PartialEq)]
pub enum Opening {
    /// With the document, in a new session.
    Fresh {
        /// The session's id, of our choosing; protocol plain has none.
        session: Option<String>,
    },
    /// In the session that an earlier start began.
    Resume {
        /// Its id.
        session: String,
        /// What ended the earlier start.
        because: ErrorKind,
    },
}

/// What to start.
#[derive(Debug, PartialEq)]
pub struct Plan<'a> {
    /// The program as it is to be looked up, and all its arguments after it.
    pub argv: Vec<String>,
    /// The whole environment, each name once.
    pub env: Vec<Variable<'a>>,
    /// Standard input.
    pub prompt: Cow<'a, str>,
}

/// Name and value of an environment variable.
pub type Variable<'a> = (&'a OsStr, &'a OsStr);

/// The ending of the log of standard output.
pub fn output_ending(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Claude | Protocol::Codex | Protocol::Gemini => "jsonl",
        Protocol::Plain => "out",
    }
}

/// Builds a start from what the agent's environment begins with and the credentials.
pub fn plan<'a>(
    assignment: &Assignment<'a>,
    base: &'a [(OsString, OsString)],
    credentials: &'a [(OsString, OsString)],
) -> Plan<'a> {
    let agent = &assignment.policy.agent;
    let fill = |text: &String| {
        text.replace("{project}", &assignment.project.path.to_string_lossy())
            .replace("{job_id}", assignment.job.as_str())
            .replace("{attempt}", &assignment.start.to_string())
    };
    let mut argv: Vec<String> = agent.command.iter().map(fill).collect();
    if agent.protocol == Protocol::Claude {
        argv.extend(claude_arguments(assignment));
    }
    argv.extend(agent.args.iter().map(fill));
    Plan {
        argv,
        env: environment(assignment, base, credentials),
        prompt: prompt(assignment),
    }
}

/// Ours stand before the agent's own `args`: the CLI takes the last of a repeated option.
fn claude_arguments(assignment: &Assignment<'_>) -> Vec<String> {
    let fixed = [
        "-p",
        "--output-format",
        "stream-json",
        "--verbose",
        "--permission-mode",
        "acceptEdits",
        "--setting-sources",
        "project",
    ];
    let mut arguments: Vec<String> = fixed.map(str::to_owned).into();
    let mut option = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
    match assignment.opening {
        Opening::Resume { session, .. } => option("--resume", session.clone()),
        Opening::Fresh {
            session: Some(session),
        } => option("--session-id", session.clone()),
        Opening::Fresh { session: None } => {}
    }
    if let Some(model) = &assignment.wishes.model {
        option("--model", model.clone());
    }
    if let Some(turns) = assignment.wishes.max_turns {
        option("--max-turns", turns.to_string());
    }
    if let Some(left) = assignment.budget_left_usd {
        option("--max-budget-usd", format!("{left:.4}"));
    }
    arguments
}

/// Later ones win: what we were given, the credentials, the agent's own, and the job's marks.
fn environment<'a>(
    assignment: &Assignment<'a>,
    base: &'a [(OsString, OsString)],
    credentials: &'a [(OsString, OsString)],
) -> Vec<Variable<'a>> {
    let agent = &assignment.policy.agent;
    let mut env: Vec<Variable<'a>> = base
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    let mut set = |name: &'a OsStr, value: &'a OsStr, replace: bool| match env
        .iter_mut()
        .find(|(n, _)| *n == name)
    {
        Some((_, old)) if replace => *old = value,
        Some(_) => {}
        None => env.push((name, value)),
    };
    for (name, value) in credentials {
        set(name, value, true);
    }
    for (name, value) in &agent.env {
        set(name.as_ref(), value.as_ref(), true);
    }
    if agent.protocol == Protocol::Claude {
        // A tool that hits its time limit would be moved to the background and keep the CLI alive
        // for ten minutes after its answer; ten retries of the CLI's own take three minutes.
        for (name, value) in [
            ("CLAUDE_CODE_DISABLE_BACKGROUND_TASKS", OsStr::new("1")),
            ("CLAUDE_CODE_MAX_RETRIES", OsStr::new("4")),
            ("DISABLE_AUTOUPDATER", OsStr::new("1")),
            ("CLAUDE_CODE_TMPDIR", assignment.scratch),
        ] {
            set(name.as_ref(), value, false);
        }
    }
    for (name, value) in [
        ("JOB_MONITOR_JOB_ID", assignment.job.as_str()),
        ("JOB_MONITOR_PROJECT", &assignment.project.name),
        (RUN_VARIABLE, assignment.run),
    ] {
        set(name.as_ref(), value.as_ref(), true);
    }
    env
}

/// Whether a start needs a directory of its own for the agent's temporary files: not if the
/// person has chosen one.
pub fn needs_scratch(agent: &AgentSpec, others: &[&[(OsString, OsString)]]) -> bool {
    let name = "CLAUDE_CODE_TMPDIR";
    agent.protocol == Protocol::Claude
        && !agent.env.iter().any(|(own, _)| own == name)
        && !others
            .iter()
            .any(|env| env.iter().any(|(own, _)| own == name))
}

fn prompt<'a>(assignment: &Assignment<'a>) -> Cow<'a, str> {
    let (agent, body) = (&assignment.policy.agent, assignment.body);
    if let Opening::Resume { because, .. } = assignment.opening {
        let because = reason(*because);
        return Cow::Owned(format!(
            "The previous run of this job ended early: {because}. Nothing of the job has changed.\n\n\
             First look at what is already done, in the conversation above and in the files, since the last \
             step may have been cut off in the middle. Then go on from there and finish the job. Do not do \
             again what is done.\n"
        ));
    }
    match (&agent.prompt, agent.protocol) {
        (Some(template), protocol) => {
            let prompt = template.replace("{content}", body);
            // At the head of the prompt a slash would be taken for a command of the CLI's.
            let exposed = protocol == Protocol::Claude && template.starts_with("{content}");
            Cow::Owned(if exposed {
                format!("\n{prompt}")
            } else {
                prompt
            })
        }
        (None, Protocol::Plain | Protocol::Codex | Protocol::Gemini) => Cow::Borrowed(body),
        (None, Protocol::Claude) => {
            let call = if assignment.has_skill {
                "/task-coordination\n\n"
            } else {
                ""
            };
            Cow::Owned(format!("{call}Execute the following job:\n\n{body}"))
        }
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
        _ => "it was interrupted",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::Layout;

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
            max_turns: Some(3),
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
        let plan = plan(&assignment, &base, &credentials);
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
        };
        let plan = planned(&policy(Protocol::Claude), &fresh, true, &[]);
        let line = plan.argv.join(" ");
        assert_eq!(
            line,
            "srun --chdir=/w/p --job-name=job-20260130-143000-x.2 -p --output-format stream-json --verbose \
             --permission-mode acceptEdits --setting-sources project --session-id S --model opus --max-turns 3 \
             --max-budget-usd 1.5000 --permission-mode plan"
        );
        let resume = Opening::Resume {
            session: "S".into(),
            because: ErrorKind::UsageLimit,
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
        let fresh = Opening::Fresh { session: None };
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
        let fresh = Opening::Fresh { session: None };
        let credentials = [
            ("B", "file"),
            ("C", "file"),
            ("CLAUDE_CODE_MAX_RETRIES", "9"),
        ];
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
        assert_eq!(get("CLAUDE_CODE_MAX_RETRIES"), Some("9"));
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
