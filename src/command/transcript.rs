//! What an agent's output tells a person: events become lines. Pure, and in bounded memory whatever
//! the agent wrote; `logs` prints the lines, `wait` and `watch` show only what the agent does just now.

use crate::agent::event::{Event, LastResult, Session, events};
use crate::agent::json::{object, text as parse_text};
use crate::agent::lines::{Line, Lines};
use crate::agent::{Dialect, Read, TEXT_MAX};
use crate::render::{Style, clean, clean_line, fit};
use crate::time::human;
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

/// So many calls whose answers are still to come are remembered; with more, all are forgotten.
const CALLS_MAX: usize = 200;
/// What is kept of a text that will be shown in one line.
const HEADLINE_MAX: usize = 400;
/// Sub-agents of sub-agents are not indented further than this.
const DEPTH_MAX: usize = 4;

/// How far the agent has got.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Progress {
    /// What it does just now.
    pub action: Option<String>,
    /// Tokens in and out, those read from a cache left out.
    pub tokens: u64,
    /// US dollars, as far as the agent has told.
    pub cost_usd: Option<f64>,
}

/// Reads the output of one start after the other, and writes lines for a person.
pub(super) struct Transcript {
    style: Style,
    /// The columns to fit single lines into.
    width: usize,
    /// What was told and not taken yet.
    out: String,
    /// What stands above the next line, which decides whether a blank one comes between.
    above: Above,
    /// Whether the last line may still go on.
    open: bool,
    heard: Heard,
}

/// What is known of one start.
#[derive(Default)]
struct Heard {
    progress: Progress,
    /// `None` for what is no event stream.
    dialect: Option<&'static Dialect>,
    lines: Lines,
    /// Of a plain agent: the beginning of a character, or of the end of a line.
    held: Vec<u8>,
    session: Session,
    /// Depth and words of calls by their ids.
    calls: HashMap<String, (usize, String)>,
    /// The message whose tokens were counted last: one message comes as several events.
    message: String,
    /// The tokens of turns whose result has come, which supersedes what was counted meanwhile.
    settled: u64,
    /// The call that stands last, if nothing else came since.
    last: String,
    /// The last thing said or complained of, which the result repeats.
    said: String,
    /// Whether what was said last may go on.
    speaking: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Above {
    #[default]
    Nothing,
    Text,
    Lines,
}

impl Transcript {
    pub(super) fn new(style: Style, width: usize) -> Transcript {
        Transcript {
            style,
            width,
            out: String::new(),
            above: Above::Nothing,
            open: false,
            heard: Heard::default(),
        }
    }

    /// Another output begins; without a dialect, it is printed as it is.
    pub(super) fn begin(&mut self, dialect: Option<&'static Dialect>) {
        self.heard = Heard {
            dialect,
            ..Heard::default()
        };
    }

    pub(super) fn progress(&self) -> &Progress {
        &self.heard.progress
    }

    /// Takes the next bytes.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        let mut lines = std::mem::take(&mut self.heard.lines);
        match self.heard.dialect.and_then(|dialect| dialect.read) {
            Some(read) => lines.feed(bytes, |line| self.take_line(read, line)),
            None => self.plain(bytes),
        }
        self.heard.lines = lines;
    }

    /// The output is complete.
    pub(super) fn finish(&mut self) {
        if let Some(read) = self.heard.dialect.and_then(|dialect| dialect.read) {
            let mut lines = std::mem::take(&mut self.heard.lines);
            lines.finish(|line| self.take_line(read, line));
        }
        let held = std::mem::take(&mut self.heard.held);
        self.print(&String::from_utf8_lossy(&held));
    }

    /// The lines since the last time.
    pub(super) fn take(&mut self) -> String {
        std::mem::take(&mut self.out)
    }

    /// Adds a line that separates starts and tells their ends.
    pub(super) fn seam(&mut self, text: &str) {
        let rule = if self.style.unicode { "─" } else { "-" }.repeat(3);
        let line = format!("{rule} {}", clean_line(text));
        self.start(Above::Text);
        let _ = writeln!(self.out, "{}", self.style.paint("1;34", &line));
        self.above = Above::Lines;
    }

