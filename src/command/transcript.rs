//! What an agent's output tells a person: events become lines. Pure, and in bounded memory whatever
//! the agent wrote; `logs` prints the lines, `wait` and `watch` show only what the agent does just now.

use super::*;

/// So many calls whose answers are still to come are remembered; with more, all are forgotten.
const CALLS_MAX: usize = 200;
/// What is kept of a text that will be shown in one line.
const HEADLINE_MAX: usize = 400;
/// Sub-agents of sub-agents are not indented further than this.
const DEPTH_MAX: usize = 4;
/// What a tool works on: the first of these that its input has.
const SUBJECTS: &str =
    "command file_path notebook_path pattern url query skill description path prompt";

/// Reads the output of one start after the other, and writes lines for a person.
#[derive(Default)]
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
    start: Start,
}

/// What is known of one start.
#[derive(Default)]
struct Start {
    /// What the agent does just now.
    action: Option<String>,
    dialect: &'static Dialect,
    lines: Lines,
    /// Of a plain agent: the beginning of a character, or of the end of a line.
    held: Vec<u8>,
    cwd: String,
    /// Depth and words of calls by their ids.
    calls: HashMap<String, (usize, String)>,
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
            ..Transcript::default()
        }
    }

    /// Another output begins; that of a dialect without events is printed as it is.
    pub(super) fn begin(&mut self, dialect: &'static Dialect) {
        self.start = Start::default();
        self.start.dialect = dialect;
    }

    /// What the agent does just now, if it has told anything.
    pub(super) fn action(&self) -> Option<&str> {
        self.start.action.as_deref()
    }

    /// Takes the next bytes.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        if self.start.dialect.read.is_none() {
            return self.plain(bytes);
        }
        let mut lines = take(&mut self.start.lines);
        lines.feed(bytes, &mut |line| self.hear(line));
        self.start.lines = lines;
    }

    /// The output is complete.
    pub(super) fn finish(&mut self) {
        take(&mut self.start.lines).finish(&mut |line| self.hear(line));
        let held = take(&mut self.start.held);
        self.print(&String::from_utf8_lossy(&held));
    }

    /// The lines since the last time.
    pub(super) fn take(&mut self) -> String {
        take(&mut self.out)
    }

    /// Adds a line that separates starts and tells their ends.
    pub(super) fn seam(&mut self, text: &str) {
        self.text(0, "1;34", &format!("─── {}", clean_line(text)));
        self.above = Above::Lines;
    }

    /// A plain agent prints as it likes; what it prints is shown when it comes, not line by line.
    fn plain(&mut self, bytes: &[u8]) {
        let held = &mut self.start.held;
        held.extend_from_slice(bytes);
        // Half a character, or half of the end of a line, waits for the rest.
        let whole = match std::str::from_utf8(held) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => held.len(),
        };
        let whole = whole - usize::from(held[..whole].ends_with(b"\r"));
        let text = String::from_utf8_lossy(&held[..whole]);
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        held.drain(..whole);
        if let Some(last) = text.lines().rfind(|line| !line.trim().is_empty()) {
            self.start.action = Some(headline(last));
        }
        self.print(&text);
    }

    fn hear(&mut self, line: &str) {
        let dialect = self.start.dialect;
        if let Some(read) = dialect.read {
            events(line, read, &mut |event| self.event(event));
        }
    }

    fn event(&mut self, event: Event<'_>) {
        let goes_on = take(&mut self.start.speaking);
        match event {
            Event::Session(session) => {
                let words = [session.model, session.version].into_iter().flatten();
                let words = clean_line(&words.collect::<Vec<_>>().join(" "));
                if !words.is_empty() {
                    self.line(0, "2", &words);
                }
                self.start.cwd = session.cwd;
            }
            Event::Say(by, text) => {
                let depth = self.depth_below(by);
                self.act(&text);
                if !text.trim().is_empty() {
                    self.text(depth, "", &text);
                }
                self.start.said = text;
            }
            Event::More(text) => {
                if !goes_on {
                    self.act(&text);
                    self.begin_line(Above::Text);
                }
                self.out.push_str(&clean(&text));
                (self.open, self.start.speaking) = (!text.ends_with('\n'), true);
            }
            Event::Call(by, id, tool, input, _) => self.call(by, id, &tool, input),
            Event::Answer(id, content, failed) => self.answer(&id, content, failed),
            Event::Trouble(text, _) if !text.is_empty() && text != self.start.said => {
                self.act(&text);
                self.text(0, "31", &text);
                self.start.said = text;
            }
            Event::Feedback(text) => self.notice(&format!("a hook: {text}")),
            Event::Offline(text) | Event::Blocked(text) => self.notice(&text),
            Event::Retry(text, _) => self.notice(&text),
            Event::Result(result) => self.result(*result),
            Event::Plain(text) => self.print(&format!("{text}\n")),
            Event::Lost(start) => self.notice(&format!("cut or too long: {}", headline(start))),
            _ => {}
        }
    }

    fn call(&mut self, below: Option<String>, id: String, tool: &str, input: &str) {
        let depth = self.depth_below(below);
        let label = format!("{} {}", clean_line(tool), subject(input, &self.start.cwd));
        let label = label.trim_end().to_owned();
        self.act(&label);
        self.line(depth, "1", &format!("● {label}"));
        if self.start.calls.len() == CALLS_MAX {
            self.start.calls.clear();
        }
        self.start.last.clone_from(&id);
        self.start.calls.insert(id, (depth, label));
    }

    fn answer(&mut self, id: &str, content: &str, failed: bool) {
        let (depth, label) = self.start.calls.remove(id).unwrap_or_default();
        let of = match take(&mut self.start.last) == id {
            true => String::new(),
            false => format!("{}: ", fit(&label, self.width / 3)),
        };
        let (color, error) = if failed { ("31", "error: ") } else { ("2", "") };
        let text = answer(&text_of(content));
        self.line(depth, color, &format!("  └ {of}{error}{text}"));
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
        if !text.trim().is_empty() && text.trim() != self.start.said.trim() {
            self.text(0, if good { "" } else { "31" }, &text);
        }
        let mut parts = vec![match (good, result.ending.as_deref()) {
            (true, _) => "done".to_owned(),
            (false, None | Some("success" | "api_error")) => "failed".to_owned(),
            (false, Some(other)) => clean_line(other),
        }];
        parts.extend(result.turns.map(|turns| counted(turns, "turn")));
        let lasted = result.duration_ms.filter(|ms| (0.0..1e15).contains(ms));
        parts.extend(lasted.map(|ms| human(Duration::from_millis(ms as u64))));
        let tokens = result.usage.as_ref().map_or(0, tokens);
        parts.extend((tokens > 0).then(|| format!("{tokens} tokens")));
        parts.extend(result.cost_usd.map(|cost| format!("${cost:.4}")));
        let mark = self.style.mark(good);
        self.begin_line(Above::Text);
        self.out.push_str(&format!("{mark} {}\n", parts.join(", ")));
    }

    /// What it does just now; and something other than a call stands last.
    fn act(&mut self, action: &str) {
        self.start.action = Some(headline(action));
        self.start.last.clear();
    }

    fn depth_below(&self, call: Option<String>) -> usize {
        let above = |id: String| self.start.calls.get(&id).map_or(0, |(depth, _)| *depth);
        call.map_or(0, |id| above(id) + 1).min(DEPTH_MAX)
    }

    // --- lines ---

    /// Output as it came, harmless.
    fn print(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        if self.above == Above::Text {
            self.begin_line(Above::Lines);
        }
        self.out.push_str(&clean(text));
        (self.above, self.open) = (Above::Lines, !text.ends_with('\n'));
    }

    /// A whole text, with a blank line around it.
    fn text(&mut self, depth: usize, color: &str, text: &str) {
        self.begin_line(Above::Text);
        let indent = "    ".repeat(depth);
        for line in clean(text.trim_end()).lines() {
            let line = format!("{indent}{line}");
            let line = self.style.paint(color, line.trim_end());
            self.out.push_str(&(line + "\n"));
        }
    }

    /// One line, cut at the edge.
    fn line(&mut self, depth: usize, color: &str, line: &str) {
        self.begin_line(Above::Lines);
        let line = "    ".repeat(depth) + line.trim_end();
        let line = self.style.paint(color, &fit(&line, self.width));
        self.out.push_str(&(line + "\n"));
    }

    /// Ends an open line, and separates texts from what is around them.
    fn begin_line(&mut self, next: Above) {
        if take(&mut self.open) {
            self.out.push('\n');
        }
        let apart = self.above == Above::Text || next == Above::Text;
        if apart && self.above != Above::Nothing {
            self.out.push('\n');
        }
        self.above = next;
    }
}

