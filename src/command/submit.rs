//! `submit`: a text becomes a document in the spool, whole, under a fresh name.

use super::projects::Scope;
use super::{Outcome, logs, wait};
use crate::cli::{AfterSubmit, Source};
use crate::document;
use crate::error::{Error, Exit, Result, plain};
use crate::job::{JobId, Meta};
use crate::project::Layout;
use crate::render;
use crate::settings;
use crate::spool::Spool;
use crate::time::{Wall, parse_duration};
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// More than any `max_document` that makes sense; what is cut here is rejected as too large.
const TEXT_MAX: u64 = 1 << 30;
/// A description made of a text is no longer than this.
const SLUG_MAX: usize = 40;
/// Stamps of documents so far ahead of the clock are taken for mistakes, not followed.
const AHEAD_MAX: &str = "1h";

/// Submits a document, and waits for it if asked to.
pub(super) fn submit(
    scope: &Scope,
    description: Option<&str>,
    source: &Source,
    then: AfterSubmit,
) -> Outcome {
    let spool = scope.spool()?;
    let text = match source {
        Source::File(path) => read_file(path)?,
        Source::Stdin => read_stdin()?,
        Source::Editor => edit(&spool)?,
    };
    let entry = scope.one()?;
    let (settings, _) = settings::load(&scope.places.settings())?;
    let max = entry.policy(&settings)?.max_document;
    let meta = Meta {
        size: text.len() as u64,
        mtime_ns: 0,
        mode: 0o600,
        uid: 0,
    };
    let document = document::check(&text, &meta, max, true).map_err(Error::new)?;
    let description = match description {
        Some(given) => slug(given).ok_or_else(|| {
            Error::with(
                Exit::Usage,
                "the description needs at least one ASCII letter or digit; choose another with -d",
            )
        })?,
        None => slug(first_words(document.body)).unwrap_or_else(|| "job".to_owned()),
    };
    let id = put(&spool, &description, &text)?;
    render::print(&format!("{id}\n"))?;
    match then {
        AfterSubmit::Return => Ok(Exit::Done),
        AfterSubmit::Wait => wait::wait(scope, &[id], None),
        AfterSubmit::Follow => logs::follow(scope, &id),
    }
}

/// Puts a text into the spool under a new id: never a name that is taken, and never a stamp before
/// one that is there, so that jobs submitted in one second keep their order.
pub(super) fn put(spool: &Spool, description: &str, text: &[u8]) -> Result<JobId> {
    let now = Wall::now();
    let horizon = now
        .plus(parse_duration(AHEAD_MAX).unwrap_or_default())
        .stamp();
    let last = spool.last_stamp_before(&horizon)?;
    let mut at = now;
    loop {
        let stamp = at.stamp();
        let id = match spool.layout() {
            Layout::Jobs => format!("job-{stamp}-{description}"),
            Layout::Tasks => format!("task-{description}-{stamp}"),
        };
        let id = JobId::parse(&id).ok_or_else(|| {
            Error::with(
                Exit::Usage,
                "the description is too long; choose a shorter one with -d",
            )
        })?;
        if last.as_ref().is_none_or(|last| stamp > *last) && spool.submit(&id, text)? {
            return Ok(id);
        }
        at = at.plus(Duration::from_secs(1));
    }
}

/// Whatever can be read, a pipe from the shell included.
fn read_file(path: &Path) -> Result<Vec<u8>> {
    let file = std::fs::File::open(path).map_err(|e| Error::io("open", path, e))?;
    read_all(file, path)
}

fn read_stdin() -> Result<Vec<u8>> {
    read_all(std::io::stdin().lock(), Path::new("standard input"))
}

fn read_all(from: impl Read, path: &Path) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    from.take(TEXT_MAX)
        .read_to_end(&mut text)
        .map_err(|e| Error::io("read", path, e))?;
    Ok(text)
}

/// Has the person write the document; without a terminal, standard input is the document.
fn edit(spool: &Spool) -> Result<Vec<u8>> {
    if !std::io::stdin().is_terminal() {
        return read_stdin();
    }
    let editor = ["VISUAL", "EDITOR"]
        .into_iter()
        .find_map(settings::variable)
        .unwrap_or_else(|| "vi".to_owned());
    let path: PathBuf = std::env::temp_dir().join(format!("job-monitor-{}.md", std::process::id()));
    let mut options = std::fs::OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::mode(options.write(true).create_new(true), 0o600);
    options
        .open(&path)
        .map_err(|e| Error::io("create", &path, e))?;
    // As git does it: the variable may hold arguments, which only a shell can tell apart.
    let status = Command::new("sh")
        .arg("-c")
        .arg(format!("{editor} \"$1\""))
        .arg("sh")
        .arg(&path)
        .current_dir(&spool.project().path)
        .status();
    let text = std::fs::read(&path);
    let _ = std::fs::remove_file(&path);
    match status {
        Ok(status) if status.success() => {}
        Ok(_) => {
            return Err(Error::new(format!(
                "the editor {editor:?} failed; nothing was submitted"
            )));
        }
        Err(error) => {
            return Err(Error::new(format!(
                "cannot start the editor {editor:?}: {}; set EDITOR",
                plain(&error)
            )));
        }
    }
    let text = text.map_err(|e| Error::io("read", &path, e))?;
    if text.trim_ascii().is_empty() {
        return Err(Error::new("the document is empty; nothing was submitted"));
    }
    Ok(text)
}

/// The first line that says something, without the signs of Markdown.
fn first_words(body: &str) -> &str {
    let lines = body
        .lines()
        .map(|line| line.trim().trim_start_matches(['#', '-', '*', '>', ' ']));
    lines
        .into_iter()
        .find(|line| line.contains(|c: char| c.is_ascii_alphanumeric()))
        .unwrap_or_default()
}

/// A text as a part of a file name: lower case, words joined by `-`.
fn slug(text: &str) -> Option<String> {
    let mut slug = String::new();
    for c in text.chars() {
        match c {
            _ if slug.len() >= SLUG_MAX => break,
            'a'..='z' | '0'..='9' | '_' | '.' => slug.push(c),
            'A'..='Z' => slug.push(c.to_ascii_lowercase()),
            _ if !slug.is_empty() && !slug.ends_with('-') => slug.push('-'),
            _ => {}
        }
    }
    let slug = slug.trim_matches(['-', '.', '_']).to_owned();
    (!slug.is_empty()).then_some(slug)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_is_made_of_what_the_text_says_first() {
        assert_eq!(
            slug(first_words("\n# Fix the *bug* in Foo!\nmore")).unwrap(),
            "fix-the-bug-in-foo"
        );
        assert_eq!(slug(first_words("---\n\nÜber alles")).unwrap(), "ber-alles");
        assert_eq!(slug("../../etc/passwd").unwrap(), "etc-passwd");
        assert_eq!(slug("ü!"), None);
        assert!(slug(&"word ".repeat(40)).unwrap().len() <= SLUG_MAX);
    }
}
