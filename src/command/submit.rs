//! `submit` and `reply`: a text becomes a document in the spool, whole, under a fresh name.

use super::*;

/// A description made of a text is no longer than this.
const SLUG_MAX: usize = 40;
/// Stamps of documents so far ahead of the clock are taken for mistakes, not followed.
const AHEAD_MAX: Duration = Duration::from_secs(3600);
/// What the editor opens with; the note in it is taken out again.
const TEMPLATE: &str = include_str!("template.md");
const TEMPLATE_MARK: &str = "<!-- job-monitor:";

/// Submits documents, and waits for them if asked to.
pub(super) fn submit(scope: &Scope, asked: &Asked) -> Result<Exit> {
    hand_in(scope, scope.one()?, asked, None)
}

/// Submits a document whose job goes on in the session of a finished one.
pub(super) fn reply(scope: &Scope, asked: &Asked) -> Result<Exit> {
    let job = scope.job_or_latest(asked.jobs.first())?;
    if !matches!(scope.standing(&job)?, Standing::Done(_)) {
        let id = &job.id;
        let text = format!("{id} is not finished; job-monitor wait {id} waits for it");
        return Err(Error::new(text));
    }
    session::of(scope, &job)?;
    let entry = scope.entry(&job.spool.project().name)?;
    hand_in(scope, entry, asked, Some(&job.id))
}

/// Hands texts in as documents of a project, in the session of the job `before` if one is named.
fn hand_in(scope: &Scope, entry: &Entry, asked: &Asked, before: Option<&JobId>) -> Result<Exit> {
    let (project, follow) = (&entry.project, asked.follow);
    // Refusals come before anything is written or submitted.
    if asked.wait || follow {
        refuse_own_wait(&project.name)?;
    }
    let spool = Rc::new(Spool::open(project)?);
    let description = asked.description.as_deref().and_then(slug);
    let (settings, _) = settings::load(&scope.places.settings())?;
    let policy = entry.policy(&settings)?;
    let wishes = wishes(asked, before);
    let is_typed = asked.words.is_empty() && std::io::stdin().is_terminal();
    let draft = is_typed.then(new_draft).transpose()?;
    let submit = || {
        let texts = match &draft {
            Some(draft) => vec![written(draft, &project.path)?],
            None => texts(asked)?,
        };
        let documents = texts.iter().map(|text| prepare(&policy, text, &wishes));
        let mut jobs = Vec::new();
        for (words, text) in documents.collect::<Result<Vec<_>>>()? {
            let description = description.as_ref().unwrap_or(&words);
            let (id, spool) = (put(&spool, description, &text, asked.hold)?, spool.clone());
            render::print(&format!("{id}\n"))?;
            jobs.push(Job { id, spool });
        }
        Ok(jobs)
    };
    let jobs = submit().map_err(|error| kept(error, draft.as_deref()))?;
    draft.map(std::fs::remove_file);
    scope.tell_if_disabled(&project.name);
    match jobs.last() {
        // The jobs of a project run in order.
        Some(last) if follow => logs::follow(scope, last, asked),
        _ if asked.wait => wait::wait(scope, jobs, None),
        _ => Ok(Exit::Done),
    }
}

/// What the files hold that were named, or standard input. Whatever can be read will do, also a pipe from
/// the shell.
fn texts(asked: &Asked) -> Result<Vec<Vec<u8>>> {
    let read = |name: &OsString| {
        let mut text = Vec::new();
        let read = match name == "-" {
            true => io::stdin().read_to_end(&mut text).map(|_| text),
            false => std::fs::read(name),
        };
        read.map_err(|e| Error::io("read", name.as_ref(), e))
    };
    match asked.words.as_slice() {
        [] => Ok(vec![read(&"-".into())?]),
        words => words.iter().map(read).collect(),
    }
}

/// An error after which what was typed is still there, and where it is.
fn kept(error: Error, draft: Option<&Path>) -> Error {
    let Some(draft) = draft.filter(|draft| draft.exists()) else {
        return error;
    };
    let draft = quoted(&draft.to_string_lossy());
    let text = format!("{error}; what you wrote is kept in {draft}");
    Error::with(error.exit, text)
}

/// A file for the editor, with the note on what may stand there.
fn new_draft() -> Result<PathBuf> {
    let (dir, stamp) = (std::env::temp_dir(), Wall::now().stamp());
    let name = format!("job-monitor-{stamp}-{}.md", std::process::id());
    match Dir::open(&dir)?.add(&name, TEMPLATE.as_bytes())? {
        true => Ok(dir.join(name)),
        false => Err(Error::new(format!("{name} is in the way in {dir:?}"))),
    }
}

