//! What a person sees: the program on a real terminal, which tmux plays. Each screen that is
//! waited for here is one that a person would look at.
//!
//! Without tmux the tests are skipped and say so, unless `JOB_MONITOR_REQUIRE` lists `tmux`.

use crate::space::{MustHave, Project, Space, job_monitor, lacks, spawn, wait_for, wait_until};
use crate::stage::alpha;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

const FIRST: &str = "job-20260101-120000-first";
const SECOND: &str = "job-20990101-120000-second";

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
    let screen = desk.shows(&first);
    assert!(!screen.contains("job-monitor: "), "{screen}");

    // The overview, which changes by itself, and fits into whatever window there is.
    desk.type_in("job-monitor watch");
    let screen = desk.shows("  Bash cargo test");
    let line = line_with(&screen, "● first");
    assert!(line.starts_with("alpha  ● first  "), "{screen}");
    let head = "job-monitor  1 running, 0 waiting";
    assert!(screen.starts_with(head), "{screen}");
    line_with(&screen, "beta").must_have("idle");
    let has_hours = |line: &str| line.matches(':').count() == 6;
    assert!(screen.lines().any(has_hours), "no timeline: {screen}");
    project.submit(SECOND, "Run them again.\n");
    desk.shows("1 waiting: second");
    desk.wait("the clock", |screen| !screen.contains(line));
    desk.resize(44, 6);
    let screen = desk.wait("a line for each project", |screen| {
        screen.contains("● first") && !line_with(screen, "beta").is_empty()
    });
    assert!(screen.lines().count() <= 6, "{screen}");
    desk.resize(80, 24);
    desk.shows("1 waiting: second");
    desk.key("q");
    desk.wait("the screen from before", |screen| {
        screen.contains(&first) && !screen.contains("● first")
    });
    desk.has_its_modes();

    // What the agent does, while it does it.
    desk.type_in(&format!("clear; job-monitor logs -f {first}; echo exit=$?"));
    let screen = desk.shows("● Bash cargo test");
    screen.must_have("─── start 1, ");
    screen.must_have("Läuft: �[2J I will test.");
    desk.go(&first);
    let screen = desk.shows("exit=0");
    for line in [
        "  └ 3 passed",
        "All is well.",
        "✓ done, 2 turns, $0.2500",
        "─── completed after ",
    ] {
        screen.must_have(line);
    }

    // A job that is cancelled while it is waited for.
    desk.type_in(&format!("clear; job-monitor wait {SECOND}; echo exit=$?"));
    let screen = desk.shows("s: Bash cargo test");
    let line = line_with(&screen, "s: Bash cargo test");
    assert!(line.starts_with("second "), "{screen}");
    desk.wait("the clock", |screen| !screen.contains(line));
    space.run(&["cancel", SECOND]).ok();
    let screen = desk.shows("exit=4");
    screen.must_have(&format!("– {SECOND}: cancelled"));
    assert!(!screen.contains("Bash cargo test"), "left over: {screen}");

    // The same again, and this time it ends well.
    desk.type_in(&format!("clear; job-monitor retry {SECOND}"));
    let retried = desk.new_job("second");
    desk.shows(&retried);
    desk.go(&retried);
    desk.type_in(&format!("clear; job-monitor wait {retried}; echo exit=$?"));
    let screen = desk.shows("exit=0");
    screen.must_have(&format!("✓ {retried}: completed after "));
}

#[test]
fn submit_follow_shows_the_work_and_ends_as_the_job_does() {
    let Some(desk) = Desk::new() else { return };
    desk.type_in("echo 'Do it.' | job-monitor submit -d one --follow -; echo exit=$?");
    desk.shows("● Bash cargo test");
    let id = desk.new_job("one");
    desk.space.run(&["cancel", &id]).ok();
    let screen = desk.shows("exit=4");
    screen.must_have("─── cancelled");
}

#[test]
fn an_overview_that_is_ended_by_a_signal_gives_the_terminal_back() {
    let Some(desk) = Desk::new() else { return };
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        desk.type_in("clear; echo before; sh -c 'echo $$ > pid; exec job-monitor watch'");
        desk.shows("beta   idle");
        // Nothing runs, so that no clock is what has it drawn anew.
        desk.resize(40, 20);
        desk.wait("an overview as wide as the window", |screen| {
            line_with(screen, "····").chars().count() == 39
        });
        desk.resize(80, 24);
        let pid = desk.project.made("pid").trim().parse().unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
        let screen = desk.wait("the shell", |screen| screen.starts_with("before"));
        assert!(!screen.contains("beta"), "{screen}");
        desk.has_its_modes();
    }
}

