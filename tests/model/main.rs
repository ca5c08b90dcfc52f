//! The decisions of the program (`decide`, `holds`) against a model of the spool: every
//! sequence of arrivals, edits, marks, outcomes, faults and crashes between durable steps to a
//! stated depth, and random ones far beyond it.
//!
//! `world` is what is outside: disk, agent, check, clock, people. `daemon` performs on it the steps that the
//! program's own `decide` gives, and decides nothing. Each effect of the daemon is a place to be killed at,
//! to fail at, and to fail at although it happened. In every world that is
//! reached: one result for each job and never another one; no second start but those that SPEC 7
//! allows; never two agents; first things first; and when nothing disturbs any more, every job
//! comes to its result and nothing is left over.
//!
//! The depths are those of the calls of `explore` below: six steps for one job from nothing, four
//! for one that runs or waits between two starts, and for two jobs. `JOB_MONITOR_MODEL_DEEPER=n`
//! goes n steps deeper, each some six times the work. `JOB_MONITOR_FUZZ_SECS=n` walks at random for
//! n seconds in each of five settings; a failure is shortened and told with its seed, with which
//! `JOB_MONITOR_FUZZ_SEED` begins again.

mod daemon;
mod desk;
mod world;

use job_monitor::project::{OnInterrupt, Protocol};
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::{Duration, Instant};
use world::{Act, Fate, Said, Setting, World};

/// The way that led to a world, last step first.
struct Path {
    act: Act,
    before: Option<Rc<Path>>,
}

fn told(path: &Option<Rc<Path>>) -> Vec<Act> {
    let mut acts = Vec::new();
    let mut at = path.as_deref();
    while let Some(path) = at {
        acts.push(path.act);
        at = path.before.as_deref();
    }
    acts.reverse();
    acts
}

/// Does something in a world that may fail or panic.
fn guarded(what: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(what)).unwrap_or_else(|_| Err("it panicked".to_owned()))
}

/// Goes one step, and looks whether all is as it must be.
fn go(world: &World, act: Act) -> Result<World, String> {
    let mut next = world.clone();
    guarded(|| {
        next.apply(act);
        next.wrong.first().cloned().map_or(Ok(()), Err)
    })?;
    Ok(next)
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Tries everything that can happen in so many steps from where `root` leads. Worlds that were
/// met before are not gone on from: what follows from them is known.
///
/// Two of the five ways are gone to the full `depth`, the others one step less, for time's sake:
/// they differ only in what follows an interruption.
fn explore(setting: Setting, root: &[&[Act]], depth: u64) {
    let full = [WAYS[0], WAYS[3]].contains(&(setting.protocol, setting.on_interrupt));
    let depth = depth - u64::from(!full) + variable("JOB_MONITOR_MODEL_DEEPER").unwrap_or(0);
    let root = root
        .concat()
        .into_iter()
        .fold(World::new(setting), |world, act| {
            go(&world, act).expect("the way to the root is harmless")
        });
    let mut met = HashSet::from([root.digest()]);
    let mut worlds: Vec<(World, Option<Rc<Path>>)> = vec![(root, None)];
    let mut steps = 0;
    for _ in 0..depth {
        let mut following = Vec::new();
        for (world, path) in worlds {
            let effects = world.clone().turn(Fate::Fine);
            let at = |n| [Fate::Crash(n), Fate::Fail(n), Fate::Doubt(n), Fate::Full(n)];
            let starts = world.agent.is_none() && effects > 0;
            let missing = NOT_STARTED.into_iter().filter(|_| starts);
            let fates = (0..effects).flat_map(at).chain(missing);
            for act in world.acts().into_iter().chain(fates.map(Act::Turn)) {
                steps += 1;
                let before = path.clone();
                let path = Some(Rc::new(Path { act, before }));
                let gone = go(&world, act).and_then(|next| {
                    let is_new = met.insert(next.digest());
                    if is_new {
                        guarded(|| next.ends_quietly())?;
                        following.push((next, path.clone()));
                    }
                    Ok(())
                });
                if let Err(wrong) = gone {
                    panic!("after {:?}\nin {:?}: {wrong}", told(&path), world.setting);
                }
            }
        }
        worlds = following;
    }
    let met = met.len();
    println!("{met} worlds in {steps} steps, {depth} deep, {setting:?}");
}

/// A random walk. The next number depends on nothing but the seed, so that a failure can be
/// walked again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % sides
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.roll(all.len())]
    }

    /// What happens next: mostly that the daemon gets on, and now and then something of which
    /// the exhaustive search makes nothing.
    fn act(&mut self, world: &World) -> Act {
        let job = self.roll(world.setting.jobs);
        let effect = self.roll(7);
        match self.roll(40) {
            0..16 => Act::Turn(Fate::Fine),
            16 => Act::Turn(Fate::Crash(effect)),
            17 => Act::Turn(Fate::Fail(effect)),
            18 => Act::Turn(Fate::Doubt(effect)),
            19 => Act::Turn(Fate::Full(effect)),
            20 => Act::Turn(self.one_of(&NOT_STARTED)),
            21 => Act::SetClock(self.one_of(&[-86_400, -3600, -1, 1, 3600, 86_400])),
            22 => self.one_of(&[Act::OtherLimit, Act::OtherWorks]),
            23 if world.may_be_unpublished(job) => Act::Unpublish(job),
            _ => self.one_of(&world.acts()),
        }
    }
}

