//! The manual page in the man(7) macros, rendered from `manual.txt`. There `#` begins a section,
//! `* ` a term that indented text explains. Paragraphs are parted by blank lines; one
//! that begins with spaces is an example. `{commands}` stands for the help of every command.

use super::{CommandHelp, commands};

/// The day of the texts' last revision. That of the build would make two builds differ.
const REVISED: &str = "2026-11-28";

/// `job-monitor(1)`.
pub fn man_page() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut page = format!(
        ".TH JOB\\-MONITOR 1 {REVISED} \"job\\-monitor {version}\" \"User Commands\"\n.nh\n.ad l\n"
    );
    for block in include_str!("manual.txt").split("\n\n") {
        let (begin, end) = match block.chars().next() {
            Some('#' | '*') => ("", ""),
            Some(' ') => (".PP\n.RS 4\n.EX\n", ".EE\n.RE\n"),
            _ => (".PP\n", ""),
        };
        page += begin;
        for line in block.lines() {
            let (macros, text) = match line.split_once(' ') {
                Some(("#", heading)) => (".SH ", heading),
                Some(("*", term)) => (".TP\n.B ", term),
                _ => ("", line.trim_start()),
            };
            page += macros;
            page += &escaped(text);
        }
        page += end;
    }
    let help: String = commands().map(command).collect();
    page.replace("{commands}\n", &help)
}

fn command(help: CommandHelp) -> String {
    let lines: String = help.text.lines().map(escaped).collect();
    format!(".SS {}.EX\n{lines}.EE\n", escaped(help.name))
}

/// What roff would not print as it is, with hyphens that can be pasted.
const ESCAPES: [(&str, &str); 7] = [
    ("\\", "\\e"),
    ("-", "\\-"),
    ("'", "\\(aq"),
    ("`", "\\(ga"),
    ("^", "\\(ha"),
    ("~", "\\(ti"),
    ("\"", "\\(dq"),
];

/// A line as roff prints it unchanged.
fn escaped(line: &str) -> String {
    let guard = if line.starts_with('.') { "\\&" } else { "" };
    let replace = |line: String, (from, to): &(&str, &str)| line.replace(from, to);
    guard.to_owned() + &ESCAPES.iter().fold(line.to_owned(), replace) + "\n"
}
