//! The commands that change the registry, and `restart`.

use super::*;

/// Registers a project: its directories, holds on what lies there, the entry, the skills.
pub(super) fn register(asked: &Asked) -> Result<()> {
    let path = Path::new(&asked.words[0]);
    let path = std::fs::canonicalize(path).map_err(|e| Error::io("open directory", path, e))?;
    let (places, now) = (Places::find()?, Wall::now());
    let registry = Registry::load(&places.registry())?;
    // A person may want the skills later than the project.
    if asked.skills && registry.at(&path).is_some() {
        return render::print(&clean(&skills::install(&path)?));
    }
    let name = asked.name.as_deref().or(name_of(&path));
    let name = name.filter(|name| registry::valid_name(name));
    let why = "a project needs a name of 1 to 100 bytes without '/' and control characters; choose one with --name";
    let project = Project {
        name: name.ok_or_else(|| Error::new(why))?.to_owned(),
        path,
        layout: asked.layout.unwrap_or_default(),
    };
    // Refusals come before anything is made.
    refuse_spool(&registry, &project.path)?;
    registry.clone().add(&project, now)?;
    let problems = doctor::of_new_project(&places, &project)?;
    let spool = Spool::create(&project)?;
    let held = hold_existing(&spool, asked)?;
    registry::update(&places.registry(), |registry| registry.add(&project, now))?;
    let (name, path, items) = (&project.name, project.path.display(), spool.items_path());
    let mut text = format!("Registered {name:?}: {path}\n{held}");
    if asked.skills {
        text += &skills::install(&project.path)?;
    }
    for Entry { project: other, .. } in registry.entries().0 {
        if project.path.starts_with(&other.path) || other.path.starts_with(&project.path) {
            let what = "agents of both may work in one tree at once";
            text += &format!("  Warning: it overlaps {:?}: {what}\n", other.name);
        }
    }
    text += &format!("  Put jobs into {}\n", items.display());
    for problem in problems {
        text += &format!("  Problem: {problem}\n");
    }
    scope::tell_if_stopped(daemon::running(&places));
    render::print(&clean(&text))
}

/// Refuses a directory of somebody's spool: jobs in it would be taken for documents of another.
fn refuse_spool(registry: &Registry, path: &Path) -> Result<()> {
    for Entry { project, .. } in registry.entries().0 {
        let (name, dirs) = (&project.name, project.layout.dirs());
        let mut tops = dirs.iter().flat_map(|dir| dir.split('/').next());
        if tops.any(|top| path.starts_with(project.path.join(top))) {
            let path = path.display();
            let text = format!("{path} belongs to the spool of project {name:?}");
            return Err(Error::new(text));
        }
    }
    Ok(())
}

/// Holds the documents that lie there already, unless they are to run.
fn hold_existing(spool: &Spool, asked: &Asked) -> Result<String> {
    let waiting = spool.scan()?.waiting;
    if waiting.is_empty() || asked.run_existing {
        return Ok(String::new());
    }
    let jobs = counted(waiting.len() as u64, "job");
    for id in &waiting {
        spool.mark(id, Mark::Hold)?;
    }
    let name = quoted(&spool.project().name);
    let how = format!("held; to release: job-monitor -p {name} release --all");
    Ok(format!("  {jobs} there already, {how}\n"))
}

/// `unregister`: takes a project out of the registry; its files stay. `enable` and `disable`: switch
/// projects on and off.
pub(super) fn change(asked: &Asked) -> Result<()> {
    let registry = Places::find()?.registry();
    let which = &asked.projects;
    let scope = || Scope::read(which).map(|(scope, _)| scope);
    let name = |entry: &Entry| entry.project.name.clone();
    let names = match which {
        // An entry that cannot be used has a name, too.
        Which::Named(name) if Registry::load(&registry)?.projects.contains_key(name) => {
            vec![name.clone()]
        }
        Which::All => scope()?.entries.iter().map(name).collect(),
        _ => vec![name(scope()?.one()?)],
    };
    let told = match asked.command {
        "unregister" => "is unregistered: its files stay, and a running job ends by itself",
        "enable" => "is enabled: its jobs start again",
        _ => "is disabled: a running job ends by itself, no other starts until job-monitor enable",
    };
    for name in names {
        registry::update(&registry, |registry| match asked.command {
            "unregister" => registry.remove(&name),
            command => registry.enable(&name, command == "enable"),
        })?;
        render::print(&format!("{name:?} {told}\n"))?;
    }
    Ok(())
}

/// Restarts the service, or says how the daemon was started.
pub(super) fn restart() -> Result<()> {
    // One in another container has no number here.
    if let Some(pid) = daemon::running(&Places::find()?).filter(|pid| *pid > 0) {
        let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        if !String::from_utf8_lossy(&read("cgroup")).contains("job-monitor.service") {
            let words = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
            let how = format!("end it with kill {pid}, then start it so again");
            let what = format!("was not started by systemd but as: {}", words.trim_end());
            let text = format!("the monitor (pid {pid}) {what}; {how}");
            return Err(Error::new(text));
        }
    }
    let words = ["--user", "restart", "job-monitor"];
    let status = Command::new("systemctl").args(words).status();
    if status.is_ok_and(|status| status.success()) {
        return render::print("Restarted the service job-monitor\n");
    }
    let text = "systemctl did not restart job-monitor; job-monitor doctor says what is missing";
    Err(Error::new(text))
}
