//! `queue` and `list`: what waits, what runs, and what is in the way.

use super::*;

/// What may be in the way of a job and is the same for all projects, so that it is looked at once.
pub(super) struct Ground {
    pub settings: Result<Settings>,
    /// What is said where so many agents are at work as may be.
    full: Option<String>,
}

/// One project as a look finds it.
#[derive(Default)]
pub(super) struct Seen {
    /// Nothing where the project cannot be looked at.
    pub spool: Option<Spool>,
    /// Runs now.
    pub current: Option<Box<Claim>>,
    /// Begun, and goes on later.
    pub suspended: Option<Box<Claim>>,
    /// Wait, in order; the suspended one is not among them.
    pub waiting: Vec<JobId>,
    pub marks: Marks,
    /// Files among the documents that are no jobs, each with what is wrong.
    pub left_alone: Vec<String>,
    pub hold: Option<HoldView>,
    /// What keeps its jobs from being started: a word (`Unavailable`, `Held`, `Disabled`, `Skipped`,
    /// `Waits`), and the reason in a line.
    pub obstacles: Vec<(&'static str, String)>,
}

impl Ground {
    pub(super) fn of(scope: &Scope) -> Ground {
        let settings = settings::load(&scope.places.settings()).map(|(settings, _)| settings);
        let most = settings.as_ref().ok().and_then(|s| s.common.max_parallel);
        let full = most.filter(|_| scope.daemon.is_some()).and_then(|most| {
            let registry = Registry::load(&scope.places.registry()).unwrap_or_default();
            let view = |entry: Entry| Spool::open(&entry.project).ok()?.read_view();
            let views = registry.entries().0.into_iter().filter_map(view);
            let busy = views.filter(|view| view.is_processing).count();
            let text = format!("{busy} of {most} agents at work (max_parallel)");
            (busy >= u32::from(most) as usize).then_some(text)
        });
        Ground { settings, full }
    }

    /// Looks at a project.
    pub(super) fn look(&self, scope: &Scope, entry: &Entry) -> Seen {
        let (now, name) = (Wall::now(), &entry.project.name);
        let (mut seen, mut found) = (Seen::default(), Vec::new());
        if let Err(error) = seen.look(scope, entry) {
            found.push(("Unavailable", clean_line(&error.to_string())));
        }
        match self.settings.as_ref().ok().map(|all| entry.policy(all)) {
            Some(Err(error)) => found.push(("Skipped", clean_line(&error.to_string()))),
            // A daemon's view knows which agent the next job wants; else its records tell as much.
            Some(Ok(policy)) if seen.hold.is_none() && found.is_empty() => {
                let begun = seen.suspended.as_ref().map(|claim| &claim.agent);
                let mut holds = board::read(&scope.places.state);
                holds.refresh(name, &policy, now);
                let of = (name.as_str(), &**begun.unwrap_or(&policy.agent.name));
                seen.hold = holds.shown(of, begun.is_some(), now);
            }
            _ => {}
        }
        if !entry.enabled {
            let name = clean_line(&quoted(name));
            let text = format!("no job is started until job-monitor enable {name}");
            found.push(("Disabled", text));
        }
        let hold = seen.hold.as_ref();
        found.extend(hold.map(|hold| ("Held", hold_line(hold, now))));
        let begun = seen.suspended.as_ref().map(|claim| &claim.job_id);
        let held = begun.filter(|id| seen.marks.held.contains(*id));
        let begun =
            |id| format!("{id} was begun, and those behind it wait; job-monitor release {id}");
        found.extend(held.map(|id| ("Held", begun(id))));
        if found.is_empty() && seen.current.is_none() && seen.all().next().is_some() {
            found.extend(self.full.clone().map(|text| ("Waits", text)));
        }
        seen.obstacles = found;
        seen
    }
}

/// Until when a document itself puts its job off.
pub(super) fn put_off(spool: &Spool, id: &JobId, now: Wall) -> Option<Wall> {
    spool.wishes(id)?.not_before.filter(|at| *at > now)
}

impl Seen {
    /// From the project's view if the daemon lives and the view is true, else by scanning.
    fn look(&mut self, scope: &Scope, entry: &Entry) -> Result<()> {
        let spool = Spool::open(&entry.project)?;
        self.marks = spool.marks()?;
        let items = meta_of(&spool.items()?.stat()?).mtime_ns.to_string();
        let view = scope.daemon.and_then(|_| spool.read_view());
        let view = view.unwrap_or_default();
        self.hold = view.hold;
        if view.items_mtime == Some(items) {
            let names = view.queued_tasks.iter();
            self.waiting = names.filter_map(|name| JobId::parse(name)).collect();
            self.left_alone = view.left_alone;
        } else {
            let mut scan = spool.scan()?;
            let mut finished = Memory::of(&scope.places.state, &spool.root()?);
            for id in scan.waiting {
                match finished.objection(&id)? {
                    Some(what) => drop(scan.odd.insert(id.file_name(), what)),
                    None => self.waiting.push(id),
                }
            }
            let odd = scan.odd.into_iter();
            self.left_alone = odd.map(|(name, what)| format!("{name} ({what})")).collect();
        }
        for id in &self.marks.claims {
            match standing_in(&spool, id, scope.daemon.is_some())? {
                Some(Standing::Running(claim)) => self.current = Some(claim),
                Some(Standing::Waiting(begun @ Some(_))) => self.suspended = begun,
                _ => continue,
            }
            self.waiting.retain(|waiting| waiting != id);
        }
        self.spool = Some(spool);
        Ok(())
    }

