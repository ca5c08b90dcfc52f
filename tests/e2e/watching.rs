//! Directories that are removed, replaced, moved or filled while the daemon has them open, and
//! what the kernel does not tell of: nothing is lost, nothing runs twice, and no job is called
//! done whose result is not on disk.

use crate::space::{Project, Space, remove_dir, spawn, wait_until};
use crate::stage::*;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Notes each start; a job whose document says `wait` ends when the test makes the file `go`.
pub const GATED: &str = r#"echo "$JOB_MONITOR_JOB_ID" >> ran
[ "$(cat)" != wait ] || while [ ! -e go ]; do sleep 0.02; done; echo done"#;

/// Copies a directory, as a person does it who puts another in its place.
fn copy(from: &Path, to: &Path) {
    let mut command = Command::new("cp");
    command.arg("-a").args([from, to]).stdin(Stdio::null());
    assert!(spawn(&mut command).wait().unwrap().success());
}

/// The directory of a project beside this one, for what is moved away.
pub fn aside(project: &Project, name: &str) -> PathBuf {
    project
        .path
        .with_file_name(format!("{}-{name}", project.name))
}

// --- the directory of documents, and the project ---

#[test]
fn documents_in_a_directory_that_took_another_s_place_are_found_at_once() {
    let space = with_agent(GATED);
    // Many, since between the two steps of a replacement a look finds nothing at all.
    let names = (0..24).map(|number| format!("idle-{number}"));
    let idle: Vec<Project> = names.map(|name| space.project(&name)).collect();
    let busy = space.project("busy");
    space.start();
    begin(&busy, ID, "wait");
    for project in idle.iter().chain([&busy]) {
        fs::rename(project.item(""), aside(project, "items")).unwrap();
        fs::create_dir(project.item("")).unwrap();
        project.submit(NEXT, "x");
    }
    busy.touch("go");
    for project in idle.iter().chain([&busy]) {
        project.wait_completed(NEXT);
    }
    busy.wait_completed(ID);
    for project in &idle {
        assert_eq!(ran(project), [NEXT]);
    }
    assert_eq!(ran(&busy), [ID, NEXT]);
}

#[test]
fn a_result_goes_with_its_project_wherever_that_is_moved() {
    let space = with_agent(GATED);
    let (back, replaced) = (space.project("back"), space.project("replaced"));
    space.start();
    for project in [&back, &replaced] {
        begin(project, ID, "wait");
        project.submit(NEXT, "x");
        project.wait_view("it waits", |view| view["queue_size"] == 1);
        fs::rename(&project.path, aside(project, "moved")).unwrap();
    }
    // In the place of one there is another project now, with a job of its own.
    replaced.create_dirs();
    replaced.submit(LAST, "x");
    for project in [&back, &replaced] {
        let moved = aside(project, "moved");
        fs::write(moved.join("go"), "").unwrap();
        let result = moved.join(format!("jobs/results/{ID}.json"));
        wait_until("the result where the project is now", || result.exists());
    }
    replaced.wait_completed(LAST);
    assert_eq!(ran(&replaced), [LAST]);
    space.wait_log("[back] the project is unavailable: ");
    assert!(!back.path.exists(), "something was made in its place");
    fs::rename(aside(&back, "moved"), &back.path).unwrap();
    back.wait_completed(NEXT);
    back.wait_completed(ID);
    assert_eq!(ran(&back), [ID, NEXT]);
}

#[test]
fn a_project_that_is_deleted_while_an_agent_runs_is_served_when_it_is_made_anew() {
    let space = Space::new();
    // It waits for a file that is not deleted with the project.
    space.plain_agent(
        r#"read -r word; echo "$word" >> ran
[ "$word" != wait ] || while [ ! -e "$HOME/go" ]; do sleep 0.02; done; echo done"#,
    );
    let project = space.project("alpha");
    space.start();
    begin(&project, ID, "wait\n");
    fs::remove_dir_all(&project.path).unwrap();
    project.create_dirs();
    project.submit(NEXT, "go on\n");
    fs::write(space.home().join("go"), "").unwrap();
    project.wait_completed(NEXT);
    assert_eq!(project.made("ran"), "go on\n");
    // What was decided of the other is kept until there is a place for it.
    project.wait_completed(ID);
}

