//! What an agent's output tells a person: bytes become entries ([`Reader`]), entries become lines
//! ([`Writer`]). Pure, and in bounded memory whatever the agent wrote; `logs` prints the lines,
//! `wait` and `watch` show only what the agent does just now.
//!
//! As in `agent::stream`, every field is read leniently, and events of unknown kinds are skipped.

use crate::agent::event::{Event, LastResult};
use crate::agent::fold::events;
use crate::agent::json::{each_item, members, parse, text as parse_text, word};
use crate::agent::lines::{Line, Lines};
use crate::agent::{Dialect, Read};
use crate::render::{Style, clean, clean_line, fit};
use crate::time::human;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::Duration;

/// So many calls whose answers are still to come are remembered, with where they stand.
const CALLS_MAX: usize = 200;
/// So many messages are remembered, to count the tokens of each once: one message comes as
/// several events.
const MESSAGES_MAX: usize = 32;
/// What is kept of a text that will be shown in one line.
const HEADLINE_MAX: usize = 400;
/// Sub-agents of sub-agents are not indented further than this.
const DEPTH_MAX: usize = 4;

/// Something that the agent did, said, or met.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Entry {
    /// A session began, with this model and version.
    Session { model: String, version: String },
    /// It said something to the person; deeper ones are sub-agents.
    Say { depth: usize, text: String },
    /// It thought.
    Think { depth: usize, text: String },
    /// It called a tool on something.
    Call {
        depth: usize,
        tool: String,
        subject: String,
    },
    /// What a tool answered. `call` names it where another call stands in between.
    Answer {
        depth: usize,
        call: Option<String>,
        text: String,
        failed: bool,
    },
    /// Something happened around it: a retry, a compaction.
    Notice(String),
    /// It met a failure.
    Trouble(String),
    /// It is through, for now.
    Total { good: bool, text: String },
    /// A piece of output that is no event; ends in a newline or not, as it was written.
    Plain(String),
}

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

/// Reads the output of one start.
pub(super) struct Reader {
    dialect: &'static Dialect,
    /// What is known so far.
    pub progress: Progress,
    lines: Lines,
    /// Of a plain agent: the beginning of a character, or of the end of a line.
    held: Vec<u8>,
    /// The directory it works in; paths below it are shown without.
    cwd: String,
    session: Option<(String, String)>,
    calls: VecDeque<Call>,
    messages: VecDeque<String>,
    /// The tokens of turns whose result has come, which supersedes what was counted meanwhile.
    settled: u64,
    /// The call that stands last, if nothing else came since.
    last: Option<String>,
    /// The last thing said or complained of, which the result repeats.
    said: String,
    /// Whether what was said last may go on.
    speaking: bool,
}

struct Call {
    id: String,
    depth: usize,
    tool: String,
    subject: String,
}

impl Reader {
    pub(super) fn new(dialect: &'static Dialect) -> Reader {
        Reader {
            dialect,
            progress: Progress::default(),
            lines: Lines::default(),
            held: Vec::new(),
            cwd: String::new(),
            session: None,
            calls: VecDeque::new(),
            messages: VecDeque::new(),
            settled: 0,
            last: None,
            said: String::new(),
            speaking: false,
        }
    }

    /// Takes the next bytes.
    pub(super) fn feed(&mut self, bytes: &[u8], each: &mut dyn FnMut(Entry)) {
        let Some(read) = self.dialect.read else {
            return self.plain(bytes, each);
        };
        let mut lines = std::mem::take(&mut self.lines);
        lines.feed(bytes, |line| self.line(read, line, each));
        self.lines = lines;
    }

    /// The output is complete.
    pub(super) fn finish(&mut self, each: &mut dyn FnMut(Entry)) {
        if let Some(read) = self.dialect.read {
            let mut lines = std::mem::take(&mut self.lines);
            lines.finish(|line| self.line(read, line, each));
        }
        let held = std::mem::take(&mut self.held);
        if !held.is_empty() {
            each(Entry::Plain(String::from_utf8_lossy(&held).into_owned()));
        }
    }

    /// A plain agent prints as it likes; what it prints is shown when it comes, not line by line.
    fn plain(&mut self, bytes: &[u8], each: &mut dyn FnMut(Entry)) {
        self.held.extend_from_slice(bytes);
        let whole = self.held.len() - unfinished(&self.held);
        let rest = self.held.split_off(whole);
        let bytes = std::mem::replace(&mut self.held, rest);
        let text = String::from_utf8_lossy(&bytes);
        let last = text
            .rsplit(['\n', '\r'])
            .find(|line| !line.trim().is_empty());
        if let Some(last) = last {
            self.progress.action = Some(headline(last));
        }
        if !text.is_empty() {
            each(Entry::Plain(text.replace("\r\n", "\n").replace('\r', "\n")));
        }
    }