/// Walks the same way again, and says what goes wrong on it.
fn walk(setting: Setting, acts: &[Act]) -> Result<(), String> {
    let mut world = World::new(setting);
    for act in acts {
        world = go(&world, *act)?;
    }
    guarded(|| world.ends_quietly())
}

/// Leaves out of a way what is not needed to go wrong on it.
fn shorten(setting: Setting, mut acts: Vec<Act>) -> Vec<Act> {
    let mut at = acts.len();
    while at > 0 {
        at -= 1;
        let mut fewer = acts.clone();
        fewer.remove(at);
        if walk(setting, &fewer).is_err() {
            acts = fewer;
            at = at.min(acts.len());
        }
    }
    acts
}

/// Walks at random until `until`; how many steps.
fn wander(setting: Setting, seed: u64, until: Instant) -> usize {
    let mut steps = 0;
    for seed in seed.. {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut world = World::new(setting);
        let mut acts = Vec::new();
        for n in 1..=WALK {
            let act = dice.act(&world);
            acts.push(act);
            let gone = go(&world, act).and_then(|next| {
                world = next;
                match n % 16 {
                    0 => guarded(|| world.ends_quietly()),
                    _ => Ok(()),
                }
            });
            if let Err(wrong) = gone {
                let acts = shorten(setting, acts);
                let wrong = walk(setting, &acts).err().unwrap_or(wrong);
                panic!("after {acts:?}\nin {setting:?}, seed {seed}: {wrong}");
            }
            steps += 1;
        }
        if Instant::now() >= until {
            break;
        }
    }
    steps
}

/// The ways in which an agent is not started.
const NOT_STARTED: [Fate; 3] = [Fate::NoProgram, Fate::BadProgram, Fate::NoProcess];

/// The steps of a random walk.
const WALK: usize = 96;

/// Every way to follow an interruption. With `plain` there is no session to resume, so that
/// `resume` does there what `fail` does.
const WAYS: [(Protocol, OnInterrupt); 5] = [
    (Protocol::Claude, OnInterrupt::Resume),
    (Protocol::Claude, OnInterrupt::Rerun),
    (Protocol::Claude, OnInterrupt::Fail),
    (Protocol::Plain, OnInterrupt::Rerun),
    (Protocol::Plain, OnInterrupt::Resume),
];

fn settings(jobs: usize) -> impl Iterator<Item = Setting> {
    let setting = move |(protocol, on_interrupt)| Setting {
        jobs,
        protocol,
        on_interrupt,
        retries: 1,
        ..Setting::default()
    };
    WAYS.into_iter().map(setting)
}

const TURN: Act = Act::Turn(Fate::Fine);

/// The way to a job that runs.
const RUNNING: &[Act] = &[TURN, Act::Arrive(0), TURN];

/// What an agent says in the end, and the daemon takes in.
fn ends(said: Said) -> [Act; 2] {
    [Act::Ends(Some(said)), TURN]
}

#[test]
fn whatever_happens_to_one_job_it_comes_to_one_result() {
    for setting in settings(1) {
        explore(setting, &[], 6);
    }
}

#[test]
fn whatever_happens_to_a_running_job_it_comes_to_one_result() {
    for setting in settings(1) {
        explore(setting, &[RUNNING], 4);
    }
}

#[test]
fn whatever_happens_to_a_job_between_its_starts_it_comes_to_one_result() {
    for setting in settings(1) {
        for said in [Said::Overloaded, Said::Limit, Said::NotLoggedIn] {
            explore(setting, &[RUNNING, &ends(said)], 4);
        }
        explore(setting, &[RUNNING, &[Act::Kill, TURN]], 3);
    }
}

#[test]
fn whatever_happens_to_two_jobs_they_come_to_a_result_each_first_things_first() {
    for setting in settings(2) {
        explore(setting, &[], 4);
        explore(setting, &[RUNNING, &[Act::Arrive(1)]], 3);
    }
}

#[test]
fn what_another_run_left_is_not_taken_for_this_one_s() {
    // A result that a person deleted, and a second start whose log has the name of another job's
    // first.
    let (limit, done) = (ends(Said::Limit), ends(Said::Done));
    let second = [TURN, Act::Arrive(1), TURN];
    for setting in settings(2) {
        explore(setting, &[RUNNING, &done, &[Act::Unpublish(0)]], 3);
        explore(setting, &[&second, &limit, &[Act::Wait, TURN], &done], 4);
    }
}

#[test]
fn whatever_happens_to_a_job_that_is_checked_it_comes_to_one_result() {
    let done = ends(Said::Done);
    for setting in settings(1) {
        let setting = Setting {
            check_rounds: Some(1),
            ..setting
        };
        explore(setting, &[RUNNING, &done], 4);
        let fails = [TURN, Act::CheckEnds(false), TURN];
        explore(setting, &[RUNNING, &done, &fails], 4);
    }
}

#[test]
fn random_ways_through_three_jobs_lead_to_a_result_each() {
    let secs = variable("JOB_MONITOR_FUZZ_SECS");
    let bound = secs.map_or(Duration::from_millis(500), Duration::from_secs);
    // Short runs are the same everywhere; long ones are for what is new.
    let new = secs.map_or(1, |_| std::process::id().into());
    let seed = variable("JOB_MONITOR_FUZZ_SEED").unwrap_or(new);
    for setting in settings(3) {
        let steps = wander(setting, seed, Instant::now() + bound);
        println!("{steps} steps at random from seed {seed}, {setting:?}");
    }
}
