//! The short life of a job that passes a gate and is sent back once by its check: two starts, two checks, and a claim
//! that says in turn that its agent runs, that it is checked, and that it waits. Killed before each system
//! call, and with each failing once.

use crate::faults::{every_fault, live_with_fault, see_off};
use crate::kill::live_killed;
use crate::space::BOUND;
use crate::world::{Beside, ONE, World, every_kill, interruptions, submit};
use serde_json::json;

/// Fails the first time, and knows that by what neither disk nor daemon can lose.
const CHECK: &str = r#"mkdir "$NOTES.checked" 2> /dev/null && exit 1; exit 0"#;

fn new_world(on_interrupt: &str) -> World {
    let world = World::new(on_interrupt);
    let check = world.space.program("check", CHECK);
    let gate = world.space.program("gate", "exit 0");
    let keys = json!({"check": [check], "check_rounds": 1, "gate": [gate]});
    world.space.set(keys);
    submit(&world.project, ONE);
    world
}

#[test]
fn killed_at_any_call_a_job_is_checked_and_no_agent_is_begun_for_nothing() {
    let named = ["fsync", "renameat", "unlinkat", "clone3", "execve"];
    every_kill("a checked life", &named, one_point);
}

#[test]
fn with_any_call_failing_once_a_job_is_checked_and_no_agent_is_begun_for_nothing() {
    let named = ["fsync", "renameat", "openat"];
    every_fault("a checked life", &named, one_fault);
}

fn one_point(point: usize) -> Option<String> {
    let world = new_world("rerun");
    let stop_when_done = |beside: &Beside<'_>| {
        if beside.wait(BOUND, || beside.is_done(ONE) && beside.is_quiet()) {
            beside.stop();
        }
    };
    let hit = live_killed(&world, point, |_, _| true, stop_when_done);
    world.heal(&[ONE]);
    assert!(check(&world) <= 1, "one break interrupts one start");
    hit
}

fn one_fault(point: usize, kind: usize) -> Option<(String, &'static str)> {
    let world = new_world("fail");
    let attend = |beside: &Beside<'_>, limit| {
        let done = || beside.is_done(ONE) && beside.is_idle();
        beside.wait(limit, || done() || waits(beside));
        see_off(beside, limit, done)
    };
    let (hit, became) = live_with_fault(&world, kind, point, |_, _| true, attend);
    world.heal(&[ONE]);
    assert_eq!(check(&world), 0, "a fault interrupts nothing");
    Some((hit?, became))
}

/// Whether something is put off. A job that its check sends back is due at once, and waits for nothing.
fn waits(beside: &Beside<'_>) -> bool {
    let view = beside.project.view();
    let text = |key: &str| view[key].as_str().unwrap_or_default().to_owned();
    view["hold"].is_object() || text("retry_at") > text("updated_at")
}

/// The job is completed and was proved; its agent was begun once, once more if the check sent it back, and
/// once more for each interruption, of which the number is given.
fn check(world: &World) -> usize {
    world.assert_tidy();
    let result = world.project.result(ONE).expect("the job has a result");
    assert_eq!(result["status"], "completed", "{result}");
    let interrupted = interruptions(&result);
    let checks = result["checks"].as_array().unwrap();
    assert_eq!(checks.last().unwrap()["exit_code"], 0, "{result}");
    let failed = checks.iter().filter(|one| one["exit_code"] != 0).count();
    let starts = world.starts();
    let told = format!("{starts:?}: {result}");
    assert!(starts.last().is_some_and(|last| last.ended), "{told}");
    assert!(failed <= 1, "{told}");
    assert!(starts.len() <= 1 + failed + interrupted, "{told}");
    interrupted
}
