//! Claude Code, headless (SPEC 6). Its events, exits and words are those that were recorded with release
//! 2.1.328; see `tests/fixtures/claude`.

use super::*;

pub(super) const DIALECT: Dialect = Dialect {
    name: "claude",
    protocol: Protocol::Claude,
    ending: "jsonl",
    sessions: Sessions::Chosen,
    costs: true,
    skill_call: "/task-coordination\n\n",
    skills: &[".claude/skills", ".claude/commands"],
    // A tool that hits its time limit would be moved to the background and keep the CLI alive for ten
    // minutes after its answer.
    env: &[
        "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS=1",
        "DISABLE_AUTOUPDATER=1",
    ],
    scratch: ("CLAUDE_CODE_TMPDIR", false),
    // The agent is kept from tools whose only use is to outlive the turn. The user's own list adds to this.
    args: "-p --output-format stream-json --verbose --permission-mode acceptEdits --setting-sources project \
           --disallowedTools Monitor,ScheduleWakeup,CronCreate [--session-id {new}] [--resume {old}] \
           [--model {model}] [--max-turns {turns}] [--max-budget-usd {budget}] {args}",
    open: "--resume",
    read: Some(read),
    opens_with: "system",
    told,
    unknown: "No conversation found",
    home: &[("CLAUDE_CONFIG_DIR", ""), ("HOME", ".claude")],
    login: ".credentials.json",
    preflight: &["auth", "status"],
    keys: &[
        "CLAUDE_CODE_OAUTH_TOKEN",
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_AUTH_TOKEN",
    ],
    ..PLAIN
};

/// The tools that change files.
const EDIT_TOOLS: [&str; 4] = ["Write", "Edit", "MultiEdit", "NotebookEdit"];

fn read(line: &Object<'_>, each: &mut dyn FnMut(Event<'_>)) {
    // Not a sub-agent's.
    let is_own = line.word("parent_tool_use_id").is_none();
    // The CLI makes up messages that tell of failures. Such a message has the flag, or a class, or both.
    let is_failure = line.raw("is_api_error_message") == "true" || line.word("error").is_some();
    match line.word("type").as_deref() {
        Some("assistant") if is_failure && is_own => trouble(line, each),
        Some("assistant") if !is_failure => assistant(&line.object("message"), is_own, each),
        Some("user") => user(line, is_own, each),
        Some("stream_event") if is_own => each(Event::Turn(false)),
        Some("system") => system(line, each),
        Some("rate_limit_event") => rate_limit(&line.object("rate_limit_info"), each),
        Some("result") => result(line, each),
        _ => {}
    }
}

fn assistant(message: &Object<'_>, is_own: bool, each: &mut dyn FnMut(Event<'_>)) {
    if is_own {
        each(Event::Turn(true));
    }
    for block in message.objects("content") {
        match block.text("type").as_str() {
            "text" if is_own => each(Event::Say(block.text("text"))),
            "text" => each(Event::Aside(block.text("text"))),
            "tool_use" | "server_tool_use" | "mcp_tool_use" => {
                let (tool, input) = (block.text("name"), block.object("input"));
                let path = input.text("file_path") + &input.text("notebook_path");
                let is_edit = EDIT_TOOLS.contains(&tool.as_str()) && !path.is_empty();
                let (id, edits) = (block.text("id"), is_edit.then_some(path));
                each(Event::Call(id, tool, block.raw("input"), edits));
            }
            _ => {}
        }
    }
}

fn user(line: &Object<'_>, is_own: bool, each: &mut dyn FnMut(Event<'_>)) {
    if is_own {
        each(Event::Turn(false));
    }
    for block in line.object("message").objects("content") {
        let (id, failed) = (block.text("tool_use_id"), block.raw("is_error") == "true");
        if block.is("type", "tool_result") {
            each(Event::Answer(id, block.raw("content"), failed));
        } else if let Some(said) = block.text("text").strip_prefix("Stop hook feedback:") {
            each(Event::Feedback(said.trim().to_owned()));
        }
    }
    // The agent asked to be woken later, once or by a timetable.
    let done = line.object("tool_use_result");
    if !done.raw("scheduledFor").is_empty() || !done.raw("humanSchedule").is_empty() {
        each(Event::Scheduled);
    }
}

fn system(line: &Object<'_>, each: &mut dyn FnMut(Event<'_>)) {
    let text = |key: &str| line.text(key);
    each(match text("subtype").as_str() {
        "init" => init(line),
        "permission_denied" => {
            let (name, id) = (text("tool_name"), text("tool_use_id"));
            let told = json!({"tool_name": name, "tool_use_id": id, "message": text("message")});
            Event::Denied(told)
        }
        "background_tasks_changed" => Event::Pending(!line.items("tasks").is_empty()),
        "informational" => {
            let outcome = line.object("prompt_submit_outcome");
            let (kind, reason) = (outcome.text("kind"), outcome.text("reason"));
            if !kind.ends_with("_by_hook") {
                return;
            }
            let what = "the UserPromptSubmit hook refused the prompt";
            Event::Blocked(format!("{what}: {reason}"))
        }
        "notification" if line.is("key", "stop-hook-block-cap") => {
            Event::Blocked("the Stop hook would not let it end".to_owned())
        }
        "api_retry" => {
            let mut error = text("error");
            let (at, most) = (line.raw("attempt"), line.raw("max_retries"));
            let said = format!("no answer from the service: {error}; try {at} of {most}");
            let status = line.number("error_status").map(|status| status as u64);
            // While the CLI repeats a request that reached no service, it gives no name to the failure.
            if status.is_none() && error == "unknown" {
                error = "connection_failed".to_owned();
            }
            let names = vec![error];
            Event::Retry(said, Signs { names, status })
        }
        _ => return,
    });
}

