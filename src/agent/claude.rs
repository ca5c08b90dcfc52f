//! Claude Code, headless (SPEC 6). Its events, exits and words are those that were recorded with release
//! 2.1.328; see `tests/fixtures/claude`.

use super::event::{By, Call, Event, LastResult, Session, Signs, Window, time};
use super::json::{Object, object};
use super::plan::Assignment;
use super::verdict::{Case, Fault, Rules};
use super::{Dialect, Lookup, Scratch, Sessions};
use crate::job::ErrorKind::*;
use crate::project::Protocol;
use crate::time::human;
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
    skill_call: "/task-coordination\n\n",
    skills: &[".claude/skills", ".claude/commands"],
    slash_commands: true,
    prompt_max: usize::MAX,
    // A tool that hits its time limit would be moved to the background and keep the CLI alive for ten
    // minutes after its answer.
    env: &[
        "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS=1",
        "DISABLE_AUTOUPDATER=1",
    ],
    scratch: Scratch::Unless("CLAUDE_CODE_TMPDIR"),
    args,
    open: "--resume",
    read: Some(read),
    opens_with: "system",
    results: &["result"],
    witness: None,
    fault,
    login,
    preflight: &["auth", "status"],
    keys: &[
        "CLAUDE_CODE_OAUTH_TOKEN",
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_AUTH_TOKEN",
    ],
    install: "npm install -g @anthropic-ai/claude-code",
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
    let turns = assignment.wishes.max_turns.map(|turns| turns.to_string());
    let budget = assignment.budget_left_usd.map(|left| format!("{left:.4}"));
    let (name, session) = assignment.opening.session("--session-id", "--resume");
    assignment.option(argv, name, session);
    assignment.option(argv, "--model", assignment.wishes.model.as_deref());
    assignment.option(argv, "--max-turns", turns.as_deref());
    assignment.option(argv, "--max-budget-usd", budget.as_deref());
    argv.extend(assignment.own_args());
}

fn login(get: &Lookup<'_>) -> Option<PathBuf> {
    let home = || Some(PathBuf::from(get("HOME")?).join(".claude"));
    let dir = get("CLAUDE_CONFIG_DIR").map(PathBuf::from).or_else(home)?;
    Some(dir.join(".credentials.json"))
}

fn read(line: &Object<'_>, each: &mut dyn FnMut(Event<'_>)) {
    let by = line.word("parent_tool_use_id");
    // A message that the CLI made up to tell of a failure has a class; the flag is its own affair.
    let is_failure = line.raw("is_api_error_message") == "true" || line.word("error").is_some();
    match line.word("type").as_deref() {
        Some("assistant") if is_failure && by.is_none() => trouble(line, each),
        Some("assistant") if !is_failure => assistant(&line.object("message"), &by, each),
        Some("user") => user(line, by.is_none(), each),
        Some("stream_event") if by.is_none() => each(Event::Turn(false)),
        Some("system") => system(line, each),
        Some("rate_limit_event") => rate_limit(line, true, each),
        Some("result") => result(line, each),
        _ => {}
    }
}

fn assistant(message: &Object<'_>, by: &By, each: &mut dyn FnMut(Event<'_>)) {
    if by.is_none() {
        each(Event::Turn(true));
    }
    if let Some(id) = message.word("id") {
        each(Event::Tokens(id, message.raw("usage")));
    }
    for block in message.objects("content") {
        let (by, input) = (by.clone(), block.raw("input"));
        match block.word("type").as_deref() {
            Some("text") => each(Event::Say(by, block.text("text"))),
            Some("thinking") => each(Event::Think(by, block.text("thinking"))),
            Some("tool_use" | "server_tool_use" | "mcp_tool_use") => {
                let (id, tool) = (block.text("id"), block.text("name"));
                let input_of = block.object("input");
                let path = input_of.text("file_path") + &input_of.text("notebook_path");
                let is_edit = EDIT_TOOLS.contains(&tool.as_str()) && !path.is_empty();
                let edits = is_edit.then_some(path);
                each(Event::Call(Call {
                    by,
                    id,
                    tool,
                    input,
                    edits,
                }));
            }
            _ => {}
        }
    }
}

fn user(line: &Object<'_>, is_main: bool, each: &mut dyn FnMut(Event<'_>)) {
    if is_main {
        each(Event::Turn(false));
    }
    for block in line.object("message").objects("content") {
        let failed = block.raw("is_error") == "true";
        if block.is("type", "tool_result") {
            each(Event::Answer(
                block.text("tool_use_id"),
                block.raw("content"),
                failed,
            ));
        } else if let Some(said) = block.text("text").strip_prefix("Stop hook feedback:") {
            each(Event::Feedback(said.trim().to_owned()));
        }
    }
    // A wake-up, or a timetable of such, was put down for later.
    let done = line.object("tool_use_result");
    if !done.raw("scheduledFor").is_empty() || !done.raw("humanSchedule").is_empty() {
        each(Event::Scheduled);
    }
}

