//! Events of an agent's stream-json become what the agent reported and what the verdict needs
//! ([`Stream`]). Everything is pushed in and kept in bounded memory, whatever the agent writes.
//! Nothing here does I/O, looks at a clock, or judges; `verdict` does that.

use super::json::{each_item, number, parse, pick, pick_into, word};
use super::lines::{Capped, Line, Lines, floor, left_out};
use super::{Audit, Report};
use crate::time::Wall;
use serde_json::Value;

/// Bounds on what is collected over a whole run; a job that exceeds one of them loses the rest
/// of that list and nothing else.
const NAMES_MAX: usize = 1000;
const EDITED_MAX: usize = 2000;
const DENIALS_MAX: usize = 100;
/// Edit calls whose outcome is not known yet; the oldest is forgotten.
const OPEN_MAX: usize = 200;
/// The longest path that is kept.
const PATH_MAX: usize = 4096;
/// The longest string in what a refused tool was asked to do, and the longest such request.
const INPUT_MAX: usize = 2 << 10;
const DENIAL_MAX: usize = 8 << 10;
/// The longest `usage` object that is added up.
const USAGE_MAX: usize = 64 << 10;
/// How much of an error's own text is kept.
const ERROR_MAX: usize = 4 << 10;

/// The tools that change files, whose `file_path` or `notebook_path` counts as edited.
const EDIT_TOOLS: [&str; 4] = ["Write", "Edit", "MultiEdit", "NotebookEdit"];

/// Reads the output of one attempt as it comes.
///
/// Every field is read leniently: one of an unexpected type counts as absent and spoils nothing
/// around it. Events of unknown kinds, and lines that are no JSON objects, are skipped.
#[derive(Debug, Default)]
pub struct Stream {
    /// What the output told so far; `text` and `audit` are there after [`Stream::finish`].
    pub report: Report,
    lines: Lines,
    text: Capped,
    seen_event: bool,
    result: Option<LastResult>,
    result_lost: bool,
    at_work: bool,
    trouble: Option<Trouble>,
    limit: Option<Wall>,
    commands: Option<Vec<String>>,
    /// Id and path of edit calls that were not answered yet.
    open_edits: Vec<(String, String)>,
}

/// The last `result` event: what a verdict is about.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LastResult {
    /// `success`, also for an API failure, or `error_*`.
    pub subtype: Option<String>,
    /// The flag that, with `subtype`, tells success; absent if it was no boolean.
    pub is_error: Option<bool>,
    /// The beginning of its text: `result`, or else its `errors`. Empty if that is blank.
    pub text: String,
    /// Why the agent stopped.
    pub terminal_reason: Option<String>,
    /// Why the model stopped.
    pub stop_reason: Option<String>,
    /// The HTTP status of the answer that made it fail.
    pub status: Option<u64>,
    /// The agent's own name of the failure: `connection_failed`, `usage_limit_reached`.
    pub api_error: Option<String>,
    /// The service's name of the failure: `overloaded_error`.
    pub api_error_type: Option<String>,
    /// The class of the failure, from the synthetic message before the result: `rate_limit`.
    pub class: Option<String>,
}

/// What a synthetic assistant message told about an API failure.
#[derive(Debug, Default)]
struct Trouble {
    class: Option<String>,
    api_error: Option<String>,
    stop_reason: Option<String>,
}

impl Stream {
    /// Takes the next bytes of output.
    pub fn feed(&mut self, bytes: &[u8]) {
        let mut lines = std::mem::take(&mut self.lines);
        lines.feed(bytes, |line| self.line(line));
        self.lines = lines;
    }

    /// The output is complete.
    pub fn finish(&mut self) {
        let mut lines = std::mem::take(&mut self.lines);
        lines.finish(|line| self.line(line));
        if !self.text.is_empty() {
            self.report.text = std::mem::take(&mut self.text).into_text();
        }
        self.report.audit = self.report.answer.as_deref().map(audit).unwrap_or_default();
    }

    /// The last whole `result`.
    pub fn result(&self) -> Option<&LastResult> {
        self.result.as_ref()
    }

    /// Whether a line that may have been a later `result` than [`Stream::result`] was cut,
    /// garbled, or too long to hold.
    pub fn is_result_lost(&self) -> bool {
        self.result_lost
    }

    /// Whether any whole event was written.
    pub fn has_events(&self) -> bool {
        self.seen_event
    }

    /// Whether the agent wrote a result and did not go to work again since. It may do so when
    /// something that it left running in the background ends.
    pub fn is_final(&self) -> bool {
        self.result.is_some() && !self.at_work && !self.result_lost
    }

    /// The end of a usage limit that is reached now: nothing went on since it was told.
    pub fn limit(&self) -> Option<Wall> {
        self.limit
    }

