//! Claude Code, headless (SPEC 6). Its events, exits and words are those that were recorded with release
//! 2.1.328; see `tests/fixtures/claude`.

use super::event::{Event, LastResult, Session, Signs, Window};
use super::json::{each_item, members, number, parse, pick, text, word};
use super::plan::{Assignment, Opening};
use super::verdict::{Case, Fault, wording};
use super::{Dialect, Lookup, Scratch, Sessions};
use crate::job::ErrorKind;
use crate::project::Protocol;
use crate::time::{Wall, human};
use serde_json::{Map, Value};
use std::path::PathBuf;
use std::time::Duration;

pub(super) const DIALECT: Dialect = Dialect {
    name: "claude",
    protocol: Protocol::Claude,
    ending: "jsonl",
    sessions: Sessions::Chosen,
    silent_on: "",
    costs: true,
    turns: true,
    skill_call: Some("/task-coordination\n\n"),
    skills: &[
        ".claude/skills/task-coordination/SKILL.md",
        ".claude/commands/task-coordination.md",
    ],
    slash_commands: true,
    prompt_max: None,
    // A tool that hits its time limit would be moved to the background and keep the CLI alive for ten
    // minutes after its answer.
    env: &[
        ("CLAUDE_CODE_DISABLE_BACKGROUND_TASKS", "1"),
        ("DISABLE_AUTOUPDATER", "1"),
    ],
    scratch: Some(Scratch {
        variable: "CLAUDE_CODE_TMPDIR",
        always: false,
    }),
    args,
    open: |session| vec!["--resume".to_owned(), session.to_owned()],
    read: Some(read),
    opens_with: "system",
    results: &["result"],
    witness: None,
    fault,
    login,
};

/// Tools whose only use is to outlive the turn. The list adds to one of the user's own.
const WAITING_TOOLS: &str = "Monitor,ScheduleWakeup,CronCreate";
/// The tools that change files.
const EDIT_TOOLS: [&str; 4] = ["Write", "Edit", "MultiEdit", "NotebookEdit"];
/// The longest `usage` object that is added up.
const USAGE_MAX: usize = 64 << 10;

