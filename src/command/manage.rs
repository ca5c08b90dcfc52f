//! The commands that change the registry, and `restart`.

use super::doctor;
use super::scope::choose;
use crate::cli::{Registration, Which};
use crate::daemon;
use crate::error::{Error, Exit, Result, plain};
use crate::project::Project;
use crate::registry::{self, Entry, Registry};
use crate::render::{self, clean, quoted};
use crate::service;
use crate::settings::Places;
use crate::skills;
use crate::spool::{Leftovers, Mark, Spool};
use crate::time::Wall;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Registers a project: its directories, holds on what lies there, the entry, the skills.
pub(super) fn register(path: &Path, asked: Registration) -> Result<()> {
    let real = std::fs::canonicalize(path).map_err(|e| Error::io("open directory", path, e))?;
    let places = Places::find()?;
    let registry = Registry::load(&places.registry())?;
    let (entries, _) = registry.entries();
    let known = registry.at(&real);
    // Skills may be wanted later than the project.
    if let Some(known) = known.as_ref().filter(|_| asked.skills) {
        let text = format!("{:?} is registered already\n", known.project.name);
        return render::print(&(text + &install_skills(&real)?));
    }
    let name = name_for(&real, asked.name)?;
    let moved = entries.iter().find(|entry| {
        known.is_none() && entry.project.name == name && !entry.project.path.exists()
    });
    let layout = asked
        .layout
        .or(moved.map(|entry| entry.project.layout))
        .unwrap_or_default();
    let project = Project {
        name: name.clone(),
        path: real.clone(),
        layout,
    };
    let registered_at = Wall::now();
    // Refusals come before anything is made.
    refuse_spool(&entries, &real)?;
    if moved.is_none() {
        registry.clone().add(&project, registered_at)?;
    }
    let spool = Spool::create(&project).map_err(|e| unsafe_place(&real, e))?;
    let mut text = match moved {
        Some(_) => format!(
            "Moved {name:?}: {}; it keeps its settings\n",
            clean(&real.to_string_lossy())
        ),
        None => format!("Registered {name:?}: {}\n", clean(&real.to_string_lossy())),
    };
    if moved.is_none() {
        text += &hold_existing(&spool, asked.run_existing)?;
    }
    if asked.skills {
        text += &install_skills(&real)?;
    }
    registry::update(&places.registry(), |registry| match moved {
        Some(_) => registry.relocate(&name, &real),
        None => registry.add(&project, registered_at),
    })?;
    text += &nesting(&entries, &project);
    text += &next_steps(&places, &spool);
    render::print(&text)
}

/// What a person does with a project that is registered now, and what is in the way.
fn next_steps(places: &Places, spool: &Spool) -> String {
    let items = spool.items_path();
    let mut text = format!("  Put jobs into {}\n", clean(&items.to_string_lossy()));
    if daemon::running(places).is_none() {
        let how = service::start_command();
        let _ = writeln!(text, "  The monitor is not running; start it with: {how}");
    }
    for line in doctor::of_new_project(places, spool.project()) {
        let _ = writeln!(text, "  {line}");
    }
    text
}

fn name_for(real: &Path, given: Option<String>) -> Result<String> {
    let own = || crate::files::name_of(real).map(str::to_owned);
    let name = given.or_else(own).ok_or_else(|| {
        Error::new(format!(
            "{} has no name that can be the project's; choose one with --name",
            real.display()
        ))
    })?;
    match registry::valid_name(&name) {
        true => Ok(name),
        false => Err(Error::new(format!(
            "{name:?} cannot be a project's name (1 to 100 bytes, no '/', no control character); choose another \
             with --name"
        ))),
    }
}

/// Refuses a directory of somebody's spool: jobs in it would be taken for documents of another.
fn refuse_spool(entries: &[Entry], path: &Path) -> Result<()> {
    for Entry { project, .. } in entries {
        let layout = project.layout;
        for dir in [
            layout.items(),
            layout.results(),
            layout.state(),
            layout.logs(),
        ] {
            let top = dir.split('/').next().unwrap_or(dir);
            if path.starts_with(project.path.join(top)) {
                return Err(Error::new(format!(
                    "{} belongs to the spool of project {:?}, which is registered already",
                    path.display(),
                    project.name
                )));
            }
        }
    }
    Ok(())
}

/// Two agents in one work tree are worth a word.
fn nesting(entries: &[Entry], project: &Project) -> String {
    let others = entries
        .iter()
        .map(|entry| &entry.project)
        .filter(|other| other.name != project.name);
    let near = others.filter_map(|other| {
        let relation = if project.path.starts_with(&other.path) {
            "lies inside"
        } else if other.path.starts_with(&project.path) {
            "contains"
        } else {
            return None;
        };
        let name = &other.name;
        Some(format!("  Warning: it {relation} project {name:?}; their agents may work on the same files at once\n"))
    });
    near.collect()
}

