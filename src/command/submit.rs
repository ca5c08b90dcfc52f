//! `submit`, `reply`, `edit`: a text becomes a document in the spool, whole, under a fresh name.

use super::scope::{Scope, refuse_own_wait};
use super::{Outcome, logs, wait};
use crate::cli::{AfterSubmit, JobName, Source, Wishes};
use crate::document;
use crate::error::{Error, Exit, Result, plain};
use crate::files::{Dir, Durability};
use crate::job::{JobId, Meta};
use crate::project::{Layout, Project};
use crate::record::Claim;
use crate::registry::Entry;
use crate::render::{self, quoted};
use crate::settings::{self, Places};
use crate::spool::{Mark, Spool};
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
/// What the editor opens with; all from the mark on goes away again.
const TEMPLATE: &str = "

<!-- job-monitor: write above what is to be done, and how one can see that it is done. This note is
removed; an empty text submits nothing. Limits may stand at the very top, between two lines \"---\":
    timeout: 30m
    max-turns: 40
    max-budget-usd: 2
    model: NAME
    agent: NAME
    not-before: 2026-01-30 22:00
-->
";
const TEMPLATE_MARK: &str = "<!-- job-monitor:";

/// A text, and the file in which a person wrote it, which stays until the text is safe.
struct Draft {
    text: Vec<u8>,
    file: Option<PathBuf>,
}

/// Submits documents, and waits for them if asked to.
pub(super) fn submit(scope: &Scope, texts: &[Source], wishes: &Wishes) -> Outcome {
    hand_in(scope, scope.one()?, texts, wishes, None)
}

/// Submits a document whose job goes on in the session of a finished one.
pub(super) fn reply(scope: &Scope, job: &JobName, text: &Source, wishes: &Wishes) -> Outcome {
    let id = scope.resolve(job)?;
    let (spool, standing) = scope.job(&id)?;
    super::session::of_finished(scope, &spool, &id, &standing)?;
    let entry = scope.entry(&spool.project().name)?;
    hand_in(scope, entry, std::slice::from_ref(text), wishes, Some(&id))
}

fn hand_in(
    scope: &Scope,
    entry: &Entry,
    texts: &[Source],
    wishes: &Wishes,
    continues: Option<&JobId>,
) -> Outcome {
    let project = &entry.project;
    // Refusals come before anything is written or submitted.
    if wishes.then != AfterSubmit::Return {
        refuse_own_wait(&project.name)?;
    }
    let spool = Spool::open(project)?;
    let description = wishes.description.as_deref().map(|given| {
        let text = "the description needs an ASCII letter or digit; choose another with -d";
        slug(given).ok_or_else(|| Error::with(Exit::Usage, text))
    });
    let description = description.transpose()?;
    let drafts: Vec<Draft> = texts
        .iter()
        .map(|text| read(text, project))
        .collect::<Result<_>>()?;
    let mut documents = Vec::new();
    for draft in &drafts {
        let prepared = prepare(&scope.places, entry, &draft.text, wishes, continues);
        documents.push(draft.or_kept(prepared)?);
    }
    let mut ids = Vec::new();
    for (draft, (words, text)) in drafts.iter().zip(documents) {
        let description = description.as_ref().unwrap_or(&words);
        let id = draft.or_kept(put(&spool, description, &text, wishes.hold))?;
        draft.is_safe();
        render::print(&format!("{id}\n"))?;
        ids.push(id);
    }
    if let Some(delay) = scope.disabled(&project.name) {
        render::note(&format!("it waits {delay}"));
    }
    match wishes.then {
        AfterSubmit::Return => Ok(Exit::Done),
        AfterSubmit::Wait => wait::wait(scope, &ids, None),
        AfterSubmit::Follow => logs::follow(scope, &ids[0]),
    }
}

/// Checks a text as the daemon will, and puts what was wished for into its front matter. Gives the
/// words for its id and the document.
fn prepare(
    places: &Places,
    entry: &Entry,
    text: &[u8],
    wishes: &Wishes,
    continues: Option<&JobId>,
) -> Result<(String, Vec<u8>)> {
    let (settings, _) = settings::load(&places.settings())?;
    let policy = entry.policy(&settings)?;
    let document = check(text, policy.max_document)?;
    let words = slug(first_words(document.body)).unwrap_or_else(|| "job".to_owned());
    let own = &document.wishes;
    let timeout = wishes
        .timeout
        .map(|timeout| format!("{}ms", timeout.as_millis()));
    let keys = [
        ("agent", wishes.agent.clone(), own.agent.is_some()),
        ("model", wishes.model.clone(), own.model.is_some()),
        ("timeout", timeout, own.timeout.is_some()),
        (
            "continues",
            continues.map(JobId::to_string),
            own.continues.is_some(),
        ),
    ];
    let mut lines = String::new();
    for (key, value, is_taken) in keys {
        match value {
            Some(_) if is_taken => {
                let text = format!(
                    "the document's front matter has {key} already; take it out of one place"
                );
                return Err(Error::with(Exit::Usage, text));
            }
            Some(value) => lines += &format!("{key}: {value}\n"),
            None => {}
        }
    }
    let head = &text[..text.len() - document.body.len()];
    let block = head
        .windows(4)
        .position(|four| four.starts_with(b"---") && four[3].is_ascii_whitespace());
    let new = match block
        .and_then(|at| Some(at + head[at..].iter().position(|&byte| byte == b'\n')? + 1))
    {
        _ if lines.is_empty() => text.to_owned(),
        Some(at) => [&text[..at], lines.as_bytes(), &text[at..]].concat(),
        None => [format!("---\n{lines}---\n").as_bytes(), text].concat(),
    };
    let checked = check(&new, policy.max_document)?;
    checked.wishes.tighten(&policy).map_err(Error::new)?;
    Ok((words, new))
}

