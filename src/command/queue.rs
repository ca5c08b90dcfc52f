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
use serde_json::{Value, json};

/// What is the same for all projects and may be in the way of a job.
pub(super) struct Ground {
    pub settings: Option<Settings>,
    /// Agents at work, where their number is limited, and the limit.
    slots: Option<(usize, usize)>,
}

/// One project as a look finds it.
pub(super) struct Seen {
    pub spool: Spool,
    /// Runs now.
    pub current: Option<Claim>,
    /// Begun, and goes on later.
    pub suspended: Option<Claim>,
    /// Wait, in order; the suspended one is not among them.
    pub waiting: Vec<JobId>,
    pub marks: Marks,
    /// Files among the documents that are no jobs, each with what is wrong.
    left_alone: Vec<String>,
    pub hold: Option<HoldView>,
    /// What keeps its jobs from being started: a word (`Held`, `Disabled`, `Skipped`, `Waits`), and
    /// the reason in a line.
    pub obstacles: Vec<(&'static str, String)>,
}

impl Ground {
    pub(super) fn of(scope: &Scope) -> Ground {
        let settings = settings::load(&scope.places.settings()).ok();
        let settings = settings.map(|(settings, _)| settings);
        let most = settings.as_ref().and_then(|s| s.common.max_parallel);
        let is_busy = |entry: &&Entry| {
            let view = Spool::open(&entry.project).ok().and_then(|s| s.read_view());
            view.is_some_and(|view| view.is_processing)
        };
        let slots = most.filter(|_| scope.daemon.is_some()).map(|most| {
            let registry = Registry::load(&scope.places.registry()).unwrap_or_default();
            (registry.entries().0.iter().filter(is_busy).count(), most)
        });
        Ground { settings, slots }
    }

    /// Looks at a project: from its view if the daemon lives and the view is true, else by scanning.
    pub(super) fn look(&self, scope: &Scope, entry: &Entry) -> Result<Seen> {
        let spool = Spool::open(&entry.project)?;
        let marks = spool.marks(Leftovers::Leave)?;
        let view = scope.daemon.and_then(|_| spool.read_view());
        let hold = view.as_ref().and_then(|view| view.hold.clone());
        let is_true = |view: &QueueView| {
            let items = spool.items_signature().map(|items| items.mtime());
            items.is_ok_and(|items| view.items_mtime.as_ref() == Some(&items))
        };
        let (mut waiting, left_alone): (Vec<JobId>, _) = match view.filter(is_true) {
            Some(view) => {
                let names = view.queued_tasks.iter();
                let ids = names.filter_map(|name| JobId::parse(name)).collect();
                (ids, view.left_alone)
            }
            None => {
                let scan = spool.scan(Leftovers::Leave)?;
                let odd = scan.odd.into_iter();
                let odd = odd.map(|(name, what)| format!("{name} ({what})"));
                (scan.waiting.into_iter().collect(), odd.collect())
            }
        };
        let (mut current, mut suspended) = (None, None);
        for id in &marks.claims {
            if !spool.has_result(id)?
                && let Ok(Some(claim)) = spool.read_claim(id)
            {
                waiting.retain(|waiting| waiting != id);
                match scope.daemon.is_some() && claim.suspended.is_none() {
                    true => current = Some(claim),
                    false => suspended = Some(claim),
                }
            }
        }
        let mut seen = Seen {
            spool,
            current,
            suspended,
            waiting,
            marks,
            left_alone,
            hold,
            obstacles: Vec::new(),
        };
        self.find_obstacles(&mut seen, scope, entry);
        Ok(seen)
    }

    fn find_obstacles(&self, seen: &mut Seen, scope: &Scope, entry: &Entry) {
        let (now, name) = (Wall::now(), &entry.project.name);
        let mut obstacles = Vec::new();
        let policy = self
            .settings
            .as_ref()
            .map(|settings| entry.policy(settings));
        if let Some(Err(error)) = &policy {
            obstacles.push(("Skipped", clean_line(&error.to_string())));
        }
        if !entry.enabled {
            let name = clean_line(&render::quoted(name));
            let text = format!("no job is started until job-monitor enable {name}");
            obstacles.push(("Disabled", text));
        }
        // A daemon's view knows which agent the next job wants; else its records tell as much.
        seen.hold = seen.hold.take().or_else(|| {
            let (settings, mut policy) = (self.settings.as_ref()?, policy?.ok()?);
            if let Some(claim) = &seen.suspended {
                policy.agent.name.clone_from(&claim.agent);
            }
            let mut records = board::read(&scope.places.state);
            records.hold_of(name, &policy, settings.common.daily_budget_usd, now)
        });
        let held = seen.hold.iter().map(|hold| ("Held", hold_line(hold, now)));
        obstacles.extend(held);
        let later = seen.suspended.as_ref().and_then(retry_at) > Some(now);
        let is_next = seen.current.is_none() && !later && seen.all().next().is_some();
        if let Some((busy, most)) = self.slots.filter(|(busy, most)| busy >= most)
            && is_next
            && obstacles.is_empty()
        {
            let text = format!("{busy} of {most} agents at work (max_parallel)");
            obstacles.push(("Waits", text));
        }
        seen.obstacles = obstacles;
    }
}

impl Seen {
    /// The project that a job is in.
    pub(super) fn around(scope: &Scope, spool: &Spool) -> Result<Seen> {
        let entry = scope.entry(&spool.project().name)?;
        Ground::of(scope).look(scope, entry)
    }

    /// All that wait, in order.
    pub(super) fn all(&self) -> impl Iterator<Item = &JobId> {
        let suspended = self.suspended.iter().map(|claim| &claim.job_id);
        suspended.chain(&self.waiting)
    }

