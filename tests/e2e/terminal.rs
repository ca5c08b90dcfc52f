//! What a person sees: the program on a real terminal, which tmux plays. Each screen that is
//! waited for here is one that a person would look at.
//!
//! Without tmux the tests are skipped and say so, unless `JOB_MONITOR_REQUIRE` lists `tmux`.

use crate::space::{Project, Space, job_monitor, lacks, spawn, wait_for, wait_until};
use serde_json::json;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// An agent that says something, calls a tool, and waits for the file `go-ID` in the project.
const AGENT: &str = r#"cat > /dev/null
say() { printf '%s\n' "$1"; }
say '{"type":"system","subtype":"init","cwd":"/p","session_id":"s","model":"model-x","claude_code_version":"2.1"}'
say '{"type":"assistant","message":{"id":"m1","content":[{"type":"text","text":"Läuft: \u001b[2J I will test."}],"usage":{"input_tokens":100,"output_tokens":20}},"parent_tool_use_id":null}'
say '{"type":"assistant","message":{"id":"m2","content":[{"type":"tool_use","id":"t1","name":"Bash","input":{"command":"cargo test"}}],"usage":{"input_tokens":30000,"output_tokens":1}},"parent_tool_use_id":null}'
until [ -e "go-$JOB_MONITOR_JOB_ID" ]; do sleep 0.05; done
say '{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t1","content":"3 passed","is_error":false}]},"parent_tool_use_id":null}'
say '{"type":"result","subtype":"success","is_error":false,"result":"All is well.","num_turns":2,"duration_ms":4000,"total_cost_usd":0.25,"usage":{"input_tokens":200,"output_tokens":40},"session_id":"s"}'
"#;

#[test]
fn a_job_is_followed_from_submit_to_retry() {
    let Some(desk) = Desk::new() else { return };
    let Desk { space, project, .. } = &desk;

    desk.type_in("echo 'Run the tests.' | job-monitor submit -d first -");
    let first = desk.new_job("first");
    let screen = desk.wait("the id", |screen| screen.contains(&first));
    assert!(!screen.contains("job-monitor: "), "{screen}");

    // The overview, which changes by itself, and fits into whatever window there is.
    desk.type_in("job-monitor watch");
    let screen = desk.wait("what runs", |screen| screen.contains("  Bash cargo test"));
    let line = line_with(&screen, "● first");
    assert!(line.starts_with("alpha  ● first  "), "{screen}");
    assert!(
        screen.starts_with("job-monitor  1 running, 0 waiting"),
        "{screen}"
    );
    assert!(line_with(&screen, "beta").contains("idle"), "{screen}");
    assert!(
        screen.lines().any(|line| line.matches(':').count() == 6),
        "no hours on the timeline: {screen}"
    );
    project.submit("job-20990101-120000-second", "Run them again.\n");
    desk.wait("what waits", |screen| screen.contains("1 waiting: second"));
    desk.wait("the clock", |screen| !screen.contains(line));
    desk.resize(44, 6);
    let screen = desk.wait("a line for each project", |screen| {
        screen.contains("● first") && !line_with(screen, "beta").is_empty()
    });
    assert!(screen.lines().count() <= 6, "{screen}");
    desk.resize(80, 24);
    desk.wait("all of it again", |screen| {
        screen.contains("1 waiting: second")
    });
    desk.key("q");
    desk.wait("the screen from before", |screen| {
        screen.contains(&first) && !screen.contains("● first")
    });
    desk.has_its_modes();

    // What the agent does, while it does it.
    desk.type_in(&format!("clear; job-monitor logs -f {first}; echo exit=$?"));
    let screen = desk.wait("the call", |screen| screen.contains("● Bash cargo test"));
    assert!(screen.contains("─── start 1, "), "{screen}");
    assert!(screen.contains("Läuft: �[2J I will test."), "{screen}");
    desk.go(&first);
    let screen = desk.wait("the end", |screen| screen.contains("exit=0"));
    for line in [
        "  └ 3 passed",
        "All is well.",
        "✓ done, 2 turns, $0.2500",
        "─── completed after ",
    ] {
        assert!(screen.contains(line), "no {line:?} in\n{screen}");
    }

    // A job that is cancelled while it is waited for.
    let second = "job-20990101-120000-second";
    desk.type_in(&format!("clear; job-monitor wait {second}; echo exit=$?"));
    let screen = desk.wait("the live line", |screen| {
        screen.contains("s: Bash cargo test")
    });
    let line = line_with(&screen, "Bash cargo test").to_owned();
    assert!(line.starts_with("second "), "{screen}");
    assert!(line.contains("s: Bash cargo test"), "{screen}");
    desk.wait("the clock", |screen| !screen.contains(&line));
    space.run(&["cancel", second]).ok();
    let screen = desk.wait("the outcome", |screen| screen.contains("exit=4"));
    assert!(
        screen.contains(&format!("– {second}: cancelled")),
        "{screen}"
    );
    assert!(!screen.contains("Bash cargo test"), "left over: {screen}");

    // The same again, and this time it ends well.
    desk.type_in(&format!("clear; job-monitor retry {second}"));
    let retried = desk.new_job("second");
    desk.wait("the new id", |screen| screen.contains(&retried));
    desk.go(&retried);
    desk.type_in(&format!("clear; job-monitor wait {retried}; echo exit=$?"));
    let screen = desk.wait("the outcome", |screen| screen.contains("exit=0"));
    assert!(
        screen.contains(&format!("✓ {retried}: completed after ")),
        "{screen}"
    );
}