#[test]
fn a_project_that_is_deleted_and_unregistered_while_an_agent_runs_is_left() {
    let (space, project) =
        alpha(r#"cat >> ran; while [ ! -e "$HOME/go" ]; do sleep 0.02; done; echo done"#);
    space.start();
    begin(&project, ID, "x");
    fs::remove_dir_all(&project.path).unwrap();
    space.run(&["unregister", "alpha"]).ok();
    fs::write(space.home().join("go"), "").unwrap();
    space.wait_log("[alpha] what was decided of a job cannot be written; where its claim");
    // Its name and place are free for another.
    let again = space.project("alpha");
    again.complete(NEXT, "x");
    assert!(again.result(ID).is_none());
}

// --- results, state and logs ---

/// What happens to a directory of ours, and when.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Loss {
    /// It is deleted; a copy lies aside.
    Removed,
    /// A copy takes its place.
    Replaced,
}

/// One project that loses one of its directories.
struct Case {
    project: Project,
    dir: &'static str,
    loss: Loss,
}

impl Case {
    /// All losses of all directories, each in a project of its own.
    fn all(space: &Space) -> Vec<Case> {
        let dirs = ["results", "state", "logs"];
        let losses = [Loss::Removed, Loss::Replaced];
        let case = |dir: &'static str, loss| Case {
            project: space.project(&format!("{dir}-{loss:?}").to_lowercase()),
            dir,
            loss,
        };
        let of_dir = |dir| losses.map(|loss| case(dir, loss));
        dirs.into_iter().flat_map(of_dir).collect()
    }

    fn path(&self) -> PathBuf {
        self.project.path.join("jobs").join(self.dir)
    }

    fn aside(&self) -> PathBuf {
        aside(&self.project, self.dir)
    }

    fn lose(&self) {
        let copied = aside(&self.project, "copy");
        copy(&self.path(), &copied);
        match self.loss {
            Loss::Removed => {
                remove_dir(&self.path());
                fs::rename(copied, self.aside()).unwrap();
            }
            Loss::Replaced => {
                fs::rename(self.path(), self.aside()).unwrap();
                fs::rename(copied, self.path()).unwrap();
            }
        }
    }

    /// Each job ran once, is done, and all that is told of it lies where it belongs.
    fn assert_whole(&self) {
        let (project, name) = (&self.project, &self.project.name);
        for id in [ID, NEXT] {
            let result = project.wait_completed(id);
            assert_eq!(result["stdout"], "done\n", "{name}");
        }
        assert_eq!(ran(project), [ID, NEXT], "{name}");
        wait_until("the claims to be swept where they were", || {
            project.claim(ID).is_none() && project.claim(NEXT).is_none()
        });
        project.wait_view("nothing waits", |view| {
            view["queue_size"] == 0 && view["is_processing"] == false
        });
        for ending in ["md", "out", "err"] {
            let log = project.logs(&format!("{NEXT}.{ending}"));
            assert!(log.exists(), "{name}: {} is missing", log.display());
        }
        let done = format!("Job completed: {NEXT}.md");
        wait_until("the journal", || project.journal().contains(&done));
        if self.loss == Loss::Replaced {
            let left = project.names(&self.aside());
            let late = left.iter().any(|file| file.contains(NEXT));
            assert!(!late, "{name}: written to the old place: {left:?}");
        }
    }
}

#[test]
fn directories_lost_while_nothing_runs_lose_no_job_and_run_none_twice() {
    let space = with_agent(GATED);
    let mut cases = Case::all(&space);
    // A job is done as long as its result is there (SPEC 4): without the results all would run again.
    cases.retain(|case| (case.dir, case.loss) != ("results", Loss::Removed));
    space.start();
    for case in &cases {
        case.project.submit(ID, "x");
        case.project.wait_result(ID);
        case.project
            .wait_view("idle", |view| view["is_processing"] == false);
    }
    for case in &cases {
        case.lose();
        case.project.submit(NEXT, "x");
    }
    cases.iter().for_each(Case::assert_whole);
}

#[test]
fn directories_lost_while_an_agent_runs_lose_no_job_and_run_none_twice() {
    let space = with_agent(GATED);
    let cases = Case::all(&space);
    space.start();
    for case in &cases {
        begin(&case.project, ID, "wait");
        case.project.submit(NEXT, "x");
        let waits = |view: &Value| view["queue_size"] == 1;
        case.project.wait_view("it waits", waits);
    }
    for case in &cases {
        case.lose();
        // The claim is what a crash from here on would leave.
        wait_until("the claim where it belongs", || {
            case.project.claim(ID).is_some()
        });
        case.project.touch("go");
    }
    cases.iter().for_each(Case::assert_whole);
}

/// Whether the claim is there, with the process that runs.
fn names_a_process(project: &Project) -> bool {
    let claim = project.claim(ID);
    claim.is_some_and(|claim| claim.contains("\"pid\""))
}

