//! Gemini CLI, `-o stream-json` (SPEC 6b). Its exit status 0 proves nothing, and any other is an HTTP status
//! mod 256 or one of its own; the rest stands in its words and on standard error. All of it was recorded
//! with release 0.61.0; see `tests/fixtures/gemini`.

use super::event::{Event, LastResult, Session, Signs};
use super::json::{members, number, parse, pick, text, word};
use super::plan::{Assignment, Opening};
use super::verdict::{Case, Fault, wording};
use super::{Dialect, Lookup, Scratch, Sessions};
use crate::job::ErrorKind;
use crate::project::Protocol;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

pub(super) const DIALECT: Dialect = Dialect {
    name: "gemini",
    protocol: Protocol::Gemini,
    ending: "jsonl",
    sessions: Sessions::Chosen,
    silent_on: "what it costs, and how many turns it takes",
    costs: false,
    turns: false,
    skill_call: Some("Use the skill task-coordination.\n\n"),
    skills: &[
        ".agents/skills/task-coordination/SKILL.md",
        ".gemini/skills/task-coordination/SKILL.md",
    ],
    slash_commands: true,
    prompt_max: None,
    // Without it a parent that ignores SIGTERM stands in front of the real process.
    env: &[("GEMINI_CLI_NO_RELAUNCH", "true")],
    scratch: Some(Scratch {
        variable: "TMPDIR",
        always: true,
    }),
    args,
    open: |session| vec!["--resume".to_owned(), session.to_owned()],
    read: Some(read),
    opens_with: "init",
    results: &["result"],
    witness: None,
    fault,
    login,
};

/// A longer wait than this is a limit of the plan's and no mere rate.
const RATE_MAX_MS: f64 = 300_000.0;
/// What a tool's refusal is called.
const REFUSALS: [&str; 3] = [
    "tool_not_registered",
    "policy_violation",
    "invalid_tool_params",
];

fn args(assignment: &Assignment<'_>, argv: &mut Vec<String>) {
    let fixed = "--skip-trust --approval-mode auto_edit -o stream-json";
    argv.extend(fixed.split(' ').map(str::to_owned));
    let mut option = |name: &str, value: &str| argv.extend([name.to_owned(), value.to_owned()]);
    match assignment.opening {
        Opening::Resume { session, .. } => option("--resume", session),
        Opening::Fresh { session, .. } => session.iter().for_each(|id| option("--session-id", id)),
    }
    assignment
        .wishes
        .model
        .iter()
        .for_each(|model| option("--model", model));
    argv.extend(assignment.own_args());
}

fn login(get: &Lookup<'_>) -> Option<PathBuf> {
    let home = get("GEMINI_CLI_HOME").or_else(|| get("HOME"))?;
    Some(PathBuf::from(home).join(".gemini/oauth_creds.json"))
}

