//! What the monitor needs of the machine: inotify, and directories of its own on a disk with
//! room.

use super::{Finding, Task, World, access_remedy, is_refused, quoted_path};
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Below this nothing can be relied on to be written: results are some kilobytes, logs of an
/// agent megabytes.
const ROOM_MIN: u64 = 32 << 20;
/// Below this a day of logs may not fit.
const ROOM_LOW: u64 = 1 << 30;
const INODES_MIN: u64 = 100;
const INODES_LOW: u64 = 10_000;
/// A watched project needs a watch on its documents, and at most so many more.
const WATCHES_PER_PROJECT: u64 = 4;
/// Programs that watch whole trees hold hundreds of thousands of watches, each a line to read.
const COUNT_MAX: Duration = Duration::from_secs(5);

/// The checks of the machine, for a monitor of so many projects.
pub(super) fn check(world: &Arc<World>, projects: usize) -> Task {
    let world = Arc::clone(world);
    Task::start("machine", None, None, move || {
        let mut findings = Vec::new();
        for dir in [&world.places.config, &world.places.state] {
            let forbidden = if is_refused(dir) { 0o022 } else { 0 };
            findings.extend(directory(dir, forbidden));
        }
        if findings.is_empty() {
            let message = format!(
                "{} and {} are yours alone",
                world.places.config.display(),
                world.places.state.display()
            );
            findings.push(Finding::ok("directories", message));
        }
        findings.extend(existing(&world.places.state).and_then(disk));
        findings.extend(existing(&std::env::temp_dir()).and_then(disk_of_temporary));
        findings.extend(inotify(projects as u64, world.service.runs()));
        findings
    })
}

/// What is wrong with a directory; one that is not there yet is none.
pub(super) fn directory(path: &Path, forbidden: u32) -> Option<Finding> {
    let problem = |message: String| Finding::problem("directories", message);
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            let error = crate::error::Error::io("look at", path, error);
            return Some(problem(error.to_string()));
        }
    };
    let shown = path.display();
    if let Some(remedy) = access_remedy(path, forbidden) {
        let message = match meta.mode() & forbidden {
            0 => format!("{shown} belongs to another user (uid {})", meta.uid()),
            _ => format!(
                "{shown} can be written by others (mode {:03o})",
                meta.mode() & 0o777
            ),
        };
        return Some(problem(message).remedy(remedy));
    }
    let all = AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK;
    match access(path, all) {
        Ok(()) => None,
        Err(nix::Error::EROFS) => Some(
            problem(format!(
                "{shown} is on a file system that is mounted read-only"
            ))
            .remedy(format!("findmnt --target {}", quoted_path(path))),
        ),
        Err(error) => Some(
            problem(format!(
                "{shown} cannot be written by you (mode {:03o}, uid {}): {}",
                meta.mode() & 0o777,
                meta.uid(),
                error.desc().to_lowercase()
            ))
            .remedy(match meta.uid() == nix::unistd::geteuid().as_raw() {
                true => format!("chmod u+rwx {}", quoted_path(path)),
                false => format!("sudo chown \"$(id -un)\" {}", quoted_path(path)),
            }),
        ),
    }
}

/// The directory, or what it will be made in.
fn existing(path: &Path) -> Option<&Path> {
    path.ancestors().find(|path| path.is_dir())
}

fn disk_of_temporary(path: &Path) -> Option<Finding> {
    disk(path).filter(|finding| finding.level != super::Level::Ok)
}

/// Room on the file system of a directory.
pub(super) fn disk(path: &Path) -> Option<Finding> {
    let stat = statvfs(path).ok()?;
    // The field types differ between architectures.
    #[allow(clippy::useless_conversion)]
    let (room, inodes_all, inodes) = (
        u64::from(stat.blocks_available()).saturating_mul(u64::from(stat.fragment_size())),
        u64::from(stat.files()),
        u64::from(stat.files_available()),
    );
    let shown = path.display();
    let remedy = format!("df -h {0} && df -i {0}", quoted_path(path));
    // Some file systems make inodes as they go, and say that there are none.
    let inodes = if inodes_all == 0 { u64::MAX } else { inodes };
    Some(if room < ROOM_MIN {
        let message = format!("only {} of room at {shown}", size(room));
        Finding::problem("disk", message).remedy(remedy)
    } else if inodes < INODES_MIN {
        let message = format!("only {inodes} free inodes at {shown}");
        Finding::problem("disk", message).remedy(remedy)
    } else if room < ROOM_LOW {
        let message = format!("only {} of room at {shown}", size(room));
        Finding::warning("disk", message).remedy(remedy)
    } else if inodes < INODES_LOW {
        let message = format!("only {inodes} free inodes at {shown}");
        Finding::warning("disk", message).remedy(remedy)
    } else {
        Finding::ok("disk", format!("{} of room at {shown}", size(room)))
    })
}

