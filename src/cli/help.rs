//! What `--help` prints, laid out for a terminal of 80 columns and 24 lines.

use super::{COMMANDS, CommandSpec, GLOBALS, Operand, OptionSpec};

/// The last column that help uses.
const WIDTH: usize = 79;

/// The column in which the short help's summaries begin, and that of its commands.
const COMMAND_COLUMN: usize = 10;
const SUMMARY_COLUMN: usize = 34;

/// The help for a command, or for the program when there is no command of that name.
pub fn help(topic: Option<&str>) -> String {
    let spec = topic.and_then(|name| COMMANDS.iter().find(|spec| spec.name == name));
    spec.map_or_else(overview, page)
}

/// `job-monitor wait [OPTION...] ID...`
pub(super) fn synopsis(spec: &CommandSpec) -> String {
    let mut parts = vec!["job-monitor".to_owned(), spec.name.to_owned()];
    let operand = spec.operand.notation();
    match spec.operand {
        Operand::SeveralOrAll(_) => parts.push(format!("{operand} | --all")),
        _ if spec.options.is_empty() => parts.push(operand),
        _ => parts.extend(["[OPTION...]".to_owned(), operand]),
    }
    parts.retain(|part| !part.is_empty());
    parts.join(" ")
}

/// `-p, --project PROJECT`
pub(super) fn signature(option: &OptionSpec) -> String {
    let short = option
        .short
        .map(|letter| format!("-{letter}, "))
        .unwrap_or_default();
    let value = option
        .value
        .map(|value| format!(" {}", value.name))
        .unwrap_or_default();
    format!("{short}--{}{value}", option.long)
}

/// All commands on one screen, which the prompt after it needs a line of. Rows marked `joined`
/// share the line of those before them.
fn overview() -> String {
    let mut text = String::from("Usage: job-monitor [-p PROJECT] COMMAND, or job-monitor ID\n\n");
    let mut group = None;
    let mut rows = COMMANDS.iter().peekable();
    let mut names: Vec<&str> = Vec::new();
    while let Some(spec) = rows.next() {
        names.push(spec.name);
        if rows.peek().is_some_and(|next| next.joined.is_some()) {
            continue;
        }
        let heading = if group.replace(spec.group) == Some(spec.group) {
            String::new()
        } else {
            format!("{:?}", spec.group)
        };
        let operand = if names.len() < 3 {
            spec.operand.notation()
        } else {
            String::new()
        };
        let title = format!("{} {operand}", names.join(", "));
        let summary = spec.joined.unwrap_or(spec.summary);
        text += &columns(&heading, &title, summary);
        names.clear();
    }
    let mut heading = "Options";
    let mut options = GLOBALS.iter().peekable();
    while let Some(option) = options.next() {
        let (mut title, mut summary) = (signature(option), option.help);
        while let Some((next, both)) = options.peek().and_then(|next| Some((next, next.joined?))) {
            title += &format!(", --{}", next.long);
            summary = both;
            options.next();
        }
        text += &columns(std::mem::take(&mut heading), &title, summary);
    }
    text
}

fn columns(heading: &str, title: &str, summary: &str) -> String {
    let width = SUMMARY_COLUMN - COMMAND_COLUMN;
    format!("{heading:COMMAND_COLUMN$}{title:width$}{summary}\n")
}

/// Everything about one command.
fn page(spec: &CommandSpec) -> String {
    let mut text = format!("Usage: {}\n\n", synopsis(spec));
    text += &wrapped(&format!("{}.", sentence(spec.summary)), 0);
    for paragraph in spec.details {
        text += "\n";
        text += &wrapped(paragraph, 0);
    }
    text += "\nOptions:\n";
    let options: Vec<_> = spec.offered_options().collect();
    let aligned = |option: &OptionSpec| match option.short {
        Some(_) => signature(option),
        None => format!("    {}", signature(option)),
    };
    let width = options
        .iter()
        .map(|option| aligned(option).len())
        .max()
        .unwrap_or(0);
    for option in options {
        text += &format!("  {:width$}  {}\n", aligned(option), option.help);
    }
    if !spec.examples.is_empty() {
        text += "\nExamples:\n";
        for (line, purpose) in spec.examples {
            text += &format!("  {line}\n{}", wrapped(purpose, 6));
        }
    }
    text
}

/// The same with a capital letter in front.
pub(super) fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

/// A paragraph in lines that end at [`WIDTH`].
pub(super) fn wrapped(paragraph: &str, indent: usize) -> String {
    let mut text = String::new();
    let mut line = String::new();
    for word in paragraph.split_whitespace() {
        if !line.is_empty() && indent + line.len() + 1 + word.len() > WIDTH {
            text += &format!("{:indent$}{line}\n", "");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    text + &format!("{:indent$}{line}\n", "")
}
