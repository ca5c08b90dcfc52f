//! The reading commands that look at projects: `queue` and `list`.

use super::doctor;
use super::projects::{self, Queue, Scope};
use crate::board;
use crate::cli::Format;
use crate::error::Result;
use crate::job::JobId;
use crate::record::{Claim, HoldView};
use crate::registry::Entry;
use crate::render::{self, Style, clean, clean_line};
use crate::settings;
use crate::spool::{Leftovers, Spool};
use crate::time::{Wall, human};
use serde::{Serialize, Serializer};
use std::fmt::Write;

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
    /// Only until the daemon sees it: then the job is done.
    #[serde(skip)]
    cancelled: bool,
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
        let name = clean_line(&doctor::quoted(&project.name));
        let _ = writeln!(
            text,
            "Disabled: no job is started until job-monitor enable {name}"
        );
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
            _ if job.cancelled => " (cancelled)".to_owned(),
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
    format!("{}{until}", clean_line(&hold.reason))
}

pub(super) fn suspension_text(claim: &Claim, now: Wall) -> String {
    let Some(suspension) = &claim.suspended else {
        return "was interrupted; on_interrupt says what follows when the monitor starts"
            .to_owned();
    };
    match suspension.retry_at {
        Some(at) if at > now => {
            format!(
                "tries again at {}, in {}: {}",
                at.short(now),
                human(at.since(now)),
                clean_line(&suspension.error)
            )
        }
        Some(_) => format!("goes on next: {}", clean_line(&suspension.error)),
        None => format!("waits for its agent: {}", clean_line(&suspension.error)),
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
        let marks = spool.marks(Leftovers::Leave)?;
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
            cancelled: marks.cancelled.contains(id),
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
    let overall = settings.daily_budget_usd();
    let mut records = board::read(&scope.places.state);
    records.hold_of(&entry.project.name, &policy, overall, Wall::now())
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
