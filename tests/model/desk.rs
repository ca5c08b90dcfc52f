//! Holds by themselves: every sequence to a stated depth.

use job_monitor::agent::Fault;
use job_monitor::holds::{Entrant, Hold, Holds};
use job_monitor::job::ErrorKind;
use job_monitor::project::{AgentSpec, Protocol};
use job_monitor::time::Wall;
use std::collections::HashSet;
use std::time::Duration;

const START: Wall = Wall(1_795_173_825_000);
/// No pause is longer, whatever an agent says of its limit.
const LONGEST: Duration = Duration::from_secs(35 * 24 * 3600 + 6);

#[derive(Clone, Copy, Debug)]
enum Act {
    /// An attempt, begun so many seconds ago, meets a fault that calls for a hold; a limit ends so
    /// many seconds from now.
    Fault(&'static str, ErrorKind, Option<i64>, u64),
    /// The service answers an attempt that began so many seconds ago.
    Answered(&'static str, u64),
    /// A job wants to start; it does if it may, and a probe comes to no end that says anything.
    Try(&'static str),
    Pass(u64),
}

fn acts() -> Vec<Act> {
    use ErrorKind::{AgentMissing, Network, NotAuthenticated, UnsafeEnv, UsageLimit};
    let mut acts = Vec::new();
    for agent in ["a", "b"] {
        for ends in [None, Some(-5), Some(3600), Some(40 * 86_400)] {
            acts.push(Act::Fault(agent, UsageLimit, ends, 0));
        }
        for kind in [NotAuthenticated, AgentMissing, UnsafeEnv, Network] {
            acts.push(Act::Fault(agent, kind, None, 0));
        }
        acts.push(Act::Fault(agent, Network, None, 100));
        acts.extend([Act::Answered(agent, 0), Act::Answered(agent, 60)]);
        acts.push(Act::Try(agent));
    }
    acts.extend([60, 1800, 3600].map(Act::Pass));
    acts
}

/// Puts a hold as the worker of project `p` does after an attempt that began then.
pub fn fail(holds: &mut Holds, agent: &str, fault: &Fault, began: Wall, now: Wall) {
    let agent = AgentSpec::new(agent, Protocol::Claude);
    let began = (fault.kind != ErrorKind::UnsafeEnv).then_some(began);
    holds.fault(("p", &agent), fault, began, &[], now);
}

pub fn entrant(agent: &str) -> Entrant<'_> {
    ("p", agent)
}

fn apply(holds: &mut Holds, now: &mut Wall, act: Act) {
    let ago = |secs: u64, now: Wall| Wall(now.0 - secs as i64 * 1000);
    match act {
        Act::Fault(agent, kind, ends, secs) => {
            let fault = Fault {
                resets_at: ends.map(|secs| Wall(now.0 + secs * 1000)),
                ..Fault::new(kind, "why")
            };
            fail(holds, agent, &fault, ago(secs, *now), *now);
        }
        Act::Answered(agent, secs) => drop(holds.answered(("p", agent), ago(secs, *now))),
        Act::Try(agent) => {
            if holds.closed(entrant(agent), true, *now).is_none() {
                holds.begin_probe(entrant(agent), *now);
                holds.probe_started("p");
                holds.end_probe("p", true, *now);
            }
        }
        Act::Pass(secs) => *now = now.plus(Duration::from_secs(secs)),
    }
}

fn check(holds: &Holds, now: Wall) -> Result<(), String> {
    for agent in ["a", "b", "never held"] {
        let is_mine = |hold: &Hold| hold.agent.as_deref().is_none_or(|held| held == agent);
        let is_held = holds.list.iter().any(is_mine);
        let closed_in = |holds: &Holds, at: Wall| {
            let closed = holds.closed(entrant(agent), true, at);
            closed.map(|(_, until)| until)
        };
        let closed_at = |at: Wall| closed_in(holds, at);
        match closed_at(now) {
            None if !is_held => {}
            Some(None) => return Err(format!("{agent} is held for ever")),
            Some(Some(at)) => {
                if at <= now || at.since(now) > LONGEST {
                    return Err(format!("{agent} is to ask again at {at}"));
                }
                if closed_at(Wall(at.0 - 1)).is_none() {
                    return Err(format!("{agent} was told to wait for too long"));
                }
                if let Some(again) = closed_at(at) {
                    return Err(format!("{agent} asks again and is told {again:?}"));
                }
            }
            // Its start is a probe, which nobody else may make meanwhile.
            None => {
                let mut later = holds.clone();
                later.begin_probe(entrant(agent), now);
                if closed_in(&later, now) != Some(None) {
                    return Err(format!("{agent} may probe twice"));
                }
                later.probe_started("p");
                later.end_probe("p", true, now);
                let files = |hold: &Hold| hold.before_start;
                if closed_in(&later, now).is_none() && !holds.list.iter().any(files) {
                    return Err(format!("{agent} may probe again at once"));
                }
            }
        }
        // Whoever is answered after everything that held it is free.
        let mut working = holds.clone();
        working.answered(("p", agent), now);
        if closed_in(&working, now).is_some() {
            return Err(format!("{agent} is answered and held"));
        }
    }
    Ok(())
}

#[test]
fn no_hold_lasts_for_ever_and_none_is_passed_by() {
    let mut met = HashSet::new();
    let mut states = vec![(Holds::default(), START, Vec::new())];
    let mut steps = 0;
    for _ in 0..4 {
        let mut following = Vec::new();
        for (holds, now, path) in states {
            for act in acts() {
                let (mut holds, mut now, mut path) = (holds.clone(), now, path.clone());
                apply(&mut holds, &mut now, act);
                path.push(act);
                steps += 1;
                if let Err(wrong) = check(&holds, now) {
                    panic!("{wrong}\nafter {path:?}");
                }
                if met.insert(format!("{holds:?}{now:?}")) {
                    following.push((holds, now, path));
                }
            }
        }
        states = following;
    }
    println!("{} states of holds in {steps} steps", met.len());
}
