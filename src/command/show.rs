//! `show`: one job, wherever it stands.

use super::Outcome;
use super::brief::{check_end, retry_at, suspension_text};
use super::queue::{Ground, Queue};
use super::result::Finished;
use super::scope::{NO_PROJECT, Scope, Standing};
use crate::agent::dialect;
use crate::cli::Format;
use crate::error::{Error, Exit, Result};
use crate::job::{JobId, log_name};
use crate::record::{Change, Check, Claim};
use crate::render::{self, Pager, Style, clean, clean_line, shorten};
use crate::spool::{Mark, Spool};
use crate::time::{Wall, human};
use serde::Serialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use std::fmt::Write;
use std::fs::File;
use std::io::{BufReader, Read, Seek};

/// So many refused tools are named; a run can be refused hundreds.
const DENIALS_SHOWN: usize = 10;
/// So many lines of a failed check's output are shown; its log has them all.
const CHECK_LINES: usize = 12;

#[derive(Serialize)]
struct JobView<'a> {
    job_id: &'a JobId,
    project: Option<&'a str>,
    state: &'static str,
    position: Option<usize>,
    started_at: Option<Wall>,
    attempt: Option<u32>,
    retry_at: Option<Wall>,
    /// What keeps it from being started, in words.
    obstacles: Vec<String>,
}

/// One job, wherever it stands.
pub(super) fn job(scope: &Scope, id: &JobId, format: Format) -> Outcome {
    let (spool, standing) = match scope.job(id) {
        Ok(found) => found,
        Err(error) if error.exit == Exit::NotFound => return not_found(scope, id, format),
        Err(error) => return Err(error),
    };
    let mut view = JobView::new(id, Some(&spool.project().name), "done");
    let mut text = String::new();
    match standing {
        Standing::Done(result) => return done(view, &spool, result, format),
        Standing::Running(claim) => {
            view.state = "running";
            (view.started_at, view.attempt) = (Some(claim.started_at), Some(claim.starts));
            running_text(&mut text, &spool, &claim);
        }
        Standing::Suspended(claim) => {
            (view.attempt, view.retry_at) = (Some(claim.starts), retry_at(&claim));
            let why = format!("Suspended: {}", suspension_text(&claim, Wall::now()));
            waiting_text(&mut text, &mut view, scope, &spool, Some(why))?;
        }
        Standing::Waiting { .. } => waiting_text(&mut text, &mut view, scope, &spool, None)?,
    }
    match format {
        Format::Text => render::print(&text)?,
        Format::Json => tell_json(&view, None)?,
    }
    Ok(Exit::Done)
}

