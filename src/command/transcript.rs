//! What an agent's output tells a person: events become lines. Pure, and in bounded memory whatever
//! the agent wrote; `logs` prints the lines, `wait` and `watch` show only what the agent does just now.

use super::*;

/// What is kept of a text that will be shown in one line.
const HEADLINE_MAX: usize = 400;
/// What a tool works on: the first of these that its input has.
const SUBJECTS: &str =
    "command file_path notebook_path pattern url query skill description path prompt";

/// Reads the output of one start, and writes lines for a person.
#[derive(Default)]
pub(super) struct Transcript {
    style: Style,
    /// The columns to fit single lines into.
    width: usize,
    /// Whether the output consists of events; else it is printed as it is.
    has_events: bool,
    /// How the events are read. As long as that is not known, each line is asked whose output it opens.
    pub dialect: &'static Dialect,
    lines: Lines,
    /// What was told and not taken yet.
    pub out: String,
    /// Whether the last line may still go on.
    open: bool,
    /// What the agent does just now, if it has told anything.
    pub action: Option<String>,
    /// The last thing said or complained of, which the result repeats.
    said: String,
}

impl Transcript {
    pub(super) fn new(style: Style, width: usize, has_events: bool) -> Transcript {
        Transcript {
            style,
            width,
            has_events,
            ..Transcript::default()
        }
    }

    /// Takes the next bytes.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        if self.has_events {
            let mut lines = take(&mut self.lines);
            lines.feed(bytes, &mut |line| self.hear(line));
            self.lines = lines;
            return;
        }
        let text = String::from_utf8_lossy(bytes);
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        if let Some(last) = text.lines().rfind(|line| !line.trim().is_empty()) {
            self.action = Some(headline(last));
        }
        self.print(&text);
    }

    /// The output is complete.
    pub(super) fn finish(&mut self) {
        take(&mut self.lines).finish(&mut |line| self.hear(line));
        self.end_line();
    }

    fn hear(&mut self, line: &str) {
        if self.dialect.read.is_none() {
            self.dialect = agent::recognise(line);
        }
        match self.dialect.read {
            Some(read) => events(line, read, &mut |event| self.event(event)),
            None => self.print(&format!("{line}\n")),
        }
    }

    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Say(text) | Event::Aside(text) => self.say("", text),
            Event::More(text) => {
                if !self.open {
                    self.action = Some(headline(&text));
                }
                self.print(&text);
            }
            Event::Call(_, tool, input, _) => {
                let label = format!("{} {}", clean_line(&tool), subject(input));
                self.line("1", &format!("● {label}"));
                self.action = Some(label.trim_end().to_owned());
            }
            Event::Answer(_, content, failed) => {
                let (color, error) = if failed { ("31", "error: ") } else { ("2", "") };
                let text = headline(&text_of(content));
                self.line(color, &format!("  └ {error}{text}"));
            }
            Event::Trouble(text, _) => self.say("31", text),
            Event::Feedback(text)
            | Event::Offline(text)
            | Event::Blocked(text)
            | Event::Retry(text, _) => {
                let text = headline(&text);
                if !text.is_empty() {
                    self.line("33", &format!("! {text}"));
                    self.action = Some(text);
                }
            }
            Event::Result(result) => self.result(*result),
            Event::Plain(text) => self.print(&format!("{text}\n")),
            _ => {}
        }
    }

    fn result(&mut self, result: LastResult) {
        let good = result.good;
        let text = result.answer.filter(|_| good).unwrap_or(result.complaint);
        self.say(if good { "" } else { "31" }, text);
        let mut parts = vec![match (good, result.ending.as_deref()) {
            (true, _) => "done".to_owned(),
            (false, None | Some("success" | "api_error")) => "failed".to_owned(),
            (false, Some(other)) => clean_line(other),
        }];
        parts.extend(result.turns.map(|turns| counted(turns, "turn")));
        parts.extend(result.cost_usd.map(|cost| format!("${cost:.4}")));
        let ending = if good { Ending::Good } else { Ending::Bad };
        let mark = ending.mark(self.style);
        self.end_line();
        self.out += &format!("\n{mark} {}\n", parts.join(", "));
    }

    // --- lines ---

    /// A whole text, with a blank line before it, unless it was just told.
    fn say(&mut self, color: &str, text: String) {
        if text.trim().is_empty() || text.trim() == self.said.trim() {
            return;
        }
        self.end_line();
        self.out.push('\n');
        for line in clean(text.trim_end()).lines() {
            self.out += &(self.style.paint(color, line.trim_end()) + "\n");
        }
        self.action = Some(headline(&text));
        self.said = text;
    }

    /// Output as it came, harmless.
    fn print(&mut self, text: &str) {
        if !text.is_empty() {
            self.out += &clean(text);
            self.open = !text.ends_with('\n');
        }
    }

    /// One line, cut at the edge.
    fn line(&mut self, color: &str, line: &str) {
        self.end_line();
        let line = self.style.paint(color, &fit(line.trim_end(), self.width));
        self.out += &(line + "\n");
    }

    fn end_line(&mut self) {
        if take(&mut self.open) {
            self.out.push('\n');
        }
    }
}

/// What a tool is asked to work on, in one line.
pub(super) fn subject(input: &str) -> String {
    let input = object(input).unwrap_or_default();
    let mut keys = SUBJECTS.split(' ');
    let text = keys.find_map(|key| parse_text(input.raw(key)));
    headline(&text.unwrap_or_default())
}

