//! The reading commands: `queue`, `list`, `status`, and one job.

use super::Outcome;
use super::projects::{self, Queue, Scope, Standing};
use crate::agent::command::output_ending;
use crate::board;
use crate::cli::Format;
use crate::error::{Exit, Result};
use crate::holds::Hold;
use crate::job::JobId;
use crate::job::log_name;
use crate::record::{Claim, HoldView};
use crate::registry::Entry;
use crate::render::{self, Style, clean, clean_line, shorten};
use crate::settings;
use crate::spool::{Mark, Spool};
use crate::time::{Wall, human};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;
use std::fmt::Write;
use std::time::Duration;

/// So many refused tools are named; a run can be refused hundreds.
const DENIALS_SHOWN: usize = 10;

#[derive(Serialize)]
struct Overview {
    daemon: DaemonView,
    projects: Vec<ProjectView>,
}

#[derive(Serialize)]
struct DaemonView {
    running: bool,
    pid: Option<i32>,
}

#[derive(Serialize)]
struct ProjectView {
    name: String,
    path: String,
    layout: &'static str,
    enabled: bool,
    available: bool,
    #[serde(serialize_with = "with_offset")]
    registered_at: Option<String>,
    hold: Option<HoldView>,
    current: Option<Current>,
    waiting: Vec<Waiting>,
    #[serde(skip)]
    trouble: Option<String>,
    #[serde(skip)]
    suspended: Option<Claim>,
}

#[derive(Serialize)]
struct Current {
    job_id: JobId,
    attempt: u32,
    started_at: Wall,
}

#[derive(Serialize)]
struct Waiting {
    job_id: JobId,
    created_at: Option<Wall>,
    size: Option<u64>,
    held: bool,
    retry_at: Option<Wall>,
}

/// The queue of each project in question.
pub(super) fn queue(scope: &Scope, format: Format) -> Result<()> {
    let overview = overview(scope, format);
    render::answer(format, &overview, || {
        let mut text = String::new();
        for project in &overview.projects {
            if overview.projects.len() > 1 {
                let _ = writeln!(text, "Project: {}", clean(&project.name));
            }
            queue_text(&mut text, project);
            if overview.projects.len() > 1 {
                text.push('\n');
            }
        }
        if overview.projects.is_empty() {
            text.push_str("No projects registered; job-monitor register PATH adds one\n");
        }
        text
    })
}

fn queue_text(text: &mut String, project: &ProjectView) {
    let now = Wall::now();
    if let Some(trouble) = &project.trouble {
        let _ = writeln!(text, "Unavailable: {}", clean(trouble));
        return;
    }
    let _ = writeln!(text, "Queue size: {}", project.waiting.len());
    let _ = match &project.current {
        Some(current) => writeln!(text, "Processing: {}", current.job_id.file_name()),
        None => writeln!(text, "Processing: None"),
    };
    if let Some(hold) = &project.hold {
        let _ = writeln!(text, "Held: {}", hold_text(hold, now));
    }
    if !project.enabled {
        text.push_str("Disabled: no job is started; job-monitor enable lets them run\n");
    }
    if !project.waiting.is_empty() {
        text.push_str("Queued jobs:\n");
    }
    for (number, job) in project.waiting.iter().enumerate() {
        let suspended = project
            .suspended
            .as_ref()
            .filter(|claim| claim.job_id == job.job_id);
        let remark = match (suspended, job.held) {
            (_, true) => " (held)".to_owned(),
            (Some(claim), _) => format!(" ({})", suspension_text(claim, now)),
            _ => String::new(),
        };
        let _ = writeln!(text, "  {}. {}{remark}", number + 1, job.job_id.file_name());
    }
}

pub(super) fn hold_text(hold: &HoldView, now: Wall) -> String {
    let until = match hold.until {
        Some(until) => format!(
            "; until {} (in {})",
            until.short(now),
            human(until.since(now))
        ),
        None => String::new(),
    };
    format!("{}{until}", clean(&hold.reason))
}

pub(super) fn suspension_text(claim: &Claim, now: Wall) -> String {
    let Some(suspension) = &claim.suspended else {
        return "was interrupted; goes on when the monitor starts".to_owned();
    };
    match suspension.retry_at {
        Some(at) if at > now => {
            format!(
                "retried at {}, in {}: {}",
                at.short(now),
                human(at.since(now)),
                clean(&suspension.error)
            )
        }
        Some(_) => format!("goes on next: {}", clean(&suspension.error)),
        None => format!("waits for its agent: {}", clean(&suspension.error)),
    }
}

