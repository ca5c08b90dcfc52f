//! `show`: one job, wherever it stands.

use super::Outcome;
use super::overview::{hold_text, suspension_text};
use super::projects::{self, NO_PROJECT, Queue, Scope, Standing};
use crate::agent::dialect;
use crate::agent::json::parse;
use crate::cli::Format;
use crate::error::{Exit, Result};
use crate::excerpt::Excerpt;
use crate::job::{JobId, log_name};
use crate::peek::{Key, Peek};
use crate::record::Claim;
use crate::render::{self, Pager, clean, clean_line, shorten};
use crate::spool::{Mark, Spool};
use crate::time::{Wall, human};
use serde::Serialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use std::fmt::Write;
use std::fs::File;
use std::io::BufReader;

/// So many refused tools are named; a run can be refused hundreds.
const DENIALS_SHOWN: usize = 10;
/// What of a result is told.
const MEMBERS: [Key<'_>; 11] = [
    ("", "status"),
    ("", "duration_seconds"),
    ("worker_output", "summary"),
    ("worker_output", "usage"),
    ("worker_output", "cost_usd"),
    ("", "artifacts"),
    ("", "audit_score"),
    ("", "audit_notes"),
    ("", "permission_denials"),
    ("", "error"),
    ("", "error_kind"),
];

#[derive(Serialize)]
struct JobView<'a> {
    job_id: &'a JobId,
    project: Option<&'a str>,
    state: &'static str,
    position: Option<usize>,
    started_at: Option<Wall>,
    attempt: Option<u32>,
    retry_at: Option<Wall>,
}

/// One job, wherever it stands.
pub(super) fn job(scope: &Scope, id: &JobId, format: Format) -> Outcome {
    let (spool, standing) = match scope.job(id) {
        Ok(found) => found,
        Err(error) if error.exit == Exit::NotFound => return not_found(scope, id, format),
        Err(error) => return Err(error),
    };
    let mut view = JobView {
        job_id: id,
        project: Some(&spool.project().name),
        state: "done",
        position: None,
        started_at: None,
        attempt: None,
        retry_at: None,
    };
    let mut result = None;
    let mut text = String::new();
    match standing {
        Standing::Done(file) => {
            if format == Format::Text {
                result_text(&mut text, &spool, id, &file);
            }
            result = Some(file);
        }
        Standing::Running(claim) => {
            view.state = "running";
            (view.started_at, view.attempt) = (Some(claim.started_at), Some(claim.starts));
            running_text(&mut text, &spool, &claim);
        }
        Standing::Suspended(claim) => {
            (view.attempt, view.retry_at) = (Some(claim.starts), projects::retry_at(&claim));
            let held = spool.has_mark(id, Mark::Hold)?;
            let queue = projects::queue(&spool, scope.daemon.is_some())?;
            let remark = format!("Suspended: {}", suspension_text(&claim, Wall::now()));
            waiting_text(&mut text, &mut view, &spool, &queue, held, Some(remark))?;
        }
        Standing::Waiting { held } => {
            let queue = projects::queue(&spool, scope.daemon.is_some())?;
            let hold = queue
                .hold
                .as_ref()
                .map(|hold| format!("Waits: {}", hold_text(hold, Wall::now())));
            waiting_text(&mut text, &mut view, &spool, &queue, held, hold)?;
        }
    }
    tell(format, &view, result, &text)?;
    Ok(Exit::Done)
}

/// Prints the text, or the view as JSON with the result in it, which may be large and so is never
/// held as a whole.
fn tell(format: Format, view: &JobView<'_>, result: Option<File>, text: &str) -> Result<()> {
    if format == Format::Text {
        return render::print(text);
    }
    let view = render::json(view)?;
    let mut out = Pager::default();
    let tell = || -> Result<()> {
        out.put(view.strip_suffix('}').unwrap_or(&view))?;
        out.put(",\"result\":")?;
        match result.filter(is_json) {
            Some(file) => {
                let size = file.metadata().map_or(0, |meta| meta.len());
                out.put_json(&Excerpt::new(file, size, u64::MAX))?;
            }
            None => out.put("null")?,
        }
        out.put("}\n")?;
        out.flush()
    };
    render::unless_gone(tell())
}

