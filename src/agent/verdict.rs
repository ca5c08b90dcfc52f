//! What an exit and an output mean: the table of SPEC 7 as two pure functions. They know no
//! clock, no settings and no earlier attempt; what follows from a verdict is decided elsewhere.

use super::stream::{LastResult, Stream};
use super::{Ended, Ending, Fault, Verdict};
use crate::job::ErrorKind;
use crate::time::Wall;
use nix::sys::signal::Signal;

/// The longest sentence made of an agent's own words, in characters.
const SENTENCE_MAX: usize = 500;

/// How much of standard error goes into a sentence; the result has more of it.
const TAIL_MAX: usize = 300;

/// Wording that decides where no field does: no class but `unknown`, no status that tells more.
/// Compared in lower case, the first hit counts. Recorded texts, but for the connection errors,
/// which an agent without classes would name so.
const WORDINGS: [(&str, ErrorKind); 15] = [
    ("prompt is too long", ErrorKind::PromptTooLong),
    ("credit balance is too low", ErrorKind::Billing),
    ("not logged in", ErrorKind::NotAuthenticated),
    ("invalid api key", ErrorKind::NotAuthenticated),
    ("failed to authenticate", ErrorKind::NotAuthenticated),
    ("you've hit your", ErrorKind::UsageLimit),
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

/// Judges an attempt of protocol `claude` by its exit and its output, which must be finished
/// ([`Stream::finish`]). `stderr_tail` is only quoted, but for one sentence that stands nowhere
/// else.
///
/// An id that was used before (`Session ID ... is already in use`, exit status 1, no event) is
/// an `exit_code` like any other wrong command line: the runner resumes sessions and never gives
/// an id twice, so there is nothing to do about it but to report it.
pub fn claude(ended: &Ended, stream: &Stream, stderr_tail: &str) -> Verdict {
    // A person's word comes before everything, even before a result that came just in time.
    if ended.by == Ending::Cancelled {
        return fault(ErrorKind::Cancelled, "cancelled by hand");
    }
    // Whether the last result is the agent's last word. When we ended it, it is so only if the
    // agent did not go to work again; that was looked at before `linger` ended it, and what it
    // may have written while dying changes nothing.
    let stands = match ended.by {
        Ending::Itself | Ending::Linger => true,
        _ => stream.is_final(),
    };
    // An exit that we forced, or that nobody saw, is no fault after the last word.
    let exit_fits = ended.code == Some(0) || ended.by != Ending::Itself;
    let tail = tail(stderr_tail);
    match stream.result().filter(|_| stands) {
        // A later result may be lost. Only in an agent that we did not end: our ending it may
        // well have cut a line.
        Some(_) if stream.is_result_lost() && ended.by == Ending::Itself => no_result(ended, &tail),
        Some(result) if is_good(result) && result.text.is_empty() => {
            fault(ErrorKind::EmptyAnswer, "the agent ended without an answer")
        }
        Some(result) if is_good(result) && exit_fits => Verdict::Completed,
        Some(result) if is_good(result) => ended_badly(ended, &tail),
        Some(result) => failed(result, stream.limit(), stderr_tail),
        None => without_result(ended, stream, stderr_tail),
    }
}

/// Judges an attempt of protocol `plain`, by its exit alone.
pub fn plain(ended: &Ended, words: &str) -> Verdict {
    match (forced(ended.by), ended.code) {
        (Some(fault), _) => fault,
        (None, Some(0)) => Verdict::Completed,
        (None, _) => ended_badly(ended, &tail(words)),
    }
}

/// Our own clocks and caps: what an attempt is that has no last word of its own.
fn forced(by: Ending) -> Option<Verdict> {
    let (kind, text) = match by {
        Ending::Itself | Ending::Linger => return None,
        Ending::Timeout => (
            ErrorKind::Timeout,
            "ended by the monitor: it took longer than its timeout; raise that, or split the job",
        ),
        Ending::Silent => (
            ErrorKind::Silent,
            "ended by the monitor: it wrote nothing for longer than silence_timeout; raise that if such a pause is normal",
        ),
        Ending::OutputLimit => (
            ErrorKind::OutputLimit,
            "ended by the monitor: it wrote more than max_output; raise that if so much is normal",
        ),
        Ending::Cancelled => (ErrorKind::Cancelled, "cancelled by hand"),
        Ending::Interrupted => (
            ErrorKind::Interrupted,
            "the monitor or the machine went down while the job ran",
        ),
    };
    Some(fault(kind, text))
}

fn without_result(ended: &Ended, stream: &Stream, stderr_tail: &str) -> Verdict {
    if let Some(forced) = forced(ended.by) {
        return forced;
    }
    let tail = tail(stderr_tail);
    // Known by its own event, and the job would be lost for nothing if the agent died of it.
    if let Some(resets_at) = stream.limit() {
        let error = format!("the usage limit is reached ({}){tail}", exit(ended));
        return usage_limit(error, Some(resets_at));
    }
    if stream.has_events() || stream.is_result_lost() || ended.code == Some(0) {
        return no_result(ended, &tail);
    }
    let mut verdict = ended_badly(ended, &tail);
    if let Verdict::Fault(fault) = &mut verdict {
        fault.session_unknown = stderr_tail.lines().any(is_session_unknown);
    }
    verdict
}

/// Also when it was cut off or too long to hold; who wonders finds it in the log.
fn no_result(ended: &Ended, tail: &str) -> Verdict {
    let error = format!(
        "the agent ended without a whole result ({}){tail}",
        exit(ended)
    );
    fault(ErrorKind::NoResult, &error)
}

/// What a result must say, and it must say it as it was recorded: a flag that is missing is no
/// success.
fn is_good(result: &LastResult) -> bool {
    result.is_error == Some(false) && result.subtype.as_deref() == Some("success")
}

/// A result that tells of an error.
fn failed(result: &LastResult, limit: Option<Wall>, stderr_tail: &str) -> Verdict {
    let kind = kind(result, limit.is_some());
    let error = own_words(result, stderr_tail);
    if kind == ErrorKind::UsageLimit {
        return usage_limit(error, limit);
    }
    let session_unknown = kind == ErrorKind::AgentError
        && (is_session_unknown(&result.text)
            || result.text.is_empty() && stderr_tail.lines().any(is_session_unknown));
    Verdict::Fault(Fault {
        kind,
        error,
        resets_at: None,
        session_unknown,
    })
}

/// The kind of an error result: the first rule that applies. What the agent itself decided comes
/// first, then the class of the failure, then the status of the service's answer. The class
/// `unknown` tells nothing, and a class stands in the synthetic message or in `api_error`.
fn kind(result: &LastResult, is_limit_told: bool) -> ErrorKind {
    use ErrorKind::*;
    let is = |field: &Option<String>, word: &str| field.as_deref() == Some(word);
    let subtype = |word| is(&result.subtype, word);
    let reason = |word| is(&result.terminal_reason, word);
    let class = |word| is(&result.class, word) || is(&result.api_error, word);
    let api_type = |word| is(&result.api_error_type, word);
    let status = result.status;
    let name = result.api_error.as_deref().unwrap_or_default();
    let is_limit = is_limit_told && matches!(status, None | Some(429));
    let is_connection = name.starts_with("connection_") || name.contains("timeout");

    let rules = [
        (MaxTurns, subtype("error_max_turns")),
        (MaxTurns, reason("max_turns")),
        (Budget, subtype("error_max_budget_usd")),
        (Budget, reason("budget_exhausted")),
        (PromptTooLong, reason("prompt_too_long")),
        (PromptTooLong, reason("blocking_limit")),
        (Refused, is(&result.stop_reason, "refusal")),
        (UsageLimit, class("usage_limit_reached") || is_limit),
        (Billing, class("billing_error") || status == Some(402)),
        (Billing, api_type("billing_error")),
        (NotAuthenticated, class("authentication_failed")),
        (NotAuthenticated, matches!(status, Some(401 | 403))),
        (NotAuthenticated, api_type("authentication_error")),
        (NotAuthenticated, api_type("permission_error")),
        (MaxOutputTokens, class("max_output_tokens")),
        (ModelNotFound, class("model_not_found")),
        (ModelNotFound, api_type("not_found_error")),
        (Overloaded, matches!(status, Some(500..=599))),
        (RateLimited, class("rate_limit") || status == Some(429)),
        (RateLimited, api_type("rate_limit_error")),
        // The service's own names for 529 and 500, should they come without the number.
        (Overloaded, api_type("overloaded_error")),
        (Overloaded, api_type("api_error")),
        (Network, is_connection || class("server_error")),
        // A request that timed out on the way, a redirection, or a page of some gateway that
        // says it is well: no answer of the API.
        (Network, matches!(status, Some(..400 | 408))),
        // 413 is here and no prompt that is too long: the request has too many bytes for the
        // service (images, mostly; the CLI calls it `image_error`), whatever the model's window.
        (InvalidRequest, class("invalid_request") || status.is_some()),
        (InvalidRequest, api_type("invalid_request_error")),
        (InvalidRequest, api_type("request_too_large")),
    ];
    match rules.into_iter().find(|(_, applies)| *applies) {
        // One status for much that the service does not want; without the class its text is all
        // that tells these two from the rest.
        Some((InvalidRequest, _)) => {
            wording(result, &[PromptTooLong, Billing]).unwrap_or(InvalidRequest)
        }
        Some((kind, _)) => kind,
        // `success` with the error flag is how the CLI tells of a failed request.
        None if subtype("success") => wording(result, ErrorKind::ALL).unwrap_or(AgentError),
        None => AgentError,
    }
}

/// The kind that the result's text names, if it is one of `kinds`.
fn wording(result: &LastResult, kinds: &[ErrorKind]) -> Option<ErrorKind> {
    let text = result.text.to_lowercase();
    let hit = WORDINGS
        .iter()
        .find(|(words, kind)| kinds.contains(kind) && text.contains(words));
    hit.map(|(_, kind)| *kind)
}

/// The CLI's answer to `--resume` with an id that it has no session for; no field tells it.
fn is_session_unknown(line: &str) -> bool {
    line.trim_start()
        .trim_start_matches("Error: ")
        .starts_with("No conversation found")
}

/// What the agent says about its error, or the best that can be said without its words.
fn own_words(result: &LastResult, stderr_tail: &str) -> String {
    let text = line(&result.text);
    let reason = result
        .terminal_reason
        .as_deref()
        .or(result.subtype.as_deref());
    let text = if text.is_empty() {
        format!(
            "the agent reports an error ({}){}",
            line(reason.unwrap_or("unnamed")),
            tail(stderr_tail)
        )
    } else if text.starts_with("[ede_diagnostic]") {
        // The CLI's note to its own makers; the reason tells a person more.
        format!(
            "the agent was interrupted ({}): {text}",
            line(reason.unwrap_or("unnamed"))
        )
    } else {
        text
    };
    let status = result.status.map(|status| status.to_string());
    match status.filter(|status| !text.contains(status.as_str())) {
        Some(status) => format!("{} (HTTP {status})", head(&text)),
        None => head(&text),
    }
}

/// An exit that is the agent's fault.
fn ended_badly(ended: &Ended, tail: &str) -> Verdict {
    let kind = match ended.signal {
        Some(_) => ErrorKind::Signal,
        None => ErrorKind::ExitCode,
    };
    fault(kind, &format!("the agent ended with {}{tail}", exit(ended)))
}

/// `exit status 3`, `signal 9 (SIGKILL)`.
fn exit(ended: &Ended) -> String {
    match (ended.code, ended.signal) {
        (_, Some(number)) => match Signal::try_from(number) {
            Ok(signal) => format!("signal {number} ({})", signal.as_str()),
            Err(_) => format!("signal {number}"),
        },
        (Some(code), None) => format!("exit status {code}"),
        (None, None) => "an exit that nobody saw".to_owned(),
    }
}

fn fault(kind: ErrorKind, error: &str) -> Verdict {
    Verdict::Fault(Fault {
        kind,
        error: error.to_owned(),
        resets_at: None,
        session_unknown: false,
    })
}

fn usage_limit(error: String, resets_at: Option<Wall>) -> Verdict {
    Verdict::Fault(Fault {
        kind: ErrorKind::UsageLimit,
        error,
        resets_at,
        session_unknown: false,
    })
}

/// The end of standard error, ready to be put behind a sentence; empty if there is none.
fn tail(stderr: &str) -> String {
    let text = line(stderr);
    let skipped = text.chars().count().saturating_sub(TAIL_MAX);
    match (text.is_empty(), skipped) {
        (true, _) => String::new(),
        (false, 0) => format!(": {text}"),
        (false, _) => format!(": …{}", text.chars().skip(skipped).collect::<String>()),
    }
}

/// The beginning of a text that is too long for a sentence.
fn head(text: &str) -> String {
    match text.char_indices().nth(SENTENCE_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// One line for a person: white space collapsed, terminal sequences and control characters
/// (C0, DEL, C1, and those that turn the direction of writing) left out.
fn line(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' if chars.as_str().starts_with('[') => {
                chars.by_ref().skip(1).find(|c| ('@'..='~').contains(c));
            }
            c if c.is_whitespace() => plain.push(' '),
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' => {}
            '\u{2066}'..='\u{2069}' => {}
            c if c.is_control() => {}
            c => plain.push(c),
        }
    }
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ErrorKind::*;
    use serde_json::{Value, json};
    use std::collections::BTreeSet;

    const DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/claude");

    fn file(name: &str) -> String {
        std::fs::read_to_string(format!("{DIR}/{name}")).unwrap()
    }

    fn read(output: &[u8]) -> Stream {
        let mut stream = Stream::default();
        stream.feed(output);
        stream.finish();
        stream
    }

    fn events(events: &[Value]) -> Stream {
        read(
            events
                .iter()
                .map(|event| format!("{event}\n"))
                .collect::<String>()
                .as_bytes(),
        )
    }

    fn exited(code: i32) -> Ended {
        Ended {
            code: Some(code),
            signal: None,
            by: Ending::Itself,
        }
    }

    fn killed(signal: i32, by: Ending) -> Ended {
        Ended {
            code: None,
            signal: Some(signal),
            by,
        }
    }

    fn ended(exit: &str) -> Ended {
        match exit.trim().strip_prefix("signal:") {
            Some(signal) => killed(signal.parse().unwrap(), Ending::Itself),
            None => exited(exit.trim().parse().unwrap()),
        }
    }

    fn fixture(name: &str) -> Verdict {
        let stream = read(file(&format!("{name}.jsonl")).as_bytes());
        let ended = ended(&file(&format!("{name}.exit")));
        claude(&ended, &stream, &file(&format!("{name}.stderr")))
    }

    fn kind_of(verdict: &Verdict) -> Option<ErrorKind> {
        match verdict {
            Verdict::Completed => None,
            Verdict::Fault(fault) => Some(fault.kind),
        }
    }

    fn expect_fault(verdict: Verdict) -> Fault {
        match verdict {
            Verdict::Completed => panic!("completed"),
            Verdict::Fault(fault) => fault,
        }
    }

    fn good() -> Value {
        json!({"type": "result", "subtype": "success", "is_error": false, "result": "Done."})
    }

    /// A recorded situation, its kind (`None` is completed), and a part of its sentence.
    type Row = (&'static str, Option<ErrorKind>, &'static str);

    #[test]
    fn every_recorded_situation_is_judged_as_the_table_says() {
        let key = "Invalid API key · Fix external API key (HTTP 401)";
        let login = "Not logged in · Please run /login";
        let rejected = "API Error: Request rejected (429)";
        let unsupported = "exit status 1: Error: When using --print";
        let too_big = "exit status 1: Error: piped stdin input exceeds 10MB";
        let rows: &[Row] = &[
            (
                "api-400",
                Some(InvalidRequest),
                "API Error: 400 messages.0.content",
            ),
            (
                "api-400-prompt-too-long",
                Some(PromptTooLong),
                "Prompt is too long · the request",
            ),
            ("api-401", Some(NotAuthenticated), key),
            ("api-401-no-retry", Some(NotAuthenticated), key),
            (
                "api-404-model",
                Some(ModelNotFound),
                "There's an issue with the selected model",
            ),
            ("api-429", Some(RateLimited), rejected),
            ("api-429-long-retry-after", Some(RateLimited), rejected),
            ("api-429-recovered", None, ""),
            ("api-429-unified-apikey", Some(RateLimited), rejected),
            (
                "api-500",
                Some(Overloaded),
                "API Error: 500 Internal server error.",
            ),
            ("api-500-max-retries-1", Some(Overloaded), "API Error: 500"),
            (
                "api-529",
                Some(Overloaded),
                "API Error: Repeated 529 Overloaded errors.",
            ),
            ("api-529-recovered", None, ""),
            ("bash-timeout-background-off", None, ""),
            ("builtin-command", None, ""),
            ("compaction", None, ""),
            ("connection-refused", Some(Network), "ECONNREFUSED"),
            (
                "connection-refused-max-retries-1",
                Some(Network),
                "ECONNREFUSED",
            ),
            ("cut", Some(Network), "ECONNRESET"),
            ("cut-max-retries-1", Some(Network), "ECONNRESET"),
            ("cut-recovered", None, ""),
            ("cut-stream-max-retries-1", None, ""),
            ("dns-failure-max-retries-1", Some(Network), "ENOTFOUND"),
            ("empty", Some(EmptyAnswer), "without an answer"),
            ("format-json", None, ""),
            ("hang-api-timeout-5s", Some(Network), "Request timed out."),
            ("max-budget", Some(Budget), "Reached maximum budget ($1)"),
            (
                "max-turns",
                Some(MaxTurns),
                "Reached maximum number of turns (3)",
            ),
            ("multi-turn", None, ""),
            ("no-verbose", Some(ExitCode), unsupported),
            (
                "not-json",
                Some(Network),
                "empty or malformed response (HTTP 200)",
            ),
            ("not-logged-in", Some(NotAuthenticated), login),
            ("partial-messages", None, ""),
            ("pause-turn", None, ""),
            ("permission-denials", None, ""),
            (
                "prompt-too-long-local",
                Some(PromptTooLong),
                "Prompt is too long",
            ),
            ("refusal", Some(Refused), "safeguards flagged this message"),
            ("resume", None, ""),
            ("resume-killed-run", Some(NoResult), "signal 9 (SIGKILL)"),
            ("sdk-stdin", None, ""),
            ("session-id-in-use", Some(ExitCode), "is already in use."),
            ("sighup-in-tool", Some(NoResult), "exit status 129"),
            ("sigint-before-answer", Some(NoResult), "exit status 0"),
            (
                "sigint-in-tool",
                Some(AgentError),
                "interrupted (aborted_tools): [ede_diagnostic]",
            ),
            ("sigkill-in-tool", Some(NoResult), "signal 9 (SIGKILL)"),
            ("sigterm-after-result", Some(ExitCode), "exit status 143"),
            ("sigterm-before-answer", Some(NoResult), "exit status 143"),
            ("sigterm-in-stream", Some(NoResult), "exit status 143"),
            ("sigterm-in-tool", Some(NoResult), "exit status 143"),
            ("skill-expanded", None, ""),
            ("skill-missing", None, ""),
            (
                "stdin-empty",
                Some(ExitCode),
                "exit status 1: Error: Input must be provided",
            ),
            ("stdin-over-10mb", Some(ExitCode), too_big),
            (
                "stream-error-max-retries-1",
                Some(Overloaded),
                "API Error: 529 Overloaded.",
            ),
            ("subscription-401", Some(NotAuthenticated), login),
            (
                "subscription-429-not-limit",
                Some(RateLimited),
                "not your usage limit",
            ),
            ("subscription-allowed", None, ""),
            (
                "subscription-limit-5h",
                Some(UsageLimit),
                "You've hit your 5-hour limit",
            ),
            ("subscription-limit-waited", None, ""),
            ("subscription-warning", None, ""),
            ("system-prompt-empty", None, ""),
            ("text", None, ""),
            ("thinking", None, ""),
            ("tool-bash", None, ""),
            ("tool-edit", None, ""),
            ("tool-write", None, ""),
            ("trusted-project-allow", None, ""),
            ("unknown-tool", None, ""),
        ];
        for (name, kind, words) in rows {
            let verdict = fixture(name);
            assert_eq!(kind_of(&verdict), *kind, "{name}: {verdict:?}");
            if let Verdict::Fault(fault) = verdict {
                assert!(fault.error.contains(words), "{name}: {}", fault.error);
                assert!(!fault.session_unknown);
                let resets_at = (*name == "subscription-limit-5h").then_some(1_795_173_825);
                assert_eq!(fault.resets_at.map(Wall::secs), resets_at, "{name}");
            }
        }
        let named: BTreeSet<_> = rows.iter().map(|row| row.0.to_owned()).collect();
        let recorded = std::fs::read_dir(DIR).unwrap().filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            name.strip_suffix(".jsonl").map(str::to_owned)
        });
        assert_eq!(named, recorded.collect());
    }

    #[test]
    fn a_recorded_success_cut_short_is_never_complete() {
        for name in ["text", "multi-turn", "sdk-stdin", "api-529-recovered"] {
            let output = file(&format!("{name}.jsonl"));
            let output = output.trim_end().as_bytes();
            let start = String::from_utf8_lossy(output)
                .find("{\"duration_api_ms\"")
                .unwrap();
            let line = output[start..].iter().position(|&byte| byte == b'\n');
            let whole = start + line.unwrap_or(output.len() - start);
            for len in (1..output.len()).step_by(3).chain([whole - 1, whole]) {
                let verdict = claude(&exited(0), &read(&output[..len]), "");
                // The event after the result may be another one until its type is read.
                let unclear = whole + "\n{\"".len()..whole + "\n{\"type\":\"system\"".len();
                let kind = (len < whole || unclear.contains(&len)).then_some(NoResult);
                assert_eq!(kind_of(&verdict), kind, "{name} cut at {len} of {whole}");
            }
        }
    }

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
            let stream = events(&[synthetic, result]);
            // The flag counts whatever the exit; SIGINT makes it 0.
            for code in [0, 1] {
                let fault = expect_fault(claude(&exited(code), &stream, ""));
                assert_eq!(fault.kind.as_str(), kind, "{row}: {fault:?}");
                assert!(!fault.error.is_empty());
            }
            count += 1;
        }
        assert!(count > 50, "{count}");
    }

    #[test]
    fn success_needs_exit_flag_subtype_and_answer() {
        let judge = |change: Value, code: i32| {
            let mut result = good();
            result
                .as_object_mut()
                .unwrap()
                .append(&mut change.as_object().unwrap().clone());
            kind_of(&claude(&exited(code), &events(&[result]), ""))
        };
        assert_eq!(judge(json!({}), 0), None);
        assert_eq!(judge(json!({}), 1), Some(ExitCode));
        assert_eq!(judge(json!({}), 127), Some(ExitCode));
        assert_eq!(judge(json!({"is_error": true}), 0), Some(AgentError));
        assert_eq!(judge(json!({"is_error": null}), 0), Some(AgentError));
        assert_eq!(judge(json!({"is_error": "false"}), 0), Some(AgentError));
        assert_eq!(
            judge(json!({"subtype": "error_during_execution"}), 0),
            Some(AgentError)
        );
        assert_eq!(judge(json!({"subtype": null}), 0), Some(AgentError));
        for blank in [json!(""), json!(" \n\t"), json!(null), json!({}), json!(5)] {
            assert_eq!(
                judge(json!({"result": blank}), 0),
                Some(EmptyAnswer),
                "{blank}"
            );
        }
        let signalled = claude(
            &killed(11, Ending::Itself),
            &events(&[good()]),
            "core dumped\n",
        );
        let fault = expect_fault(signalled);
        assert_eq!(
            (fault.kind, fault.error.as_str()),
            (
                Signal,
                "the agent ended with signal 11 (SIGSEGV): core dumped"
            )
        );
    }

    #[test]
    fn the_last_result_counts() {
        let failed = json!({"type": "result", "subtype": "success", "is_error": true,
            "result": "API Error: 529 Overloaded.", "api_error_status": 529});
        let judge = |list: &[Value], code| kind_of(&claude(&exited(code), &events(list), ""));
        assert_eq!(judge(&[failed.clone(), good()], 0), None);
        assert_eq!(judge(&[good(), failed], 1), Some(Overloaded));
        assert_eq!(
            judge(
                &[
                    good(),
                    json!({"type": "system", "subtype": "session_writes_lost"})
                ],
                0
            ),
            None
        );
        let lost = format!(
            "{}\n{}",
            good(),
            r#"{"duration_api_ms":50,"stop_reason":"end"#
        );
        assert_eq!(
            kind_of(&claude(&exited(0), &read(lost.as_bytes()), "")),
            Some(NoResult)
        );
        // Our own signal may cut a line; what was final stays so.
        let linger = killed(9, Ending::Linger);
        assert_eq!(kind_of(&claude(&linger, &read(lost.as_bytes()), "")), None);
    }

    #[test]
    fn an_exit_that_we_forced_is_no_fault_after_the_last_word() {
        use Ending::*;
        let failed = json!({"type": "result", "subtype": "success", "is_error": true, "api_error_status": 529});
        let working = json!({"type": "assistant", "message": {"content": []}});
        let rows = [
            (Linger, None, None),
            (Ending::Timeout, Some(ErrorKind::Timeout), None),
            (Ending::Silent, Some(ErrorKind::Silent), None),
            (Ending::OutputLimit, Some(ErrorKind::OutputLimit), None),
            (Ending::Interrupted, Some(ErrorKind::Interrupted), None),
            (
                Ending::Cancelled,
                Some(ErrorKind::Cancelled),
                Some(ErrorKind::Cancelled),
            ),
        ];
        for (by, at_work, after) in rows {
            let exits = [
                killed(9, by),
                Ended { by, ..exited(143) },
                Ended {
                    code: None,
                    ..killed(9, by)
                },
            ];
            for ended in exits {
                let judge = |list: &[Value]| kind_of(&claude(&ended, &events(list), "noise"));
                assert_eq!(judge(&[good()]), after, "{by:?}");
                assert_eq!(judge(&[good(), working.clone()]), at_work, "{by:?}");
                let error = after.or(Some(Overloaded));
                assert_eq!(judge(std::slice::from_ref(&failed)), error, "{by:?}");
                let nothing = at_work.or(Some(NoResult));
                assert_eq!(judge(std::slice::from_ref(&working)), nothing, "{by:?}");
            }
        }
        let after_result = read(file("sigterm-after-result.jsonl").as_bytes());
        let ended = Ended {
            by: Linger,
            ..exited(143)
        };
        assert_eq!(claude(&ended, &after_result, ""), Verdict::Completed);
    }

    #[test]
    fn without_a_result_events_tell_an_agent_from_a_wrong_command_line() {
        let init = json!({"type": "system", "subtype": "init"});
        let judge = |stream: &Stream, ended: Ended| {
            expect_fault(claude(&ended, stream, "\x1b[31mboom\x1b[0m\n  twice\n"))
        };
        let none = events(&[]);
        let fault = judge(&none, exited(127));
        assert_eq!(
            (fault.kind, fault.error.as_str()),
            (ExitCode, "the agent ended with exit status 127: boom twice")
        );
        assert_eq!(judge(&none, killed(9, Ending::Itself)).kind, Signal);
        assert_eq!(judge(&none, exited(0)).kind, NoResult);
        assert_eq!(judge(&read(b"srun: error\n"), exited(1)).kind, ExitCode);
        let some = events(&[init]);
        for ended in [exited(0), exited(1), exited(143), killed(9, Ending::Itself)] {
            let fault = judge(&some, ended);
            assert_eq!(fault.kind, NoResult);
            assert!(fault.error.ends_with(": boom twice"), "{}", fault.error);
        }
        assert_eq!(
            judge(&some, killed(9, Ending::Itself)).error,
            "the agent ended without a whole result (signal 9 (SIGKILL)): boom twice"
        );
    }

    #[test]
    fn a_usage_limit_is_known_by_its_event() {
        let event = json!({"type": "rate_limit_event",
            "rate_limit_info": {"status": "rejected", "resetsAt": 1_795_173_825}});
        let result = |fields: Value| {
            let mut result = json!({"type": "result", "subtype": "success", "is_error": true});
            result
                .as_object_mut()
                .unwrap()
                .append(&mut fields.as_object().unwrap().clone());
            result
        };
        let judge = |list: &[Value]| {
            let fault = expect_fault(claude(&exited(1), &events(list), ""));
            (fault.kind, fault.resets_at.map(Wall::secs))
        };
        let told = (UsageLimit, Some(1_795_173_825));
        assert_eq!(
            judge(&[event.clone(), result(json!({"api_error_status": 429}))]),
            told
        );
        assert_eq!(judge(&[event.clone(), result(json!({}))]), told);
        assert_eq!(judge(std::slice::from_ref(&event)), told);
        assert_eq!(
            judge(&[event.clone(), result(json!({"api_error_status": 401}))]),
            (NotAuthenticated, None)
        );
        assert_eq!(
            judge(&[event, result(json!({"subtype": "error_max_turns"}))]),
            (MaxTurns, None)
        );
        assert_eq!(
            judge(&[result(json!({"api_error": "usage_limit_reached"}))]),
            (UsageLimit, None)
        );
    }

    #[test]
    fn an_unknown_session_is_recognised() {
        let text = "No conversation found with session ID: 0000";
        let result = json!({"type": "result", "subtype": "error_during_execution", "is_error": true,
            "num_turns": 0, "errors": [text]});
        let fault = expect_fault(claude(&exited(1), &events(&[result]), text));
        assert_eq!((fault.kind, fault.session_unknown), (AgentError, true));
        assert_eq!(fault.error, text);
        let silent =
            json!({"type": "result", "subtype": "error_during_execution", "is_error": true});
        let fault = expect_fault(claude(
            &exited(1),
            &events(std::slice::from_ref(&silent)),
            text,
        ));
        assert_eq!((fault.kind, fault.session_unknown), (AgentError, true));
        let fault = expect_fault(claude(
            &exited(1),
            &events(&[]),
            &format!("Warning: x\n{text}\n"),
        ));
        assert_eq!((fault.kind, fault.session_unknown), (ExitCode, true));
        let fault = expect_fault(claude(
            &exited(1),
            &events(&[silent]),
            "Configuration error in /x",
        ));
        assert!(!fault.session_unknown);
        assert!(
            fault
                .error
                .ends_with("(error_during_execution): Configuration error in /x"),
            "{}",
            fault.error
        );
        let quoted = json!({"type": "result", "subtype": "success", "is_error": true,
            "result": format!("the test says: {text}")});
        assert!(!expect_fault(claude(&exited(1), &events(&[quoted]), "")).session_unknown);
    }

    #[test]
    fn a_plain_agent_is_judged_by_its_exit() {
        let judge = |ended: Ended| kind_of(&plain(&ended, ""));
        assert_eq!(judge(exited(0)), None);
        assert_eq!(judge(exited(2)), Some(ExitCode));
        assert_eq!(judge(exited(126)), Some(ExitCode));
        assert_eq!(judge(killed(15, Ending::Itself)), Some(Signal));
        let forced = [
            (Ending::Timeout, Timeout),
            (Ending::Silent, Silent),
            (Ending::OutputLimit, OutputLimit),
            (Ending::Cancelled, Cancelled),
            (Ending::Interrupted, Interrupted),
        ];
        for (by, kind) in forced {
            assert_eq!(judge(killed(15, by)), Some(kind));
            assert_eq!(judge(Ended { by, ..exited(0) }), Some(kind));
        }
        let fault = expect_fault(plain(
            &exited(2),
            &format!("{} the end\n", "x".repeat(1000)),
        ));
        assert!(
            fault
                .error
                .starts_with("the agent ended with exit status 2: …xx")
        );
        assert!(fault.error.ends_with("x the end"));
        assert!(fault.error.chars().count() < 400);
    }

    #[test]
    fn a_sentence_is_one_short_line_without_control_characters() {
        assert_eq!(line(" a\r\n\tb\u{2028}c  d\0\x07\x7f\u{9b}e "), "a b c de");
        assert_eq!(
            line("\x1b[1;31mred\x1b[0m \x1b]0;title\x07 \u{202e}x\u{2066}"),
            "red ]0;title x"
        );
        assert_eq!(line("\x1b["), "");
        let result = json!({"type": "result", "subtype": "success", "is_error": true,
            "api_error_status": 400, "result": "é\n".repeat(2000)});
        let fault = expect_fault(claude(&exited(1), &events(&[result]), ""));
        assert!(
            fault.error.starts_with("é é é") && fault.error.ends_with("é … (HTTP 400)"),
            "{}",
            fault.error
        );
        assert_eq!(
            fault.error.chars().count(),
            SENTENCE_MAX + "… (HTTP 400)".chars().count()
        );
    }
}
