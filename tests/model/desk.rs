//! Holds and the roster, each by itself: every sequence to a stated depth.

use job_monitor::holds::{Gate, Holds};
use job_monitor::job::ErrorKind;
use job_monitor::project::{Layout, Project};
use job_monitor::roster;
use job_monitor::time::Wall;
use std::collections::HashSet;
use std::time::Duration;

const START: Wall = Wall(1_795_173_825_000);
/// No pause is longer, whatever an agent says of its limit.
const LONGEST: Duration = Duration::from_secs(35 * 24 * 3600);

#[derive(Clone, Copy, Debug)]
enum Act {
    /// An agent meets a fault that calls for a hold; a limit ends so many seconds from now.
    Fault(&'static str, ErrorKind, Option<i64>),
    /// A start of the agent, begun so long ago, comes to a good end.
    Works(&'static str, Duration),
    Ask(&'static str),
    Pass(Duration),
    /// Program and credentials file are as they should be.
    Mend,
}

fn acts() -> Vec<Act> {
    let mut acts = vec![Act::Mend];
    for agent in ["a", "b"] {
        let limit = |ends| Act::Fault(agent, ErrorKind::UsageLimit, ends);
        acts.extend([None, Some(-5), Some(3600), Some(40 * 86_400)].map(limit));
        let others = [
            ErrorKind::NotAuthenticated,
            ErrorKind::AgentMissing,
            ErrorKind::UnsafeEnv,
        ];
        acts.extend(others.map(|kind| Act::Fault(agent, kind, None)));
        acts.push(Act::Works(agent, Duration::ZERO));
        acts.push(Act::Works(agent, Duration::from_secs(60)));
        acts.push(Act::Ask(agent));
    }
    acts.extend([60, 1800, 3600].map(|secs| Act::Pass(Duration::from_secs(secs))));
    acts
}

fn apply(holds: &mut Holds, now: &mut Wall, act: Act) {
    match act {
        Act::Fault(agent, kind, ends) => {
            let ends = ends.map(|secs| Wall(now.0 + secs * 1000));
            holds.add(agent, kind, "why", ends, *now);
        }
        Act::Works(agent, ago) => {
            holds.works(agent, Wall(now.0 - ago.as_millis() as i64));
        }
        Act::Ask(agent) => {
            ask(holds, agent, *now);
        }
        Act::Pass(pause) => *now = now.plus(pause),
        Act::Mend => drop(holds.take(|hold| hold.is_of_files())),
    }
}

/// As the board asks.
fn ask(holds: &mut Holds, agent: &str, now: Wall) -> Gate {
    holds.expire(now);
    holds.gate(agent, now)
}

fn check(holds: &Holds, now: Wall) -> Result<(), String> {
    let mut names: Vec<_> = holds.list.iter().map(|hold| &hold.agent).collect();
    names.sort();
    names.dedup();
    if names.len() < holds.list.len() {
        return Err("two holds on one agent".to_owned());
    }
    for agent in ["a", "b", "never held"] {
        let mut later = holds.clone();
        let gate = ask(&mut later, agent, now);
        let mine = |hold: &&job_monitor::holds::Hold| {
            hold.agent.as_deref().is_none_or(|held| held == agent)
        };
        let in_force: Vec<_> = later.list.iter().filter(mine).collect();
        match gate {
            Gate::Open if in_force.is_empty() => {}
            Gate::Open => return Err(format!("{agent} is free under {in_force:?}")),
            Gate::Closed(None) => return Err(format!("{agent} is held for ever")),
            Gate::Closed(Some(at)) => {
                if at <= now || at.since(now) > LONGEST {
                    return Err(format!("{agent} is to ask again at {at}"));
                }
                let before = Wall(at.0 - 1);
                if !matches!(ask(&mut later.clone(), agent, before), Gate::Closed(_)) {
                    return Err(format!("{agent} was told to wait for too long"));
                }
                if let Gate::Closed(again) = ask(&mut later, agent, at) {
                    return Err(format!("{agent} asks again and is told {again:?}"));
                }
            }
            Gate::Probe => {
                let limits = in_force.iter().any(|hold| hold.until.is_some());
                if limits || in_force.is_empty() {
                    return Err(format!("{agent} probes under {in_force:?}"));
                }
                if !matches!(ask(&mut later, agent, now), Gate::Closed(_)) {
                    return Err(format!("{agent} may probe twice"));
                }
            }
        }
        // Whoever did its work under everything that held it is free.
        let mut working = holds.clone();
        working.works(agent, now);
        if ask(&mut working, agent, now) != Gate::Open {
            return Err(format!("{agent} works and is held"));
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

/// All lists of projects with different names, of two names and two places.
fn lists() -> Vec<Vec<Project>> {
    let project = |name: &str, path: &str| Project {
        name: name.into(),
        path: path.into(),
        layout: Layout::Jobs,
    };
    let mut lists = vec![vec![]];
    let names = ["p", "q", "r"];
    let places = ["/1", "/2", "/3"];
    for name in names {
        let mut longer = Vec::new();
        for list in &lists {
            longer.push(list.clone());
            for place in places {
                let free = |other: &Project| other.path != std::path::Path::new(place);
                if list.iter().all(free) {
                    longer.push([&list[..], &[project(name, place)]].concat());
                }
            }
        }
        lists = longer;
    }
    lists
}

#[test]
fn workers_come_to_what_the_registry_says_and_never_share_a_name_or_a_place() {
    let lists = lists();
    for before in &lists {
        for wanted in &lists {
            let mut serving = before.clone();
            // Workers leave one after the other, and in whatever order their jobs end.
            for round in 0.. {
                assert!(round < 10, "{before:?} does not become {wanted:?}");
                let refs: Vec<&Project> = serving.iter().collect();
                let wish: Vec<&Project> = wanted.iter().collect();
                let changes = roster::changes(&refs, &wish);
                let mut all: Vec<usize> = [&changes.keep[..], &changes.drain].concat();
                all.sort_unstable();
                assert!(
                    all.into_iter().eq(0..serving.len()),
                    "a worker is forgotten"
                );
                for &at in &changes.keep {
                    assert!(wanted.contains(&serving[at]));
                }
                if changes.drain.is_empty() && changes.start.is_empty() {
                    break;
                }
                let started = changes.start.iter().map(|&at| wanted[at].clone());
                let mut next = serving.clone();
                next.extend(started);
                for (at, one) in next.iter().enumerate() {
                    for other in &next[at + 1..] {
                        let apart = one.name != other.name && one.path != other.path;
                        assert!(apart, "{one:?} beside {other:?}");
                    }
                }
                if let Some(&leaving) = changes.drain.get(round % changes.drain.len().max(1)) {
                    next.remove(leaving);
                }
                serving = next;
            }
            let same = serving.iter().all(|project| wanted.contains(project));
            assert!(
                same && serving.len() == wanted.len(),
                "{before:?} became {serving:?}"
            );
        }
    }
}