/// Whether a file is one whole JSON value, whatever its size.
fn is_json(file: &File) -> bool {
    let reader = BufReader::new(file);
    serde_json::from_reader::<_, IgnoredAny>(reader).is_ok()
}

/// A job that does not run yet, or not again yet; `remark` says what it waits for.
fn waiting_text(
    text: &mut String,
    view: &mut JobView<'_>,
    spool: &Spool,
    queue: &Queue,
    held: bool,
    remark: Option<String>,
) -> Result<()> {
    let id = view.job_id;
    view.state = if held { "held" } else { "waiting" };
    let all: Vec<&JobId> = queue
        .suspended
        .iter()
        .map(|claim| &claim.job_id)
        .chain(&queue.waiting)
        .collect();
    view.position = all
        .iter()
        .position(|waiting| *waiting == id)
        .map(|at| at + 1);
    let _ = writeln!(text, "Status: waiting\nJob: {id}");
    if let Some(meta) = spool.document_meta(id)? {
        let _ = writeln!(text, "Created: {}\nSize: {} bytes", meta.mtime(), meta.size);
    }
    if let Some(position) = view.position {
        let _ = writeln!(text, "Queue position: {position} of {}", all.len());
    }
    if let Some(starts) = view.attempt {
        let _ = writeln!(text, "Attempts: {starts}");
    }
    if spool.has_mark(id, Mark::Cancel)? {
        text.push_str("Cancelled: it is withdrawn when the monitor runs\n");
    } else if held {
        let _ = writeln!(text, "Held: job-monitor release {id} lets it run");
    } else if let Some(remark) = remark {
        let _ = writeln!(text, "{remark}");
    }
    Ok(())
}

fn not_found(scope: &Scope, id: &JobId, format: Format) -> Outcome {
    let view = JobView {
        job_id: id,
        project: None,
        state: "not_found",
        position: None,
        started_at: None,
        attempt: None,
        retry_at: None,
    };
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
    tell(format, &view, None, &text)?;
    Ok(Exit::NotFound)
}

fn running_text(text: &mut String, spool: &Spool, claim: &Claim) {
    let now = Wall::now();
    let _ = writeln!(
        text,
        "Status: processing\nJob: {}\nStarted: {}",
        claim.job_id, claim.started_at
    );
    let _ = writeln!(text, "Elapsed: {}", human(now.since(claim.started_at)));
    let log = spool.open_log(&log_name(
        &claim.job_id,
        claim.starts,
        dialect(claim.protocol).ending,
    ));
    let last = log
        .ok()
        .flatten()
        .and_then(|file| file.metadata().ok()?.modified().ok());
    if let Some(last) = last {
        let _ = writeln!(
            text,
            "Last activity: {} ago",
            human(now.since(Wall::from(last)))
        );
    }
    if claim.starts > 1 {
        let _ = writeln!(text, "Attempt: {}", claim.starts);
    }
}