    /// Whether the session knows the skill or slash command; unknown before its `init` event.
    pub fn has_command(&self, name: &str) -> Option<bool> {
        self.commands
            .as_ref()
            .map(|names| names.iter().any(|known| known == name))
    }

    fn line(&mut self, line: Line<'_>) {
        match line {
            Line::Whole(json) => self.event(json),
            Line::TooLong(start) | Line::Cut(start) => self.lose(start),
        }
    }

    /// A line that cannot be read matters only if it may have been a result. As the order of
    /// keys is not fixed, the absence of a `type` is no proof that it was none.
    fn lose(&mut self, start: &str) {
        let mut kind = [None];
        pick_into(start, ["type"], &mut kind);
        let may_be_result = kind[0].and_then(word).is_none_or(|kind| kind == "result");
        self.result_lost |= may_be_result && start.trim_ascii_start().starts_with("{\"");
    }

    fn event(&mut self, json: &str) {
        if !json.trim_ascii_start().starts_with('{') {
            return;
        }
        const KEYS: [&str; 5] = [
            "type",
            "subtype",
            "parent_tool_use_id",
            "message",
            "is_api_error_message",
        ];
        let Some([kind, subtype, parent, message, failed]) = pick(json, KEYS) else {
            return self.lose(json);
        };
        let Some(kind) = kind.and_then(word) else {
            return;
        };
        let subtype = subtype.and_then(word).unwrap_or_default();
        let main = parent.is_none_or(|id| id == "null");
        self.seen_event = true;
        // A new turn opens with an `init` of its own.
        self.at_work |= match kind.as_str() {
            "assistant" | "user" | "stream_event" => main,
            "system" => subtype == "init",
            _ => false,
        };
        match (kind.as_str(), subtype.as_str()) {
            ("system", "init") => self.init(json),
            ("system", "permission_denied") => self.denied(json),
            ("assistant", _) if failed == Some("true") => self.api_error(json, main),
            ("assistant", _) => self.assistant(message.unwrap_or_default(), main),
            ("user", _) => self.tool_results(message.unwrap_or_default()),
            ("rate_limit_event", _) => self.rate_limit(json),
            ("result", _) => self.take_result(json),
            _ => {}
        }
    }

    fn init(&mut self, json: &str) {
        let keys = [
            "model",
            "claude_code_version",
            "session_id",
            "skills",
            "slash_commands",
        ];
        let [model, version, session, skills, commands] = pick(json, keys).unwrap_or_default();
        let report = &mut self.report;
        report.model = model.and_then(word).or(report.model.take());
        report.agent_version = version.and_then(word).or(report.agent_version.take());
        report.session_id = session.and_then(word).or(report.session_id.take());
        let mut names = Vec::new();
        for list in [skills, commands].into_iter().flatten() {
            each_item(list, |name| {
                if names.len() < NAMES_MAX {
                    names.extend(word(name));
                }
            });
        }
        self.commands = Some(names);
    }

    /// Until a result brings the agent's own list, with what the tools were asked to do.
    fn denied(&mut self, json: &str) {
        let keys = ["tool_name", "tool_use_id", "message"];
        let [name, id, message] = pick(json, keys).unwrap_or_default();
        if let Some(id) = id.and_then(word) {
            self.open_edits.retain(|(open, _)| *open != id);
        }
        if self.result.is_none() {
            let members = keys.into_iter().zip([name, id, message]);
            let denial =
                members.filter_map(|(key, json)| Some((key, json.and_then(parse::<Value>)?)));
            let denial = denial.map(|(key, value)| (key.to_owned(), value)).collect();
            self.add_denial(Value::Object(denial));
        }
    }

    fn add_denial(&mut self, mut denial: Value) {
        shorten(&mut denial);
        if denial.to_string().len() > DENIAL_MAX {
            // Thousands of small strings: which tool it was is worth more than all of them.
            let keys = ["tool_name", "tool_use_id"];
            let members = keys.map(|key| (key.to_owned(), denial[key].take()));
            denial = Value::Object(members.into_iter().collect());
        }
        let id = |denial: &Value| denial.get("tool_use_id").cloned();
        let denials = &mut self.report.permission_denials;
        let known = denials
            .iter()
            .any(|one| *one == denial || id(one).is_some() && id(one) == id(&denial));
        if !known && denials.len() < DENIALS_MAX {
            denials.push(denial);
        }
    }

    /// A message that the agent made up to tell of an API failure: it is no part of the answer.
    fn api_error(&mut self, json: &str, main: bool) {
        let keys = ["error", "api_error", "api_error_params", "message"];
        let [class, api_error, params, message] = pick(json, keys).unwrap_or_default();
        if main {
            self.limit = params.and_then(rejected_until).or(self.limit);
            let stop_reason = message.and_then(|json| pick(json, ["stop_reason"]));
            self.trouble = Some(Trouble {
                class: class.and_then(word),
                api_error: api_error.and_then(word),
                stop_reason: stop_reason.and_then(|[reason]| word(reason?)),
            });
        }
    }