#[test]
fn a_hold_is_counted_down() {
    let Some(desk) = Desk::new() else { return };
    desk.space.stop();
    desk.space.lay_limit();
    desk.space.start();
    desk.resize(160, 24);
    desk.type_in("job-monitor watch");
    let screen = desk.shows("‖ Held: usage limit until 20");
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
    desk.finish_first();
    desk.type_in(&format!(
        "export NO_COLOR=1; clear; job-monitor logs {FIRST}"
    ));
    let log = desk.shows("completed after");
    log.must_have("● Bash cargo test");
    log.must_have("Läuft");
    assert_eq!(desk.colours(), Vec::<String>::new());
    desk.type_in("clear; job-monitor watch");
    desk.shows("✓");
    assert_eq!(desk.colours(), Vec::<String>::new());
    desk.key("q");
    // What is typed before it has left is still its own.
    desk.wait("the shell", |screen| !screen.contains("q leaves"));
    // That the same screen has colours otherwise shows that they would have been seen.
    desk.type_in(&format!("unset NO_COLOR; clear; job-monitor logs {FIRST}"));
    desk.shows("completed after");
    assert_ne!(desk.colours(), Vec::<String>::new());
}

#[test]
fn a_dumb_terminal_gets_lines_and_no_commands() {
    let Some(desk) = Desk::new() else { return };
    desk.finish_first();
    desk.type_in("export TERM=dumb");
    let told = |command: &str| {
        let bytes = desk.bytes_of(&format!("job-monitor {command}"), || {});
        assert!(!bytes.contains('\x1b'), "{bytes:?}");
        bytes
    };
    let log = told(&format!("logs {FIRST}"));
    log.must_have("* Bash cargo test\r\n  `- 3 passed");
    log.must_have("--- completed after");
    told("watch").must_have("alpha  idle\r\n");
    let waited = told(&format!("wait {FIRST}"));
    waited.must_have(&format!("+ {FIRST}: completed after "));
}

#[test]
fn a_terminal_of_another_encoding_gets_ascii() {
    let Some(desk) = Desk::new() else { return };
    desk.finish_first();
    desk.type_in("export LC_ALL=C");
    let bytes = desk.bytes_of(&format!("job-monitor logs {FIRST}"), || {});
    bytes.must_have("L?uft: ?[2J I will test.");
    let overview = desk.bytes_of("job-monitor watch", || {
        // The last lines of the logs, which are still there, have such a mark, too.
        desk.wait("the overview", |screen| {
            screen.contains("(q leaves)") && screen.contains("+ ")
        });
        desk.key("q");
    });
    overview.must_have("first");
    for bytes in [bytes, overview] {
        assert!(bytes.is_ascii(), "{bytes:?}");
    }
}

#[test]
fn in_a_narrow_window_the_live_line_stays_one_line() {
    let Some(desk) = Desk::new() else { return };
    desk.project.submit(FIRST, "Do it.\n");
    desk.resize(24, 10);
    desk.type_in(&format!("clear; job-monitor wait {FIRST}; echo exit=$?"));
    let line = |screen: &str| line_with(screen, "first ").to_owned();
    // The command itself is wrapped; what follows it is the line.
    let one = desk.shows("s: Bash");
    desk.wait("the clock", |screen| {
        line(screen) != line(&one) && screen.contains("s: Bash")
    });
    let screen = desk.screen();
    assert_eq!(screen.matches("s: Bash").count(), 1, "{screen}");
    desk.go(FIRST);
    let screen = desk.shows("exit=0");
    assert!(!screen.contains("s: Bash"), "{screen}");
}

#[test]
fn several_jobs_are_waited_for_on_one_line() {
    let Some(desk) = Desk::new() else { return };
    let other = "job-20260101-120001-other";
    desk.project.submit(FIRST, "Do it.\n");
    let runs = |view: &serde_json::Value| view["is_processing"] == true;
    desk.project.wait_view("the first", runs);
    desk.project.submit(other, "Do it.\n");
    let wait = format!("clear; job-monitor wait {FIRST} {other}; echo exit=$?");
    desk.type_in(&wait);
    desk.wait("the first", |screen| {
        screen.contains("0 of 2 done; first ") && screen.contains("Bash cargo test")
    });
    desk.go(FIRST);
    let screen = desk.shows("1 of 2 done; other ");
    screen.must_have(&format!("✓ {FIRST}: completed"));
    desk.go(other);
    let screen = desk.shows("exit=0");
    assert!(!screen.contains(" of 2 done"), "{screen}");
}