fn system(line: &Object<'_>, each: &mut dyn FnMut(Event<'_>)) {
    let notice = match line.word("subtype").unwrap_or_default().as_str() {
        "init" => return init(line, each),
        "permission_denied" => {
            let told = ["tool_name", "tool_use_id", "message"]
                .map(|key| (key.to_owned(), Value::from(line.text(key))));
            return each(Event::Denied(Value::Object(Map::from_iter(told))));
        }
        "background_tasks_changed" => {
            return each(Event::Pending(!line.items("tasks").is_empty()));
        }
        "informational" => {
            let outcome = line.object("prompt_submit_outcome");
            if outcome.text("kind").ends_with("_by_hook") {
                let reason = outcome.text("reason");
                let text = format!("the UserPromptSubmit hook refused the prompt: {reason}");
                each(Event::Blocked(text));
            }
            line.text("content")
        }
        "notification" => {
            if line.is("key", "stop-hook-block-cap") {
                each(Event::Blocked(
                    "the Stop hook would not let it end".to_owned(),
                ));
            }
            line.text("text")
        }
        "api_retry" => {
            let status = line
                .number("error_status")
                .map_or(String::new(), |s| format!(" ({s})"));
            let pause = line.number("retry_delay_ms").unwrap_or_default().max(0.0);
            let pause = human(Duration::from_millis(pause as u64));
            let (error, at, most) = (
                line.text("error"),
                line.raw("attempt"),
                line.raw("max_retries"),
            );
            format!("no answer from the service: {error}{status}; try {at} of {most} in {pause}")
        }
        "compact_boundary" => "the conversation was summed up to make room".to_owned(),
        "model_fallback" => "another model takes over".to_owned(),
        "task_notification" => {
            format!(
                "in the background, {}: {}",
                line.text("status"),
                line.text("summary")
            )
        }
        _ => return,
    };
    each(Event::Notice(notice));
}

fn init(line: &Object<'_>, each: &mut dyn FnMut(Event<'_>)) {
    let servers = line.objects("mcp_servers").into_iter();
    let failed = servers.filter(|server| server.is("status", "failed"));
    each(Event::Session(Session {
        id: line.word("session_id"),
        model: line.word("model"),
        version: line.word("claude_code_version"),
        cwd: Some(line.text("cwd")),
        failed_servers: failed.filter_map(|server| server.word("name")).collect(),
    }));
}

/// A message that the CLI made up to tell of a failure: it is no part of the answer.
fn trouble(line: &Object<'_>, each: &mut dyn FnMut(Event<'_>)) {
    let message = line.object("message");
    let content = message.objects("content").into_iter();
    let said: Vec<String> = content.map(|block| block.text("text")).collect();
    rate_limit(&line.object("api_error_params"), false, each);
    let names = [
        line.word("error"),
        line.word("api_error"),
        message.word("stop_reason"),
    ];
    let names = names.into_iter().flatten().collect();
    each(Event::Trouble(
        said.join("\n"),
        Signs {
            names,
            status: None,
        },
    ));
}

