//! Projects on file systems that are mounted, unmounted, mounted over, laid over each other, or that
//! lie on another machine as it were. Each test mounts in a namespace of its own thread, which the
//! daemon it starts is born into: nobody else sees it, and nothing is left of it.

use crate::machine::{Mounted, in_namespace};
use crate::space::{Project, lacks, spawn, wait_longer, wait_until};
use crate::stage::*;
use crate::watching::{GATED, aside};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

fn tmpfs(at: &Path) -> Mounted {
    Mounted::new(&["-t", "tmpfs", "-o", "mode=755", "tmpfs"], at)
}

/// Above `lower`; what is written goes to two directories in `scratch`.
fn overlay(lower: &Path, scratch: &Path, at: &Path) -> Mounted {
    let [upper, work] = ["upper", "work"].map(|name| scratch.join(name));
    fs::create_dir(&upper).unwrap();
    fs::create_dir(&work).unwrap();
    let (lower, upper, work) = (lower.display(), upper.display(), work.display());
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    Mounted::new(&["-t", "overlay", "-o", &options, "overlay"], at)
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
        let mounted = Mounted::adopt(at);
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

// --- at once ---

#[test]
fn no_agent_is_started_in_what_was_mounted_over_its_project() {
    in_namespace(|| {
        let space = with_agent(GATED);
        // The same directories again, and nothing at all.
        let (other, empty) = (space.project("other"), space.project("empty"));
        space.start();
        let mut mounted = Vec::new();
        for project in [&other, &empty] {
            let below = aside(project, "below");
            fs::create_dir(&below).unwrap();
            begin(project, ID, "wait");
            project.submit(NEXT, "x");
            project.wait_view("it waits", |view| view["queue_size"] == 1);
            // What is mounted over is reached by another path still.
            mounted.push(Mounted::bind(&project.path, &below));
            mounted.push(tmpfs(&project.path));
        }
        other.create_dirs();
        other.submit(LAST, "x");
        for project in [&other, &empty] {
            let below = aside(project, "below");
            fs::write(below.join("go"), "").unwrap();
            let result = below.join(format!("jobs/results/{ID}.json"));
            wait_until("the result below", || result.exists());
        }
        other.wait_completed(LAST);
        space.wait_log("[empty] the project is unavailable: ");
        assert_eq!(ran(&other), [LAST]);
        assert!(empty.names(&empty.path).is_empty(), "made in its place");
        drop(mounted.pop());
        empty.wait_completed(NEXT);
        assert_eq!(ran(&empty), [ID, NEXT]);
    });
}

#[test]
fn a_project_on_an_overlay_is_served_as_any_other() {
    in_namespace(|| {
        let space = with_agent(GATED);
        // As in a container: the project is part of the image, what is written lies above.
        let project = space.project("alpha");
        project.submit(ID, "x");
        let [lower, scratch] = ["lower", "scratch"].map(|name| aside(&project, name));
        fs::rename(&project.path, &lower).unwrap();
        fs::create_dir(&project.path).unwrap();
        fs::create_dir(&scratch).unwrap();
        // An overlay cannot lie above another, where the machine may be a container itself.
        let _scratch = tmpfs(&scratch);
        let _overlay = overlay(&lower, &scratch, &project.path);
        space.start();
        project.wait_result(ID);
        project.wait_view("idle", |view| view["is_processing"] == false);
        project.run(NEXT, "x");
        fs::write(project.item(&format!("{LAST}.md")), "wait").unwrap();
        wait_until("the last to run", || ran(&project).len() == 3);
        project.touch("go");
        project.wait_completed(LAST);
        assert_eq!(ran(&project), [ID, NEXT, LAST]);
        assert!(!space.log().contains("unavailable"));
        let below = project.names(&lower.join("jobs/results"));
        assert!(below.is_empty(), "written to the image: {below:?}");
    });
}

// --- within a minute: these are called by `minute` ---

pub fn what_is_mounted_and_unmounted_without_a_word_is_noticed_within_a_minute() {
    in_namespace(|| {
        let space = with_agent(NOTES);
        let [unmounted, over, items] =
            ["unmounted", "over", "items"].map(|name| space.project(name));
        let disk = aside(&unmounted, "disk");
        fs::rename(&unmounted.path, &disk).unwrap();
        fs::create_dir(&unmounted.path).unwrap();
        let mounted = Mounted::bind(&disk, &unmounted.path);
        space.start();
        for project in [&unmounted, &over, &items] {
            project.run(ID, "x");
        }
        // An idle project does not keep its file system busy.
        let unmount = || Command::new("umount").arg(&unmounted.path).output();
        wait_until("it to be unmounted", || unmount().unwrap().status.success());
        std::mem::forget(mounted);
        let above = tmpfs(&over.path);
        let _items = tmpfs(&items.item(""));
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
            project.run(NEXT, "x");
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
        let space = with_agent(NOTES);
        let [far, mute, near] = ["far", "mute", "near"].map(|name| space.project(name));
        let show = |project: &Project| {
            let source = aside(project, "source");
            fs::rename(&project.path, &source).unwrap();
            fs::create_dir(&project.path).unwrap();
            Remote::new(&bindfs, &source, &project.path)
        };
        let (_far_server, mute_server) = (show(&far), show(&mute));
        space.start();
        for project in [&far, &mute] {
            project.run(ID, "x");
            project.wait_view("idle", |view| view["is_processing"] == false);
            let item = format!("jobs/items/{NEXT}.md");
            fs::write(aside(project, "source").join(item), "x").unwrap();
        }
        mute_server.signal(Signal::SIGSTOP);
        wait_longer(A_MINUTE, "the job of which no event told", || {
            far.result(NEXT)
        });
        // Now the other one's worker has asked, too, and waits.
        near.run(ID, "x");
        let added = space.project("added");
        added.run(ID, "x");
        space.set(json!({"on_finish": ["true"]}));
        far.run(LAST, "x");
        let result = aside(&mute, "source").join(format!("jobs/results/{NEXT}.json"));
        assert!(!result.exists(), "it answered after all");
        mute_server.signal(Signal::SIGCONT);
        mute.wait_result(NEXT);
        assert_eq!(ran(&mute), [ID, NEXT]);
        assert_eq!(ran(&far), [ID, NEXT, LAST]);
        // A disabled one is looked at when the daemon starts, and not waited for when it stops.
        assert_eq!(space.stop(), 0);
        space.edit_registry(|projects| projects["mute"]["enabled"] = json!(false));
        mute_server.signal(Signal::SIGSTOP);
        space.start();
        near.run(NEXT, "x");
        assert_eq!(space.stop(), 0);
        mute_server.signal(Signal::SIGCONT);
    });
}