    /// A plain agent prints as it likes; what it prints is shown when it comes, not line by line.
    fn plain(&mut self, bytes: &[u8]) {
        self.heard.held.extend_from_slice(bytes);
        // Half a character, or half of the end of a line, waits for the rest.
        let whole = match std::str::from_utf8(&self.heard.held) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => self.heard.held.len(),
        };
        let whole = whole - usize::from(self.heard.held[..whole].ends_with(b"\r"));
        let rest = self.heard.held.split_off(whole);
        let bytes = std::mem::replace(&mut self.heard.held, rest);
        let text = String::from_utf8_lossy(&bytes);
        let mut lines = text.rsplit(['\n', '\r']);
        if let Some(last) = lines.find(|line| !line.trim().is_empty()) {
            self.heard.progress.action = Some(headline(last));
        }
        self.print(&text.replace("\r\n", "\n").replace('\r', "\n"));
    }

    fn take_line(&mut self, read: Read, line: Line<'_>) {
        let results = self.heard.dialect.map_or(&[][..], |known| known.results);
        events(line, read, results, &mut |event| self.event(event));
    }

    fn event(&mut self, event: Event<'_>) {
        let goes_on = std::mem::replace(&mut self.heard.speaking, false);
        match event {
            Event::Session(session) => self.session(session),
            Event::Say(by, text) => self.say(by, &text, false, false),
            Event::More(text) => {
                self.heard.speaking = true;
                self.say(None, &text, true, goes_on);
            }
            Event::Think(by, text) => {
                let depth = self.depth_below(by);
                self.act("thinking");
                let line = format!("(thinks) {}", headline(&text));
                self.line(depth, "2", line.trim_end());
            }
            Event::Call(call) => self.call(call.by, call.id, &call.tool, call.input),
            Event::Answer(id, content, failed) => self.answer(&id, content, failed),
            Event::Total(usage) => self.heard.settled = tokens(&usage.to_string()),
            Event::Tokens(message, usage) if message != self.heard.message => {
                self.heard.message = message;
                self.heard.progress.tokens =
                    self.heard.progress.tokens.saturating_add(tokens(usage));
            }
            Event::Trouble(text, _) if !text.is_empty() && text != self.heard.said => {
                self.act(&text);
                self.text(0, "31", &text);
                self.heard.said = text;
            }
            Event::Feedback(text) => self.notice(&format!("a hook: {text}")),
            Event::Notice(text) | Event::Offline(text) | Event::Blocked(text) => self.notice(&text),
            Event::Result(result) => self.result(*result),
            Event::Plain(text) => self.print(&format!("{text}\n")),
            Event::Lost(start, _) => self.notice(&format!("cut or too long: {}", headline(start))),
            _ => {}
        }
    }

    fn session(&mut self, session: Session) {
        let who =
            |of: &Session| [&of.model, &of.version].map(|word| word.clone().unwrap_or_default());
        let line = clean_line(&who(&session).join(" "));
        // Each turn opens with one of its own.
        if who(&self.heard.session) != who(&session) && !line.is_empty() {
            self.line(0, "2", &line);
        }
        self.heard.session = session;
    }

    fn say(&mut self, below: Option<String>, text: &str, more: bool, goes_on: bool) {
        let depth = self.depth_below(below);
        if !goes_on {
            self.heard.said.clear();
        }
        if self.heard.said.len() < TEXT_MAX {
            self.heard.said.push_str(text);
        }
        self.act(&headline(&self.heard.said));
        if text.trim().is_empty() && !goes_on {
            return;
        }
        if !more {
            return self.text(depth, "", text);
        }
        if !goes_on {
            self.start(Above::Text);
        }
        self.out.push_str(&clean(text));
        (self.above, self.open) = (Above::Text, !text.ends_with('\n'));
    }

    fn call(&mut self, below: Option<String>, id: String, tool: &str, input: &str) {
        let depth = self.depth_below(below);
        let cwd = self.heard.session.cwd.as_deref().unwrap_or_default();
        let tool = clean_line(tool);
        let label = format!("{tool} {}", subject(input, cwd))
            .trim_end()
            .to_owned();
        self.act(&label);
        let dot = if self.style.unicode { "●" } else { "*" };
        // Bold for the tool alone: the line is fitted first, then painted.
        let line = self.fitted(depth, &format!("{dot} {label}"));
        let (head, rest) = line.split_at(line.len().min(dot.len() + 1 + tool.len()));
        let line = format!("{}{rest}", self.style.paint("1", head));
        self.start(Above::Lines);
        let _ = writeln!(self.out, "{}{line}", indent(depth));
        if self.heard.calls.len() == CALLS_MAX {
            self.heard.calls.clear();
        }
        self.heard.last.clone_from(&id);
        self.heard.calls.insert(id, (depth, label));
    }

    fn answer(&mut self, id: &str, content: &str, failed: bool) {
        let (depth, label) = self.heard.calls.remove(id).unwrap_or_default();
        let text = answer(&text_of(content));
        let of = match self.heard.last == id {
            true => String::new(),
            false => format!("{}: ", fit(&label, self.width / 3, self.style)),
        };
        let hook = if self.style.unicode { "└" } else { "`-" };
        let (color, error) = if failed { ("31", "error: ") } else { ("2", "") };
        self.heard.last.clear();
        self.line(depth, color, &format!("  {hook} {of}{error}{text}"));
    }

    fn notice(&mut self, text: &str) {
        let text = headline(text);
        if !text.is_empty() {
            self.act(&text);
            self.line(0, "33", &format!("! {text}"));
        }
    }

    fn result(&mut self, result: LastResult) {
        let good = result.good;
        let text = result.answer.filter(|_| good).unwrap_or(result.complaint);
        if !text.trim().is_empty() && text.trim() != self.heard.said.trim() {
            self.text(0, if good { "" } else { "31" }, &text);
        }
        let usage = result.usage.map_or(0, |usage| tokens(&usage.to_string()));
        self.heard.settled = self.heard.settled.saturating_add(usage);
        self.heard.progress.tokens = self.heard.settled;
        self.heard.message.clear();
        self.heard.progress.cost_usd = result.cost_usd.or(self.heard.progress.cost_usd);
        let mut text = match (good, result.ending.as_deref()) {
            (true, _) => "done".to_owned(),
            (false, None | Some("success" | "api_error")) => "failed".to_owned(),
            (false, Some(other)) => clean_line(other),
        };
        if let Some(turns) = result.turns {
            let _ = write!(text, ", {turns} turn{}", if turns == 1 { "" } else { "s" });
        }
        if let Some(ms) = result.duration_ms.filter(|ms| (0.0..1e15).contains(ms)) {
            let _ = write!(text, ", {}", human(Duration::from_millis(ms as u64)));
        }
        let parts = [Some(text), spent(&self.heard.progress)];
        let text = parts.into_iter().flatten().collect::<Vec<_>>().join(", ");
        self.start(Above::Text);
        let _ = writeln!(self.out, "{} {text}", self.style.mark(good));
    }

    /// What it does just now; and something other than a call stands last.
    fn act(&mut self, action: &str) {
        self.heard.progress.action = Some(headline(action));
        self.heard.last.clear();
    }

    fn depth_below(&self, id: Option<String>) -> usize {
        let above = |id: String| self.heard.calls.get(&id).map_or(0, |(depth, _)| *depth);
        id.map_or(0, |id| above(id) + 1).min(DEPTH_MAX)
    }

    // --- lines ---

    /// Output as it came, harmless.
    fn print(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        if self.above == Above::Text {
            self.start(Above::Lines);
        }
        self.out.push_str(&clean(text));
        (self.above, self.open) = (Above::Lines, !text.ends_with('\n'));
    }

    /// A whole text, with a blank line around it.
    fn text(&mut self, depth: usize, color: &str, text: &str) {
        self.start(Above::Text);
        for line in clean(text.trim_end()).lines() {
            let line = format!("{}{}", indent(depth), line);
            let line = match color {
                "" => line,
                color => self.style.paint(color, &line),
            };
            let _ = writeln!(self.out, "{}", line.trim_end());
        }
    }

    fn line(&mut self, depth: usize, color: &str, line: &str) {
        self.start(Above::Lines);
        let line = self.style.paint(color, &self.fitted(depth, line));
        let _ = writeln!(self.out, "{}{line}", indent(depth));
    }

    fn fitted(&self, depth: usize, line: &str) -> String {
        let room = self.width.saturating_sub(indent(depth).len());
        fit(line, room, self.style)
    }

    /// Ends an open line, and separates texts from what is around them.
    fn start(&mut self, next: Above) {
        if std::mem::take(&mut self.open) {
            self.out.push('\n');
        }
        let apart = self.above == Above::Text || next == Above::Text;
        if apart && self.above != Above::Nothing {
            self.out.push('\n');
        }
        self.above = next;
    }
}