fn check(text: &[u8], max: u64) -> Result<document::Document<'_>> {
    let meta = Meta {
        size: text.len() as u64,
        mtime_ns: 0,
        mode: 0o600,
        uid: 0,
    };
    document::check(text, &meta, max, true).map_err(Error::new)
}

/// Puts a text into the spool under a new id: never a name that is taken, and never a stamp before
/// one that is there, so that jobs submitted in one second keep their order.
pub(super) fn put(spool: &Spool, description: &str, text: &[u8], hold: bool) -> Result<JobId> {
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
            let text = "the description is too long; choose a shorter one with -d";
            Error::with(Exit::Usage, text)
        })?;
        if last.as_ref().is_none_or(|last| stamp > *last) && spool.document_meta(&id)?.is_none() {
            // Before the document, or it could have started by then.
            if hold {
                spool.mark(&id, Mark::Hold)?;
            }
            if spool.submit(&id, text)? {
                return Ok(id);
            }
        }
        at = at.plus(Duration::from_secs(1));
    }
}

/// Opens a waiting job's document in the editor. The job is held until the person is done.
pub(super) fn edit(scope: &Scope, job: &JobName) -> Result<()> {
    if !std::io::stdin().is_terminal() {
        return Err(Error::with(
            Exit::Usage,
            "edit needs a terminal for the editor",
        ));
    }
    let id = scope.resolve(job)?;
    let (spool, _) = scope.job(&id)?;
    let waits = |claim: Option<Claim>| -> Result<()> {
        match claim.is_none() && !spool.has_result(&id)? {
            true => Ok(()),
            false => Err(Error::new(format!(
                "{id} has begun; only a job that waits can be edited"
            ))),
        }
    };
    let begun = || spool.read_claim(&id);
    waits(begun()?)?;
    let was_held = spool.has_mark(&id, Mark::Hold)?;
    spool.mark(&id, Mark::Hold)?;
    let edited = (|| {
        let before = spool.document_text(&id)?.unwrap_or_default();
        let draft = Draft::write(spool.project(), &before)?;
        let entry = scope.entry(&spool.project().name)?;
        let changed = prepare(&scope.places, entry, &draft.text, &Wishes::default(), None)
            .and_then(|(_, text)| {
                waits(begun()?)?;
                let dir = Dir::open(&spool.items_path())?;
                dir.replace(&id.file_name(), &text, Durability::Durable)
                    .map(drop)
            });
        draft.or_kept(changed)?;
        draft.is_safe();
        Ok(())
    })();
    if !was_held {
        spool.unmark(&id, Mark::Hold)?;
        spool.poke()?;
    }
    edited?;
    let held = if was_held { "; it is held still" } else { "" };
    render::print(&format!("Changed {id}{held}\n"))
}

fn read(source: &Source, project: &Project) -> Result<Draft> {
    let text = match source {
        // Whatever can be read, a pipe from the shell included.
        Source::File(path) => {
            let file = std::fs::File::open(path).map_err(|e| Error::io("open", path, e))?;
            read_all(file, path)?
        }
        Source::Editor if std::io::stdin().is_terminal() => {
            return Draft::write(project, TEMPLATE.as_bytes());
        }
        Source::Stdin | Source::Editor => {
            read_all(std::io::stdin().lock(), Path::new("standard input"))?
        }
    };
    Ok(Draft { text, file: None })
}

fn read_all(from: impl Read, path: &Path) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let read = from.take(TEXT_MAX).read_to_end(&mut text);
    read.map_err(|e| Error::io("read", path, e))?;
    Ok(text)
}

