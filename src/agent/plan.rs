//! Job and settings -> what to start: arguments, environment, prompt. Data only; `runner` starts it.

use super::*;

/// The least money with which an agent is started, in US dollars: the CLI is told four decimals, and takes no zero.
pub const BUDGET_MIN: f64 = 0.0001;

/// One start of a job, before it happens.
#[derive(Clone, Copy, Debug)]
pub struct Assignment<'a> {
    /// The project.
    pub project: &'a Project,
    /// The job, with this start counted.
    pub claim: &'a Claim,
    /// What holds for this job.
    pub policy: &'a Policy,
    /// What its document asks for and says.
    pub document: &'a Document<'a>,
    /// What the agent is told of the start before, where it must know of that.
    pub because: Option<&'a str>,
    /// Whether the project has the skill that the built-in prompt calls.
    pub has_skill: bool,
    /// What the job may still cost, if that is limited.
    pub budget_left_usd: Option<f64>,
    /// A directory for the agent's temporary files, made for this start.
    pub scratch: &'a OsStr,
}

/// What to start.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The program as it is to be looked up, and all its arguments after it.
    pub argv: Vec<String>,
    /// The whole environment, each name once.
    pub env: Vec<Variable<'a>>,
    /// Standard input.
    pub prompt: String,
    /// How the agent speaks.
    pub dialect: &'static Dialect,
    /// What it will tell elsewhere.
    pub files: Files,
}

impl Plan<'_> {
    /// A variable of the environment.
    pub fn variable(&self, name: &str) -> Option<&OsStr> {
        let found = self.env.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| *value)
    }
}

/// Name and value of an environment variable.
pub type Variable<'a> = (&'a OsStr, &'a OsStr);

impl Assignment<'_> {
    fn fill(&self, text: &str) -> String {
        fill(text, self.project, &self.claim.job_id, self.claim.starts)
    }
}

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
    let left = assignment.budget_left_usd;
    if left.is_some_and(|left| left < BUDGET_MIN) {
        let error = "too little is left of the job's max_budget_usd; raise it, or split the job";
        return Err(Fault::new(ErrorKind::Budget, error));
    }
    let (prompt, max) = (prompt(assignment, dialect), dialect.prompt_max);
    if prompt.chars().count() > max {
        let name = &agent.name;
        let error = format!("{name} takes no prompt of more than {max} characters; split the job");
        return Err(Fault::new(ErrorKind::PromptTooLong, error));
    }
    let env = environment(assignment, dialect, base, credentials);
    let get = |name: &str| env.get(OsStr::new(name)).map(|value| (*value).to_owned());
    let below = dialect.witness.map(|(below, _)| below);
    let dir = below.and_then(|below| dialect.own_file(below, &get));
    let text = |path: PathBuf| path.to_str().map(str::to_owned);
    let in_project = |path: &String| assignment.project.path.join(assignment.fill(path));
    let files = Files {
        witness: dir.and_then(text),
        answer: agent.answer.as_ref().map(in_project).and_then(text),
        require_answer: agent.require_answer,
        ..Files::default()
    };
    Ok(Plan {
        argv: arguments(assignment, dialect.args)?,
        env: env.into_iter().collect(),
        prompt,
        dialect,
        files,
    })
}

