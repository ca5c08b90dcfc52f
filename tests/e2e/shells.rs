//! What shells and readers of manual pages make of what the program prints for them: the
//! completions are asked for in a real bash, zsh and fish, the page is given to real formatters.
//!
//! bash and zsh only complete on a terminal, which `script` plays; bound keys write down the words
//! of the line as the shell itself would split them, so that a name quoted badly is seen. What is
//! not installed is skipped and said, unless `JOB_MONITOR_REQUIRE` lists `shells` or `man`.

use crate::space::{MustHave, Ran, Space, job_monitor, lacks, spawn, wait_for, wait_until};
use crate::stage::alpha;
use job_monitor::cli::commands as every_command;
use serde_json::json;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

const DONE: &str = "job-20260101-110000-done";
const RUNS: &str = "job-20260101-120000-runs";
const NEXT: &str = "job-20260101-130000-next";
const OTHER: &str = "job-20260101-140000-other";

/// A name that would do something if a shell took it for a piece of a script.
const HOSTILE: &str = "$(touch pwned) 'x' \"y\"";

/// Keys: insert every completion there is; complete as the Tab key does; write down the words.
const EVERY: char = '\x18';
const TAB: char = '\x19';
const ANSWER: char = '\x14';

const BASHRC: &str = r#"PS1='ready>'
source completions
bind 'set bell-style none'
bind 'set enable-bracketed-paste off'
bind '"\C-x": insert-completions'
bind '"\C-y": complete'
answer() {
    eval "words=($READLINE_LINE)"
    printf '%s\n' "${words[@]}" > answer.new
    mv answer.new answer
    READLINE_LINE=""
    READLINE_POINT=0
}
bind -x '"\C-t": answer'
"#;

const ZSHRC: &str = r#"PS1='ready>'
unset zle_bracketed_paste
autoload -Uz compinit
compinit -D -u
source completions
every() { _main_complete; compstate[insert]=all }
zle -C every complete-word every
bindkey '^X' every
bindkey '^Y' complete-word
answer() {
    print -rl -- "${(@Q)${(z)BUFFER}}" > answer.new
    command mv answer.new answer
    BUFFER=""
}
zle -N answer
bindkey '^T' answer
"#;

#[test]
fn bash_completes_commands_options_projects_and_jobs() {
    complete_in("bash");
}

#[test]
fn zsh_completes_commands_options_projects_and_jobs() {
    complete_in("zsh");
}

#[test]
fn fish_completes_commands_options_projects_and_jobs() {
    complete_in("fish");
}

fn complete_in(shell: &'static str) {
    let tools: &[&str] = match shell {
        "fish" => &["fish"],
        _ => &[shell, "script"],
    };
    if !tools.iter().all(|tool| is_there(tool, "shells")) {
        return;
    }
    let space = world();
    let mut shell = Asked::new(&space, shell);

    // Commands and their options.
    let commands: BTreeSet<String> = every_command().map(|help| help.name.to_owned()).collect();
    assert_eq!(set(shell.offers(&[], "")), commands);
    assert_eq!(shell.offers(&[], "ca"), ["cancel"]);
    assert_eq!(shell.offers(&["help"], "unr"), ["unregister"]);
    let shells = shell.offers(&["completions"], "");
    assert_eq!(set(shells), set(["bash", "fish", "zsh"]));
    for (before, with, without) in [
        (&["status"][..], ["--limit", "--all", "--json"], "--follow"),
        (&["submit"], ["--wait", "--follow", "--project"], "--json"),
        (&["cancel"], ["--all", "--project", "--help"], "--json"),
        (&[DONE], ["--json", "--project", "--help"], "--all"),
        (&[], ["--project", "--version", "--help"], "--limit"),
    ] {
        let offers = set(shell.offers(before, "--"));
        for option in with {
            assert!(offers.contains(option), "{before:?}: {offers:?}");
        }
        assert!(!offers.contains(without), "{before:?}: {offers:?}");
    }
    assert_eq!(shell.offers(&["register"], "alp"), ["alpha"]);

    // Projects, whatever they are called and however the name was begun.
    let names = set(["alpha", "my project", HOSTILE]);
    assert_eq!(set(shell.offers(&["-p"], "")), names);
    assert_eq!(set(shell.offers(&["enable"], "")), names);
    assert_eq!(shell.offers(&["-p"], "m"), ["my project"]);
    assert_eq!(shell.offers(&["-p"], r"my\ p"), ["my project"]);
    assert_eq!(shell.tab(&["-p"], "'my p"), ["my project"]);
    assert_eq!(shell.tab(&["-p"], "\"my p"), ["my project"]);
    assert_eq!(shell.tab(&["-p"], r"\$"), [HOSTILE]);

    // Jobs of every project: the open ones where a command wants those.
    let open = set([RUNS, NEXT, OTHER]);
    let all = set([DONE, RUNS, NEXT, OTHER]);
    assert_eq!(set(shell.offers(&["cancel"], "")), open);
    assert_eq!(set(shell.offers(&["show"], "")), all);
    assert_eq!(set(shell.offers(&[], "job-")), all);
    assert_eq!(shell.offers(&["hold"], "job-20260101-13"), [NEXT]);
    assert_eq!(shell.offers(&["retry"], "job-20260101-11"), [DONE]);
    assert_eq!(shell.offers(&["wait", NEXT], "job-20260101-14"), [OTHER]);
    for before in [
        &["-p", r"my\ project", "cancel"][..],
        &["-p", "'my project'", "cancel"],
        &[r"--project=my\ project", "cancel"],
    ] {
        assert_eq!(set(shell.offers(before, "")), open, "{before:?}");
    }

    assert!(!space.root().join("pwned").exists());
}

