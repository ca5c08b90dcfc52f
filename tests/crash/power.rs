//! The power fails: the disk has what was synced before, and perhaps more. The project lies on an
//! ext4 image; the daemon is killed at a call, the image is copied as it is, without any sync, and
//! a new daemon goes on with the copy. Needs root, `mkfs.ext4` and loop devices.

use crate::kill::live_killed;
use crate::machine::{Mounted, in_namespace};
use crate::space::{lacks, wait_until};
use crate::world::{ONE, TWO, World, both_jobs, can_trace, exhaust_by, report_points, submit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

/// With its journal, ext4 wants some megabytes.
const IMAGE_BYTES: u64 = 12 << 20;
/// Loop devices are few.
const ABREAST: usize = 2;

#[test]
fn after_a_power_cut_at_any_change_nothing_is_lost_or_done_twice() {
    if !can_trace() {
        return;
    }
    in_namespace(|| {
        if let Some(why) = lacking() {
            return lacks("strace", &why);
        }
        for on_interrupt in ["rerun", "fail"] {
            let hit = exhaust_by(ABREAST, |point| one_cut(on_interrupt, point));
            let life = format!("power cuts in a life, {on_interrupt}");
            report_points(&life, &["fsync"], &hit);
        }
    });
}

fn one_cut(on_interrupt: &str, point: usize) -> Option<String> {
    let world = World::on(on_interrupt, |root| {
        let image = root.with_extension("before");
        make_image(&image).expect("an image could be made before");
        std::mem::forget(Mounted::new(&loop_options(&image), root));
    });
    let root = &world.project.path;
    let before = Mounted::adopt(root);
    submit(&world.project, ONE);
    let hit = live_killed(&world, point, |_, _| true, both_jobs);
    // The agents die of it, too; one that forks while we look is seen in the next round.
    wait_until("the agents to be dead", || {
        let left = world.space.processes();
        for pid in &left {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        left.is_empty()
    });
    fs::copy(root.with_extension("before"), root.with_extension("after")).unwrap();
    drop(before);
    let _after = Mounted::new(&loop_options(&root.with_extension("after")), root);
    claim_of_another_boot(&world);
    world.heal(&[ONE, TWO]);
    world.check_both(on_interrupt);
    hit
}

/// After a power cut the machine has another boot id than the claims.
fn claim_of_another_boot(world: &World) {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    for id in [ONE, TWO] {
        if let Some(text) = world.project.claim(id) {
            let other = text.replace(boot_id.trim(), "00000000-0000-0000-0000-000000000000");
            fs::write(world.project.state(&format!("{id}.claim")), other).unwrap();
        }
    }
}

fn loop_options(image: &Path) -> [&str; 3] {
    ["-o", "loop", image.to_str().unwrap()]
}

fn make_image(image: &Path) -> Result<(), String> {
    let file = File::create(image).and_then(|file| file.set_len(IMAGE_BYTES));
    file.map_err(|error| format!("no image can be made: {error}"))?;
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-F"])
        .arg(image)
        .output();
    match made {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Err(format!("mkfs.ext4 cannot be run: {error}")),
    }
}

/// Why no image can be made or mounted here.
fn lacking() -> Option<String> {
    let world = World::new("fail");
    let root = world.space.root();
    let (image, at) = (root.join("image"), root.join("at"));
    fs::create_dir(&at).unwrap();
    if let Err(why) = make_image(&image) {
        return Some(why);
    }
    let mut command = Command::new("mount");
    let output = command.args(loop_options(&image)).arg(&at).output();
    match output {
        Ok(output) if output.status.success() => {
            drop(Mounted::adopt(&at));
            None
        }
        Ok(output) => Some(format!(
            "an image cannot be mounted: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => Some(format!("mount cannot be run: {error}")),
    }
}
