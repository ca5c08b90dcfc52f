//! What an exit and an output mean: the table of SPEC 7. Completion is decided first; kinds only explain
//! what is not complete. Nothing is known here of settings, earlier attempts, or what follows.

use super::*;

/// The longest sentence made of an agent's own words, in characters.
const SENTENCE_MAX: usize = 500;
/// How much of standard error goes into a sentence; the result has more of it.
const TAIL_MAX: usize = 300;

/// What an agent says that is too old for its service, and so ends before it did anything.
const TOO_OLD: &str = "or higher) is required to continue";

/// How the agent's process ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Its exit status, if it exited and we saw it.
    pub code: Option<i32>,
    /// The signal that ended it, if one did and we saw it.
    pub signal: Option<i32>,
    /// Whose doing it was.
    pub by: Ending,
}

/// Who or what ended the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    /// The agent itself, or a signal that is not ours.
    #[default]
    Itself,
    /// We did: it stayed longer than `linger` after its final result.
    Linger,
    /// We did: `timeout`.
    Timeout,
    /// We did: `silence_timeout`.
    Silent,
    /// We did: it waited by itself for the network for too long.
    Offline,
    /// We did: `max_output`.
    OutputLimit,
    /// We did: the person cancelled the job.
    Cancelled,
    /// We did, or nobody saw: the daemon went down while the agent ran.
    Interrupted,
}

/// An attempt that is over: all that a verdict is about.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// How its process ended.
    pub ended: &'a Ended,
    /// What its output told, which must be finished ([`Fold::finish`]).
    pub fold: &'a Fold,
    /// The end of its standard error; of a plain agent without one, of its output.
    pub stderr: &'a str,
    /// Whether a blank answer is a fault also of an agent without events.
    pub require_answer: bool,
    /// When it ended.
    pub now: Wall,
}

/// Why an attempt is not complete; `None` where exit, result and answer agree.
pub type Verdict = Option<Fault>;

/// Why an attempt is not complete.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// The kind, which decides what follows.
    pub kind: ErrorKind,
    /// One sentence for a person, in the agent's own words where it had any.
    pub error: String,
    /// For a usage limit: when it ends.
    pub resets_at: Option<Wall>,
    /// The agent does not know the session it was told to resume: start afresh.
    pub session_unknown: bool,
}

impl Fault {
    /// A fault that says nothing about limits or sessions.
    pub fn new(kind: ErrorKind, error: impl Into<String>) -> Fault {
        Fault {
            kind,
            error: error.into(),
            resets_at: None,
            session_unknown: false,
        }
    }
}

/// Judges an attempt.
pub fn judge(case: &Case<'_>) -> Verdict {
    let Case { ended, fold, .. } = case;
    // When we ended it, its last result is its last word only if it did not go to work again. That was
    // looked at before `linger` ended it, and what it may have written while dying changes nothing.
    let stands = matches!(ended.by, Ending::Itself | Ending::Linger) || fold.is_final();
    match fold.result.as_ref().filter(|_| stands) {
        // A person's word comes before everything, even before a result that came just in time.
        _ if ended.by == Ending::Cancelled => forced(ended.by),
        Some(result) if result.good || case.is_lost() => case.objection(result),
        Some(_) => {
            let unknown = || Fault::new(AgentError, case.own_words());
            case.told().or_else(|| Some(unknown()))
        }
        None => match forced(ended.by) {
            // An agent that waits for its service, or sleeps out a limit, is not slow itself.
            Some(fault) if matches!(fault.kind, Timeout | Silent) => {
                let told = case.repeats().or_else(|| case.told());
                let told = told.filter(|told| told.kind.course() == Course::Hold);
                told.or(Some(fault))
            }
            Some(fault) => Some(fault),
            None if fold.dialect.read.is_none() && ended.code == Some(0) => {
                (case.require_answer && fold.report.answer.is_none()).then(empty)
            }
            None => {
                let has_output = fold.has_events || fold.result_lost || ended.code == Some(0);
                let has_begun = fold.dialect.read.is_some() && has_output;
                let fault = if has_begun {
                    case.no_result()
                } else {
                    case.ended_badly()
                };
                case.told().or(Some(fault))
            }
        },
    }
}

fn empty() -> Fault {
    Fault::new(EmptyAnswer, "the agent ended without an answer")
}

