//! `show`: one job, wherever it stands.

use super::Outcome;
use super::brief::{check_end, retry_at, suspension_text};
use super::queue::Seen;
use super::result::{Finished, change_line};
use super::scope::{NO_PROJECT, Scope, Standing};
use crate::agent::dialect;
use crate::cli::Format;
use crate::error::{Error, Exit, Result};
use crate::job::{JobId, log_name};
use crate::record::{Check, Claim};
use crate::render::{self, Pager, Style, clean, clean_line, shorten};
use crate::spool::Spool;
use crate::time::{Wall, human};
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use std::fmt::{Display, Write};
use std::fs::File;
use std::io::{BufReader, Read, Seek};

/// So many refused tools are named; a run can be refused hundreds.
const DENIALS_SHOWN: usize = 10;
/// So many lines of a failed check's output are shown; its log has them all.
const CHECK_LINES: usize = 12;

/// One job, wherever it stands.
pub(super) fn job(scope: &Scope, id: &JobId, format: Format) -> Outcome {
    let (spool, standing) = match scope.job(id) {
        Ok(found) => found,
        Err(error) if error.exit == Exit::NotFound => return not_found(scope, id, format),
        Err(error) => return Err(error),
    };
    let mut view = json!({"job_id": id, "project": spool.project().name, "state": "done",
        "position": null, "started_at": null, "attempt": null, "retry_at": null, "obstacles": []});
    let text = match standing {
        Standing::Done(result) => return done(&view, &spool, id, result, format),
        Standing::Running(claim) => {
            view["state"] = json!("running");
            view["started_at"] = json!(claim.started_at);
            view["attempt"] = json!(claim.starts);
            running_text(&spool, &claim)
        }
        Standing::Suspended(claim) => {
            view["attempt"] = json!(claim.starts);
            view["retry_at"] = json!(retry_at(&claim));
            waiting_text(&mut view, Seen::around(scope, &spool)?, id, Some(&claim))?
        }
        Standing::Waiting { .. } => {
            waiting_text(&mut view, Seen::around(scope, &spool)?, id, None)?
        }
    };
    match format {
        Format::Text => render::print(&text)?,
        Format::Json => tell_json(&view, None)?,
    }
    Ok(Exit::Done)
}

/// A finished job. A result that cannot be read ends it all the same.
fn done(view: &Value, spool: &Spool, id: &JobId, mut file: File, format: Format) -> Outcome {
    let is_told = match format {
        Format::Json => {
            let whole = serde_json::from_reader::<_, IgnoredAny>(BufReader::new(&file));
            let whole = whole.is_ok() && file.rewind().is_ok();
            tell_json(view, Some(file).filter(|_| whole))?;
            whole
        }
        Format::Text => {
            let result = Finished::read(&file);
            render::print(&match &result {
                Some(result) => result_text(spool, id, result),
                None => format!("Status: unreadable\nJob: {id}\n"),
            })?;
            result.is_some()
        }
    };
    if is_told {
        return Ok(Exit::Done);
    }
    let path = spool.result_path(id);
    let way_out = format!("mend it, or remove it and run job-monitor retry {id}");
    let path = path.display();
    Err(Error::new(format!(
        "the result {path} cannot be read; {way_out}"
    )))
}

/// The view with the result in it, which may be large and is passed on piece by piece.
fn tell_json(view: &Value, result: Option<File>) -> Result<()> {
    let view = render::json(view)?;
    let mut out = Pager::default();
    let mut tell = || -> Result<()> {
        out.put(view.strip_suffix('}').unwrap_or(&view))?;
        out.put(",\"result\":")?;
        let mut text = String::new();
        match &result {
            Some(file) => BufReader::new(file).read_to_string(&mut text).map(drop),
            None => text.write_str("null").map_err(std::io::Error::other),
        }
        .map_err(|e| Error::io("read", "the result".as_ref(), e))?;
        for line in text.split_inclusive('\n') {
            out.put_json(&line)?;
        }
        out.put("}\n")?;
        out.flush()
    };
    render::unless_gone(tell())
}