fn result_text(text: &mut String, spool: &Spool, id: &JobId, result: &File) {
    let mut peek = Peek::default();
    let Some(members) = peek.members(result, &MEMBERS) else {
        let path = spool.result_path(id);
        let _ = writeln!(
            text,
            "Status: unknown\nJob: {id}\nError: the result {} cannot be read",
            path.display()
        );
        return;
    };
    let member = |key: &str| {
        let at = MEMBERS.iter().position(|(_, known)| *known == key)?;
        members.get(at)?.as_deref()
    };
    let word = |key: &str| member(key).and_then(parse::<String>);
    let number = |key: &str| member(key).and_then(parse::<f64>);
    let status = word("status").unwrap_or_else(|| "unknown".to_owned());
    let _ = writeln!(text, "Status: {}\nJob: {id}", clean(&status));
    if let Some(seconds) = number("duration_seconds") {
        let _ = writeln!(text, "Duration: {seconds:.2} seconds");
    }
    let summary = word("summary").or_else(|| {
        // The predecessor's first version wrote the text alone.
        let output = peek.members(result, &[("", "worker_output")])?;
        parse::<String>(output.first()?.as_deref()?)
    });
    if let Some(summary) = summary {
        let _ = writeln!(text, "Summary: {}", clean(summary.trim_end()));
    }
    let usage = member("usage").and_then(parse::<Value>);
    usage_text(text, usage.filter(Value::is_object), number("cost_usd"));
    let list = |key: &str| {
        member(key)
            .and_then(parse::<Vec<Value>>)
            .unwrap_or_default()
    };
    let artifacts = list("artifacts");
    if !artifacts.is_empty() {
        text.push_str("Artifacts:\n");
        for artifact in artifacts.iter().filter_map(Value::as_str) {
            let _ = writeln!(text, "  {}", clean_line(artifact));
        }
    }
    if let Some(score) = number("audit_score") {
        let notes =
            word("audit_notes").map_or(String::new(), |notes| format!(": {}", clean(&notes)));
        let _ = writeln!(text, "Audit: {score} of 100{notes}");
    }
    denials_text(text, &list("permission_denials"));
    if let Some(error) = word("error") {
        let kind = word("error_kind").map_or(String::new(), |kind| format!(" ({})", clean(&kind)));
        let _ = writeln!(text, "Error: {}{kind}", clean(&error));
    }
}

fn usage_text(text: &mut String, usage: Option<Value>, cost: Option<f64>) {
    if usage.is_none() && cost.is_none() {
        return;
    }
    text.push_str("Usage:\n");
    if let Some(usage) = usage {
        let tokens = |key: &str| usage.get(key).and_then(Value::as_u64).unwrap_or(0);
        let cached = tokens("cache_creation_input_tokens") + tokens("cache_read_input_tokens");
        let _ = write!(
            text,
            "  Tokens: {} in, {} out",
            tokens("input_tokens"),
            tokens("output_tokens")
        );
        let _ = match cached {
            0 => writeln!(text),
            cached => writeln!(text, ", {cached} cached"),
        };
    }
    if let Some(cost) = cost {
        let _ = writeln!(text, "  Cost: ${cost:.4}");
    }
}

/// What was refused, and how to allow it: the agent went on without, so that the answer may say
/// "done" of something that was not.
fn denials_text(text: &mut String, denials: &[Value]) {
    if denials.is_empty() {
        return;
    }
    text.push_str("Denied tools:\n");
    for denial in denials.iter().take(DENIALS_SHOWN) {
        let tool = denial
            .get("tool_name")
            .and_then(Value::as_str)
            .unwrap_or("unknown");
        let input = denial.get("tool_input");
        let detail = [
            "command",
            "file_path",
            "notebook_path",
            "url",
            "query",
            "pattern",
        ]
        .iter()
        .find_map(|key| input?.get(key)?.as_str());
        let detail = detail.map_or(String::new(), |detail| {
            format!(": {}", shorten(&clean_line(detail), 100))
        });
        let _ = writeln!(text, "  {}{detail}", clean_line(tool));
    }
    if denials.len() > DENIALS_SHOWN {
        let _ = writeln!(text, "  and {} more", denials.len() - DENIALS_SHOWN);
    }
    text.push_str(
        "  To allow such tools, give the agent in config.json \"args\", for example\n  \
         [\"--allowedTools\", \"Bash(cargo *) Bash(git *)\"]. The project's own .claude/settings.json\n  \
         allows nothing until its workspace is trusted: run claude in it once.\n",
    );
}
