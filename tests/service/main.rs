//! The program as a service on a machine with a real systemd: a harness boots one in namespaces
//! of its own, and a script in it installs, starts, stops, kills, upgrades and uninstalls as a
//! person would. Each promise is one line of the script's output; the first that is not kept ends
//! it with what the machine says.
//!
//! The harness is a program named by `JOB_MONITOR_USER_SYSTEMD`, else one that lies beside the
//! checkout. It needs root. Where it cannot run, the test says why and is skipped, unless
//! `JOB_MONITOR_REQUIRE` (names with commas between) has it: then its absence is a failure.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The trial takes about a minute, most of it waits that are meant (RestartSec).
const TRIAL_MAX_SECS: u32 = 240;
/// A system made from packages, then a release build, perhaps on a slow machine.
const FRESH_MAX_SECS: u32 = 900;

const CHECKOUT: &str = env!("CARGO_MANIFEST_DIR");
/// The ordinary user of the machine that is booted.
const USER: &str = "alice";

/// From `make install` over the predecessor's files to `make uninstall`, with the program that
/// this test run built.
#[test]
fn the_installed_service_keeps_its_promises() {
    let Some(harness) = harness("systemd") else {
        return;
    };
    let stage = Path::new(env!("CARGO_TARGET_TMPDIR")).join("job-monitor");
    let _ = fs::remove_dir_all(&stage);
    fs::create_dir_all(&stage).expect("the staging directory can be made");
    let checkout = Path::new(CHECKOUT);
    for (from, name) in [
        (checkout.join("Makefile"), "Makefile"),
        (checkout.join("job-monitor.service"), "job-monitor.service"),
        (checkout.join("tests/service/trial.sh"), "trial.sh"),
        (env!("CARGO_BIN_EXE_job-monitor").into(), "program"),
    ] {
        fs::copy(&from, stage.join(name))
            .unwrap_or_else(|error| panic!("cannot copy {}: {error}", from.display()));
    }
    let home = format!("/home/{USER}/job-monitor");
    let mut command = bounded(&harness, TRIAL_MAX_SECS);
    command
        .args(["--user", USER, "--root", "--copy"])
        .arg(&stage)
        .args(["bash", &format!("{home}/trial.sh"), USER, &home]);
    succeed(command);
    fs::remove_dir_all(&stage).expect("the staging directory can be removed");
}

/// What a stranger types first, on a machine that has make, a linker and a Rust toolchain only.
#[test]
fn a_fresh_machine_needs_nothing_but_make_a_linker_and_cargo() {
    if !is_required("fresh") {
        return skip(
            "it makes a whole system and takes minutes; JOB_MONITOR_REQUIRE=fresh runs it",
        );
    }
    let Some(harness) = harness("fresh") else {
        return;
    };
    let name = Path::new(CHECKOUT)
        .file_name()
        .expect("a checkout has a name");
    let script = format!("/home/{USER}/{}/tests/service/fresh.sh", name.display());
    let mut command = bounded(&harness, FRESH_MAX_SECS);
    command
        .args(["--user", USER, "--fresh", "--rust"])
        // Without libc6-dev, which is a mere recommendation of gcc, gcc cannot link.
        .args(["--packages", "make,gcc,libc6-dev"])
        .args(["--cache", concat!(env!("CARGO_TARGET_TMPDIR"), "/fresh")])
        .args(["--copy", CHECKOUT, "bash", &script]);
    succeed(command);
}

/// The harness, or why there is none.
fn harness(requirement: &str) -> Option<PathBuf> {
    let program = std::env::var_os("JOB_MONITOR_USER_SYSTEMD").map_or_else(
        || Path::new(CHECKOUT).join("../shared/tools/with-user-systemd"),
        PathBuf::from,
    );
    let lacking = if !program.is_file() {
        format!(
            "{} is not there; JOB_MONITOR_USER_SYSTEMD names another",
            program.display()
        )
    } else if !nix::unistd::geteuid().is_root() {
        "booting a machine in namespaces needs root".to_owned()
    } else {
        return Some(program);
    };
    assert!(!is_required(requirement), "{requirement}: {lacking}");
    skip(&lacking);
    None
}

fn is_required(name: &str) -> bool {
    std::env::var("JOB_MONITOR_REQUIRE").is_ok_and(|list| list.split(',').any(|n| n == name))
}

fn skip(why: &str) {
    println!("skipped: {why}");
}

/// The harness ends its command after `seconds`; should it hang itself, it is ended too, and its
/// machine with it.
fn bounded(harness: &Path, seconds: u32) -> Command {
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=10", &(seconds + 120).to_string()])
        .arg(harness)
        .args(["--timeout", &seconds.to_string()]);
    command
}

#[track_caller]
fn succeed(mut command: Command) {
    let output = command.output().expect("timeout, of coreutils, is there");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{}:\n{said}", output.status);
    println!("{said}");
}