/// A job that does not run yet, or not again yet.
fn waiting_text(view: &mut Value, seen: Seen, id: &JobId, claim: Option<&Claim>) -> Result<String> {
    let held = seen.marks.held.contains(id);
    let position = seen
        .all()
        .position(|waiting| waiting == id)
        .map(|at| at + 1);
    view["state"] = json!(if held { "held" } else { "waiting" });
    view["position"] = json!(position);
    view["obstacles"] = json!(seen.obstacle_lines());
    let mut text = format!("Status: waiting\nJob: {id}\n");
    if let Some(meta) = seen.spool.document_meta(id)? {
        let _ = writeln!(text, "Created: {}\nSize: {} bytes", meta.mtime(), meta.size);
    }
    if let Some(position) = position {
        let _ = writeln!(text, "Queue position: {position} of {}", seen.all().count());
    }
    if let Some(claim) = claim {
        let _ = writeln!(text, "Attempts: {}", claim.starts);
    }
    if seen.marks.cancelled.contains(id) {
        text.push_str("Cancelled: it is withdrawn when the monitor runs\n");
    } else if held {
        let _ = writeln!(text, "Held: job-monitor release {id} lets it run");
    } else {
        let why = claim.map(|claim| format!("Suspended: {}", suspension_text(claim, Wall::now())));
        for line in why.into_iter().chain(seen.obstacle_lines()) {
            let _ = writeln!(text, "{line}");
        }
    }
    Ok(text)
}