fn indent(depth: usize) -> String {
    "    ".repeat(depth)
}

/// Tokens and money, as far as they are known: `12.3k tokens, $0.0064`.
pub(super) fn spent(progress: &Progress) -> Option<String> {
    let tokens = match progress.tokens {
        0 => None,
        few @ 0..10_000 => Some(format!("{few} tokens")),
        some @ 10_000..1_000_000 => Some(format!("{}k tokens", some / 1000)),
        many => Some(format!("{:.1}M tokens", many as f64 / 1e6)),
    };
    let cost = progress.cost_usd.map(|cost| format!("${cost:.4}"));
    let parts: Vec<String> = tokens.into_iter().chain(cost).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// The tokens that a usage object tells of, those read from a cache left out: each turn reads the
/// whole conversation from there again.
pub(super) fn tokens(usage: &str) -> u64 {
    let keys = [
        "input_tokens",
        "output_tokens",
        "cache_creation_input_tokens",
    ];
    let usage = object(usage).unwrap_or_default();
    let counts = keys.iter().filter_map(|key| usage.value::<u64>(key));
    counts.fold(0, u64::saturating_add)
}

/// What a tool is asked to work on, in one line.
fn subject(input: &str, cwd: &str) -> String {
    let keys = [
        "command",
        "file_path",
        "notebook_path",
        "pattern",
        "url",
        "query",
        "skill",
        "description",
        "path",
        "prompt",
    ];
    let input = object(input).unwrap_or_default();
    let text = keys.into_iter().find_map(|key| parse_text(input.raw(key)));
    let text = text.unwrap_or_default();
    let below = text
        .strip_prefix(cwd)
        .and_then(|rest| rest.strip_prefix('/'))
        .filter(|_| !cwd.is_empty());
    headline(below.unwrap_or(&text))
}

/// What a tool answered, in one line.
fn answer(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim().is_empty()).count();
    let first = headline(text.trim().trim_start_matches("<tool_use_error>"));
    match lines {
        0 => "no output".to_owned(),
        1 => first,
        2 => format!("{first} (+1 line)"),
        _ => format!("{first} (+{} lines)", lines - 1),
    }
}

