//! The program as a service on machines with a real systemd, and what `make` does on the way there.
//! A harness boots a machine, in namespaces or emulated, and a script in it installs, starts,
//! stops, kills, upgrades and uninstalls as a person would.
//!
//! A harness is a program named by a variable, else one that lies beside the
//! checkout. It needs root. Where it cannot run, the test says why and is skipped, unless
//! `JOB_MONITOR_REQUIRE` (names with commas between) has it: then its absence is a failure.

#[path = "../common/mod.rs"]
mod common;

use common::{is_required, lacks};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The trial takes 20 s where nothing else runs, half of it waits that are meant (RestartSec).
const TRIAL_MAX_SECS: u32 = 240;
/// A release build from nothing, perhaps on a slow machine.
const FRESH_MAX_SECS: u32 = 600;
/// Three sandboxes, each with the grace of two agents.
const SANDBOXES_MAX_SECS: u32 = 180;
/// Booting and working on an emulated processor.
const MEMORY_MAX_SECS: u32 = 420;
/// What a harness may take before its command runs and after: its own packages, a whole system
/// made from packages, the boot.
const HARNESS_MAX_SECS: u32 = 300;

/// What boots a machine in namespaces: the variable that names it, and where it lies otherwise.
const NAMESPACES: Program = (
    "JOB_MONITOR_USER_SYSTEMD",
    "../shared/tools/with-user-systemd",
);
/// What emulates a machine with a kernel of its own.
const EMULATOR: Program = ("JOB_MONITOR_VM", "../shared/tools/with-vm");
type Program = (&'static str, &'static str);

const CHECKOUT: &str = env!("CARGO_MANIFEST_DIR");
/// The ordinary user of the machine that is booted.
const USER: &str = "alice";

/// One machine at a time: each wants all processors, and they have time limits.
static MACHINE: Mutex<()> = Mutex::new(());

/// From `make install` over the predecessor's files to `make uninstall`, with the program that
/// this test run built.
#[test]
fn the_installed_service_keeps_its_promises() {
    let Some(harness) = harness("systemd", NAMESPACES) else {
        return;
    };
    let stage = Stage::with("trial.sh");
    let home = format!("/home/{USER}/job-monitor");
    let mut command = harness.command(TRIAL_MAX_SECS);
    command
        .args(["--user", USER, "--root", "--copy"])
        .arg(&stage.0)
        .args(["bash", &format!("{home}/trial.sh"), USER, &home]);
    succeed(command);
}

/// Without a service manager: where files go, what they say, and that they go again. The paths
/// have all that a shell, make or systemd could trip over.
#[test]
fn installing_and_uninstalling_take_any_path() {
    let base = scratch("it's 100% \"home\"");
    let (home, prefix, root) = (base.join("h"), base.join("p"), base.join("d"));
    let make = |target: &str| {
        let output = Command::new("make")
            .args(["-C", CHECKOUT, "-o", "build", target])
            .arg(format!("PROGRAM={}", env!("CARGO_BIN_EXE_job-monitor")))
            .arg(format!("PREFIX={}", prefix.display()))
            .arg(format!("DESTDIR={}", root.display()))
            .env("HOME", &home)
            // Of the make that runs the tests, if one does.
            .env_remove("MAKEFLAGS")
            .output()
            .expect("make is there");
        said_by(output)
    };
    // What is meant for one root must not ask for the next steps of a real installation.
    assert!(!make("install").contains("Next:"));
    let under = |path: &Path| root.join(path.strip_prefix("/").expect("it is absolute"));
    let unit = under(&home).join(".config/systemd/user/job-monitor.service");
    let names = [
        "bin/job-monitor",
        "share/bash-completion/completions/job-monitor",
        "share/fish/vendor_completions.d/job-monitor.fish",
        "share/man/man1/job-monitor.1",
        "share/zsh/site-functions/_job-monitor",
    ];
    let mut installed = names.map(|name| under(&prefix).join(name)).to_vec();
    installed.push(unit.clone());
    installed.sort();
    assert_eq!(files_below(&base), installed);
    let text = fs::read_to_string(&unit).expect("the unit can be read");
    let path = prefix.display().to_string();
    let quoted = path.replace('%', "%%").replace('"', "\\\"");
    let start = format!("ExecStart=\"{quoted}/bin/job-monitor\" daemon");
    assert!(text.lines().any(|line| line == start), "{text}");
    for file in &installed {
        assert!(fs::metadata(file).is_ok_and(|meta| meta.len() > 0));
    }

    make("uninstall");
    assert_eq!(files_below(&base), Vec::<PathBuf>::new());
    fs::remove_dir_all(&base).expect("the directory can be removed");
}

#[test]
fn the_demo_shows_a_completed_job_and_leaves_nothing() {
    let base = scratch("demo");
    let output = Command::new("sh")
        .arg(Path::new(CHECKOUT).join("tests/demo.sh"))
        .arg(env!("CARGO_BIN_EXE_job-monitor"))
        .env("TMPDIR", &base)
        .output()
        .expect("sh is there");
    let said = said_by(output);
    for line in [
        "Status: completed",
        "      \"status\": \"completed\",",
        "The file that the agent wrote, website/index.html: <h1>Welcome!</h1>",
    ] {
        assert!(said.lines().any(|l| l == line), "no {line:?} in:\n{said}");
    }
    // Removing it fails where anything was left.
    fs::remove_dir(&base).expect("nothing was left");
}