    /// What keeps jobs from being started, in lines.
    pub(super) fn obstacle_lines(&self) -> Vec<String> {
        let line = |(word, text): &(&str, String)| format!("{word}: {text}");
        self.obstacles.iter().map(line).collect()
    }
}

/// The queue of each project in question.
pub(super) fn queue(scope: &Scope, format: Format) -> Result<()> {
    let is_one = scope.entries.len() == 1;
    tell(scope, format, |entry, seen| {
        let text = match seen {
            Ok(seen) => queue_text(seen),
            Err(trouble) => format!("Unavailable: {}\n", clean(trouble)),
        };
        match is_one {
            true => text,
            false => format!("Project: {}\n{text}\n", clean(&entry.project.name)),
        }
    })
}

fn queue_text(seen: &Seen) -> String {
    let now = Wall::now();
    let mut text = format!("Queue size: {}\n", seen.all().count());
    match &seen.current {
        Some(claim) => {
            let since = human(now.since(claim.started_at));
            let start = match claim.starts {
                0 | 1 => String::new(),
                start => format!(", start {start}"),
            };
            let name = claim.job_id.file_name();
            text += &format!("Processing: {name}\nRunning for: {since}{start}\n");
        }
        None => text += "Processing: None\n",
    }
    for line in seen.obstacle_lines() {
        text += &format!("{line}\n");
    }
    for (number, id) in seen.all().enumerate() {
        let claim = seen.suspended.as_ref().filter(|claim| claim.job_id == *id);
        let remark = match claim {
            // Only until the daemon sees it: then the job is done.
            _ if seen.marks.cancelled.contains(id) => " (cancelled)".to_owned(),
            _ if seen.marks.held.contains(id) => " (held)".to_owned(),
            Some(claim) => format!(" ({})", suspension_text(claim, now)),
            None => String::new(),
        };
        let head = if number == 0 { "Queued jobs:\n" } else { "" };
        text += &format!("{head}  {}. {}{remark}\n", number + 1, id.file_name());
    }
    for entry in &seen.left_alone {
        text += &format!("Left alone: {}\n", clean_line(entry));
    }
    text
}

/// The registered projects.
pub(super) fn list(scope: &Scope, format: Format) -> Result<()> {
    let style = Style::of_stdout();
    tell(scope, format, |entry, seen| {
        let enabled = if entry.enabled { "enabled" } else { "disabled" };
        let enabled = format!("{} {enabled}", style.mark(entry.enabled));
        let (name, path) = (&entry.project.name, entry.project.path.to_string_lossy());
        let registered = clean(entry.registered_at.as_deref().unwrap_or("unknown"));
        let mut text = format!("{}\n  Path: {}\n", clean(name), clean(&path));
        text += &format!("  Status: {enabled}\n  Registered: {registered}\n");
        match seen {
            Err(trouble) => text += &format!("  Unavailable: {}\n", clean(trouble)),
            Ok(seen) => {
                let others = seen.obstacles.iter();
                for (word, why) in others.filter(|(word, _)| *word != "Disabled") {
                    text += &format!("  {word}: {why}\n");
                }
            }
        }
        text
    })
}

type Found = std::result::Result<Seen, String>;

/// Answers about each project, as JSON or as `text` tells it.
fn tell(scope: &Scope, format: Format, text: impl Fn(&Entry, &Found) -> String) -> Result<()> {
    let ground = Ground::of(scope);
    let look = |entry| ground.look(scope, entry).map_err(|error| error.to_string());
    let found: Vec<(&Entry, Found)> = scope.entries.iter().map(|e| (e, look(e))).collect();
    if format == Format::Json {
        let projects = found.iter().map(|(entry, seen)| as_json(entry, seen));
        let daemon = json!({"running": scope.daemon.is_some(), "pid": scope.daemon});
        let answer = json!({"daemon": daemon, "projects": projects.collect::<Vec<Value>>()});
        return render::print(&(render::json(&answer)? + "\n"));
    }
    if found.is_empty() {
        return render::print("No projects registered; job-monitor register PATH adds one\n");
    }
    let texts = found.iter().map(|(entry, seen)| text(entry, seen));
    render::print(&texts.collect::<String>())
}

fn as_json(entry: &Entry, found: &Found) -> Value {
    // The predecessor wrote local times without their offset; a program is told it.
    let with_offset = |text: &String| Wall::parse(text).map_or(text.clone(), |at| at.to_string());
    let seen = found.as_ref().ok();
    let job = |seen: &Seen, id: &JobId| {
        let meta = seen.spool.document_meta(id).ok().flatten();
        let claim = seen.suspended.as_ref().filter(|claim| claim.job_id == *id);
        json!({
            "job_id": id, "created_at": meta.map(|meta| meta.mtime()), "size": meta.map(|meta| meta.size),
            "held": seen.marks.held.contains(id), "retry_at": claim.and_then(retry_at),
        })
    };
    let current = |claim: &Claim| json!({"job_id": claim.job_id, "attempt": claim.starts, "started_at": claim.started_at});
    json!({
        "name": entry.project.name, "path": entry.project.path.to_string_lossy(),
        "layout": entry.project.layout.as_str(), "enabled": entry.enabled, "available": found.is_ok(),
        "registered_at": entry.registered_at.as_ref().map(with_offset),
        "hold": seen.and_then(|seen| seen.hold.clone()),
        "current": seen.and_then(|seen| seen.current.as_ref().map(current)),
        "waiting": seen.map_or(Vec::new(), |seen| seen.all().map(|id| job(seen, id)).collect()),
        "obstacles": seen.map(Seen::obstacle_lines).unwrap_or_default(),
        "left_alone": seen.map_or(&[][..], |seen| &seen.left_alone),
    })
}
