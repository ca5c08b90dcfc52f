//! What is said about arguments that are not understood: one sentence, with the way out, and
//! nothing in it that a terminal could take for a command.

use super::table::{COMMANDS, CommandSpec, GLOBALS};
use crate::error::{Error, Exit};
use std::ffi::OsStr;

/// The longest piece of an argument that a message repeats, in characters.
const SHOWN_MAX: usize = 60;

pub(super) fn usage(text: impl Into<String>) -> Error {
    Error::with(Exit::Usage, text)
}

pub(super) fn not_an_id(word: &OsStr) -> Error {
    usage(format!(
        "not a job id: {}; a job id looks like job-20260130-143000-fix-bug",
        shown(word)
    ))
}

pub(super) fn unknown_command(word: &OsStr) -> Error {
    let names = COMMANDS.iter().map(|spec| spec.name);
    let word_shown = shown(word);
    usage(match nearest(&word.to_string_lossy(), names) {
        Some(name) => format!(
            "unknown command {word_shown}; did you mean \"{name}\"? (job-monitor --help lists all)"
        ),
        None => format!("unknown command {word_shown}; job-monitor --help lists all"),
    })
}

pub(super) fn unknown_option(spec: Option<&'static CommandSpec>, typed: &str) -> Error {
    let own = spec.map_or(&[][..], |spec| spec.options);
    let names = own.iter().chain(GLOBALS).map(|option| option.long);
    let (of, help) = match spec {
        Some(spec) => (
            format!(" of {}", spec.name),
            format!("job-monitor {} --help", spec.name),
        ),
        None => (String::new(), "job-monitor --help".to_owned()),
    };
    let typed_shown = shown(OsStr::new(typed));
    let someones = |spec: &CommandSpec| {
        spec.options
            .iter()
            .any(|own| typed == format!("--{}", own.long))
    };
    if spec.is_none() && COMMANDS.iter().any(someones) {
        return usage(format!(
            "{typed_shown} goes after the command that it belongs to"
        ));
    }
    let guess = typed
        .strip_prefix("--")
        .and_then(|name| nearest(name, names));
    usage(match guess {
        Some(name) => format!(
            "unknown option {typed_shown}{of}; did you mean \"--{name}\"? ({help} lists all)"
        ),
        None => format!("unknown option {typed_shown}{of}; {help} lists all"),
    })
}

/// The one error that lexopt raises by itself: `--all=x`.
pub(super) fn unwanted_value(error: lexopt::Error) -> Error {
    match error {
        lexopt::Error::UnexpectedValue { option, .. } => usage(format!(
            "option {} takes no value",
            shown(OsStr::new(&option))
        )),
        other => usage(shown(OsStr::new(&other.to_string()))),
    }
}

/// The name that was probably meant: one that begins like this, or else the one with the
/// fewest letters different, as long as no more than half of them are.
fn nearest(typed: &str, names: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let typed: Vec<char> = typed.chars().take(SHOWN_MAX).collect();
    let rated = names.map(|name| {
        let name_chars: Vec<char> = name.chars().collect();
        let begins = typed.len() >= 2 && name_chars.starts_with(&typed);
        let distance = if begins {
            1
        } else {
            distance(&typed, &name_chars)
        };
        (
            distance,
            begins || distance * 2 <= typed.len().max(name_chars.len()),
            name,
        )
    });
    let likely = rated.filter(|(_, likely, _)| *likely);
    likely
        .min_by_key(|(distance, ..)| *distance)
        .map(|(.., name)| name)
}

/// How many letters to insert, drop or replace, or neighbours to swap, from one to the other.
pub(crate) fn distance(from: &[char], to: &[char]) -> usize {
    let mut table = vec![vec![0; to.len() + 1]; from.len() + 1];
    for i in 0..=from.len() {
        for j in 0..=to.len() {
            table[i][j] = match (i, j) {
                (0, _) | (_, 0) => i + j,
                _ => {
                    let replaced = table[i - 1][j - 1] + usize::from(from[i - 1] != to[j - 1]);
                    replaced.min(table[i - 1][j] + 1).min(table[i][j - 1] + 1)
                }
            };
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                table[i][j] = table[i][j].min(table[i - 2][j - 2] + 1);
            }
        }
    }
    table[from.len()][to.len()]
}

/// An argument as a message may repeat it: quoted, cut, and with nothing in it that could
/// move a cursor, change a colour or turn the direction of writing.
pub(super) fn shown(word: &OsStr) -> String {
    let mut text = String::new();
    for chunk in word.as_encoded_bytes().utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter {
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                _ if is_invisible(letter) && letter.is_ascii() => {
                    text.push_str(&format!("\\x{:02x}", u32::from(letter)));
                }
                _ if is_invisible(letter) => {
                    text.push_str(&format!("\\u{:04x}", u32::from(letter)));
                }
                _ => text.push(letter),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    match text.char_indices().nth(SHOWN_MAX) {
        Some((cut, _)) => format!("\"{}...\"", &text[..cut]),
        None => format!("\"{text}\""),
    }
}

/// Control characters (C0, DEL, C1) and those that format without showing: bidirectional
/// controls, zero widths, separators, tags.
pub(super) fn is_invisible(letter: char) -> bool {
    letter.is_control()
        || matches!(letter,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested_and_nothing_far_fetched() {
        let guess = |typed: &str| nearest(typed, COMMANDS.iter().map(|spec| spec.name));
        for (typed, meant) in [
            ("quue", "queue"),
            ("stauts", "status"),
            ("log", "logs"),
            ("cancle", "cancel"),
            ("comp", "completions"),
            ("unregistre", "unregister"),
        ] {
            assert_eq!(guess(typed), Some(meant), "{typed}");
        }
        for typed in ["", "x", "frobnicate", "zzz", &"q".repeat(100_000)] {
            assert_eq!(guess(typed), None, "{typed:.20}");
        }
        let text = unknown_command(OsStr::new("quue")).to_string();
        assert_eq!(
            text,
            "unknown command \"quue\"; did you mean \"queue\"? (job-monitor --help lists all)"
        );
        let spec = COMMANDS.iter().find(|spec| spec.name == "logs");
        assert!(
            unknown_option(spec, "--folow")
                .to_string()
                .contains("did you mean \"--follow\"?")
        );
        assert!(
            unknown_option(spec, "-z")
                .to_string()
                .ends_with("; job-monitor logs --help lists all")
        );
    }

    #[test]
    fn what_is_repeated_is_quoted_cut_and_harmless() {
        assert_eq!(shown(OsStr::new("it's ü")), "\"it's ü\"");
        assert_eq!(
            shown(OsStr::new("a\n\t\u{1b}[2J\u{9b}\u{202e}")),
            "\"a\\n\\t\\x1b[2J\\u009b\\u202e\""
        );
        let long = shown(OsStr::new(&"ü".repeat(200)));
        assert_eq!(long, format!("\"{}...\"", "ü".repeat(60)));
    }
}