fn not_found(scope: &Scope, id: &JobId, format: Format) -> Outcome {
    if format == Format::Json {
        let view = json!({"job_id": id, "project": null, "state": "not_found", "position": null});
        tell_json(&view, None)?;
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

/// Adds a line if there is something to tell.
fn tell(text: &mut String, word: &str, told: Option<impl Display>) {
    if let Some(told) = told {
        let told = told.to_string();
        let gap = if told.starts_with('\n') { "" } else { " " };
        let _ = writeln!(text, "{word}:{gap}{}", clean(&told));
    }
}

fn running_text(spool: &Spool, claim: &Claim) -> String {
    let (now, id, started) = (Wall::now(), &claim.job_id, claim.started_at);
    let mut text = format!("Status: processing\nJob: {id}\nStarted: {started}\n");
    tell(&mut text, "Elapsed", Some(human(now.since(started))));
    let log = spool.open_log(&log_name(id, claim.starts, dialect(claim.protocol).ending));
    let written = log
        .ok()
        .flatten()
        .and_then(|file| file.metadata().ok()?.modified().ok());
    let ago = written.map(|at| format!("{} ago", human(now.since(Wall::from(at)))));
    tell(&mut text, "Last activity", ago);
    tell(
        &mut text,
        "Attempt",
        Some(claim.starts).filter(|starts| *starts > 1),
    );
    checks_text(&mut text, &claim.checks);
    tell(&mut text, "Project", Some(&spool.project().name));
    tell(&mut text, "Agent", Some(&claim.agent));
    text
}

fn result_text(spool: &Spool, id: &JobId, result: &Finished) -> String {
    let mut text = format!("Status: {}\nJob: {id}\n", result.word());
    let to = &mut text;
    let seconds = result.duration_seconds.get();
    tell(
        to,
        "Duration",
        seconds.map(|seconds| format!("{seconds:.2} seconds")),
    );
    let kind = result.error_kind.get().map(|kind| format!(" ({kind})"));
    let kind = kind.unwrap_or_default();
    tell(
        to,
        "Error",
        result.error.get().map(|error| format!("{error}{kind}")),
    );
    tell(to, "Started", result.started_at.get());
    tell(to, "Ended", result.completed_at.get());
    if let Some(agent) = result.agent.get() {
        let more = [result.agent_version.get(), result.model.get()];
        let words: Vec<String> = [Some(agent)].into_iter().chain(more).flatten().collect();
        tell(to, "Project", Some(&spool.project().name));
        tell(to, "Agent", Some(words.join(" ")));
    }
    tell(to, "Continues", result.continues.get());
    proof_text(to, id, result);
    let artifacts = result.artifacts.get().filter(|list| !list.is_empty());
    tell(
        to,
        "Artifacts",
        artifacts.map(|list| format!("\n  {}", list.join("\n  "))),
    );
    let summary = result.worker_output.summary.get();
    tell(
        to,
        "Summary",
        summary
            .as_deref()
            .map(|text| without_audit(text).trim_end()),
    );
    usage_text(to, result);
    if let Some(session) = result.session_id.get() {
        let hint = format!("job-monitor reply {id} sends it more, job-monitor open {id} opens it");
        tell(to, "Session", Some(format!("{session}\n  {hint}")));
    }
    text
}

/// How well it went, as far as others than the agent tell.
fn proof_text(to: &mut String, id: &JobId, result: &Finished) {
    let notes = result.audit_notes.get().map(|notes| format!(": {notes}"));
    let notes = notes.unwrap_or_default();
    tell(
        to,
        "Audit",
        result
            .audit_score
            .get()
            .map(|score| format!("{score} of 100{notes}")),
    );
    checks_text(to, &result.checks.get().unwrap_or_default());
    if let Some(change) = result.git.get() {
        let line = change_line(&change, Style::of_stdout());
        let hint = change.patch.map(|_| format!("; job-monitor diff {id}"));
        tell(
            to,
            "Changed",
            line.map(|line| line + &hint.unwrap_or_default()),
        );
    }
    denials_text(to, result);
    let servers = result
        .failed_mcp_servers
        .get()
        .filter(|servers| !servers.is_empty());
    tell(
        to,
        "MCP servers missing",
        servers.map(|servers| servers.join(", ")),
    );
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
        let cached = ["cache_creation", "cache_read", "cached"]
            .map(|kind| tokens(&format!("{kind}_input_tokens")));
        let cached = match cached.into_iter().fold(0, u64::saturating_add) {
            0 => String::new(),
            cached => format!(", {cached} cached"),
        };
        let (input, output) = (tokens("input_tokens"), tokens("output_tokens"));
        let _ = writeln!(text, "  Tokens: {input} in, {output} out{cached}");
    }
    tell(text, "  Cost", cost);
}

fn checks_text(text: &mut String, checks: &[Check]) {
    let Some(last) = checks.last() else { return };
    let tries = match checks.len() {
        1 => String::new(),
        tries => format!(" at try {tries}"),
    };
    let _ = writeln!(text, "Check: {}{tries}", check_end(last));
    if last.exit_code != Some(0) {
        let lines: Vec<&str> = last.output.trim_end().lines().collect();
        for line in &lines[lines.len().saturating_sub(CHECK_LINES)..] {
            let _ = writeln!(text, "  {}", clean(line));
        }
    }
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
        let word = |of: &Value| of.as_str().map(clean_line);
        let tool = word(&denial["tool_name"]).unwrap_or_else(|| "unknown".to_owned());
        let keys = ["command", "file_path", "url", "query", "pattern"];
        let subject = keys.iter().find_map(|key| word(&denial["tool_input"][key]));
        let program = subject.as_deref().and_then(|line| line.split(' ').next());
        let rule = match program.filter(|_| tool == "Bash") {
            Some(program) => format!("Bash({program} *)"),
            None => tool.clone(),
        };
        if !rules.contains(&rule) && rules.len() < DENIALS_SHOWN {
            let subject = subject.map_or(String::new(), |s| format!(": {}", shorten(&s, 100)));
            let _ = writeln!(text, "  {tool}{subject}");
            rules.push(rule);
        }
    }
    if denials.len() > rules.len() {
        let _ = writeln!(text, "  {} times in all", denials.len());
    }
    let agent = clean_line(&result.agent.get().unwrap_or_else(|| "claude".to_owned()));
    let args = json!(["--allowedTools", rules.join(" ")]);
    let _ = writeln!(
        text,
        "  To allow them, in config.json: \"agents\": {{\"{agent}\": {{\"args\": {args}}}}}\n  \
         (or in the project's .claude/settings.json, once its workspace is trusted: run claude in it)"
    );
}
