//! Agents on the nodes of a Slurm cluster, by the script and the settings of `docs/recipes`, as they
//! are, on a real cluster.
//!
//! The cluster is what `$JOB_MONITOR_SLURM`, else `../shared/tools/with-slurm`, makes on this
//! machine's loopback: its nodes are namespaces with a `slurmd` each, which die when they are told
//! to. Without it the tests are skipped and say so, unless `JOB_MONITOR_REQUIRE` lists `slurm`.

use crate::recipes::{in_front_of, recipe, script};
use crate::space::{BOUND, MustHave, Project, Space, lacks, spawn, wait_longer, wait_until};
use nix::unistd::geteuid;
use serde_json::json;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const ID: &str = "job-20260101-120000-sheep";
const NEXT: &str = "job-20260101-120001-wolves";

/// What `claude` says of a job that it has done.
const EVENTS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/fixtures/claude/text.jsonl"
);

/// The cluster ends itself after so many seconds, whatever became of the test.
const CLUSTER_MAX_SECS: &str = "150";
/// Until Slurm takes a dead node for dead: several times the `SlurmdTimeout` of this cluster.
const NODE_DEATH_MAX: Duration = Duration::from_secs(90);

/// Carries out the document, which is a shell script.
const AGENT: &str = r#"cat > "$JOB_MONITOR_JOB_ID.sh"; exec sh -u "$JOB_MONITOR_JOB_ID.sh""#;
/// Says that it has heard SIGTERM, takes a second of its grace, and ends well. Slurm may end its
/// children before it is told itself, which is no reason to go.
const WELL_BEHAVED: &str = "trap 'touch told; sleep 1; touch over; exit 0' TERM\n\
                            setsid sleep 600 &\ntouch up\nwhile :; do sleep 601 & wait $!; done";
/// Hears nothing.
const STUBBORN: &str = "trap '' TERM\ntouch up\nwhile :; do sleep 600; done";

// --- the main path ---

#[test]
fn an_agent_on_a_node_gets_and_gives_what_it_would_here() {
    let Some(stage) = Stage::new(1) else { return };
    let (space, alpha) = (&stage.space, stage.space.project("alpha"));
    let old = space.project_with("old", json!({"layout": "tasks"}));
    let claude = space.project_with("claude", json!({"agent": "claude"}));
    space.claude(&format!("cat > prompt; hostname > host; cat '{EVENTS}'"));
    // What the environment may ask of srun, and an agent must not get.
    space.env("SLURM_NTASKS", "2");
    space.env("SLURM_EXPORT_ENV", "NONE");
    space.start();

    // More than any buffer on the way holds, and not all of it ASCII.
    let text = format!(
        "hostname > host; pwd > cwd; env > environ; echo begun\n\
         until [ -e go ]; do sleep 0.05; done; echo done\n{}",
        "# Zähle die Schafe.\n".repeat(40_000)
    );
    alpha.submit(ID, &text);
    alpha.wait_made("environ");
    // What it writes comes while it runs.
    let out = alpha.logs(&format!("{ID}.out"));
    wait_until("the agent's first line", || {
        fs::read_to_string(&out).is_ok_and(|text| text == "begun\n")
    });
    let claim = alpha.claim(ID).unwrap();
    alpha.touch("go");
    let result = alpha.wait_completed(ID);
    result.must_have(json!({"worker_output": {"summary": "begun\ndone"}, "leftovers": 0}));
    assert!(alpha.made(&format!("{ID}.sh")) == text);
    assert_eq!(alpha.made("host"), "n1\n");
    let here = fs::canonicalize(&alpha.path).unwrap();
    assert_eq!(alpha.made("cwd").trim_end(), here.to_str().unwrap());
    let environ = alpha.made("environ");
    let variable = |name: &str| {
        let lines = environ.lines();
        let mut values = lines.filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        values.next().unwrap_or_default().to_owned()
    };
    assert_eq!(variable("JOB_MONITOR_JOB_ID"), ID);
    assert_eq!(variable("JOB_MONITOR_PROJECT"), "alpha");
    assert!(claim.contains(&variable("JOB_MONITOR_RUN")));
    assert_eq!(variable("JOB_MONITOR_RUN").len(), 32);

    claude.complete(ID, "Count the sheep.\n");
    assert_eq!(claude.made("host"), "n1\n");
    assert!(claude.made("prompt").ends_with("Count the sheep.\n"));

    let ends = [
        ("echo 'no sheep' >&2; exit 7", "failed", Some(7)),
        ("kill -SEGV $$", "failed", Some(128 + 11)),
        // Slurm's tracking by parents loses both, and srun would wait for their standard output.
        ("(sleep 602 &); (setsid sleep 603 &)", "completed", None),
    ];
    for (n, (text, status, code)) in ends.into_iter().enumerate() {
        let id = format!("task-end-20260101-12000{n}");
        old.submit(&id, text);
        let result = old.wait_result(&id);
        assert_eq!(result["status"], status, "{text}: {result:#}");
        if let Some(code) = code {
            result.must_have(json!({"error_kind": "exit_code", "attempts": [{"exit_code": code}]}));
        }
    }
    let told = old.result("task-end-20260101-120000").unwrap();
    told["stderr"].must_have("no sheep");
    stage.ends();
    for (project, dir) in [(&alpha, alpha.state("")), (&old, old.state(""))] {
        assert_eq!(project.names(&dir), [".lock", "queue_state.json"]);
    }
}

