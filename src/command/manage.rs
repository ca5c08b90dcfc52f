//! The commands that change the registry, and `restart`.

use super::doctor;
use crate::daemon;
use crate::error::{Error, Result, plain};
use crate::project::{Layout, Project};
use crate::registry::{self, Registry};
use crate::render::{self, clean};
use crate::service;
use crate::settings::Places;
use crate::skills;
use crate::spool::{Leftovers, Mark, Spool};
use crate::time::Wall;
use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use wait_timeout::ChildExt;

/// systemd itself waits for the graces of agents; ours is above any sensible one.
const RESTART_MAX: Duration = Duration::from_secs(180);

/// Registers a project: its directories, holds on what lies there, the entry, the skills.
pub(super) fn register(
    path: &Path,
    name: Option<String>,
    layout: Option<Layout>,
    run_existing: bool,
    with_skills: bool,
) -> Result<()> {
    let real = std::fs::canonicalize(path).map_err(|e| Error::io("open directory", path, e))?;
    let name = match name {
        Some(name) => name,
        None => crate::files::name_of(&real)
            .map(str::to_owned)
            .ok_or_else(|| {
                Error::new(format!(
                    "{} has no name that can be the project's; choose one with --name",
                    real.display()
                ))
            })?,
    };
    if !registry::valid_name(&name) {
        return Err(Error::new(format!(
            "{name:?} cannot be a project's name (1 to 100 bytes, no '/', no control character); choose another \
             with --name"
        )));
    }
    let project = Project {
        name: name.clone(),
        path: real.clone(),
        layout: layout.unwrap_or_default(),
    };
    let places = Places::find()?;
    let registered_at = Wall::now();
    let registry = Registry::load(&places.registry())?;
    // Skills may be wanted later than the project.
    if with_skills && let Some(known) = registry.at(&real) {
        let text = format!("{:?} is registered already\n", known.project.name);
        return render::print(&(text + &install_skills(&real)?));
    }
    // Refusals come before anything is made.
    registry.clone().add(&project, registered_at)?;
    let spool = Spool::create(&project)?;
    let mut text = format!(
        "Registered {:?}: {}\n",
        name,
        clean(&real.to_string_lossy())
    );
    let waiting = spool.scan(Leftovers::Leave)?.waiting;
    if !waiting.is_empty() && run_existing {
        let _ = writeln!(
            text,
            "  {} there already and will run",
            counted(waiting.len())
        );
    } else if !waiting.is_empty() {
        for id in &waiting {
            spool.mark(id, Mark::Hold)?;
        }
        let _ = writeln!(
            text,
            "  {} there already and held; to release: job-monitor -p {} release --all",
            counted(waiting.len()),
            clean(&doctor::quoted(&name))
        );
    }
    if with_skills {
        text += &install_skills(&real)?;
    }
    registry::update(&places.registry(), |registry| {
        registry.add(&project, registered_at)
    })?;
    let _ = writeln!(
        text,
        "  Put jobs into {}",
        clean(&spool.items_path().to_string_lossy())
    );
    if daemon::running(&places).is_none() {
        let how = service::start_command();
        let _ = writeln!(text, "  The monitor is not running; start it with: {how}");
    }
    for line in doctor::of_new_project(&places, &project) {
        let _ = writeln!(text, "  {line}");
    }
    render::print(&text)
}

fn counted(jobs: usize) -> String {
    match jobs {
        1 => "1 job is".to_owned(),
        jobs => format!("{jobs} jobs are"),
    }
}

fn install_skills(project: &Path) -> Result<String> {
    let line = |(path, written): (std::path::PathBuf, bool)| {
        let what = if written { "Wrote" } else { "Kept your" };
        format!("  {what} {}\n", clean(&path.to_string_lossy()))
    };
    Ok(skills::install(project)?.into_iter().map(line).collect())
}

/// Takes a project out of the registry; its files stay.
pub(super) fn unregister(name: &str) -> Result<()> {
    let places = Places::find()?;
    registry::update(&places.registry(), |registry| registry.remove(name))?;
    render::print(&format!(
        "Unregistered {name:?}; its files stay, and a running job ends by itself\n"
    ))
}

/// Switches a project on or off.
pub(super) fn enable(name: &str, enabled: bool) -> Result<()> {
    let places = Places::find()?;
    let changed = registry::update(&places.registry(), |registry| {
        registry.enable(name, enabled)
    })?;
    let text = match (enabled, changed) {
        (true, true) => format!("Enabled {name:?}\n"),
        (false, true) => {
            format!("Disabled {name:?}; a running job ends by itself, and no other is started\n")
        }
        (true, false) => format!("{name:?} is enabled already\n"),
        (false, false) => format!("{name:?} is disabled already\n"),
    };
    render::print(&text)
}

/// Restarts the service, or says how the daemon was started.
pub(super) fn restart() -> Result<()> {
    let places = Places::find()?;
    if let Some(pid) = daemon::running(&places) {
        let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        if !cgroup.contains("job-monitor.service") {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<_> = command
                .split(|&b| b == 0)
                .filter(|w| !w.is_empty())
                .map(String::from_utf8_lossy)
                .collect();
            return Err(Error::new(format!(
                "the monitor (pid {pid}) was not started by systemd but as: {}; end it with kill {pid}, then start \
                 it so again",
                words.join(" ")
            )));
        }
    }
    let mut child = Command::new("systemctl")
        .args(["--user", "restart", "job-monitor"])
        .stdin(Stdio::null())
        .spawn()
        .map_err(|e| {
            Error::new(format!(
                "cannot run systemctl: {}; start the monitor with: job-monitor daemon",
                plain(&e)
            ))
        })?;
    match child.wait_timeout(RESTART_MAX) {
        Ok(Some(status)) if status.success() => {
            render::print("Restarted the service job-monitor\n")
        }
        Ok(Some(_)) => Err(Error::new(
            "systemctl did not restart job-monitor; job-monitor doctor says what is missing",
        )),
        Ok(None) => Err(Error::new(format!(
            "systemctl has not restarted job-monitor within {} s; systemctl --user status job-monitor shows why",
            RESTART_MAX.as_secs()
        ))),
        Err(error) => Err(Error::new(format!(
            "cannot wait for systemctl: {}",
            plain(&error)
        ))),
    }
}
