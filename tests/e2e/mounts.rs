//! Projects on file systems that are mounted, unmounted, mounted over, laid over each other, or that
//! lie on another machine as it were. Each test mounts in a namespace of its own thread, which the
//! daemon it starts is born into: nobody else sees it, and nothing is left of it.

use crate::space::{BOUND, Project, Space, lacks, spawn, wait_longer, wait_until};
use crate::watching::{GATED, go, ran};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const ID: &str = "job-20260101-120000-hello";
const NEXT: &str = "job-20260101-120001-next";
const LAST: &str = "job-20260101-120002-last";

/// The minute of the slow look, and what a busy machine may add.
const A_MINUTE: Duration = Duration::from_secs(60 + BOUND.as_secs());

/// An agent that notes that it ran.
const NOTES: &str = r#"echo "$JOB_MONITOR_JOB_ID" >> ran; cat > /dev/null; echo done"#;

/// Runs a test in a mount namespace of its own thread, if the machine lets us make one.
pub fn in_namespace(test: impl FnOnce() + Send) {
    let outcome = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: unshare takes one integer, and concerns this thread alone.
            if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
                let error = io::Error::last_os_error();
                lacks(
                    "namespaces",
                    &format!("no mount namespace can be made: {error}"),
                );
                return;
            }
            run("mount", &["--make-rprivate", "/"]);
            test();
        });
        thread.join()
    });
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// A mounted file system. It goes before the space does, whose files would be removed through it.
pub struct Mounted(PathBuf);

impl Mounted {
    fn new(args: &[&str], at: &Path) -> Mounted {
        run("mount", &[args, &[text(at)]].concat());
        Mounted(at.to_owned())
    }

    pub fn bind(from: &Path, at: &Path) -> Mounted {
        Mounted::new(&["--bind", text(from)], at)
    }

    fn tmpfs(at: &Path) -> Mounted {
        Mounted::new(&["-t", "tmpfs", "-o", "mode=755", "tmpfs"], at)
    }

    /// Above `lower`; what is written goes to two directories in `scratch`.
    fn overlay(lower: &Path, scratch: &Path, at: &Path) -> Mounted {
        let [upper, work] = ["upper", "work"].map(|name| scratch.join(name));
        fs::create_dir(&upper).unwrap();
        fs::create_dir(&work).unwrap();
        let dirs = [
            ("lowerdir", lower),
            ("upperdir", &*upper),
            ("workdir", &*work),
        ];
        let options = dirs.map(|(key, dir)| format!("{key}={}", dir.display()));
        Mounted::new(&["-t", "overlay", "-o", &options.join(","), "overlay"], at)
    }
}

/// A directory shown at another place by a file system in user space (bindfs): what is changed at the
/// source comes without an event, as from another machine, and when its process stops nobody gets an
/// answer.
struct Remote {
    process: Child,
    _mounted: Mounted,
}

