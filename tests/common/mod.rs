//! What a test says that cannot run on this machine: the same words in all suites, and a list for
//! the summary at the end of `make test`.

use std::fs::OpenOptions;
use std::io::{self, Write};

/// Whether `JOB_MONITOR_REQUIRE` (names with commas between) has a name.
pub fn is_required(name: &str) -> bool {
    let list = std::env::var("JOB_MONITOR_REQUIRE").unwrap_or_default();
    list.split(',').any(|required| required.trim() == name)
}

/// Says that a test, or a part of it, cannot run on this machine, and why; that is a failure where
/// `requirement` is required. `untested.rs` reads the list that `JOB_MONITOR_SKIPPED` names.
#[track_caller]
pub fn lacks(requirement: &str, why: &str) {
    assert!(!is_required(requirement), "required, but {why}");
    // Not `println!`, of which a passing test shows nothing.
    let _ = writeln!(io::stderr(), "skipped: {why}");
    if let Some(list) = std::env::var_os("JOB_MONITOR_SKIPPED") {
        let line = format!("{}\n", why.replace('\n', " "));
        let file = OpenOptions::new().append(true).open(list);
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}