// --- trouble on the cluster ---

#[test]
fn a_node_that_dies_in_mid_job_completes_nothing() {
    let Some(stage) = Stage::new(1) else { return };
    let (space, plain) = (&stage.space, stage.space.project("plain"));
    let claude = space.project_with("claude", json!({"agent": "claude", "retries": 0}));
    space.claude(&format!("head -n 2 '{EVENTS}'; touch up; sleep 600"));
    space.start();
    plain.submit(ID, "echo 'all sheep counted'; touch up; sleep 600");
    claude.submit(ID, "Count the sheep.\n");
    plain.wait_made("up");
    claude.wait_made("up");
    stage.cluster.ask(&["slurm-node", "kill", "n1"]);
    for (project, kind, says) in [
        (&plain, "exit_code", "was lost"),
        (&claude, "no_result", "Node failure"),
    ] {
        let result = wait_longer(NODE_DEATH_MAX, "a result", || project.result(ID));
        result.must_have(json!({"status": "failed", "error_kind": kind}));
        result["error"].must_have(says);
    }
    stage.ends();
}

#[test]
fn an_agent_that_somebody_cancels_in_slurm_has_not_completed_even_if_it_ends_well() {
    let Some(stage) = Stage::new(1) else { return };
    let project = stage.space.project("alpha");
    stage.space.start();
    project.submit(ID, WELL_BEHAVED);
    project.wait_made("up");
    let name = format!("--name=job-monitor:{}", project.path.display());
    stage.cluster.ask(&["scancel", &name]);
    let result = project.wait_result(ID);
    result.must_have(json!({"status": "failed", "error_kind": "exit_code"}));
    assert!(project.path.join("over").exists());
    stage.ends();
}

#[test]
fn a_project_that_the_node_does_not_see_is_an_error_and_no_run_elsewhere() {
    let Some(stage) = Stage::new(1) else { return };
    if !geteuid().is_root() {
        return lacks("root", "only root can mount something on a node");
    }
    let project = stage.space.project("alpha");
    stage.space.start();
    // Another directory of the same name, as a mount point is one on which nothing is mounted;
    // then none at all. Whatever ran all the same would run well.
    for (id, hidden) in [(ID, project.path.as_path()), (NEXT, stage.space.root())] {
        stage.cluster.hide("n1", hidden);
        project.submit(id, "echo 'all sheep counted'");
        let result = project.wait_result(id);
        assert_eq!(result["status"], "failed", "{result:#}");
        assert_eq!(result["attempts"][0]["exit_code"], 1);
        result["error"].must_have("n1 does not see the project");
    }
    stage.ends();
}

// --- ending it from here ---

#[test]
fn cancelling_lets_an_agent_on_a_node_end_well_and_withdraws_one_that_waits_for_a_node() {
    let Some(stage) = Stage::new(1) else { return };
    // Who waits for the end of the grace waits longer than this test does.
    stage.grace_of(200);
    let space = &stage.space;
    let [well, other, waiting] = ["well", "other", "waiting"].map(|name| space.project(name));
    space.start();
    for project in [&well, &other] {
        project.submit(ID, WELL_BEHAVED);
        project.wait_made("up");
    }
    // Both processors of the only node are taken.
    waiting.submit(ID, "touch up");
    wait_until("a job that waits for a node", || {
        let pending = format!("PENDING job-monitor:{}", waiting.path.display());
        stage.cluster.jobs().contains(&pending)
    });
    for project in [&waiting, &well] {
        space.run(&["-p", &project.name, "cancel", ID]).ok();
        let result = project.wait_result(ID);
        assert_eq!(result["status"], "cancelled", "{result:#}");
    }
    assert!(well.path.join("over").exists(), "it was given its grace");
    assert!(!waiting.path.join("up").exists());
    // Neither has touched the third.
    assert!(!other.path.join("told").exists());
    stage.ends();
    stage.is_empty();
}