/// The registered projects.
pub(super) fn list(scope: &Scope, format: Format) -> Result<()> {
    let overview = overview(scope, format);
    let style = Style::of_stdout();
    render::answer(format, &overview, || {
        let mut text = String::new();
        for project in &overview.projects {
            let enabled = if project.enabled {
                "enabled"
            } else {
                "disabled"
            };
            let _ = writeln!(text, "{}", clean(&project.name));
            let _ = writeln!(text, "  Path: {}", clean(&project.path));
            let _ = writeln!(text, "  Status: {} {enabled}", style.mark(project.enabled));
            let registered = project.registered_at.as_deref().unwrap_or("unknown");
            let _ = writeln!(text, "  Registered: {}", clean(registered));
            if let Some(trouble) = &project.trouble {
                let _ = writeln!(text, "  Unavailable: {}", clean(trouble));
            }
            if let Some(hold) = &project.hold {
                let _ = writeln!(text, "  Held: {}", hold_text(hold, Wall::now()));
            }
        }
        if overview.projects.is_empty() {
            text.push_str("No projects registered; job-monitor register PATH adds one\n");
        }
        text
    })
}

fn overview(scope: &Scope, format: Format) -> Overview {
    let running = scope.daemon.is_some();
    let look = |entry: &Entry| project_view(entry, scope, running, format);
    Overview {
        daemon: DaemonView {
            running,
            pid: scope.daemon,
        },
        projects: scope.entries.iter().map(look).collect(),
    }
}

fn project_view(entry: &Entry, scope: &Scope, running: bool, format: Format) -> ProjectView {
    let project = &entry.project;
    let mut view = ProjectView {
        name: project.name.clone(),
        path: project.path.to_string_lossy().into_owned(),
        layout: project.layout.as_str(),
        enabled: entry.enabled,
        available: true,
        registered_at: entry.registered_at.clone(),
        hold: None,
        current: None,
        waiting: Vec::new(),
        trouble: None,
        suspended: None,
    };
    let looked = Spool::open(project).and_then(|spool| {
        let queue = projects::queue(&spool, running)?;
        let marks = spool.marks(false)?;
        Ok((spool, queue, marks))
    });
    let (
        spool,
        Queue {
            current,
            suspended,
            waiting,
            hold,
        },
        marks,
    ) = match looked {
        Ok(looked) => looked,
        Err(error) => {
            view.available = false;
            view.trouble = Some(error.to_string());
            return view;
        }
    };
    view.hold = hold.or_else(|| hold_without_view(entry, scope));
    view.current = current.map(|claim| Current {
        job_id: claim.job_id,
        attempt: claim.starts,
        started_at: claim.started_at,
    });
    let job = |id: &JobId, retry_at| {
        // The text names jobs only; for scripts, each document is looked at.
        let meta = if format == Format::Json {
            spool.document_meta(id).ok().flatten()
        } else {
            None
        };
        Waiting {
            job_id: id.clone(),
            created_at: meta.map(|meta| meta.mtime()),
            size: meta.map(|meta| meta.size),
            held: marks.held.contains(id),
            retry_at,
        }
    };
    let head = suspended
        .iter()
        .map(|claim| job(&claim.job_id, projects::retry_at(claim)));
    view.waiting = head.chain(waiting.iter().map(|id| job(id, None))).collect();
    view.suspended = suspended;
    view
}

/// The hold that a daemon would find, for when none runs or its view does not say.
pub(super) fn hold_without_view(entry: &Entry, scope: &Scope) -> Option<HoldView> {
    let (settings, _) = settings::load(&scope.places.settings()).ok()?;
    let policy = entry.policy(&settings).ok()?;
    let now = Wall::now();
    let holds = board::read_holds(&scope.places.state);
    let ledger = board::read_ledger(&scope.places.state);
    let hold = holds
        .of(&policy.agent.name)
        .filter(|hold| hold.until.is_none_or(|until| until > now));
    hold.map(|hold| hold.view()).or_else(|| {
        ledger.exhausted(
            &entry.project.name,
            policy.daily_budget_usd,
            settings.daily_budget_usd(),
            now,
        )
    })
}

#[derive(Serialize)]
struct Finished {
    jobs: Vec<FinishedJob>,
    holds: Vec<HoldView>,
}

#[derive(Serialize)]
struct FinishedJob {
    job_id: JobId,
    project: String,
    status: String,
    error_kind: Option<String>,
    #[serde(serialize_with = "with_offset")]
    completed_at: Option<String>,
    duration_seconds: Option<f64>,
    cost_usd: Option<f64>,
}

/// The predecessor wrote local times without their offset; a program is told it.
fn with_offset<S: Serializer>(
    time: &Option<String>,
    to: S,
) -> std::result::Result<S::Ok, S::Error> {
    match time.as_deref().and_then(Wall::parse) {
        Some(at) => at.serialize(to),
        None => time.serialize(to),
    }
}

