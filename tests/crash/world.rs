//! The short life that is broken at every point: a document that lies there when the daemon
//! starts, another that comes while the first one's agent runs, and a stop when both are done.
//! And what must be true after a life that was broken, however.

use crate::space::{BOUND, Project, Space, attempts, lacks, wait_until};
use crate::tracer::{self, Act, Call, End};
use nix::libc::{
    self, EAGAIN, EDQUOT, EIO, EMFILE, ENOENT, ENOLCK, ENOMEM, ENOSPC, EPERM, ETXTBSY,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

pub const ONE: &str = "job-20260101-120000-one";
pub const TWO: &str = "job-20260101-120001-two";
/// The text of every job.
pub const TEXT: &str = "x";

/// Notes its beginning and its end, each in one write, where neither disk nor daemon can lose
/// it; says when it finds itself unclaimed. The first job's takes long enough to be looked at
/// while it runs, and leaves a daemon of its own.
const AGENT: &str = r#"
[ -s "jobs/state/$JOB_MONITOR_JOB_ID.claim" ] || echo "unclaimed $JOB_MONITOR_JOB_ID $JOB_MONITOR_RUN" >> "$NOTES"
echo "begin $JOB_MONITOR_JOB_ID $JOB_MONITOR_RUN" >> "$NOTES"
cat > /dev/null
echo some words
case $JOB_MONITOR_JOB_ID in
*-one) setsid sleep 600 < /dev/null > /dev/null 2>&1 & sleep 0.06 ;;
esac
echo "end $JOB_MONITOR_JOB_ID $JOB_MONITOR_RUN" >> "$NOTES""#;

/// So many lives at a time: each waits most of its time.
const ABREAST: usize = 4;

/// A space with one project and the agent above.
pub struct World {
    pub space: Space,
    pub project: Project,
    /// How the broken life ended and where, for a person who looks at a failure.
    story: Mutex<String>,
}

/// One start of an agent, as the agent noted it.
#[derive(Clone, Debug)]
pub struct Start {
    pub id: String,
    pub run: String,
    pub ended: bool,
}

/// Submits a document that survives a power cut from here on.
pub fn submit(project: &Project, id: &str) {
    let temporary = project.item(&format!(".{id}.tmp"));
    let mut file = File::create(&temporary).unwrap();
    file.write_all(TEXT.as_bytes()).unwrap();
    file.sync_all().unwrap();
    drop(file);
    fs::rename(temporary, project.item(&format!("{id}.md"))).unwrap();
    File::open(project.item("")).unwrap().sync_all().unwrap();
}

impl World {
    pub fn new(on_interrupt: &str) -> World {
        World::on(on_interrupt, |_| {})
    }

    /// A world whose project's directory is prepared first: mounted, say.
    pub fn on(on_interrupt: &str, prepare: impl FnOnce(&Path)) -> World {
        let space = Space::new();
        space.env("NOTES", space.root().join("notes").to_str().unwrap());
        // With a setting of its own, the daemon does not begin anew, which the tracer would not follow.
        space.env("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0");
        space.plain_agent(AGENT);
        space.set(json!({"on_interrupt": on_interrupt}));
        // A job whose claim cannot be read is known by its project's name and its own.
        let name = space.root().file_name().unwrap().to_str().unwrap();
        let name = name.to_owned();
        let root = space.root().join(&name);
        fs::create_dir(&root).unwrap();
        prepare(&root);
        World {
            project: space.project(&name),
            space,
            story: Mutex::default(),
        }
    }

    /// What is printed if the test fails from here on.
    pub fn tell(&self, story: String) {
        *self.story.lock().unwrap_or_else(PoisonError::into_inner) = story;
    }

    /// Whether the document was ever there.
    pub fn has(&self, id: &str) -> bool {
        self.project.item(&format!("{id}.md")).exists()
    }