/// The texts in the content of a message: a string, or blocks of which some are texts.
fn text_of(content: &str) -> String {
    if let Some(text) = parse_text(content) {
        return text;
    }
    let blocks: Vec<&RawValue> = serde_json::from_str(content).unwrap_or_default();
    let blocks = blocks
        .into_iter()
        .filter_map(|block| object(block.get()).ok());
    let texts = blocks.map(|block| {
        let kind = block.word("type").unwrap_or_default();
        parse_text(block.raw("text")).unwrap_or_else(|| format!("[{kind}]"))
    });
    texts.collect::<Vec<_>>().join("\n")
}

/// The first line that says something, on one line and harmless.
fn headline(text: &str) -> String {
    let line = text.lines().find(|line| !line.trim().is_empty());
    let line = line.unwrap_or_default();
    let end = line
        .char_indices()
        .nth(HEADLINE_MAX)
        .map_or(line.len(), |(at, _)| at);
    clean_line(&line[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::dialect;
    use crate::project::Protocol;
    use crate::render::columns_of;
    use serde_json::{Value, json};

    const PLAIN: Style = Style {
        color: false,
        unicode: false,
        terminal: false,
    };

    fn fixture(name: &str) -> Vec<u8> {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/claude");
        std::fs::read(format!("{dir}/{name}.jsonl")).unwrap()
    }

    fn transcript(protocol: Protocol, input: &[u8], piece: usize, width: usize) -> Transcript {
        let mut transcript = Transcript::new(PLAIN, width);
        transcript.begin(Some(dialect(protocol)));
        input.chunks(piece).for_each(|piece| transcript.feed(piece));
        transcript.finish();
        transcript
    }

    fn told(protocol: Protocol, input: &[u8], piece: usize) -> (String, Progress) {
        let mut transcript = transcript(protocol, input, piece, 80);
        (transcript.take(), transcript.progress().clone())
    }

    /// What a person reads of these events.
    fn read(events: &[Value]) -> String {
        let input: String = events.iter().map(|event| format!("{event}\n")).collect();
        told(Protocol::Claude, input.as_bytes(), 1 << 20).0
    }

    fn read_fixture(name: &str) -> String {
        told(Protocol::Claude, &fixture(name), 1 << 20).0
    }

    fn call(id: &str, parent: Option<&str>, name: &str, input: Value) -> Value {
        json!({"type": "assistant", "parent_tool_use_id": parent, "message": {"id": id, "content": [
            {"type": "tool_use", "id": id, "name": name, "input": input}]}})
    }

    fn say(parent: Option<&str>, text: &str) -> Value {
        json!({"type": "assistant", "parent_tool_use_id": parent, "message": {"content": [
            {"type": "text", "text": text}]}})
    }

    fn answer_to(id: &str, content: Value) -> Value {
        json!({"type": "user", "message": {"content": [
            {"type": "tool_result", "tool_use_id": id, "content": content}]}})
    }

    #[test]
    fn what_was_said_and_done_reads_like_a_conversation() {
        assert_eq!(
            read_fixture("tool-bash"),
            "claude-opus-5-5 2.1.328\n\
             \n\
             I will run a command.\n\
             \n\
             * Bash echo hello from the stub\n  \
             `- hello from the stub\n\
             \n\
             The task is done.\n\
             \n\
             + done, 2 turns, 0s, 240 tokens, $0.0016\n"
        );
        assert_eq!(
            read_fixture("tool-edit"),
            "claude-opus-5-5 2.1.328\n\
             * Read src.txt\n  \
             `- 1 line before end (+1 line)\n\
             * Edit src.txt\n  \
             `- The file /project/src.txt has been updated successfully. (file state is...\n\
             \n\
             The task is done.\n\
             \n\
             + done, 3 turns, 0s, 360 tokens, $0.0024\n"
        );
    }

    #[test]
    fn failures_are_told_once_and_in_the_agent_s_words() {
        let told = read_fixture("api-529-recovered");
        assert!(told.contains("! no answer from the service: overloaded (529); try 1 of 10 in 0s"));
        let told = read_fixture("api-400");
        assert_eq!(told.matches("API Error: 400").count(), 1, "{told}");
        assert!(told.contains("\nx failed, 1 turn,"), "{told}");
        let told = read_fixture("max-turns");
        assert!(
            told.contains("\nReached maximum number of turns (3)\n"),
            "{told}"
        );
        assert!(told.contains("\nx max_turns, 4 turns,"), "{told}");
        let told = read_fixture("permission-denials");
        assert!(told.contains("* Bash cargo test\n  `- error: This command requires approval\n"));
    }

    #[test]
    fn it_does_not_matter_how_the_output_is_cut_into_pieces() {
        for name in ["tool-bash", "permission-denials", "compaction", "refusal"] {
            let input = fixture(name);
            let whole = told(Protocol::Claude, &input, input.len());
            for piece in [1, 7, 100, 4099] {
                assert_eq!(
                    told(Protocol::Claude, &input, piece),
                    whole,
                    "{name} {piece}"
                );
            }
        }
    }

    #[test]
    fn every_recorded_output_is_harmless_and_its_single_lines_fit() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/claude");
        let mut seen = 0;
        for file in std::fs::read_dir(dir).unwrap().flatten() {
            let path = file.path();
            if path.extension().is_none_or(|ending| ending != "jsonl") {
                continue;
            }
            let input = std::fs::read(&path).unwrap();
            for width in [10, 40, 200] {
                let text = transcript(Protocol::Claude, &input, 999, width).take();
                let is_fine = |c: char| c == '\n' || c == '\t' || !c.is_control();
                assert!(text.chars().all(is_fine), "{path:?}");
                let singles = text
                    .lines()
                    .filter(|line| line.starts_with(['*', '!', '(']));
                for line in singles {
                    let columns: usize = line.chars().map(columns_of).sum();
                    assert!(columns <= width, "{path:?}: {line}");
                }
            }
            seen += 1;
        }
        assert!(seen > 50);
    }

    #[test]
    fn no_word_of_an_agent_is_a_command_to_the_terminal() {
        fn arm(value: &mut Value) {
            match value {
                Value::String(text) => text.insert_str(0, "\x1b[2J\r\u{9b}1A\u{202e}"),
                Value::Array(items) => items.iter_mut().for_each(arm),
                Value::Object(members) => members
                    .iter_mut()
                    .filter(|(key, _)| !["type", "subtype"].contains(&key.as_str()))
                    .for_each(|(_, value)| arm(value)),
                _ => {}
            }
        }
        let is_harmless = |text: &str| clean(text) == text;
        for name in [
            "permission-denials",
            "api-529-recovered",
            "refusal",
            "thinking",
        ] {
            let mut transcript = Transcript::new(PLAIN, 80);
            transcript.begin(Some(dialect(Protocol::Claude)));
            for line in String::from_utf8(fixture(name)).unwrap().lines() {
                let mut event: Value = serde_json::from_str(line).unwrap();
                arm(&mut event);
                transcript.feed(format!("{event}\n").as_bytes());
                let action = transcript.progress().action.clone().unwrap_or_default();
                assert!(is_harmless(&action) && !action.contains('\n'), "{action:?}");
            }
            let text = transcript.take();
            assert!(text.contains("[2J"), "{text}");
            assert!(is_harmless(&text), "{text:?}");
        }
    }

    #[test]
    fn sub_agents_are_indented_and_answers_find_their_calls() {
        let text = read(&[
            call(
                "t",
                None,
                "Task",
                json!({"description": "look around", "prompt": "Look!"}),
            ),
            say(Some("t"), "I look."),
            call("a", Some("t"), "Grep", json!({"pattern": "fn main"})),
            call("b", Some("t"), "Bash", json!({"command": "ls\nwc"})),
            answer_to(
                "a",
                json!([{"type": "text", "text": "3 files\nx"}, {"type": "image"}]),
            ),
            answer_to("b", json!("")),
            answer_to("t", json!("All is there.")),
            say(None, "Good."),
        ]);
        assert_eq!(
            text,
            "* Task look around\n\
             \n    \
             I look.\n\
             \n    \
             * Grep fn main\n    \
             * Bash ls\n      \
             `- Grep fn main: 3 files (+2 lines)\n      \
             `- Bash ls: no output\n  \
             `- Task look around: All is there.\n\
             \n\
             Good.\n"
        );
    }

    #[test]
    fn an_answer_without_a_message_before_it_is_told_by_the_result() {
        let result = |text: &str| json!({"type": "result", "subtype": "success", "is_error": false, "result": text});
        assert!(read(&[result("Only here.")]).starts_with("Only here.\n\n+ done"));
        assert_eq!(
            read(&[say(None, "Twice."), result("Twice.")])
                .matches("Twice")
                .count(),
            1
        );
    }

    #[test]
    fn tokens_are_counted_once_for_a_message_and_settled_by_the_result() {
        let message = |id: &str| {
            json!({"type": "assistant", "message": {"id": id, "content": [],
            "usage": {"input_tokens": 10, "output_tokens": 1, "cache_read_input_tokens": 999}}})
        };
        let events = [message("a"), message("a"), message("b"), message("b")];
        let mut input: String = events.iter().map(|event| format!("{event}\n")).collect();
        let tokens = |input: &str| told(Protocol::Claude, input.as_bytes(), 50).1;
        assert_eq!(tokens(&input).tokens, 22);
        let result =
            json!({"type": "result", "total_cost_usd": 0.5, "usage": {"output_tokens": 40}});
        input.push_str(&format!("{result}\n{}\n", message("c")));
        assert_eq!(
            (tokens(&input).tokens, tokens(&input).cost_usd),
            (51, Some(0.5))
        );
    }

    #[test]
    fn a_plain_agent_prints_as_it_does_but_for_what_a_terminal_would_obey() {
        let input = "no newline: ü日\r\n10%\r20%\nred \x1b[31m 😀".as_bytes();
        let whole = "no newline: ü日\n10%\n20%\nred \u{fffd}[31m 😀";
        for piece in 1..input.len() + 1 {
            let (text, progress) = told(Protocol::Plain, input, piece);
            assert_eq!(text, whole, "{piece}");
            assert!(progress.action.is_some());
        }
        let (text, _) = told(Protocol::Plain, b"\xff\xe2\x82", 3);
        assert_eq!(text, "\u{fffd}\u{fffd}");
    }

    #[test]
    fn what_is_no_event_is_shown_and_what_is_unknown_is_not() {
        let mut input =
            b"srun: job 5 queued\n{\"type\":\"new_kind\"}\n[1]\n{\"type\":5}\n".to_vec();
        input.extend_from_slice(
            b"{\"type\":\"assistant\",\"message\":{\"content\":[5,null,{}]}}\n{\"type\":\"as",
        );
        assert_eq!(
            told(Protocol::Claude, &input, 64).0,
            "srun: job 5 queued\n[1]\n! cut or too long: {\"type\":\"as\n"
        );
    }
}
