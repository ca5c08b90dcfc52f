//! Values -> text for a terminal. The only place where text of jobs and agents meets one, and so
//! the only place that must make it harmless.

use crate::cli::Format;
use crate::error::{Error, Result, is_harmful};
use crate::settings;
use serde::Serialize;
use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write};
use std::path::Path;

/// What the reader of standard output can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Colours and other escape sequences.
    pub color: bool,
    /// Characters beyond ASCII, for our own signs.
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
        Style {
            color: terminal && !dumb && settings::variable("NO_COLOR").is_none(),
            unicode: is_utf8() && !(terminal && dumb),
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

/// Whether the locale has UTF-8. A reader of another encoding may take a byte of it for a control
/// character.
fn is_utf8() -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .find_map(settings::variable);
    locale.is_some_and(|name| {
        ["utf-8", "utf8"]
            .iter()
            .any(|end| name.to_ascii_lowercase().contains(end))
    })
}

/// A text as the locale can show it: the one rule for all that is printed but JSON and raw logs.
pub fn encoded(text: &str) -> Cow<'_, str> {
    if text.is_ascii() || is_utf8() {
        return Cow::Borrowed(text);
    }
    let shown = |c: char| match c {
        '…' => "...".to_owned(),
        '−' | '–' | '—' => "-".to_owned(),
        c if c.is_ascii() => c.to_string(),
        _ => "?".to_owned(),
    };
    Cow::Owned(text.chars().map(shown).collect())
}

/// Text from outside without anything that could move a cursor, change a terminal's state or
/// reorder a line: C0 but newline and tab, DEL, C1, and the bidirectional controls. The ends of
/// lines of DOS are ends of lines.
pub fn clean(text: &str) -> Cow<'_, str> {
    if text.contains(is_harmful) {
        Cow::Owned(text.replace("\r\n", "\n").replace(is_harmful, "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// [`clean`], and on one line.
pub fn clean_line(text: &str) -> String {
    clean(&text.split_whitespace().collect::<Vec<_>>().join(" ")).into_owned()
}

/// The beginning of a text, so many characters at most.
pub fn shorten(text: &str, max: usize) -> Cow<'_, str> {
    match text.char_indices().nth(max) {
        Some((end, _)) => Cow::Owned(format!("{}…", text[..end].trim_end())),
        None => Cow::Borrowed(text),
    }
}

/// A line that takes at most so many columns; what is cut off is marked.
pub fn fit(line: &str, columns: usize, style: Style) -> String {
    if line.chars().map(columns_of).sum::<usize>() <= columns {
        return line.to_owned();
    }
    let mark = if style.unicode { "…" } else { "..." };
    let mut left = columns.saturating_sub(mark.chars().count());
    let kept = line.chars().take_while(|&c| {
        let room = left.checked_sub(columns_of(c));
        left = room.unwrap_or(left);
        room.is_some()
    });
    let kept: String = kept.collect();
    let cut = format!("{}{mark}", kept.trim_end());
    cut.chars().take(columns).collect()
}

/// How many columns a terminal gives a character: the wide blocks of Unicode, near enough. libc's
/// `wcwidth` would first need the process's locale to be set.
pub fn columns_of(c: char) -> usize {
    match c {
        '\u{300}'..='\u{36f}' | '\u{200b}'..='\u{200d}' | '\u{fe00}'..='\u{fe0f}' => 0,
        '\u{1100}'..='\u{115f}'
        | '\u{2e80}'..='\u{a4cf}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{fe30}'..='\u{fe6f}'
        | '\u{ff00}'..='\u{ff60}'
        | '\u{ffe0}'..='\u{ffe6}'
        | '\u{1f300}'..='\u{1faff}'
        | '\u{20000}'..='\u{3fffd}' => 2,
        _ => 1,
    }
}

/// A text as a shell reads it as one word.
pub fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:,@%=".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

/// Writes an answer to standard output: the text, or the value as one JSON document.
pub fn answer(format: Format, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
    match format {
        Format::Text => print(&text()),
        Format::Json => print(&(json(value)? + "\n")),
    }
}

/// A value as JSON that does a terminal no harm.
pub fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value)
        .map(|json| calm_json(&json).into_owned())
        .map_err(|e| Error::new(format!("the answer cannot be written as JSON: {e}")))
}