/// The fault of an attempt that our own clocks and caps ended, and that has no last word of its own.
pub fn forced(by: Ending) -> Option<Fault> {
    let (kind, why) = match by {
        Ending::Itself | Ending::Linger => return None,
        Ending::Cancelled => return Some(Fault::new(Cancelled, "cancelled by hand")),
        Ending::Interrupted => (Interrupted, "the monitor or the machine went down"),
        Ending::Offline => (Network, "it waited five minutes for the network"),
        Ending::Timeout => (Timeout, "it took longer than its timeout"),
        Ending::Silent => (Silent, "it was silent for its silence_timeout"),
        Ending::OutputLimit => (OutputLimit, "it wrote more than max_output"),
    };
    Some(Fault::new(kind, format!("the agent was ended: {why}")))
}

impl Case<'_> {
    /// Whether a result after the last one may have been lost. Only in an agent that we did not end: our
    /// ending it may well have cut a line.
    fn is_lost(&self) -> bool {
        self.fold.result_lost && self.ended.by == Ending::Itself
    }

    /// What keeps a result that calls itself a success from being one.
    fn objection(&self, result: &LastResult) -> Option<Fault> {
        let (fold, by_itself) = (self.fold, self.ended.by == Ending::Itself);
        if self.is_lost() || by_itself && fold.at_work {
            return Some(self.no_result());
        }
        if let Some(blocked) = fold.blocked() {
            return Some(Fault::new(Blocked, sentence(&blocked)));
        }
        if by_itself && fold.is_pending() {
            let error = "the agent ended its turn while something of its own was to wake it later";
            return Some(Fault::new(Unfinished, error));
        }
        let answer = fold.report.answer.as_deref().unwrap_or_default();
        if result.turns == Some(0) || answer.trim().is_empty() {
            return Some(empty());
        }
        // An exit that we forced, or that nobody saw, is no fault after the last word.
        (by_itself && self.ended.code != Some(0)).then(|| self.ended_badly())
    }

    /// The result may also have been cut off, or have been too long to hold; the log shows it.
    fn no_result(&self) -> Fault {
        self.fault(NoResult, "the agent ended without a whole result")
    }

    /// An exit that is the agent's fault.
    fn ended_badly(&self) -> Fault {
        let kind = self.ended.signal.map_or(ExitCode, |_| Signal);
        let (how, tail) = (exit(self.ended), tail(self.stderr));
        Fault::new(kind, format!("the agent ended with {how}{tail}"))
    }

    /// Why it repeats a request by itself, if it does.
    fn repeats(&self) -> Option<Fault> {
        let (text, signs) = self.fold.repeats.as_ref()?;
        let error = format!("the agent repeats its request: {}", sentence(text));
        Some(self.fault(classify(signs, text, false), &error))
    }

    /// What the agent's own words say of its failure.
    fn told(&self) -> Option<Fault> {
        let (fold, unknown) = (self.fold, self.fold.dialect.unknown);
        let says = |text: &str| !unknown.is_empty() && text.contains(unknown);
        // Where the model has answered, these words may be a quotation.
        let is_unknown = !fold.report.answered && (says(self.complaint()) || says(self.stderr));
        let (kind, resets_at, words) = match &fold.result {
            // The limit has an event of its own. If the agent died of it, the job would be lost for nothing.
            None if fold.limit.is_some() => (UsageLimit, fold.limit, "the usage limit is reached"),
            None if fold.offline => (Network, None, "the agent waited for the network"),
            None if is_unknown => (ExitCode, None, "the agent does not know the session"),
            None if !fold.has_events && self.stderr.contains(TOO_OLD) => {
                (AgentMissing, None, "the agent is too old for its service")
            }
            _ => {
                let (kind, resets_at) = (fold.dialect.told)(self)?;
                (kind, resets_at, "the agent gave up")
            }
        };
        let blocked = fold.blocked().filter(|_| kind == Blocked);
        let fault = match (&fold.result, blocked) {
            (_, Some(blocked)) => Fault::new(kind, sentence(&blocked)),
            (Some(_), None) => Fault::new(kind, self.own_words()),
            (None, None) => self.fault(kind, words),
        };
        Some(Fault {
            resets_at: resets_at.filter(|_| kind == UsageLimit),
            session_unknown: is_unknown && matches!(kind, ExitCode | AgentError),
            ..fault
        })
    }

    /// A fault in our words, with the exit and the end of standard error.
    fn fault(&self, kind: ErrorKind, error: &str) -> Fault {
        let (how, tail) = (exit(self.ended), tail(self.stderr));
        Fault::new(kind, format!("{error} ({how}){tail}"))
    }

    /// What the agent complains of; empty if it does not.
    pub fn complaint(&self) -> &str {
        let result = self.fold.result.as_ref();
        let told = result.map_or("", |result| result.complaint.as_str());
        let is_blank = told.trim().is_empty();
        if is_blank { &self.fold.trouble.0 } else { told }
    }

    /// What the agent says about its error, or the best that can be said without its words.
    fn own_words(&self) -> String {
        let text = sentence(self.complaint());
        if !text.is_empty() {
            return text;
        }
        let result = self.fold.result.as_ref();
        let ending = result.and_then(|result| result.ending.as_deref());
        let (reason, tail) = (line(ending.unwrap_or("unnamed")), tail(self.stderr));
        format!("the agent reports an error ({reason}){tail}")
    }
}

