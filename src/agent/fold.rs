//! What the events of one attempt amount to, whatever the protocol: what it reports, and what a verdict
//! needs to know. Everything is pushed in and kept in bounded memory, whatever the agent writes.

use super::*;

/// Bounds on what is collected; an attempt that exceeds one loses the rest of that list, nothing else.
const EDITED_MAX: usize = 2000;
const DENIALS_MAX: usize = 100;
/// The longest path that is kept.
const PATH_MAX: usize = 4096;
/// The longest request of a refused tool that is kept.
const DENIAL_MAX: usize = 8 << 10;

/// What the events of an attempt told; texts keep at most [`TEXT_MAX`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// The final answer.
    pub answer: Option<String>,
    /// All text that the agent addressed to the person, in order.
    pub text: String,
    /// What is added up over the starts of a job.
    pub carried: Carried,
    /// The session's running total in US dollars.
    pub cost_usd: Option<f64>,
    /// The model.
    pub model: Option<String>,
    /// The agent's version.
    pub agent_version: Option<String>,
    /// The session, as the agent names it.
    pub session_id: Option<String>,
    /// The account's usage windows, as the agent last told them.
    pub windows: Vec<Window>,
    /// Whether the service gave an answer.
    pub answered: bool,
}

/// The closing `json` block of a final answer (SPEC 6), leniently read; absent is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Audit {
    /// 0 to 100.
    pub score: Option<f64>,
    /// The auditor's words.
    pub notes: Option<String>,
    /// Paths that the agent lists.
    pub artifacts: Vec<String>,
}

/// Reads the output of one attempt as it comes.
#[derive(Debug, Default)]
pub struct Fold {
    /// How the agent speaks.
    pub dialect: &'static Dialect,
    /// What it told so far; `text`, `answer` and `audit` are there after [`Fold::finish`].
    pub report: Report,
    /// The last whole result.
    pub result: Option<LastResult>,
    /// Whether a line that may have been a later result was cut, garbled, or too long to hold.
    pub result_lost: bool,
    /// Whether any whole event was written.
    pub has_events: bool,
    /// Whether the agent went to work after its last result.
    pub at_work: bool,
    /// Whether it waits by itself for the network, and did nothing else since.
    pub offline: bool,
    /// The end of a usage limit that is reached now: nothing went on since it was told.
    pub limit: Option<Wall>,
    /// What it said of its last failure, and the signs by which that is known.
    pub trouble: (String, Signs),
    /// The same for a request that the agent repeats by itself and that was not answered since.
    pub repeats: Option<(String, Signs)>,
    resumed: bool,
    lines: Lines,
    text: Capped,
    /// What was said since a tool was last used, which is the answer of an agent that names none.
    said: String,
    has_tasks: bool,
    is_scheduled: bool,
    /// What a hook said when it sent the agent back to work, and which hook refused or stopped the agent.
    feedback: Option<String>,
    blocked: Option<String>,
    /// The session's running total of usage: before this attempt, and now.
    total: (Option<Value>, Option<Value>),
    /// Id and path of edit calls that neither failed nor were denied.
    edits: Vec<(String, String)>,
}

impl Fold {
    /// Nothing heard yet; `resumed` tells whether the attempt goes on in an old session.
    pub fn new(dialect: &'static Dialect, resumed: bool) -> Fold {
        Fold {
            dialect,
            resumed,
            ..Fold::default()
        }
    }

    /// Takes the next bytes of output.
    pub fn feed(&mut self, bytes: &[u8]) {
        let Some(read) = self.dialect.read else {
            return self.text.push(&String::from_utf8_lossy(bytes));
        };
        let mut lines = std::mem::take(&mut self.lines);
        lines.feed(bytes, &mut |line| self.line(read, line));
        self.lines = lines;
    }