    /// The project that a job is in.
    pub(super) fn around(scope: &Scope, spool: &Spool) -> Result<Seen> {
        let entry = scope.entry(&spool.project().name)?;
        Ok(Ground::of(scope).look(scope, entry))
    }

    /// All that wait, in order.
    pub(super) fn all(&self) -> impl Iterator<Item = &JobId> {
        let suspended = self.suspended.iter().map(|claim| &claim.job_id);
        suspended.chain(&self.waiting)
    }

    /// The claim of a waiting job that was begun.
    fn begun(&self, id: &JobId) -> Option<&Claim> {
        let begun = self.suspended.as_deref();
        begun.filter(|claim| claim.job_id == *id)
    }

    /// What is said of a document that is left alone.
    pub(super) fn left_alone(&self, id: &JobId) -> Option<&String> {
        let mut all = self.left_alone.iter();
        all.find(|entry| entry.starts_with(&format!("{id}.md (")))
    }

    /// What keeps jobs from being started, in lines.
    pub(super) fn obstacle_lines(&self) -> Vec<String> {
        let line = |(word, text): &(&str, String)| format!("{word}: {text}");
        self.obstacles.iter().map(line).collect()
    }

    fn as_text(&self) -> String {
        let Some(spool) = &self.spool else {
            return self.obstacle_lines().join("\n") + "\n";
        };
        let now = Wall::now();
        let mut lines = vec![format!("Queue size: {}", self.all().count())];
        match &self.current {
            Some(claim) => {
                lines.push(format!("Processing: {}", claim.job_id.file_name()));
                lines.push(format!("Running for: {}", running_for(claim, now)));
            }
            None => lines.push("Processing: None".to_owned()),
        }
        lines.extend(self.obstacle_lines());
        let first = self.all().next();
        lines.extend(first.map(|_| "Queued jobs:".to_owned()));
        for (id, number) in self.all().zip(1..) {
            let remark = match self.begun(id) {
                _ if self.marks.cancelled.contains(id) => Some("cancelled".to_owned()),
                _ if self.marks.held.contains(id) => Some("held".to_owned()),
                Some(claim) => Some(suspension_text(claim, now)),
                None => put_off(spool, id, now).map(|at| not_before(at, now)),
            };
            let remark = remark.map_or(String::new(), |text| format!(" ({text})"));
            lines.push(format!("  {number}. {}{remark}", id.file_name()));
        }
        let left_alone = self.left_alone.iter();
        lines.extend(left_alone.map(|entry| format!("Left alone: {}", clean_line(entry))));
        lines.join("\n") + "\n"
    }
}

/// The queue of each project in question.
pub(super) fn queue(scope: &Scope, format: Format) -> Result<()> {
    tell(scope, format, |entry, seen| {
        let (name, text) = (clean(&entry.project.name), seen.as_text());
        match scope.entries.len() {
            1 => text,
            _ => format!("Project: {name}\n{text}\n"),
        }
    })
}

/// The registered projects.
pub(super) fn list(scope: &Scope, format: Format) -> Result<()> {
    let style = Style::of_stdout();
    tell(scope, format, |entry, seen| {
        let project = &entry.project;
        let status = match entry.enabled {
            true => style.paint("32", "✓ enabled"),
            false => style.paint("31", "✗ disabled"),
        };
        let (name, path) = (clean(&project.name), project.path.to_string_lossy());
        let registered = clean(entry.registered_at.as_deref().unwrap_or("unknown"));
        let mut text = format!("{name}\n  Path: {}\n", clean(&path));
        text += &format!("  Status: {status}\n  Registered: {registered}\n");
        let others = seen.obstacles.iter().filter(|one| one.0 != "Disabled");
        others.for_each(|(word, why)| text += &format!("  {word}: {why}\n"));
        text
    })
}

/// Answers about each project, as JSON or as `text` tells it.
fn tell(scope: &Scope, format: Format, text: impl Fn(&Entry, &Seen) -> String) -> Result<()> {
    let ground = Ground::of(scope);
    if let Err(error) = &ground.settings {
        // It may be why no job is started.
        render::note(&error.to_string());
    }
    let look = |entry| (entry, ground.look(scope, entry));
    let found = scope.entries.iter().map(look);
    if format == Format::Text {
        let texts: String = found.map(|(entry, seen)| text(entry, &seen)).collect();
        return render::print(&texts);
    }
    let projects: Vec<Value> = found.map(|(entry, seen)| as_json(entry, &seen)).collect();
    let daemon = json!({"running": scope.daemon.is_some(), "pid": scope.daemon});
    let answer = json!({"daemon": daemon, "projects": projects});
    render::print(&(render::json(&answer) + "\n"))
}

fn as_json(entry: &Entry, seen: &Seen) -> Value {
    let (project, spool) = (&entry.project, seen.spool.as_ref());
    // The predecessor wrote local times without their offset; a program is told it.
    let with_offset = |text: &String| Wall::parse(text).map_or(text.clone(), |at| at.to_string());
    let current = |claim: &Claim| {
        let (id, starts) = (&claim.job_id, claim.starts);
        json!({"job_id": id, "attempt": starts, "started_at": claim.started_at})
    };
    let job = |id: &JobId| {
        let meta = spool.and_then(|spool| spool.document_meta(id).ok()?);
        json!({
            "job_id": id, "created_at": meta.map(|meta| meta.mtime()), "size": meta.map(|meta| meta.size),
            "held": seen.marks.held.contains(id), "cancelled": seen.marks.cancelled.contains(id),
            "retry_at": seen.begun(id).and_then(retry_at),
            "not_before": spool.and_then(|spool| put_off(spool, id, Wall::now())),
        })
    };
    json!({
        "name": project.name, "path": project.path.to_string_lossy(),
        "layout": project.layout, "enabled": entry.enabled, "available": spool.is_some(),
        "registered_at": entry.registered_at.as_ref().map(with_offset),
        "hold": seen.hold, "current": seen.current.as_deref().map(current),
        "waiting": seen.all().map(job).collect::<Vec<Value>>(),
        "obstacles": seen.obstacle_lines(), "left_alone": seen.left_alone,
    })
}