    fn line(&mut self, read: Read, line: Line<'_>, each: &mut dyn FnMut(Entry)) {
        let (what, results) = match line {
            Line::TooLong(_) => ("a line too long to be shown", self.dialect.results),
            _ => ("the output breaks off", self.dialect.results),
        };
        events(line, read, results, &mut |event| {
            self.event(event, what, each)
        });
    }

    fn event(&mut self, event: Event<'_>, lost: &str, each: &mut dyn FnMut(Entry)) {
        let goes_on = std::mem::replace(&mut self.speaking, false);
        match event {
            Event::Session(session) => {
                self.cwd = session.cwd.unwrap_or_default();
                let who = (
                    session.model.unwrap_or_default(),
                    session.version.unwrap_or_default(),
                );
                // Each turn opens with one of its own.
                if self.session.as_ref() != Some(&who) && who != Default::default() {
                    let (model, version) = who.clone();
                    each(Entry::Session { model, version });
                    self.session = Some(who);
                }
            }
            Event::Say {
                below,
                text,
                goes_on: more,
            } => {
                let depth = self.depth_below(below.as_deref());
                if !(more && goes_on) {
                    self.said.clear();
                }
                self.said.push_str(&text);
                self.progress.action = Some(headline(&self.said));
                self.speaking = more;
                self.last = None;
                if !text.trim().is_empty() {
                    each(match more && goes_on {
                        true => Entry::Plain(text),
                        false => Entry::Say { depth, text },
                    });
                }
            }
            Event::Think { below, text } => {
                self.progress.action = Some("thinking".to_owned());
                self.last = None;
                let depth = self.depth_below(below.as_deref());
                each(Entry::Think {
                    depth,
                    text: headline(&text),
                });
            }
            Event::Call {
                below,
                id,
                tool,
                input,
                ..
            } => {
                let depth = self.depth_below(below.as_deref());
                let (tool, subject) = (clean_line(&tool), subject(input, &self.cwd));
                self.progress.action = Some(label(&tool, &subject));
                self.call(id, depth, &tool, &subject);
                each(Entry::Call {
                    depth,
                    tool,
                    subject,
                });
            }
            Event::Answer {
                id,
                content,
                failed,
            } => self.answer(&id, content, failed, each),
            Event::Tokens { message, usage } => self.count(message, usage),
            Event::Trouble { text, .. } if !text.is_empty() && text != self.said => {
                self.progress.action = Some(headline(&text));
                self.said.clone_from(&text);
                self.last = None;
                each(Entry::Trouble(text));
            }
            Event::Feedback(said) => self.notice(&format!("a hook: {said}"), each),
            Event::Notice(text) | Event::Offline(text) => self.notice(&text, each),
            Event::Result(result) => self.result(*result, each),
            Event::Plain(text) => each(Entry::Plain(format!("{text}\n"))),
            Event::Lost { start, .. } => self.notice(&format!("{lost}: {}", headline(start)), each),
            _ => {}
        }
    }

    fn depth_below(&self, id: Option<&str>) -> usize {
        let Some(id) = id else { return 0 };
        let call = self.calls.iter().find(|call| call.id == id);
        call.map_or(1, |call| call.depth + 1).min(DEPTH_MAX)
    }

    fn call(&mut self, id: String, depth: usize, tool: &str, subject: &str) {
        if self.calls.len() == CALLS_MAX {
            self.calls.pop_front();
        }
        self.last = Some(id.clone());
        self.calls.push_back(Call {
            id,
            depth,
            tool: tool.to_owned(),
            subject: subject.to_owned(),
        });
    }

    /// Counts a message's tokens, until a result tells them rightly.
    fn count(&mut self, message: String, usage: &str) {
        if !self.messages.contains(&message) {
            if self.messages.len() == MESSAGES_MAX {
                self.messages.pop_front();
            }
            self.messages.push_back(message);
            self.progress.tokens += tokens(usage);
        }
    }

    fn answer(&mut self, id: &str, content: &str, failed: bool, each: &mut dyn FnMut(Entry)) {
        let at = self.calls.iter().position(|call| call.id == id);
        let call = at.and_then(|at| self.calls.remove(at));
        let is_next = self.last.as_deref() == Some(id);
        let tool = call.as_ref().map_or("", |call| &call.tool);
        let text = answer(tool, &text_of(content));
        self.last = None;
        each(Entry::Answer {
            depth: call.as_ref().map_or(0, |call| call.depth),
            call: call
                .filter(|_| !is_next)
                .map(|call| label(&call.tool, &call.subject)),
            text,
            failed,
        });
    }