    fn assistant(&mut self, message: &str, main: bool) {
        let [content] = pick(message, ["content"]).unwrap_or_default();
        if main {
            // The model answers, so whatever stood in the way is over.
            self.trouble = None;
            self.limit = None;
        }
        each_item(content.unwrap_or_default(), |block| {
            let keys = ["type", "text", "name", "id", "input"];
            let [kind, text, name, id, input] = pick(block, keys).unwrap_or_default();
            match kind.and_then(word).as_deref() {
                Some("text") if main => self.say(text.and_then(parse::<String>)),
                Some("tool_use") => self.open_edit(name, id, input),
                _ => {}
            }
        });
    }

    fn say(&mut self, text: Option<String>) {
        let text = text.unwrap_or_default();
        if !text.is_empty() {
            let gap = if self.text.is_empty() { "" } else { "\n\n" };
            self.text.push(gap);
            self.text.push(&text);
        }
    }

    fn open_edit(&mut self, name: Option<&str>, id: Option<&str>, input: Option<&str>) {
        let is_edit = name
            .and_then(word)
            .is_some_and(|name| EDIT_TOOLS.contains(&name.as_str()));
        if !is_edit {
            return;
        }
        let [file, notebook] = input
            .and_then(|json| pick(json, ["file_path", "notebook_path"]))
            .unwrap_or_default();
        let path = file
            .and_then(parse::<String>)
            .or(notebook.and_then(parse::<String>));
        if let (Some(id), Some(path)) = (id.and_then(word), path)
            && path.len() <= PATH_MAX
        {
            if self.open_edits.len() == OPEN_MAX {
                self.open_edits.remove(0);
            }
            self.open_edits.push((id, path));
        }
    }

    fn tool_results(&mut self, message: &str) {
        // Most of what agents write is the output of tools; it is not even looked at.
        if self.open_edits.is_empty() {
            return;
        }
        let [content] = pick(message, ["content"]).unwrap_or_default();
        each_item(content.unwrap_or_default(), |block| {
            let [id, is_error] = pick(block, ["tool_use_id", "is_error"]).unwrap_or_default();
            let id = id.and_then(word);
            let open = self
                .open_edits
                .iter()
                .position(|(open, _)| Some(open) == id.as_ref());
            if let Some(open) = open {
                let (_, path) = self.open_edits.remove(open);
                let edited = &mut self.report.edited;
                let failed = is_error == Some("true");
                if !failed && edited.len() < EDITED_MAX && !edited.contains(&path) {
                    edited.push(path);
                }
            }
        });
    }

    fn rate_limit(&mut self, json: &str) {
        // Any other status lifts the limit; a rejection without a time is one of those that are
        // "not your usage limit" and says nothing about it.
        let [info] = pick(json, ["rate_limit_info"]).unwrap_or_default();
        let status = info.and_then(|info| word(pick(info, ["status"])?[0]?));
        let is_rejected = status.as_deref() == Some("rejected");
        self.limit = rejected_until(json).or(self.limit.filter(|_| is_rejected));
    }

    fn take_result(&mut self, json: &str) {
        const KEYS: [&str; 15] = [
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
            "session_id",
        ];
        let picked = pick(json, KEYS).unwrap_or_default();
        let [
            subtype,
            is_error,
            result,
            errors,
            terminal_reason,
            stop_reason,
            status,
            ..,
        ] = picked;
        let [
            ..,
            api_error,
            api_error_type,
            params,
            turns,
            cost,
            usage,
            denials,
            session,
        ] = picked;

        let answer = result.and_then(parse::<String>);
        let mut text = answer.as_deref().unwrap_or_default().trim().to_owned();
        if text.is_empty() {
            each_item(errors.unwrap_or_default(), |error| {
                if text.len() < ERROR_MAX {
                    let gap = if text.is_empty() { "" } else { "; " };
                    text = text.clone() + gap + &parse::<String>(error).unwrap_or_default();
                }
            });
        }
        text.truncate(floor(&text, ERROR_MAX));
        text.shrink_to_fit();

        let trouble = self.trouble.take().unwrap_or_default();
        let is_error = is_error.and_then(parse::<bool>);
        self.limit = params.and_then(rejected_until).or(self.limit);
        self.add_up(turns, cost, usage);
        if self.report.session_id.is_none() {
            self.report.session_id = session.and_then(word);
        }
        if let Some(list) = denials.filter(|list| list.starts_with('[')) {
            if self.result.is_none() {
                self.report.permission_denials.clear();
            }
            each_item(list, |denial| {
                if let Some(denial @ Value::Object(_)) = parse(denial) {
                    self.add_denial(denial);
                }
            });
        }
        // The text of a failure is the error's, not an answer.
        self.report.answer = answer.filter(|_| is_error != Some(true));
        self.result = Some(LastResult {
            subtype: subtype.and_then(word),
            is_error,
            text,
            terminal_reason: terminal_reason.and_then(word),
            stop_reason: stop_reason.and_then(word).or(trouble.stop_reason),
            status: status.and_then(number).map(|status| status as u64),
            api_error: api_error.and_then(word).or(trouble.api_error),
            api_error_type: api_error_type.and_then(word),
            class: trouble.class,
        });
        self.result_lost = false;
        self.at_work = false;
    }

