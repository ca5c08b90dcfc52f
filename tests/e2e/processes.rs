//! The process tree: whatever an agent forks, nothing of it outlives its job (SPEC 5), and nobody
//! is signalled who is not verified to be ours.

use crate::machine::start_time_of;
use crate::recovery::{claim, lay_claim};
use crate::running::cancel;
use crate::space::{Project, Space, is_alive, job_monitor, lacks, spawn, wait_until};
use crate::stage::*;
use job_monitor::process::Token;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use serde_json::json;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// An agent that leaves a descendant of each kind, notes their numbers, and then does what its
/// document says. All of them hold its output open.
const ZOO: &str = r#"cat > tail; pids=$PWD/pids
sleep 600 & echo "child $!" >> "$pids"
sh -c 'sleep 600 & echo "orphan $!" >> "$0"' "$pids"
setsid sh -c 'echo "session $$" >> "$0"; exec sleep 600' "$pids" &
setsid sh -c 'sh -c "echo daemon \$\$ >> \"\$0\"; exec sleep 600" "$0" &' "$pids"
sh -c 'trap "" TERM HUP INT; echo "deaf $$" >> "$0"; while :; do sleep 600; done' "$pids" &
setsid sh -c 'trap "" TERM HUP INT; echo "deaf-session $$" >> "$0"; while :; do sleep 600; done' "$pids" &
sh -c 'trap "" HUP; echo "stopped $$" >> "$0"; kill -STOP $$; sleep 600' "$pids" &
setsid sh -c 'trap "" HUP; echo "stopped-session $$" >> "$0"; kill -STOP $$; sleep 600' "$pids" &
env -i "PATH=$PATH" sh -c 'echo "nameless $$" >> "$0"; exec sleep 600' "$pids" &
env -i "PATH=$PATH" timeout 600 sh -c 'echo "nameless-group $$" >> "$0"; exec sleep 600' "$pids" &
env -i "PATH=$PATH" setsid sh -c 'cd /; echo "nameless-session $$" >> "$0"; exec env -i sleep 600' "$pids" &
while [ "$(wc -l < "$pids")" -lt 11 ]; do echo waiting; sleep 0.02; done
echo $$ > .ready; mv .ready ready; . ./tail"#;

/// What documents have the agent itself do in the end.
const IDLE: &str = "exec sleep 600";
const DEAF: &str = "trap '' TERM; while :; do sleep 600; done";
const STOPPED: &str = "kill -STOP $$; sleep 600";

/// The descendants of an agent, by kind. Those that are left are ended with the value: some of
/// them bear no mark by which the space would find them.
struct Zoo(Vec<(String, i32)>);

impl Zoo {
    /// Waits until all of them are there.
    #[track_caller]
    fn of(project: &Project) -> Zoo {
        project.wait_made("ready");
        let lines = project.made("pids");
        let pair = |line: &str| {
            let (kind, pid) = line.split_once(' ').unwrap();
            (kind.to_owned(), pid.parse().unwrap())
        };
        let zoo = Zoo(lines.lines().map(pair).collect());
        assert_eq!(zoo.0.len(), 11, "{lines}");
        zoo
    }

    /// Those that are alive, by kind.
    fn alive(&self) -> Vec<&str> {
        let alive = self.0.iter().filter(|(_, pid)| is_alive(*pid));
        alive.map(|(kind, _)| kind.as_str()).collect()
    }