#[test]
fn submit_follow_shows_the_work_and_ends_as_the_job_does() {
    let Some(desk) = Desk::new() else { return };
    desk.type_in("echo 'Do it.' | job-monitor submit -d one --follow -; echo exit=$?");
    desk.wait("the call", |screen| screen.contains("● Bash cargo test"));
    let id = desk.new_job("one");
    desk.space.run(&["cancel", &id]).ok();
    let screen = desk.wait("the end", |screen| screen.contains("exit=4"));
    assert!(screen.contains("─── cancelled"), "{screen}");
}

#[test]
fn an_overview_that_is_ended_by_a_signal_gives_the_terminal_back() {
    let Some(desk) = Desk::new() else { return };
    for signal in ["INT", "TERM"] {
        desk.type_in("clear; echo before; sh -c 'echo $$ > pid; exec job-monitor watch'");
        desk.wait("the overview", |screen| screen.contains("beta   idle"));
        // Nothing runs, so that no clock is what has it drawn anew.
        desk.resize(40, 20);
        desk.wait("an overview as wide as the window", |screen| {
            line_with(screen, "····").chars().count() == 39
        });
        desk.resize(80, 24);
        let pid = fs::read_to_string(desk.project.path.join("pid")).unwrap();
        let ended = Command::new("kill")
            .args([&format!("-{signal}"), pid.trim()])
            .status();
        assert!(ended.unwrap().success());
        let screen = desk.wait("the shell", |screen| screen.starts_with("before"));
        assert!(!screen.contains("beta"), "{screen}");
        desk.has_its_modes();
    }
}

#[test]
fn a_hold_is_counted_down() {
    let Some(desk) = Desk::new() else { return };
    let until = "2099-01-01T00:00:00Z";
    let hold = json!({"agent": "claude", "kind": "usage_limit", "reason": "limit reached",
        "since": "2026-01-01T00:00:00Z", "until": until, "probe_at": null});
    fs::create_dir_all(desk.space.state()).unwrap();
    desk.space.stop();
    let path = desk.space.state().join("holds.json");
    fs::write(path, json!({"list": [hold], "blind": {}}).to_string()).unwrap();
    desk.space.start();
    desk.resize(160, 24);
    desk.type_in("job-monitor watch");
    let screen = desk.wait("the hold", |screen| {
        screen.contains("‖ Held: usage limit until 20")
    });
    // Once for each of the two projects.
    assert_eq!(screen.matches("usage limit").count(), 2, "{screen}");
    desk.space.stop();
    desk.wait("that nothing runs jobs", |screen| {
        screen.starts_with("job-monitor  the monitor is not running; ")
    });
}

