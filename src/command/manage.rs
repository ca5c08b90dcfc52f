//! The commands that change the registry, and `restart`.

use super::*;

/// Registers a project: its directories, holds on what lies there, the entry, the skills.
pub(super) fn register(asked: &Asked) -> Result<()> {
    let path = Path::new(&asked.words[0]);
    let path = std::fs::canonicalize(path).map_err(|e| Error::io("open directory", path, e))?;
    let shown = clean(&path.to_string_lossy()).into_owned();
    let places = Places::find()?;
    let registry = Registry::load(&places.registry())?;
    let (entries, _) = registry.entries();
    let known = registry.at(&path);
    // A person may want the skills later than the project.
    if let Some(known) = known.as_ref().filter(|_| asked.skills) {
        let text = format!("{:?} is registered already\n", known.project.name);
        return render::print(&(text + &install_skills(&places, Some(known), &path)?));
    }
    let name = asked.name.as_deref().or(name_of(&path));
    let name = name.filter(|name| registry::valid_name(name));
    let why =
        "needs a name of 1 to 100 bytes without '/' and control characters; choose one with --name";
    let name = name.ok_or_else(|| Error::new(format!("{shown} {why}")))?;
    let project = Project {
        name: name.to_owned(),
        path: path.clone(),
        layout: asked.layout.unwrap_or_default(),
    };
    let now = Wall::now();
    // Refusals come before anything is made.
    refuse_spool(&entries, &path)?;
    registry.clone().add(&project, now)?;
    let problems = doctor::of_new_project(&places, &project)?;
    let spool = Spool::create(&project)?;
    let mut text = format!("Registered {name:?}: {shown}\n") + &hold_existing(&spool, asked)?;
    if asked.skills {
        text += &install_skills(&places, None, &project.path)?;
    }
    registry::update(&places.registry(), |registry| registry.add(&project, now))?;
    let is_other = |other: &&Project| other.name != name && other.path != path;
    for other in entries.iter().map(|entry| &entry.project).filter(is_other) {
        if path.starts_with(&other.path) || other.path.starts_with(&path) {
            let other = &other.name;
            text += &format!(
                "  Warning: it overlaps {other:?}: agents of both may work in one tree at once\n"
            );
        }
    }
    let items = spool.items_path();
    text += &format!("  Put jobs into {}\n", clean(&items.to_string_lossy()));
    if daemon::running(&places).is_none() {
        let how = service::start_command();
        text += &format!("  The monitor is not running; start it with: {how}\n");
    }
    for problem in problems {
        text += &format!("  Problem: {problem}\n");
    }
    render::print(&text)
}

/// Refuses a directory of somebody's spool: jobs in it would be taken for documents of another.
fn refuse_spool(entries: &[Entry], path: &Path) -> Result<()> {
    for Entry { project, .. } in entries {
        let layout = project.layout;
        let dirs = [
            layout.items(),
            layout.results(),
            layout.state(),
            layout.logs(),
        ];
        let mut tops = dirs.iter().filter_map(|dir| dir.split('/').next());
        if tops.any(|top| path.starts_with(project.path.join(top))) {
            let (path, name) = (path.display(), &project.name);
            let text = format!(
                "{path} belongs to the spool of project {name:?}, which is registered already"
            );
            return Err(Error::new(text));
        }
    }
    Ok(())
}

/// Holds the documents that lie there already, unless they are to run.
fn hold_existing(spool: &Spool, asked: &Asked) -> Result<String> {
    let waiting = spool.scan()?.waiting;
    let jobs = counted(waiting.len() as u64, "job");
    if waiting.is_empty() {
        return Ok(String::new());
    }
    if asked.run_existing {
        return Ok(format!("  {jobs} there already, to be run\n"));
    }
    for id in &waiting {
        spool.mark(id, Mark::Hold)?;
    }
    let name = clean(&quoted(&spool.project().name)).into_owned();
    let how = format!("held; to release: job-monitor -p {name} release --all");
    Ok(format!("  {jobs} there already, {how}\n"))
}

/// Writes the skills where Claude Code looks for them, and where the project's own agent does.
fn install_skills(places: &Places, entry: Option<&Entry>, project: &Path) -> Result<String> {
    let (settings, _) = settings::load(&places.settings())?;
    let policy = match entry {
        Some(entry) => entry.policy(&settings)?,
        None => settings.policy(&Map::new())?,
    };
    let own = dialect(policy.agent.protocol).skills.first();
    let mut dirs = BTreeSet::from([".claude/skills"]);
    dirs.extend(own);
    let mut text = String::new();
    for dir in dirs {
        for (path, written) in skills::install(&project.join(dir))? {
            let what = if written { "Wrote" } else { "Kept your" };
            text += &format!("  {what} {}\n", clean(&path.to_string_lossy()));
        }
    }
    Ok(text)
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
    for name in names {
        let is_new = registry::update(&registry, |registry| match asked.command {
            "unregister" => registry.remove(&name).map(|_| true),
            command => registry.enable(&name, command == "enable"),
        })?;
        let until = format!("until job-monitor enable {}", quoted(&name));
        let told = match asked.command {
            _ if !is_new => "it was so before",
            "unregister" => "its files stay, and a running job ends by itself",
            "enable" => "its jobs start again",
            _ => &format!("a running job ends by itself, and no other starts {until}"),
        };
        let done = asked.command.trim_end_matches('e');
        render::print(&format!("{name:?} is {done}ed: {told}\n"))?;
    }
    Ok(())
}

/// Restarts the service, or says how the daemon was started.
pub(super) fn restart() -> Result<()> {
    // A daemon that is just starting has not told its pid yet.
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
    let status = status.map_err(|e| Error::io("start", Path::new("systemctl"), e))?;
    if status.success() {
        return render::print("Restarted the service job-monitor\n");
    }
    let text = "systemctl did not restart job-monitor; job-monitor doctor says what is missing";
    Err(Error::new(text))
}
