//! Codex, `codex exec --json` (SPEC 6b). Its output tells no more of a failure than a sentence; the class
//! stands in the thread's rollout file, which is undocumented, so words must do where that is missing. All
//! of it was recorded with release 0.171.0; see `tests/fixtures/codex`.

use super::event::{Event, LastResult, Session, Signs, Window};
use super::json::{each_item, members, number, parse, pick, text, word};
use super::plan::{Assignment, Opening};
use super::verdict::{Case, Fault, wording};
use super::{Dialect, Lookup, Sessions, Witness};
use crate::job::ErrorKind;
use crate::project::Protocol;
use crate::time::Wall;
use std::path::PathBuf;

pub(super) const DIALECT: Dialect = Dialect {
    name: "codex",
    protocol: Protocol::Codex,
    ending: "jsonl",
    sessions: Sessions::Told,
    silent_on: "what it costs, how many turns it takes, and which tools it was refused",
    costs: false,
    turns: false,
    skill_call: Some("$task-coordination\n\n"),
    skills: &[
        ".agents/skills/task-coordination/SKILL.md",
        ".codex/skills/task-coordination/SKILL.md",
    ],
    slash_commands: false,
    // The CLI takes 1,048,576 and adds words of its own.
    prompt_max: Some(1_048_000),
    env: &[],
    scratch: None,
    args,
    open: |session| vec!["resume".to_owned(), session.to_owned()],
    read: Some(read),
    opens_with: "thread.started",
    results: &["turn.completed", "turn.failed"],
    witness: Some(Witness {
        below: |get| Some(home(get)?.join("sessions")),
        read: witness,
    }),
    fault,
    login: |get| Some(home(get)?.join("auth.json")),
};

fn home(get: &Lookup<'_>) -> Option<PathBuf> {
    let below_home = || Some(PathBuf::from(get("HOME")?).join(".codex"));
    get("CODEX_HOME").map(PathBuf::from).or_else(below_home)
}

/// The agent's own `args` stand in front of `resume`, since not every option is known behind it. Without
/// the sandbox's name a resumed start could only read.
fn args(assignment: &Assignment<'_>, argv: &mut Vec<String>) {
    let fixed = "exec --json --skip-git-repo-check --sandbox workspace-write -c analytics.enabled=false \
                 -c features.unbounded_connection_retries=false";
    argv.extend(fixed.split(' ').map(str::to_owned));
    if let Some(model) = &assignment.wishes.model {
        argv.extend(["--model".to_owned(), model.clone()]);
    }
    argv.extend(assignment.own_args());
    if let Opening::Resume { session, .. } = assignment.opening {
        argv.extend(["resume".to_owned(), session.clone()]);
    }
    argv.push("-".to_owned());
}