/// What of a result is shown in lists; whatever else it has is skipped unread.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Brief {
    status: Option<String>,
    error_kind: Option<String>,
    completed_at: Option<String>,
    duration_seconds: Option<f64>,
    #[serde(deserialize_with = "output_if_object")]
    worker_output: Option<BriefOutput>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct BriefOutput {
    cost_usd: Option<f64>,
}

/// The predecessor's first version wrote the text alone, which has no cost in it.
fn output_if_object<'de, D: Deserializer<'de>>(
    from: D,
) -> std::result::Result<Option<BriefOutput>, D::Error> {
    let raw = <&RawValue>::deserialize(from)?;
    Ok(serde_json::from_str(raw.get()).ok())
}

/// The finished jobs, newest first.
pub(super) fn status(scope: &Scope, limit: Option<usize>, format: Format) -> Result<()> {
    let spools = scope.spools();
    let mut found: Vec<(i128, usize, JobId)> = Vec::new();
    for (at, spool) in spools.iter().enumerate() {
        for id in spool.finished()? {
            found.push((spool.result_mtime_ns(&id)?, at, id));
        }
    }
    let total = found.len();
    let by_age = |a: &(i128, usize, JobId), b: &(i128, usize, JobId)| b.cmp(a);
    if let Some(limit) = limit.filter(|limit| *limit < total) {
        if limit > 0 {
            found.select_nth_unstable_by(limit - 1, by_age);
        }
        found.truncate(limit);
    }
    found.sort_unstable_by(by_age);
    let jobs = found
        .into_iter()
        .map(|(_, at, id)| finished_job(&spools[at], id))
        .collect::<Vec<_>>();
    let now = Wall::now();
    let in_force = |hold: &&Hold| hold.until.is_none_or(|until| until > now);
    let holds = board::read_holds(&scope.places.state).list;
    let holds = holds.iter().filter(in_force).map(Hold::view).collect();
    let finished = Finished { jobs, holds };
    let style = Style::of_stdout();
    render::answer(format, &finished, || {
        let mut text = String::from("Completed jobs:\n");
        for job in &finished.jobs {
            let mut line = format!(
                "  {} {}: {}",
                style.mark(job.status == "completed"),
                job.job_id,
                clean(&job.status)
            );
            if let Some(kind) = &job.error_kind {
                let _ = write!(line, " ({})", clean(kind));
            }
            if let Some(seconds) = job
                .duration_seconds
                .filter(|seconds| *seconds >= 0.0 && *seconds < 1e12)
            {
                let _ = write!(line, ", {}", human(Duration::from_secs_f64(seconds)));
            }
            if let Some(cost) = job.cost_usd {
                let _ = write!(line, ", ${cost:.4}");
            }
            if spools.len() > 1 {
                let _ = write!(line, "  [{}]", clean(&job.project));
            }
            text.push_str(&line);
            text.push('\n');
        }
        if finished.jobs.len() < total {
            let _ = writeln!(
                text,
                "  and {} more; --all shows them",
                total - finished.jobs.len()
            );
        }
        text
    })
}

fn finished_job(spool: &Spool, id: JobId) -> FinishedJob {
    let brief = spool
        .read_result(&id)
        .ok()
        .flatten()
        .and_then(|bytes| serde_json::from_slice::<Brief>(&bytes).ok());
    let readable = brief.is_some();
    let brief = brief.unwrap_or_default();
    FinishedJob {
        job_id: id,
        project: spool.project().name.clone(),
        status: brief
            .status
            .unwrap_or_else(|| if readable { "unknown" } else { "unreadable" }.to_owned()),
        error_kind: brief.error_kind,
        completed_at: brief.completed_at,
        duration_seconds: brief.duration_seconds,
        cost_usd: brief.worker_output.and_then(|output| output.cost_usd),
    }
}

