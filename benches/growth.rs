//! What grows with what: the same questions asked of job-monitor alone, in growing worlds.

use crate::stage::{Stage, System, now};
use crate::{median, micros, timed};
use std::path::Path;
use std::time::Duration;

/// Prints a table for each thing that can grow. In kilobytes of memory, the set that is its own.
pub fn run(base: &Path, agent: &Path) {
    println!(
        "\nfinished jobs      start ms    noticed us   CPU/job us    queue ms   status ms   PSS KiB"
    );
    for finished in [0, 1_000, 10_000, 100_000] {
        let mut stage = Stage::new(base, System::JobMonitor, 1, agent, &[]);
        stage.lay_finished(
            finished,
            "{\n  \"job_id\": \"{id}\",\n  \"status\": \"completed\"\n}\n",
        );
        let start = first_agent(&mut stage);
        let spent = stage.cpu_us();
        let mut noticed = vec![];
        for _ in 0..100 {
            let (before, name) = (stage.noted(), stage.prepare());
            std::thread::sleep(Duration::from_millis(10));
            let dropped = stage.submit(&name);
            noticed.push(micros(stage.times(before, 1)[0].0, dropped));
        }
        stage.settle();
        let cpu = (stage.cpu_us() - spent) as f64 / noticed.len() as f64;
        let look = |words: &[&str]| median((0..9).map(|_| timed(stage.command(words))).collect());
        let (queue, status) = (look(&["queue"]), look(&["status"]));
        let (noticed, pss) = (median(noticed), stage.pss_kib());
        println!(
            "{finished:<13} {start:>13.1} {noticed:>13.0} {cpu:>12.0} {queue:>11.1} {status:>11.1} {pss:>9}"
        );
    }

    println!("\nwaiting jobs       start ms        jobs/s   CPU/job us   PSS KiB");
    for waiting in [1_000, 10_000, 100_000] {
        let mut stage = Stage::new(base, System::JobMonitor, 1, agent, &[]);
        for _ in 0..waiting {
            let name = stage.prepare();
            stage.submit(&name);
        }
        let begun = stage.start();
        let start = micros(stage.times(0, 1)[0].0, begun) / 1e3;
        let spent = stage.cpu_us();
        let times = stage.times(0, 1_000);
        let cpu = (stage.cpu_us() - spent) as f64 / times.len() as f64;
        let pss = stage.pss_kib();
        let last = times.len() - 1;
        let rate = last as f64 / (micros(times[last].0, times[0].0) / 1e6);
        println!("{waiting:<13} {start:>13.1} {rate:>13.0} {cpu:>12.0} {pss:>9}");
    }

    println!("\nprojects, idle     start ms    PSS KiB   woken/min");
    for projects in [1, 10, 100, 1_000] {
        let mut stage = Stage::new(base, System::JobMonitor, projects, agent, &[]);
        let names: Vec<String> = (0..projects).map(|_| stage.prepare()).collect();
        for (number, name) in names.iter().enumerate() {
            stage.submit_to(number, name);
        }
        std::thread::sleep(Duration::from_millis(300));
        let begun = stage.start();
        let times = stage.times(0, projects);
        let all = times.iter().map(|(begin, _)| *begin).max().unwrap_or(begun);
        let start = micros(all, begun) / 1e3;
        std::thread::sleep(Duration::from_secs(3));
        let before = stage.wakeups();
        // As long as anything that is done now and then takes to come round.
        std::thread::sleep(Duration::from_secs(60));
        let woken = stage.wakeups() - before;
        let pss = stage.pss_kib();
        println!("{projects:<13} {start:>13.1} {pss:>10} {woken:>11}");
    }

    println!("\nagents at once   CPU ms per minute    PSS KiB");
    for agents in [1, 10, 100] {
        let mut stage = Stage::new(base, System::JobMonitor, agents, agent, &["0", "8"]);
        stage.start();
        for number in 0..agents {
            let name = stage.prepare();
            stage.submit_to(number, &name);
        }
        std::thread::sleep(Duration::from_secs(2));
        let (spent, since) = (stage.cpu_us(), now());
        std::thread::sleep(Duration::from_secs(5));
        let minutes = micros(now(), since) / 60e6;
        let cpu = (stage.cpu_us() - spent) as f64 / 1e3 / minutes;
        let pss = stage.pss_kib();
        stage.times(0, agents);
        println!("{agents:<13} {cpu:>20.1} {pss:>10}");
    }
}

/// From the start to the first agent, in milliseconds.
fn first_agent(stage: &mut Stage) -> f64 {
    let name = stage.prepare();
    stage.submit(&name);
    std::thread::sleep(Duration::from_millis(300));
    let begun = stage.start();
    let start = micros(stage.times(0, 1)[0].0, begun) / 1e3;
    stage.settle();
    start
}