/// The command and a dialect's arguments behind it. `{args}` stands for the agent's own. An option in
/// brackets is left out where its value is not known, and where the agent's own arguments have it: not
/// every program lets it repeat.
fn arguments(assignment: &Assignment<'_>, template: &str) -> Result<Vec<String>, Fault> {
    let (agent, wishes) = (&assignment.policy.agent, &assignment.document.wishes);
    let claim = assignment.claim;
    let fill = |text: &String| assignment.fill(text);
    let value = |word: &str| match word {
        "{new}" if claim.resumed => None,
        "{old}" if !claim.resumed => None,
        "{new}" | "{old}" => claim.session_id.clone(),
        "{model}" => wishes.model.clone(),
        "{turns}" => wishes.max_turns.map(|turns| turns.to_string()),
        "{budget}" => assignment.budget_left_usd.map(|left| format!("{left:.4}")),
        word => Some(word.to_owned()),
    };
    // Where the settings have one, too, the agent's own args are as much the owner's word.
    let is_limit =
        |word| word == "{turns}" || word == "{budget}" && wishes.max_budget_usd.is_some();
    let mut argv: Vec<String> = agent.command.iter().map(fill).collect();
    let mut words = template.split_ascii_whitespace();
    while let Some(word) = words.next() {
        match word.strip_prefix('[') {
            None if word == "{args}" => argv.extend(agent.args.iter().map(fill)),
            None => argv.push(word.to_owned()),
            Some(option) => {
                let word = words.next().map(|word| word.trim_end_matches(']'));
                let known = word.and_then(value);
                let mut own = agent.args.iter().map(|own| own.split('=').next());
                let is_own = own.any(|own| own == Some(option));
                match (known, word) {
                    (Some(value), _) if !is_own => argv.extend([option.to_owned(), value]),
                    (Some(_), Some(word)) if is_limit(word) => {
                        let error = format!(
                            "the agent's own args have {option}, too, and would win; leave one out"
                        );
                        return Err(Fault::new(ErrorKind::Rejected, error));
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(argv)
}

/// Of several values for one name the last wins: the dialect's defaults, our environment, the credentials,
/// the agent's own variables, the job's marks.
fn environment<'a>(
    assignment: &Assignment<'a>,
    dialect: &'static Dialect,
    base: &'a [(OsString, OsString)],
    credentials: &'a [(OsString, OsString)],
) -> BTreeMap<&'a OsStr, &'a OsStr> {
    let (name, always) = dialect.scratch;
    let scratch = Some((OsStr::new(name), assignment.scratch)).filter(|_| !name.is_empty());
    let defaults = dialect.env.iter().filter_map(|one| one.split_once('='));
    let marks = [
        ("JOB_MONITOR_JOB_ID", assignment.claim.job_id.as_str()),
        ("JOB_MONITOR_PROJECT", assignment.project.name.as_str()),
        (RUN_VARIABLE, assignment.claim.run.as_str()),
    ];
    let texts = |(name, value): (&'a str, &'a str)| (OsStr::new(name), OsStr::new(value));
    let given = |of: &'a [(OsString, OsString)]| of.iter().map(|(name, value)| (&**name, &**value));
    let mut env: BTreeMap<&OsStr, &OsStr> = defaults.map(texts).collect();
    env.extend(scratch);
    env.extend(given(base));
    env.extend(scratch.filter(|_| always));
    env.extend(given(credentials));
    env.extend(given(&assignment.policy.agent.env));
    env.extend(marks.map(texts));
    env
}

fn prompt(assignment: &Assignment<'_>, dialect: &Dialect) -> String {
    let (body, has_events) = (assignment.document.body, dialect.read.is_some());
    let has_skill = assignment.has_skill;
    let call = if has_skill { dialect.skill_call } else { "" };
    let opening = match &assignment.policy.agent.prompt {
        Some(template) => {
            // At the head of a prompt, a slash may be a command to the agent.
            let is_exposed = has_events && template.starts_with("{content}");
            let head = if is_exposed { "\n" } else { "" };
            head.to_owned() + &template.replace("{content}", body)
        }
        None if !has_events => body.to_owned(),
        None => format!("{call}Execute the following job:\n\n{body}"),
    };
    match assignment.because {
        None => opening,
        Some(because) if assignment.claim.resumed => because.to_owned(),
        Some(because) => format!("{}\n\n---\n\n{because}", opening.trim_end()),
    }
}

/// What an agent is told whose last start ended early.
pub fn ended(kind: ErrorKind) -> String {
    let kind = kind.as_str().replace('_', " ");
    format!(
        "The previous run of this job ended early ({kind}); that is over now. Nothing of the job has changed.\n\n\
         First look at what is already done, in the conversation above and in the files, since the last step may \
         have been cut off in the middle. Then go on from there and finish the job. Do not do again what is done.\n"
    )
}

/// What an agent is told whose work did not pass the check.
pub fn sent_back(command: &str, how: &str, output: &str) -> String {
    format!(
        "The job is not done yet: the check that it must pass was run and {how}.\n\nThe check is \
         `{command}`. The end of what it wrote:\n\n{output}\n\nFirst look at what is already done. Then \
         mend what keeps the check from passing, without weakening the check itself, and finish the job.\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Wishes;
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

    /// The session that is begun or resumed, whether it is resumed, and why.
    type Opening = (Option<&'static str>, bool, Option<String>);
    const NEW: Opening = (None, false, None);

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
        let claim = Claim {
            job_id: JobId::parse("job-20260130-143000-x").unwrap(),
            run: "token".into(),
            starts: 2,
            session_id: opening.0.map(str::to_owned),
            resumed: opening.1,
            ..Claim::default()
        };
        let wishes = Wishes {
            model: Some("opus".into()),
            max_turns: dialect(policy.agent.protocol).costs.then_some(3),
            ..Wishes::default()
        };
        let body = "/help me";
        let os = |pairs: &[(&str, &str)]| -> Vec<(OsString, OsString)> {
            pairs.iter().map(|(n, v)| (n.into(), v.into())).collect()
        };
        let assignment = Assignment {
            project: &project,
            claim: &claim,
            policy,
            document: &Document { wishes, body },
            because: opening.2.as_deref(),
            has_skill,
            budget_left_usd: Some(1.5),
            scratch: OsStr::new("/tmp/s"),
        };
        let base = os(&[("A", "base"), ("B", "base"), ("C", "base")]);
        let credentials = os(credentials);
        let plan = plan(&assignment, &base, &credentials).unwrap();
        let text = |text: &OsStr| text.to_str().unwrap().to_owned();
        Planned {
            argv: plan.argv,
            env: plan.env.iter().map(|(n, v)| (text(n), text(v))).collect(),
            prompt: plan.prompt,
        }
    }

    #[test]
    fn claude_gets_its_options_before_the_agent_s_own() {
        let fresh = (Some("S"), false, None);
        let plan = planned(&policy(Protocol::Claude), &fresh, true, &[]);
        let line = plan.argv.join(" ");
        assert_eq!(
            line,
            "srun --chdir=/w/p --job-name=job-20260130-143000-x.2 -p --output-format stream-json --verbose \
             --permission-mode acceptEdits --setting-sources project --disallowedTools Monitor,ScheduleWakeup,CronCreate \
             --session-id S --model opus --max-turns 3 \
             --max-budget-usd 1.5000 --permission-mode plan"
        );
        let mut own = policy(Protocol::Claude);
        own.agent.args = vec!["--model=haiku".into()];
        let line = planned(&own, &fresh, true, &[]).argv.join(" ");
        assert!(line.ends_with("--max-budget-usd 1.5000 --model=haiku") && !line.contains("opus"));
        let resume = (Some("S"), true, Some(ended(ErrorKind::UsageLimit)));
        let plan = planned(&policy(Protocol::Claude), &resume, true, &[]);
        let line = plan.argv.join(" ");
        assert!(line.contains("--resume S") && !line.contains("--session-id"));
        assert!(plan.prompt.contains("usage limit") && !plan.prompt.contains("/help me"));
    }

    #[test]
    fn the_document_never_stands_at_the_head_of_claude_s_prompt() {
        let mut policy = policy(Protocol::Claude);
        let prompt = |policy: &Policy, skill| planned(policy, &NEW, skill, &[]).prompt;
        let text = "Execute the following job:\n\n/help me";
        assert_eq!(
            prompt(&policy, true),
            format!("/task-coordination\n\n{text}")
        );
        assert_eq!(prompt(&policy, false), text);
        policy.agent.prompt = Some("{content} now".into());
        assert_eq!(prompt(&policy, true), "\n/help me now");
        policy.agent.protocol = Protocol::Plain;
        assert_eq!(prompt(&policy, true), "/help me now");
        policy.agent.prompt = None;
        assert_eq!(prompt(&policy, true), "/help me");
    }

    #[test]
    fn the_environment_has_each_name_once_and_the_nearest_wins() {
        // The marks of the job are nobody's to choose.
        let file = ["B", "C", RUN_VARIABLE].map(|name| (name, "file"));
        let credentials = [&file[..], &[("DISABLE_AUTOUPDATER", "0")]].concat();
        let plan = planned(&policy(Protocol::Claude), &NEW, false, &credentials);
        for (name, value) in [
            ("A", Some("base")),
            ("B", Some("agent")),
            ("C", Some("file")),
            ("DISABLE_AUTOUPDATER", Some("0")),
            ("CLAUDE_CODE_MAX_RETRIES", None),
            ("CLAUDE_CODE_DISABLE_BACKGROUND_TASKS", Some("1")),
            ("CLAUDE_CODE_TMPDIR", Some("/tmp/s")),
            ("JOB_MONITOR_JOB_ID", Some("job-20260130-143000-x")),
            (RUN_VARIABLE, Some("token")),
        ] {
            let all = plan.env.iter().filter(|(n, _)| n == name);
            let values: Vec<&str> = all.map(|(_, value)| value.as_str()).collect();
            assert_eq!(values, Vec::from_iter(value), "{name}");
        }
        let plain = planned(&policy(Protocol::Plain), &NEW, false, &[]);
        let mut names = plain.env.iter().map(|(name, _)| name);
        assert!(!names.any(|name| name == "CLAUDE_CODE_TMPDIR"));
    }
}
