//! `kill -9` before each system call of a short life, then a plain start.

use crate::tracer::{Act, End};
use crate::world::{
    ONE, TWO, World, both_jobs, can_trace, effects, exhaust, report, submit, tally,
};
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
    if !can_trace() {
        return;
    }
    let hit = exhaust(|point| one_point(on_interrupt, point));
    report(&format!(
        "kill points in a life, {on_interrupt}: {}",
        tally(&hit)
    ));
    // A life without these is not the one that is meant.
    for name in [
        "fsync", "renameat", "unlinkat", "write", "openat", "flock", "clone3", "setsid", "execve",
    ] {
        assert!(hit.contains_key(name), "no {name} among {hit:?}");
    }
}

/// Kills at the `point`-th call and sees to it that all is well; the call's name, or `None` if
/// there were fewer.
fn one_point(on_interrupt: &str, point: usize) -> Option<String> {
    let world = World::new(on_interrupt);
    submit(&world.project, ONE);
    let (table, mut count, mut hit) = (effects(), 0, None);
    let end = world.live(
        |_, call| {
            let Some((_, name, _)) = table.iter().find(|row| row.0 == call.number) else {
                return Act::Let;
            };
            count += 1;
            if count != point {
                return Act::Let;
            }
            hit = Some((*name).to_owned());
            Act::Kill
        },
        both_jobs,
    );
    world.tell(format!(
        "{on_interrupt}: killed at call {point}, {hit:?}; {end:?}"
    ));
    match &hit {
        Some(_) => assert_eq!(end, End::Signal(libc::SIGKILL)),
        None => assert_eq!(end, End::Code(0), "the undisturbed life"),
    }
    world.heal(&[ONE, TWO]);
    for result in world.check_both(on_interrupt) {
        world.check_logs(&result);
    }
    hit
}
