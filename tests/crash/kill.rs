//! `kill -9` before each system call of a short life that changes something, then a plain start. What the
//! disk, the processes and the locks are is the same before and after all others, so that a kill there is the
//! kill before the next that counts.

use crate::tracer::{Act, Call, End};
use crate::world::{Beside, ONE, TWO, World, both_jobs, changes, effects, every_kill, submit};
use nix::libc;

#[test]
fn killed_at_any_call_the_interrupted_job_alone_is_begun_again() {
    every_point("rerun");
}

#[test]
fn killed_at_any_call_no_job_is_begun_again_if_the_settings_forbid_it() {
    every_point("fail");
}

fn every_point(on_interrupt: &str) {
    let named = [
        "fsync", "renameat", "unlinkat", "write", "openat", "flock", "clone3", "setsid", "execve",
    ];
    let life = format!("a life, {on_interrupt}");
    every_kill(&life, &named, |point| one_point(on_interrupt, point));
}

/// Kills at the `point`-th call and sees to it that all is well; the call's name, or `None` if
/// there were fewer.
fn one_point(on_interrupt: &str, point: usize) -> Option<String> {
    let world = World::new(on_interrupt);
    submit(&world.project, ONE);
    let hit = live_killed(&world, point, |_, _| true, both_jobs);
    world.heal(&[ONE, TWO]);
    for result in world.check_both(on_interrupt) {
        world.check_logs(&result);
    }
    hit
}

/// Lives until the `point`-th of those calls that change something and that `counts`: the daemon is killed
/// before it. Gives the call's name; `None` if there were fewer, and the life came to its end.
pub fn live_killed(
    world: &World,
    point: usize,
    mut counts: impl FnMut(i32, &Call) -> bool,
    meanwhile: impl FnOnce(&Beside<'_>) + Send,
) -> Option<String> {
    let (table, mut count, mut hit) = (effects(), 0, None);
    let end = world.live(
        |pid, call| {
            let row = table.iter().find(|row| row.0 == call.number);
            let Some((_, name, _)) = row.filter(|row| changes(row.1, call)) else {
                return Act::Let;
            };
            count += usize::from(counts(pid, call));
            if count != point || hit.is_some() {
                return Act::Let;
            }
            hit = Some((*name).to_owned());
            Act::Kill
        },
        meanwhile,
    );
    world.tell(format!("killed at call {point}, {hit:?}; {end:?}"));
    match &hit {
        Some(_) => assert_eq!(end, End::Signal(libc::SIGKILL)),
        None => assert_eq!(end, End::Code(0), "the undisturbed life"),
    }
    hit
}