// --- terminals that can do less ---

#[test]
fn without_colour_there_is_none_and_everything_else_is() {
    let Some(desk) = Desk::new() else { return };
    let id = desk.finished_job();
    desk.type_in(&format!("export NO_COLOR=1; clear; job-monitor logs {id}"));
    let log = desk.wait("the log", |screen| screen.contains("completed after"));
    assert!(
        log.contains("● Bash cargo test") && log.contains("Läuft"),
        "{log}"
    );
    assert_eq!(desk.colours(), Vec::<String>::new());
    desk.type_in("clear; job-monitor watch");
    desk.wait("the overview", |screen| screen.contains("✓"));
    assert_eq!(desk.colours(), Vec::<String>::new());
    desk.key("q");
    // What is typed before it has left is still its own.
    desk.wait("the shell", |screen| !screen.contains("q leaves"));
    // That the same screen has colours otherwise shows that they would have been seen.
    desk.type_in(&format!("unset NO_COLOR; clear; job-monitor logs {id}"));
    desk.wait("the log", |screen| screen.contains("completed after"));
    assert_ne!(desk.colours(), Vec::<String>::new());
}

#[test]
fn a_dumb_terminal_gets_lines_and_no_commands() {
    let Some(desk) = Desk::new() else { return };
    let id = desk.finished_job();
    desk.type_in("export TERM=dumb");
    let bytes = desk.bytes_of(&format!("job-monitor logs {id}"), || {});
    assert!(
        bytes.contains("* Bash cargo test\r\n  `- 3 passed"),
        "{bytes:?}"
    );
    assert!(bytes.contains("--- completed after"), "{bytes:?}");
    let overview = desk.bytes_of("job-monitor watch", || {});
    assert!(overview.contains("alpha  idle\r\n"), "{overview:?}");
    let waited = desk.bytes_of(&format!("job-monitor wait {id}"), || {});
    assert!(
        waited.contains(&format!("+ {id}: completed after ")),
        "{waited:?}"
    );
    for bytes in [bytes, overview, waited] {
        assert!(!bytes.contains('\x1b'), "{bytes:?}");
    }
}

#[test]
fn a_terminal_of_another_encoding_gets_ascii() {
    let Some(desk) = Desk::new() else { return };
    let id = desk.finished_job();
    desk.type_in("export LC_ALL=C");
    let bytes = desk.bytes_of(&format!("job-monitor logs {id}"), || {});
    assert!(bytes.contains("L?uft: ?[2J I will test."), "{bytes:?}");
    let overview = desk.bytes_of("job-monitor watch", || {
        // The last lines of the logs, which are still there, have such a mark, too.
        desk.wait("the overview", |screen| {
            screen.contains("(q leaves)") && screen.contains("+ ")
        });
        desk.key("q");
    });
    assert!(overview.contains("first"), "{overview:?}");
    for bytes in [bytes, overview] {
        assert!(bytes.is_ascii(), "{bytes:?}");
    }
}

#[test]
fn in_a_narrow_window_the_live_line_stays_one_line() {
    let Some(desk) = Desk::new() else { return };
    desk.project.submit("job-20260101-120000-first", "Do it.\n");
    desk.resize(24, 10);
    desk.type_in("clear; job-monitor wait job-20260101-120000-first; echo exit=$?");
    let line = |screen: &str| line_with(screen, "first ").to_owned();
    // The command itself is wrapped; what follows it is the line.
    let one = desk.wait("the live line", |screen| screen.contains("s: Bash"));
    desk.wait("the clock", |screen| {
        line(screen) != line(&one) && screen.contains("s: Bash")
    });
    let screen = desk.screen();
    assert_eq!(screen.matches("s: Bash").count(), 1, "{screen}");
    desk.go("job-20260101-120000-first");
    let screen = desk.wait("the end", |screen| screen.contains("exit=0"));
    assert!(!screen.contains("s: Bash"), "{screen}");
}

