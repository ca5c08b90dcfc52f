//! `queue` and `list`: what waits, what runs, and what is in the way.

use super::brief::{hold_line, retry_at, suspension_text};
use super::scope::Scope;
use crate::board;
use crate::cli::Format;
use crate::error::Result;
use crate::job::JobId;
use crate::record::{Claim, HoldView, QueueView};
use crate::registry::{Entry, Registry};
use crate::render::{self, Style, clean, clean_line};
use crate::settings::{self, Settings};
use crate::spool::{Leftovers, Marks, Spool};
use crate::time::{Wall, human};
use serde::{Serialize, Serializer};
use std::fmt::Write;

/// The queue of one project, from the view if the daemon lives and the view is true, else by
/// looking.
pub(super) struct Queue {
    /// Runs now.
    pub current: Option<Claim>,
    /// Begun, and goes on later.
    pub suspended: Option<Claim>,
    /// Wait, in order; the suspended one is not among them.
    pub waiting: Vec<JobId>,
    /// Files among the documents that are no jobs, each with what is wrong.
    pub left_alone: Vec<String>,
    /// Why they wait, as the daemon says.
    hold: Option<HoldView>,
}

impl Queue {
    pub(super) fn look(spool: &Spool, daemon: bool) -> Result<Queue> {
        let fresh = |view: &QueueView| {
            let items = spool.items_signature().map(|items| items.mtime());
            items.is_ok_and(|items| view.items_mtime.as_ref() == Some(&items))
        };
        let view = if daemon { spool.read_view() } else { None };
        let mut queue = Queue {
            current: None,
            suspended: None,
            waiting: Vec::new(),
            left_alone: Vec::new(),
            hold: view.as_ref().and_then(|view| view.hold.clone()),
        };
        let mut begun = Vec::new();
        match view.filter(fresh) {
            Some(view) => {
                let names = view.queued_tasks.iter();
                queue.waiting = names.filter_map(|name| JobId::parse(name)).collect();
                begun.extend(view.current_task.as_deref().and_then(JobId::parse));
                if view.attempt.is_some() && begun.is_empty() {
                    begun.extend(queue.waiting.first().cloned());
                }
            }
            None => {
                begun = spool.marks(Leftovers::Leave)?.claims;
                let scan = spool.scan(Leftovers::Leave)?;
                let told = |(name, what): (String, String)| format!("{name} ({what})");
                queue.left_alone = scan.odd.into_iter().map(told).collect();
                queue.waiting = scan.waiting.into_iter().collect();
            }
        }
        for id in begun {
            if !spool.has_result(&id)?
                && let Ok(Some(claim)) = spool.read_claim(&id)
            {
                queue.waiting.retain(|waiting| *waiting != id);
                match daemon && claim.suspended.is_none() {
                    true => queue.current = Some(claim),
                    false => queue.suspended = Some(claim),
                }
            }
        }
        Ok(queue)
    }

    /// All that wait, in order.
    pub(super) fn all(&self) -> impl Iterator<Item = &JobId> {
        let suspended = self.suspended.iter().map(|claim| &claim.job_id);
        suspended.chain(&self.waiting)
    }
}

/// What is the same for all projects and may be in the way of a job.
pub(super) struct Ground {
    pub settings: Option<Settings>,
    /// Agents at work, where their number is limited, and the limit.
    slots: Option<(usize, usize)>,
}

/// Something that keeps a project's jobs from being started.
pub(super) struct Obstacle {
    /// What kind it is: `Held`, `Disabled`, `Skipped`, `Waits`.
    pub word: &'static str,
    /// The reason, in a line.
    pub text: String,
}

impl Ground {
    pub(super) fn of(scope: &Scope) -> Ground {
        let settings = settings::load(&scope.places.settings()).ok();
        let settings = settings.map(|(settings, _)| settings);
        let most = settings.as_ref().and_then(|s| s.max_parallel());
        let busy = || {
            let registry = Registry::load(&scope.places.registry()).unwrap_or_default();
            let is_busy = |entry: &Entry| {
                let view = Spool::open(&entry.project).ok().and_then(|s| s.read_view());
                view.is_some_and(|view| view.is_processing)
            };
            registry.entries().0.iter().filter(|e| is_busy(e)).count()
        };
        Ground {
            slots: most
                .filter(|_| scope.daemon.is_some())
                .map(|most| (busy(), most)),
            settings,
        }
    }

    /// What keeps a project's jobs from being started, and the hold among it as a value.
    pub(super) fn obstacles(
        &self,
        scope: &Scope,
        entry: &Entry,
        queue: &Queue,
        now: Wall,
    ) -> (Vec<Obstacle>, Option<HoldView>) {
        let mut found = Vec::new();
        let policy = self
            .settings
            .as_ref()
            .map(|settings| entry.policy(settings));
        if let Some(Err(error)) = &policy {
            let text = clean_line(&error.to_string());
            found.push(Obstacle {
                word: "Skipped",
                text,
            });
        }
        if !entry.enabled {
            let name = clean_line(&render::quoted(&entry.project.name));
            let text = format!("no job is started until job-monitor enable {name}");
            found.push(Obstacle {
                word: "Disabled",
                text,
            });
        }
        // A daemon's view knows which agent the next job wants; else its records tell as much.
        let hold = queue.hold.clone().or_else(|| {
            let (settings, mut policy) = (self.settings.as_ref()?, policy?.ok()?);
            if let Some(claim) = &queue.suspended {
                policy.agent.name.clone_from(&claim.agent);
            }
            let overall = settings.daily_budget_usd();
            let mut records = board::read(&scope.places.state);
            records.hold_of(&entry.project.name, &policy, overall, now)
        });
        if let Some(hold) = &hold {
            let text = hold_line(hold, now);
            found.push(Obstacle { word: "Held", text });
        }
        let is_due = queue
            .suspended
            .as_ref()
            .is_none_or(|claim| retry_at(claim) <= Some(now));
        if let Some((busy, most)) = self.slots.filter(|(busy, most)| busy >= most)
            && found.is_empty()
            && queue.current.is_none()
            && is_due
            && queue.all().next().is_some()
        {
            let text = format!("{busy} of {most} agents at work (max_parallel)");
            found.push(Obstacle {
                word: "Waits",
                text,
            });
        }
        (found, hold)
    }
}

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
    /// What keeps its jobs from being started, in words.
    obstacles: Vec<String>,
    left_alone: Vec<String>,
    #[serde(skip)]
    trouble: Option<String>,
    #[serde(skip)]
    found: Vec<Obstacle>,
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
    #[serde(skip)]
    remark: String,
}