#[test]
fn cancelling_kills_an_agent_on_a_node_that_does_not_end_by_itself() {
    let Some(stage) = Stage::new(1) else { return };
    // The script's own grace decides, not ours, which would kill the script and not the agent.
    stage.space.set(json!({"grace": "200s"}));
    let project = stage.space.project("alpha");
    stage.space.start();
    project.submit(ID, STUBBORN);
    project.wait_made("up");
    stage.space.run(&["cancel", ID]).ok();
    assert_eq!(project.wait_result(ID)["status"], "cancelled");
    stage.is_empty();
    stage.ends();
}

#[test]
fn stopping_the_daemon_gives_an_agent_on_a_node_its_grace_and_leaves_nothing() {
    let Some(stage) = Stage::new(1) else { return };
    let project = stage.space.project("alpha");
    stage.space.start();
    project.submit(ID, WELL_BEHAVED);
    project.wait_made("up");
    assert_eq!(stage.space.stop(), 0);
    assert!(project.path.join("over").exists());
    assert!(project.claim(ID).is_some());
    assert_eq!(project.result(ID), None);
    stage.is_empty();
}

#[test]
fn a_killed_daemon_s_agents_are_ended_before_another_of_the_project_starts() {
    let Some(stage) = Stage::new(2) else { return };
    let space = &stage.space;
    stage.keep_apart();
    // In the one the job starts again, in the other it ends, and nothing follows.
    let again = space.project_with("again", json!({"on_interrupt": "rerun"}));
    let ends = space.project("once, and no more");
    space.start();
    for project in [&again, &ends] {
        project.submit(ID, &alone_and_stubborn_once());
        project.wait_made("up");
    }
    space.kill();
    assert!(stage.cluster.jobs().lines().count() == 2);
    space.start();
    assert_started_twice_and_alone(&again);
    let result = ends.wait_result(ID);
    assert_eq!(result["error_kind"], "interrupted", "{result:#}");
    assert_eq!(ends.made("starts").lines().count(), 1);
    stage.ends();
    stage.is_empty();
}

#[test]
fn while_slurm_does_not_answer_a_job_waits_for_an_agent_may_still_run() {
    let Some(stage) = Stage::new(1) else { return };
    let space = &stage.space;
    stage.keep_apart();
    let project = space.project_with("alpha", json!({"on_interrupt": "rerun"}));
    space.start();
    project.submit(ID, &alone_and_stubborn_once());
    project.wait_made("up");
    space.kill();
    // In good order, so that it will know of this agent.
    stage.cluster.ask(&["scontrol", "shutdown", "slurmctld"]);
    wait_until("the end of the controller", || !stage.cluster.answers());
    space.start();
    let err = project.logs(&format!("{ID}.2.err"));
    wait_until("squeue asks in vain", || {
        fs::read_to_string(&err).is_ok_and(|text| text.contains("Unable to contact"))
    });
    stage.cluster.ask(&["slurm-node", "controller", "start"]);
    assert_started_twice_and_alone(&project);
    stage.ends();
    stage.is_empty();
}

/// An agent that hears nothing when it is started first, and ends at once when it is again.
fn alone_and_stubborn_once() -> String {
    format!(
        "exec 9> lock; flock --nonblock 9 || touch two-at-once\n\
         echo start >> starts; [ \"$(wc -l < starts)\" = 1 ] || exit 0\n{STUBBORN}"
    )
}

#[track_caller]
fn assert_started_twice_and_alone(project: &Project) {
    let result = wait_longer(2 * BOUND, "a result", || project.result(ID));
    assert_eq!(result["status"], "completed", "{result:#}");
    assert_eq!(project.made("starts").lines().count(), 2);
    assert!(!project.path.join("two-at-once").exists());
}

// --- what the tests stand on ---

/// A cluster, and a space whose daemon sends its agents there. The space goes first.
struct Stage {
    space: Space,
    cluster: Cluster,
}

impl Stage {
    /// With the agent [`AGENT`] behind the recipe's script and settings; and `claude` as there.
    fn new(nodes: u32) -> Option<Stage> {
        let cluster = Cluster::new(nodes)?;
        let space = Space::new();
        space.executable("on-slurm", &script("on-slurm"));
        space.env("SLURM_CONF", cluster.conf.to_str().unwrap());
        let bin = space.root().join("bin");
        space.env("PATH", &format!("{}:{}", bin.display(), cluster.path));
        let recipe = recipe("slurm");
        let mut settings = in_front_of(&recipe, &space.program("agent", AGENT));
        settings["agents"]["claude"] = recipe["agents"]["claude"].clone();
        // What it is for who sets nothing.
        settings["grace"] = "10s".into();
        space.set(settings);
        Some(Stage { space, cluster })
    }

