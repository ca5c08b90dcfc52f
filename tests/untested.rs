//! The last of the suites says what the others could not test on this machine, and why. cargo runs
//! them in the order of their names.

use std::collections::BTreeMap;
use std::io::{self, Write};

#[test]
fn what_was_skipped_is_told_once_more() {
    let Some(list) = std::env::var_os("JOB_MONITOR_SKIPPED") else {
        return;
    };
    let list = std::fs::read_to_string(&list).unwrap_or_else(|e| panic!("{list:?}: {e}"));
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for why in list.lines() {
        *reasons.entry(why).or_default() += 1;
    }
    // Not `println!`, of which a passing test shows nothing.
    let mut out = io::stderr();
    let _ = match reasons.len() {
        0 => writeln!(out, "nothing was skipped"),
        _ => writeln!(out, "skipped, because:"),
    };
    for (why, times) in reasons {
        let _ = writeln!(out, "  {times:>3} × {why}");
    }
}