impl Draft {
    /// Has the person write a document, beginning with `text`.
    fn write(project: &Project, text: &[u8]) -> Result<Draft> {
        let name = format!(
            "job-monitor-{}-{}.md",
            Wall::now().stamp(),
            std::process::id()
        );
        let path = std::env::temp_dir().join(name);
        let mut options = std::fs::OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::mode(options.write(true).create_new(true), 0o600);
        let created = options
            .open(&path)
            .and_then(|mut file| std::io::Write::write_all(&mut file, text));
        created.map_err(|e| Error::io("create", &path, e))?;
        let draft = |text| Draft {
            text,
            file: Some(path.clone()),
        };
        let ended = run_editor(&path, &project.path);
        let now = std::fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
        if now == text || without_note(&now).trim_ascii().is_empty() {
            draft(now).is_safe();
            return ended.and(Err(Error::new(
                "nothing was written, so nothing has changed",
            )));
        }
        draft(Vec::new()).or_kept(ended)?;
        Ok(draft(without_note(&now)))
    }

    /// On an error, says where the text is that a person wrote.
    fn or_kept<T>(&self, result: Result<T>) -> Result<T> {
        match &self.file {
            Some(file) => result.map_err(|e| {
                let file = quoted(&file.to_string_lossy());
                Error::with(e.exit, format!("{e}; what you wrote is kept in {file}"))
            }),
            None => result,
        }
    }

    /// The text is elsewhere now, or was none.
    fn is_safe(&self) {
        if let Some(file) = &self.file {
            let _ = std::fs::remove_file(file);
        }
    }
}

fn run_editor(path: &Path, dir: &Path) -> Result<()> {
    let editor = ["VISUAL", "EDITOR"]
        .into_iter()
        .find_map(settings::variable);
    let editor = editor.unwrap_or_else(|| "vi".to_owned());
    // As git does it: the variable may hold arguments, which only a shell can tell apart.
    let script = format!("{editor} \"$1\"");
    let status = Command::new("sh")
        .args(["-c", &script, "sh"])
        .arg(path)
        .current_dir(dir)
        .status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(Error::new(format!(
            "the editor {editor:?} failed, so nothing was submitted"
        ))),
        Err(e) => Err(Error::new(format!(
            "cannot start the editor {editor:?}: {}; set EDITOR",
            plain(&e)
        ))),
    }
}

/// A text without the note of [`TEMPLATE`].
fn without_note(text: &[u8]) -> Vec<u8> {
    let find = |part: &[u8], from: usize| text[from..].windows(part.len()).position(|w| w == part);
    let Some(start) = find(TEMPLATE_MARK.as_bytes(), 0) else {
        return text.to_owned();
    };
    let end = find(b"-->", start).map_or(text.len(), |at| start + at + 3);
    [&text[..start], text[end..].trim_ascii_start()].concat()
}

/// The first line that says something, without the signs of Markdown.
fn first_words(body: &str) -> &str {
    let lines = body
        .lines()
        .map(|line| line.trim().trim_start_matches(['#', '-', '*', '>', ' ']));
    let mut telling = lines.filter(|line| line.contains(|c: char| c.is_ascii_alphanumeric()));
    telling.next().unwrap_or_default()
}

/// A text as a part of a file name: lower case, whole words joined by `-`.
fn slug(text: &str) -> Option<String> {
    let mut slug = String::new();
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || "_.".contains(c)));
    for word in words
        .map(|word| word.trim_matches(['.', '_']))
        .filter(|word| !word.is_empty())
    {
        let room = SLUG_MAX.saturating_sub(slug.len() + 1);
        if !slug.is_empty() && word.len() > room {
            break;
        }
        slug += if slug.is_empty() { "" } else { "-" };
        slug += &word[..word.len().min(SLUG_MAX)].to_ascii_lowercase();
    }
    (!slug.is_empty()).then_some(slug)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_is_made_of_what_the_text_says_first() {
        for (text, words) in [
            (
                "\n# Fix the *bug* in Foo!\nmore",
                Some("fix-the-bug-in-foo"),
            ),
            ("---\n\nÜber alles", Some("ber-alles")),
            ("../../etc/passwd", Some("etc-passwd")),
            ("ü!", None),
            (
                "Explain the configuration of the whole program",
                Some("explain-the-configuration-of-the-whole"),
            ),
        ] {
            assert_eq!(slug(first_words(text)).as_deref(), words, "{text}");
        }
        assert_eq!(slug(&"x".repeat(100)).unwrap().len(), SLUG_MAX);
    }

    #[test]
    fn the_note_in_the_editor_goes_away_and_nothing_else_does() {
        let kept = |text: &str| String::from_utf8(without_note(text.as_bytes())).unwrap();
        assert_eq!(kept(&format!("Do it.\n{TEMPLATE}")).trim_end(), "Do it.");
        assert_eq!(kept(&format!("a{TEMPLATE}b")).replace('\n', ""), "ab");
        assert_eq!(kept("<!-- mine -->\n"), "<!-- mine -->\n");
    }
}