    /// Takes the file in which the agent tells why it failed, from its beginning; before
    /// [`Fold::finish`].
    pub fn witness(&mut self, bytes: &[u8]) {
        let Some((_, read)) = self.dialect.witness else {
            return;
        };
        let before = (self.at_work, self.result_lost, self.offline);
        // It tells the whole session's usage again, from its beginning.
        self.total = (Some(json!({})), None);
        Lines::default().feed(bytes, &mut |line| self.line(read, line));
        (self.at_work, self.result_lost, self.offline) = before;
    }

    /// The output is complete.
    pub fn finish(&mut self) {
        let mut lines = std::mem::take(&mut self.lines);
        if let Some(read) = self.dialect.read {
            lines.finish(&mut |line| self.line(read, line));
        }
        self.report.text = std::mem::take(&mut self.text).into_text();
        if self.dialect.read.is_none() {
            self.answer(&self.report.text.clone());
        }
        let (before, now) = std::mem::take(&mut self.total);
        if now.is_some() && (!self.resumed || before.is_some()) {
            let mut used = now.unwrap_or_default();
            join(&mut used, before.unwrap_or_default(), u64::saturating_sub);
            self.report.carried.usage = Some(used);
        }
        let edited = std::mem::take(&mut self.edits).into_iter();
        self.report.carried.edited = edited.map(|(_, path)| path).collect();
    }

    /// The answer, where it stands in a file of its own; blank is none.
    pub fn answer(&mut self, text: &str) {
        self.report.answer = Some(text.trim().to_owned()).filter(|text| !text.is_empty());
    }

    /// Whether something of its own is to wake it for another turn.
    pub fn is_pending(&self) -> bool {
        self.has_tasks || self.is_scheduled
    }

    /// Whether the agent wrote a result, did not go to work again, and waits for nothing of its own.
    pub fn is_final(&self) -> bool {
        self.result.is_some() && !self.at_work && !self.result_lost && !self.is_pending()
    }

    /// Which hook refused or stopped it, and the hook's words.
    pub fn blocked(&self) -> Option<String> {
        let feedback = self.feedback.as_ref().map(|said| format!(": {said}"));
        Some(self.blocked.clone()? + &feedback.unwrap_or_default())
    }

    fn line(&mut self, read: Read, line: &str) {
        events(line, read, &mut |event| self.take(event));
    }

    fn take(&mut self, event: Event<'_>) {
        if !matches!(event, Event::Plain(_) | Event::Lost) {
            self.has_events = true;
            self.offline = matches!(event, Event::Offline(_));
        }
        match event {
            Event::Session(session) => self.session(session),
            Event::Turn(answered) => self.turn(answered),
            Event::Say(text) => self.say(&text, true),
            Event::More(text) => self.say(&text, self.said.is_empty()),
            Event::Aside(_) => self.report.answered = true,
            Event::Call(id, _, _, path) => self.call(id, path),
            Event::Answer(id, _, true) => self.edits.retain(|(call, _)| *call != id),
            Event::Denied(denial) => {
                self.edits
                    .retain(|(call, _)| denial["tool_use_id"] != **call);
                // The result lists denials again, together with what the tools were asked to do.
                if self.result.is_none() {
                    self.deny(denial);
                }
            }
            Event::Total(now) => self.total.1 = Some(now),
            Event::Limit(until) => self.limit = until,
            Event::Windows(windows) => self.report.windows = windows,
            Event::Retry(text, signs) => self.repeats = Some((text, signs)),
            Event::Pending(some) => self.has_tasks = some,
            Event::Scheduled => self.is_scheduled = true,
            Event::Feedback(said) => self.feedback = Some(said),
            Event::Blocked(by) => drop(self.blocked.get_or_insert(by)),
            Event::Trouble(text, signs) => {
                self.at_work = true;
                self.trouble = (text, signs);
            }
            Event::Result(result) => self.result_is(*result),
            Event::Lost => self.result_lost = true,
            Event::Answer(..) | Event::Offline(_) | Event::Plain(_) => {}
        }
    }