#[derive(Serialize)]
struct JobView<'a> {
    job_id: &'a JobId,
    project: Option<&'a str>,
    state: &'static str,
    position: Option<usize>,
    started_at: Option<Wall>,
    attempt: Option<u32>,
    retry_at: Option<Wall>,
    result: Option<Box<RawValue>>,
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
        result: None,
    };
    let mut text = String::new();
    match &standing {
        Standing::Done(bytes) => {
            view.result = serde_json::from_slice(bytes).ok();
            result_text(&mut text, &spool, id, bytes);
        }
        Standing::Running(claim) => {
            view.state = "running";
            (view.started_at, view.attempt) = (Some(claim.started_at), Some(claim.starts));
            running_text(&mut text, &spool, claim);
        }
        Standing::Suspended(claim) => {
            (view.attempt, view.retry_at) = (Some(claim.starts), projects::retry_at(claim));
            let held = spool.has_mark(id, Mark::Hold)?;
            let queue = projects::queue(&spool, scope.daemon.is_some())?;
            let remark = format!("Suspended: {}", suspension_text(claim, Wall::now()));
            waiting_text(&mut text, &mut view, &spool, &queue, held, Some(remark))?;
        }
        Standing::Waiting { held } => {
            let queue = projects::queue(&spool, scope.daemon.is_some())?;
            let hold = queue
                .hold
                .as_ref()
                .map(|hold| format!("Waits: {}", hold_text(hold, Wall::now())));
            waiting_text(&mut text, &mut view, &spool, &queue, *held, hold)?;
        }
    }
    render::answer(format, &view, || text)?;
    Ok(Exit::Done)
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
    if held {
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
        result: None,
    };
    render::answer(format, &view, || {
        let mut text = format!(
            "Status: not_found\nJob: {id}\nThe job was not found in any of the following locations:\n"
        );
        for entry in &scope.entries {
            let (path, layout) = (&entry.project.path, entry.project.layout);
            for place in [layout.state(), layout.items(), layout.results()] {
                let _ = writeln!(text, "  - {}", clean(&path.join(place).to_string_lossy()));
            }
        }
        text
    })?;
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
        output_ending(claim.protocol),
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

fn result_text(text: &mut String, spool: &Spool, id: &JobId, bytes: &[u8]) {
    let Ok(result) = serde_json::from_slice::<Value>(bytes) else {
        let path = spool.result_path(id);
        let _ = writeln!(
            text,
            "Status: unknown\nJob: {id}\nError: the result {} cannot be read",
            path.display()
        );
        return;
    };
    let word = |key: &str| result.get(key).and_then(Value::as_str);
    let _ = writeln!(
        text,
        "Status: {}\nJob: {id}",
        clean(word("status").unwrap_or("unknown"))
    );
    if let Some(seconds) = result.get("duration_seconds").and_then(Value::as_f64) {
        let _ = writeln!(text, "Duration: {seconds:.2} seconds");
    }
    let output = result.get("worker_output").cloned().unwrap_or(Value::Null);
    // The predecessor's first version wrote the text alone.
    let summary = output
        .get("summary")
        .and_then(Value::as_str)
        .or(output.as_str());
    if let Some(summary) = summary {
        let _ = writeln!(text, "Summary: {}", clean(summary.trim_end()));
    }
    usage_text(text, &output);
    let list = |key: &str| {
        result
            .get(key)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let artifacts = list("artifacts");
    if !artifacts.is_empty() {
        text.push_str("Artifacts:\n");
        for artifact in artifacts.iter().filter_map(Value::as_str) {
            let _ = writeln!(text, "  {}", clean_line(artifact));
        }
    }
    if let Some(score) = result.get("audit_score").and_then(Value::as_f64) {
        let notes =
            word("audit_notes").map_or(String::new(), |notes| format!(": {}", clean(notes)));
        let _ = writeln!(text, "Audit: {score} of 100{notes}");
    }
    denials_text(text, &list("permission_denials"));
    if let Some(error) = word("error") {
        let kind = word("error_kind").map_or(String::new(), |kind| format!(" ({})", clean(kind)));
        let _ = writeln!(text, "Error: {}{kind}", clean(error));
    }
}

fn usage_text(text: &mut String, output: &Value) {
    let usage = output.get("usage").filter(|usage| usage.is_object());
    let cost = output.get("cost_usd").and_then(Value::as_f64);
    if usage.is_none() && cost.is_none() {
        return;
    }
    text.push_str("Usage:\n");
    if let Some(usage) = usage {
        let tokens = |key: &str| usage.get(key).and_then(Value::as_u64).unwrap_or(0);
        let cached = tokens("cache_creation_input_tokens") + tokens("cache_read_input_tokens");
        let _ = writeln!(
            text,
            "  Tokens: {} in, {} out{}",
            tokens("input_tokens"),
            tokens("output_tokens"),
            if cached > 0 {
                format!(", {cached} cached")
            } else {
                String::new()
            }
        );
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_every_age_are_listed() {
        let read = |text: &str| serde_json::from_str::<Brief>(text).unwrap();
        let old = read(r#"{"status":"completed","worker_output":"the text alone"}"#);
        assert_eq!(old.status.as_deref(), Some("completed"));
        assert!(read(r#"{"worker_output":null}"#).worker_output.is_none());
        let ours = read(r#"{"worker_output":{"summary":"x","cost_usd":0.5}}"#);
        assert_eq!(ours.worker_output.unwrap().cost_usd, Some(0.5));
    }
}
