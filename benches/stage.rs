//! A place of its own for each system that is measured: a home, projects, an agent that notes its
//! times, and the running process.

use serde_json::{Map, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// No wait takes longer.
const BOUND: Duration = Duration::from_secs(120);

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum System {
    /// The program, as this package builds it.
    JobMonitor,
    /// The measuring stick.
    Floor,
}

/// A system with its files; what runs is ended with it.
pub struct Stage {
    system: System,
    root: PathBuf,
    agent: Vec<String>,
    running: Option<Child>,
    submitted: usize,
}

/// When an agent began and ended, in nanoseconds of the monotonic clock.
pub type Times = (u64, u64);

impl Stage {
    /// Lays out so many projects below `base`, whose agents run `agent`, the program, and `words`.
    pub fn new(
        base: &Path,
        system: System,
        projects: usize,
        agent: &Path,
        words: &[&str],
    ) -> Stage {
        let name = match system {
            System::JobMonitor => "job-monitor",
            System::Floor => "floor",
        };
        let root = base.join(name);
        let _ = fs::remove_dir_all(&root);
        let mut registered = Map::new();
        for number in 0..projects {
            let path = root.join(format!("p{number}"));
            for part in ["items", "results", "state", "logs"] {
                fs::create_dir_all(path.join("jobs").join(part)).unwrap();
            }
            registered.insert(format!("p{number}"), json!({"path": path}));
        }
        let text = |path: PathBuf| path.into_os_string().into_string().unwrap();
        let mut command = vec![text(agent.to_owned()), text(root.join("times"))];
        command.extend(words.iter().map(|word| (*word).to_owned()));
        let config = root.join("home/.config/job-monitor");
        fs::create_dir_all(&config).unwrap();
        let agents = json!({"b": {"command": command, "protocol": "plain"}});
        let put = |name: &str, value| fs::write(config.join(name), format!("{value}")).unwrap();
        put(
            "config.json",
            json!({"agent": "b", "agents": agents, "max_output": "2G"}),
        );
        put("registered.json", json!({"projects": registered}));
        fs::write(root.join("times"), "").unwrap();
        Stage {
            system,
            root,
            agent: command,
            running: None,
            submitted: 0,
        }
    }

    /// Whether it is the program that is measured.
    pub fn is_job_monitor(&self) -> bool {
        self.system == System::JobMonitor
    }

    /// The first project's directory.
    pub fn project(&self) -> PathBuf {
        self.root.join("p0")
    }

    /// A command of the system, with this stage's home. The floor's commands are ours.
    pub fn command(&self, words: &[&str]) -> Command {
        let program = match self.system {
            System::JobMonitor => PathBuf::from(env!("CARGO_BIN_EXE_job-monitor")),
            System::Floor => std::env::current_exe().unwrap(),
        };
        let mut command = Command::new(program);
        command
            .args(words)
            .current_dir(self.project())
            .env_clear()
            .env("HOME", self.root.join("home"))
            .env("PATH", "/usr/bin:/bin")
            .stdin(Stdio::null());
        command
    }

    /// Starts the system; gives when.
    pub fn start(&mut self) -> u64 {
        let project = self.project();
        let mut words = vec!["daemon"];
        if self.system == System::Floor {
            words = vec!["floor", project.to_str().unwrap()];
            words.extend(self.agent.iter().map(String::as_str));
        }
        let log = fs::File::create(self.root.join("log")).unwrap();
        let mut command = self.command(&words);
        command.stdout(Stdio::null()).stderr(log);
        let now = now();
        self.running = Some(command.spawn().unwrap());
        now
    }

    /// Ends the system, and awaits that.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.running.take() {
            let _ = Command::new("kill").arg(child.id().to_string()).status();
            let deadline = Instant::now() + BOUND;
            while child.try_wait().unwrap().is_none() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Writes a document beside the spool; gives its name.
    pub fn prepare(&mut self) -> String {
        self.submitted += 1;
        let name = name_of(self.submitted, "md");
        fs::write(
            self.root.join(&name),
            format!("# Job {name}\n\nNothing is asked for.\n"),
        )
        .unwrap();
        name
    }

    /// Renames a prepared document into the first project's spool; gives when.
    pub fn submit(&self, name: &str) -> u64 {
        self.submit_to(0, name)
    }

    /// Renames a prepared document into a project's spool; gives when.
    pub fn submit_to(&self, project: usize, name: &str) -> u64 {
        let from = self.root.join(name);
        let to = self.root.join(format!("p{project}/jobs/items")).join(name);
        let now = now();
        fs::rename(from, to).unwrap();
        now
    }

    /// What the agents noted since the first `before` of them, once there are `count` more.
    pub fn times(&self, before: usize, count: usize) -> Vec<Times> {
        let deadline = Instant::now() + BOUND;
        loop {
            let text = fs::read_to_string(self.root.join("times")).unwrap();
            let noted: Vec<Times> = text.lines().skip(before).filter_map(times_of).collect();
            if noted.len() >= count {
                return noted;
            }
            let log = self.root.join("log");
            assert!(
                Instant::now() < deadline,
                "no agent came; see {}",
                log.display()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// How many agents have come to their end.
    pub fn noted(&self) -> usize {
        let text = fs::read_to_string(self.root.join("times")).unwrap();
        text.lines().count()
    }

    /// Awaits the result of the job that was submitted last.
    pub fn settle(&self) {
        let path = self
            .project()
            .join("jobs/results")
            .join(name_of(self.submitted, "json"));
        let deadline = Instant::now() + BOUND;
        while !path.exists() {
            assert!(Instant::now() < deadline, "no result at {}", path.display());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Finished jobs, as if they had run: `result` is given its own name in each.
    pub fn lay_finished(&mut self, count: usize, result: &str) {
        for _ in 0..count {
            let name = self.prepare();
            let id = name.trim_end_matches(".md");
            let results = self.project().join("jobs/results");
            let text = result.replace("{id}", id);
            fs::write(results.join(format!("{id}.json")), text).unwrap();
            self.submit(&name);
        }
    }

    /// Processor time that the system has used, in microseconds, without its agents.
    pub fn cpu_us(&self) -> u64 {
        let sum: u64 = self.threads("schedstat", |text| text.split(' ').next()?.parse().ok());
        sum / 1000
    }

    /// How often its threads have slept and been woken.
    pub fn wakeups(&self) -> u64 {
        self.threads("status", |text| {
            let line = text.lines().find(|line| line.starts_with("voluntary_"))?;
            line.split_whitespace().nth(1)?.parse().ok()
        })
    }

    /// Its memory that it shares with nobody, and its part of what it shares, in KiB.
    pub fn pss_kib(&self) -> u64 {
        let text = fs::read_to_string(self.proc("smaps_rollup")).unwrap();
        let line = text.lines().find(|line| line.starts_with("Pss:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    fn threads(&self, file: &str, value: impl Fn(&str) -> Option<u64>) -> u64 {
        let tasks = fs::read_dir(self.proc("task")).unwrap().flatten();
        let read = |task: fs::DirEntry| fs::read_to_string(task.path().join(file)).ok();
        tasks.filter_map(read).filter_map(|text| value(&text)).sum()
    }

    fn proc(&self, file: &str) -> PathBuf {
        let pid = self.running.as_ref().expect("the system runs").id();
        PathBuf::from(format!("/proc/{pid}/{file}"))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Names in the order of their numbers, a second apart each.
fn name_of(number: usize, ending: &str) -> String {
    let (day, second) = (number / 86_400 + 1, number % 86_400);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let second = second % 60;
    format!("job-202601{day:02}-{hour:02}{minute:02}{second:02}-bench.{ending}")
}

fn times_of(line: &str) -> Option<Times> {
    let (begin, end) = line.split_once(' ')?;
    Some((begin.parse().ok()?, end.parse().ok()?))
}

/// The monotonic clock, in nanoseconds, as the agent reads it.
pub fn now() -> u64 {
    let clock = nix::time::ClockId::CLOCK_MONOTONIC;
    let time = nix::time::clock_gettime(clock).unwrap();
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}
