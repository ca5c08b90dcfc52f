//! Gemini CLI, `-o stream-json` (SPEC 6b). Its exit status 0 proves nothing, and any other is an HTTP status
//! mod 256 or one of its own; the rest stands in its words and on standard error. All of it was recorded
//! with release 0.61.0; see `tests/fixtures/gemini`.

use super::*;

pub(super) const DIALECT: Dialect = Dialect {
    name: "gemini",
    protocol: Protocol::Gemini,
    ending: "jsonl",
    sessions: Sessions::Proved,
    silent_on: "what it costs, or how many turns it takes",
    skill_call: "Use the skill task-coordination.\n\n",
    skills: &[".agents/skills", ".gemini/skills"],
    // Without this, a parent process that ignores SIGTERM stands in front of the real one.
    env: &["GEMINI_CLI_NO_RELAUNCH=true"],
    scratch: ("TMPDIR", true),
    args: "--skip-trust [--approval-mode auto_edit] [-o stream-json] [--session-id {new}] [--resume {old}] \
           [--model {model}] {args}",
    open: "--resume",
    read: Some(read),
    opens_with: "init",
    told,
    // A session whose first request failed does not exist either.
    unknown: "Error resuming session",
    home: &[("GEMINI_CLI_HOME", ".gemini"), ("HOME", ".gemini")],
    login: "oauth_creds.json",
    keys: &["GEMINI_API_KEY"],
    ..PLAIN
};

/// A longer wait is a limit of the account's plan, not of its rate.
const RATE_MAX_MS: f64 = 300_000.0;
/// What a tool's refusal is called.
const REFUSALS: [&str; 3] = [
    "tool_not_registered",
    "policy_violation",
    "invalid_tool_params",
];

fn read(line: &Object<'_>, each: &mut dyn FnMut(Event<'_>)) {
    let (id, message) = (line.text("tool_id"), line.text("message"));
    match line.text("type").as_str() {
        "init" => {
            let session = Session::new(line.word("session_id"), line.word("model"), None);
            each(Event::Session(session));
        }
        "message" if line.is("role", "assistant") => each(Event::More(line.text("content"))),
        "tool_use" => {
            let (tool, input) = (line.text("tool_name"), line.raw("parameters"));
            let path = line.object("parameters").word("file_path");
            let edits = path.filter(|_| ["write_file", "replace"].contains(&tool.as_str()));
            each(Event::Turn(true));
            each(Event::Call(id, tool, input, edits));
        }
        "tool_result" => {
            let error = line.object("error");
            if REFUSALS.contains(&error.text("type").as_str()) {
                let name = id.rsplit_once("__").map_or(id.as_str(), |(name, _)| name);
                let said = error.text("message");
                let denial = json!({"tool_name": name, "tool_use_id": id, "message": said});
                each(Event::Denied(denial));
            }
            let failed = !line.is("status", "success");
            each(Event::Answer(id, line.raw("output"), failed));
        }
        "error" if line.is("severity", "error") => {
            each(Event::Trouble(message, Signs::default()));
        }
        "result" => {
            let result = LastResult {
                good: line.is("status", "success"),
                complaint: line.object("error").text("message"),
                usage: line.value("stats"),
                ..LastResult::default()
            };
            each(Event::Result(Box::new(result)));
        }
        _ => {}
    }
}

fn told(case: &Case<'_>) -> Option<Reason> {
    let (fold, result) = (case.fold, case.fold.result.as_ref());
    let complaint = result.map_or("", |result| &result.complaint);
    let said = format!("{complaint} {}", fold.trouble.0);
    let wait = delay(case.stderr, "retryDelayMs: ");
    let wait = wait.or_else(|| delay(case.stderr, "Retrying after "));
    let is_long = wait.is_some_and(|ms| ms > RATE_MAX_MS);
    let kind = match case.ended.code.unwrap_or_default() {
        // It sleeps until the reset by itself, and says so on standard error only.
        0 if result.is_none() && is_long => Some(UsageLimit),
        0 | 1 => result.map(|_| classify(&Signs::default(), &said, false)),
        41 => Some(NotAuthenticated),
        53 => Some(MaxTurns),
        code @ 144..=247 => {
            let (names, status) = (Vec::new(), Some(code as u64 + 256));
            let said = format!("{said} {}", case.stderr);
            Some(classify(&Signs { names, status }, &said, is_long))
        }
        _ => None,
    }?;
    let reset = wait.map(|ms| case.now.plus(Duration::from_millis(ms as u64)));
    Some((kind, reset))
}

/// The last number of milliseconds that stands behind these words.
fn delay(stderr: &str, words: &str) -> Option<f64> {
    let (_, behind) = stderr.rsplit_once(words)?;
    let digits = behind.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok().filter(|ms| *ms < 1e12)
}
