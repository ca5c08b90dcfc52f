//! Gemini CLI, `-o stream-json` (SPEC 6b). Its exit status 0 proves nothing, and any other is an HTTP status
//! mod 256 or one of its own; the rest stands in its words and on standard error. All of it was recorded
//! with release 0.61.0; see `tests/fixtures/gemini`.

use super::event::{Call, Event, LastResult, Session, Signs};
use super::json::Object;
use super::plan::Assignment;
use super::verdict::{Case, Fault, Rules};
use super::{Dialect, Lookup, Scratch, Sessions};
use crate::job::ErrorKind::*;
use crate::project::Protocol;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

pub(super) const DIALECT: Dialect = Dialect {
    name: "gemini",
    protocol: Protocol::Gemini,
    ending: "jsonl",
    sessions: Sessions::Proved,
    silent_on: "what it costs, and how many turns it takes",
    costs: false,
    turns: false,
    skill_call: "Use the skill task-coordination.\n\n",
    skills: &[".agents/skills", ".gemini/skills"],
    slash_commands: true,
    prompt_max: usize::MAX,
    // Without it a parent that ignores SIGTERM stands in front of the real process.
    env: &["GEMINI_CLI_NO_RELAUNCH=true"],
    scratch: Scratch::Always("TMPDIR"),
    args,
    open: "--resume",
    read: Some(read),
    opens_with: "init",
    results: &["result"],
    witness: None,
    fault,
    login,
    preflight: &[],
    keys: &["GEMINI_API_KEY"],
    install: "npm install -g @google/gemini-cli",
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
    argv.push("--skip-trust".to_owned());
    assignment.option(argv, "--approval-mode", Some("auto_edit"));
    assignment.option(argv, "-o", Some("stream-json"));
    let (name, session) = assignment.opening.session("--session-id", "--resume");
    assignment.option(argv, name, session);
    assignment.option(argv, "--model", assignment.wishes.model.as_deref());
    argv.extend(assignment.own_args());
}

fn login(get: &Lookup<'_>) -> Option<PathBuf> {
    let home = get("GEMINI_CLI_HOME").or_else(|| get("HOME"))?;
    Some(PathBuf::from(home).join(".gemini/oauth_creds.json"))
}

fn read(line: &Object<'_>, each: &mut dyn FnMut(Event<'_>)) {
    match line.word("type").as_deref() {
        Some("init") => {
            let (id, model) = (line.word("session_id"), line.word("model"));
            each(Event::Session(Session {
                id,
                model,
                ..Session::default()
            }));
        }
        Some("message") if line.is("role", "assistant") => {
            each(Event::More(line.text("content")));
        }
        Some("tool_use") => {
            let (tool, id) = (line.text("tool_name"), line.text("tool_id"));
            let path = line.object("parameters").word("file_path");
            let edits = path.filter(|_| ["write_file", "replace"].contains(&tool.as_str()));
            let (by, input) = (None, line.raw("parameters"));
            each(Event::Turn(true));
            each(Event::Call(Call {
                by,
                id,
                tool,
                input,
                edits,
            }));
        }
        Some("tool_result") => {
            let (id, error) = (line.text("tool_id"), line.object("error"));
            if REFUSALS.contains(&error.text("type").as_str()) {
                let name = id.rsplit_once("__").map_or(id.as_str(), |(name, _)| name);
                let message = error.text("message");
                let denial = json!({"tool_name": name, "tool_use_id": id, "message": message});
                each(Event::Denied(denial));
            }
            each(Event::Answer(
                id,
                line.raw("output"),
                !line.is("status", "success"),
            ));
        }
        Some("error") if line.is("severity", "error") => {
            each(Event::Trouble(line.text("message"), Signs::default()));
        }
        Some("error") => each(Event::Notice(line.text("message"))),
        Some("result") => result(line, each),
        _ => {}
    }
}

fn result(line: &Object<'_>, each: &mut dyn FnMut(Event<'_>)) {
    let stats = line.object("stats");
    let is_success = line.is("status", "success");
    // It found the prompt too long by itself, asked nobody, and calls that a success.
    let asked_nobody = is_success && stats.number("total_tokens") == Some(0.0);
    each(Event::Result(Box::new(LastResult {
        good: is_success && !asked_nobody,
        complaint: line.object("error").text("message"),
        usage: line.value::<Value>("stats"),
        duration_ms: stats.number("duration_ms"),
        ending: asked_nobody.then(|| "no request".to_owned()),
        ..LastResult::default()
    })));
}

const RULES: Rules = Rules {
    first: &[],
    last: &[],
    words: &[
        (NotAuthenticated, "api_key_invalid|api key not valid"),
        (PromptTooLong, "exceeds the maximum number of tokens"),
        (UsageLimit, "terminalquotaerror"),
        (ModelNotFound, "is not found for api version"),
        (
            Network,
            "fetch failed|incomplete json|terminated|without a finish reason",
        ),
        (Refused, "blocked due to safety|prompt was blocked"),
        (EmptyAnswer, "empty response"),
    ],
};

fn fault(case: &Case<'_>) -> Option<Fault> {
    let (fold, result) = (case.fold, case.fold.result.as_ref());
    let complaint = result.map_or("", |result| &result.complaint);
    let said = format!("{complaint} {}", fold.trouble);
    if result.is_some_and(|result| result.ending.is_some()) {
        let error =
            "the agent asked nobody, which it does where the prompt is too long for the model";
        return Some(Fault::new(PromptTooLong, error));
    }
    let wait =
        delay(case.stderr, "retryDelayMs: ").or_else(|| delay(case.stderr, "Retrying after "));
    let is_long = wait.is_some_and(|ms| ms > RATE_MAX_MS);
    let kind = match case.ended.code.unwrap_or_default() {
        // It sleeps until the reset by itself, and says so on standard error only.
        0 if result.is_none() => is_long.then_some(UsageLimit),
        0 | 1 => result.map(|_| RULES.kind(&Signs::default(), &said, false)),
        41 => Some(NotAuthenticated),
        42 => Some(ExitCode),
        53 => Some(MaxTurns),
        code @ 144..=247 => {
            let (names, status) = (Vec::new(), Some(code as u64 + 256));
            let said = format!("{said} {}", case.stderr);
            Some(RULES.kind(&Signs { names, status }, &said, is_long))
        }
        _ => None,
    }?;
    let fault = match result {
        Some(_) => Fault::new(kind, case.own_words()),
        None => case.fault(kind, "the agent gave up"),
    };
    let reset = wait.map(|ms| case.now.plus(Duration::from_millis(ms as u64)));
    // A session whose first request failed does not exist either.
    Some(match kind {
        ExitCode if case.stderr.contains("resuming session") => fault.afresh(),
        UsageLimit => fault.until(reset),
        _ => fault,
    })
}

/// The last number of milliseconds that stands behind these words.
fn delay(stderr: &str, words: &str) -> Option<f64> {
    let (_, behind) = stderr.rsplit_once(words)?;
    let digits = behind.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok().filter(|ms| *ms < 1e12)
}
