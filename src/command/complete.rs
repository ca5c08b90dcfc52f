//! The hidden command `complete`: what could stand where the person presses the Tab key, a word a
//! line. The stubs that `completions` prints call it, and quote the words for their shell.

use super::*;

/// So many finished jobs are offered, the newest.
const FINISHED_MAX: usize = 50;
/// Tells a stub that its shell is to offer files.
const FILES: &str = ":files";

/// Prints the words that go on from the last of `words`.
pub(super) fn complete(words: &[OsString]) -> Result<()> {
    // bash and fish give the words as they were typed, with quotes and backslashes. These are taken out; a
    // name that has one in it is not completed then.
    let plain = |word: &OsString| word.to_string_lossy().replace(['\\', '\'', '"'], "");
    let words: Vec<String> = words.iter().map(plain).collect();
    let Some((begun, before)) = words.split_last() else {
        return Ok(());
    };
    let fits = |word: &String| word == FILES || word.starts_with(begun);
    let words = candidates(before, begun).into_iter().filter(fits);
    render::print(&words.map(|word| word + "\n").collect::<String>())
}

fn candidates(before: &[String], begun: &str) -> Vec<String> {
    let (mut page, mut projects) = (None::<CommandHelp>, Which::All);
    let (mut operands, mut value) = (0, None);
    // `--project=x` is one word, or for bash three.
    let before = before.iter().flat_map(|word| word.split('='));
    for word in before.filter(|word| !word.is_empty()) {
        if let Some(kind) = value.take() {
            if kind == "PROJECT" {
                projects = Which::Named(word.to_owned());
            }
        } else if word.starts_with('-') {
            let pages = page.into_iter().chain(commands());
            let mut known = pages.flat_map(CommandHelp::options);
            let option = known.find(|(short, long, _)| word == *short || word == *long);
            value = option.and_then(|(_, _, value)| value);
        } else if page.is_none() {
            let is_id = JobId::parse(word).is_some();
            let name = if is_id { "show" } else { word };
            page = commands().find(|page| page.name == name);
            operands = usize::from(is_id);
        } else {
            operands += 1;
        }
    }
    let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    if value.is_none() && begun.starts_with('-') {
        let own = page.map(|page| page.options().map(|(_, long, _)| long).collect());
        let all: Vec<&str> = own.unwrap_or(vec!["--project", "--all-projects", "--version"]);
        return owned(&[all, vec!["--help"]].concat());
    }
    let operand = page.and_then(|page| {
        let last = page.operands().last().filter(|last| last.contains("..."));
        page.operands().nth(operands).or(last)
    });
    let is_id = begun.starts_with("job-") || begun.starts_with("task-");
    let kind = match value.or(operand) {
        None if page.is_some() => return Vec::new(),
        None if is_id => "ID",
        None => "COMMAND",
        Some(word) => word.trim_matches(|c: char| !c.is_ascii_uppercase()),
    };
    match kind {
        "ID" => ids(&projects, page.map_or("show", |page| page.name)),
        "COMMAND" => commands().map(|page| page.name.to_owned()).collect(),
        "SHELL" => owned(&["bash", "fish", "zsh"]),
        "FILE" | "PATH" => owned(&[FILES]),
        "PROJECT" => {
            let spools = spools(&Which::All).into_iter();
            spools.map(|spool| spool.project().name.clone()).collect()
        }
        _ => Vec::new(),
    }
}

/// The projects of the registry; none if it cannot be read.
fn spools(which: &Which) -> Vec<Spool> {
    let entries = Scope::read(which).map_or(Vec::new(), |(scope, _)| scope.entries);
    entries.iter().map(|one| Spool::new(&one.project)).collect()
}

/// The jobs that are not done, and where the command wants those, too, the newest that are.
fn ids(projects: &Which, command: &str) -> Vec<String> {
    let spools = spools(projects);
    let open = spools.iter().flat_map(open_ids).flatten();
    let mut ids: Vec<String> = open.map(|id| id.to_string()).collect();
    if !["cancel", "hold", "release", "wait"].contains(&command)
        && let Ok(newest) = Newest::of(&spools, None)
    {
        let newest = newest.ids().take(FINISHED_MAX);
        ids.extend(newest.map(|(_, id, _)| id.to_string()));
    }
    ids
}