/// The limits in a `rate_limit_info`; `all` if this is the event of its own. Any status but `rejected`
/// lifts the limit; a rejection without a time is one of those that are "not your usage limit".
fn rate_limit(line: &Object<'_>, all: bool, each: &mut dyn FnMut(Event<'_>)) {
    let info = line.object("rate_limit_info");
    let reset = time(&info, "resetsAt").filter(|_| info.is("status", "rejected"));
    if reset.is_some() || all && !info.is("status", "rejected") {
        each(Event::Limit(reset));
    }
    let windows: Map<String, Value> = info.value("unifiedWindows").unwrap_or_default();
    let windows = windows.into_iter().filter_map(|(name, window)| {
        let window = window.to_string();
        let window = object(&window).ok()?;
        let (utilization, resets_at) = (window.number("utilization")?, time(&window, "resetsAt"));
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

fn result(line: &Object<'_>, each: &mut dyn FnMut(Event<'_>)) {
    let is_error = line.raw("is_error");
    let (subtype, reason) = (line.word("subtype"), line.word("terminal_reason"));
    let is_success = subtype.as_deref() == Some("success");
    let is_through = reason.as_deref().is_none_or(|reason| reason == "completed");
    let mut complaint = vec![line.text("result")];
    complaint.extend(
        line.items("errors")
            .into_iter()
            .filter_map(super::json::text),
    );
    complaint.retain(|text| !text.trim().is_empty() && is_error != "false");
    // `api_error` is no more than that a request failed.
    let reason_sign = reason.clone().filter(|reason| reason != "api_error");
    let other = ["stop_reason", "api_error", "api_error_type"].map(|key| line.word(key));
    let names = [subtype.clone(), reason_sign]
        .into_iter()
        .chain(other)
        .flatten();
    rate_limit(&line.object("api_error_params"), false, each);
    let usage = Some(line.raw("usage")).filter(|json| json.len() <= USAGE_MAX);
    let signs = Signs {
        names: names.collect(),
        status: line.number("api_error_status").map(|status| status as u64),
    };
    each(Event::Result(Box::new(LastResult {
        good: is_error == "false" && is_success && is_through,
        complaint: complaint.join("; ").trim().to_owned(),
        answer: Some(line.text("result")).filter(|_| is_error != "true"),
        turns: line.number("num_turns").map(|turns| turns as u64),
        cost_usd: line.number("total_cost_usd"),
        usage: usage
            .and_then(|_| line.value::<Map<_, _>>("usage"))
            .map(Value::Object),
        denials: line.value("permission_denials"),
        duration_ms: line.number("duration_ms"),
        session: line.word("session_id"),
        signs,
        ending: reason.or(subtype),
    })));
}

/// Recorded texts, but for those of gateways and of agents without classes.
const RULES: Rules = Rules {
    first: &[
        (Blocked, "hook_stopped|stop_hook_prevented"),
        (MaxTurns, "error_max_turns|max_turns"),
        (Budget, "error_max_budget_usd|budget_exhausted"),
        (PromptTooLong, "prompt_too_long|blocking_limit"),
        (Refused, "refusal"),
        (UsageLimit, "usage_limit_reached"),
        (Billing, "billing_error|account_on_hold"),
        (
            NotAuthenticated,
            "authentication_failed|authentication_error|permission_error",
        ),
        (
            NotAuthenticated,
            "cloud_credential_error|oauth_org_not_allowed|verification_required",
        ),
        (NotAuthenticated, "stored_login_refused"),
        (MaxOutputTokens, "max_output_tokens"),
        (ModelNotFound, "model_not_found|not_found_error"),
        (Overloaded, "overloaded"),
    ],
    // Beside a status they tell less than that.
    last: &[
        (RateLimited, "rate_limit|rate_limit_error"),
        (Overloaded, "overloaded_error|api_error"),
        (
            Network,
            "server_error|connection_failed|connection_timeout|timeout",
        ),
        // A request with too many bytes (images, mostly), whatever the model's window.
        (
            InvalidRequest,
            "invalid_request|invalid_request_error|request_too_large",
        ),
    ],
    words: &[
        (PromptTooLong, "prompt is too long"),
        (
            Billing,
            "credit balance is too low|insufficient balance|insufficient credit",
        ),
        (Billing, "requires credits|has been disabled|out of credits"),
        (UsageLimit, "usage limit|you've hit your"),
        (
            NotAuthenticated,
            "not logged in|invalid api key|failed to authenticate",
        ),
        (NotAuthenticated, "could not load credentials"),
        (
            Network,
            "empty or malformed response|timed out|connection refused|connection error",
        ),
        (Network, "econnre|enotfound|etimedout|eai_again"),
        (Overloaded, "overloaded"),
    ],
};

fn fault(case: &Case<'_>) -> Option<Fault> {
    let limit = case.fold.limit;
    let Some(result) = &case.fold.result else {
        // Known by its own event, and the job would be lost for nothing if the agent died of it.
        if limit.is_some() {
            return Some(
                case.fault(UsageLimit, "the usage limit is reached")
                    .until(limit),
            );
        }
        let unknown = !case.fold.has_events && case.stderr.lines().any(is_session_unknown);
        return unknown.then(|| {
            case.fault(ExitCode, "the agent does not know the session")
                .afresh()
        });
    };
    // Words tell of failed requests only, which the CLI calls a success with an error.
    let is_request = result.signs.names.iter().any(|name| name == "success");
    let said = if is_request {
        result.complaint.as_str()
    } else {
        ""
    };
    let kind = RULES.kind(&result.signs, said, limit.is_some());
    if kind == Blocked {
        let hook = match result.ending.as_deref() {
            Some("stop_hook_prevented") => "the Stop hook stopped it",
            _ => "a hook of a tool (PreToolUse or PostToolUse) stopped the turn",
        };
        return Some(Fault::new(
            kind,
            case.fold.blocked().unwrap_or_else(|| hook.to_owned()),
        ));
    }
    let by_stderr = result.complaint.is_empty() && case.stderr.lines().any(is_session_unknown);
    let fault = Fault::new(kind, case.own_words());
    Some(match kind {
        UsageLimit => fault.until(limit),
        AgentError if by_stderr || is_session_unknown(&result.complaint) => fault.afresh(),
        _ => fault,
    })
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
    use crate::time::Wall;
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