/// The signs of a part of `signs.txt`, each with its kind.
fn signs(part: &str) -> impl Iterator<Item = (ErrorKind, &'static str)> {
    let lines = include_str!("signs.txt").lines();
    let rows = lines.filter_map(move |line| line.strip_prefix(part)?.trim_start().split_once(' '));
    rows.filter_map(|(word, sign)| {
        let mut kinds = ErrorKind::ALL.iter().copied();
        let kind = kinds.find(|kind| kind.as_str() == word)?;
        Some((kind, sign.trim_start()))
    })
}

/// Classifies a failure by the names and the status that were `told`, else by the words that were `said`.
/// `is_limit`: a usage limit was told, which counts where the failure has no class of its own.
pub fn classify(told: &Signs, said: &str, is_limit: bool) -> ErrorKind {
    let said = said.to_lowercase();
    let is_name = |sign: &str| told.names.iter().any(|name| name == sign);
    let named = |part| signs(part).find(|(_, sign)| is_name(sign));
    let mut worded = signs("words").filter(|(_, words)| said.contains(words));
    let by_status = || Some((of_status(told.status?), ""));
    let kind = named("names").or_else(by_status).or_else(|| named("vague"));
    let kind = kind.map(|(kind, _)| kind);
    match kind {
        None | Some(RateLimited) if is_limit => UsageLimit,
        // With these words the CLI says that a 429 is no usage limit.
        Some(RateLimited) if said.contains("not your usage limit") => RateLimited,
        // The service gives this status to many faults; only the text tells them apart.
        Some(kind @ (InvalidRequest | RateLimited | UsageLimit)) => {
            let told_apart = [PromptTooLong, Billing, UsageLimit, NotAuthenticated];
            let found = worded.find(|(kind, _)| told_apart.contains(kind));
            found.map_or(kind, |(kind, _)| kind)
        }
        Some(kind) => kind,
        None => worded.next().map_or(AgentError, |(kind, _)| kind),
    }
}

/// What a status of HTTP says by itself.
fn of_status(status: u64) -> ErrorKind {
    match status {
        401 | 403 => NotAuthenticated,
        402 => Billing,
        429 => RateLimited,
        500..=599 => Overloaded,
        // A request that timed out on the way, a redirection, or a page of some gateway that says it is
        // well: no answer of the service.
        ..=399 | 408 => Network,
        _ => InvalidRequest,
    }
}

/// `exit status 3`, `signal 9 (SIGKILL)`.
fn exit(ended: &Ended) -> String {
    match (ended.code, ended.signal) {
        (_, Some(number)) => match nix::sys::signal::Signal::try_from(number) {
            Ok(signal) => format!("signal {number} ({})", signal.as_str()),
            Err(_) => format!("signal {number}"),
        },
        (Some(code), None) => format!("exit status {code}"),
        (None, None) => "an exit that nobody saw".to_owned(),
    }
}

/// The end of standard error, ready to be put behind a sentence; empty if there is none.
fn tail(stderr: &str) -> String {
    let text = line(stderr);
    match text.char_indices().nth_back(TAIL_MAX - 1) {
        Some((start, _)) => format!(": …{}", &text[start..]),
        None if text.is_empty() => text,
        None => format!(": {text}"),
    }
}