    fn notice(&mut self, text: &str, each: &mut dyn FnMut(Entry)) {
        let text = headline(text);
        if !text.is_empty() {
            self.progress.action = Some(text.clone());
            self.last = None;
            each(Entry::Notice(text));
        }
    }

    fn result(&mut self, result: LastResult, each: &mut dyn FnMut(Entry)) {
        let text = match result.good {
            true => result.answer.unwrap_or_default(),
            false => result.complaint,
        };
        if !text.trim().is_empty() && text.trim() != self.said.trim() {
            each(match result.good {
                true => Entry::Say { depth: 0, text },
                false => Entry::Trouble(text),
            });
        }
        let usage = result.usage.map(|usage| usage.to_string());
        self.settled += tokens(&usage.unwrap_or_default());
        self.progress.tokens = self.settled;
        self.messages.clear();
        self.last = None;
        self.progress.cost_usd = result.cost_usd.or(self.progress.cost_usd);

        let mut text = match (result.good, result.signs.subtype.as_deref()) {
            (true, _) => "done".to_owned(),
            (false, None | Some("success")) => "failed".to_owned(),
            (false, Some(other)) => clean_line(other),
        };
        if let Some(turns) = result.turns {
            let _ = write!(text, ", {turns} turn{}", if turns == 1 { "" } else { "s" });
        }
        if let Some(ms) = result.duration_ms.filter(|ms| (0.0..1e15).contains(ms)) {
            let _ = write!(text, ", {}", human(Duration::from_millis(ms as u64)));
        }
        if let Some(spent) = spent(&self.progress) {
            let _ = write!(text, ", {spent}");
        }
        let good = result.good;
        each(Entry::Total { good, text });
    }
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
    let counts = members(Some(usage), keys);
    counts
        .into_iter()
        .filter_map(|json| parse::<u64>(json?))
        .sum()
}

fn label(tool: &str, subject: &str) -> String {
    format!("{tool} {subject}").trim_end().to_owned()
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
    let found = members(Some(input), keys);
    let text = found.into_iter().find_map(|json| parse_text(json?));
    let text = text.unwrap_or_default();
    let below = text
        .strip_prefix(cwd)
        .and_then(|rest| rest.strip_prefix('/'))
        .filter(|_| !cwd.is_empty());
    headline(below.unwrap_or(&text))
}

/// What a tool answered, in one line.
fn answer(tool: &str, text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim().is_empty()).count();
    if tool == "Read" && lines > 1 {
        return format!("{lines} lines");
    }
    let text = text.trim();
    let text = text
        .strip_prefix("<tool_use_error>")
        .map_or(text, |text| text.trim_end_matches("</tool_use_error>"));
    // Words of the agent's program to its model, which tell a person nothing.
    let text = text
        .split(" (file state is current")
        .next()
        .unwrap_or_default();
    match (headline(text), lines) {
        (first, 0) if first.is_empty() => "no output".to_owned(),
        (first, 0 | 1) => first,
        (first, 2) => format!("{first} (+1 line)"),
        (first, _) => format!("{first} (+{} lines)", lines - 1),
    }
}

/// The texts in the content of a message: a string, or blocks of which some are texts.
fn text_of(content: &str) -> String {
    if let Some(text) = parse_text(content) {
        return text;
    }
    let mut texts = Vec::new();
    each_item(Some(content), |block| {
        let [text, kind] = members(Some(block), ["text", "type"]);
        texts.push(match text.and_then(parse_text) {
            Some(text) => text,
            None => format!("[{}]", kind.and_then(word).unwrap_or_default()),
        });
    });
    texts.join("\n")
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

/// How many of the last bytes are the beginning of a character, or of `\r\n`.
fn unfinished(bytes: &[u8]) -> usize {
    if bytes.ends_with(b"\r") {
        return 1;
    }
    let start = |byte: u8| match byte {
        0xC0..=0xDF => 2,
        0xE0..=0xEF => 3,
        0xF0..=0xF7 => 4,
        _ => 1,
    };
    let last = bytes.iter().rev().take(3).enumerate();
    last.map(|(at, &byte)| (at + 1, start(byte)))
        .find(|(_, whole)| *whole > 1)
        .map_or(0, |(there, whole)| if there < whole { there } else { 0 })
}

/// Writes entries as lines for a person.
pub(super) struct Writer {
    style: Style,
    /// The columns to fit one-line entries into.
    width: usize,
    above: Above,
}

/// What stands above the next entry, which decides whether a blank line comes between.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Above {
    Nothing,
    Text,
    Lines,
    /// Output of a plain agent that did not end its line.
    OpenLine,
}