fn init(line: &Object<'_>) -> Event<'static> {
    let servers = line.objects("mcp_servers").into_iter();
    let failed = servers.filter(|server| server.is("status", "failed"));
    Event::Session(Session {
        id: line.word("session_id"),
        model: line.word("model"),
        version: line.word("claude_code_version"),
        failed_servers: failed.filter_map(|server| server.word("name")).collect(),
    })
}

/// A message that the CLI made up to tell of a failure. It is no part of the answer.
fn trouble(line: &Object<'_>, each: &mut dyn FnMut(Event<'_>)) {
    let message = line.object("message");
    let content = message.objects("content").into_iter();
    let said: Vec<String> = content.map(|block| block.text("text")).collect();
    let names = ["error", "api_error"].map(|key| line.word(key)).into_iter();
    let names = names.chain([message.word("stop_reason")]);
    let (names, status) = (names.flatten().collect(), None);
    each(Event::Trouble(said.join("\n"), Signs { names, status }));
}

/// Any status but `rejected` lifts the limit; a rejection without a time is one of those that are "not
/// your usage limit".
fn rate_limit(info: &Object<'_>, each: &mut dyn FnMut(Event<'_>)) {
    let is_rejected = info.is("status", "rejected");
    let reset = time(info, "resetsAt").filter(|_| is_rejected);
    if reset.is_some() || !is_rejected {
        each(Event::Limit(reset));
    }
    let windows: Map<String, Value> = info.value("unifiedWindows").unwrap_or_default();
    let windows = windows.into_iter().filter_map(|(name, window)| {
        Some(Window {
            name,
            utilization: window["utilization"].as_f64()?,
            resets_at: window["resetsAt"].as_i64().map(Wall::from_secs),
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
    let errors = line.items("errors").into_iter().filter_map(text);
    let mut complaint: Vec<String> = [line.text("result")].into_iter().chain(errors).collect();
    complaint.retain(|text| !text.trim().is_empty() && is_error != "false");
    // `api_error` says only that a request failed.
    let reason_sign = reason.clone().filter(|reason| reason != "api_error");
    let other = ["stop_reason", "api_error", "api_error_type"].map(|key| line.word(key));
    let names = [subtype.clone(), reason_sign].into_iter().chain(other);
    let status = line.number("api_error_status").map(|status| status as u64);
    let hook = match reason.as_deref() {
        Some("stop_hook_prevented") => "the Stop hook stopped it",
        Some("hook_stopped") => "a hook of a tool (PreToolUse or PostToolUse) stopped the turn",
        _ => "",
    };
    if !hook.is_empty() {
        each(Event::Blocked(hook.to_owned()));
    }
    each(Event::Result(Box::new(LastResult {
        good: is_error == "false" && is_success && is_through,
        complaint: complaint.join("; ").trim().to_owned(),
        answer: Some(line.text("result")).filter(|_| is_error != "true"),
        turns: line.number("num_turns").map(|turns| turns as u64),
        cost_usd: line.number("total_cost_usd"),
        usage: line.value("usage").map(Value::Object),
        denials: line.value("permission_denials"),
        signs: Signs {
            names: names.flatten().collect(),
            status,
        },
        ending: reason.or(subtype),
    })));
}

fn told(case: &Case<'_>) -> Option<Reason> {
    let (limit, result) = (case.fold.limit, case.fold.result.as_ref()?);
    // The words count only for a failed request, which the CLI calls a success with an error.
    let is_request = result.signs.names.iter().any(|name| name == "success");
    let said = Some(result.complaint.as_str()).filter(|_| is_request);
    let kind = classify(&result.signs, said.unwrap_or_default(), limit.is_some());
    Some((kind, limit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::Fold;
    use crate::agent::verdict::{Ended, Ending, judge};
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

        not_authenticated {"class": "cloud_credential_error"}
        not_authenticated {"class": "oauth_org_not_allowed"}
        not_authenticated {"class": "verification_required"}
        not_authenticated {"class": "stored_login_refused"}
        billing {"class": "account_on_hold"}
        overloaded {"class": "overloaded"}

        # Limits that are told as another failure, by gateways and for keys.
        usage_limit {"api_error_status": 400, "class": "invalid_request",
            "result": "API Error: 400 You have reached your specified API usage limits."}
        usage_limit {"api_error_status": 429, "result": "429 usage limit exceeded"}
        billing {"api_error_status": 429, "class": "rate_limit", "result": "insufficient balance"}
        billing {"api_error_status": 429, "result": "Opus 5 requires credits"}
        billing {"api_error_status": 400, "result": "This organization has been disabled."}
        rate_limited {"api_error_status": 429, "result": "(not your usage limit)"}

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
            // The flag is the CLI's own affair. An error counts whatever the exit; SIGINT makes it 0.
            for (flag, code) in [(true, 0), (true, 1), (false, 1)] {
                let synthetic = json!({"type": "assistant", "is_api_error_message": flag,
                    "error": class, "message": {"content": []}});
                let mut fold = Fold::new(&DIALECT, false);
                fold.feed(format!("{synthetic}\n{result}\n").as_bytes());
                fold.finish();
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
                let fault = judge(&case).expect(row);
                assert_eq!(fault.kind.as_str(), kind, "{row}: {fault:?}");
                assert!(!fault.error.is_empty());
            }
            count += 1;
        }
        assert!(count > 50, "{count}");
    }
}