    /// Waits for the 5 seconds that SPEC 5 allows until nobody but `spared` is alive.
    #[track_caller]
    fn assert_gone(&self, what: &str, spared: &[&str]) {
        let ended = Instant::now();
        loop {
            let left = self.alive();
            if left.iter().all(|kind| spared.contains(kind)) {
                return;
            }
            let late = ended.elapsed() > Duration::from_secs(5);
            assert!(!late, "{what}: alive 5 s after the end: {left:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Zoo {
    fn drop(&mut self) {
        for (_, pid) in self.0.iter().filter(|(_, pid)| is_alive(*pid)) {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
    }
}

#[test]
fn however_a_job_ends_nothing_of_it_is_alive_five_seconds_later() {
    let all = &[IDLE, DEAF, STOPPED][..];
    // How, the setting that it takes, what the agent itself does in the end, and the kind of error.
    let rows = [
        ("exit", "", &["exit 0"][..], ""),
        ("failure", "", &["exit 3"], "exit_code"),
        ("death", "", &["kill -KILL $$"], "signal"),
        ("timeout", "timeout: 3s", all, "timeout"),
        ("silence", "silence_timeout: 1s", &[IDLE, STOPPED], "silent"),
        ("output", "max_output: 1 MiB", &["exec yes"], "output_limit"),
        ("cancel", "", all, "cancelled"),
        ("stop", "", all, ""),
    ];
    // Side by side, since they wait most of their time.
    std::thread::scope(|scope| {
        for (how, setting, leaders, kind) in rows {
            for leader in leaders {
                scope.spawn(move || assert_ends_with_all(how, setting, leader, kind));
            }
        }
    });
}

fn assert_ends_with_all(how: &str, setting: &str, leader: &str, kind: &str) {
    let what = format!("{how}, {leader:?}");
    let (space, project) = alpha(ZOO);
    space.set(json!({"grace": "300ms"}));
    if let Some((key, value)) = setting.split_once(": ") {
        space.set(json!({key: value}));
    }
    space.start();
    project.submit(ID, leader);
    let zoo = Zoo::of(&project);
    let agent = project.made("ready").trim().parse().unwrap();
    match how {
        "cancel" => cancel(&project, ID),
        "stop" => assert_eq!(space.stop(), 0),
        _ => {}
    }
    if how == "stop" {
        assert!(project.claim(ID).is_some() && project.result(ID).is_none());
    } else {
        let result = project.wait_result(ID);
        let told = result["error_kind"].as_str().unwrap_or_default();
        assert_eq!(told, kind, "{what}: {result}");
        // Those that left the group are there to be swept however it ended.
        let swept = result["leftovers"].as_u64().unwrap();
        assert!(swept >= 5, "{what}: {swept} swept of {:?}", zoo.0);
        space.wait_log("left processes behind; they were ended");
    }
    zoo.assert_gone(&what, &[]);
    assert!(!is_alive(agent), "{what}: the agent itself is alive");
    space.assert_no_survivor();
}

/// A daemon that an agent leaves.
const SURVIVOR: &str =
    "setsid sh -c 'echo $$ > pid; exec sleep 600' < /dev/null > /dev/null 2>&1 &";

#[test]
fn a_nameless_survivor_is_known_by_its_directory_while_others_run() {
    let space = with_agent("sh -s");
    let (alpha, beta) = (space.project("alpha"), space.project("beta"));
    space.start();
    beta.submit(ID, "echo ran > ran; while [ ! -e go ]; do sleep 0.02; done");
    beta.wait_made("ran");
    let survivor = format!("env -i PATH=\"$PATH\" {SURVIVOR}");
    alpha.submit(
        ID,
        &format!("{survivor}\nwhile [ ! -s pid ]; do sleep 0.02; done"),
    );
    let result = alpha.wait_result(ID);
    assert_eq!(result["leftovers"], 1);
    let pid = alpha.made("pid").trim().parse().unwrap();
    assert!(!is_alive(pid));
    beta.touch("go");
    beta.wait_completed(ID);
}

#[test]
fn one_project_s_sweep_leaves_another_project_s_agent_alone() {
    let space = with_agent("sh -s");
    let (alpha, beta) = (space.project("alpha"), space.project("beta"));
    space.start();
    // Its helper is a daemon of its own, just as alpha's is.
    let waits = "while [ ! -e go ]; do sleep 0.02; done; kill -0 $(cat pid) && echo alive";
    beta.submit(ID, &format!("{SURVIVOR}\n{waits}"));
    beta.wait_made("pid");
    alpha.submit(
        ID,
        &format!("{SURVIVOR}\nwhile [ ! -s pid ]; do sleep 0.02; done"),
    );
    let result = alpha.wait_result(ID);
    assert_eq!(result["leftovers"], 1, "{result}");
    beta.touch("go");
    let result = beta.wait_result(ID);
    assert_eq!(result["worker_output"]["summary"], "alive", "{result}");
    space.assert_no_survivor();
}

#[test]
fn a_process_that_never_stays_the_same_program_is_ended_like_any_other() {
    // In the midst of its exec a process shows no environment; of so many, some are met in it.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_changing_ended(20));
        }
    });
}

fn assert_changing_ended(jobs: u32) {
    let space = Space::new();
    let changes = space.program("changes", r#"exec "$0""#);
    space.plain_agent("sh -s");
    space.set(json!({"on_interrupt": "fail"}));
    let project = space.project("alpha");
    space.start();
    let changes = changes.display();
    let script = format!("setsid {changes} < /dev/null > /dev/null 2>&1 & echo $! > pid");
    for at in 0..jobs {
        let id = format!("job-20260101-1200{at:02}-changes");
        // Now and then it is the next daemon that has to find it.
        let is_left = at % 5 == 4;
        let more = ["", "; touch left; exec sleep 600"][usize::from(is_left)];
        project.submit(&id, &format!("{script}{more}"));
        if is_left {
            project.wait_made("left");
            space.kill();
            fs::remove_file(project.path.join("left")).unwrap();
            space.start();
        }
        project.wait_result(&id);
        let pid: i32 = project.made("pid").trim().parse().unwrap();
        let alive = is_alive(pid);
        if alive {
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        }
        assert!(!alive, "{id}: {pid} was left, after a kill: {is_left}");
    }
}

// --- what a dead daemon left ---

#[test]
fn what_a_killed_daemon_s_agent_left_is_found_by_token_and_by_the_agent_s_identity() {
    // Where the agent is gone, too, its number proves nothing any more, and the token alone must do.
    let rows: [(&str, &[&str]); 2] = [
        ("alive", &["nameless-session"]),
        ("gone", &["nameless-session", "nameless", "nameless-group"]),
    ];
    for (agent, spared) in rows {
        let (space, project) = alpha(ZOO);
        space.start();
        project.submit(ID, IDLE);
        let zoo = Zoo::of(&project);
        let pid = project.made("ready").trim().parse().unwrap();
        wait_until("the claim to name the process", || {
            project.claim(ID).unwrap().contains(r#""process":{"#)
        });
        space.kill();
        if agent == "gone" {
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
            wait_until("the agent's end", || !is_alive(pid));
        }
        assert_eq!(zoo.alive().len(), 11, "they died with the daemon");
        space.start();
        assert_eq!(project.wait_result(ID)["error_kind"], "interrupted");
        zoo.assert_gone(agent, spared);
        assert!(!is_alive(pid));
    }
}

// --- planted claims ---

/// The first process of a namespace of its own, and of a session: so that a program which heeded
/// a planted claim would end what stands in the namespace, and not this machine. It starts a
/// bystander in its session, then the daemon as the leader of another, with a bystander there.
const NAMESPACE: &str = r#"
start_time() { sed 's/.*) //' "/proc/$1/stat" | cut -d' ' -f20; }
plant() { sed -i "s/}\$/,\"process\":{\"pid\":$2,\"start_time\":$(start_time "$3")}}/" "alpha/jobs/state/job-20260101-12000$1-x.claim"; }
case ${0##*/} in
first)
    sleep 600 & echo $! >> bystanders
    echo $$ > first
    setsid "$1/second" "$1" "$2" &
    wait ;;
second)
    sleep 600 & echo $! >> bystanders
    bash -c 'set -m; sleep 600 & echo $! >> bystanders'
    plant 0 0 $$; plant 1 1 1; plant 2 -1 $$; plant 3 -$$ $$; plant 4 2147483647 $$
    # The daemon itself; and one that leads a group, but no session, as every agent does.
    plant 5 $$ $$; plant 6 $(tail -n 1 bystanders) $(tail -n 1 bystanders)
    exec "$2" daemon ;;
esac"#;

#[test]
fn a_planted_claim_s_process_is_not_signalled_unless_it_can_be_ours() {
    let mut namespace = Command::new("unshare");
    namespace.args(["--pid", "--fork", "--mount-proc", "--kill-child"]);
    if !Uid::effective().is_root() {
        namespace.args(["--user", "--map-root-user"]);
    }
    let mut can = Command::new("unshare");
    let can = can.args(namespace.get_args()).arg("true").output();
    if !can.as_ref().is_ok_and(|output| output.status.success()) {
        let why = format!("there are none of processes: {can:?}");
        return lacks("namespaces", &why);
    }
    let space = Space::new();
    // The bystanders are children of whoever started them: one that was ended is a zombie.
    space.plain_agent(
        r#"cat > /dev/null
for pid in $(cat ../bystanders) 1; do
    grep -q '^State:.[RSD]' "/proc/$pid/status" && echo alive || echo "$pid is dead"
done"#,
    );
    let project = space.project("alpha");
    for row in 0..7 {
        let id = format!("job-20260101-12000{row}-x");
        project.submit(&id, "x");
        for ending in ["md", "out"] {
            fs::write(project.logs(&format!("{id}.{ending}")), "x").unwrap();
        }
        lay_claim(&project, &id, &claim(&id, json!({})));
    }
    let last = "job-20260101-130000-last";
    project.submit(last, "x");
    for name in ["first", "second"] {
        space.program(name, NAMESPACE);
    }
    let bin = space.root().join("bin");
    space.spawn(|command| {
        let mut outer = space.command_of("unshare");
        outer.args(namespace.get_args()).arg("setsid");
        outer.arg(bin.join("first")).arg(&bin).arg(job_monitor());
        outer.current_dir(space.root());
        outer.stdin(Stdio::null()).stdout(Stdio::null());
        outer.stderr(fs::File::create(space.root().join("daemon-1.log")).unwrap());
        *command = outer;
    });
    let result = project.wait_result(last);
    assert_eq!(result["stdout"], "alive\nalive\nalive\nalive\n", "{result}");
    for row in 0..7 {
        let result = project.wait_result(&format!("job-20260101-12000{row}-x"));
        assert_eq!(result["error_kind"], "interrupted", "row {row}");
    }
    space.kill();
}

/// A process that leads a session and shows these marks, as this user or as another.
fn bystander(space: &Space, uid: Option<u32>, marks: &[(&str, &str)]) -> (Child, u64) {
    let mut command = Command::new("sleep");
    command.arg("600").env_clear().envs(marks.iter().copied());
    command.current_dir(space.root()).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    if let Some(uid) = uid {
        command.uid(uid);
    }
    // SAFETY: setsid(2) is async-signal-safe and touches no memory.
    unsafe {
        command.pre_exec(|| Ok(nix::unistd::setsid().map(drop)?));
    }
    let child = spawn(&mut command);
    let start_time = start_time_of(child.id());
    (child, start_time)
}

/// What agents and hooks have in their environment.
fn marks<'a>(project: &'a str, job: &'a str, run: &'a str) -> [(&'a str, &'a str); 3] {
    [
        ("JOB_MONITOR_PROJECT", project),
        ("JOB_MONITOR_JOB_ID", job),
        ("JOB_MONITOR_RUN", run),
    ]
}

#[test]
fn what_a_broken_claim_s_job_left_is_known_by_the_marks_of_a_run_of_the_project() {
    let (space, project) = alpha("cat > /dev/null");
    let token = |place: &str| Token::new(&space.root().join(place));
    let (ours, theirs) = (token("alpha"), token("elsewhere/alpha"));
    let rows = [
        (ID, ours.as_str(), false),
        (NEXT, ours.as_str(), false),
        // Another daemon may serve a project of that name, with a job of that name.
        (ID, theirs.as_str(), true),
        // What on_finish started is nobody's leftover.
        (ID, "on_finish", true),
    ];
    let mut all = rows.map(|(job, run, spared)| {
        let marks = marks("alpha", job, run);
        (bystander(&space, None, &marks).0, marks, spared)
    });
    project.submit(ID, "x");
    lay_claim(&project, ID, "garbage");
    space.start();
    space.wait_log("processes of an earlier run had survived; they were ended (2)");
    for (process, marks, spared) in &mut all {
        let is_alive = process.try_wait().unwrap().is_none();
        assert_eq!(is_alive, *spared, "{marks:?}");
        process.kill().unwrap();
        process.wait().unwrap();
    }
}

#[test]
fn another_user_s_process_is_not_signalled_whatever_it_shows_and_a_claim_says() {
    if !Uid::effective().is_root() {
        return lacks("root", "only root can start another user's process");
    }
    let (space, project) = alpha("cat > /dev/null");
    let token = Token::new(&project.path);
    let marks = marks("alpha", NEXT, token.as_str());
    let (mut process, start_time) = bystander(&space, Some(12345), &marks);
    let last = "job-20260101-130000-last";
    for id in [ID, NEXT, last] {
        project.submit(id, "x");
        fs::write(project.logs(&format!("{id}.out")), "").unwrap();
    }
    let line = json!({"pid": process.id(), "start_time": start_time});
    let planted = claim(ID, json!({"run": token.as_str()}));
    lay_claim(&project, ID, &format!("{planted}{line}\n"));
    lay_claim(&project, NEXT, "garbage");
    space.start();
    project.wait_result(last);
    let is_alive = process.try_wait().unwrap().is_none();
    assert!(is_alive, "another user's process was ended");
    assert!(!space.log().contains("had survived"), "{}", space.log());
    process.kill().unwrap();
    process.wait().unwrap();
}