/// Where a directory that was just made private is open to others, no chmod will help.
fn unsafe_place(root: &Path, error: Error) -> Error {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    let probe = root.join(format!(".job-monitor-{}", std::process::id()));
    let made = std::fs::DirBuilder::new().mode(0o700).create(&probe);
    let mode = made
        .and_then(|()| std::fs::metadata(&probe))
        .map_or(0, |meta| meta.mode());
    let _ = std::fs::remove_dir(&probe);
    match mode & 0o022 {
        0 => error,
        _ => Error::new(format!(
            "{}: everything there can be written by others, whatever chmod says (an option of its mount); \
             mount it with umask=077, or choose another place",
            root.display()
        )),
    }
}

/// Holds the documents that lie there already, unless they are to run.
fn hold_existing(spool: &Spool, run: bool) -> Result<String> {
    let waiting = spool.scan(Leftovers::Leave)?.waiting;
    let counted = match waiting.len() {
        0 => return Ok(String::new()),
        1 => "1 job is".to_owned(),
        jobs => format!("{jobs} jobs are"),
    };
    if run {
        return Ok(format!("  {counted} there already and will run\n"));
    }
    for id in &waiting {
        spool.mark(id, Mark::Hold)?;
    }
    let name = quoted(&spool.project().name);
    Ok(format!(
        "  {counted} there already and held; to release: job-monitor -p {} release --all\n",
        clean(&name)
    ))
}

fn install_skills(project: &Path) -> Result<String> {
    let line = |(path, written): (PathBuf, bool)| {
        let what = if written { "Wrote" } else { "Kept your" };
        format!("  {what} {}\n", clean(&path.to_string_lossy()))
    };
    Ok(skills::install(project)?.into_iter().map(line).collect())
}

/// The names of the projects that are meant. Also an entry that cannot be used has a name.
fn named(registry: &Registry, which: &Which) -> Result<Vec<String>> {
    if let Which::Named(name) = which
        && registry.projects.contains_key(name)
    {
        return Ok(vec![name.clone()]);
    }
    let (chosen, _) = choose(registry, registry.entries().0, which)?;
    let names: Vec<_> = chosen.into_iter().map(|entry| entry.project.name).collect();
    match (names.len(), which) {
        (2.., Which::Around) => {
            let names: Vec<_> = names.iter().map(|name| quoted(name)).collect();
            let text = format!(
                "which project? name it, or say --all; registered: {}",
                names.join(", ")
            );
            Err(Error::with(Exit::Usage, text))
        }
        (0, _) => Err(Error::with(Exit::NotFound, super::scope::NO_PROJECT)),
        _ => Ok(names),
    }
}

/// Takes a project out of the registry; its files stay.
pub(super) fn unregister(which: &Which) -> Result<()> {
    let places = Places::find()?;
    for name in named(&Registry::load(&places.registry())?, which)? {
        registry::update(&places.registry(), |registry| registry.remove(&name))?;
        render::print(&format!(
            "Unregistered {name:?}; its files stay, and a running job ends by itself\n"
        ))?;
    }
    Ok(())
}

/// Switches projects on or off.
pub(super) fn enable(which: &Which, enabled: bool) -> Result<()> {
    let places = Places::find()?;
    for name in named(&Registry::load(&places.registry())?, which)? {
        let changed = registry::update(&places.registry(), |registry| {
            registry.enable(&name, enabled)
        })?;
        let quoted = quoted(&name);
        render::print(&match (enabled, changed) {
            (true, true) => format!("Enabled {name:?}\n"),
            (false, true) => format!(
                "Disabled {name:?}: a running job ends by itself, and no other starts until job-monitor enable {quoted}\n"
            ),
            (true, false) => format!("{name:?} is enabled already\n"),
            (false, false) => format!("{name:?} is disabled already\n"),
        })?;
    }
    Ok(())
}

/// Restarts the service, or says how the daemon was started.
pub(super) fn restart() -> Result<()> {
    if let Some(pid) = daemon::running(&Places::find()?) {
        if pid <= 0 {
            let text = "the monitor runs, but has not told its pid yet; try again in a moment";
            return Err(Error::new(text));
        }
        let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        if !cgroup.contains("job-monitor.service") {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words = command
                .split(|&byte| byte == 0)
                .filter(|word| !word.is_empty());
            let words: Vec<_> = words.map(String::from_utf8_lossy).collect();
            return Err(Error::new(format!(
                "the monitor (pid {pid}) was not started by systemd but as: {}; end it with kill {pid}, then start \
                 it so again",
                words.join(" ")
            )));
        }
    }
    let systemctl = ["--user", "restart", "job-monitor"];
    match Command::new("systemctl")
        .args(systemctl)
        .stdin(Stdio::null())
        .status()
    {
        Ok(status) if status.success() => render::print("Restarted the service job-monitor\n"),
        Ok(_) => Err(Error::new(
            "systemctl did not restart job-monitor; job-monitor doctor says what is missing",
        )),
        Err(e) => Err(Error::new(format!(
            "cannot run systemctl: {}; start the monitor with: job-monitor daemon",
            plain(&e)
        ))),
    }
}
