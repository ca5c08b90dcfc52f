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
    let words = candidates(before, begun)?.into_iter().filter(fits);
    render::print(&words.map(|word| word + "\n").collect::<String>())
}

fn candidates(before: &[String], begun: &str) -> Result<Vec<String>> {
    // `--project=x` is one word, or for bash three.
    let before = before.iter().flat_map(|word| word.split('='));
    let before: Vec<&str> = before.filter(|word| !word.is_empty()).collect();
    let page = before.iter().find_map(|&word| {
        let name = JobId::parse(word).map_or(word, |_| "show");
        commands().find(|page| page.name == name)
    });
    let value = before.last().and_then(|last| {
        let mut known = commands().flat_map(CommandHelp::options);
        let (_, _, value) = known.find(|(short, long, _)| last == short || last == long)?;
        Some(value).filter(|value| !value.is_empty())
    });
    let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    if value.is_none() && begun.starts_with('-') {
        let own = page.map(|page| page.options().map(|(_, long, _)| long).collect());
        let all: Vec<&str> = own.unwrap_or(vec!["--project", "--all-projects", "--version"]);
        return Ok(owned(&[all, vec!["--help"]].concat()));
    }
    let kind = match value.or_else(|| page.and_then(|page| page.operands().next())) {
        None if page.is_some() => "",
        None if begun.starts_with("job-") || begun.starts_with("task-") => "ID",
        None => "COMMAND",
        Some(word) => word.trim_matches(|c: char| !c.is_ascii_uppercase()),
    };
    let name = |entry: Entry| entry.project.name;
    let scope = || Scope::read(&Which::All).map(|(scope, _)| scope);
    Ok(match kind {
        "ID" => ids(&scope()?.spools(), page.map_or("show", |page| page.name))?,
        "COMMAND" => commands().map(|page| page.name.to_owned()).collect(),
        "SHELL" => owned(&["bash", "fish", "zsh"]),
        "FILE" | "PATH" => owned(&[FILES]),
        "PROJECT" => scope()?.entries.into_iter().map(name).collect(),
        _ => Vec::new(),
    })
}

/// The jobs that are not done, and where the command wants those, too, the newest that are.
fn ids(spools: &[Spool], command: &str) -> Result<Vec<String>> {
    let open = spools.iter().flat_map(open_ids).flatten();
    let mut ids: Vec<String> = open.map(|id| id.to_string()).collect();
    if !["cancel", "hold", "release", "wait"].contains(&command) {
        let newest = Newest::of(spools, None)?;
        let newest = newest.ids().take(FINISHED_MAX);
        ids.extend(newest.map(|(_, id, _)| id.to_string()));
    }
    Ok(ids)
}