#[test]
fn several_jobs_are_waited_for_on_one_line() {
    let Some(desk) = Desk::new() else { return };
    let ids = ["job-20260101-120000-first", "job-20260101-120001-other"];
    desk.project.submit(ids[0], "Do it.\n");
    let runs = |view: &serde_json::Value| view["is_processing"] == true;
    desk.project.wait_view("the first", runs);
    desk.project.submit(ids[1], "Do it.\n");
    desk.type_in(&format!(
        "clear; job-monitor wait {}; echo exit=$?",
        ids.join(" ")
    ));
    desk.wait("the first", |screen| {
        screen.contains("0 of 2 done; first ") && screen.contains("Bash cargo test")
    });
    desk.go(ids[0]);
    let screen = desk.wait("the other", |screen| screen.contains("1 of 2 done; other "));
    assert!(
        screen.contains(&format!("✓ {}: completed", ids[0])),
        "{screen}"
    );
    desk.go(ids[1]);
    let screen = desk.wait("the end", |screen| screen.contains("exit=0"));
    assert!(!screen.contains(" of 2 done"), "{screen}");
}

// --- no terminal at all ---

#[test]
fn a_reader_that_leaves_ends_the_following_of_a_job_that_still_runs() {
    let (space, project) = running_job();
    let id = "job-20260101-120000-first";
    for line in [
        format!("exec 2>&1; {} logs -f {id} | head -1", job_monitor()),
        format!("exec 2>&1; {} logs -f --raw {id} | head -1", job_monitor()),
        format!("exec 2>&1; {} watch | head -1", job_monitor()),
    ] {
        let own = space.command(&[]);
        let mut shell = Command::new("sh");
        shell.args(["-c", &line]).env_clear();
        shell.envs(
            own.get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        shell.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = spawn(&mut shell);
        // `head` leaves at once, and the shell waits for both.
        wait_until("the end of both", || child.try_wait().unwrap().is_some());
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(text.lines().count(), 1, "{line}: {text}");
    }
    assert_eq!(project.result(id), None);
}

#[test]
fn off_a_terminal_everything_is_plain_text_and_raw_is_raw() {
    let (space, project) = running_job();
    let id = "job-20260101-120000-first";
    let running = space.run(&["logs", id]).ok();
    assert!(running.ends_with("s: Bash cargo test\n"), "{running}");
    let overview = space.run(&["watch"]).ok();
    assert!(overview.contains("alpha  ● first  "), "{overview}");
    fs::write(project.path.join(format!("go-{id}")), "").unwrap();
    let ran = space.run(&["wait", id]);
    assert_eq!((ran.status, ran.stdout), (0, format!("{id}: completed\n")));
    assert_eq!(ran.stderr, "");
    let told = space.run(&["logs", "-f", id]).ok();
    assert!(!told.contains('\x1b'), "{told}");
    let raw = space.run(&["logs", "--raw", id]).ok();
    let kept = fs::read_to_string(project.logs(&format!("{id}.jsonl"))).unwrap();
    assert_eq!(raw, kept);
    assert_eq!(space.run(&["logs", "job-20260101-120000-none"]).status, 3);
}

#[test]
fn every_start_of_a_job_is_told() {
    let space = Space::new();
    space.claude(
        r#"cat > /dev/null
printf '%s\n' '{"type":"system","subtype":"init","session_id":"s","model":"m"}'
echo "words on standard error" >&2
[ -e second ] || { touch second; sleep 60; }
printf '%s\n' '{"type":"result","subtype":"success","is_error":false,"result":"Done at last."}'"#,
    );
    let project = space.project("alpha");
    space.start();
    let id = "job-20260101-120000-first";
    project.submit(id, "Do it.\n");
    project.wait_made("second");
    assert_eq!(space.stop(), 0);
    let paused = space.run(&["logs", id]).ok();
    assert!(paused.contains("─── was interrupted"), "{paused}");
    space.start();
    project.wait_result(id);
    let told = space.run(&["logs", id]).ok();
    let seams: Vec<&str> = told
        .lines()
        .filter(|line| line.starts_with("───"))
        .collect();
    let begins = [
        "─── start 1, ",
        "─── standard error",
        "─── start 2, ",
        "─── standard error",
        "─── completed after ",
    ];
    assert_eq!(seams.len(), begins.len(), "{told}");
    for (seam, begin) in seams.iter().zip(begins) {
        assert!(seam.starts_with(begin), "{told}");
    }
    assert!(told.contains("Done at last."), "{told}");
    assert_eq!(told.matches("words on standard error").count(), 2, "{told}");
}

#[test]
fn a_job_that_waits_is_followed_from_its_first_word_and_a_plain_agent_prints_as_it_does() {
    let space = Space::new();
    space.plain_agent(
        "cat; printf 'half a line'; until [ -e go ]; do sleep 0.05; done; echo ' and the rest'",
    );
    let project = space.project("alpha");
    let id = "job-20260101-120000-first";
    project.submit(id, "say it\n");
    let waiting = space.run(&["logs", id]).ok();
    assert_eq!(waiting, "─── waits for its turn\n");

    let out = space.root().join("followed");
    let mut command = space.command(&["logs", "-f", id]);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    command.stdout(fs::File::create(&out).unwrap());
    let mut child = spawn(&mut command);
    space.start();
    // Shown before its line is complete.
    let told = || fs::read_to_string(&out).unwrap();
    wait_until("half a line", || told().ends_with("half a line"));
    fs::write(project.path.join("go"), "").unwrap();
    let status = wait_for("the end", || child.try_wait().unwrap());
    assert!(status.success());
    assert!(
        told().contains("half a line and the rest\n\n─── completed after "),
        "{}",
        told()
    );
}

#[test]
fn an_agent_whose_first_event_is_late_is_followed_from_it() {
    let space = Space::new();
    space.claude(&format!(
        "until [ -e go ]; do sleep 0.05; done\nprintf '{{\"type\":'\nuntil [ -e on ]; do sleep 0.05; done\n{}",
        AGENT.replacen("say '{\"type\":\"system\"", "say '\"system\"", 1)
    ));
    let project = space.project("alpha");
    let id = "job-20260101-120000-first";
    project.submit(id, "Do it.\n");
    space.start();
    let log = project.logs(&format!("{id}.jsonl"));
    wait_until("the agent", || log.exists());
    let out = space.root().join("followed");
    let mut command = space.command(&["logs", "-f", id]);
    command.stdout(fs::File::create(&out).unwrap());
    let mut child = spawn(&mut command);
    let told = || fs::read_to_string(&out).unwrap();
    wait_until("the start's line", || told().contains("─── start 1"));
    for step in ["go", "on", &format!("go-{id}")] {
        fs::write(project.path.join(step), "").unwrap();
        // Long enough for it to have looked in between.
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    let status = wait_for("the end", || child.try_wait().unwrap());
    assert!(status.success());
    assert!(told().contains("● Bash cargo test"), "{}", told());
    assert!(!told().contains("{\"type\""), "{}", told());
}

// --- the desk ---

fn running_job() -> (Space, Project) {
    let space = Space::new();
    space.claude(AGENT);
    let project = space.project("alpha");
    space.start();
    let id = "job-20260101-120000-first";
    project.submit(id, "Do it.\n");
    let log = project.logs(&format!("{id}.jsonl"));
    wait_until("the agent's call", || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("cargo test"))
    });
    (space, project)
}