// --- no terminal at all ---

#[test]
fn a_reader_that_leaves_ends_the_following_of_a_job_that_still_runs() {
    let (space, project) = running_job();
    for command in ["logs -f", "logs -f --raw", "watch"] {
        let id = if command == "watch" { "" } else { FIRST };
        let line = format!("exec 2>&1; {} {command} {id} | head -1", job_monitor());
        let mut shell = space.command_of("sh");
        shell.args(["-c", &line]).stdin(Stdio::null());
        let mut child = spawn(shell.stdout(Stdio::piped()));
        // `head` leaves at once, and the shell waits for both.
        wait_until("the end of both", || child.try_wait().unwrap().is_some());
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(text.lines().count(), 1, "{line}: {text}");
    }
    assert_eq!(project.result(FIRST), None);
}

#[test]
fn off_a_terminal_everything_is_plain_text_and_raw_is_raw() {
    let (space, project) = running_job();
    let running = space.run(&["logs", FIRST]).ok();
    assert!(running.ends_with("s: Bash cargo test\n"), "{running}");
    let overview = space.run(&["watch"]).ok();
    overview.must_have("alpha  ● first  ");
    project.touch(&format!("go-{FIRST}"));
    let ran = space.run(&["wait", FIRST]);
    assert_eq!(ran.stderr, "");
    assert_eq!(ran.ok(), format!("{FIRST}: completed\n"));
    let told = space.run(&["logs", "-f", FIRST]).ok();
    assert!(!told.contains('\x1b'), "{told}");
    let raw = space.run(&["logs", "--raw", FIRST]).ok();
    let kept = fs::read_to_string(project.logs(&format!("{FIRST}.jsonl"))).unwrap();
    assert_eq!(raw, kept);
    assert_eq!(space.run(&["logs", "job-20260101-120000-none"]).status, 3);
}

#[test]
fn every_start_of_a_job_is_told() {
    let (space, project) = Space::with_project();
    space.claude(
        r#"cat > /dev/null
printf '%s\n' '{"type":"system","subtype":"init","session_id":"s","model":"m"}'
echo "words on standard error" >&2
[ -e second ] || { touch second; sleep 60; }
printf '%s\n' '{"type":"result","subtype":"success","is_error":false,"result":"Done at last."}'"#,
    );
    space.start();
    project.submit(FIRST, "Do it.\n");
    project.wait_made("second");
    assert_eq!(space.stop(), 0);
    let paused = space.run(&["logs", FIRST]).ok();
    paused.must_have("─── was interrupted");
    space.start();
    project.wait_result(FIRST);
    let told = space.run(&["logs", FIRST]).ok();
    let seams = told.lines().filter(|line| line.starts_with("───"));
    let begins = [
        "─── start 1, ",
        "─── standard error",
        "─── start 2, ",
        "─── standard error",
        "─── completed after ",
    ];
    assert_eq!(seams.clone().count(), begins.len(), "{told}");
    for (seam, begin) in seams.zip(begins) {
        assert!(seam.starts_with(begin), "{told}");
    }
    told.must_have("Done at last.");
    assert_eq!(told.matches("words on standard error").count(), 2, "{told}");
}

#[test]
fn a_job_that_waits_is_followed_from_its_first_word_and_a_plain_agent_prints_as_it_does() {
    let (space, project) = alpha(
        "cat; printf 'half a line'; until [ -e go ]; do sleep 0.05; done; echo ' and the rest'",
    );
    project.submit(FIRST, "say it\n");
    let waiting = space.run(&["logs", FIRST]).ok();
    assert_eq!(waiting, "─── waits for its turn\n");

    let (mut child, out) = follow_first(&space);
    space.start();
    // Shown before its line is complete.
    let told = || fs::read_to_string(&out).unwrap();
    wait_until("half a line", || told().ends_with("half a line"));
    project.touch("go");
    let status = wait_for("the end", || child.try_wait().unwrap());
    assert!(status.success());
    told().must_have("half a line and the rest\n\n─── completed after ");
}