/// The texts in the content of a message: a string, or blocks of which some are texts.
fn text_of(content: &str) -> String {
    parse_text(content).unwrap_or_else(|| {
        let blocks: Vec<&RawValue> = serde_json::from_str(content).unwrap_or_default();
        let blocks = blocks.into_iter().filter_map(|block| object(block.get()));
        let texts: Vec<String> = blocks.map(|block| block.text("text")).collect();
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

    fn fixture(name: &str) -> Vec<u8> {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/claude");
        std::fs::read(format!("{dir}/{name}.jsonl")).unwrap()
    }

    fn transcript(protocol: Protocol, input: &[u8], piece: usize, columns: usize) -> Transcript {
        let has_events = protocol != Protocol::Plain;
        let mut transcript = Transcript::new(Style::default(), columns, has_events);
        // Most of what the tests write does not begin with the opening event.
        transcript.dialect = dialect(protocol);
        input.chunks(piece).for_each(|piece| transcript.feed(piece));
        transcript.finish();
        transcript
    }

    fn told(protocol: Protocol, input: &[u8], piece: usize) -> (String, Option<String>) {
        let transcript = transcript(protocol, input, piece, 80);
        (transcript.out, transcript.action)
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
        let ran = "
I will run a command.
● Bash echo hello from the stub
  └ hello from the stub

The task is done.

✓ done, 2 turns, $0.0016
";
        assert_eq!(read_fixture("tool-bash"), ran);
        let edited = "● Read /project/src.txt
  └ 1 line before end
● Edit /project/src.txt
  └ The file /project/src.txt has been updated successfully. (file state is cur…

The task is done.

✓ done, 3 turns, $0.0024
";
        assert_eq!(read_fixture("tool-edit"), edited);
    }

    #[test]
    fn failures_are_told_once_and_in_the_agent_s_words() {
        let told = read_fixture("api-529-recovered");
        assert!(told.contains("! no answer from the service: overloaded; try 1 of 10"));
        let told = read_fixture("api-400");
        assert_eq!(told.matches("API Error: 400").count(), 1, "{told}");
        assert!(told.contains("\n✗ failed, 1 turn,"), "{told}");
        let told = read_fixture("max-turns");
        let limit = "\nReached maximum number of turns (3)\n";
        assert!(told.contains(limit), "{told}");
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
                let told = told(Protocol::Claude, &input, piece);
                assert_eq!(told, whole, "{name} {piece}");
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
                    let text = transcript(protocol, &input, 999, columns).out;
                    let is_fine = |c: char| c == '\n' || c == '\t' || !c.is_control();
                    assert!(text.chars().all(is_fine), "{path:?}");
                    let is_single = |line: &&str| line.starts_with(['●', '!', '(']);
                    for line in text.lines().filter(is_single) {
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
        for name in "permission-denials api-529-recovered refusal thinking".split(' ') {
            let mut transcript = transcript(Protocol::Claude, b"", 1, 80);
            for line in String::from_utf8(fixture(name)).unwrap().lines() {
                let mut event: Value = serde_json::from_str(line).unwrap();
                arm(&mut event);
                transcript.feed(format!("{event}\n").as_bytes());
                let action = transcript.action.clone().unwrap_or_default();
                assert!(is_harmless(&action) && !action.contains('\n'), "{action:?}");
            }
            let text = transcript.out;
            assert!(text.contains("[2J"), "{text}");
            assert!(is_harmless(&text), "{text:?}");
        }
    }

    #[test]
    fn of_what_a_tool_answered_the_texts_are_told() {
        let text = read(&[
            say(Some("t"), "I look."),
            call("a", Some("t"), "Grep", json!({"pattern": "fn main"})),
            call("b", Some("t"), "Bash", json!({"command": "ls\nwc"})),
            answer_to(
                "a",
                json!([{"type": "text", "text": "3 files\nx"}, {"type": "image"}]),
            ),
            answer_to("b", json!("")),
            say(None, "Good."),
        ]);
        let shown = "
I look.
● Grep fn main
● Bash ls
  └ 3 files
  └

Good.
";
        assert_eq!(text, shown);
    }

    #[test]
    fn an_answer_without_a_message_before_it_is_told_by_the_result() {
        let result = |text: &str| json!({"type": "result", "subtype": "success", "is_error": false, "result": text});
        assert!(read(&[result("Only here.")]).starts_with("\nOnly here.\n\n✓ done"));
        let twice = read(&[say(None, "Twice."), result("Twice.")]);
        assert_eq!(twice.matches("Twice").count(), 1);
    }

    #[test]
    fn a_plain_agent_prints_as_it_does_but_for_what_a_terminal_would_obey() {
        let input = "no newline: ü日\r\n10%\r20%\n\nred \x1b[31m 😀".as_bytes();
        let (text, action) = told(Protocol::Plain, input, 100);
        assert_eq!(text, "no newline: ü日\n10%\n20%\n\nred \u{fffd}[31m 😀\n");
        assert!(action.is_some());
    }

    #[test]
    fn what_is_no_event_is_shown_and_what_is_unknown_is_not() {
        let input = r#"srun: job 5 queued
{"type":"new_kind"}
[1]
{"type":5}
{"type":"assistant","message":{"content":[5,null,{}]}}
{"type":"as"#;
        let (shown, _) = told(Protocol::Claude, input.as_bytes(), 64);
        assert_eq!(shown, "srun: job 5 queued\n[1]\n");
    }
}