impl Remote {
    fn new(program: &Path, source: &Path, at: &Path) -> Remote {
        let device = |path: &Path| fs::metadata(path).unwrap().dev();
        let before = device(at);
        let mut command = Command::new(program);
        command.arg("-f").args([source, at]).stdin(Stdio::null());
        let process = spawn(&mut command);
        let mounted = Mounted(at.to_owned());
        wait_until("bindfs to be mounted", || device(at) != before);
        Remote {
            process,
            _mounted: mounted,
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.process.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // Whoever waits for an answer then gets an error.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // It may be in use, and comes to its end with the last user then.
        run("umount", &["--lazy", text(&self.0)]);
    }
}

fn run(program: &str, args: &[&str]) {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    let status = spawn(&mut command).wait().unwrap();
    assert!(
        status.success() || std::thread::panicking(),
        "{program} {args:?}"
    );
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A directory beside the project's.
fn beside(project: &Project, name: &str) -> PathBuf {
    project
        .path
        .with_file_name(format!("{}-{name}", project.name))
}

// --- at once ---

#[test]
fn no_agent_is_started_in_what_was_mounted_over_its_project() {
    in_namespace(|| {
        let space = Space::new();
        space.plain_agent(GATED);
        // The same directories again, and nothing at all.
        let (other, empty) = (space.project("other"), space.project("empty"));
        space.start();
        let mut mounted = Vec::new();
        for project in [&other, &empty] {
            let below = beside(project, "below");
            fs::create_dir(&below).unwrap();
            project.submit(ID, "wait");
            project.wait_made("ran");
            project.submit(NEXT, "x");
            project.wait_view("it waits", |view| view["queue_size"] == 1);
            // What is mounted over is reached by another path still.
            mounted.push(Mounted::bind(&project.path, &below));
            mounted.push(Mounted::tmpfs(&project.path));
        }
        other.create_dirs();
        other.submit(LAST, "x");
        for project in [&other, &empty] {
            let below = beside(project, "below");
            fs::write(below.join("go"), "").unwrap();
            let result = below.join(format!("jobs/results/{ID}.json"));
            wait_until("the result below", || result.exists());
        }
        assert_eq!(other.wait_result(LAST)["status"], "completed");
        space.wait_log("[empty] the project is unavailable: ");
        assert_eq!(ran(&other), [LAST]);
        assert!(empty.names(&empty.path).is_empty(), "made in its place");
        drop(mounted.pop());
        assert_eq!(empty.wait_result(NEXT)["status"], "completed");
        assert_eq!(ran(&empty), [ID, NEXT]);
    });
}

#[test]
fn a_project_on_an_overlay_is_served_as_any_other() {
    in_namespace(|| {
        let space = Space::new();
        space.plain_agent(GATED);
        // As in a container: the project is part of the image, what is written lies above.
        let project = space.project("alpha");
        project.submit(ID, "x");
        let [lower, scratch] = ["lower", "scratch"].map(|name| beside(&project, name));
        fs::rename(&project.path, &lower).unwrap();
        fs::create_dir(&project.path).unwrap();
        fs::create_dir(&scratch).unwrap();
        // An overlay cannot lie above another, where the machine may be a container itself.
        let _scratch = Mounted::tmpfs(&scratch);
        let _overlay = Mounted::overlay(&lower, &scratch, &project.path);
        space.start();
        project.wait_result(ID);
        project.wait_view("idle", |view| view["is_processing"] == false);
        project.submit(NEXT, "x");
        project.wait_result(NEXT);
        fs::write(project.item(&format!("{LAST}.md")), "wait").unwrap();
        wait_until("the last to run", || ran(&project).len() == 3);
        go(&project);
        assert_eq!(project.wait_result(LAST)["status"], "completed");
        assert_eq!(ran(&project), [ID, NEXT, LAST]);
        assert!(!space.log().contains("unavailable"));
        let below = project.names(&lower.join("jobs/results"));
        assert!(below.is_empty(), "written to the image: {below:?}");
    });
}

// --- within a minute: these are called by `minute` ---

pub fn what_is_mounted_and_unmounted_without_a_word_is_noticed_within_a_minute() {
    in_namespace(|| {
        let space = Space::new();
        space.plain_agent(NOTES);
        let [unmounted, over, items] =
            ["unmounted", "over", "items"].map(|name| space.project(name));
        let disk = beside(&unmounted, "disk");
        fs::rename(&unmounted.path, &disk).unwrap();
        fs::create_dir(&unmounted.path).unwrap();
        let mounted = Mounted::bind(&disk, &unmounted.path);
        space.start();
        for project in [&unmounted, &over, &items] {
            project.submit(ID, "x");
            project.wait_result(ID);
        }
        // An idle project does not keep its file system busy.
        let unmount = || Command::new("umount").arg(&unmounted.path).output();
        wait_until("it to be unmounted", || unmount().unwrap().status.success());
        std::mem::forget(mounted);
        let above = Mounted::tmpfs(&over.path);
        let _items = Mounted::tmpfs(&items.item(""));
        items.submit(NEXT, "x");
        for name in ["unmounted", "over"] {
            let told = format!("[{name}] the project is unavailable: ");
            wait_longer(A_MINUTE, &told, || {
                space.log().contains(&told).then_some(())
            });
        }
        wait_longer(A_MINUTE, "the job in the directory above", || {
            items.result(NEXT)
        });
        for project in [&unmounted, &over] {
            let names = project.names(&project.path);
            assert!(names.is_empty(), "{}: made {names:?}", project.name);
        }
        // Back in its place, and the document with it.
        drop(above);
        let _mounted = Mounted::bind(&disk, &unmounted.path);
        for project in [&unmounted, &over] {
            project.submit(NEXT, "x");
            project.wait_result(NEXT);
        }
        for project in [&unmounted, &over, &items] {
            assert_eq!(ran(project), [ID, NEXT], "{}", project.name);
        }
    });
}

pub fn documents_of_another_machine_are_noticed_within_a_minute_and_its_silence_stops_nobody() {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let programs = std::env::split_paths(&path).map(|dir| dir.join("bindfs"));
    let Some(bindfs) = programs.into_iter().find(|program| program.is_file()) else {
        return lacks("fuse", "there is no bindfs");
    };
    if let Err(error) = fs::File::open("/dev/fuse") {
        return lacks("fuse", &format!("/dev/fuse cannot be opened: {error}"));
    }
    in_namespace(|| {
        let space = Space::new();
        space.plain_agent(NOTES);
        let [far, mute, near] = ["far", "mute", "near"].map(|name| space.project(name));
        let show = |project: &Project| {
            let source = beside(project, "source");
            fs::rename(&project.path, &source).unwrap();
            fs::create_dir(&project.path).unwrap();
            Remote::new(&bindfs, &source, &project.path)
        };
        let (_far_server, mute_server) = (show(&far), show(&mute));
        space.start();
        for project in [&far, &mute] {
            project.submit(ID, "x");
            project.wait_result(ID);
            project.wait_view("idle", |view| view["is_processing"] == false);
            let item = format!("jobs/items/{NEXT}.md");
            fs::write(beside(project, "source").join(item), "x").unwrap();
        }
        mute_server.signal(Signal::SIGSTOP);
        wait_longer(A_MINUTE, "the job of which no event told", || {
            far.result(NEXT)
        });
        // Now the other one's worker has asked, too, and waits.
        near.submit(ID, "x");
        near.wait_result(ID);
        let added = space.project("added");
        added.submit(ID, "x");
        added.wait_result(ID);
        space.set(json!({"on_finish": ["true"]}));
        far.submit(LAST, "x");
        far.wait_result(LAST);
        let result = beside(&mute, "source").join(format!("jobs/results/{NEXT}.json"));
        assert!(!result.exists(), "it answered after all");
        mute_server.signal(Signal::SIGCONT);
        mute.wait_result(NEXT);
        assert_eq!(ran(&mute), [ID, NEXT]);
        assert_eq!(ran(&far), [ID, NEXT, LAST]);
    });
}
