//! `make bench`: what job-monitor costs beside a floor, in about two minutes.
//!
//! Each line is a ratio of medians within one run, both systems taking turns on one processor, so
//! that it means the same on any machine. Absolute times do not. Without `--bench`, as `cargo test`
//! calls it, everything is done once with small numbers, which only shows that it works. With `growth`
//! it tells instead what grows with what, which takes a few minutes more.

mod floor;
mod growth;
mod stage;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use stage::{Stage, System, now};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// How much is done.
struct Sizes {
    drops: usize,
    rounds: usize,
    backlog: usize,
    finished: usize,
    projects: usize,
    output: u64,
    idle: Duration,
}

const FULL: Sizes = Sizes {
    drops: 200,
    rounds: 9,
    backlog: 300,
    finished: 20_000,
    projects: 100,
    output: 512 << 20,
    idle: Duration::from_secs(60),
};

const SMOKE: Sizes = Sizes {
    drops: 2,
    rounds: 1,
    backlog: 5,
    finished: 20,
    projects: 3,
    output: 1 << 20,
    idle: Duration::from_millis(100),
};

struct Bench {
    sizes: Sizes,
    base: PathBuf,
    agent: PathBuf,
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["floor", project, ..] => floor::serve(Path::new(project), &words[2..]).unwrap(),
        ["read", path] => floor::read(Path::new(path)).unwrap(),
        _ => run(&words),
    }
}

fn run(words: &[String]) {
    let is_given = |wanted: &str| words.iter().any(|word| word == wanted);
    let shm = Path::new("/dev/shm");
    let place = if shm.is_dir() {
        shm.to_owned()
    } else {
        std::env::temp_dir()
    };
    let base = place.join(format!("job-monitor-bench-{}", std::process::id()));
    fs::create_dir_all(&base).unwrap();
    let agent = base.join("agent");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/agent.c");
    let built = Command::new("cc")
        .args(["-O2", "-static", "-o"])
        .arg(&agent)
        .arg(source)
        .status();
    assert!(
        built.is_ok_and(|status| status.success()),
        "cc makes no agent of {source}"
    );
    pin();
    let load = fs::read_to_string("/proc/loadavg").unwrap();
    println!(
        "in {}, on one processor, load before: {}",
        base.display(),
        &load[..4]
    );
    if is_given("growth") {
        growth::run(&base, &agent);
        fs::remove_dir_all(&base).unwrap();
        return;
    }
    println!(
        "{:<52}{:>12}{:>12}{:>8}",
        "", "job-monitor", "floor", "ratio"
    );
    let sizes = if is_given("--bench") { FULL } else { SMOKE };
    let bench = Bench { sizes, base, agent };
    bench.jobs();
    bench.starts();
    bench.reading();
    bench.output();
    bench.idle();
    let program = fs::metadata(env!("CARGO_BIN_EXE_job-monitor"))
        .unwrap()
        .len();
    single("the program", program as f64 / 1e6, "MB");
    fs::remove_dir_all(&bench.base).unwrap();
}

/// To the last processor that we may use: it is the least likely to serve interrupts.
fn pin() {
    let may = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let last = (0..CpuSet::count())
        .rev()
        .find(|&cpu| may.is_set(cpu).unwrap_or(false));
    let mut one = CpuSet::new();
    one.set(last.unwrap_or(0)).unwrap();
    sched_setaffinity(Pid::from_raw(0), &one).unwrap();
}

impl Bench {
    fn both(&self, projects: usize, words: &[&str]) -> [Stage; 2] {
        [System::JobMonitor, System::Floor]
            .map(|system| Stage::new(&self.base, system, projects, &self.agent, words))
    }

