//! A disk that is full for a while: nothing is started that could not be recorded, what was
//! decided is kept and written when there is room again. On a small file system of its own, in a
//! mount namespace of the test's thread, which needs root.

use crate::machine::{Mounted, in_namespace, mount};
use crate::space::{Project, Space, wait_until};
use crate::world::{ONE, TWO, submit};
use nix::libc;
use serde_json::json;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Notes its beginning where there is room, and runs until the test makes the file `go` there.
const GATED: &str = r#"echo "$JOB_MONITOR_JOB_ID" >> "$NOTES/ran"; cat > /dev/null
while [ ! -e "$NOTES/go" ]; do sleep 0.02; done"#;

#[test]
fn on_a_full_disk_nothing_is_started_and_an_outcome_waits_for_room() {
    in_namespace(|| {
        let (space, project, _disk) = small_disk();
        let ran = || fs::read_to_string(space.root().join("ran")).unwrap_or_default();
        submit(&project, ONE);
        submit(&project, TWO);
        space.start();
        wait_until("the first agent", || ran() == format!("{ONE}\n"));
        project.wait_view("a running job", |view| view["is_processing"] == true);

        // Full when the first agent ends: its outcome waits, and nobody else is started.
        let filler = fill(&project.path);
        space.file("go", "");
        space.wait_log("what was decided is kept");
        // Long enough for a try to write in vain, and a start if there were one.
        std::thread::sleep(Duration::from_secs(3));
        assert!(project.result(ONE).is_none(), "written to a full disk");
        assert_eq!(ran(), format!("{ONE}\n"), "started on a full disk");
        assert!(space.ended().is_none(), "a full disk is survived");
        fs::remove_file(filler).unwrap();
        project.wait_all_completed(&[ONE, TWO]);
        assert_eq!(ran(), format!("{ONE}\n{TWO}\n"));
        assert_eq!(space.stop(), 0);
    });
}

#[test]
fn on_a_disk_that_is_full_or_read_only_no_job_is_claimed_or_started() {
    in_namespace(|| {
        for read_only in [false, true] {
            let (space, project, _disk) = small_disk();
            let ran = || fs::read_to_string(space.root().join("ran")).unwrap_or_default();
            space.file("go", "");
            space.start();
            submit(&project, ONE);
            project.wait_result(ONE);
            project.wait_view("nothing to do", |view| view["queue_size"] == 0);
            let trouble = || space.log().matches("ERROR").count();
            let before = trouble();
            submit(&project, TWO);
            project.wait_result(TWO);
            // With the daemon away, so that the document is there before the trouble.
            assert_eq!(space.stop(), 0);
            let three = "job-20260101-120002-three";
            submit(&project, three);
            let filler = fill(&project.path);
            if read_only {
                mount(&["-o", "remount,ro"], &project.path);
            }
            space.start();
            wait_until("a word about the trouble", || trouble() > before);
            std::thread::sleep(Duration::from_secs(3));
            assert_eq!(ran(), format!("{ONE}\n{TWO}\n"), "started unrecorded");
            assert!(project.result(three).is_none());
            assert!(space.ended().is_none(), "a full disk is survived");
            if read_only {
                mount(&["-o", "remount,rw"], &project.path);
            }
            fs::remove_file(filler).unwrap();
            project.wait_completed(three);
            assert_eq!(ran(), format!("{ONE}\n{TWO}\n{three}\n"));
            assert_eq!(space.stop(), 0);
            space.assert_no_survivor();
        }
    });
}

/// A space whose project lies on a file system of 256 KiB.
fn small_disk() -> (Space, Project, Mounted) {
    let space = Space::new();
    space.env("NOTES", space.root().to_str().unwrap());
    space.plain_agent(GATED);
    space.set(json!({"on_interrupt": "fail"}));
    let root = space.root().join("alpha");
    fs::create_dir(&root).unwrap();
    let options = "size=256k,mode=755";
    let disk = Mounted::new(&["-t", "tmpfs", "-o", options, "none"], &root);
    let project = space.project("alpha");
    (space, project, disk)
}

/// Takes all room there is; gives the file that does.
fn fill(root: &Path) -> PathBuf {
    let path = root.join("filler");
    let mut file = File::create(&path).unwrap();
    let error = loop {
        if let Err(error) = file.write_all(&[0; 4096]) {
            break error;
        }
    };
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    path
}