/// The same JSON without what [`clean`] takes out of a text, and without what the locale cannot
/// show. Such a character can stand only in a string, where its escape means the same; but a
/// carriage return, bare, is white space.
fn calm_json(json: &str) -> Cow<'_, str> {
    let utf8 = json.is_ascii() || is_utf8();
    let is_calm = |c: char| !is_harmful(c) && (utf8 || c.is_ascii());
    if json.chars().all(is_calm) {
        return Cow::Borrowed(json);
    }
    let mut calm = String::with_capacity(json.len() + 64);
    for c in json.chars() {
        match c {
            '\r' => calm.push(' '),
            c if is_calm(c) => calm.push(c),
            c => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    let _ = write!(calm, "\\u{unit:04x}");
                }
            }
        }
    }
    Cow::Owned(calm)
}

/// Writes text to standard output. A reader that has gone has seen what it wanted.
pub fn print(text: &str) -> Result<()> {
    unless_gone(put(encoded(text).as_bytes()))
}

/// Writes to standard output, and tells of a reader that has gone: then the rest need not even be
/// looked for.
pub fn put(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    let put = out.write_all(bytes).and_then(|()| out.flush());
    put.map_err(|e| Error::io("write", Path::new("standard output"), e))
}

/// That the reader of standard output has gone is no failure.
pub fn unless_gone(told: Result<()>) -> Result<()> {
    match told {
        Err(error) if error.kind == Some(io::ErrorKind::BrokenPipe) => Ok(()),
        told => told,
    }
}

/// An answer that is written piece by piece, since it may be longer than what should be held.
#[derive(Debug, Default)]
pub struct Pager(String);

impl Pager {
    /// Written in pieces of about this size.
    const PIECE: usize = 32 << 10;

    /// Adds a text that is clean, or JSON that is calm.
    pub fn put(&mut self, text: &str) -> Result<()> {
        self.0.push_str(text);
        if self.0.len() >= Pager::PIECE {
            self.flush()?;
        }
        Ok(())
    }

    /// Adds JSON from elsewhere.
    pub fn put_json(&mut self, json: &impl fmt::Display) -> Result<()> {
        struct Calm<'a>(&'a mut Pager, Result<()>);
        impl fmt::Write for Calm<'_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.1 = self.0.put(&calm_json(text));
                self.1.as_ref().map_or(Err(fmt::Error), |()| Ok(()))
            }
        }
        let mut calm = Calm(self, Ok(()));
        // It fails only where the writing did.
        let _ = write!(calm, "{json}");
        calm.1
    }

    /// Writes what was added.
    pub fn flush(&mut self) -> Result<()> {
        let written = put(encoded(&self.0).as_bytes());
        self.0.clear();
        written
    }
}

/// Writes a message to standard error; that nobody hears it cannot be told to anybody.
pub fn note(text: &str) {
    say(&format!("job-monitor: {}\n", clean(text)));
}

/// Writes a text of ours to standard error, as it stands.
pub fn say(text: &str) {
    let _ = io::stderr().lock().write_all(encoded(text).as_bytes());
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
        assert_eq!(clean("a\r\nb\rc"), "a\nb\u{fffd}c");
        assert!(matches!(clean("plain\n\ttext ü"), Cow::Borrowed(_)));
    }

    #[test]
    fn json_is_as_harmless_as_text_and_means_the_same() {
        let value = "a\u{9b}31m\u{7f}\u{202e}\r\u{1b}ü\n";
        let raw = serde_json::to_string(value).unwrap();
        assert!(raw.contains(is_harmful));
        assert_eq!(
            serde_json::from_str::<String>(&calm_json(&raw)).unwrap(),
            value
        );
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(shorten("üüü", 2), "üü…");
        assert_eq!(shorten("üü", 2), "üü");
        assert_eq!(clean_line(" a\n\tb\r\nc "), "a b c");
    }

    #[test]
    fn a_line_never_takes_more_columns_than_there_are() {
        let style = |unicode| Style {
            color: false,
            unicode,
            terminal: true,
        };
        assert_eq!(fit("abcdef", 6, style(true)), "abcdef");
        assert_eq!(fit("abcdefg", 6, style(true)), "abcde…");
        assert_eq!(fit("abcdefg", 6, style(false)), "abc...");
        assert_eq!(fit("日本語日本語", 6, style(true)), "日本…");
        for columns in 0..12 {
            for text in [
                "short",
                "e\u{301}in e\u{301}",
                "日本語日本語日",
                "a b c d e f g",
            ] {
                for unicode in [true, false] {
                    let line = fit(text, columns, style(unicode));
                    let taken: usize = line.chars().map(columns_of).sum();
                    assert!(taken <= columns, "{line:?} in {columns}");
                }
            }
        }
    }
}