/// Three projects, one of them with a job that is done, one that runs and one that waits; the
/// second is switched off, so that its job waits too.
fn world() -> Space {
    let agent = "cat > read; case $JOB_MONITOR_JOB_ID in *-runs) exec sleep 600 ;; esac";
    let (space, project) = alpha(agent);
    let off = json!({"enabled": false});
    space.project_with(HOSTILE, off.clone());
    let other = space.project_with("my project", off);
    space.start();
    project.run(DONE, "x");
    project.submit(RUNS, "x");
    wait_until("the job that runs", || project.claim(RUNS).is_some());
    project.submit(NEXT, "x");
    other.submit(OTHER, "x");
    symlink(job_monitor(), space.root().join("bin/job-monitor")).unwrap();
    space.env("TERM", "dumb");
    space.env("SHELL", "/bin/sh");
    space.env("ZDOTDIR", space.root().to_str().unwrap());
    space
}

/// A shell with the completions loaded, asked again and again.
struct Asked<'a> {
    space: &'a Space,
    shell: &'static str,
    /// The shell on its terminal, and the keyboard; none for fish, which answers without.
    session: Option<(Child, ChildStdin)>,
}

impl<'a> Asked<'a> {
    fn new(space: &'a Space, shell: &'static str) -> Asked<'a> {
        let root = space.root();
        let script = space.run(&["completions", shell]).ok();
        fs::write(root.join("completions"), script).unwrap();
        fs::write(root.join("bashrc"), BASHRC).unwrap();
        fs::write(root.join(".zshrc"), ZSHRC).unwrap();
        let mut asked = Asked {
            space,
            shell,
            session: None,
        };
        let start = match shell {
            "bash" => "bash --noprofile --rcfile bashrc -i",
            "zsh" => "zsh -d -i",
            _ => return asked,
        };
        let screen = root.join("screen");
        let mut command = outside(space, "script");
        command.args(["-qec", start, "/dev/null"]);
        command.stdin(Stdio::piped()).stderr(Stdio::null());
        command.stdout(File::create(&screen).unwrap());
        let mut child = spawn(&mut command);
        let keyboard = child.stdin.take().unwrap();
        asked.session = Some((child, keyboard));
        wait_until("the shell's prompt", || {
            fs::read_to_string(&screen).is_ok_and(|text| text.contains("ready>"))
        });
        asked
    }

    /// What could stand after these words, where a last one was begun.
    fn offers(&mut self, before: &[&str], begun: &str) -> Vec<String> {
        self.ask(before, begun, EVERY)
    }

    /// What the Tab key makes of the word that was begun.
    fn tab(&mut self, before: &[&str], begun: &str) -> Vec<String> {
        self.ask(before, begun, TAB)
    }

    fn ask(&mut self, before: &[&str], begun: &str, key: char) -> Vec<String> {
        let line = [&["job-monitor"], before, &[begun]].concat().join(" ");
        let Some((_, keyboard)) = &mut self.session else {
            return self.ask_fish(&line);
        };
        write!(keyboard, "{line}{key}{ANSWER}").unwrap();
        let path = self.space.root().join("answer");
        let words = wait_for(&format!("{}'s answer to {line:?}", self.shell), || {
            fs::read_to_string(&path).ok()
        });
        fs::remove_file(&path).unwrap();
        let words = words.lines().skip(1 + before.len());
        words.map(|word| plain(word).to_owned()).collect()
    }

    fn ask_fish(&self, line: &str) -> Vec<String> {
        let mut command = outside(self.space, "fish");
        let script = "source completions; complete -C $argv[1]";
        command.args(["--no-config", "-c", script, line]);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said, "", "{line}");
        let offers = String::from_utf8(output.stdout).unwrap();
        let words = offers.lines().filter_map(|line| line.split('\t').next());
        words.map(|word| plain(word).to_owned()).collect()
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if let Some((child, _)) = &mut self.session {
            // Its terminal goes with it, and the shell on that with the terminal.
            let _ = child.kill();
            let _ = child.wait();
            if std::thread::panicking() {
                let screen = fs::read_to_string(self.space.root().join("screen"));
                let screen = screen.unwrap_or_default();
                eprintln!("--- {}'s screen\n{screen}", self.shell);
            }
        }
    }
}

