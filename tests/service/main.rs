//! The program as a service, on a machine with a real systemd: a harness boots one in namespaces
//! of its own, and a script in it installs, starts, stops, kills, upgrades and uninstalls as a
//! person would. Each promise is a line of the script's output.
//!
//! The harness is a program given by `JOB_MONITOR_USER_SYSTEMD`, else one that lies beside the
//! checkout. It needs root. Where it cannot run, the test says why and is skipped, unless
//! `JOB_MONITOR_REQUIRE` (a list with commas) names it: then its absence is a failure.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The trial takes about two minutes, most of it waits that are meant (RestartSec).
const TRIAL_MAX_SECS: u32 = 300;
/// A build from nothing on a slow machine, after a file system was made from packages.
const FRESH_MAX_SECS: u32 = 900;

const HERE: &str = env!("CARGO_MANIFEST_DIR");
const USER: &str = "alice";

#[test]
fn the_installed_service_keeps_its_promises() {
    let Some(harness) = harness("systemd") else {
        return;
    };
    let stage = Stage::new("trial");
    stage.copy("Makefile");
    stage.copy("job-monitor.service");
    // The program as this test run has built it, where `make` would have built it.
    let program = stage.dir().join("target/release/job-monitor");
    // `target` is left behind by the harness's copy, which is why it has another name here.
    let program = rename_target(&program);
    fs::create_dir_all(program.parent().expect("it is in a directory")).expect("a directory");
    fs::copy(env!("CARGO_BIN_EXE_job-monitor"), &program).expect("the program can be copied");
}

fn main() {}