    fn session(&mut self, session: Session) {
        let report = &mut self.report;
        report.model = session.model.or(report.model.take());
        report.agent_version = session.version.or(report.agent_version.take());
        report.session_id = session.id.or(report.session_id.take());
        if !session.failed_servers.is_empty() {
            report.carried.failed_mcp_servers = session.failed_servers;
        }
        self.total.0 = self.total.1.clone().or(self.total.0.take());
        (self.is_scheduled, self.blocked, self.feedback) = (false, None, None);
        self.trouble = Default::default();
        self.at_work = true;
    }

    fn turn(&mut self, answered: bool) {
        self.at_work = true;
        if answered {
            // The model answers, so whatever stood in the way is over.
            (self.report.answered, self.limit, self.repeats) = (true, None, None);
            self.trouble = Default::default();
        }
    }

    /// It says something; `anew` if that does not go on with what it said last.
    fn say(&mut self, text: &str, anew: bool) {
        self.turn(true);
        if anew {
            self.said.clear();
        }
        if anew && !self.text.is_empty() && !text.is_empty() {
            self.text.push("\n\n");
        }
        self.text.push(text);
        if self.said.len() <= TEXT_MAX {
            self.said.push_str(text);
        }
    }

    fn call(&mut self, id: String, path: Option<String>) {
        self.report.answered = true;
        self.said.clear();
        let path = path.filter(|path| path.len() <= PATH_MAX && self.edits.len() < EDITED_MAX);
        self.edits.extend(path.map(|path| (id, path)));
    }

    fn deny(&mut self, mut denial: Value) {
        let size = denial.to_string().len();
        let Value::Object(fields) = &mut denial else {
            return;
        };
        if size > DENIAL_MAX {
            // The tool's name is worth more than all that the tool was asked to do.
            fields.retain(|_, value| value.as_str().is_some_and(|text| text.len() < 256));
        }
        let denials = &mut self.report.carried.permission_denials;
        if denials.len() < DENIALS_MAX && !denials.contains(&denial) {
            denials.push(denial);
        }
    }

    /// Turns and usage are told per result, money as the session's running total.
    fn result_is(&mut self, mut result: LastResult) {
        let report = &mut self.report;
        let carried = &mut report.carried;
        carried.num_turns = sum(carried.num_turns, result.turns);
        carried.usage = sum_usage(carried.usage.take(), result.usage.take());
        report.cost_usd = result.cost_usd.or(report.cost_usd);
        let spoken = Some(std::mem::take(&mut self.said)).filter(|said| !said.trim().is_empty());
        report.answer = result.answer.take().or(spoken.filter(|_| result.good));
        if let Some(denials) = result.denials.take() {
            if self.result.is_none() {
                carried.permission_denials.clear();
            }
            denials.into_iter().for_each(|denial| self.deny(denial));
        }
        result.signs.names.append(&mut self.trouble.1.names);
        self.result = Some(result);
        (self.result_lost, self.at_work, self.repeats) = (false, false, None);
    }
}

/// Adds counts of which either may be unknown.
pub fn sum(before: Option<u64>, now: Option<u64>) -> Option<u64> {
    let known = [before, now].into_iter().flatten();
    known.reduce(u64::saturating_add)
}

/// Adds what a later start used to what earlier ones did: numbers are summed, objects member by member,
/// of anything else the last one counts. `null` is no news.
pub fn sum_usage(before: Option<Value>, now: Option<Value>) -> Option<Value> {
    let mut sum = before.unwrap_or_default();
    join(&mut sum, now.unwrap_or_default(), u64::saturating_add);
    Some(sum).filter(|sum| !sum.is_null())
}