fn size(bytes: u64) -> String {
    match bytes >> 20 {
        0 => format!("{} KiB", bytes >> 10),
        mib @ 1..1024 => format!("{mib} MiB"),
        mib => format!("{:.1} GiB", mib as f64 / 1024.0),
    }
}

/// Whether the monitor gets the instance and the watches that it needs.
fn inotify(projects: u64, runs: bool) -> Vec<Finding> {
    let limit = |name: &str| -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/sys/fs/inotify/{name}")).ok()?;
        text.trim().parse().ok()
    };
    let (Some(instances_max), Some(watches_max)) =
        (limit("max_user_instances"), limit("max_user_watches"))
    else {
        return Vec::new();
    };
    let (instances, watches) = in_use();
    let needed = |number| if runs { 0 } else { number };
    let both = [
        ("instances", instances, instances_max, needed(1)),
        (
            "watches",
            watches,
            watches_max,
            needed(2 + WATCHES_PER_PROJECT * projects),
        ),
    ];
    let mut findings: Vec<Finding> = both
        .into_iter()
        .filter_map(|(what, used, max, needed)| limit_finding(what, used, max, needed))
        .collect();
    if findings.is_empty() {
        let message = format!(
            "{instances} of {instances_max} inotify instances and {watches} of {watches_max} \
             watches are in use"
        );
        findings.push(Finding::ok("inotify", message));
    }
    findings
}

fn limit_finding(what: &str, used: u64, max: u64, needed: u64) -> Option<Finding> {
    let short = max.saturating_sub(used) < needed;
    if !short && used.saturating_mul(10) <= max.saturating_mul(9) {
        return None;
    }
    let message = format!("{used} of {max} inotify {what} of this user are in use");
    let more = max.max(used).max(256).saturating_mul(4);
    let key = format!("fs.inotify.max_user_{what}");
    let remedy = format!(
        "echo {key}={more} | sudo tee /etc/sysctl.d/90-inotify-{what}.conf && sudo sysctl {key}={more}"
    );
    // Without an instance the monitor does not start; without a watch it looks once a minute.
    let level = match short && what == "instances" {
        true => super::Level::Problem,
        false => super::Level::Warning,
    };
    Some(Finding::new("inotify", level, message).remedy(remedy))
}

/// Instances and watches that this user's processes have; at least, where time runs out.
fn in_use() -> (u64, u64) {
    let deadline = Instant::now() + COUNT_MAX;
    let own = nix::unistd::geteuid().as_raw();
    let (mut instances, mut watches) = (0, 0);
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        let is_own = process.metadata().is_ok_and(|meta| meta.uid() == own);
        if !is_own
            || !process
                .file_name()
                .to_string_lossy()
                .starts_with(|c: char| c.is_ascii_digit())
        {
            continue;
        }
        let descriptors = std::fs::read_dir(process.path().join("fd"))
            .into_iter()
            .flatten()
            .flatten();
        for descriptor in descriptors {
            if Instant::now() > deadline {
                return (instances, watches);
            }
            let target = std::fs::read_link(descriptor.path());
            if target.is_ok_and(|target| target.as_os_str() == "anon_inode:inotify") {
                instances += 1;
                let info = process.path().join("fdinfo").join(descriptor.file_name());
                watches += watches_of(&info, deadline);
            }
        }
    }
    (instances, watches)
}

fn watches_of(info: &Path, deadline: Instant) -> u64 {
    let Ok(file) = File::open(info) else { return 0 };
    let lines = BufReader::new(file).split(b'\n').map_while(Result::ok);
    let lines = lines.take_while(|_| Instant::now() < deadline);
    lines.filter(|line| line.starts_with(b"inotify ")).count() as u64
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn inotify_limits_are_judged_by_what_is_left_and_what_is_needed() {
        let level = |what, used, max, needed| {
            limit_finding(what, used, max, needed).map(|finding| finding.level)
        };
        assert_eq!(level("instances", 5, 128, 1), None);
        assert_eq!(level("instances", 120, 128, 0), Some(Level::Warning));
        assert_eq!(level("instances", 128, 128, 0), Some(Level::Warning));
        assert_eq!(level("instances", 128, 128, 1), Some(Level::Problem));
        assert_eq!(level("watches", 8000, 8192, 400), Some(Level::Warning));
        assert_eq!(level("watches", 10, 8192, 400), None);
        let remedy = limit_finding("watches", 8192, 8192, 4).unwrap().remedy;
        assert!(
            remedy
                .unwrap()
                .contains("sysctl fs.inotify.max_user_watches=32768")
        );
    }

    #[test]
    fn sizes_are_told_in_units_that_people_use() {
        assert_eq!(size(0), "0 KiB");
        assert_eq!(size(5 << 20), "5 MiB");
        assert_eq!(size((3 << 30) + (1 << 29)), "3.5 GiB");
    }
}