fn read(json: &str, each: &mut dyn FnMut(Event<'_>)) {
    let keys = ["type", "role", "content", "severity", "message"];
    let Ok([kind, role, content, severity, message]) = pick(json, keys) else {
        return each(Event::Lost {
            start: json,
            may_be_result: true,
        });
    };
    let said = || message.and_then(text).unwrap_or_default();
    match kind.and_then(word).as_deref() {
        Some("init") => {
            let [id, model] = members(Some(json), ["session_id", "model"]);
            let (id, model) = (id.and_then(word), model.and_then(word));
            each(Event::Session(Session {
                id,
                model,
                ..Session::default()
            }));
        }
        Some("message") if role.and_then(word).as_deref() == Some("assistant") => {
            let text = content.and_then(text).unwrap_or_default();
            each(Event::Say {
                below: None,
                text,
                goes_on: true,
            });
        }
        Some("tool_use") => {
            let [tool, id, input] = members(Some(json), ["tool_name", "tool_id", "parameters"]);
            let (tool, id) = (tool.and_then(word).unwrap_or_default(), id.and_then(word));
            let [file] = members(input, ["file_path"]);
            let edits = file
                .and_then(text)
                .filter(|_| ["write_file", "replace"].contains(&tool.as_str()));
            let (id, input) = (id.unwrap_or_default(), input.unwrap_or_default());
            each(Event::Turn { answered: true });
            each(Event::Call {
                below: None,
                id,
                tool,
                input,
                edits,
            });
        }
        Some("tool_result") => tool_result(json, each),
        Some("error") if severity.and_then(word).as_deref() == Some("error") => {
            each(Event::Trouble {
                text: said(),
                signs: Signs::default(),
            });
        }
        Some("error") => each(Event::Notice(said())),
        Some("result") => result(json, each),
        _ => {}
    }
}

fn tool_result(json: &str, each: &mut dyn FnMut(Event<'_>)) {
    let [id, status, output, error] = members(Some(json), ["tool_id", "status", "output", "error"]);
    let id = id.and_then(word).unwrap_or_default();
    let [kind, message] = members(error, ["type", "message"]);
    if kind
        .and_then(word)
        .is_some_and(|kind| REFUSALS.contains(&kind.as_str()))
    {
        let name = id.rsplit_once("__").map_or(id.as_str(), |(name, _)| name);
        let message = message.and_then(text);
        each(Event::Denied(
            json!({"tool_name": name, "tool_use_id": id, "message": message}),
        ));
    }
    let failed = status.and_then(word).as_deref() != Some("success");
    each(Event::Answer {
        id,
        content: output.unwrap_or_default(),
        failed,
    });
}

fn result(json: &str, each: &mut dyn FnMut(Event<'_>)) {
    let [status, error, stats] = members(Some(json), ["status", "error", "stats"]);
    let [message] = members(error, ["message"]);
    let [total, duration] =
        members(stats, ["total_tokens", "duration_ms"]).map(|json| json.and_then(number));
    let is_success = status.and_then(word).as_deref() == Some("success");
    // It found the prompt too long by itself, asked nobody, and calls that a success.
    let asked_nobody = is_success && total == Some(0.0);
    let reason = asked_nobody.then(|| "no_request".to_owned());
    each(Event::Result(Box::new(LastResult {
        good: is_success && !asked_nobody,
        complaint: message.and_then(text).unwrap_or_default(),
        usage: stats.and_then(parse::<Value>),
        duration_ms: duration,
        signs: Signs {
            reason,
            ..Signs::default()
        },
        ..LastResult::default()
    })));
}

/// Wording that tells what no number does, in lower case; the first hit counts.
const WORDINGS: [(&str, ErrorKind); 9] = [
    ("is not found for api version", ErrorKind::ModelNotFound),
    ("fetch failed", ErrorKind::Network),
    ("incomplete json", ErrorKind::Network),
    ("terminated", ErrorKind::Network),
    ("without a finish reason", ErrorKind::Network),
    ("blocked due to safety", ErrorKind::Refused),
    ("prompt was blocked", ErrorKind::Refused),
    ("empty response", ErrorKind::EmptyAnswer),
    ("malformed function call", ErrorKind::AgentError),
];

fn fault(case: &Case<'_>) -> Option<Fault> {
    use ErrorKind::*;
    let (_, trouble) = case.fold.trouble();
    let result = case.fold.result();
    let complaint = result.map_or("", |result| &result.complaint);
    let said = format!("{complaint} {trouble}");
    if result.is_some_and(|result| result.signs.reason.is_some()) {
        let error =
            "the agent asked nobody, which it does where the prompt is too long for the model";
        return Some(Fault::new(PromptTooLong, error));
    }
    let kind = match case.ended.code.unwrap_or_default() {
        // It sleeps until the reset by itself, and says so on standard error only.
        0 if result.is_none() => delay(case.stderr, "Retrying after ")
            .filter(|ms| *ms > RATE_MAX_MS)
            .map(|_| UsageLimit),
        0 | 1 => result.and_then(|_| wording(&WORDINGS, &said, ErrorKind::ALL)),
        41 => Some(NotAuthenticated),
        42 => Some(ExitCode),
        53 => Some(MaxTurns),
        code @ 144..=247 => Some(by_status(code + 256, &format!("{said} {}", case.stderr))),
        _ => None,
    }?;
    let error = match case.fold.has_events() && result.is_some() {
        true => case.own_words(),
        false => case.fault(kind, "the agent gave up").error,
    };
    let told =
        delay(case.stderr, "retryDelayMs: ").or_else(|| delay(case.stderr, "Retrying after "));
    let reset = told.map(|ms| case.now.plus(Duration::from_millis(ms as u64)));
    Some(Fault {
        resets_at: reset.filter(|_| kind == UsageLimit),
        // A session whose first request failed does not exist either.
        session_unknown: kind == ExitCode && case.stderr.contains("resuming session"),
        ..Fault::new(kind, error)
    })
}

fn by_status(status: i32, said: &str) -> ErrorKind {
    use ErrorKind::*;
    let has = |words: &str| said.contains(words);
    let wait = delay(said, "retryDelayMs: ").unwrap_or(0.0);
    match status {
        400 if has("API_KEY_INVALID") || has("API key not valid") => NotAuthenticated,
        400 if has("exceeds the maximum number of tokens") => PromptTooLong,
        401 | 403 => NotAuthenticated,
        402 => Billing,
        404 => ModelNotFound,
        408 => Network,
        429 if has("TerminalQuotaError") || wait > RATE_MAX_MS => UsageLimit,
        429 => RateLimited,
        500..=503 => Overloaded,
        _ => InvalidRequest,
    }
}

/// The last number of milliseconds that stands behind these words.
fn delay(stderr: &str, words: &str) -> Option<f64> {
    let (_, behind) = stderr.rsplit_once(words)?;
    let digits = behind.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok().filter(|ms| *ms < 1e12)
}