    /// Turns and usage are told per result, money as the session's running total.
    fn add_up(&mut self, turns: Option<&str>, cost: Option<&str>, usage: Option<&str>) {
        let report = &mut self.report;
        if let Some(turns) = turns.and_then(number) {
            report.num_turns = Some(report.num_turns.unwrap_or(0).saturating_add(turns as u64));
        }
        report.cost_usd = cost.and_then(number).or(report.cost_usd);
        let usage = usage.filter(|json| json.starts_with('{') && json.len() <= USAGE_MAX);
        if let Some(more) = usage.and_then(parse::<Value>) {
            add(report.usage.get_or_insert(Value::Null), more);
        }
    }
}

/// The end of a usage limit, from an object with a `rate_limit_info` that says `rejected`.
fn rejected_until(json: &str) -> Option<Wall> {
    let [info] = pick(json, ["rate_limit_info"])?;
    let [status, resets_at] = pick(info?, ["status", "resetsAt"])?;
    let at = number(resets_at?)?;
    // Seconds; a number that would be 5000 years away can only be milliseconds.
    let secs = if at < 1e11 { at } else { at / 1000.0 };
    (word(status?)? == "rejected" && secs > 0.0).then(|| Wall::from_secs(secs as i64))
}

/// Adds `more` to `sum`: numbers are summed, objects member by member, of anything else the
/// last one counts. `null` is no news.
pub(super) fn add(sum: &mut Value, more: Value) {
    match (sum, more) {
        (_, Value::Null) => {}
        (Value::Object(sum), Value::Object(more)) => {
            for (key, value) in more {
                add(sum.entry(key).or_insert(Value::Null), value);
            }
        }
        (sum @ Value::Number(_), Value::Number(more)) => {
            *sum = match (sum.as_u64(), more.as_u64()) {
                (Some(a), Some(b)) => Value::from(a.saturating_add(b)),
                (a, b) => {
                    let float = |int: Option<u64>, value: &Value| {
                        int.map_or(value.as_f64().unwrap_or(0.0), |int| int as f64)
                    };
                    Value::from(float(a, sum) + float(b, &Value::Number(more)))
                }
            };
        }
        (sum, more) => *sum = more,
    }
}

/// Shortens the strings in what a tool was asked to do.
fn shorten(value: &mut Value) {
    match value {
        Value::String(text) if text.len() > INPUT_MAX => {
            let keep = floor(text, INPUT_MAX);
            let note = left_out(text.len() - keep);
            text.truncate(keep);
            text.push_str(note.trim_end());
            text.shrink_to_fit();
        }
        Value::Array(items) => items.iter_mut().for_each(shorten),
        Value::Object(members) => members.values_mut().for_each(shorten),
        _ => {}
    }
}

/// Finds the audit block: the last fenced block marked `json` that holds an object with one of
/// the keys. An opening fence counts wherever it stands, as an answer that lost its middle may
/// have lost the end of the block before; so does a block that nothing closes.
fn audit(answer: &str) -> Audit {
    let mut found = None;
    let mut block: Option<String> = None;
    for line in answer.lines() {
        match line
            .trim()
            .strip_prefix("```")
            .map(|rest| rest.trim_start_matches('`').trim())
        {
            Some(info) => {
                found = block.take().as_deref().and_then(audit_object).or(found);
                let is_json = info
                    .get(..4)
                    .is_some_and(|start| start.eq_ignore_ascii_case("json"));
                block = is_json.then(String::new);
            }
            None => {
                if let Some(block) = &mut block {
                    block.push_str(line);
                    block.push('\n');
                }
            }
        }
    }
    block
        .as_deref()
        .and_then(audit_object)
        .or(found)
        .unwrap_or_default()
}

