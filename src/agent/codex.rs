//! Codex, `codex exec --json` (SPEC 6b). Its output tells no more of a failure than a sentence; the class
//! stands in the thread's rollout file, which is undocumented, so words must do where that is missing. All
//! of it was recorded with release 0.171.0; see `tests/fixtures/codex`.

use super::event::{Call, Event, LastResult, Session, Signs, Window, time};
use super::json::Object;
use super::plan::{Assignment, Opening};
use super::verdict::{Case, Fault, Rules};
use super::{Dialect, Lookup, Scratch, Sessions, Witness};
use crate::job::ErrorKind::*;
use crate::project::Protocol;
use serde_json::{Map, Value};
use std::path::PathBuf;

pub(super) const DIALECT: Dialect = Dialect {
    name: "codex",
    protocol: Protocol::Codex,
    ending: "jsonl",
    sessions: Sessions::Told,
    silent_on: "what it costs, how many turns it takes, and which tools it was refused",
    costs: false,
    turns: false,
    skill_call: "$task-coordination\n\n",
    skills: &[".agents/skills", ".codex/skills"],
    slash_commands: false,
    // The CLI takes 1,048,576 and adds words of its own.
    prompt_max: 1_048_000,
    env: &[],
    scratch: Scratch::None,
    args,
    open: "resume",
    read: Some(read),
    opens_with: "thread.started",
    results: &["turn.completed", "turn.failed"],
    witness: Some(Witness {
        below: |get| Some(home(get)?.join("sessions")),
        read: witness,
    }),
    fault,
    login: |get| Some(home(get)?.join("auth.json")),
    preflight: &["login", "status"],
    keys: &["CODEX_API_KEY"],
    install: "npm install -g @openai/codex",
};

fn home(get: &Lookup<'_>) -> Option<PathBuf> {
    let below_home = || Some(PathBuf::from(get("HOME")?).join(".codex"));
    get("CODEX_HOME").map(PathBuf::from).or_else(below_home)
}

/// The agent's own `args` stand in front of `resume`, since not every option is known behind it. Without
/// the sandbox's name a resumed start could only read.
fn args(assignment: &Assignment<'_>, argv: &mut Vec<String>) {
    argv.extend(
        "exec --json --skip-git-repo-check"
            .split(' ')
            .map(str::to_owned),
    );
    assignment.option(argv, "--sandbox", Some("workspace-write"));
    let fixed = "-c analytics.enabled=false -c features.unbounded_connection_retries=false";
    argv.extend(fixed.split(' ').map(str::to_owned));
    assignment.option(argv, "--model", assignment.wishes.model.as_deref());
    argv.extend(assignment.own_args());
    if let Opening::Resume { session, .. } = assignment.opening {
        argv.extend(["resume".to_owned(), session.clone()]);
    }
    argv.push("-".to_owned());
}

fn read(line: &Object<'_>, each: &mut dyn FnMut(Event<'_>)) {
    let message = line.text("message");
    match line.word("type").as_deref() {
        Some("thread.started") => {
            let id = line.word("thread_id");
            each(Event::Session(Session {
                id,
                ..Session::default()
            }));
        }
        Some("turn.started") => each(Event::Turn(false)),
        Some("item.started") => item(line.raw("item"), &line.object("item"), false, each),
        Some("item.completed") => item(line.raw("item"), &line.object("item"), true, each),
        Some("error") if message.contains("waiting for network") => each(Event::Offline(message)),
        Some("error") if message.starts_with("Reconnecting") => each(Event::Notice(message)),
        Some("error") => each(Event::Trouble(message, Signs::default())),
        Some("turn.completed") => {
            line.value("usage")
                .into_iter()
                .for_each(|usage| each(Event::Total(usage)));
            each(Event::Result(Box::new(LastResult {
                good: true,
                ..LastResult::default()
            })));
        }
        Some("turn.failed") => {
            let complaint = line.object("error").text("message");
            each(Event::Result(Box::new(LastResult {
                complaint,
                ..LastResult::default()
            })));
        }
        _ => {}
    }
}