    /// Keeps the nodes' processes from the daemon's eyes: on a real cluster it can end nothing that
    /// runs on another machine.
    fn keep_apart(&self) {
        let mut launcher = vec!["unshare", "--pid", "--fork", "--mount-proc"];
        if !geteuid().is_root() {
            launcher.extend(["--user", "--map-current-user"]);
        }
        self.space.launch_by(&launcher);
    }

    /// Changes the graces: so many seconds in the script, and twice as long in the settings.
    fn grace_of(&self, seconds: u32) {
        let (own, long) = (" 1 2 3 4 5 6 7;", format!(" $(seq {seconds});"));
        let long = script("on-slurm").replacen(own, &long, 1);
        assert_ne!(long, script("on-slurm"));
        self.space.executable("on-slurm", &long);
        self.space
            .set(json!({"grace": format!("{}s", 2 * seconds)}));
    }

    /// Waits until nothing of the space runs, here or on a node, and Slurm knows no job of it.
    #[track_caller]
    fn is_empty(&self) {
        wait_until("nothing that runs", || self.space.processes().is_empty());
        wait_until("no job in Slurm", || self.cluster.jobs().is_empty());
    }

    /// When everything is done, the daemon ends and leaves nothing.
    #[track_caller]
    fn ends(&self) {
        assert_eq!(self.space.stop(), 0);
        self.space.assert_no_survivor();
    }
}

/// A running cluster. It goes when its harness's standard input ends.
struct Cluster {
    harness: Child,
    conf: PathBuf,
    /// What its programs are found on.
    path: String,
}

impl Cluster {
    fn new(nodes: u32) -> Option<Cluster> {
        let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/tools/with-slurm");
        let program = std::env::var_os("JOB_MONITOR_SLURM").map_or(beside, PathBuf::from);
        if let Some(lacking) = lacking(&program) {
            lacks("slurm", &lacking);
            return None;
        }
        let mut command = Command::new(program);
        command
            .args(["--timeout", CLUSTER_MAX_SECS])
            .args(["--nodes", &nodes.to_string(), "sh", "-c"])
            .arg(r#"printf '%s\n' "$SLURM_CONF" "$PATH"; exec cat > /dev/null"#)
            // A service manager that serves this session need not know of it.
            .env_remove("XDG_RUNTIME_DIR")
            .env_remove("DBUS_SESSION_BUS_ADDRESS")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut harness = spawn(&mut command);
        let mut lines = BufReader::new(harness.stdout.take().unwrap()).lines();
        let mut line = || lines.next().expect("the cluster comes up").unwrap();
        Some(Cluster {
            conf: line().into(),
            path: line(),
            harness,
        })
    }

    /// What a program says that knows this cluster.
    #[track_caller]
    fn ask(&self, argv: &[&str]) -> String {
        let output = Command::new("env")
            .arg(format!("PATH={}", self.path))
            .args(argv)
            .env("SLURM_CONF", &self.conf)
            .output()
            .expect("env is there");
        assert!(output.status.success(), "{argv:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// Whether its controller does.
    fn answers(&self) -> bool {
        let told = self.ask(&["sh", "-c", "scontrol ping || :"]);
        !told.contains("DOWN")
    }

    /// The jobs that are not over: state and name.
    fn jobs(&self) -> String {
        self.ask(&["squeue", "--noheader", "--format=%T %j"])
    }

    /// Puts an empty file system over a directory, as one node sees it.
    fn hide(&self, node: &str, dir: &Path) {
        let run = self.conf.with_file_name("run");
        let pid = fs::read_to_string(run.join(format!("node-{node}.pid"))).unwrap();
        let pid = pid.trim();
        let dir = dir.to_str().unwrap();
        let enter = ["nsenter", "--mount", "--target", pid];
        self.ask(&[&enter[..], &["mount", "-t", "tmpfs", "none", dir]].concat());
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.harness.stdin.take());
        let _ = self.harness.wait();
    }
}

/// Why there can be no cluster.
fn lacking(harness: &Path) -> Option<String> {
    if !harness.is_file() {
        let harness = harness.display();
        let why = "is not there; JOB_MONITOR_SLURM names another";
        return Some(format!("{harness} {why}"));
    }
    let sbin = "/usr/sbin:/sbin:/usr/local/sbin";
    let path = format!("{}:{sbin}", std::env::var("PATH").unwrap_or_default());
    let programs = ["slurmctld", "slurmd", "srun", "munged"];
    let missing = programs.into_iter().find(|program| {
        let path = std::ffi::OsStr::new(&path);
        job_monitor::process::find_program(program.as_ref(), path, Path::new("/")).is_err()
    })?;
    Some(format!("{missing} is not installed"))
}