impl<'a> JobView<'a> {
    fn new(job_id: &'a JobId, project: Option<&'a str>, state: &'static str) -> JobView<'a> {
        JobView {
            job_id,
            project,
            state,
            position: None,
            started_at: None,
            attempt: None,
            retry_at: None,
            obstacles: Vec::new(),
        }
    }
}

/// A finished job. A result that cannot be read ends it all the same.
fn done(view: JobView<'_>, spool: &Spool, mut result: File, format: Format) -> Outcome {
    let unreadable = || {
        let path = spool.result_path(view.job_id);
        Error::new(format!(
            "the result {} cannot be read; mend it, or remove it and run job-monitor retry {}",
            path.display(),
            view.job_id
        ))
    };
    if format == Format::Json {
        let reader = BufReader::new(&result);
        let is_json = serde_json::from_reader::<_, IgnoredAny>(reader).is_ok();
        let is_json = is_json && result.rewind().is_ok();
        tell_json(&view, is_json.then_some(result))?;
        return if is_json {
            Ok(Exit::Done)
        } else {
            Err(unreadable())
        };
    }
    let Some(result) = Finished::read(&result) else {
        render::print(&format!("Status: unreadable\nJob: {}\n", view.job_id))?;
        return Err(unreadable());
    };
    let mut text = String::new();
    result_text(&mut text, spool, view.job_id, &result);
    render::print(&text)?;
    Ok(Exit::Done)
}

/// The view with the result in it, which may be large and is passed on piece by piece.
fn tell_json(view: &JobView<'_>, result: Option<File>) -> Result<()> {
    let view = render::json(view)?;
    let mut out = Pager::default();
    let mut tell = || -> Result<()> {
        out.put(view.strip_suffix('}').unwrap_or(&view))?;
        out.put(",\"result\":")?;
        match &result {
            Some(file) => {
                let mut text = String::new();
                let read = BufReader::new(file).read_to_string(&mut text);
                read.map_err(|e| Error::io("read", "the result".as_ref(), e))?;
                for line in text.split_inclusive('\n') {
                    out.put_json(&line)?;
                }
            }
            None => out.put("null")?,
        }
        out.put("}\n")?;
        out.flush()
    };
    render::unless_gone(tell())
}

/// A job that does not run yet, or not again yet; `why` says so of the job itself.
fn waiting_text(
    text: &mut String,
    view: &mut JobView<'_>,
    scope: &Scope,
    spool: &Spool,
    why: Option<String>,
) -> Result<()> {
    let (id, now) = (view.job_id, Wall::now());
    let queue = Queue::look(spool, scope.daemon.is_some())?;
    let held = spool.has_mark(id, Mark::Hold)?;
    view.state = if held { "held" } else { "waiting" };
    view.position = queue
        .all()
        .position(|waiting| waiting == id)
        .map(|at| at + 1);
    let _ = writeln!(text, "Status: waiting\nJob: {id}");
    if let Some(meta) = spool.document_meta(id)? {
        let _ = writeln!(text, "Created: {}\nSize: {} bytes", meta.mtime(), meta.size);
    }
    if let Some(position) = view.position {
        let _ = writeln!(
            text,
            "Queue position: {position} of {}",
            queue.all().count()
        );
    }
    if let Some(starts) = view.attempt {
        let _ = writeln!(text, "Attempts: {starts}");
    }
    let project = &spool.project().name;
    if let Some(entry) = scope.entries.iter().find(|e| e.project.name == *project) {
        let (found, _) = Ground::of(scope).obstacles(scope, entry, &queue, now);
        view.obstacles = found
            .iter()
            .map(|o| format!("{}: {}", o.word, o.text))
            .collect();
    }
    let mut lines = Vec::new();
    if spool.has_mark(id, Mark::Cancel)? {
        lines.push("Cancelled: it is withdrawn when the monitor runs".to_owned());
    } else if held {
        lines.push(format!("Held: job-monitor release {id} lets it run"));
    } else {
        lines.extend(why);
        lines.extend(view.obstacles.iter().cloned());
    }
    for line in lines {
        let _ = writeln!(text, "{line}");
    }
    Ok(())
}

fn not_found(scope: &Scope, id: &JobId, format: Format) -> Outcome {
    if format == Format::Json {
        tell_json(&JobView::new(id, None, "not_found"), None)?;
        return Ok(Exit::NotFound);
    }
    let mut text = format!(
        "Status: not_found\nJob: {id}\nThe job was not found in any of the following locations:\n"
    );
    if scope.entries.is_empty() {
        let _ = writeln!(text, "  - {NO_PROJECT}");
    }
    for entry in &scope.entries {
        let (path, layout) = (&entry.project.path, entry.project.layout);
        for place in [layout.state(), layout.items(), layout.results()] {
            let _ = writeln!(text, "  - {}", clean(&path.join(place).to_string_lossy()));
        }
    }
    if let Some(nearest) = scope.nearest(id) {
        let _ = writeln!(text, "Did you mean {nearest}?");
    }
    render::print(&text)?;
    Ok(Exit::NotFound)
}

fn running_text(text: &mut String, spool: &Spool, claim: &Claim) {
    let now = Wall::now();
    let (id, started) = (&claim.job_id, claim.started_at);
    let _ = writeln!(text, "Status: processing\nJob: {id}\nStarted: {started}");
    let _ = writeln!(text, "Elapsed: {}", human(now.since(started)));
    let name = log_name(id, claim.starts, dialect(claim.protocol).ending);
    let log = spool.open_log(&name).ok().flatten();
    let written = log.and_then(|file| file.metadata().ok()?.modified().ok());
    if let Some(written) = written {
        let ago = human(now.since(Wall::from(written)));
        let _ = writeln!(text, "Last activity: {ago} ago");
    }
    if claim.starts > 1 {
        let _ = writeln!(text, "Attempt: {}", claim.starts);
    }
    if let Some(check) = claim.checks.last() {
        let tries = claim.checks.len();
        let _ = writeln!(
            text,
            "Checks: {tries} so far; the last {}",
            check_end(check)
        );
    }
    let project = clean(&spool.project().name);
    let _ = writeln!(text, "Project: {project}\nAgent: {}", clean(&claim.agent));
}

fn result_text(text: &mut String, spool: &Spool, id: &JobId, result: &Finished) {
    let _ = writeln!(text, "Status: {}\nJob: {id}", result.word());
    if let Some(seconds) = result.duration_seconds.get() {
        let _ = writeln!(text, "Duration: {seconds:.2} seconds");
    }
    if let Some(error) = result.error.get() {
        let kind = result.error_kind.get();
        let kind = kind.map_or(String::new(), |kind| format!(" ({})", clean_line(&kind)));
        let _ = writeln!(text, "Error: {}{kind}", clean(&error));
    }
    let of = |word: &str, told: Option<String>| {
        told.map_or(String::new(), |told| format!("{word}: {told}\n"))
    };
    text.push_str(&of(
        "Started",
        result.started_at.get().map(|at| at.to_string()),
    ));
    text.push_str(&of(
        "Ended",
        result.completed_at.get().map(|at| at.to_string()),
    ));
    if let Some(agent) = result.agent.get() {
        let more = [result.agent_version.get(), result.model.get()];
        let words: Vec<String> = [Some(agent)].into_iter().chain(more).flatten().collect();
        let project = clean(&spool.project().name);
        let _ = writeln!(
            text,
            "Project: {project}\nAgent: {}",
            clean_line(&words.join(" "))
        );
    }
    text.push_str(&of(
        "Continues",
        result.continues.get().map(|id| clean_line(&id)),
    ));
    if let Some(score) = result.audit_score.get() {
        let notes = result.audit_notes.get();
        let notes = notes.map_or(String::new(), |notes| format!(": {}", clean(&notes)));
        let _ = writeln!(text, "Audit: {score} of 100{notes}");
    }
    checks_text(text, &result.checks.get().unwrap_or_default());
    change_text(text, id, result.git.get());
    denials_text(text, result);
    let servers = result
        .failed_mcp_servers
        .get()
        .filter(|servers| !servers.is_empty());
    text.push_str(&of(
        "MCP servers missing",
        servers.map(|s| clean_line(&s.join(", "))),
    ));
    let artifacts = result.artifacts.get().filter(|list| !list.is_empty());
    if let Some(artifacts) = artifacts {
        text.push_str("Artifacts:\n");
        for artifact in artifacts {
            let _ = writeln!(text, "  {}", clean_line(&artifact));
        }
    }
    if let Some(summary) = result.worker_output.summary.get() {
        let _ = writeln!(
            text,
            "Summary: {}",
            clean(without_audit(&summary).trim_end())
        );
    }
    usage_text(text, result);
    if let Some(session) = result.session_id.get() {
        let session = clean_line(&session);
        let _ = writeln!(
            text,
            "Session: {session}\n  job-monitor reply {id} sends it more, job-monitor open {id} opens it"
        );
    }
}

/// The answer without its closing audit block, which is told in words.
fn without_audit(summary: &str) -> &str {
    match summary.rfind("```json") {
        Some(at) if summary[at..].contains("\"audit_score\"") => {
            let rest = &summary[at + 7..];
            let is_last = rest
                .find("```")
                .is_none_or(|end| rest[end + 3..].trim().is_empty());
            if is_last { &summary[..at] } else { summary }
        }
        _ => summary,
    }
}

fn usage_text(text: &mut String, result: &Finished) {
    let (usage, cost) = (result.worker_output.usage.get(), result.cost());
    if usage.is_some() || cost.is_some() {
        text.push_str("Usage:\n");
    }
    if let Some(usage) = usage {
        let tokens = |key: &str| usage.get(key).and_then(Value::as_u64).unwrap_or(0);
        let cached = tokens("cache_creation_input_tokens")
            .saturating_add(tokens("cache_read_input_tokens"))
            .saturating_add(tokens("cached_input_tokens"));
        let (input, output) = (tokens("input_tokens"), tokens("output_tokens"));
        let cached = match cached {
            0 => String::new(),
            cached => format!(", {cached} cached"),
        };
        let _ = writeln!(text, "  Tokens: {input} in, {output} out{cached}");
    }
    if let Some(cost) = cost {
        let _ = writeln!(text, "  Cost: {cost}");
    }
}

fn checks_text(text: &mut String, checks: &[Check]) {
    let Some(last) = checks.last() else { return };
    let after = match checks.len() {
        1 => String::new(),
        tries => format!(" at try {tries}"),
    };
    let _ = writeln!(text, "Check: {}{after}", check_end(last));
    if last.exit_code != Some(0) {
        let lines: Vec<&str> = last.output.trim_end().lines().collect();
        for line in &lines[lines.len().saturating_sub(CHECK_LINES)..] {
            let _ = writeln!(text, "  {}", clean(line));
        }
    }
}

fn change_text(text: &mut String, id: &JobId, change: Option<Change>) {
    let Some(change) = change else { return };
    let files = match change.files {
        Some(0) => "nothing".to_owned(),
        Some(1) => "1 file".to_owned(),
        Some(files) => format!("{files} files"),
        None => return,
    };
    let minus = if Style::of_stdout().unicode {
        "−"
    } else {
        "-"
    };
    let mut told = files;
    if let (Some(more), Some(less)) = (change.insertions, change.deletions)
        && more + less > 0
    {
        let _ = write!(told, ", +{more} {minus}{less}");
    }
    match change.commits {
        None | Some(0) => {}
        Some(1) => told.push_str(", 1 commit"),
        Some(commits) => told.push_str(&format!(", {commits} commits")),
    }
    if let Some(branch) = &change.branch {
        let _ = write!(told, " on {}", clean_line(branch));
    }
    let _ = match &change.patch {
        Some(_) => writeln!(text, "Changed: {told}; job-monitor diff {id}"),
        None => writeln!(text, "Changed: {told}"),
    };
}

/// What was refused, and how to allow it: the agent went on without, so that the answer may say
/// "done" of something that was not.
fn denials_text(text: &mut String, result: &Finished) {
    let denials = result.permission_denials.get().unwrap_or_default();
    if denials.is_empty() {
        return;
    }
    text.push_str("Denied tools:\n");
    let mut rules: Vec<String> = Vec::new();
    for denial in &denials {
        let tool = denial
            .get("tool_name")
            .and_then(Value::as_str)
            .unwrap_or("unknown");
        let input = denial.get("tool_input");
        let keys = [
            "command",
            "file_path",
            "notebook_path",
            "url",
            "query",
            "pattern",
        ];
        let subject = keys
            .iter()
            .find_map(|key| input?.get(key)?.as_str())
            .map(clean_line);
        let program = subject.as_deref().and_then(|line| line.split(' ').next());
        let rule = match (tool, program) {
            ("Bash", Some(program)) => format!("Bash({program} *)"),
            _ => clean_line(tool),
        };
        if !rules.contains(&rule) && rules.len() < DENIALS_SHOWN {
            let subject = subject.map_or(String::new(), |s| format!(": {}", shorten(&s, 100)));
            let _ = writeln!(text, "  {}{subject}", clean_line(tool));
            rules.push(rule);
        }
    }
    if denials.len() > rules.len() {
        let _ = writeln!(text, "  {} times in all", denials.len());
    }
    let agent = clean_line(&result.agent.get().unwrap_or_else(|| "claude".to_owned()));
    let args = serde_json::json!(["--allowedTools", rules.join(" ")]);
    let _ = writeln!(
        text,
        "  To allow them, in config.json: \"agents\": {{\"{agent}\": {{\"args\": {args}}}}}\n  \
         (or in the project's .claude/settings.json, once its workspace is trusted: run claude in it)"
    );
}