fn args(assignment: &Assignment<'_>, argv: &mut Vec<String>) {
    let fixed = "-p --output-format stream-json --verbose --permission-mode acceptEdits \
                 --setting-sources project --disallowedTools";
    argv.extend(fixed.split(' ').map(str::to_owned));
    argv.push(WAITING_TOOLS.to_owned());
    let mut option = |name: &str, value: String| argv.extend([name.to_owned(), value]);
    match assignment.opening {
        Opening::Resume { session, .. } => option("--resume", session.clone()),
        Opening::Fresh { session, .. } => {
            session
                .iter()
                .for_each(|session| option("--session-id", session.clone()));
        }
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
    argv.extend(assignment.own_args());
}

fn login(get: &Lookup<'_>) -> Option<PathBuf> {
    let home = || Some(PathBuf::from(get("HOME")?).join(".claude"));
    let dir = get("CLAUDE_CONFIG_DIR").map(PathBuf::from).or_else(home)?;
    Some(dir.join(".credentials.json"))
}

fn read(json: &str, each: &mut dyn FnMut(Event<'_>)) {
    let keys = [
        "type",
        "subtype",
        "parent_tool_use_id",
        "message",
        "is_api_error_message",
        "error",
    ];
    let Ok([kind, subtype, parent, message, failed, class]) = pick(json, keys) else {
        return each(Event::Lost {
            start: json,
            may_be_result: true,
        });
    };
    let below = parent.and_then(word);
    let class = class.and_then(word);
    // A message that the CLI made up to tell of a failure has a class; the flag is its own affair.
    let is_failure = failed == Some("true") || class.is_some();
    match kind.and_then(word).as_deref() {
        Some("assistant") if is_failure && below.is_none() => trouble(json, message, class, each),
        Some("assistant") if !is_failure => assistant(message, below, each),
        Some("user") => user(json, message, below.is_none(), each),
        Some("stream_event") if below.is_none() => each(Event::Turn { answered: false }),
        Some("system") => system(&subtype.and_then(word).unwrap_or_default(), json, each),
        Some("rate_limit_event") => rate_limit(Some(json), true, each),
        Some("result") => result(json, each),
        _ => {}
    }
}

fn assistant(message: Option<&str>, below: Option<String>, each: &mut dyn FnMut(Event<'_>)) {
    let [id, content, usage] = members(message, ["id", "content", "usage"]);
    if below.is_none() {
        each(Event::Turn { answered: true });
    }
    if let (Some(message), Some(usage)) = (id.and_then(word), usage) {
        each(Event::Tokens { message, usage });
    }
    each_item(content, |block| {
        let keys = ["type", "text", "thinking", "name", "id", "input"];
        let [kind, said, thought, name, id, input] = members(Some(block), keys);
        let (below, input) = (below.clone(), input.unwrap_or_default());
        let of = |json: Option<&str>| json.and_then(text).unwrap_or_default();
        match kind.and_then(word).as_deref() {
            Some("text") => each(Event::Say {
                below,
                text: of(said),
                goes_on: false,
            }),
            Some("thinking") => each(Event::Think {
                below,
                text: of(thought),
            }),
            Some("tool_use" | "server_tool_use" | "mcp_tool_use") => {
                let tool = name.and_then(word).unwrap_or_else(|| "tool".to_owned());
                let [file, notebook] = members(Some(input), ["file_path", "notebook_path"]);
                let path = file.and_then(text).or(notebook.and_then(text));
                let edits = path.filter(|_| EDIT_TOOLS.contains(&tool.as_str()));
                let id = id.and_then(word).unwrap_or_default();
                each(Event::Call {
                    below,
                    id,
                    tool,
                    input,
                    edits,
                });
            }
            _ => {}
        }
    });
}

fn user(json: &str, message: Option<&str>, main: bool, each: &mut dyn FnMut(Event<'_>)) {
    if main {
        each(Event::Turn { answered: false });
    }
    let [content] = members(message, ["content"]);
    each_item(content, |block| {
        let keys = ["type", "tool_use_id", "content", "is_error", "text"];
        let [kind, id, content, is_error, said] = members(Some(block), keys);
        match kind.and_then(word).as_deref() {
            Some("tool_result") => each(Event::Answer {
                id: id.and_then(word).unwrap_or_default(),
                content: content.unwrap_or_default(),
                failed: is_error == Some("true"),
            }),
            // What a Stop hook wants before the turn may end, in its own words.
            Some("text") => {
                let said = said.and_then(text).unwrap_or_default();
                if let Some(feedback) = said.strip_prefix("Stop hook feedback:") {
                    each(Event::Feedback(feedback.trim().to_owned()));
                }
            }
            _ => {}
        }
    });
    // A wake-up, or a timetable of such, was put down for later.
    let [done] = pick(json, ["tool_use_result"]).unwrap_or_default();
    let [at, cron] = members(done, ["scheduledFor", "humanSchedule"]);
    if at.or(cron).is_some() {
        each(Event::Scheduled);
    }
}

fn system(subtype: &str, json: &str, each: &mut dyn FnMut(Event<'_>)) {
    let word_of = |json: Option<&str>| json.and_then(word).unwrap_or_default();
    match subtype {
        "init" => init(json, each),
        "permission_denied" => {
            let keys = ["tool_name", "tool_use_id", "message"];
            let found = keys.into_iter().zip(members(Some(json), keys));
            let told =
                found.filter_map(|(key, json)| Some((key.to_owned(), json.and_then(parse)?)));
            each(Event::Denied(Value::Object(told.collect::<Map<_, _>>())));
        }
        "background_tasks_changed" => {
            let mut some = false;
            each_item(members(Some(json), ["tasks"])[0], |_| some = true);
            each(Event::Pending(some));
        }
        "informational" => {
            let [content, outcome] = members(Some(json), ["content", "prompt_submit_outcome"]);
            let content = content.and_then(text).unwrap_or_default();
            let [kind, reason] = members(outcome, ["kind", "reason"]);
            if word_of(kind).ends_with("_by_hook") {
                let reason = reason.and_then(text).unwrap_or_else(|| content.clone());
                each(Event::Blocked(format!(
                    "the UserPromptSubmit hook refused the prompt: {reason}"
                )));
            }
            each(Event::Notice(content));
        }
        "notification" => {
            let [key, said] = members(Some(json), ["key", "text"]);
            if word_of(key) == "stop-hook-block-cap" {
                each(Event::Blocked(
                    "the Stop hook would not let it end".to_owned(),
                ));
            }
            each(Event::Notice(said.and_then(text).unwrap_or_default()));
        }
        "api_retry" => {
            let keys = [
                "attempt",
                "max_retries",
                "retry_delay_ms",
                "error_status",
                "error",
            ];
            let [attempt, most, delay, status, error] = members(Some(json), keys);
            let status = status
                .and_then(number)
                .map_or(String::new(), |s| format!(" ({s})"));
            let pause = human(Duration::from_millis(
                delay.and_then(number).unwrap_or(0.0) as u64
            ));
            let (attempt, most) = (attempt.unwrap_or("?"), most.unwrap_or("?"));
            let error = word_of(error);
            each(Event::Notice(format!(
                "no answer from the service: {error}{status}; try {attempt} of {most} in {pause}"
            )));
        }
        "compact_boundary" => {
            each(Event::Notice(
                "the conversation was summed up to make room".to_owned(),
            ));
        }
        "model_fallback" => each(Event::Notice("another model takes over".to_owned())),
        "task_notification" => {
            let [status, summary] = members(Some(json), ["status", "summary"]);
            let summary = summary.and_then(text).unwrap_or_default();
            each(Event::Notice(format!(
                "in the background, {}: {summary}",
                word_of(status)
            )));
        }
        _ => {}
    }
}

fn init(json: &str, each: &mut dyn FnMut(Event<'_>)) {
    let keys = [
        "session_id",
        "model",
        "claude_code_version",
        "cwd",
        "mcp_servers",
    ];
    let [id, model, version, cwd, servers] = members(Some(json), keys);
    let mut failed_servers = Vec::new();
    each_item(servers, |server| {
        let [name, status] = members(Some(server), ["name", "status"]);
        if status
            .and_then(word)
            .is_some_and(|status| status == "failed")
        {
            failed_servers.extend(name.and_then(word));
        }
    });
    each(Event::Session(Session {
        id: id.and_then(word),
        model: model.and_then(word),
        version: version.and_then(word),
        cwd: cwd.and_then(text),
        failed_servers,
    }));
}

/// A message that the CLI made up to tell of a failure: it is no part of the answer.
fn trouble(
    json: &str,
    message: Option<&str>,
    class: Option<String>,
    each: &mut dyn FnMut(Event<'_>),
) {
    let [name, params] = members(Some(json), ["api_error", "api_error_params"]);
    let [stop, content] = members(message, ["stop_reason", "content"]);
    let mut said = Vec::new();
    each_item(content, |block| {
        said.extend(members(Some(block), ["text"])[0].and_then(text))
    });
    rate_limit(params, false, each);
    let signs = Signs {
        class,
        name: name.and_then(word),
        stop: stop.and_then(word),
        ..Signs::default()
    };
    each(Event::Trouble {
        text: said.join("\n"),
        signs,
    });
}

/// The limits that an object tells in its `rate_limit_info`; `all` if it is the event of its own. Any
/// status but `rejected` lifts the limit; a rejection without a time is one of those that are "not your
/// usage limit" and says nothing about it.
fn rate_limit(json: Option<&str>, all: bool, each: &mut dyn FnMut(Event<'_>)) {
    let [info] = members(json, ["rate_limit_info"]);
    let [status, resets_at, windows] = members(info, ["status", "resetsAt", "unifiedWindows"]);
    let rejected = status
        .and_then(word)
        .is_some_and(|status| status == "rejected");
    if all || rejected {
        each(Event::Limit {
            rejected,
            resets_at: resets_at.and_then(time),
        });
    }
    let windows: Option<Map<String, Value>> = windows.and_then(parse);
    let windows = windows.into_iter().flatten().filter_map(|(name, window)| {
        let utilization = window["utilization"].as_f64()?;
        let resets_at = time(&window["resetsAt"].to_string());
        Some(Window {
            name,
            utilization,
            resets_at,
        })
    });
    let windows: Vec<Window> = windows.collect();
    if !windows.is_empty() {
        each(Event::Windows(windows));
    }
}

/// Seconds since 1970; a number that would be 5000 years away can only be milliseconds.
fn time(json: &str) -> Option<Wall> {
    let at = number(json).filter(|at| *at > 0.0)?;
    Some(Wall::from_secs(
        if at < 1e11 { at } else { at / 1000.0 } as i64
    ))
}

fn result(json: &str, each: &mut dyn FnMut(Event<'_>)) {
    const KEYS: [&str; 16] = [
        "subtype",
        "is_error",
        "result",
        "errors",
        "terminal_reason",
        "stop_reason",
        "api_error_status",
        "api_error",
        "api_error_type",
        "api_error_params",
        "num_turns",
        "total_cost_usd",
        "usage",
        "permission_denials",
        "duration_ms",
        "session_id",
    ];
    let picked = members(Some(json), KEYS);
    let [
        subtype,
        is_error,
        answer,
        errors,
        reason,
        stop,
        status,
        name,
        ..,
    ] = picked;
    let [
        ..,
        service,
        params,
        turns,
        cost,
        usage,
        denials,
        duration,
        id,
    ] = picked;
    let subtype = subtype.and_then(word);
    let reason = reason.and_then(word);
    let good = is_error == Some("false")
        && subtype.as_deref() == Some("success")
        && reason.as_deref().is_none_or(|reason| reason == "completed");
    let answer = answer.and_then(text).unwrap_or_default();
    let mut complaint = Vec::new();
    if is_error != Some("false") {
        complaint.push(answer.trim().to_owned());
        each_item(errors, |error| complaint.extend(text(error)));
        complaint.retain(|text| !text.is_empty());
    }
    let denials = denials.filter(|json| json.starts_with('['));
    let usage = usage.filter(|json| json.starts_with('{') && json.len() <= USAGE_MAX);
    rate_limit(params, false, each);
    each(Event::Result(Box::new(LastResult {
        good,
        complaint: complaint.join("; "),
        answer: Some(answer).filter(|_| is_error != Some("true")),
        turns: turns.and_then(number).map(|turns| turns as u64),
        cost_usd: cost.and_then(number),
        usage: usage.and_then(parse),
        denials: denials.map(|json| {
            let mut list = Vec::new();
            each_item(Some(json), |denial| list.extend(parse::<Value>(denial)));
            list
        }),
        duration_ms: duration.and_then(number),
        session: id.and_then(word),
        signs: Signs {
            class: None,
            name: name.and_then(word),
            service: service.and_then(word),
            status: status.and_then(number).map(|status| status as u64),
            stop: stop.and_then(word),
            reason,
            subtype,
        },
    })));
}

/// Wording that decides where no field does. Compared in lower case, the first hit counts. Recorded
/// texts, but for those of gateways and of agents without classes.
const WORDINGS: [(&str, ErrorKind); 23] = [
    ("prompt is too long", ErrorKind::PromptTooLong),
    ("credit balance is too low", ErrorKind::Billing),
    ("insufficient balance", ErrorKind::Billing),
    ("insufficient credit", ErrorKind::Billing),
    ("requires credits", ErrorKind::Billing),
    ("organization has been disabled", ErrorKind::Billing),
    ("usage limit", ErrorKind::UsageLimit),
    ("api usage limits", ErrorKind::UsageLimit),
    ("you've hit your", ErrorKind::UsageLimit),
    ("not logged in", ErrorKind::NotAuthenticated),
    ("invalid api key", ErrorKind::NotAuthenticated),
    ("api key has been disabled", ErrorKind::Billing),
    ("failed to authenticate", ErrorKind::NotAuthenticated),
    ("could not load credentials", ErrorKind::NotAuthenticated),
    ("empty or malformed response", ErrorKind::Network),
    ("overloaded", ErrorKind::Overloaded),
    ("timed out", ErrorKind::Network),
    ("connection refused", ErrorKind::Network),
    ("connection error", ErrorKind::Network),
    ("econnre", ErrorKind::Network),
    ("enotfound", ErrorKind::Network),
    ("etimedout", ErrorKind::Network),
    ("eai_again", ErrorKind::Network),
];

fn fault(case: &Case<'_>) -> Option<Fault> {
    let limit = case.fold.limit();
    let Some(result) = case.fold.result() else {
        // Known by its own event, and the job would be lost for nothing if the agent died of it.
        if limit.is_some() {
            return Some(Fault {
                resets_at: limit,
                ..case.fault(ErrorKind::UsageLimit, "the usage limit is reached")
            });
        }
        let unknown = !case.fold.has_events() && case.stderr.lines().any(is_session_unknown);
        let fault = case.fault(ErrorKind::ExitCode, "the agent does not know the session");
        return unknown.then_some(Fault {
            session_unknown: true,
            ..fault
        });
    };
    let kind = kind(&result.signs, &result.complaint, limit.is_some());
    if kind == ErrorKind::Blocked {
        let hook = match result.signs.reason.as_deref() {
            Some("stop_hook_prevented") => "the Stop hook stopped it",
            _ => "a hook of a tool (PreToolUse or PostToolUse) stopped the turn",
        };
        return Some(Fault::new(
            kind,
            case.fold.blocked().unwrap_or_else(|| hook.to_owned()),
        ));
    }
    let said_by_stderr =
        || result.complaint.is_empty() && case.stderr.lines().any(is_session_unknown);
    let session_unknown = kind == ErrorKind::AgentError
        && (is_session_unknown(&result.complaint) || said_by_stderr());
    let resets_at = limit.filter(|_| kind == ErrorKind::UsageLimit);
    Some(Fault {
        kind,
        error: case.own_words(),
        resets_at,
        session_unknown,
    })
}

/// The kind of an error result: the first rule that applies. What the agent itself decided comes first,
/// then the class of the failure, then the status of the service's answer. The class `unknown` tells
/// nothing.
fn kind(signs: &Signs, complaint: &str, is_limit_told: bool) -> ErrorKind {
    use ErrorKind::*;
    let is = |field: &Option<String>, word: &str| field.as_deref() == Some(word);
    let subtype = |word| is(&signs.subtype, word);
    let reason = |word| is(&signs.reason, word);
    let class = |word| is(&signs.class, word) || is(&signs.name, word);
    let service = |word| is(&signs.service, word);
    let (status, name) = (signs.status, signs.name.as_deref().unwrap_or_default());
    let is_connection = name.starts_with("connection_") || name.contains("timeout");
    // A failure that has a status or a name of its own is what that says, whatever limit was told.
    let is_limit = is_limit_told
        && (status == Some(429) || status.is_none() && (name.is_empty() || class("rate_limit")));
    let is_limit = is_limit && !class("server_error");

    let rules = [
        (
            Blocked,
            reason("hook_stopped") || reason("stop_hook_prevented"),
        ),
        (MaxTurns, subtype("error_max_turns") || reason("max_turns")),
        (
            Budget,
            subtype("error_max_budget_usd") || reason("budget_exhausted"),
        ),
        (
            PromptTooLong,
            reason("prompt_too_long") || reason("blocking_limit"),
        ),
        (Refused, is(&signs.stop, "refusal")),
        (UsageLimit, class("usage_limit_reached") || is_limit),
        (Billing, class("billing_error") || class("account_on_hold")),
        (Billing, service("billing_error") || status == Some(402)),
        (
            NotAuthenticated,
            ["authentication_failed", "cloud_credential_error"]
                .into_iter()
                .any(class),
        ),
        (
            NotAuthenticated,
            ["oauth_org_not_allowed", "verification_required"]
                .into_iter()
                .any(class),
        ),
        (
            NotAuthenticated,
            class("stored_login_refused") || matches!(status, Some(401 | 403)),
        ),
        (
            NotAuthenticated,
            service("authentication_error") || service("permission_error"),
        ),
        (MaxOutputTokens, class("max_output_tokens")),
        (
            ModelNotFound,
            class("model_not_found") || service("not_found_error"),
        ),
        (
            Overloaded,
            class("overloaded") || matches!(status, Some(500..=599)),
        ),
        (
            RateLimited,
            class("rate_limit") || status == Some(429) || service("rate_limit_error"),
        ),
        // The service's own names for 529 and 500, should they come without the number.
        (
            Overloaded,
            service("overloaded_error") || service("api_error"),
        ),
        (Network, is_connection || class("server_error")),
        // A request that timed out on the way, a redirection, or a page of some gateway that says it is
        // well: no answer of the API.
        (Network, matches!(status, Some(..400 | 408))),
        // 413 is here and no prompt that is too long: the request has too many bytes for the service
        // (images, mostly; the CLI calls it `image_error`), whatever the model's window.
        (InvalidRequest, class("invalid_request") || status.is_some()),
        (
            InvalidRequest,
            service("invalid_request_error") || service("request_too_large"),
        ),
    ];
    let rule = rules
        .into_iter()
        .find(|(_, applies)| *applies)
        .map(|(kind, _)| kind);
    let worded = |kinds: &[ErrorKind]| wording(&WORDINGS, complaint, kinds);
    match rule {
        // One status for much that the service does not want; the text is all that tells these.
        Some(InvalidRequest) => {
            worded(&[PromptTooLong, Billing, UsageLimit]).unwrap_or(InvalidRequest)
        }
        // Gateways in front of other models answer so.
        Some(RateLimited) if !complaint.contains("not your usage limit") => {
            worded(&[Billing, UsageLimit]).unwrap_or(RateLimited)
        }
        Some(kind) => kind,
        // `success` with the error flag is how the CLI tells of a failed request.
        None if subtype("success") => worded(ErrorKind::ALL).unwrap_or(AgentError),
        None => AgentError,
    }
}

/// The CLI's answer to `--resume` with an id that it has no session for; no field tells it.
fn is_session_unknown(line: &str) -> bool {
    let line = line.trim_start().trim_start_matches("Error: ");
    line.starts_with("No conversation found")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::Fold;
    use crate::agent::verdict::{Ended, Ending, Verdict, judge};
    use serde_json::json;

    /// Kind, and the fields of a failed result beside `is_error: true`; `class` is that of the
    /// synthetic message before it, `subtype` is `success` unless told.
    const FAILURES: &str = r#"
        # As recorded, though without a transcript.
        not_authenticated {"api_error_status": 403, "class": "authentication_failed"}
        billing {"api_error_status": 400, "class": "billing_error"}
        invalid_request {"api_error_status": 413, "class": "invalid_request",
            "terminal_reason": "image_error", "result": "Request too large (max 32MB)."}
        overloaded {"api_error_status": 503, "class": "server_error"}
        max_output_tokens {"api_error": "max_output_tokens", "class": "max_output_tokens",
            "result": "API Error: The model has reached its context window limit."}
        agent_error {"api_error": "autocompact_thrashing", "result": "Autocompact is thrashing",
            "terminal_reason": "rapid_refill_breaker"}
        agent_error {"subtype": "error_during_execution", "terminal_reason": "aborted_streaming",
            "errors": ["[ede_diagnostic] x"]}

        # A status, and no class or one that tells nothing.
        not_authenticated {"api_error_status": 401}
        not_authenticated {"api_error_status": 403, "class": "unknown"}
        billing {"api_error_status": 402, "class": "unknown"}
        invalid_request {"api_error_status": 400}
        invalid_request {"api_error_status": 404}
        invalid_request {"api_error_status": 422, "class": "unknown"}
        model_not_found {"api_error_status": 404, "api_error_type": "not_found_error"}
        network {"api_error_status": 408, "class": "unknown"}
        network {"api_error_status": 200, "class": "unknown"}
        network {"api_error_status": 302}
        rate_limited {"api_error_status": 429}
        usage_limit {"api_error_status": 429, "api_error": "usage_limit_reached"}
        overloaded {"api_error_status": 500, "class": "unknown"}
        overloaded {"api_error_status": 504}
        overloaded {"api_error_status": "529"}
        overloaded {"api_error_status": 599, "class": "rate_limit"}

        # A class or a name, and no status.
        not_authenticated {"class": "authentication_failed"}
        billing {"class": "billing_error"}
        rate_limited {"class": "rate_limit"}
        usage_limit {"class": "usage_limit_reached"}
        network {"class": "server_error"}
        invalid_request {"class": "invalid_request"}
        model_not_found {"class": "model_not_found"}
        network {"class": "unknown", "api_error": "connection_failed"}
        network {"api_error": "connection_timeout"}
        overloaded {"class": "server_error", "api_error_type": "overloaded_error"}
        not_authenticated {"api_error_type": "authentication_error"}
        not_authenticated {"class": "unknown", "api_error_type": "permission_error"}
        invalid_request {"api_error_type": "request_too_large"}
        refused {"stop_reason": "refusal"}
        refused {"stop_reason": "refusal", "class": "invalid_request"}
        prompt_too_long {"terminal_reason": "blocking_limit"}

        # What the agent itself decided, whatever else stands beside it.
        max_turns {"subtype": "error_max_turns", "class": "server_error"}
        budget {"subtype": "error_max_budget_usd", "stop_reason": "tool_use"}

        # Words, where nothing else tells.
        network {"class": "unknown", "result":
            "API Error: API returned an empty or malformed response (HTTP 200)"}
        not_authenticated {"result": "Not logged in · Please run /login"}
        network {"class": "unknown", "result": "Request timed out."}
        network {"result": "API Error: Connection error."}
        agent_error {"class": "unknown", "result": "API Error: something else"}
        prompt_too_long {"api_error_status": 400, "class": "invalid_request",
            "result": "Prompt is too long"}
        billing {"api_error_status": 400, "class": "unknown",
            "result": "Credit balance is too low"}

        # Words decide nothing where a field does, or where no request failed.
        overloaded {"api_error_status": 500, "result": "Prompt is too long, Not logged in"}
        invalid_request {"api_error_status": 400, "result": "API Error: 400 tool timed out"}
        agent_error {"subtype": "error_something_new", "errors": ["Connection error"]}
        agent_error {"subtype": "error_during_execution"}
    "#;

    #[test]
    fn error_results_are_judged_by_structure_before_wording() {
        let rows = FAILURES
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'));
        let rows = rows.collect::<Vec<_>>().join("\n");
        let mut count = 0;
        for row in rows.split_inclusive('}') {
            let Some((kind, fields)) = row.trim().split_once(' ') else {
                continue;
            };
            let mut result: Value = serde_json::from_str(fields).expect(row);
            let class = result["class"].take();
            result["type"] = json!("result");
            result["is_error"] = json!(true);
            if result["subtype"].is_null() {
                result["subtype"] = json!("success");
            }
            let synthetic = json!({"type": "assistant", "is_api_error_message": true,
                "error": class, "message": {"content": []}});
            let mut fold = Fold::new(&DIALECT, false);
            fold.feed(format!("{synthetic}\n{result}\n").as_bytes());
            fold.finish();
            // The flag counts whatever the exit; SIGINT makes it 0.
            for code in [0, 1] {
                let ended = Ended {
                    code: Some(code),
                    signal: None,
                    by: Ending::Itself,
                };
                let case = Case {
                    ended: &ended,
                    fold: &fold,
                    stderr: "",
                    require_answer: false,
                    now: Wall(0),
                };
                let Verdict::Fault(fault) = judge(&case) else {
                    panic!("{row}")
                };
                assert_eq!(fault.kind.as_str(), kind, "{row}: {fault:?}");
                assert!(!fault.error.is_empty());
            }
            count += 1;
        }
        assert!(count > 50, "{count}");
    }
}
