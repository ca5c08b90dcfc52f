//! Codex, `codex exec --json` (SPEC 6b). Its output tells no more of a failure than a sentence; the class
//! stands in the thread's rollout file, which is undocumented, so words must do where that is missing. All
//! of it was recorded with release 0.171.0; see `tests/fixtures/codex`.

use super::*;

pub(super) const DIALECT: Dialect = Dialect {
    name: "codex",
    protocol: Protocol::Codex,
    ending: "jsonl",
    sessions: Sessions::Told,
    silent_on: "what it costs, how many turns it takes, or which tools it was refused",
    skill_call: "$task-coordination\n\n",
    skills: &[".agents/skills", ".codex/skills"],
    // The CLI takes 1,048,576 and adds words of its own.
    prompt_max: 1_048_000,
    // The agent's own `args` stand in front of `resume`, since not every option is known behind it. Without
    // the sandbox's name a resumed start could only read.
    args: "exec --json --skip-git-repo-check [--sandbox workspace-write] -c analytics.enabled=false \
           -c features.unbounded_connection_retries=false [--model {model}] {args} [resume {old}] -",
    open: "resume",
    read: Some(read),
    opens_with: "thread.started",
    witness: Some(("sessions", witness)),
    told,
    unknown: "thread/resume failed",
    home: &[("CODEX_HOME", ""), ("HOME", ".codex")],
    login: "auth.json",
    preflight: &["login", "status"],
    keys: &["CODEX_API_KEY"],
    ..PLAIN
};

fn read(line: &Object<'_>, each: &mut dyn FnMut(Event<'_>)) {
    let message = line.text("message");
    let mut result = LastResult::default();
    match line.text("type").as_str() {
        "thread.started" => {
            let session = Session::new(line.word("thread_id"), None, None);
            each(Event::Session(session));
        }
        "turn.started" => each(Event::Turn(false)),
        "item.started" => item(line.raw("item"), &line.object("item"), false, each),
        "item.completed" => item(line.raw("item"), &line.object("item"), true, each),
        "error" if message.contains("waiting for network") => each(Event::Offline(message)),
        "error" if message.starts_with("Reconnecting") => {
            each(Event::Retry(message, Signs::default()));
        }
        "error" => each(Event::Trouble(message, Signs::default())),
        "turn.completed" => {
            let usage = line.value("usage").into_iter();
            usage.for_each(|usage| each(Event::Total(usage)));
            result.good = true;
            each(Event::Result(Box::new(result)));
        }
        "turn.failed" => {
            result.complaint = line.object("error").text("message");
            each(Event::Result(Box::new(result)));
        }
        _ => {}
    }
}

/// Reads what the agent did or said. What takes time is told when it begins, and again when it is over.
fn item(json: &str, item: &Object<'_>, is_over: bool, each: &mut dyn FnMut(Event<'_>)) {
    let (kind, id) = (item.text("type"), item.text("id"));
    let failed = !item.is("status", "completed");
    // A warning may come before the service has answered.
    each(Event::Turn(kind != "error"));
    match (kind.as_str(), is_over) {
        ("agent_message", true) => each(Event::Say(item.text("text"))),
        // Thoughts, warnings and plans are not told: they change nothing.
        ("agent_message" | "reasoning" | "error" | "todo_list", _) => {}
        // Each file of a patch is a call.
        ("file_change", _) => {
            for (at, change) in item.objects("changes").into_iter().enumerate() {
                let (id, path) = (format!("{id}.{at}"), Some(change.text("path")));
                let input = item.items("changes")[at];
                each(match is_over {
                    true => Event::Answer(id, "", failed),
                    false => Event::Call(id, "Edit".into(), input, path),
                });
            }
        }
        (_, true) => each(Event::Answer(id, item.raw("aggregated_output"), failed)),
        ("command_execution", false) => each(Event::Call(id, "Shell".into(), json, None)),
        (_, false) => {
            let tool = item.word("tool").unwrap_or(kind);
            each(Event::Call(id, tool, json, None));
        }
    }
}

/// Reads a line of the rollout file, which holds the whole thread. Only what stands behind the last
/// `task_started` counts.
fn witness(line: &Object<'_>, each: &mut dyn FnMut(Event<'_>)) {
    let (kind, payload) = (line.text("type"), line.object("payload"));
    match (kind.as_str(), payload.text("type").as_str()) {
        ("session_meta" | "turn_context", _) => {
            let (model, version) = (payload.word("model"), payload.word("cli_version"));
            each(Event::Session(Session::new(None, model, version)));
        }
        ("event_msg", "task_started") => {
            each(Event::Session(Session::default()));
            each(Event::Windows(Vec::new()));
        }
        ("event_msg", "token_count") => {
            let total = payload.object("info").value("total_token_usage");
            let total = total.into_iter();
            total.for_each(|total| each(Event::Total(total)));
            let limits = payload.object("rate_limits");
            let windows = ["primary", "secondary"].map(|key| window(&limits.object(key)));
            each(Event::Windows(windows.into_iter().flatten().collect()));
        }
        ("event_msg", "task_complete") if payload.raw("error").starts_with('{') => {
            let error = payload.object("error");
            // A word, or an object whose one key is the word.
            let named: Map<String, Value> = error.value("codex_error_info").unwrap_or_default();
            let (key, value) = named.into_iter().next().unzip();
            let status = value.and_then(|value| value["http_status_code"].as_u64());
            let names = error.word("codex_error_info").or(key).into_iter().collect();
            let signs = Signs { names, status };
            each(Event::Trouble(error.text("message"), signs));
        }
        _ => {}
    }
}

fn window(window: &Object<'_>) -> Option<Window> {
    let name = match window.number("window_minutes")? as u64 {
        300 => "five_hour".to_owned(),
        10_080 => "seven_day".to_owned(),
        minutes => format!("{minutes}_minutes"),
    };
    Some(Window {
        name,
        utilization: window.number("used_percent")? / 100.0,
        resets_at: time(window, "resets_at"),
    })
}

fn told(case: &Case<'_>) -> Option<Reason> {
    let (fold, said) = (case.fold, case.complaint());
    let windows = fold.report.windows.iter();
    let full = windows.filter(|window| window.utilization >= 1.0);
    fold.result.as_ref()?;
    let kind = match said.trim_start().starts_with('{') {
        // The message quotes the whole answer of the service: this is any other 400.
        true => ErrorKind::InvalidRequest,
        false => classify(&fold.trouble.1, said, false),
    };
    Some((kind, full.filter_map(|window| window.resets_at).max()))
}