/// Something that it did or said; what takes time is told at its beginning and again when it is over.
fn item(json: &str, item: &Object<'_>, is_over: bool, each: &mut dyn FnMut(Event<'_>)) {
    let (kind, id) = (item.text("type"), item.text("id"));
    let failed = !item.is("status", "completed");
    each(Event::Turn(true));
    match (kind.as_str(), is_over) {
        ("agent_message", true) => each(Event::Say(None, item.text("text"))),
        ("reasoning", true) => each(Event::Think(None, item.text("text"))),
        // A warning, such as of a transport that is not tried again.
        ("error", true) => each(Event::Notice(item.text("message"))),
        ("agent_message" | "reasoning" | "error" | "todo_list", _) => {}
        // Each file of a patch is a call.
        ("file_change", _) => {
            for (at, change) in item.objects("changes").into_iter().enumerate() {
                let (id, input) = (format!("{id}.{at}"), item.items("changes")[at]);
                let (tool, edits) = ("Edit".to_owned(), Some(change.text("path")));
                each(match is_over {
                    true => Event::Answer(id, "", failed),
                    false => Event::Call(Call {
                        by: None,
                        id,
                        tool,
                        input,
                        edits,
                    }),
                });
            }
        }
        (_, true) => each(Event::Answer(id, item.raw("aggregated_output"), failed)),
        ("command_execution", false) => {
            let tool = "Shell".to_owned();
            each(Event::Call(Call {
                id,
                tool,
                input: json,
                ..Call::default()
            }));
        }
        (_, false) => {
            let tool = item.word("tool").unwrap_or(kind);
            each(Event::Call(Call {
                id,
                tool,
                input: json,
                ..Call::default()
            }));
        }
    }
}

/// A line of the rollout file, which holds the whole thread: what counts is told after the last
/// `task_started`.
fn witness(line: &Object<'_>, each: &mut dyn FnMut(Event<'_>)) {
    let (kind, payload) = (line.text("type"), line.object("payload"));
    match (kind.as_str(), payload.text("type").as_str()) {
        ("session_meta" | "turn_context", _) => {
            let (version, model) = (payload.word("cli_version"), payload.word("model"));
            each(Event::Session(Session {
                version,
                model,
                ..Session::default()
            }));
        }
        ("event_msg", "task_started") => {
            each(Event::Session(Session::default()));
            each(Event::Windows(Vec::new()));
        }
        ("event_msg", "token_count") => {
            let total = payload.object("info").value("total_token_usage");
            total
                .into_iter()
                .for_each(|total| each(Event::Total(total)));
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
            each(Event::Trouble(
                error.text("message"),
                Signs { names, status },
            ));
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
    let utilization = window.number("used_percent")? / 100.0;
    Some(Window {
        name,
        utilization,
        resets_at: time(window, "resets_at"),
    })
}

const RULES: Rules = Rules {
    first: &[
        (UsageLimit, "usage_limit_exceeded"),
        (NotAuthenticated, "unauthorized"),
        (PromptTooLong, "context_window_exceeded"),
        (ModelNotFound, "model_not_found"),
        (
            Refused,
            "invalid_prompt|cyber_policy|bio_policy|misalignment_policy_violation",
        ),
        (Budget, "session_budget_exceeded"),
    ],
    last: &[
        (RateLimited, "rate_limit_exceeded"),
        (Overloaded, "internal_server_error|server_overloaded"),
        (InvalidRequest, "bad_request"),
        (Network, "http_connection_failed"),
    ],
    words: &[
        (Billing, "quota exceeded|chatgpt plan, upgrade|status 402"),
        (UsageLimit, "hit your usage limit"),
        (PromptTooLong, "ran out of room|status 413"),
        (Overloaded, "at capacity|high demand|status 5"),
        (
            NotAuthenticated,
            "status 401|status 403|could not be refreshed",
        ),
        (
            NotAuthenticated,
            "missing environment variable|discovery unauthorized",
        ),
        (RateLimited, "status: 429"),
        (ModelNotFound, "does not exist or you do not have access"),
        (Refused, "invalid prompt|reason: content_filter"),
        (MaxOutputTokens, "reason: max_output_tokens"),
        (
            Network,
            "stream disconnected|connection failed|workspace routing discovery",
        ),
    ],
};

fn fault(case: &Case<'_>) -> Option<Fault> {
    let fold = case.fold;
    let Some(result) = &fold.result else {
        return if fold.offline {
            Some(case.fault(Network, "the agent waited for the network"))
        } else if case.stderr.contains("input_too_large") {
            Some(case.fault(PromptTooLong, "the prompt is too long for codex"))
        } else {
            let unknown = case.stderr.contains("thread/resume failed");
            unknown.then(|| {
                case.fault(ExitCode, "the agent cannot go on in the session")
                    .afresh()
            })
        };
    };
    let said = if result.complaint.is_empty() {
        &fold.trouble
    } else {
        &result.complaint
    };
    // The whole answer of the service, quoted: any other 400.
    let kind = match said.trim_start().starts_with('{') {
        true => InvalidRequest,
        false => RULES.kind(&fold.signs, said, false),
    };
    let full = fold
        .report
        .windows
        .iter()
        .filter(|window| window.utilization >= 1.0);
    let reset = full.filter_map(|window| window.resets_at).max();
    Some(Fault::new(kind, case.own_words()).until(reset.filter(|_| kind == UsageLimit)))
}