impl Writer {
    pub(super) fn new(style: Style, width: usize) -> Writer {
        Writer {
            style,
            width,
            above: Above::Nothing,
        }
    }

    /// Adds an entry to `out`.
    pub(super) fn entry(&mut self, entry: &Entry, out: &mut String) {
        let style = self.style;
        let (dot, hook) = if style.unicode {
            ("●", "└")
        } else {
            ("*", "`-")
        };
        match entry {
            Entry::Session { model, version } => {
                let line = format!("{} {}", clean_line(model), clean_line(version));
                self.line(0, "2", line.trim(), out);
            }
            Entry::Say { depth, text } => self.text(*depth, "", text, out),
            Entry::Trouble(text) => self.text(0, "31", text, out),
            Entry::Think { depth, text } => {
                let line = format!("(thinks) {text}");
                self.line(*depth, "2", line.trim_end(), out);
            }
            Entry::Call {
                depth,
                tool,
                subject,
            } => {
                // Bold for the tool alone: the line is fitted first, then painted.
                let line = self.fitted(*depth, &format!("{dot} {}", label(tool, subject)));
                let (head, rest) = line.split_at(line.len().min(dot.len() + 1 + tool.len()));
                let line = format!("{}{rest}", style.paint("1", head));
                self.start(Above::Lines, out);
                let _ = writeln!(out, "{}{line}", indent(*depth));
            }
            Entry::Answer {
                depth,
                call,
                text,
                failed,
            } => {
                let call = call.as_ref().map_or(String::new(), |call| {
                    format!("{}: ", fit(call, self.width / 3, style))
                });
                let error = if *failed { "error: " } else { "" };
                let color = if *failed { "31" } else { "2" };
                self.line(*depth, color, &format!("  {hook} {call}{error}{text}"), out);
            }
            Entry::Notice(text) => self.line(0, "33", &format!("! {text}"), out),
            Entry::Total { good, text } => {
                let line = format!("{} {text}", style.mark(*good));
                self.start(Above::Text, out);
                let _ = writeln!(out, "{line}");
            }
            Entry::Plain(text) => {
                if self.above == Above::Text {
                    out.push('\n');
                }
                out.push_str(&style.text(&clean(text)));
                self.above = match text.ends_with('\n') {
                    true => Above::Lines,
                    false => Above::OpenLine,
                };
            }
        }
    }

    /// Adds a line that separates starts and tells their ends.
    pub(super) fn seam(&mut self, text: &str, out: &mut String) {
        let rule = if self.style.unicode {
            "───"
        } else {
            "---"
        };
        let line = format!("{rule} {}", self.style.text(&clean_line(text)));
        self.start(Above::Text, out);
        let _ = writeln!(out, "{}", self.style.paint("1;34", &line));
        self.above = Above::Lines;
    }

    /// A whole text, with a blank line around it.
    fn text(&mut self, depth: usize, color: &str, text: &str, out: &mut String) {
        self.start(Above::Text, out);
        for line in clean(text.trim_end()).lines() {
            let line = format!("{}{}", indent(depth), self.style.text(line));
            let line = match color {
                "" => line,
                color => self.style.paint(color, &line),
            };
            let _ = writeln!(out, "{}", line.trim_end());
        }
        self.above = Above::Text;
    }

    fn line(&mut self, depth: usize, color: &str, line: &str, out: &mut String) {
        self.start(Above::Lines, out);
        let line = self.style.paint(color, &self.fitted(depth, line));
        let _ = writeln!(out, "{}{line}", indent(depth));
    }

    fn fitted(&self, depth: usize, line: &str) -> String {
        fit(
            line,
            self.width.saturating_sub(indent(depth).len()),
            self.style,
        )
    }

    /// Ends an open line, and separates texts from what is around them.
    fn start(&mut self, next: Above, out: &mut String) {
        if self.above == Above::OpenLine {
            out.push('\n');
            self.above = Above::Lines;
        }
        let apart = self.above == Above::Text || next == Above::Text;
        if apart && self.above != Above::Nothing {
            out.push('\n');
        }
        self.above = next;
    }
}

