//! The hidden command `complete`: what could stand where the person presses the Tab key. The stubs
//! that `completions` prints call it.

use super::scope::Scope;
use crate::cli::{CommandHelp, Which, commands};
use crate::error::Result;
use crate::job::JobId;
use crate::render;
use crate::spool::{Leftovers, Spool};
use std::collections::BTreeSet;
use std::ffi::OsString;

/// So many finished jobs of a project are offered, the newest.
const FINISHED_MAX: usize = 50;
/// Tells a stub that its shell is to offer files.
const FILES: &str = ":files";

/// Prints the words that go on from the last of `words`; the first one is the shell's name.
pub(super) fn complete(words: &[OsString]) -> Result<()> {
    let mut words: Vec<String> = words
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let shell = words.remove(0);
    let bash = shell == "bash";
    let typed = words.last().cloned().unwrap_or_default();
    if bash {
        words = joined(words);
    }
    // Nobody begins to type what is in a name and needs a quote itself.
    if shell != "zsh" {
        words
            .iter_mut()
            .for_each(|word| word.retain(|c| !"\\'\"".contains(c)));
    }
    let Some((begun, before)) = words.split_last() else {
        return Ok(());
    };
    // bash takes the value behind `=` for a word of its own.
    let head = begun.rfind('=').filter(|_| bash && begun.starts_with('-'));
    let head = head.map_or(0, |at| at + 1);
    let mut text = String::new();
    for word in candidates(before, begun) {
        let quoted = match bash && word != FILES {
            true => word.get(head..).and_then(|rest| quoted_as(rest, &typed)),
            false => Some(word.clone()),
        };
        if word == FILES || word.starts_with(begun) {
            text.extend(quoted.map(|word| word + "\n"));
        }
    }
    render::print(&text)
}

/// What was sorted out of the words before the one that was begun.
#[derive(Default)]
struct Line {
    command: Option<CommandHelp>,
    operands: usize,
    projects: Which,
    /// The word for the value that the last option still needs.
    value: Option<&'static str>,
}

fn read(before: &[String]) -> Line {
    let mut line = Line {
        projects: Which::All,
        ..Line::default()
    };
    for word in before {
        match line.value.take() {
            Some("PROJECT") => line.projects = Which::Named(word.clone()),
            Some(_) => {}
            None if word == "-p" || word == "--project" => line.value = Some("PROJECT"),
            None if word.starts_with('-') => {
                let named = word.strip_prefix("--project=").or(word.strip_prefix("-p"));
                if let Some(name) = named {
                    line.projects = Which::Named(name.to_owned());
                }
                line.value = line.command.and_then(|command| value_of(command, word));
            }
            None if line.command.is_none() => {
                let is_id = JobId::parse(word).is_some();
                let name = if is_id { "show" } else { word };
                line.command = commands().find(|command| command.name == name);
                line.operands = usize::from(is_id);
            }
            None => line.operands += 1,
        }
    }
    line
}

fn value_of(command: CommandHelp, option: &str) -> Option<&'static str> {
    let long = option.strip_prefix("--")?;
    command.options().find(|(name, _)| *name == long)?.1
}

fn candidates(before: &[String], begun: &str) -> Vec<String> {
    let line = read(before);
    if let Some(value) = line.value {
        return values(value, &line, "");
    }
    if let Some((option, _)) = begun.split_once('=').filter(|_| begun.starts_with("--")) {
        let known = line.command.and_then(|command| value_of(command, option));
        let value = if option == "--project" {
            Some("PROJECT")
        } else {
            known
        };
        let words = value
            .map(|value| values(value, &line, ""))
            .unwrap_or_default();
        return words
            .into_iter()
            .map(|word| format!("{option}={word}"))
            .collect();
    }
    if begun.starts_with('-') {
        let globals = ["project", "all-projects", "json", "version"];
        let own = line
            .command
            .map(|command| command.options().map(|(long, _)| long).collect());
        let longs: Vec<_> = own.unwrap_or(globals.to_vec());
        return longs
            .into_iter()
            .chain(["help"])
            .map(|long| format!("--{long}"))
            .collect();
    }
    match line.command {
        None if begun.starts_with("job-") || begun.starts_with("task-") => {
            values("ID", &line, "show")
        }
        None => values("COMMAND", &line, ""),
        Some(command) => {
            let second = command.name == "reply" && line.operands > 0;
            let operand = if second {
                Some("FILE")
            } else {
                command.operand()
            };
            let once = line.operands > 0 && !command.usage().contains("...");
            let operand = operand.filter(|_| !once || second);
            operand
                .map(|operand| values(operand, &line, command.name))
                .unwrap_or_default()
        }
    }
}

/// What can stand for a word in capitals of a help text.
fn values(word: &str, line: &Line, command: &str) -> Vec<String> {
    let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    match word {
        "COMMAND" => commands().map(|command| command.name.to_owned()).collect(),
        "SHELL" => owned(&["bash", "fish", "zsh"]),
        "LAYOUT" => owned(&["jobs", "tasks"]),
        "FILE" | "PATH" => owned(&[FILES]),
        "PROJECT" => {
            let entries = Scope::read(&Which::All).map(|(scope, _)| scope.entries);
            entries
                .unwrap_or_default()
                .into_iter()
                .map(|entry| entry.project.name)
                .collect()
        }
        "ID" => {
            let open_only = ["cancel", "hold", "release", "wait", "edit"].contains(&command);
            let entries = Scope::read(&line.projects).map(|(scope, _)| scope.entries);
            let spools = entries.unwrap_or_default().into_iter();
            let spools = spools.filter_map(|entry| Spool::open(&entry.project).ok());
            spools.flat_map(|spool| ids(&spool, open_only)).collect()
        }
        _ => Vec::new(),
    }
}

/// The jobs of a project that are not done, then the newest that are.
fn ids(spool: &Spool, open_only: bool) -> Vec<String> {
    let waiting = spool
        .scan(Leftovers::Leave)
        .map(|scan| scan.waiting)
        .unwrap_or_default();
    let begun = spool
        .marks(Leftovers::Leave)
        .map(|marks| marks.claims)
        .unwrap_or_default();
    let open: BTreeSet<JobId> = begun.into_iter().chain(waiting).collect();
    let mut ids: Vec<String> = open.iter().map(ToString::to_string).collect();
    if !open_only {
        let mut finished = Vec::new();
        let _ = spool.finished(&mut |id, written| finished.push((written, id.to_owned())));
        finished.sort_unstable();
        ids.extend(
            finished
                .into_iter()
                .rev()
                .take(FINISHED_MAX)
                .map(|(_, id)| id),
        );
    }
    ids
}

/// Readline makes three words of `--project=x`.
fn joined(words: Vec<String>) -> Vec<String> {
    let mut joined: Vec<String> = Vec::new();
    for word in words {
        match joined.last_mut() {
            Some(last) if word == "=" || last.ends_with('=') => last.push_str(&word),
            _ => joined.push(word),
        }
    }
    joined
}

/// A word as bash reads it, behind what the person began; in quotes only what they keep as it is.
fn quoted_as(word: &str, typed: &str) -> Option<String> {
    let special = |c: char| !c.is_alphanumeric() && !"/._-+:,@%=".contains(c);
    if typed.starts_with(['\'', '"']) {
        return (!word.contains(['\'', '"', '$', '`', '\\'])).then(|| word.to_owned());
    }
    let letters = word
        .chars()
        .flat_map(|c| special(c).then_some('\\').into_iter().chain([c]));
    Some(letters.collect())
}