/// An empty directory.
fn scratch(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("a directory can be made");
    path
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// What a stranger types first, on a machine that has make, a linker and a Rust toolchain only.
#[test]
fn a_fresh_machine_needs_nothing_but_make_a_linker_and_cargo() {
    if !is_required("fresh") {
        let why = "it makes a whole system and takes minutes; JOB_MONITOR_REQUIRE=fresh runs it";
        return lacks("fresh", why);
    }
    let Some(harness) = harness("fresh", NAMESPACES) else {
        return;
    };
    let name = Path::new(CHECKOUT)
        .file_name()
        .expect("a checkout has a name");
    let script = format!("/home/{USER}/{}/tests/service/fresh.sh", name.display());
    let mut command = harness.command(FRESH_MAX_SECS);
    command
        .args(["--user", USER, "--fresh", "--rust"])
        // Without libc6-dev, which is a mere recommendation of gcc, gcc cannot link.
        .args(["--packages", "make,gcc,libc6-dev"])
        .args(["--cache", concat!(env!("CARGO_TARGET_TMPDIR"), "/fresh")])
        .args(["--copy", CHECKOUT, "bash", &script]);
    succeed(command);
}

/// The recipes for sandboxes, as they are, but around an agent that carries out shell blocks.
/// That `systemd-run` limits what it says is shown where memory limits are enforced.
#[test]
fn the_recipes_for_sandboxes_keep_out_what_they_say_and_let_agents_be_ended() {
    let lacking = ["bwrap", "podman", "busybox", "newuidmap", "catatonit"]
        .into_iter()
        .find(|program| !is_on_path(program));
    if let Some(program) = lacking {
        return lacks("sandboxes", &format!("{program} is not on PATH"));
    }
    let Some(harness) = harness("sandboxes", NAMESPACES) else {
        return;
    };
    let stage = Stage::with("sandboxes.sh");
    for launcher in ["bwrap", "systemd-run", "podman"] {
        stage.put_recipe(launcher);
    }
    let mut command = harness.command(SANDBOXES_MAX_SECS);
    command.args(["--user", USER, "--copy"]);
    command.arg(&stage.0).args(["bash", "sandboxes.sh"]);
    succeed(command);
}

/// Memory limits are enforced only where the machine has a kernel of its own.
#[test]
fn an_agent_killed_for_its_memory_takes_nobody_with_it() {
    if !is_required("memory") {
        let why = "it emulates a whole machine; JOB_MONITOR_REQUIRE=memory runs it";
        return lacks("memory", why);
    }
    let Some(harness) = harness("memory", EMULATOR) else {
        return;
    };
    let stage = Stage::with("memory.sh");
    stage.put_recipe("systemd-run");
    let mut command = harness.command(MEMORY_MAX_SECS);
    command
        .args(["--user", USER, "--packages", "make"])
        .args(["--cache", concat!(env!("CARGO_TARGET_TMPDIR"), "/vm")])
        .arg("--copy")
        .arg(&stage.0)
        .args(["bash", "memory.sh"]);
    succeed(command);
}

/// What the machine gets: Makefile, unit, a script, and the program that this test run built.
struct Stage(PathBuf);

impl Stage {
    fn with(script: &str) -> Stage {
        let stage = scratch("job-monitor");
        let checkout = Path::new(CHECKOUT);
        for (from, name) in [
            (checkout.join("Makefile"), "Makefile"),
            (checkout.join("job-monitor.service"), "job-monitor.service"),
            (checkout.join("tests/service").join(script), script),
            (checkout.join("tests/service/agent.sh"), "agent.sh"),
            (env!("CARGO_BIN_EXE_job-monitor").into(), "program"),
        ] {
            fs::copy(&from, stage.join(name))
                .unwrap_or_else(|error| panic!("cannot copy {}: {error}", from.display()));
        }
        Stage(stage)
    }

    /// The recipe of a launcher in front of `claude`, for [`USER`], and with an agent of that name that
    /// speaks no protocol.
    fn put_recipe(&self, launcher: &str) {
        let path = Path::new(CHECKOUT).join(format!("docs/recipes/{launcher}.json"));
        let recipe = fs::read_to_string(&path).expect("the recipe can be read");
        let recipe = recipe.replace("/home/you", &format!("/home/{USER}"));
        let mut recipe: Value = serde_json::from_str(&recipe).expect("the recipe is JSON");
        recipe["agents"]["claude"]["protocol"] = json!("plain");
        recipe["grace"] = json!("3s");
        fs::write(self.0.join(format!("{launcher}.json")), recipe.to_string())
            .expect("the recipe can be written");
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // What stays is overwritten by the next run.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A program that boots machines, and the turn to do so.
struct Harness {
    program: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl Harness {
    /// It ends what it runs after `seconds`; should it hang itself, it is ended too, and its
    /// machine with it.
    fn command(&self, seconds: u32) -> Command {
        let mut command = Command::new("timeout");
        command
            .args(["--kill-after=10", &(seconds + HARNESS_MAX_SECS).to_string()])
            .arg(&self.program)
            .args(["--timeout", &seconds.to_string()]);
        command
    }
}

/// A harness, or why there is none.
fn harness(requirement: &str, (variable, beside): Program) -> Option<Harness> {
    let program =
        std::env::var_os(variable).map_or_else(|| Path::new(CHECKOUT).join(beside), PathBuf::from);
    let lacking = if !program.is_file() {
        let program = program.display();
        format!("{program} is not there; {variable} names another")
    } else if !nix::unistd::geteuid().is_root() {
        "booting a machine needs root".to_owned()
    } else {
        return Some(Harness {
            program,
            _turn: MACHINE.lock().unwrap_or_else(PoisonError::into_inner),
        });
    };
    lacks(requirement, &lacking);
    None
}

fn is_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

#[track_caller]
fn succeed(mut command: Command) {
    let output = command.output().expect("timeout, of coreutils, is there");
    println!("{}", said_by(output));
}

/// What a program said that must have succeeded.
#[track_caller]
fn said_by(output: Output) -> String {
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{}:\n{said}", output.status);
    said
}
