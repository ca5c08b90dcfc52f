//! The short life of a job in a git work tree, killed before each system call with which its change is
//! recorded, and with each of them failing once: the snapshot before its claim, and from its agent's end to
//! its result the other one and the patch.

use crate::faults::{every_fault, live_with_fault, see_off};
use crate::kill::live_killed;
use crate::space::BOUND;
use crate::tracer::{Call, text_at};
use crate::world::{ONE, World, every_kill, submit};
use nix::libc;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Begins and ends in the notes as every agent of these tests does, and changes the tree.
const AGENT: &str = r#"
echo "begin $JOB_MONITOR_JOB_ID $JOB_MONITOR_RUN" >> "$NOTES"
cat > /dev/null
echo after > kept
echo new > new
echo "end $JOB_MONITOR_JOB_ID $JOB_MONITOR_RUN" >> "$NOTES""#;
const REPOSITORY: &str = "git init -q -b main; echo /jobs/ > .git/info/exclude; echo before > kept; git add kept; \
    git -c user.name=a -c user.email=a@example.org commit -qm first; echo staged > kept; git add kept; echo dirty > kept";
/// What the user has in the repository.
const KEPT: &str = "git ls-files -s; git for-each-ref; git stash list; cat .git/HEAD";

fn sh(dir: &Path, script: &str) -> String {
    let mut command = Command::new("sh");
    command.args(["-euc", script]).current_dir(dir);
    command.env("HOME", dir).env("GIT_CONFIG_NOSYSTEM", "1");
    let ran = command.output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{script}: {said}");
    String::from_utf8(ran.stdout).unwrap()
}

fn new_world(on_interrupt: &str) -> (World, String) {
    let world = World::on(on_interrupt, |root| drop(sh(root, REPOSITORY)));
    world.space.plain_agent(AGENT);
    submit(&world.project, ONE);
    let kept = sh(&world.project.path, KEPT);
    (world, kept)
}

/// Which part of the life it is: 0 before the first program, 1 while the first snapshot is taken, 2 from the
/// claim on, 3 once the agent runs, 4 from the next program on, which is git, 5 from the result on.
#[derive(Default)]
struct Part(AtomicU32);

impl Part {
    /// Whether a call is one of those that record the change.
    fn counts(&self, pid: i32, call: &Call) -> bool {
        let part = self.0.load(Ordering::SeqCst);
        let to = match call.number {
            libc::SYS_renameat => text_at(pid, call.args[3]),
            _ => Vec::new(),
        };
        let next = match call.number {
            libc::SYS_execve if part == 0 || part == 2 || part == 3 => part + 1,
            libc::SYS_renameat if part == 1 && to.ends_with(b".claim") => 2,
            libc::SYS_renameat
                if part == 4 && to.ends_with(b".json") && to.starts_with(b"job-") =>
            {
                5
            }
            _ => part,
        };
        self.0.store(next, Ordering::SeqCst);
        matches!(part, 1 | 4) || matches!(next, 1 | 4)
    }
}

#[test]
fn killed_at_any_call_a_change_is_recorded_all_the_same() {
    // Of each there are several: what happens once is passed over where lives differ by a wait.
    let named = ["openat", "clone3", "execve"];
    every_kill("a recorded change", &named, one_point);
}

#[test]
fn with_any_call_failing_once_a_change_is_recorded_or_left_out() {
    every_fault("a recorded change", &["openat", "execve"], one_fault);
}

fn one_point(point: usize) -> Option<String> {
    let (world, kept) = new_world("rerun");
    let part = Part::default();
    let counts = |pid, call: &Call| part.counts(pid, call);
    let hit = live_killed(&world, point, counts, |beside| {
        if beside.wait(BOUND, || beside.is_done(ONE) && beside.is_quiet()) {
            beside.stop();
        }
    });
    world.heal(&[ONE]);
    assert!(check(&world, &kept), "its change is recorded");
    hit
}

fn one_fault(point: usize, kind: usize) -> Option<(String, &'static str)> {
    let (world, kept) = new_world("fail");
    let part = Part::default();
    let counts = |pid, call: &Call| part.counts(pid, call);
    let (hit, became) = live_with_fault(&world, kind, point, counts, |beside, limit| {
        see_off(beside, limit, || beside.is_done(ONE) && beside.is_idle())
    });
    world.heal(&[ONE]);
    check(&world, &kept);
    Some((hit?, became))
}

/// The job is completed, and nothing of the user's in the repository has changed. Whether its change is
/// recorded, of which the patch takes the tree back to what it was.
fn check(world: &World, kept: &str) -> bool {
    world.assert_tidy();
    let (result, path) = (world.check_result(ONE), &world.project.path);
    assert_eq!(result["status"], "completed", "{result}");
    assert_eq!(sh(path, KEPT), *kept, "the user's own");
    let tree = || sh(path, "cat kept; [ ! -e new ] || cat new");
    assert_eq!(tree(), "after\nnew\n");
    let Some(patch) = result["git"]["patch"].as_str() else {
        let patch = path.join(format!("jobs/logs/{ONE}.patch"));
        assert!(!patch.exists(), "{result}");
        return false;
    };
    sh(path, &format!("git apply -R {patch}"));
    let patch = fs::read_to_string(path.join(patch)).unwrap();
    assert_eq!(tree(), "dirty\n", "{patch}");
    true
}