/// A text of the agent's as a part of a sentence.
fn sentence(text: &str) -> String {
    let text = line(text);
    match text.char_indices().nth(SENTENCE_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// One line for a person: white space collapsed, harmful characters left out.
fn line(text: &str) -> String {
    let text = one_line(text);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::{DIALECTS, dialect, protocol_of};
    use crate::project::Protocol;
    use serde_json::{Value, json};
    use std::collections::BTreeSet;

    #[test]
    fn every_sign_tells_of_a_kind_that_there_is() {
        let text = include_str!("signs.txt");
        let rows = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let told: Vec<_> = ["names ", "vague ", "words "]
            .into_iter()
            .flat_map(signs)
            .collect();
        assert_eq!(told.len(), rows.count());
        for (kind, sign) in told {
            assert_eq!(sign, sign.trim().to_lowercase(), "{kind}");
        }
    }

    const DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    const NOW: Wall = Wall(1_795_000_000_000);

    // Events of Claude Code.
    const INIT: &str = r#"{"type": "system", "subtype": "init"}"#;
    const WORKING: &str = r#"{"type": "assistant", "message": {"content": []}}"#;
    const GOOD: &str =
        r#"{"type": "result", "subtype": "success", "is_error": false, "result": "Done."}"#;
    const ILL: &str = r#"{"type": "result", "subtype": "success", "is_error": true, "api_error_status": 529,
        "result": "API Error: 529 Overloaded."}"#;

    fn file(name: &str) -> Vec<u8> {
        std::fs::read(format!("{DIR}/{name}")).unwrap()
    }

    fn fold_of(protocol: Protocol, output: &[u8]) -> Fold {
        let mut fold = Fold::new(dialect(protocol), false);
        fold.feed(output);
        fold.finish();
        fold
    }

    fn read(output: &[u8]) -> Fold {
        fold_of(Protocol::Claude, output)
    }

    fn events(events: &[&str]) -> Fold {
        let lines = events.iter().map(|event| event.replace('\n', " ") + "\n");
        read(lines.collect::<String>().as_bytes())
    }

    /// A failed result of Claude Code with more fields.
    fn failed(fields: Value) -> String {
        let mut result = json!({"type": "result", "subtype": "success", "is_error": true});
        let fields = fields.as_object().unwrap().clone();
        result.as_object_mut().unwrap().extend(fields);
        result.to_string()
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

    fn verdict(ended: &Ended, fold: &Fold, stderr: &str) -> Verdict {
        judge(&Case {
            ended,
            fold,
            stderr,
            require_answer: false,
            now: NOW,
        })
    }

    fn fault(ended: Ended, fold: &Fold, stderr: &str) -> Fault {
        verdict(&ended, fold, stderr).expect("not completed")
    }

    fn kind_of(verdict: &Verdict) -> Option<ErrorKind> {
        verdict.as_ref().map(|fault| fault.kind)
    }

    fn kind(ended: Ended, list: &[&str]) -> Option<ErrorKind> {
        kind_of(&verdict(&ended, &events(list), "noise"))
    }

    #[test]
    fn every_recorded_run_is_judged_as_the_table_says() {
        let table = std::fs::read_to_string(format!("{DIR}/expect.tsv")).unwrap();
        let mut named = BTreeSet::new();
        for row in table.lines().filter(|row| !row.starts_with('#')) {
            let columns: Vec<&str> = row.split('\t').collect();
            let [agent, name, exit, expected, reset] = columns[..5] else {
                panic!("{row}");
            };
            let file = |ending| std::fs::read(format!("{DIR}/{agent}/{name}.{ending}"));
            let stderr = String::from_utf8_lossy(&file("stderr").unwrap()).into_owned();
            let mut fold = Fold::new(dialect(protocol_of(agent)), false);
            fold.feed(&file("jsonl").unwrap());
            if let Ok(told) = file("rollout.jsonl") {
                fold.witness(&told);
            }
            fold.finish();
            let verdict = verdict(&ended(exit), &fold, &stderr);
            let kind = kind_of(&verdict).map_or("completed", ErrorKind::as_str);
            assert_eq!(kind, expected, "{agent} {name}: {verdict:?}");
            if let Some(fault) = verdict {
                let words = columns.get(5).copied().unwrap_or_default();
                assert!(fault.error.contains(words), "{agent} {name}: {fault:?}");
                assert_eq!(fault.session_unknown, reset == "afresh", "{agent} {name}");
                let resets_at = reset.parse().ok();
                assert_eq!(fault.resets_at.map(Wall::secs), resets_at, "{agent} {name}");
            }
            named.insert(format!("{agent}/{name}"));
        }
        for dialect in &DIALECTS {
            for entry in std::fs::read_dir(format!("{DIR}/{}", dialect.name)).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                if let Some(name) = name.strip_suffix(".stderr") {
                    let is_named = named.contains(&format!("{}/{name}", dialect.name));
                    assert!(is_named, "{name} stands in no row");
                }
            }
        }
    }

    /// The rows of what was learnt about codex and gemini of which there is no recording.
    #[test]
    fn what_was_read_or_has_no_recording_is_judged_as_it_was_learnt() {
        let judge = |agent: &str, code: i32, output: &str, witness: &str, stderr: &str| {
            let mut fold = Fold::new(dialect(protocol_of(agent)), false);
            fold.feed(output.as_bytes());
            if !witness.is_empty() {
                fold.witness(witness.as_bytes());
            }
            fold.finish();
            kind_of(&verdict(&exited(code), &fold, stderr))
        };
        let begun =
            "{\"type\":\"thread.started\",\"thread_id\":\"t\"}\n{\"type\":\"turn.started\"}\n";
        let filtered = "stream disconnected before completion: Incomplete response returned, reason: content_filter";
        for (info, said, kind) in [
            ("cyber_policy", "no", Refused),
            ("bio_policy", "no", Refused),
            ("misalignment_policy_violation", "no", Refused),
            ("bad_request", "no", InvalidRequest),
            ("session_budget_exceeded", "no", Budget),
            ("rate_limit_exceeded", "no", RateLimited),
            (
                "other",
                "Missing environment variable: `X`.",
                NotAuthenticated,
            ),
            ("other", "workspace routing discovery timed out", Network),
            ("other", filtered, Refused),
        ] {
            let failed = json!({"type": "turn.failed", "error": {"message": said}});
            let error = json!({"message": said, "codex_error_info": info});
            let told = [
                json!({"type": "event_msg", "payload": {"type": "task_started"}}),
                json!({"type": "event_msg", "payload": {"type": "task_complete", "error": error}}),
            ];
            let output = format!("{begun}{failed}\n");
            let told = told.map(|line| format!("{line}\n")).concat();
            let judged = judge("codex", 1, &output, &told, "");
            assert_eq!(judged, Some(kind), "{info}: {said}");
        }
        let on_a_full_disk = judge("codex", 101, begun, "", "panicked");
        assert_eq!(on_a_full_disk, Some(NoResult));

        let init = "{\"type\":\"init\",\"session_id\":\"s\",\"model\":\"m\"}\n";
        for code in [42, 44, 52, 54, 55, 130] {
            let judged = judge("gemini", code, "", "", "no");
            assert_eq!(judged, Some(ExitCode), "{code}");
        }
        assert_eq!(judge("gemini", 53, init, "", "no"), Some(MaxTurns));
        let result = |status: &str, tokens: u64| {
            let result = json!({"type": "result", "status": status, "stats": {"total_tokens": tokens},
                "error": {"type": "unknown", "message": "[API Error: no]"}});
            format!("{init}{result}\n")
        };
        for (ms, kind) in [("300000", RateLimited), ("300001", UsageLimit)] {
            let stderr = format!("RetryableQuotaError: no\n  retryDelayMs: {ms},\n");
            let judged = judge("gemini", 173, &result("error", 9), "", &stderr);
            assert_eq!(judged, Some(kind), "{ms}");
        }
        let terminal = "TerminalQuotaError: no\n  retryDelayMs: undefined,\n";
        let judged = judge("gemini", 173, &result("error", 9), "", terminal);
        assert_eq!(judged, Some(UsageLimit));
        let local = judge("gemini", 0, &result("success", 0), "", "");
        assert_eq!(local, Some(EmptyAnswer), "it asked nobody");
    }

    #[test]
    fn a_recorded_success_cut_short_is_never_complete() {
        for name in ["text", "multi-turn", "sdk-stdin", "api-529-recovered"] {
            let output = file(&format!("claude/{name}.jsonl"));
            let output = output.trim_ascii_end();
            let text = String::from_utf8_lossy(output);
            let start = text.find("{\"duration_api_ms\"").unwrap();
            let line = output[start..].iter().position(|&byte| byte == b'\n');
            let whole = start + line.unwrap_or(output.len() - start);
            for len in (1..output.len()).step_by(3).chain([whole - 1, whole]) {
                let verdict = verdict(&exited(0), &read(&output[..len]), "");
                // The event after the result may be another one.
                let is_cut = !matches!(output.get(len), None | Some(b'\n'));
                let last = output[..len].iter().rposition(|byte| *byte == b'\n');
                let is_begun = last.unwrap_or(0) + 2 < len;
                let kind = (len < whole || is_cut && is_begun).then_some(NoResult);
                assert_eq!(kind_of(&verdict), kind, "{name} cut at {len} of {whole}");
            }
        }
    }

    #[test]
    fn success_needs_exit_flag_subtype_and_answer() {
        for (code, wanted) in [(0, None), (1, Some(ExitCode)), (127, Some(ExitCode))] {
            assert_eq!(kind(exited(code), &[GOOD]), wanted, "{code}");
        }
        // Why it ended may be left out, and of all reasons one is a success.
        for (field, values, wanted) in [
            ("is_error", r#"true, null, "false""#, Some(AgentError)),
            (
                "subtype",
                r#""error_during_execution", null"#,
                Some(AgentError),
            ),
            ("terminal_reason", r#""completed""#, None),
            ("terminal_reason", r#""of_a_new_kind""#, Some(AgentError)),
            ("result", r#""", " \n\t", null, {}, 5"#, Some(EmptyAnswer)),
        ] {
            let values: Vec<Value> = serde_json::from_str(&format!("[{values}]")).unwrap();
            for value in values {
                let mut result: Value = serde_json::from_str(GOOD).unwrap();
                result[field] = value;
                let result = result.to_string();
                assert_eq!(kind(exited(0), &[&result]), wanted, "{result}");
            }
        }
        let fault = fault(
            killed(11, Ending::Itself),
            &events(&[GOOD]),
            "core dumped\n",
        );
        let sentence = "the agent ended with signal 11 (SIGSEGV): core dumped";
        assert_eq!((fault.kind, &*fault.error), (Signal, sentence));
    }

    #[test]
    fn the_last_result_counts() {
        assert_eq!(kind(exited(0), &[ILL, GOOD]), None);
        assert_eq!(kind(exited(1), &[GOOD, ILL]), Some(Overloaded));
        let late = r#"{"type": "system", "subtype": "session_writes_lost"}"#;
        assert_eq!(kind(exited(0), &[GOOD, late]), None);
        // It went to work once more, and ended without another.
        for list in [&[GOOD, INIT][..], &[GOOD, INIT, WORKING], &[GOOD, WORKING]] {
            assert_eq!(kind(exited(0), list), Some(NoResult), "{list:?}");
        }
        let lost = format!("{GOOD}\n{}", r#"{"duration_api_ms":50,"stop_reason":"end"#);
        let of_lost = |ended| kind_of(&verdict(&ended, &read(lost.as_bytes()), ""));
        assert_eq!(of_lost(exited(0)), Some(NoResult));
        // Our own signal may cut a line; what was final stays so.
        assert_eq!(of_lost(killed(9, Ending::Linger)), None);
    }

    #[test]
    fn an_exit_that_we_forced_is_no_fault_after_the_last_word() {
        use Ending::Linger;
        for (by, at_work, after) in [
            (Linger, None, None),
            (Ending::Timeout, Some(Timeout), None),
            (Ending::Silent, Some(Silent), None),
            (Ending::OutputLimit, Some(OutputLimit), None),
            (Ending::Interrupted, Some(Interrupted), None),
            (Ending::Cancelled, Some(Cancelled), Some(Cancelled)),
        ] {
            let of_nothing = Ended {
                code: None,
                signal: None,
                by,
            };
            for ended in [killed(9, by), Ended { by, ..exited(143) }, of_nothing] {
                for (list, wanted) in [
                    (&[GOOD][..], after),
                    (&[GOOD, WORKING], at_work),
                    (&[ILL], after.or(Some(Overloaded))),
                    (&[WORKING], at_work.or(Some(NoResult))),
                ] {
                    let judged = kind_of(&verdict(&ended, &events(list), "noise"));
                    assert_eq!(judged, wanted, "{by:?}: {list:?}");
                }
            }
        }
        let after_result = read(&file("claude/sigterm-after-result.jsonl"));
        let ended = Ended {
            by: Linger,
            ..exited(143)
        };
        assert_eq!(verdict(&ended, &after_result, ""), None);
    }

    /// The service was ill: that is no fault of a job whose time ran out meanwhile.
    #[test]
    fn an_agent_that_repeats_its_request_when_we_end_it_is_not_slow_itself() {
        let retry = |status: Value, error: &str| {
            json!({"type": "system", "subtype": "api_retry", "attempt": 3, "max_retries": 10,
                "error_status": status, "error": error})
            .to_string()
        };
        let ill = retry(json!(529), "rate_limit");
        let unreached = retry(json!(null), "server_error");
        for (by, list, wanted) in [
            (Ending::Timeout, &[&*ill][..], Overloaded),
            (Ending::Silent, &[WORKING, &ill], Overloaded),
            (Ending::Timeout, &[&retry(json!(null), "unknown")], Network),
            (Ending::Timeout, &[&unreached], Network),
            // It went on, or the service wants no such request, or we ended it for another reason.
            (Ending::Timeout, &[&ill, WORKING], Timeout),
            (Ending::Timeout, &[&retry(json!(400), "unknown")], Timeout),
            (Ending::OutputLimit, &[&ill], OutputLimit),
            (Ending::Cancelled, &[&ill], Cancelled),
        ] {
            assert_eq!(kind(killed(15, by), list), Some(wanted), "{by:?}: {list:?}");
        }

        let codex = |output: &[u8]| {
            let fold = fold_of(Protocol::Codex, output);
            kind_of(&verdict(&killed(15, Ending::Silent), &fold, ""))
        };
        let ill =
            b"{\"type\":\"error\",\"message\":\"Reconnecting... 2/5 (unexpected status 503)\"}\n";
        assert_eq!(codex(ill), Some(Overloaded));
        // It waits as long as the service wants it to.
        let waits = file("codex/429_retry_after_3600.jsonl");
        assert_eq!(codex(&waits), Some(RateLimited));
        let hangs = file("codex/hang_before_headers.jsonl");
        assert_eq!(codex(&hangs), Some(Silent));
    }

    #[test]
    fn without_a_result_events_tell_an_agent_from_a_wrong_command_line() {
        let stderr = "boom\x1b\n  twice\n";
        let none = events(&[]);
        for (ended, output, wanted) in [
            (exited(127), "", ExitCode),
            (exited(0), "", NoResult),
            (killed(9, Ending::Itself), "", Signal),
            (exited(1), "srun: error\n", ExitCode),
        ] {
            let judged = kind_of(&verdict(&ended, &read(output.as_bytes()), stderr));
            assert_eq!(judged, Some(wanted), "{ended:?}: {output:?}");
        }
        let error = fault(exited(127), &none, stderr).error;
        let sentence = "the agent ended with exit status 127: boom twice";
        assert_eq!(error, sentence);
        let old = "needs an update.\nA newer version (2.9.0 or higher) is required to continue.\n";
        let outdated = fault(exited(1), &none, old);
        assert_eq!(outdated.kind, AgentMissing);
        assert!(outdated.error.contains("2.9.0 or higher"), "{outdated:?}");
        let some = events(&[INIT]);
        for ended in [exited(0), exited(1), exited(143), killed(9, Ending::Itself)] {
            let fault = fault(ended, &some, stderr);
            assert_eq!(fault.kind, NoResult);
            assert!(fault.error.ends_with(": boom twice"), "{fault:?}");
        }
        let error = fault(killed(9, Ending::Itself), &some, stderr).error;
        let sentence = "the agent ended without a whole result (signal 9 (SIGKILL)): boom twice";
        assert_eq!(error, sentence);
    }

    #[test]
    fn a_usage_limit_is_known_by_its_event() {
        const AT: i64 = 1_795_173_825;
        let event = json!({"type": "rate_limit_event",
            "rate_limit_info": {"status": "rejected", "resetsAt": AT}});
        let event = event.to_string();
        let limited = r#"{"type": "assistant", "error": "rate_limit", "message": {"content": []}}"#;
        let judge = |list: &[&str]| {
            let fault = fault(exited(1), &events(list), "");
            (fault.kind, fault.resets_at.map(Wall::secs))
        };
        let (vague, refused) = (failed(json!({})), failed(json!({"api_error_status": 429})));
        for after in [&[][..], &[&*vague], &[limited, &vague], &[&refused]] {
            let list = [&[&*event], after].concat();
            assert_eq!(judge(&list), (UsageLimit, Some(AT)), "{after:?}");
        }
        // What the failure says of itself counts for more.
        for (field, value, kind) in [
            ("api_error_status", json!(401), NotAuthenticated),
            ("api_error_status", json!(529), Overloaded),
            ("subtype", json!("error_max_turns"), MaxTurns),
            ("api_error", json!("connection_failed"), Network),
        ] {
            let result = failed(json!({field: value}));
            assert_eq!(judge(&[&event, &result]), (kind, None), "{result}");
        }
        let alone = failed(json!({"api_error": "usage_limit_reached"}));
        assert_eq!(judge(&[&alone]), (UsageLimit, None));
    }

    #[test]
    fn an_unknown_session_is_recognised() {
        let text = "No conversation found with session ID: 0000";
        let told =
            failed(json!({"subtype": "error_during_execution", "num_turns": 0, "errors": [text]}));
        let mute = failed(json!({"subtype": "error_during_execution"}));
        let warned = format!("Warning: x\n{text}\n");
        for (list, stderr, kind) in [
            (&[&*told][..], text, AgentError),
            (&[&mute], text, AgentError),
            (&[], &warned, ExitCode),
        ] {
            let fault = fault(exited(1), &events(list), stderr);
            assert_eq!(
                (fault.kind, fault.session_unknown),
                (kind, true),
                "{list:?}"
            );
        }
        assert_eq!(fault(exited(1), &events(&[&told]), text).error, text);
        let other = fault(exited(1), &events(&[&mute]), "Configuration error in /x");
        assert!(!other.session_unknown);
        let sentence = "(error_during_execution): Configuration error in /x";
        assert!(other.error.ends_with(sentence), "{other:?}");
        let quoted = failed(json!({"result": format!("the test says: {text}")}));
        assert!(!fault(exited(1), &events(&[WORKING, &quoted]), "").session_unknown);
    }

    #[test]
    fn a_plain_agent_is_judged_by_its_exit() {
        let nothing = fold_of(Protocol::Plain, b"");
        let judge = |ended: Ended| kind_of(&verdict(&ended, &nothing, ""));
        assert_eq!(judge(exited(0)), None);
        assert_eq!(judge(exited(2)), Some(ExitCode));
        assert_eq!(judge(exited(126)), Some(ExitCode));
        assert_eq!(judge(killed(15, Ending::Itself)), Some(Signal));
        for (by, kind) in [
            (Ending::Timeout, Timeout),
            (Ending::Silent, Silent),
            (Ending::OutputLimit, OutputLimit),
            (Ending::Cancelled, Cancelled),
            (Ending::Interrupted, Interrupted),
        ] {
            assert_eq!(judge(killed(15, by)), Some(kind));
            assert_eq!(judge(Ended { by, ..exited(0) }), Some(kind));
        }
        let words = format!("{} the end\n", "x".repeat(1000));
        let error = fault(exited(2), &nothing, &words).error;
        assert!(error.starts_with("the agent ended with exit status 2: …xx"));
        assert!(error.ends_with("x the end") && error.chars().count() < 400);
    }

    #[test]
    fn a_sentence_is_one_short_line_without_control_characters() {
        assert_eq!(line(" a\r\n\tb\u{2028}c  d\0\x07\x7f\u{9b}e "), "a b c d e");
        assert_eq!(line("\x1b]0;title\x07 \u{202e}x\u{2066}"), "]0;title x");
        let long = failed(json!({"api_error_status": 400, "result": "é\n".repeat(2000)}));
        let error = fault(exited(1), &events(&[&long]), "").error;
        assert!(
            error.starts_with("é é é") && error.ends_with("é …"),
            "{error}"
        );
        assert_eq!(error.chars().count(), SENTENCE_MAX + 1);
    }
}