/// The queue of each project in question.
pub(super) fn queue(scope: &Scope, format: Format) -> Result<()> {
    let overview = overview(scope, format);
    render::answer(format, &overview, || {
        let mut text = String::new();
        let many = overview.projects.len() > 1;
        for project in &overview.projects {
            if many {
                let _ = writeln!(text, "Project: {}", clean(&project.name));
            }
            queue_text(&mut text, project);
            if many {
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
    if let Some(trouble) = &project.trouble {
        let _ = writeln!(text, "Unavailable: {}", clean(trouble));
        return;
    }
    let _ = writeln!(text, "Queue size: {}", project.waiting.len());
    match &project.current {
        Some(current) => {
            let since = human(Wall::now().since(current.started_at));
            let start = match current.attempt {
                0 | 1 => String::new(),
                start => format!(", start {start}"),
            };
            let name = current.job_id.file_name();
            let _ = writeln!(text, "Processing: {name}\nRunning for: {since}{start}");
        }
        None => text.push_str("Processing: None\n"),
    }
    for Obstacle { word, text: why } in &project.found {
        let _ = writeln!(text, "{word}: {why}");
    }
    if !project.waiting.is_empty() {
        text.push_str("Queued jobs:\n");
    }
    for (number, job) in project.waiting.iter().enumerate() {
        let name = job.job_id.file_name();
        let _ = writeln!(text, "  {}. {name}{}", number + 1, job.remark);
    }
    for entry in &project.left_alone {
        let _ = writeln!(text, "Left alone: {}", clean_line(entry));
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
            for Obstacle { word, text: why } in &project.found {
                if *word != "Disabled" {
                    let _ = writeln!(text, "  {word}: {why}");
                }
            }
        }
        if overview.projects.is_empty() {
            text.push_str("No projects registered; job-monitor register PATH adds one\n");
        }
        text
    })
}

fn overview(scope: &Scope, format: Format) -> Overview {
    let ground = Ground::of(scope);
    let view = |entry: &Entry| {
        let mut view = ProjectView {
            name: entry.project.name.clone(),
            path: entry.project.path.to_string_lossy().into_owned(),
            layout: entry.project.layout.as_str(),
            enabled: entry.enabled,
            available: true,
            registered_at: entry.registered_at.clone(),
            hold: None,
            current: None,
            waiting: Vec::new(),
            obstacles: Vec::new(),
            left_alone: Vec::new(),
            trouble: None,
            found: Vec::new(),
        };
        if let Err(error) = fill(&mut view, scope, &ground, entry, format) {
            (view.available, view.trouble) = (false, Some(error.to_string()));
        }
        view
    };
    Overview {
        daemon: DaemonView {
            running: scope.daemon.is_some(),
            pid: scope.daemon,
        },
        projects: scope.entries.iter().map(view).collect(),
    }
}

fn fill(
    view: &mut ProjectView,
    scope: &Scope,
    ground: &Ground,
    entry: &Entry,
    format: Format,
) -> Result<()> {
    let now = Wall::now();
    let spool = Spool::open(&entry.project)?;
    let queue = Queue::look(&spool, scope.daemon.is_some())?;
    let marks = spool.marks(Leftovers::Leave)?;
    let (found, hold) = ground.obstacles(scope, entry, &queue, now);
    let told = |obstacle: &Obstacle| format!("{}: {}", obstacle.word, obstacle.text);
    view.obstacles = found.iter().map(told).collect();
    (view.found, view.hold) = (found, hold);
    view.current = queue.current.as_ref().map(|claim| Current {
        job_id: claim.job_id.clone(),
        attempt: claim.starts,
        started_at: claim.started_at,
    });
    let job = |id: &JobId| {
        // The text names jobs only; for scripts, each document is looked at.
        let meta = match format {
            Format::Json => spool.document_meta(id).ok().flatten(),
            Format::Text => None,
        };
        let claim = queue.suspended.as_ref().filter(|claim| claim.job_id == *id);
        Waiting {
            job_id: id.clone(),
            created_at: meta.map(|meta| meta.mtime()),
            size: meta.map(|meta| meta.size),
            held: marks.held.contains(id),
            retry_at: claim.and_then(retry_at),
            remark: remark(&marks, id, claim, now),
        }
    };
    view.waiting = queue.all().map(job).collect();
    view.left_alone.clone_from(&queue.left_alone);
    Ok(())
}

/// What is special about a waiting job.
fn remark(marks: &Marks, id: &JobId, claim: Option<&Claim>, now: Wall) -> String {
    match claim {
        // Only until the daemon sees it: then the job is done.
        _ if marks.cancelled.contains(id) => " (cancelled)".to_owned(),
        _ if marks.held.contains(id) => " (held)".to_owned(),
        Some(claim) => format!(" ({})", suspension_text(claim, now)),
        None => String::new(),
    }
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