#[test]
fn a_lost_state_directory_neither_hides_a_running_job_from_cancel_nor_from_a_restart() {
    let space = with_agent(GATED);
    space.set(json!({"on_interrupt": "fail"}));
    let losses = [Loss::Removed, Loss::Replaced];
    let projects = losses.map(|loss| {
        ["cancelled", "crashed"].map(|what| space.project(&format!("{what}-{loss:?}")))
    });
    space.start();
    for (loss, projects) in losses.iter().zip(&projects) {
        for project in projects {
            begin(project, ID, "wait");
            match loss {
                Loss::Removed => remove_dir(&project.state("")),
                Loss::Replaced => {
                    fs::rename(project.state(""), aside(project, "state")).unwrap();
                    fs::create_dir(project.state("")).unwrap();
                }
            }
        }
        let [cancelled, crashed] = projects;
        space.run(&["-p", &cancelled.name, "cancel", ID]).ok();
        assert_eq!(cancelled.wait_result(ID)["status"], "cancelled");
        wait_until("the claim where it belongs", || names_a_process(crashed));
        // Nor can another daemon take the project meanwhile.
        let file = File::open(crashed.state(".lock")).unwrap();
        let taken = Flock::lock(file, FlockArg::LockExclusiveNonblock);
        assert!(taken.is_err(), "nobody holds the new lock");
    }
    space.kill();
    space.start();
    for [_, crashed] in &projects {
        assert_eq!(crashed.wait_result(ID)["error_kind"], "interrupted");
        assert_eq!(ran(crashed), [ID]);
    }
    space.assert_no_survivor();
}

#[test]
fn a_claim_that_cannot_be_written_anew_at_once_is_written_when_it_can() {
    let (space, project) = alpha(GATED);
    space.set(json!({"on_interrupt": "fail"}));
    space.start();
    begin(&project, ID, "wait");
    // Its successor is taken by somebody else at first.
    let successor = project.path.join("successor");
    fs::create_dir(&successor).unwrap();
    let lock = File::create(successor.join(".lock")).unwrap();
    let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).unwrap();
    fs::rename(project.state(""), aside(&project, "state")).unwrap();
    fs::rename(&successor, project.state("")).unwrap();
    wait_until("a word on it", || {
        project.journal().contains("is served by another monitor")
    });
    assert_eq!(project.claim(ID), None);
    drop(lock);
    wait_until("the claim where it belongs", || names_a_process(&project));
    space.kill();
    space.start();
    assert_eq!(project.wait_result(ID)["error_kind"], "interrupted");
    assert_eq!(ran(&project), [ID]);
    space.assert_no_survivor();
}

// --- events that are lost ---

#[test]
fn documents_whose_events_are_lost_in_a_flood_are_found_all_the_same() {
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let events = limit.trim().parse::<usize>().unwrap().max(100_000);
    let space = with_agent(GATED);
    let (quiet, noisy) = (space.project("quiet"), space.project("noisy"));
    space.start();
    begin(&noisy, ID, "wait");
    // The kernel keeps only so many events for one who does not listen: all that comes after these,
    // in whatever project, is dropped. Two files, since of the same event twice it keeps one.
    space.signal(Signal::SIGSTOP);
    let noise = ["tick", "tock"].map(|name| noisy.item(name));
    noise.iter().for_each(|path| fs::write(path, "").unwrap());
    for path in noise.iter().cycle().take(events + 1) {
        File::open(path).unwrap();
    }
    for project in [&quiet, &noisy] {
        project.submit(NEXT, "x");
        project.submit(LAST, "x");
    }
    space.signal(Signal::SIGCONT);
    quiet.wait_result(LAST);
    let waits = |view: &Value| view["queue_size"] == 2;
    noisy.wait_view("both wait, while the agent runs", waits);
    noisy.touch("go");
    noisy.wait_result(LAST);
    assert_eq!(ran(&quiet), [NEXT, LAST]);
    assert_eq!(ran(&noisy), [ID, NEXT, LAST]);
}

#[test]
fn more_names_than_are_kept_for_a_busy_project_lose_none_of_its_documents() {
    let (space, project) = alpha(GATED);
    space.start();
    begin(&project, ID, "wait");
    // Names that are looked at and are no jobs: they come at once, between two looks of a worker whose
    // agent runs, and so many that the last ones find no room.
    space.signal(Signal::SIGSTOP);
    for number in 0..4_000 {
        fs::write(project.item(&format!("note-{number}.md")), "").unwrap();
    }
    project.submit(NEXT, "x");
    space.signal(Signal::SIGCONT);
    project.wait_view("it waits", |view| view["queue_size"] == 1);
    project.touch("go");
    project.wait_result(NEXT);
    assert_eq!(ran(&project), [ID, NEXT]);
}