/// What follows the first job, and the file that it writes to.
fn follow_first(space: &Space) -> (Child, PathBuf) {
    let out = space.root().join("followed");
    let mut command = space.command(&["logs", "-f", FIRST]);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    command.stdout(fs::File::create(&out).unwrap());
    (spawn(&mut command), out)
}

#[test]
fn an_agent_whose_first_event_is_late_is_followed_from_it() {
    let (space, project) = Space::with_project();
    space.claude(&format!(
        "until [ -e go ]; do sleep 0.05; done\nprintf '{{\"type\":'\nuntil [ -e on ]; do sleep 0.05; done\n{}",
        AGENT.replacen("say '{\"type\":\"system\"", "say '\"system\"", 1)
    ));
    project.submit(FIRST, "Do it.\n");
    space.start();
    let log = project.logs(&format!("{FIRST}.jsonl"));
    wait_until("the agent", || log.exists());
    let (mut child, out) = follow_first(&space);
    let told = || fs::read_to_string(&out).unwrap();
    wait_until("the start's line", || told().contains("─── start 1"));
    for step in ["go", "on", &format!("go-{FIRST}")] {
        project.touch(step);
        // Long enough for it to have looked in between.
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    let status = wait_for("the end", || child.try_wait().unwrap());
    assert!(status.success());
    told().must_have("● Bash cargo test");
    assert!(!told().contains("{\"type\""), "{}", told());
}

// --- the desk ---

fn running_job() -> (Space, Project) {
    let (space, project) = Space::with_project();
    space.claude(AGENT);
    space.start();
    project.submit(FIRST, "Do it.\n");
    let log = project.logs(&format!("{FIRST}.jsonl"));
    wait_until("the agent's call", || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("cargo test"))
    });
    (space, project)
}

fn line_with<'a>(screen: &'a str, part: &str) -> &'a str {
    let line = screen.lines().find(|line| line.contains(part));
    line.unwrap_or_default()
}

/// A terminal with a shell in it, two projects, and the daemon.
struct Desk {
    space: Space,
    project: Project,
    socket: PathBuf,
}

impl Desk {
    fn new() -> Option<Desk> {
        if let Err(error) = Command::new("tmux").arg("-V").output() {
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
        symlink(job_monitor(), space.root().join("bin/job-monitor")).unwrap();
        let desk = Desk {
            socket: space.root().join("tmux"),
            space,
            project,
        };
        let session = ["new-session", "-d", "-x", "80", "-y", "24", "sh"];
        desk.tmux(&[&["-f", "/dev/null"], &session[..]].concat());
        Some(desk)
    }

    fn tmux(&self, args: &[&str]) -> String {
        let mut command = self.space.command_of("tmux");
        command.arg("-S").arg(&self.socket).args(args);
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

    /// The screen once it shows a text.
    #[track_caller]
    fn shows(&self, text: &str) -> String {
        self.wait(text, |screen| screen.contains(text))
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
        let sequences = screen.split("\x1b[").skip(1);
        let sequences = sequences.filter_map(|rest| rest.split_once('m'));
        let numbers = sequences.flat_map(|(numbers, _)| numbers.split(';'));
        let is_colour = |number: &&str| matches!(number.parse(), Ok(30..=37 | 90..=97));
        numbers.filter(is_colour).map(str::to_owned).collect()
    }

    /// The terminal echoes and edits lines, as a shell left it.
    #[track_caller]
    fn has_its_modes(&self) {
        self.type_in("clear; stty -a");
        let modes = self.shows("icanon");
        assert!(!modes.contains("-icanon"), "{modes}");
        assert!(!modes.contains("-echo "), "{modes}");
    }

    /// The id of the job with this description that was submitted last.
    fn new_job(&self, description: &str) -> String {
        let ending = format!("-{description}.md");
        wait_for("the document", || {
            let names = self.project.names(&self.project.item(""));
            let names = names.iter().filter(|name| name.ends_with(&ending));
            let mut ids = names.map(|name| name.trim_end_matches(".md").to_owned());
            ids.find(|id| self.project.result(id).is_none())
        })
    }

    /// Lets a job's agent go on to its end.
    fn go(&self, id: &str) {
        self.project.touch(&format!("go-{id}"));
    }

    fn finish_first(&self) {
        self.go(FIRST);
        self.project.run(FIRST, "Do it.\n");
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