/// Joins two objects of usage, each whole number by `count`, which adds or takes off. Numbers with a fraction are
/// only ever added: no agent whose totals are taken off tells any.
fn join(sum: &mut Value, more: Value, count: fn(u64, u64) -> u64) {
    match (sum, more) {
        (_, Value::Null) => {}
        (Value::Object(sum), Value::Object(more)) => {
            for (key, value) in more {
                join(sum.entry(key).or_insert(Value::Null), value, count);
            }
        }
        (sum @ Value::Number(_), more @ Value::Number(_)) => {
            *sum = match (sum.as_u64(), more.as_u64()) {
                (Some(a), Some(b)) => Value::from(count(a, b)),
                _ => Value::from(sum.as_f64().unwrap_or(0.0) + more.as_f64().unwrap_or(0.0)),
            };
        }
        (sum, more) => *sum = more,
    }
}

/// Finds the audit block of an answer: the last fenced block marked `json` that begins with an object with one
/// of the keys. Gives what stands before it, the audit, and what stands behind it.
pub fn audit(answer: &str) -> Option<(&str, Audit, &str)> {
    let lower = answer.to_ascii_lowercase();
    lower.rmatch_indices("```json").find_map(|(at, mark)| {
        let (audit, behind) = audit_object(&answer[at + mark.len()..])?;
        Some((&answer[..at], audit, behind))
    })
}