fn line_with<'a>(screen: &'a str, part: &str) -> &'a str {
    screen
        .lines()
        .find(|line| line.contains(part))
        .unwrap_or_default()
}

/// A terminal with a shell in it, two projects, and the daemon.
struct Desk {
    space: Space,
    project: Project,
    socket: PathBuf,
}

impl Desk {
    fn new() -> Option<Desk> {
        if let Err(error) = Command::new("tmux")
            .arg("-V")
            .stdout(Stdio::null())
            .status()
        {
            lacks("tmux", &format!("there is no tmux ({error})"));
            return None;
        }
        let space = Space::new();
        space.env("PS1", "$ ");
        space.env("SHELL", "/bin/sh");
        space.claude(AGENT);
        let project = space.project("alpha");
        space.project("beta");
        space.start();
        std::os::unix::fs::symlink(job_monitor(), space.root().join("bin/job-monitor")).unwrap();
        let desk = Desk {
            socket: space.root().join("tmux"),
            space,
            project,
        };
        let size = ["-x", "80", "-y", "24"];
        desk.tmux(
            &[
                &["-f", "/dev/null", "new-session", "-d"],
                &size[..],
                &["sh"],
            ]
            .concat(),
        );
        Some(desk)
    }

    fn tmux(&self, args: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(&self.socket).args(args).env_clear();
        let own = self.space.command(&[]);
        command.envs(
            own.get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        command.current_dir(&self.project.path).stdin(Stdio::null());
        let output = command.output().unwrap();
        assert!(output.status.success(), "tmux {args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn type_in(&self, line: &str) {
        self.tmux(&["send-keys", "-l", line]);
        self.key("Enter");
    }

    fn key(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    fn resize(&self, columns: u32, rows: u32) {
        let (columns, rows) = (columns.to_string(), rows.to_string());
        self.tmux(&["resize-window", "-x", &columns, "-y", &rows]);
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// The screen once it shows something.
    #[track_caller]
    fn wait(&self, what: &str, shown: impl Fn(&str) -> bool) -> String {
        wait_for(what, || Some(self.screen()).filter(|screen| shown(screen)))
    }

    /// What a command writes to the terminal, to the byte; `during` does what a person does.
    fn bytes_of(&self, line: &str, during: impl FnOnce()) -> String {
        let path = self.space.root().join("bytes");
        self.tmux(&["pipe-pane", &format!("exec cat > {}", path.display())]);
        // The line that is typed does not look like what it prints.
        self.type_in(&format!("echo beg''in; {line}; echo fin''ish"));
        during();
        let bytes = wait_for("the command's end", || {
            let text = String::from_utf8_lossy(&fs::read(&path).ok()?).into_owned();
            let (_, after) = text.split_once("begin\r\n")?;
            Some(after.split_once("finish\r\n")?.0.to_owned())
        });
        self.tmux(&["pipe-pane"]);
        fs::remove_file(path).unwrap();
        bytes
    }

    /// The colours on the screen, by the numbers of their escape sequences.
    fn colours(&self) -> Vec<String> {
        let screen = self.tmux(&["capture-pane", "-e", "-p"]);
        let sequences = screen
            .split("\x1b[")
            .skip(1)
            .filter_map(|rest| rest.split_once('m'));
        let numbers = sequences.flat_map(|(numbers, _)| numbers.split(';'));
        let is_colour = |number: &&str| matches!(number.parse(), Ok(30..=37 | 90..=97));
        numbers.filter(is_colour).map(str::to_owned).collect()
    }

    /// The terminal echoes and edits lines, as a shell left it.
    #[track_caller]
    fn has_its_modes(&self) {
        self.type_in("clear; stty -a");
        let modes = self.wait("the modes", |screen| screen.contains("icanon"));
        assert!(
            !modes.contains("-icanon") && !modes.contains("-echo "),
            "{modes}"
        );
    }

    /// The id of the job with this description that was submitted last.
    fn new_job(&self, description: &str) -> String {
        let items = self.project.item("");
        let ending = format!("-{description}.md");
        wait_for("the document", || {
            let is_done =
                |name: &&String| self.project.result(name.trim_end_matches(".md")).is_some();
            let names = self.project.names(&items);
            let name = names
                .iter()
                .find(|name| name.ends_with(&ending) && !is_done(name))?;
            Some(name.trim_end_matches(".md").to_owned())
        })
    }

    /// Lets a job's agent go on to its end.
    fn go(&self, id: &str) {
        fs::write(self.project.path.join(format!("go-{id}")), "").unwrap();
    }

    fn finished_job(&self) -> String {
        let id = "job-20260101-120000-first";
        self.go(id);
        self.project.submit(id, "Do it.\n");
        self.project.wait_result(id);
        id.to_owned()
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the screen\n{}", self.screen());
        }
        // Its shell, and itself after that.
        self.tmux(&["kill-server"]);
    }
}
