//! The manual page in the man(7) macros, rendered from `manual.txt`. There `#` begins a section,
//! `##` a subsection, `* ` a term that indented text explains; four spaces mark an example, and
//! `{commands}` stands for the help of every command.

use super::commands;

/// The day of the texts' last revision. That of the build would make two builds differ.
const REVISED: &str = "2026-11-28";

/// `job-monitor(1)`.
pub fn man_page() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut page = format!(
        ".TH JOB\\-MONITOR 1 {REVISED} \"job\\-monitor {version}\" \"User Commands\"\n.nh\n.ad l\n"
    );
    let mut example = false;
    let mut gap = false;
    for line in include_str!("manual.txt").lines() {
        if let Some(code) = line.strip_prefix("    ") {
            page += if gap { ".PP\n" } else { "" };
            page += if example { "" } else { ".RS 4\n.EX\n" };
            gap = false;
            page += &escaped(code);
            example = true;
            continue;
        }
        if std::mem::take(&mut example) {
            page += ".EE\n.RE\n";
        }
        let (macros, text) = match line.split_once(' ') {
            _ if line == "{commands}" => {
                page.extend(commands().map(|help| command(help.name, help.text)));
                continue;
            }
            None if line.is_empty() => {
                gap = true;
                continue;
            }
            Some(("#", heading)) => (".SH ", heading),
            Some(("##", heading)) => (".SS ", heading),
            Some(("*", term)) => (".TP\n.B ", term),
            _ if gap => (".PP\n", line),
            _ => ("", line.trim_start()),
        };
        gap = false;
        page += macros;
        page += &escaped(text);
    }
    page
}

fn command(name: &str, text: &str) -> String {
    let lines: String = text.lines().map(escaped).collect();
    format!(".SS {}\n.EX\n{lines}.EE\n", escaped(name).trim_end())
}

/// A line as roff prints it unchanged, with hyphens that can be pasted.
fn escaped(line: &str) -> String {
    let mut roff = String::from(if line.starts_with(['.', '\'']) {
        "\\&"
    } else {
        ""
    });
    for letter in line.chars() {
        match letter {
            '\\' => roff.push_str("\\e"),
            '-' => roff.push_str("\\-"),
            '\'' => roff.push_str("\\(aq"),
            '`' => roff.push_str("\\(ga"),
            '^' => roff.push_str("\\(ha"),
            '~' => roff.push_str("\\(ti"),
            '"' => roff.push_str("\\(dq"),
            _ => roff.push(letter),
        }
    }
    roff + "\n"
}
