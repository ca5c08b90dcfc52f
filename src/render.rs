//! Values -> text for a terminal. The only place where text of jobs and agents meets one, and so
//! the only place that must make it harmless.

use crate::cli::Format;
use crate::error::{Error, Result, is_harmful};
use crate::settings;
use serde::Serialize;
use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::path::Path;

/// What the reader of standard output can show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Colours and other escape sequences.
    pub color: bool,
    /// A person is looking.
    pub terminal: bool,
}

impl Style {
    /// Colour is for a capable terminal that nobody asked to keep plain.
    pub fn of_stdout() -> Style {
        let terminal = io::stdout().is_terminal();
        let color = terminal && !is_dumb() && settings::variable("NO_COLOR").is_none();
        Style { color, terminal }
    }

    /// Text in a colour, by the number of its escape sequence; an empty one stands for none.
    pub fn paint(self, color: &str, text: &str) -> String {
        match self.color && !color.is_empty() {
            true => format!("\x1b[{color}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}

/// Whether the terminal understands no escape sequences.
pub fn is_dumb() -> bool {
    settings::variable("TERM").is_none_or(|term| term == "dumb")
}

/// Whether the locale has UTF-8. A reader of another encoding may take a byte of it for a control
/// character.
fn is_utf8() -> bool {
    let mut names = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter();
    let locale = names.find_map(settings::variable).unwrap_or_default();
    let locale = locale.to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// Whether signs of ours beyond ASCII are shown as they are.
fn shows_signs() -> bool {
    is_utf8() && !(is_dumb() && io::stdout().is_terminal())
}

/// Our signs, each with what stands for it in ASCII.
const SIGNS: &str = "…... └`- ✓+ ✗x ⚠! ●* ‖= ·. −- –- —- ─- ░- █#";

/// A text as the locale can show it: the one rule for all that is printed but JSON and raw logs.
pub fn encoded(text: &str) -> Cow<'_, str> {
    if text.is_ascii() || shows_signs() {
        return Cow::Borrowed(text);
    }
    let utf8 = is_utf8();
    let ascii = |c: char| SIGNS.split(' ').find_map(|pair| pair.strip_prefix(c));
    let shown = |c: char| match ascii(c) {
        Some(sign) => sign.to_owned(),
        None if utf8 || c.is_ascii() => c.to_string(),
        None => "?".to_owned(),
    };
    Cow::Owned(text.chars().map(shown).collect())
}

/// Text from outside without anything that could move a cursor, change a terminal's state or
/// reorder a line: C0 but newline and tab, DEL, C1, and the bidirectional controls. The ends of
/// lines of DOS are ends of lines.
pub fn clean(text: &str) -> Cow<'_, str> {
    match text.contains(is_harmful) {
        true => Cow::Owned(text.replace("\r\n", "\n").replace(is_harmful, "\u{fffd}")),
        false => Cow::Borrowed(text),
    }
}

/// [`clean`], and on one line.
pub fn clean_line(text: &str) -> String {
    clean(&text.split_whitespace().collect::<Vec<_>>().join(" ")).into_owned()
}

/// A line that takes at most so many columns; what is cut off is marked, and colours end with it.
pub fn fit(line: &str, columns: usize) -> String {
    if width(line) <= columns {
        return line.to_owned();
    }
    let mut used = 0;
    let kept = cells(line).take_while(|(_, wide)| {
        used += wide;
        used < columns
    });
    let kept: String = kept.map(|(c, _)| c).collect();
    let mark = if columns > 0 { "…" } else { "" };
    let end = if line.contains('\x1b') { "\x1b[0m" } else { "" };
    format!("{kept}{mark}{end}")
}

/// How many columns a text takes.
pub fn width(text: &str) -> usize {
    if text.is_ascii() && !text.contains('\x1b') {
        return text.len();
    }
    cells(text).map(|(_, columns)| columns).sum()
}

/// Characters with their columns. The sequences of [`Style::paint`], the only ones that a text may
/// have, take none.
fn cells(text: &str) -> impl Iterator<Item = (char, usize)> {
    let mut in_sequence = false;
    text.chars().map(move |c| {
        in_sequence |= c == '\x1b';
        let columns = if in_sequence { 0 } else { columns_of(c) };
        in_sequence &= c != 'm';
        (c, columns)
    })
}

/// How many columns a terminal gives a character: the wide blocks of Unicode, near enough. libc's
/// `wcwidth` would first need the process's locale to be set.
fn columns_of(c: char) -> usize {
    match c {
        '\u{300}'..='\u{36f}' | '\u{200b}'..='\u{200d}' | '\u{fe00}'..='\u{fe0f}' => 0,
        '\u{1100}'..='\u{115f}' | '\u{2e80}'..='\u{a4cf}' | '\u{ac00}'..='\u{d7a3}' => 2,
        '\u{f900}'..='\u{faff}' | '\u{fe30}'..='\u{fe6f}' | '\u{ff00}'..='\u{ff60}' => 2,
        '\u{ffe0}'..='\u{ffe6}' | '\u{1f300}'..='\u{1faff}' | '\u{20000}'..='\u{3fffd}' => 2,
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
        Format::Json => print(&(json(value) + "\n")),
    }
}

/// A value as JSON that does a terminal no harm.
pub fn json(value: &impl Serialize) -> String {
    let json = serde_json::to_string(value);
    calm_json(&json.expect("answers are made of texts, numbers, lists and maps"))
}

/// JSON without what [`clean`] takes out of a text, and without what [`encoded`] would change. Such a
/// character can stand only in a string, where its escape means the same; but a carriage return,
/// bare, is white space.
pub fn calm_json(json: &str) -> String {
    let (signs, mut calm) = (shows_signs(), String::with_capacity(json.len()));
    for c in json.chars() {
        match c {
            '\r' => calm.push(' '),
            c if !is_harmful(c) && (signs || c.is_ascii()) => calm.push(c),
            c => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(calm, "\\u{unit:04x}");
                }
            }
        }
    }
    calm
}

/// Writes text to standard output. That its reader has gone is no error here: the command goes on with what it
/// has still to do.
pub fn print(text: &str) -> Result<()> {
    match show(text) {
        Err(error) if error.errno == Some(libc::EPIPE) => Ok(()),
        told => told,
    }
}

/// Writes text to standard output. That its reader has gone is an error here: the rest need not even be looked
/// for.
pub fn show(text: &str) -> Result<()> {
    put(encoded(text).as_bytes())
}

/// As [`show`], for bytes as they are.
pub fn put(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    let put = out.write_all(bytes).and_then(|()| out.flush());
    put.map_err(|e| Error::io("write", Path::new("standard output"), e))
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
        let read: String = serde_json::from_str(&calm_json(&raw)).unwrap();
        assert_eq!(read, value);
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!((&*fit("üüü", 2), &*fit("üü", 2)), ("ü…", "üü"));
        assert_eq!(clean_line(" a\n\tb\r\nc "), "a b c");
    }

    #[test]
    fn a_line_never_takes_more_columns_than_there_are() {
        assert_eq!(fit("abcdef", 6), "abcdef");
        assert_eq!(fit("abcdefg", 6), "abcde…");
        assert_eq!(fit("日本語日本語", 6), "日本…");
        assert_eq!(fit("\x1b[1mab\x1b[0mcdef", 4), "\x1b[1mab\x1b[0mc…\x1b[0m");
        assert_eq!(width("\x1b[1;34mab\x1b[0m"), 2);
        for columns in 0..12 {
            let texts = "short|e\u{301}in e\u{301}|日本語日本語日|\x1b[1ma b c d e f g\x1b[0m";
            for text in texts.split('|') {
                let line = fit(text, columns);
                assert!(width(&line) <= columns, "{line:?} in {columns}");
            }
        }
    }
}