    /// What a job costs: alone, and in a backlog.
    fn jobs(&self) {
        let mut stages = self.both(1, &[]);
        for stage in &mut stages {
            stage.start();
            let name = stage.prepare();
            stage.submit(&name);
            stage.settle();
        }
        let mut detect = [vec![], vec![]];
        for _ in 0..self.sizes.drops {
            for (stage, detect) in stages.iter_mut().zip(&mut detect) {
                let (before, name) = (stage.noted(), stage.prepare());
                std::thread::sleep(Duration::from_millis(20));
                let dropped = stage.submit(&name);
                let (begun, _) = stage.times(before, 1)[0];
                detect.push(micros(begun, dropped));
            }
        }
        pair("document renamed in, until its agent runs, us", &detect);
        // The measuring stick against itself: what a ratio near 1 is worth today.
        let mut sorted = detect[1].clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let at = |part: usize| sorted[(sorted.len() - 1) * part / 10];

        let (mut gap, mut rate, mut cpu) = (vec![[0.0; 2]; 0], vec![], vec![]);
        for _ in 0..self.sizes.rounds {
            let (mut gaps, mut rates, mut cpus) = ([0.0; 2], [0.0; 2], [0.0; 2]);
            for (at, stage) in stages.iter_mut().enumerate() {
                stage.settle();
                let count = self.sizes.backlog;
                let names: Vec<String> = (0..count).map(|_| stage.prepare()).collect();
                let (before, spent) = (stage.noted(), stage.cpu_us());
                for name in &names {
                    stage.submit(name);
                }
                let times = stage.times(before, count);
                stage.settle();
                let between = times.windows(2).map(|pair| micros(pair[1].0, pair[0].1));
                gaps[at] = median(between.collect());
                rates[at] = count as f64 / (micros(times[count - 1].1, times[0].0) / 1e6);
                cpus[at] = (stage.cpu_us() - spent) as f64 / count as f64;
            }
            gap.push(gaps);
            rate.push(rates);
            cpu.push(cpus);
        }
        pair(
            "end of an agent, until the next one runs, us",
            &columns(&gap),
        );
        pair("jobs per second from a backlog", &columns(&rate));
        pair("processor time per job, us", &columns(&cpu));
        println!(
            "{:<52}{:>12}{:>12.0}{:>8.2}",
            "  (spread of the floor itself, p90 to p50)",
            "",
            at(9),
            at(9) / at(5)
        );
    }

    /// From its start to the first agent, among many finished jobs.
    fn starts(&self) {
        let mut taken = [vec![], vec![]];
        let mut stages = self.both(1, &[]);
        for stage in &mut stages {
            stage.lay_finished(self.sizes.finished, "{}");
        }
        for _ in 0..self.sizes.rounds {
            for (stage, taken) in stages.iter_mut().zip(&mut taken) {
                let name = stage.prepare();
                stage.submit(&name);
                // Longer ago than a document has to be left alone before it counts.
                std::thread::sleep(Duration::from_millis(300));
                let before = stage.noted();
                let started = stage.start();
                taken.push(micros(stage.times(before, 1)[0].0, started) / 1e3);
                stage.settle();
                stage.stop();
            }
        }
        let what = format!(
            "start among {} finished jobs, to the first agent, ms",
            self.sizes.finished
        );
        pair(&what, &taken);
    }

    /// The commands that look, with many results.
    fn reading(&self) {
        let mut stage = Stage::new(&self.base, System::JobMonitor, 1, &self.agent, &[]);
        stage.start();
        let name = stage.prepare();
        stage.submit(&name);
        stage.settle();
        let id = name.trim_end_matches(".md");
        let results = stage.project().join("jobs/results");
        let (one, all) = (
            results.join(format!("{id}.json")),
            results.to_str().unwrap(),
        );
        // As the program writes them itself.
        let result = fs::read_to_string(&one).unwrap().replace(id, "{id}");
        stage.stop();
        stage.lay_finished(self.sizes.finished, &result);
        // What the looks ask of the daemon is there when it has started a job.
        stage.start();
        let next = stage.prepare();
        stage.submit(&next);
        stage.settle();
        let floor = Stage::new(&self.base, System::Floor, 1, &self.agent, &[]);
        let one = one.to_str().unwrap();
        for (what, ours, theirs) in [
            (
                "job-monitor queue; floor reads one file, ms",
                vec!["queue"],
                one,
            ),
            ("job-monitor JOB; floor reads one file, ms", vec![id], one),
            (
                "job-monitor status; floor reads all results, ms",
                vec!["status"],
                all,
            ),
            (
                "job-monitor status --all; the same, ms",
                vec!["status", "--all"],
                all,
            ),
        ] {
            let mut taken = [vec![], vec![]];
            for _ in 0..self.sizes.rounds {
                taken[0].push(timed(stage.command(&ours)));
                taken[1].push(timed(floor.command(&["read", theirs])));
            }
            pair(what, &taken);
        }
    }

