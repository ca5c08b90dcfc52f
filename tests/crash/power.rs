//! The power fails: at the moment of death the disk has what was synced, and perhaps more. The
//! project lies on an ext4 image; the daemon is killed at a call, the image is copied without any
//! sync, and a new daemon goes on with the copy. Needs root, mkfs.ext4 and a loop device.

use crate::space::{BOUND, replace, wait_until};
use crate::tracer::Act;
use crate::world::{
    ONE, TEXT, TWO, World, both_jobs, can_mount, can_trace, effects, exhaust_on, mount, report,
    submit, tally,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// With the journal, ext4 wants some megabytes.
const IMAGE_MIB: u64 = 12;
/// Of the calls that change something, each so-manieth: making and mounting file systems is slow.
const STRIDE: usize = 2;

#[test]
fn after_a_power_cut_at_any_sync_or_rename_nothing_is_lost_or_done_twice() {
    if !can_trace() {
        return;
    }
    can_mount(|| {
        if let Some(why) = lacking() {
            assert!(!crate::world::is_required("strace"), "required, but {why}");
            report(&format!("skipped: {why}"));
            return;
        }
        for on_interrupt in ["rerun", "fail"] {
            let hit = exhaust_on(1, |point| one_cut(on_interrupt, point * STRIDE));
            report(&format!("power cuts, {on_interrupt}: {}", tally(&hit)));
        }
    });
}