    pub fn starts(&self) -> Vec<Start> {
        let notes = fs::read_to_string(self.space.root().join("notes")).unwrap_or_default();
        let mut starts: Vec<Start> = Vec::new();
        for line in notes.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let [what, id, run] = words[..] else {
                panic!("an agent noted {line:?}");
            };
            match what {
                "begin" => starts.push(Start {
                    id: id.to_owned(),
                    run: run.to_owned(),
                    ended: false,
                }),
                "end" => {
                    let last = starts.last_mut().expect("an end has a beginning");
                    assert_eq!(last.run, run, "two agents at once: {notes}");
                    last.ended = true;
                }
                _ => panic!("an agent ran without a claim: {notes}"),
            }
        }
        starts
    }

    pub fn starts_of(&self, id: &str) -> usize {
        self.starts().iter().filter(|start| start.id == id).count()
    }

    /// Lives the life under the tracer. `meanwhile` runs beside it in a thread, with the daemon's
    /// pid (0 while it has none) and whether the life is over.
    pub fn live(
        &self,
        mut decide: impl FnMut(i32, &Call) -> Act,
        meanwhile: impl FnOnce(&Beside<'_>) + Send,
    ) -> End {
        let log = File::create(self.space.root().join("traced.log")).unwrap();
        let mut command = self.space.command(&["daemon"]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(log);
        let (pid, over) = (AtomicUsize::new(0), AtomicBool::new(false));
        let beside = Beside {
            project: &self.project,
            notes: &self.space.root().join("notes"),
            pid: &pid,
            over: &over,
        };
        std::thread::scope(|scope| {
            let helper = scope.spawn(|| meanwhile(&beside));
            // The daemon's own calls begin where it prepares itself; before, the loader's are.
            let mut begun = false;
            let end = tracer::run(&mut command, |leader, call| {
                pid.store(leader as usize, Ordering::SeqCst);
                begun |= call.number == libc::SYS_prctl
                    && call.args[0] == libc::PR_SET_CHILD_SUBREAPER as u64;
                if begun {
                    decide(leader, call)
                } else {
                    Act::Let
                }
            });
            over.store(true, Ordering::SeqCst);
            if let Err(panic) = helper.join() {
                std::panic::resume_unwind(panic);
            }
            end.expect("the daemon can be traced")
        })
    }

    /// What the traced daemon wrote to standard error.
    pub fn traced_log(&self) -> String {
        let bytes = fs::read(self.space.root().join("traced.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Starts the daemon anew, as it is, and waits until the jobs are done and it has fallen quiet.
    #[track_caller]
    pub fn heal(&self, ids: &[&str]) {
        for id in ids {
            if !self.has(id) {
                submit(&self.project, id);
            }
        }
        self.space.start();
        for id in ids {
            self.project.wait_result(id);
        }
        self.wait_quiet();
        assert_eq!(self.space.stop(), 0, "a stop is no failure");
        self.space.assert_no_survivor();
    }

    #[track_caller]
    pub fn wait_quiet(&self) {
        self.project.wait_view("nothing to do", |view| {
            view["queue_size"] == 0 && view["is_processing"] == false
        });
        wait_until("claims and marks to be swept", || {
            self.state_names().is_empty()
        });
    }

    /// What is in `state/` besides what belongs there.
    pub fn state_names(&self) -> Vec<String> {
        let mut names = self.project.names(&self.project.state(""));
        names.retain(|name| !matches!(name.as_str(), ".lock" | "queue_state.json"));
        names.retain(|name| !name.ends_with(".tmp"));
        names
    }

    /// What must be true of files whatever happened: each is whole. Temporary ones of a daemon that was killed
    /// may lie about: nobody takes them for anything.
    #[track_caller]
    pub fn assert_tidy(&self) {
        let dirs = ["items", "results", "state", "logs"]
            .map(|part| self.project.path.join("jobs").join(part));
        for dir in dirs
            .iter()
            .chain([&self.space.config(), &self.space.state()])
        {
            for name in self.project.names(dir) {
                assert_ne!(name, ".poke", "left in {}", dir.display());
                if name.ends_with(".json") {
                    let bytes = fs::read(dir.join(&name)).unwrap();
                    let parsed: Result<Value, _> = serde_json::from_slice(&bytes);
                    assert!(parsed.is_ok(), "{name} is not whole: {parsed:?}");
                }
            }
        }
        let scratch = self.project.names(&self.space.root().join("tmp"));
        assert!(scratch.is_empty(), "temporary files were left: {scratch:?}");
    }

    /// What must be true of a finished job: `completed` only if its agent came to its end, begun
    /// once more than it was interrupted at most.
    #[track_caller]
    pub fn check_result(&self, id: &str) -> Value {
        let result = self.project.result(id).expect("the job has a result");
        let mut starts = self.starts();
        starts.retain(|start| start.id == id);
        let interrupted = interruptions(&result);
        if result["status"] == "completed" {
            let last = starts.last().expect("a completed job was begun");
            assert!(last.ended, "its agent did not come to its end: {result}");
            assert!(starts.len() <= interrupted + 1, "{starts:?}: {result}");
        } else {
            assert!(starts.len() <= interrupted.max(1), "{starts:?}: {result}");
        }
        let attempts = attempts(&result).len();
        assert!(starts.len() <= attempts, "{starts:?}: {result}");
        result
    }

    /// Its logs are where the result says, the text that ran among them.
    #[track_caller]
    pub fn check_logs(&self, result: &Value) {
        for log in result["logs"].as_array().unwrap() {
            let log = log.as_str().unwrap();
            let text = fs::read_to_string(self.project.path.join(log));
            assert!(text.is_ok(), "{log} is not there: {result}");
            if log.ends_with(".md") {
                assert_eq!(text.unwrap(), TEXT, "the text that ran");
            }
        }
    }

    /// What must be true of the two jobs after one break in their lives.
    #[track_caller]
    pub fn check_both(&self, on_interrupt: &str) -> [Value; 2] {
        self.assert_tidy();
        let results = [ONE, TWO].map(|id| self.check_result(id));
        let repeats = |id: &str| self.starts_of(id).saturating_sub(1);
        let again = repeats(ONE) + repeats(TWO);
        let mut failed = results.iter().filter(|one| one["status"] != "completed");
        if on_interrupt == "rerun" {
            assert!(again <= 1, "one break interrupts one job");
            assert_eq!(failed.next(), None);
        } else {
            assert_eq!(again, 0, "begun again");
            if let Some(first) = failed.next() {
                assert_eq!(first["error_kind"], "interrupted", "{first}");
            }
            assert_eq!(failed.next(), None, "one break interrupts one job");
        }
        results
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let story = self.story.lock().unwrap_or_else(PoisonError::into_inner);
            let notes = fs::read_to_string(self.space.root().join("notes")).unwrap_or_default();
            eprintln!(
                "--- {story}\n--- the traced daemon's log\n{}",
                self.traced_log()
            );
            eprintln!("--- the agents' notes\n{notes}");
        }
    }
}

/// How many of a job's attempts were interrupted.
pub fn interruptions(result: &Value) -> usize {
    let attempts = attempts(result).iter();
    attempts
        .filter(|one| one["error_kind"] == "interrupted")
        .count()
}

/// What the thread beside a life sees of it.
pub struct Beside<'a> {
    pub project: &'a Project,
    notes: &'a Path,
    pid: &'a AtomicUsize,
    over: &'a AtomicBool,
}

impl Beside<'_> {
    /// Waits for a condition; `false` if the life is over before, or `limit` is.
    pub fn wait(&self, limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
        let began = Instant::now();
        while began.elapsed() < limit && !self.over.load(Ordering::SeqCst) {
            if holds() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        false
    }

    pub fn has_begun(&self, id: &str) -> bool {
        let notes = fs::read_to_string(self.notes).unwrap_or_default();
        notes.contains(&format!("begin {id} "))
    }

    pub fn is_done(&self, id: &str) -> bool {
        self.project.results(&format!("{id}.json")).exists()
    }

    pub fn is_quiet(&self) -> bool {
        let names = self.project.names(&self.project.state(""));
        self.is_idle() && !names.iter().any(|name| name.ends_with(".claim"))
    }

    /// As the view says, whatever else lies there.
    pub fn is_idle(&self) -> bool {
        let view = self.project.view();
        view["queue_size"] == 0 && view["is_processing"] == false
    }

    /// Asks the daemon to end, if it still runs.
    pub fn stop(&self) {
        let pid = self.pid.load(Ordering::SeqCst);
        if pid != 0 && !self.over.load(Ordering::SeqCst) {
            let pid = Pid::from_raw(i32::try_from(pid).unwrap());
            // It may be ending by itself just now.
            let _ = kill(pid, Signal::SIGTERM);
        }
    }
}

/// A system call's number, its name, and how it fails.
pub type Effect = (libc::c_long, &'static str, &'static [i32]);

/// The calls that change something, wait for something, or get something that may run out, with
/// the ways in which they fail; calls that only look are no different before and after.
pub fn effects() -> Vec<Effect> {
    let mut table: Vec<Effect> = vec![
        (libc::SYS_openat, "openat", &[EMFILE, EIO, ENOSPC]),
        (libc::SYS_write, "write", &[ENOSPC, EIO, EDQUOT]),
        (libc::SYS_fsync, "fsync", &[EIO, ENOSPC, EDQUOT]),
        (libc::SYS_ftruncate, "ftruncate", &[EIO]),
        (libc::SYS_renameat, "renameat", &[ENOSPC, EIO, EDQUOT]),
        (libc::SYS_renameat2, "renameat2", &[ENOSPC, EIO]),
        (libc::SYS_unlinkat, "unlinkat", &[EIO]),
        (libc::SYS_mkdirat, "mkdirat", &[ENOSPC, EDQUOT]),
        (libc::SYS_close, "close", &[]),
        (libc::SYS_clone, "clone", &[EAGAIN, ENOMEM]),
        (libc::SYS_clone3, "clone3", &[EAGAIN, ENOMEM]),
        (libc::SYS_pidfd_open, "pidfd_open", &[EMFILE, ENOMEM]),
        (libc::SYS_pidfd_send_signal, "pidfd_send_signal", &[]),
        (libc::SYS_wait4, "wait4", &[]),
        (libc::SYS_waitid, "waitid", &[]),
        (libc::SYS_kill, "kill", &[]),
        (libc::SYS_flock, "flock", &[ENOLCK]),
        (libc::SYS_fcntl, "fcntl", &[EIO]),
        (libc::SYS_memfd_create, "memfd_create", &[EMFILE, ENOMEM]),
        (libc::SYS_getdents64, "getdents64", &[EIO]),
        (libc::SYS_inotify_add_watch, "inotify_add_watch", &[ENOSPC]),
        (libc::SYS_sendto, "sendto", &[]),
        // Those of a child between its start and its exec.
        (libc::SYS_setsid, "setsid", &[EPERM]),
        (libc::SYS_dup3, "dup3", &[EMFILE]),
        (libc::SYS_chdir, "chdir", &[EIO, ENOENT]),
        (libc::SYS_execve, "execve", &[EIO, ENOMEM, ETXTBSY]),
    ];
    #[cfg(target_arch = "x86_64")]
    table.extend([
        (libc::SYS_poll, "poll", &[ENOMEM][..]),
        (libc::SYS_mkdir, "mkdir", &[ENOSPC, EDQUOT]),
        (libc::SYS_unlink, "unlink", &[EIO]),
        (libc::SYS_rmdir, "rmdir", &[EIO]),
        (libc::SYS_rename, "rename", &[EIO]),
        (libc::SYS_vfork, "vfork", &[EAGAIN]),
        (libc::SYS_dup2, "dup2", &[EMFILE]),
    ]);
    table
}

/// Whether a call changes something that outlasts the process, signals somebody, or waits. Others only look, or
/// change what dies with their process: before and after them a kill is the same.
pub fn changes(name: &str, call: &Call) -> bool {
    match name {
        "openat" => call.args[2] & libc::O_CREAT as u64 != 0,
        "close" | "fcntl" | "getdents64" | "pidfd_open" | "memfd_create" => false,
        "inotify_add_watch" | "chdir" | "dup2" | "dup3" => false,
        _ => true,
    }
}

/// Kills a life at each point that a trial has. The calls named must be among them.
pub fn every_kill(of: &str, named: &[&str], trial: impl Fn(usize) -> Option<String> + Sync) {
    if !can_trace() {
        return;
    }
    let hit = exhaust_by(ABREAST, trial);
    report_points(&format!("kill points in {of}"), named, &hit);
}

/// Says where a life was broken. One without these calls is not the one that is meant.
pub fn report_points(of: &str, named: &[&str], hit: &BTreeMap<String, usize>) {
    let names: Vec<String> = hit.iter().map(|(name, n)| format!("{n} {name}")).collect();
    let sum = hit.values().sum::<usize>();
    report(&format!("{of}: {sum} ({})", names.join(", ")));
    for name in named {
        assert!(hit.contains_key(*name), "no {name} among {hit:?}");
    }
}

/// Tries points 1, 2, … until a trial reports (with `None`) that its life was over before; so many
/// at a time. Gives how many points of each name were hit.
pub fn exhaust_by(
    abreast: usize,
    trial: impl Fn(usize) -> Option<String> + Sync,
) -> BTreeMap<String, usize> {
    let (next, over) = (AtomicUsize::new(1), AtomicBool::new(false));
    let hit: Mutex<BTreeMap<String, usize>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..abreast {
            scope.spawn(|| {
                let _others = StopOthers(&over);
                while !over.load(Ordering::SeqCst) {
                    match trial(next.fetch_add(1, Ordering::SeqCst)) {
                        Some(name) => {
                            *hit.lock().unwrap().entry(name).or_default() += 1;
                        }
                        None => over.store(true, Ordering::SeqCst),
                    }
                }
            });
        }
    });
    hit.into_inner().unwrap()
}

/// After a failure there is nothing to be won by trying on.
struct StopOthers<'a>(&'a AtomicBool);

impl Drop for StopOthers<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::SeqCst);
        }
    }
}

/// A line for people, which the test runner does not swallow.
pub fn report(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Whether calls can be traced; where they cannot, the test is skipped, unless that is forbidden.
pub fn can_trace() -> bool {
    let Some(why) = tracer::lacking() else {
        return true;
    };
    lacks("strace", &why);
    false
}

/// The first life: both jobs, then a stop.
pub fn both_jobs(beside: &Beside<'_>) {
    if beside.wait(BOUND, || beside.has_begun(ONE)) {
        submit(beside.project, TWO);
        let done = || beside.is_done(ONE) && beside.is_done(TWO) && beside.is_quiet();
        if beside.wait(BOUND, done) {
            beside.stop();
        }
    }
}