fn indent(depth: usize) -> String {
    "    ".repeat(depth)
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
        ascii_only: false,
        terminal: false,
    };

    fn fixture(name: &str) -> Vec<u8> {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/claude");
        std::fs::read(format!("{dir}/{name}.jsonl")).unwrap()
    }

    fn entries_of(protocol: Protocol, input: &[u8], piece: usize) -> (Vec<Entry>, Progress) {
        let mut reader = Reader::new(dialect(protocol));
        let mut entries = Vec::new();
        for piece in input.chunks(piece) {
            reader.feed(piece, &mut |entry| entries.push(entry));
        }
        reader.finish(&mut |entry| entries.push(entry));
        (entries, reader.progress)
    }

    fn told(entries: &[Entry], style: Style, width: usize) -> String {
        let mut writer = Writer::new(style, width);
        let mut out = String::new();
        entries
            .iter()
            .for_each(|entry| writer.entry(entry, &mut out));
        out
    }

    /// What a person reads of these events.
    fn read(events: &[Value]) -> String {
        let input: String = events.iter().map(|event| format!("{event}\n")).collect();
        told(
            &entries_of(Protocol::Claude, input.as_bytes(), 1 << 20).0,
            PLAIN,
            80,
        )
    }

    fn read_fixture(name: &str) -> String {
        told(
            &entries_of(Protocol::Claude, &fixture(name), 1 << 20).0,
            PLAIN,
            80,
        )
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
             `- 2 lines\n\
             * Edit src.txt\n  \
             `- The file /project/src.txt has been updated successfully.\n\
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
        assert!(told.contains("\nx error_max_turns, 4 turns,"), "{told}");
        let told = read_fixture("permission-denials");
        assert!(told.contains("* Bash cargo test\n  `- error: This command requires approval\n"));
    }

    #[test]
    fn it_does_not_matter_how_the_output_is_cut_into_pieces() {
        for name in ["tool-bash", "permission-denials", "compaction", "refusal"] {
            let input = fixture(name);
            let whole = entries_of(Protocol::Claude, &input, input.len());
            for piece in [1, 7, 100, 4099] {
                assert_eq!(
                    entries_of(Protocol::Claude, &input, piece),
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
            let (entries, _) = entries_of(Protocol::Claude, &std::fs::read(&path).unwrap(), 999);
            let singles = entries
                .iter()
                .filter(|entry| !matches!(entry, Entry::Say { .. } | Entry::Trouble(_)));
            let singles: Vec<Entry> = singles.cloned().collect();
            for width in [10, 40, 200] {
                let text = told(&singles, PLAIN, width);
                let is_fine = |c: char| c == '\n' || !c.is_control();
                assert!(text.chars().all(is_fine), "{path:?}");
                for line in text.lines().filter(|line| !line.contains(" turn")) {
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
            let mut reader = Reader::new(dialect(Protocol::Claude));
            let mut entries = Vec::new();
            for line in String::from_utf8(fixture(name)).unwrap().lines() {
                let mut event: Value = serde_json::from_str(line).unwrap();
                arm(&mut event);
                let line = format!("{event}\n");
                reader.feed(line.as_bytes(), &mut |entry| entries.push(entry));
                let action = reader.progress.action.clone().unwrap_or_default();
                assert!(is_harmless(&action) && !action.contains('\n'), "{action:?}");
            }
            let text = told(&entries, PLAIN, 80);
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
        let events = [message("a"), message("a"), message("b"), message("a")];
        let mut input: String = events.iter().map(|event| format!("{event}\n")).collect();
        let tokens = |input: &str| entries_of(Protocol::Claude, input.as_bytes(), 50).1;
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
            let (entries, progress) = entries_of(Protocol::Plain, input, piece);
            assert_eq!(told(&entries, PLAIN, 5), whole, "{piece}");
            assert!(progress.action.is_some());
        }
        let (entries, _) = entries_of(Protocol::Plain, b"\xff\xe2\x82", 2);
        assert_eq!(told(&entries, PLAIN, 5), "\u{fffd}\u{fffd}");
    }

    #[test]
    fn what_is_no_event_is_shown_and_what_is_unknown_is_not() {
        let mut input =
            b"srun: job 5 queued\n{\"type\":\"new_kind\"}\n[1]\n{\"type\":5}\n".to_vec();
        input.extend_from_slice(
            b"{\"type\":\"assistant\",\"message\":{\"content\":[5,null,{}]}}\n{\"type\":\"as",
        );
        let (entries, _) = entries_of(Protocol::Claude, &input, 64);
        assert_eq!(
            told(&entries, PLAIN, 40),
            "srun: job 5 queued\n[1]\n! the output breaks off: {\"type\":\"as\n"
        );
    }
}
