//! Values -> text for a terminal. The only place where text of jobs and agents meets one, and so
//! the only place that must make it harmless.

use crate::cli::Format;
use crate::error::{Error, Result};
use crate::settings;
use serde::Serialize;
use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::path::Path;

/// What the reader of standard output can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Colours and other escape sequences.
    pub color: bool,
    /// Characters beyond ASCII.
    pub unicode: bool,
    /// A person is looking.
    pub terminal: bool,
}

impl Style {
    /// What standard output can show: colour on a capable terminal that nobody asked to keep plain,
    /// characters beyond ASCII where the locale has them.
    pub fn of_stdout() -> Style {
        let terminal = io::stdout().is_terminal();
        let dumb = settings::variable("TERM").is_none_or(|term| term == "dumb");
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .into_iter()
            .find_map(settings::variable);
        let utf8 = locale.is_some_and(|name| {
            let name = name.to_ascii_lowercase();
            name.contains("utf-8") || name.contains("utf8")
        });
        Style {
            color: terminal && !dumb && settings::variable("NO_COLOR").is_none(),
            unicode: utf8 && !(terminal && dumb),
            terminal,
        }
    }

    /// The mark in front of something that went well, or did not.
    pub fn mark(self, good: bool) -> String {
        match (good, self.unicode) {
            (true, true) => self.paint("32", "✓"),
            (false, true) => self.paint("31", "✗"),
            (true, false) => self.paint("32", "+"),
            (false, false) => self.paint("31", "x"),
        }
    }

    /// Text in a colour, by the number of its escape sequence.
    pub fn paint(self, color: &str, text: &str) -> String {
        if self.color {
            format!("\x1b[{color}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Text from outside without anything that could move a cursor, change a terminal's state or
/// reorder a line: C0 but newline and tab, DEL, C1, and the bidirectional controls.
pub fn clean(text: &str) -> Cow<'_, str> {
    if text.contains(is_harmful) {
        Cow::Owned(text.replace(is_harmful, "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// [`clean`], and on one line.
pub fn clean_line(text: &str) -> String {
    clean(text).split_whitespace().collect::<Vec<_>>().join(" ")
}

fn is_harmful(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t')
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The beginning of a text, so many characters at most.
pub fn shorten(text: &str, max: usize) -> Cow<'_, str> {
    match text.char_indices().nth(max) {
        Some((end, _)) => Cow::Owned(format!("{}…", text[..end].trim_end())),
        None => Cow::Borrowed(text),
    }
}

/// Writes an answer to standard output: the text, or the value as one JSON document.
pub fn answer(format: Format, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
    match format {
        Format::Text => print(&text()),
        Format::Json => {
            let mut json = serde_json::to_string(value)
                .map_err(|e| Error::new(format!("the answer cannot be written as JSON: {e}")))?;
            json.push('\n');
            print(&json)
        }
    }
}

/// Writes text to standard output. A reader that has gone has seen what it wanted.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|e| Error::io("write", Path::new("standard output"), e)),
    }
}

/// Writes a message to standard error; that nobody hears it cannot be told to anybody.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "job-monitor: {}", clean(text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_byte_string_reaches_the_terminal_as_a_command() {
        for code in (0..=0x10_ffff).filter_map(char::from_u32) {
            let text = format!("a{code}b");
            let cleaned = clean(&text);
            let harmless = |c: char| c == '\n' || c == '\t' || !c.is_control();
            assert!(cleaned.chars().all(harmless), "{code:?}");
            assert!(!cleaned.contains(['\u{202e}', '\u{2066}']), "{code:?}");
        }
        assert_eq!(clean("\x1b]0;x\x07"), "\u{fffd}]0;x\u{fffd}");
        assert!(matches!(clean("plain\n\ttext ü"), Cow::Borrowed(_)));
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(shorten("üüü", 2), "üü…");
        assert_eq!(shorten("üü", 2), "üü");
        assert_eq!(clean_line(" a\n\tb\r\nc "), "a b c");
    }
}