/// What the person writes into the draft with the editor.
fn written(draft: &Path, project: &Path) -> Result<Vec<u8>> {
    let chosen = settings::variable("VISUAL").or_else(|| settings::variable("EDITOR"));
    let editor = chosen.unwrap_or_else(|| "vi".to_owned());
    // As git does it: the variable may hold arguments, which only a shell can tell apart.
    let status = Command::new("sh")
        .args(["-c", &format!("{editor} \"$1\""), "sh"])
        .arg(draft)
        .current_dir(project)
        .status();
    if !status.is_ok_and(|status| status.success()) {
        return Err(Error::new(format!("the editor {editor:?} failed")));
    }
    let text = std::fs::read_to_string(draft).map_err(|e| Error::io("read", draft, e))?;
    let text = without_note(&text);
    if text.trim().is_empty() {
        let _ = std::fs::remove_file(draft);
        return Err(Error::new("nothing was written, so nothing was submitted"));
    }
    Ok(text.into_bytes())
}

/// What was asked for, as lines of front matter.
fn wishes(asked: &Asked, continues: Option<&JobId>) -> String {
    let ms = |timeout: Duration| format!("{}ms", timeout.as_millis());
    let wishes = [
        ("agent", asked.agent.clone()),
        ("model", asked.model.clone()),
        ("timeout", asked.timeout.map(ms)),
        ("continues", continues.map(JobId::to_string)),
    ];
    let line = |(key, told): (&str, Option<String>)| Some(format!("{key}: {}\n", one_line(&told?)));
    wishes.into_iter().filter_map(line).collect()
}

/// Checks a text as the daemon will, and puts the wishes into its front matter. Gives the words for
/// its id and the document.
fn prepare(policy: &Policy, text: &[u8], wishes: &str) -> Result<(String, Vec<u8>)> {
    let max = policy.max_document;
    let check = |text| document::check(text, &Meta::default(), max);
    let body = check(text).map_err(Error::new)?.body;
    let head = &text[..text.len() - body.len()];
    let block = head.windows(3).position(|three| three == b"---");
    let end = |at: usize| Some(at + head[at..].iter().position(|byte| *byte == b'\n')? + 1);
    let new = match block.and_then(end) {
        _ if wishes.is_empty() => text.to_owned(),
        Some(at) => [&text[..at], wishes.as_bytes(), &text[at..]].concat(),
        None => [format!("---\n{wishes}---\n").as_bytes(), text].concat(),
    };
    let wishes = check(&new).map_err(Error::new)?.wishes;
    wishes.tighten(policy).map_err(Error::new)?;
    let words = body.lines().find_map(slug);
    let words = words.unwrap_or_else(|| "job".to_owned());
    Ok((words, new))
}

/// Puts a text into the spool under a new id: never a name that is taken, and never a stamp before
/// one that is there, so that jobs submitted in one second keep their order.
pub(super) fn put(spool: &Spool, description: &str, text: &[u8], hold: bool) -> Result<JobId> {
    let now = Wall::now();
    let horizon = now.plus(AHEAD_MAX).stamp();
    let last = spool.last_stamp_before(&horizon)?;
    let mut at = now;
    loop {
        let stamp = at.stamp();
        let id = match spool.project().layout {
            Layout::Jobs => format!("job-{stamp}-{description}"),
            Layout::Tasks => format!("task-{description}-{stamp}"),
        };
        let id = JobId::parse(&id);
        let id = id.ok_or_else(|| Error::new("the description is too long"))?;
        if last.as_ref().is_none_or(|last| stamp > *last) && spool.document_meta(&id)?.is_none() {
            // The mark comes before the document, or the job could start in between.
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

/// A text without the note of [`TEMPLATE`].
fn without_note(text: &str) -> String {
    let Some((before, note)) = text.split_once(TEMPLATE_MARK) else {
        return text.to_owned();
    };
    let after = note.split_once("-->").map_or("", |(_, after)| after);
    before.to_owned() + after.trim_start()
}

/// A text as a part of a file name: lower case, so many whole words as there is room for.
fn slug(text: &str) -> Option<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || "_.".contains(c)));
    let words = words.map(|word| word.trim_matches(['.', '_']).to_ascii_lowercase());
    let words = words.filter(|word| !word.is_empty());
    let mut slug = words.reduce(|slug, word| match slug.len() + word.len() < SLUG_MAX {
        true => slug + "-" + &word,
        false => slug,
    })?;
    slug.truncate(SLUG_MAX);
    Some(slug)
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
            assert_eq!(text.lines().find_map(slug).as_deref(), words, "{text}");
        }
        assert_eq!(slug(&"x".repeat(100)).unwrap().len(), SLUG_MAX);
    }

    #[test]
    fn the_note_in_the_editor_goes_away_and_nothing_else_does() {
        let written = format!("Do it.\n{TEMPLATE}");
        assert_eq!(without_note(&written).trim_end(), "Do it.");
        let around = format!("a{TEMPLATE}b");
        assert_eq!(without_note(&around).replace('\n', ""), "ab");
        assert_eq!(without_note("<!-- mine -->\n"), "<!-- mine -->\n");
    }
}