/// The tokens that a turn used, those read from a cache left out: each request reads the whole
/// conversation from there again.
fn tokens(usage: &Value) -> u64 {
    let keys = "input_tokens output_tokens cache_creation_input_tokens".split(' ');
    let counts = keys.filter_map(|key| usage[key].as_u64());
    counts.fold(0, u64::saturating_add)
}

/// What a tool is asked to work on, in one line; a file in the directory of work by its name there.
fn subject(input: &str, cwd: &str) -> String {
    let input = object(input).unwrap_or_default();
    let mut keys = SUBJECTS.split(' ');
    let text = keys.find_map(|key| parse_text(input.raw(key)));
    let text = text.unwrap_or_default();
    let below = text.strip_prefix(cwd).filter(|_| !cwd.is_empty());
    let below = below.and_then(|rest| rest.strip_prefix('/'));
    headline(below.unwrap_or(&text))
}

/// What a tool answered, in one line.
fn answer(text: &str) -> String {
    let first = headline(text.trim().trim_start_matches("<tool_use_error>"));
    match text.lines().filter(|line| !line.trim().is_empty()).count() {
        0 => "no output".to_owned(),
        1 => first,
        lines => format!("{first} (+{} more)", lines - 1),
    }
}

/// The texts in the content of a message: a string, or blocks of which some are texts.
fn text_of(content: &str) -> String {
    let of_block = |block: &RawValue| {
        let block = object(block.get()).unwrap_or_default();
        let kind = || format!("[{}]", block.word("type").unwrap_or_default());
        parse_text(block.raw("text")).unwrap_or_else(kind)
    };
    parse_text(content).unwrap_or_else(|| {
        let blocks: Vec<&RawValue> = serde_json::from_str(content).unwrap_or_default();
        let texts: Vec<String> = blocks.into_iter().map(of_block).collect();
        texts.join("\n")
    })
}