    /// A talkative agent.
    fn output(&self) {
        let mut taken = [vec![], vec![]];
        let mut grown = vec![];
        let bytes = self.sizes.output.to_string();
        for _ in 0..self.sizes.rounds.div_ceil(3) {
            for (mut stage, taken) in self.both(1, &[&bytes]).into_iter().zip(&mut taken) {
                stage.start();
                let name = stage.prepare();
                std::thread::sleep(Duration::from_millis(300));
                let before = stage.pss_kib();
                let dropped = stage.submit(&name);
                stage.settle();
                taken.push((now() - dropped) as f64 / 1e6);
                if stage.is_job_monitor() {
                    grown.push(stage.pss_kib() as f64 - before as f64);
                }
            }
        }
        let size = self.sizes.output >> 20;
        pair(&format!("a job that prints {size} MiB, ms"), &taken);
        single("memory grown by that", median(grown), "KiB");
    }

    /// What it costs while nothing happens.
    fn idle(&self) {
        let mut stage = Stage::new(
            &self.base,
            System::JobMonitor,
            self.sizes.projects,
            &self.agent,
            &[],
        );
        stage.start();
        let name = stage.prepare();
        stage.submit(&name);
        stage.settle();
        std::thread::sleep(Duration::from_secs(1));
        let (wakeups, cpu) = (stage.wakeups(), stage.cpu_us());
        std::thread::sleep(self.sizes.idle);
        let minutes = self.sizes.idle.as_secs_f64() / 60.0;
        let projects = self.sizes.projects;
        let woken = (stage.wakeups() - wakeups) as f64 / minutes;
        single(
            &format!("idle with {projects} projects: woken per minute"),
            woken,
            "times",
        );
        let spent = (stage.cpu_us() - cpu) as f64 / minutes;
        single(
            &format!("idle with {projects} projects: processor time per minute"),
            spent,
            "us",
        );
        single(
            &format!("idle with {projects} projects: memory (PSS)"),
            stage.pss_kib() as f64,
            "KiB",
        );
    }
}

/// How long a command takes, in milliseconds.
fn timed(mut command: Command) -> f64 {
    let begun = now();
    let status = command.stdout(Stdio::null()).status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
    (now() - begun) as f64 / 1e6
}

fn micros(later: u64, earlier: u64) -> f64 {
    later.saturating_sub(earlier) as f64 / 1e3
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn columns(rows: &[[f64; 2]]) -> [Vec<f64>; 2] {
    [0, 1].map(|at| rows.iter().map(|row| row[at]).collect())
}

/// A line with both systems: their medians, and the median of the ratios of neighbours.
fn pair(what: &str, [ours, floor]: &[Vec<f64>; 2]) {
    let ratios = ours.iter().zip(floor).map(|(ours, floor)| ours / floor);
    let ratio = median(ratios.collect());
    let (ours, floor) = (median(ours.clone()), median(floor.clone()));
    let digits = if ours < 100.0 { 1 } else { 0 };
    println!("{what:<52}{ours:>12.digits$}{floor:>12.digits$}{ratio:>8.2}");
}

fn single(what: &str, value: f64, unit: &str) {
    println!("{what:<52}{value:>12.1} {unit}");
}