/// An option that takes a value, and a directory, may come with what usually follows.
fn plain(word: &str) -> &str {
    let option = word.starts_with('-').then(|| word.strip_suffix('='));
    option.flatten().unwrap_or(word).trim_end_matches('/')
}

fn set<T: Into<String>>(words: impl IntoIterator<Item = T>) -> BTreeSet<String> {
    words.into_iter().map(Into::into).collect()
}

// --- the manual page ---

#[test]
fn the_manual_page_renders_without_a_warning() {
    let space = Space::new();
    let page = space.root().join("job-monitor.1");
    fs::write(&page, space.run(&["man"]).ok()).unwrap();
    let mut text = None;
    for (tool, check, show) in [
        ("mandoc", &["-Tlint", "-Wwarning"][..], &["-Tascii"][..]),
        (
            "groff",
            &["-ww", "-man", "-z"],
            // Without colours and overstruck letters, as for a printer of the plainest kind.
            &["-man", "-Tascii", "-P-cbou"],
        ),
    ] {
        if Command::new(tool).arg("--version").output().is_err() {
            continue;
        }
        let told = render(&space, tool, check, &page);
        let complaints = [told.stdout, told.stderr].concat();
        assert_eq!((complaints.as_str(), told.status), ("", 0), "{tool}");
        text = Some(render(&space, tool, show, &page).ok());
    }
    let Some(text) = text else {
        is_there("mandoc", "man");
        return;
    };
    // What a person reads: every command, and hyphens that can be pasted.
    let mut plain = String::new();
    for letter in text.chars() {
        match letter {
            '\u{8}' => drop(plain.pop()),
            _ => plain.push(letter),
        }
    }
    for spec in every_command() {
        let begins = |line: &str| line.trim_start().split(' ').next() == Some(spec.name);
        assert!(plain.lines().any(begins), "no {} in\n{plain}", spec.name);
    }
    plain.must_have("job-monitor wait --timeout");
}

fn render(space: &Space, tool: &str, args: &[&str], page: &Path) -> Ran {
    let mut command = outside(space, tool);
    command.args(args).arg(page).stdin(Stdio::null());
    Ran::of(command.output().unwrap())
}

// --- others' programs ---

/// Another program, in the space and with its environment.
fn outside(space: &Space, program: &str) -> Command {
    let mut command = space.command_of(program);
    command.current_dir(space.root());
    command
}

/// Whether a program is installed. If not, that is said, or fails where it is required.
fn is_there(program: &str, requirement: &str) -> bool {
    match Command::new(program).arg("--version").output() {
        Ok(_) => true,
        Err(error) => {
            lacks(requirement, &format!("there is no {program} ({error})"));
            false
        }
    }
}