fn audit_object(block: &str) -> Option<Audit> {
    let keys = ["audit_score", "audit_notes", "artifacts"];
    let [score, notes, artifacts] = pick(block.trim(), keys)?;
    score.or(notes).or(artifacts)?;
    let mut paths = Vec::from_iter(artifacts.and_then(parse::<String>));
    each_item(artifacts.unwrap_or_default(), |path| {
        paths.extend(parse::<String>(path))
    });
    Some(Audit {
        score: score.and_then(number).map(|score| score.clamp(0.0, 100.0)),
        notes: notes.and_then(parse::<String>),
        artifacts: paths,
    })
}

#[cfg(test)]
mod tests {
    use super::super::TEXT_MAX;
    use super::super::lines::BLOCK;
    use super::*;
    use serde_json::json;

    fn fixture(name: &str) -> Vec<u8> {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/claude");
        std::fs::read(format!("{dir}/{name}.jsonl")).unwrap()
    }

    fn read_in(pieces: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Stream {
        let mut stream = Stream::default();
        for piece in pieces {
            stream.feed(piece.as_ref());
        }
        stream.finish();
        stream
    }

    /// A stream of these events, one per line.
    fn read(events: &[Value]) -> Stream {
        read_in(events.iter().map(|event| format!("{event}\n")))
    }

    fn text(text: &str) -> Value {
        json!({"type": "assistant", "parent_tool_use_id": null,
            "message": {"content": [{"type": "text", "text": text}]}})
    }

    fn call(id: &str, name: &str, path: &str) -> Value {
        let key = if name == "NotebookEdit" {
            "notebook_path"
        } else {
            "file_path"
        };
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
                assert_eq!(pieces.result(), whole.result());
                assert_eq!(pieces.is_final(), whole.is_final());
            }
        }
        let input = fixture("subscription-limit-5h");
        let whole = read_in([&input]);
        for split in 0..input.len() {
            let (head, tail) = input.split_at(split);
            let stream = read_in([head, tail]);
            assert_eq!(stream.report, whole.report, "split at {split}");
            assert_eq!(stream.result(), whole.result());
            assert_eq!(stream.limit(), whole.limit());
        }
    }

    #[test]
    fn a_result_that_quotes_many_megabytes_still_fits() {
        let denial = |id: u32| {
            json!({"tool_name": "Write", "tool_use_id": id.to_string(),
                "tool_input": {"file_path": "/x", "content": "y".repeat(2 << 20)}})
        };
        let denials: Vec<_> = (0..20).map(denial).collect();
        let stream = read(
            &[json!({"permission_denials": denials, "subtype": "success",
            "type": "result", "is_error": false, "result": "z".repeat(100_000)})],
        );
        assert!(stream.is_final());
        assert_eq!(stream.report.permission_denials.len(), 20);
        let input = &stream.report.permission_denials[19]["tool_input"];
        assert_eq!(input["file_path"], "/x");
        assert!(
            input["content"]
                .as_str()
                .unwrap()
                .ends_with("bytes left out] …")
        );
        let kept = serde_json::to_string(&stream.report.permission_denials)
            .unwrap()
            .len();
        assert!(kept < 20 * 2 * INPUT_MAX, "{kept}");
        let answer = stream.report.answer.unwrap();
        assert!(answer.starts_with("zzz") && answer.ends_with("zzz") && answer.len() > 4000);
    }

    #[test]
    fn several_results_are_summed_and_the_last_one_answers() {
        let result = |text: &str, turns: u64, cost: f64, extra: Value| {
            let mut event = json!({"type": "result", "subtype": "success", "is_error": false,
                "result": text, "num_turns": turns, "total_cost_usd": cost});
            event
                .as_object_mut()
                .unwrap()
                .append(&mut extra.as_object().unwrap().clone());
            event
        };
        let denial = |id: &str| json!({"tool_name": "Bash", "tool_use_id": id, "tool_input": {"command": "x"}});
        let stream = read(&[
            json!({"type": "system", "subtype": "permission_denied", "tool_name": "Bash", "tool_use_id": "a"}),
            result(
                "first",
                2,
                0.5,
                json!({"usage": {"in": 10, "deep": {"a": 1, "b": 0.5}, "tier": "s", "gone": 4},
                "permission_denials": [denial("a"), denial("b")]}),
            ),
            text("more"),
            result(
                "second",
                3,
                0.75,
                json!({"usage": {"in": 5, "deep": {"a": 2, "b": 1, "c": 7}, "tier": "t", "gone": null},
                "permission_denials": [denial("b"), denial("c"), "nonsense"]}),
            ),
        ]);
        let report = &stream.report;
        assert_eq!(report.answer.as_deref(), Some("second"));
        assert_eq!(report.num_turns, Some(5));
        assert_eq!(report.cost_usd, Some(0.75));
        let usage = json!({"in": 15, "deep": {"a": 3, "b": 1.5, "c": 7}, "tier": "t", "gone": 4});
        assert_eq!(report.usage, Some(usage));
        assert_eq!(report.permission_denials, ["a", "b", "c"].map(denial));
    }

    #[test]
    fn denials_are_known_without_a_result() {
        let input = fixture("permission-denials");
        let stream = read_in([&input[..input.len() - 400]]);
        assert!(stream.result().is_none());
        let whole = read_in([&input]).report.permission_denials;
        let part = &stream.report.permission_denials;
        let names = |list: &[Value]| {
            list.iter()
                .map(|denial| denial["tool_name"].clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(part), names(&whole));
        assert_eq!(whole[0]["tool_input"], json!({"command": "cargo test"}));
    }

    #[test]
    fn a_refused_request_of_many_small_strings_is_reduced_to_its_name() {
        let input = json!({"todos": vec!["x"; 10_000]});
        let stream = read(&[json!({"type": "result", "permission_denials":
            [{"tool_name": "T", "tool_use_id": "a", "tool_input": input}]})]);
        assert_eq!(
            stream.report.permission_denials,
            [json!({"tool_name": "T", "tool_use_id": "a"})]
        );
    }

    #[test]
    fn only_edits_that_succeeded_count() {
        let mut subagent = call("4", "Edit", "sub.rs");
        subagent["parent_tool_use_id"] = json!("toolu_task");
        let stream = read(&[
            call("1", "Write", "a.rs"),
            call("2", "Edit", "b.rs"),
            call("3", "NotebookEdit", "c.ipynb"),
            subagent,
            call("5", "Read", "d.rs"),
            call("6", "MultiEdit", "e.rs"),
            json!({"type": "system", "subtype": "permission_denied", "tool_use_id": "6"}),
            call("7", "Write", "never-answered.rs"),
            call("8", "Write", "a.rs"),
            answer("1", json!(null)),
            answer("2", json!(true)),
            answer("3", json!(false)),
            answer("4", json!(false)),
            answer("5", json!(false)),
            answer("6", json!(false)),
            answer("8", json!(false)),
        ]);
        assert_eq!(stream.report.edited, ["a.rs", "c.ipynb", "sub.rs"]);
        assert_eq!(
            read_in([fixture("permission-denials")]).report.edited,
            ["ok.txt"]
        );
        assert_eq!(
            read_in([fixture("tool-edit")]).report.edited,
            ["/project/src.txt"]
        );
    }

    #[test]
    fn open_edits_are_bounded() {
        let calls: Vec<_> = (0..1000)
            .map(|i| call(&i.to_string(), "Write", &format!("{i}")))
            .collect();
        let mut stream = read(&calls);
        assert_eq!(stream.open_edits.len(), OPEN_MAX);
        stream.feed(
            format!(
                "{}\n{}\n",
                answer("0", json!(false)),
                answer("999", json!(false))
            )
            .as_bytes(),
        );
        assert_eq!(stream.report.edited, ["999"]);
    }

    #[test]
    fn the_text_is_what_the_main_conversation_said() {
        let mut subagent = text("from below");
        subagent["parent_tool_use_id"] = json!("toolu_1");
        let mut synthetic = text("API Error: 529");
        synthetic["is_api_error_message"] = json!(true);
        let stream = read(&[text("one"), subagent, text(""), text("two"), synthetic]);
        assert_eq!(stream.report.text, "one\n\ntwo");
        let multi = read_in([fixture("multi-turn")]).report;
        assert_eq!(
            multi.text,
            "Step 1 of 3.\n\nStep 2 of 3.\n\nStep 3 of 3.\n\nThe task is done."
        );
        assert_eq!(multi.num_turns, Some(4));
        assert_eq!(multi.model.as_deref(), Some("claude-opus-5-5"));
        assert_eq!(multi.agent_version.as_deref(), Some("2.1.328"));
        assert_eq!(multi.session_id.as_deref().map(str::len), Some(36));
        assert_eq!(multi.usage.unwrap()["input_tokens"], 400);
    }

    #[test]
    fn a_run_is_final_until_the_agent_works_again() {
        let mut subagent = text("x");
        subagent["parent_tool_use_id"] = json!("toolu_1");
        let trailing = json!({"type": "system", "subtype": "task_notification"});
        let init = json!({"type": "system", "subtype": "init"});
        let is_final = |events: &[Value]| read(events).is_final();
        assert!(!is_final(&[text("x")]));
        assert!(is_final(&[
            text("x"),
            success("x"),
            trailing.clone(),
            subagent,
            json!([1])
        ]));
        assert!(!is_final(&[success("x"), init.clone()]));
        assert!(!is_final(&[success("x"), text("y")]));
        assert!(!is_final(&[success("x"), answer("1", json!(false))]));
        assert!(is_final(&[
            success("x"),
            init,
            text("y"),
            success("y"),
            trailing
        ]));
        assert!(read_in([fixture("sigterm-after-result")]).is_final());
        assert!(read_in([fixture("sdk-stdin")]).is_final());
    }

    #[test]
    fn a_line_that_may_have_been_a_result_is_missed() {
        let lost = |line: &str| read_in([format!("{}\n{line}", success("x"))]).is_result_lost();
        assert!(lost(r#"{"type":"result","subtype":"succ"#));
        assert!(lost(r#"{"duration_api_ms":5,"stop_reason":"en"#));
        assert!(lost(&format!(
            "{{\"x\":[{}]}}\n",
            "\"abc\",".repeat(1 << 20)
        )));
        assert!(lost("{\"type\":\"result\",\"result\":\"x\"} garbage\n"));
        assert!(!lost(r#"{"type":"system","subtype":"task_notif"#));
        assert!(!lost(&format!(
            "{{\"type\":\"user\",\"x\":[{}]}}\n",
            "\"abc\",".repeat(1 << 20)
        )));
        assert!(!lost("srun: job step ended"));
        assert!(!lost(
            "{not json}\n[1,2]\n17\n\"type\"\n{\"type\":5}\n{\"level\":\"info\"}\n"
        ));
        assert!(!lost(&format!(
            "{{\"type\":\"result\",\n{}\n",
            success("again")
        )));
    }

    #[test]
    fn fields_of_unexpected_types_spoil_nothing() {
        let stream = read_in([concat!(
            r#"{"type":"system","subtype":"init","model":5,"claude_code_version":["x"],"session_id":"s","skills":"none","slash_commands":[1,"a",null]}"#,
            "\n",
            r#"{"type":"assistant","parent_tool_use_id":null,"message":"text"}"#,
            "\n",
            r#"{"type":"assistant","message":{"content":"text"}}"#,
            "\n",
            r#"{"type":"assistant","message":{"content":[5,{"type":7},{"type":"text","text":{}},{"type":"text","text":"kept"},{"type":"tool_use","name":"Write","id":5,"input":"x"}]}}"#,
            "\n",
            r#"{"type":"user","message":17}"#,
            "\n",
            r#"{"type":"rate_limit_event","rate_limit_info":[]}"#,
            "\n",
            r#"{"type":{"a":1}}"#,
            "\n",
            r#"{"usage":"none","num_turns":"3","total_cost_usd":null,"permission_denials":{},"errors":"x","api_error_status":"529","is_error":false,"type":"result","type":"result","stop_reason":7,"result":"fine","subtype":"success"}"#,
            "\n",
        )]);
        let report = &stream.report;
        assert_eq!(report.model, None);
        assert_eq!(report.session_id.as_deref(), Some("s"));
        assert_eq!(stream.has_command("a"), Some(true));
        assert_eq!(report.text, "kept");
        assert_eq!(
            (report.num_turns, report.cost_usd, report.usage.clone()),
            (Some(3), None, None)
        );
        assert_eq!(report.answer.as_deref(), Some("fine"));
        let result = stream.result().unwrap();
        assert_eq!(
            (result.status, result.is_error, &result.stop_reason),
            (Some(529), Some(false), &None)
        );
    }

    #[test]
    fn nesting_however_deep_does_no_harm() {
        let deep = "[".repeat(200_000) + &"]".repeat(200_000);
        let stream = read_in([
            format!("{{\"type\":\"user\",\"message\":{deep}}}\n"),
            format!(
                "{{\"usage\":{{\"a\":{deep}}},\"type\":\"result\",\"permission_denials\":[{deep}],\"result\":\"x\"}}\n"
            ),
        ]);
        assert_eq!(stream.report.answer.as_deref(), Some("x"));
        assert_eq!(stream.report.usage, None);
    }

    #[test]
    fn half_a_surrogate_pair_is_replaced() {
        let line = r#"{"type":"result","result":"a\ud83d b\\ud83d \ud83d\ude00 \ude00\n","usage":{"\ud800":1}}"#;
        let stream = read_in([format!("{line}\n")]);
        assert_eq!(
            stream.report.answer.as_deref(),
            Some("a\u{fffd} b\\ud83d 😀 \u{fffd}\n")
        );
        assert_eq!(stream.report.usage, Some(json!({"\u{fffd}": 1})));
    }

    #[test]
    fn a_usage_limit_holds_until_something_goes_on() {
        let event = |status: &str, at: Value| json!({"type": "rate_limit_event", "rate_limit_info": {"status": status, "resetsAt": at}});
        let limit = |events: &[Value]| read(events).limit().map(|at| at.secs());
        let rejected = event("rejected", json!(1_795_173_825));
        assert_eq!(limit(std::slice::from_ref(&rejected)), Some(1_795_173_825));
        assert_eq!(
            limit(&[event("rejected", json!(1_795_173_825_000_u64))]),
            Some(1_795_173_825)
        );
        assert_eq!(
            limit(&[rejected.clone(), event("rejected", json!(null))]),
            Some(1_795_173_825)
        );
        assert_eq!(limit(&[event("rejected", json!("soon"))]), None);
        assert_eq!(limit(&[event("allowed", json!(1_795_173_825))]), None);
        assert_eq!(limit(&[rejected.clone(), event("allowed", json!(5))]), None);
        assert_eq!(limit(&[rejected, text("on it goes")]), None);
        let synthetic = json!({"type": "assistant", "is_api_error_message": true, "api_error_params":
            {"rate_limit_info": {"status": "rejected", "resetsAt": 7}}});
        assert_eq!(limit(&[synthetic]), Some(7));
        assert_eq!(
            read_in([fixture("subscription-limit-waited")]).limit(),
            None
        );
    }

    #[test]
    fn skills_are_known_from_init() {
        assert_eq!(
            read_in([fixture("skill-expanded")]).has_command("task-coordination"),
            Some(true)
        );
        assert_eq!(
            read_in([fixture("skill-missing")]).has_command("task-coordination"),
            Some(false)
        );
        assert_eq!(
            read_in([fixture("stdin-empty")]).has_command("task-coordination"),
            None
        );
    }

    #[test]
    fn the_audit_block_is_the_last_json_block_that_is_one() {
        let block = |json: &str| audit(&format!("Done.\n\n```json\n{json}\n```\n"));
        let full =
            block(r#"{"audit_score": 92.5, "audit_notes": "fine", "artifacts": ["a", 5, "b"]}"#);
        assert_eq!(
            (full.score, full.notes.as_deref()),
            (Some(92.5), Some("fine"))
        );
        assert_eq!(full.artifacts, ["a", "b"]);
        assert_eq!(block(r#"{"audit_score": "88"}"#).score, Some(88.0));
        assert_eq!(block(r#"{"audit_score": 120}"#).score, Some(100.0));
        assert_eq!(block(r#"{"audit_score": -3}"#).score, Some(0.0));
        assert_eq!(
            block(r#"{"audit_score": "good", "audit_notes": 5}"#),
            Audit::default()
        );
        assert_eq!(block(r#"{"artifacts": "one"}"#).artifacts, ["one"]);
        assert_eq!(block(r#"{"audit_score": 92,}"#), Audit::default());
        assert_eq!(block(r#"{"name": "package"}"#), Audit::default());
        assert_eq!(audit("no block {\"audit_score\": 5}"), Audit::default());

        let two = "```json\n{\"audit_score\":1}\n```\n ```JSON\n{\n\"audit_score\":\n2}\n ```\n```json\n[]\n```";
        assert_eq!(audit(two).score, Some(2.0));
        let python = "```python\nx\n```\n```\n{\"audit_score\": 3}\n```";
        assert_eq!(audit(python), Audit::default());
        let cut = "```rust\nfn main … [9 bytes left out] … ait\n```json\n{\"audit_score\": 4}";
        assert_eq!(audit(cut).score, Some(4.0));
    }

    #[test]
    fn the_audit_is_read_from_a_final_answer_only() {
        let block = "```json\n{\"audit_score\": 4}\n```";
        assert_eq!(
            read(&[text(block), success(block)]).report.audit.score,
            Some(4.0)
        );
        assert_eq!(
            read(&[text(block), success("done")]).report.audit.score,
            None
        );
        let mut failed = success(block);
        failed["is_error"] = json!(true);
        let report = read(&[failed]).report;
        assert_eq!((report.answer, report.audit), (None, Audit::default()));
        let long = "x".repeat(3 * TEXT_MAX) + "\n" + block;
        assert_eq!(read(&[success(&long)]).report.audit.score, Some(4.0));
    }

    #[test]
    fn a_line_of_300_mb_costs_two_megabytes() {
        let mut stream = Stream::default();
        let block = "abcdefghijklmno\\n".repeat(4096);
        stream.feed(br#"{"type":"assistant","message":{"content":[{"type":"text","text":"start "#);
        let mut most = 0;
        for _ in 0..300_000_000 / block.len() {
            stream.feed(block.as_bytes());
            most = most.max(stream.lines.memory());
        }
        stream.feed(b" end\"}]}}\n");
        assert!(most <= 2 << 20, "{most}");
        assert!(stream.lines.memory() <= 2 * BLOCK);
        stream.feed(format!("{}\n", success("done")).as_bytes());
        stream.finish();
        let text = &stream.report.text;
        assert!(
            text.starts_with("start abc") && text.ends_with(" end"),
            "{}",
            text.len()
        );
        assert!(text.len() <= TEXT_MAX + 100);
        assert_eq!(stream.report.answer.as_deref(), Some("done"));
    }
}