/// The first line that says something, on one line and harmless.
fn headline(text: &str) -> String {
    let line = text.lines().find(|line| !line.trim().is_empty());
    fit(&clean_line(line.unwrap_or_default()), HEADLINE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::dialect;
    use crate::project::Protocol;
    use crate::render::width;
    use serde_json::{Value, json};

    const PLAIN: Style = Style {
        color: false,
        terminal: false,
    };

    fn fixture(name: &str) -> Vec<u8> {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/claude");
        std::fs::read(format!("{dir}/{name}.jsonl")).unwrap()
    }

    fn transcript(protocol: Protocol, input: &[u8], piece: usize, columns: usize) -> Transcript {
        let mut transcript = Transcript::new(PLAIN, columns);
        transcript.begin(dialect(protocol));
        input.chunks(piece).for_each(|piece| transcript.feed(piece));
        transcript.finish();
        transcript
    }

    fn told(protocol: Protocol, input: &[u8], piece: usize) -> (String, Option<String>) {
        let mut transcript = transcript(protocol, input, piece, 80);
        (transcript.take(), transcript.action().map(str::to_owned))
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
             ● Bash echo hello from the stub\n  \
             └ hello from the stub\n\
             \n\
             The task is done.\n\
             \n\
             ✓ done, 2 turns, 0s, 240 tokens, $0.0016\n"
        );
        assert_eq!(
            read_fixture("tool-edit"),
            "claude-opus-5-5 2.1.328\n\
             ● Read src.txt\n  \
             └ 1 line before end (+1 more)\n\
             ● Edit src.txt\n  \
             └ The file /project/src.txt has been updated successfully. (file state is cur…\n\
             \n\
             The task is done.\n\
             \n\
             ✓ done, 3 turns, 0s, 360 tokens, $0.0024\n"
        );
    }

    #[test]
    fn failures_are_told_once_and_in_the_agent_s_words() {
        let told = read_fixture("api-529-recovered");
        assert!(told.contains("! no answer from the service: overloaded; try 1 of 10"));
        let told = read_fixture("api-400");
        assert_eq!(told.matches("API Error: 400").count(), 1, "{told}");
        assert!(told.contains("\n✗ failed, 1 turn,"), "{told}");
        let told = read_fixture("max-turns");
        assert!(
            told.contains("\nReached maximum number of turns (3)\n"),
            "{told}"
        );
        assert!(told.contains("\n✗ max_turns, 4 turns,"), "{told}");
        let told = read_fixture("permission-denials");
        assert!(told.contains("● Bash cargo test\n  └ error: This command requires approval\n"));
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
        for protocol in [Protocol::Claude, Protocol::Codex, Protocol::Gemini] {
            let dialect = dialect(protocol);
            let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
            let mut seen = 0;
            for file in std::fs::read_dir(format!("{dir}/{}", dialect.name)).unwrap() {
                let path = file.unwrap().path();
                let name = path.to_string_lossy();
                if !name.ends_with(".jsonl") || name.ends_with(".rollout.jsonl") {
                    continue;
                }
                let input = std::fs::read(&path).unwrap();
                for columns in [10, 40, 200] {
                    let text = transcript(protocol, &input, 999, columns).take();
                    let is_fine = |c: char| c == '\n' || c == '\t' || !c.is_control();
                    assert!(text.chars().all(is_fine), "{path:?}");
                    let singles = text
                        .lines()
                        .filter(|line| line.starts_with(['●', '!', '(']));
                    for line in singles {
                        assert!(width(line) <= columns, "{path:?}: {line}");
                    }
                }
                seen += 1;
            }
            assert!(seen > 50);
        }
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
            transcript.begin(dialect(Protocol::Claude));
            for line in String::from_utf8(fixture(name)).unwrap().lines() {
                let mut event: Value = serde_json::from_str(line).unwrap();
                arm(&mut event);
                transcript.feed(format!("{event}\n").as_bytes());
                let action = transcript.action().unwrap_or_default();
                assert!(is_harmless(action) && !action.contains('\n'), "{action:?}");
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
            "● Task look around\n\
             \n    \
             I look.\n\
             \n    \
             ● Grep fn main\n    \
             ● Bash ls\n      \
             └ Grep fn main: 3 files (+2 more)\n      \
             └ Bash ls: no output\n  \
             └ Task look around: All is there.\n\
             \n\
             Good.\n"
        );
    }

    #[test]
    fn an_answer_without_a_message_before_it_is_told_by_the_result() {
        let result = |text: &str| json!({"type": "result", "subtype": "success", "is_error": false, "result": text});
        assert!(read(&[result("Only here.")]).starts_with("Only here.\n\n✓ done"));
        assert_eq!(
            read(&[say(None, "Twice."), result("Twice.")])
                .matches("Twice")
                .count(),
            1
        );
    }

    #[test]
    fn tokens_read_from_a_cache_are_not_counted() {
        let usage = json!({"input_tokens": 10, "output_tokens": 1, "cache_read_input_tokens": 999});
        assert_eq!((tokens(&usage), tokens(&json!("odd"))), (11, 0));
    }

    #[test]
    fn a_plain_agent_prints_as_it_does_but_for_what_a_terminal_would_obey() {
        let input = "no newline: ü日\r\n10%\r20%\nred \x1b[31m 😀".as_bytes();
        let whole = "no newline: ü日\n10%\n20%\nred \u{fffd}[31m 😀";
        for piece in 1..input.len() + 1 {
            let (text, action) = told(Protocol::Plain, input, piece);
            assert_eq!(text, whole, "{piece}");
            assert!(action.is_some());
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