fn audit_object(source: &str) -> Option<(Audit, &str)> {
    let mut values = serde_json::Deserializer::from_str(source).into_iter();
    let block: Object<'_> = values.next()?.ok()?;
    let behind = source[values.byte_offset()..].trim_start();
    let keys = ["audit_score", "audit_notes", "artifacts"];
    let [score, notes, artifacts] = keys.map(|key| block.raw(key));
    let is_audit = !(score.is_empty() && notes.is_empty() && artifacts.is_empty());
    let audit = is_audit.then(|| Audit {
        score: block.number(keys[0]).map(|score| score.clamp(0.0, 100.0)),
        notes: text(notes),
        artifacts: block.items(keys[2]).into_iter().filter_map(text).collect(),
    })?;
    Some((audit, behind.trim_start_matches("```")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::dialect;
    use crate::project::Protocol;
    use serde_json::json;

    fn fixture(name: &str) -> Vec<u8> {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/claude");
        std::fs::read(format!("{dir}/{name}.jsonl")).unwrap()
    }

    fn read_in(pieces: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Fold {
        let mut fold = Fold::new(dialect(Protocol::Claude), false);
        for piece in pieces {
            fold.feed(piece.as_ref());
        }
        fold.finish();
        fold
    }

    /// A fold of these events, one per line.
    fn read(events: &[Value]) -> Fold {
        read_in(events.iter().map(|event| format!("{event}\n")))
    }

    fn text(text: &str) -> Value {
        json!({"type": "assistant", "parent_tool_use_id": null,
            "message": {"content": [{"type": "text", "text": text}]}})
    }

    fn call(id: &str, name: &str, path: &str) -> Value {
        let is_notebook = name == "NotebookEdit";
        let key = ["file_path", "notebook_path"][usize::from(is_notebook)];
        json!({"type": "assistant", "message": {"content": [
            {"type": "tool_use", "id": id, "name": name, "input": {"content": "x", key: path}}]}})
    }

    fn answer(id: &str, is_error: Value) -> Value {
        json!({"type": "user", "message": {"content": [
            {"type": "tool_result", "tool_use_id": id, "content": "...", "is_error": is_error}]}})
    }

    fn success(text: &str) -> Value {
        json!({"is_error": false, "subtype": "success", "result": text, "type": "result"})
    }

    #[test]
    fn it_does_not_matter_how_the_output_is_cut_into_pieces() {
        for name in ["tool-edit", "permission-denials", "sdk-stdin", "max-turns"] {
            let input = fixture(name);
            let whole = read_in([&input]);
            assert!(whole.is_final());
            for piece in (1..30).chain((30..input.len()).step_by(997)) {
                let pieces = read_in(input.chunks(piece));
                assert_eq!(pieces.report, whole.report, "{name} in pieces of {piece}");
                assert_eq!(pieces.result, whole.result);
                assert_eq!(pieces.is_final(), whole.is_final());
            }
        }
        let input = fixture("subscription-limit-5h");
        let whole = read_in([&input]);
        for split in 0..input.len() {
            let (head, tail) = input.split_at(split);
            let fold = read_in([head, tail]);
            assert_eq!(fold.report, whole.report, "split at {split}");
            assert_eq!(fold.result, whole.result);
            assert_eq!(fold.limit, whole.limit);
        }
    }

    #[test]
    fn several_results_are_summed_and_the_last_one_answers() {
        let result = |text: &str, turns: u64, cost: f64, usage: Value, denied: Value| {
            json!({"type": "result", "subtype": "success", "is_error": false, "result": text,
                "num_turns": turns, "total_cost_usd": cost, "usage": usage, "permission_denials": denied})
        };
        let denial = |id: &str| json!({"tool_name": "Bash", "tool_use_id": id, "tool_input": {"command": "x"}});
        let first = json!({"in": 10, "deep": {"a": 1, "b": 0.5}, "tier": "s", "gone": 4});
        let second = json!({"in": 5, "deep": {"a": 2, "b": 1, "c": 7}, "tier": "t", "gone": null});
        let fold = read(&[
            json!({"type": "system", "subtype": "permission_denied", "tool_name": "Bash", "tool_use_id": "a"}),
            result("first", 2, 0.5, first, json!([denial("a"), denial("b")])),
            text("more"),
            result(
                "second",
                3,
                0.75,
                second,
                json!([denial("b"), denial("c"), "nonsense"]),
            ),
        ]);
        let report = &fold.report;
        assert_eq!(report.answer.as_deref(), Some("second"));
        assert_eq!(report.carried.num_turns, Some(5));
        assert_eq!(report.cost_usd, Some(0.75));
        let usage = json!({"in": 15, "deep": {"a": 3, "b": 1.5, "c": 7}, "tier": "t", "gone": 4});
        assert_eq!(report.carried.usage, Some(usage));
        let denials = &report.carried.permission_denials;
        assert_eq!(*denials, ["a", "b", "c"].map(denial));
    }

    #[test]
    fn denials_are_known_without_a_result() {
        let input = fixture("permission-denials");
        let fold = read_in([&input[..input.len() - 400]]);
        assert!(fold.result.as_ref().is_none());
        let whole = read_in([&input]).report.carried.permission_denials;
        let part = &fold.report.carried.permission_denials;
        let name = |denial: &Value| denial["tool_name"].clone();
        let names = |list: &[Value]| list.iter().map(name).collect::<Vec<_>>();
        assert_eq!(names(part), names(&whole));
        assert_eq!(whole[0]["tool_input"], json!({"command": "cargo test"}));
    }

    #[test]
    fn a_refused_request_of_many_small_strings_is_reduced_to_its_name() {
        let input = json!({"todos": vec!["x"; 10_000]});
        let fold = read(&[json!({"type": "result", "permission_denials":
            [{"tool_name": "T", "tool_use_id": "a", "tool_input": input}]})]);
        let denials = fold.report.carried.permission_denials;
        assert_eq!(denials, [json!({"tool_name": "T", "tool_use_id": "a"})]);
        // What is no object tells nothing, however long it is.
        let fold = read(&[json!({"type": "result", "permission_denials": ["x".repeat(10_000)]})]);
        assert!(fold.report.carried.permission_denials.is_empty());
    }

    #[test]
    fn of_very_many_refused_requests_the_first_are_kept() {
        let many: Vec<Value> = (0..1000).map(|n| json!({"tool_use_id": n})).collect();
        let fold = read(&[json!({"type": "result", "permission_denials": many})]);
        assert_eq!(fold.report.carried.permission_denials, many[..DENIALS_MAX]);
    }

    #[test]
    fn only_edits_that_succeeded_count() {
        let mut subagent = call("4", "Edit", "sub.rs");
        subagent["parent_tool_use_id"] = json!("toolu_task");
        let fold = read(&[
            call("1", "Write", "a.rs"),
            call("2", "Edit", "b.rs"),
            call("3", "NotebookEdit", "c.ipynb"),
            subagent,
            call("5", "Read", "d.rs"),
            call("6", "MultiEdit", "e.rs"),
            json!({"type": "system", "subtype": "permission_denied", "tool_use_id": "6"}),
            answer("1", json!(null)),
            answer("2", json!(true)),
            answer("3", json!(false)),
            answer("4", json!(false)),
            answer("5", json!(false)),
            answer("6", json!(false)),
        ]);
        assert_eq!(fold.report.carried.edited, ["a.rs", "c.ipynb", "sub.rs"]);
        let edited = |name: &str| read_in([fixture(name)]).report.carried.edited;
        assert_eq!(edited("permission-denials"), ["ok.txt"]);
        assert_eq!(edited("tool-edit"), ["/project/src.txt"]);
    }

    #[test]
    fn edits_are_bounded() {
        let calls = (0..2 * EDITED_MAX).map(|i| call(&i.to_string(), "Write", "a"));
        let fold = read(&calls.collect::<Vec<_>>());
        assert_eq!(fold.report.carried.edited.len(), EDITED_MAX);
    }

    #[test]
    fn the_text_is_what_the_main_conversation_said() {
        let mut subagent = text("from below");
        subagent["parent_tool_use_id"] = json!("toolu_1");
        let mut synthetic = text("API Error: 529");
        synthetic["is_api_error_message"] = json!(true);
        // The flag is the CLI's own affair; the class is told to everybody.
        let mut public = text("You've hit your limit");
        public["error"] = json!("rate_limit");
        let [one, two] = ["one", "two"].map(text);
        let fold = read(&[one, subagent, text(""), two, synthetic, public]);
        assert_eq!(fold.report.text, "one\n\ntwo");
        let multi = read_in([fixture("multi-turn")]).report;
        let told = "Step 1 of 3.\n\nStep 2 of 3.\n\nStep 3 of 3.\n\nThe task is done.";
        assert_eq!(multi.text, told);
        assert_eq!(multi.carried.num_turns, Some(4));
        assert_eq!(multi.model.as_deref(), Some("claude-opus-5-5"));
        assert_eq!(multi.agent_version.as_deref(), Some("2.1.328"));
        assert_eq!(multi.session_id.as_deref().map(str::len), Some(36));
        assert_eq!(multi.carried.usage.unwrap()["input_tokens"], 400);
    }

    #[test]
    fn a_run_is_final_until_the_agent_works_again() {
        let mut subagent = text("x");
        subagent["parent_tool_use_id"] = json!("toolu_1");
        let trailing = json!({"type": "system", "subtype": "task_notification"});
        let init = json!({"type": "system", "subtype": "init"});
        let (x, done) = (text("x"), success("x"));
        let again = [
            done.clone(),
            init.clone(),
            text("y"),
            success("y"),
            trailing.clone(),
        ];
        for (events, is_final) in [
            (&[x.clone()][..], false),
            (&[x, done.clone(), trailing, subagent, json!([1])], true),
            (&[done.clone(), init], false),
            (&[done.clone(), text("y")], false),
            (&[done, answer("1", json!(false))], false),
            (&again, true),
        ] {
            assert_eq!(read(events).is_final(), is_final, "{events:?}");
        }
        assert!(read_in([fixture("sigterm-after-result")]).is_pending());
        assert!(read_in([fixture("sdk-stdin")]).is_final());
    }

    #[test]
    fn a_line_that_may_have_been_a_result_is_missed() {
        let again = success("again").to_string();
        let long = format!("{{\"x\":[{}]}}\n", "\"abc\",".repeat(3 << 20));
        for (line, lost) in [
            (r#"{"type":"result","subtype":"succ"#, true),
            (r#"{"duration_api_ms":5,"stop_reason":"en"#, true),
            (&*long, true),
            ("{\"type\":\"result\",\"result\":\"x\"} garbage\n", true),
            (r#"{"type":"system","subtype":"task_notif"#, true),
            ("srun: job step ended", false),
            (
                "{not json}\n[1,2]\n17\n\"type\"\n{\"type\":5}\n{\"level\":\"info\"}\n",
                false,
            ),
            (&format!("{{\"type\":\"result\",\n{again}\n"), false),
        ] {
            let fold = read_in([format!("{}\n{line}", success("x"))]);
            let start: String = line.chars().take(40).collect();
            assert_eq!(fold.result_lost, lost, "{start}");
        }
    }

    #[test]
    fn fields_of_unexpected_types_spoil_nothing() {
        let fold = read_in([r#"
{"type":"system","subtype":"init","model":5,"claude_code_version":["x"],"session_id":"s","skills":"none","slash_commands":[1,"a",null]}
{"type":"assistant","parent_tool_use_id":null,"message":"text"}
{"type":"assistant","message":{"content":"text"}}
{"type":"assistant","message":{"content":[5,{"type":7},{"type":"text","text":{}},{"type":"text","text":"kept"},{"type":"tool_use","name":"Write","id":5,"input":"x"}]}}
{"type":"user","message":17}
{"type":"rate_limit_event","rate_limit_info":[]}
{"type":{"a":1}}
{"usage":"none","num_turns":"3","total_cost_usd":null,"permission_denials":{},"errors":"x","api_error_status":"529","is_error":false,"type":"result","type":"result","stop_reason":7,"result":"fine","subtype":"success"}
"#]);
        let report = &fold.report;
        assert_eq!(report.model, None);
        assert_eq!(report.session_id.as_deref(), Some("s"));
        assert_eq!(report.text, "kept");
        assert_eq!((report.carried.num_turns, report.cost_usd), (Some(3), None));
        assert_eq!(report.carried.usage, None);
        assert_eq!(report.answer.as_deref(), Some("fine"));
        let result = fold.result.as_ref().unwrap();
        assert_eq!((result.signs.status, result.good), (Some(529), true));
    }

    #[test]
    fn nesting_however_deep_does_no_harm() {
        let deep = "[".repeat(200_000) + &"]".repeat(200_000);
        let lines = r#"{"type":"user","message":DEEP}
{"usage":{"a":DEEP},"type":"result","permission_denials":[DEEP],"result":"x"}
"#;
        let fold = read_in([lines.replace("DEEP", &deep)]);
        assert_eq!(fold.report.answer.as_deref(), Some("x"));
        assert_eq!(fold.report.carried.usage, None);
    }

    #[test]
    fn a_usage_limit_holds_until_something_goes_on() {
        let event = |status: &str, at: Value| json!({"type": "rate_limit_event", "rate_limit_info": {"status": status, "resetsAt": at}});
        const AT: i64 = 1_795_173_825;
        let rejected = event("rejected", json!(AT));
        for (events, limit) in [
            (&[rejected.clone()][..], Some(AT)),
            (
                &[rejected.clone(), event("rejected", json!(null))],
                Some(AT),
            ),
            (&[event("rejected", json!("soon"))], None),
            (&[event("allowed", json!(AT))], None),
            (&[rejected.clone(), event("allowed", json!(5))], None),
            (&[rejected, text("on it goes")], None),
        ] {
            let found = read(events).limit.map(|at| at.secs());
            assert_eq!(found, limit, "{events:?}");
        }
        assert_eq!(read_in([fixture("subscription-limit-waited")]).limit, None);
    }

    #[test]
    fn the_audit_block_is_the_last_json_block_that_is_one() {
        let audit = |answer: &str| audit(answer).map_or(Audit::default(), |(_, audit, _)| audit);
        let block = |json: &str| audit(&format!("Done.\n\n```json\n{json}\n```\n"));
        let full =
            block(r#"{"audit_score": 92.5, "audit_notes": "fine", "artifacts": ["a", 5, "b"]}"#);
        assert_eq!(full.score, Some(92.5));
        assert_eq!(full.notes.as_deref(), Some("fine"));
        assert_eq!(full.artifacts, ["a", "b"]);
        for (score, read) in [("\"88\"", 88.0), ("120", 100.0), ("-3", 0.0)] {
            let audit = block(&format!("{{\"audit_score\": {score}}}"));
            assert_eq!(audit.score, Some(read), "{score}");
        }
        for none in [
            r#"{"audit_score": "good", "audit_notes": 5}"#,
            r#"{"audit_score": 92,}"#,
            r#"{"name": "package"}"#,
        ] {
            assert_eq!(block(none), Audit::default(), "{none}");
        }
        assert_eq!(audit("no block {\"audit_score\": 5}"), Audit::default());

        let two = "```json\n{\"audit_score\":1}\n```\n```json\n{\n\"audit_score\":\n2}\n ```\n```json\n[]\n```\n\
            ```json\n{\"name\":\"x\"}\n```";
        assert_eq!(audit(two).score, Some(2.0));
        let python = "```python\nx\n```\n```\n{\"audit_score\": 3}\n```";
        assert_eq!(audit(python), Audit::default());
        let cut = "```rust\nfn main … [9 bytes left out] … ait\n```json\n{\"audit_score\": 4}";
        assert_eq!(audit(cut).score, Some(4.0));
        let words =
            "```JSON\n{\"audit_score\": 5, \"audit_notes\": \"use ```sh\"} Well done.\n```\nBye.";
        assert_eq!(audit(words).score, Some(5.0));
    }

    #[test]
    fn the_audit_is_read_from_a_final_answer_only() {
        let block = "```json\n{\"audit_score\": 4}\n```";
        let score = |events: &[Value]| audit(read(events).report.answer.as_deref()?)?.1.score;
        assert_eq!(score(&[text(block), success(block)]), Some(4.0));
        assert_eq!(score(&[text(block), success("done")]), None);
        let mut failed = success(block);
        failed["is_error"] = json!(true);
        assert_eq!(read(&[failed]).report.answer, None);
        let long = "x".repeat(3 * TEXT_MAX) + "\n" + block;
        assert_eq!(score(&[success(&long)]), Some(4.0));
    }

    #[test]
    fn of_a_thread_s_running_total_an_attempt_used_the_difference() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/codex");
        let usage = |name: &str, resumed, with_rollout| {
            let mut fold = Fold::new(dialect(Protocol::Codex), resumed);
            fold.feed(&std::fs::read(format!("{dir}/{name}.jsonl")).unwrap());
            if with_rollout {
                fold.witness(&std::fs::read(format!("{dir}/{name}.rollout.jsonl")).unwrap());
            }
            fold.finish();
            fold.report.carried.usage?["input_tokens"].as_u64()
        };
        assert_eq!(usage("text", false, true), Some(1200));
        assert_eq!(usage("text", false, false), Some(1200));
        assert_eq!(usage("resume_after_limit_1", false, true), Some(1200));
        // Before, it had used nothing: its first start was cut off before the service told.
        assert_eq!(usage("text", true, true), Some(1200));
        // The thread's total is 2400.
        assert_eq!(usage("resume_after_limit_2", true, true), Some(1200));
        assert_eq!(usage("resume_after_limit_2", true, false), None);
    }

    #[test]
    fn a_warning_of_codex_is_no_answer_of_its_service() {
        let answered = |kind: &str| {
            let mut fold = Fold::new(dialect(Protocol::Codex), false);
            let item = json!({"type": "item.completed", "item": {"id": "1", "type": kind}});
            fold.feed(format!("{item}\n").as_bytes());
            fold.report.answered
        };
        assert!(!answered("error") && answered("reasoning"));
    }
}