fn read(json: &str, each: &mut dyn FnMut(Event<'_>)) {
    let keys = ["type", "thread_id", "item", "message", "error", "usage"];
    let Ok([kind, thread, item, message, error, usage]) = pick(json, keys) else {
        return each(Event::Lost {
            start: json,
            may_be_result: true,
        });
    };
    let message = message.and_then(text).unwrap_or_default();
    match kind.and_then(word).as_deref() {
        Some("thread.started") => {
            let id = thread.and_then(word);
            each(Event::Session(Session {
                id,
                ..Session::default()
            }));
        }
        Some("turn.started") => each(Event::Turn { answered: false }),
        Some("item.started") => call(item, each),
        Some("item.completed") => item_completed(item, each),
        Some("error") if message.starts_with("Reconnecting") => {
            each(match message.contains("waiting for network") {
                true => Event::Offline(message),
                false => Event::Notice(message),
            });
        }
        Some("error") => each(Event::Trouble {
            text: message,
            signs: Signs::default(),
        }),
        Some("turn.completed") => {
            usage
                .and_then(parse)
                .into_iter()
                .for_each(|usage| each(Event::Total(usage)));
            each(Event::Result(Box::new(LastResult {
                good: true,
                ..LastResult::default()
            })));
        }
        Some("turn.failed") => {
            let [message] = members(error, ["message"]);
            let complaint = message.and_then(text).unwrap_or_default();
            each(Event::Result(Box::new(LastResult {
                complaint,
                ..LastResult::default()
            })));
        }
        _ => {}
    }
}

/// Files that a patch changes are a call each.
fn call(item: Option<&str>, each: &mut dyn FnMut(Event<'_>)) {
    let [kind, id, changes, tool] = members(item, ["type", "id", "changes", "tool"]);
    let (kind, id) = (
        kind.and_then(word).unwrap_or_default(),
        id.and_then(word).unwrap_or_default(),
    );
    let (below, input) = (None, item.unwrap_or_default());
    each(Event::Turn { answered: true });
    match kind.as_str() {
        "agent_message" | "reasoning" | "todo_list" | "error" => {}
        "file_change" => {
            let mut at = 0;
            each_item(changes, |change| {
                let [path] = members(Some(change), ["path"]);
                let (id, tool) = (format!("{id}.{at}"), "Edit".to_owned());
                let edits = path.and_then(text);
                each(Event::Call {
                    below: None,
                    id,
                    tool,
                    input: change,
                    edits,
                });
                at += 1;
            });
        }
        "command_execution" => {
            each(Event::Call {
                below,
                id,
                tool: "Shell".to_owned(),
                input,
                edits: None,
            });
        }
        _ => {
            let tool = tool.and_then(word).unwrap_or(kind);
            each(Event::Call {
                below,
                id,
                tool,
                input,
                edits: None,
            });
        }
    }
}

fn item_completed(item: Option<&str>, each: &mut dyn FnMut(Event<'_>)) {
    let keys = [
        "type",
        "id",
        "text",
        "message",
        "aggregated_output",
        "status",
        "changes",
    ];
    let [kind, id, said, message, output, status, changes] = members(item, keys);
    let id = id.and_then(word).unwrap_or_default();
    let said = said.and_then(text).unwrap_or_default();
    let failed = status
        .and_then(word)
        .is_some_and(|status| status != "completed");
    let content = output.unwrap_or_default();
    match kind.and_then(word).as_deref() {
        Some("agent_message") => each(Event::Say {
            below: None,
            text: said,
            goes_on: false,
        }),
        Some("reasoning") => each(Event::Think {
            below: None,
            text: said,
        }),
        // A warning, such as of a transport that is not tried again.
        Some("error") => each(Event::Notice(message.and_then(text).unwrap_or_default())),
        Some("file_change") => {
            let mut at = 0;
            each_item(changes, |_| {
                each(Event::Answer {
                    id: format!("{id}.{at}"),
                    content,
                    failed,
                });
                at += 1;
            });
        }
        Some("todo_list") | None => {}
        Some(_) => each(Event::Answer {
            id,
            content,
            failed,
        }),
    }
}

/// A line of the rollout file, which holds the whole thread: what counts is told after the last
/// `task_started`.
fn witness(json: &str, each: &mut dyn FnMut(Event<'_>)) {
    let [kind, payload] = members(Some(json), ["type", "payload"]);
    let keys = [
        "type",
        "error",
        "info",
        "rate_limits",
        "cli_version",
        "model",
    ];
    let [event, error, info, limits, version, model] = members(payload, keys);
    let event = event.and_then(word).unwrap_or_default();
    match (kind.and_then(word).as_deref(), event.as_str()) {
        (Some("session_meta" | "turn_context"), _) => {
            let (version, model) = (version.and_then(word), model.and_then(word));
            each(Event::Program { version, model });
        }
        (Some("event_msg"), "task_started") => {
            each(Event::Session(Session::default()));
            each(Event::Windows(Vec::new()));
        }
        (Some("event_msg"), "token_count") => {
            let [total] = members(info, ["total_token_usage"]);
            total
                .and_then(parse)
                .into_iter()
                .for_each(|total| each(Event::Total(total)));
            let windows = members(limits, ["primary", "secondary"]);
            let windows = windows.into_iter().flatten().filter_map(window);
            each(Event::Windows(windows.collect()));
        }
        (Some("event_msg"), "task_complete") if error.is_some_and(|error| error != "null") => {
            let [message, info] = members(error, ["message", "codex_error_info"]);
            // A word, or an object whose one key is the word.
            let named = info.and_then(parse::<serde_json::Map<_, _>>);
            let (key, value) = named.unwrap_or_default().into_iter().next().unzip();
            let status =
                value.and_then(|value: serde_json::Value| value["http_status_code"].as_u64());
            let class = info.and_then(word).or(key);
            let signs = Signs {
                class,
                status,
                ..Signs::default()
            };
            each(Event::Trouble {
                text: message.and_then(text).unwrap_or_default(),
                signs,
            });
        }
        _ => {}
    }
}

fn window(json: &str) -> Option<Window> {
    let keys = ["used_percent", "window_minutes", "resets_at"];
    let [used, minutes, resets_at] = members(Some(json), keys).map(|json| json.and_then(number));
    let name = match minutes? as u64 {
        300 => "five_hour".to_owned(),
        10_080 => "seven_day".to_owned(),
        minutes => format!("{minutes}_minutes"),
    };
    let resets_at = resets_at
        .filter(|at| *at > 0.0)
        .map(|at| Wall::from_secs(at as i64));
    Some(Window {
        name,
        utilization: used? / 100.0,
        resets_at,
    })
}

/// Wording that tells what no class does, in lower case; the first hit counts.
const WORDINGS: [(&str, ErrorKind); 22] = [
    ("quota exceeded", ErrorKind::Billing),
    ("chatgpt plan, upgrade", ErrorKind::Billing),
    ("status 402", ErrorKind::Billing),
    ("hit your usage limit", ErrorKind::UsageLimit),
    ("ran out of room", ErrorKind::PromptTooLong),
    ("status 413", ErrorKind::PromptTooLong),
    ("at capacity", ErrorKind::Overloaded),
    ("high demand", ErrorKind::Overloaded),
    ("status 5", ErrorKind::Overloaded),
    ("status 401", ErrorKind::NotAuthenticated),
    ("status 403", ErrorKind::NotAuthenticated),
    ("could not be refreshed", ErrorKind::NotAuthenticated),
    ("missing environment variable", ErrorKind::NotAuthenticated),
    ("discovery unauthorized", ErrorKind::NotAuthenticated),
    ("status: 429", ErrorKind::RateLimited),
    (
        "does not exist or you do not have access",
        ErrorKind::ModelNotFound,
    ),
    ("invalid prompt", ErrorKind::Refused),
    ("reason: content_filter", ErrorKind::Refused),
    ("reason: max_output_tokens", ErrorKind::MaxOutputTokens),
    ("stream disconnected", ErrorKind::Network),
    ("connection failed", ErrorKind::Network),
    ("workspace routing discovery", ErrorKind::Network),
];

fn fault(case: &Case<'_>) -> Option<Fault> {
    let Some(result) = case.fold.result() else {
        if case.fold.is_offline() {
            return Some(case.fault(ErrorKind::Network, "the agent waited for the network"));
        }
        if case.stderr.contains("input_too_large") {
            return Some(case.fault(ErrorKind::PromptTooLong, "the prompt is too long for codex"));
        }
        let unknown = case.stderr.contains("thread/resume failed");
        let fault = case.fault(ErrorKind::ExitCode, "the agent cannot go on in the session");
        return unknown.then_some(Fault {
            session_unknown: true,
            ..fault
        });
    };
    let (signs, told) = case.fold.trouble();
    let said = if result.complaint.is_empty() {
        told
    } else {
        &result.complaint
    };
    let kind = kind(signs, said);
    let windows = &case.fold.report.windows;
    let full = windows.iter().filter(|window| window.utilization >= 1.0);
    let reset = full.filter_map(|window| window.resets_at).max();
    let resets_at = reset.filter(|_| kind == ErrorKind::UsageLimit);
    Some(Fault {
        resets_at,
        ..Fault::new(kind, case.own_words())
    })
}

fn kind(signs: &Signs, said: &str) -> ErrorKind {
    use ErrorKind::*;
    let worded = |kinds| wording(&WORDINGS, said, kinds);
    match (signs.class.as_deref().unwrap_or_default(), signs.status) {
        ("usage_limit_exceeded", _) => worded(&[Billing]).unwrap_or(UsageLimit),
        (_, Some(..=399 | 408)) => Network,
        ("unauthorized", _) | (_, Some(401 | 403)) => NotAuthenticated,
        ("rate_limit_exceeded", _) | (_, Some(429)) => RateLimited,
        ("internal_server_error" | "server_overloaded", _) | (_, Some(500..=599)) => Overloaded,
        ("context_window_exceeded", _) | (_, Some(413)) => PromptTooLong,
        ("model_not_found", _) | (_, Some(404)) => ModelNotFound,
        ("invalid_prompt" | "cyber_policy" | "bio_policy", _) => Refused,
        ("misalignment_policy_violation", _) => Refused,
        ("session_budget_exceeded", _) => Budget,
        (_, Some(402)) => Billing,
        ("bad_request", _) | (_, Some(_)) => InvalidRequest,
        // The whole answer of the service, quoted: any other 400.
        _ if said.trim_start().starts_with('{') => InvalidRequest,
        ("http_connection_failed", None) => Network,
        _ => worded(ErrorKind::ALL).unwrap_or(AgentError),
    }
}
