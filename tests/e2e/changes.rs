//! The record of change: whatever an agent does to the work tree and its repository, the patch takes
//! it back byte for byte, and nothing of the user's in the repository is touched by us.

use crate::space::{Space, lacks};
use job_monitor::git;
use job_monitor::project::{Layout, Project};
use job_monitor::spool::Spool;
use nix::unistd::Uid;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

fn sh(dir: &Path, script: &str) {
    let ran = Command::new("sh")
        .args(["-euc", script])
        .current_dir(dir)
        .env("HOME", dir)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_AUTHOR_NAME", "a")
        .env("GIT_AUTHOR_EMAIL", "a@example.org")
        .env("GIT_COMMITTER_NAME", "c")
        .env("GIT_COMMITTER_EMAIL", "c@example.org")
        .output()
        .unwrap();
    assert!(
        ran.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&ran.stderr)
    );
}

/// Every file of a tree but those of repositories and of the spool, with what it is.
fn content(dir: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            let kind = entry.file_type().unwrap();
            if entry.file_name() == ".git" || entry.file_name() == "jobs" {
                continue;
            } else if kind.is_dir() {
                dirs.push(path);
            } else if kind.is_symlink() {
                let target = fs::read_link(&path).unwrap().into_os_string();
                found.insert(path, (0, target.into_encoded_bytes()));
            } else {
                let mode = entry.metadata().unwrap().permissions().mode() & 0o100;
                found.insert(path.clone(), (mode, fs::read(&path).unwrap()));
            }
        }
    }
    found
}

/// What the user keeps in the repository: index, refs, stash and head, as git tells them.
fn kept(dir: &Path) -> String {
    let script = "git ls-files -s; git for-each-ref; git stash list; cat .git/HEAD; ls .git";
    let ran = Command::new("sh")
        .args(["-c", script])
        .current_dir(dir)
        .output()
        .unwrap();
    String::from_utf8(ran.stdout).unwrap()
}

const COMMITTED: &str = "git init -q -b main . && mkdir -p d && echo one > a && echo two > d/b && \
     printf 'x\\0y' > bin && ln -s a link && echo ignored > .gitignore && git add -A && git commit -qm one";

/// A name, what is there before, what the agent does, commits, files.
type Row = (&'static str, String, &'static str, Option<u64>, Option<u64>);

#[test]
fn whatever_an_agent_does_the_patch_takes_it_back() {
    let edits = "echo more >> a; mv d/b d/c; printf 'z\\0z' > bin; rm link; ln -s d link; chmod +x a; \
         mkdir n; echo new > 'n/ä b'; echo out > ignored; : > empty";
    let with = |more: &str| format!("{COMMITTED} && {more}");
    let rows: &[Row] = &[
        ("edits", COMMITTED.into(), edits, Some(0), Some(6)),
        ("nothing", COMMITTED.into(), ":", Some(0), Some(0)),
        (
            "commits",
            COMMITTED.into(),
            "echo x > a; git commit -qam two; echo y > e; git add e; git commit -qm three",
            Some(2),
            Some(2),
        ),
        (
            "dirty",
            with(
                "echo mine >> a; echo staged > s; git add s; echo loose > l; git stash -q; git stash apply -q",
            ),
            "echo theirs > a; rm l; echo t > t; git add t",
            Some(0),
            Some(3),
        ),
        (
            "unborn",
            "git init -q -b main . && echo one > a".into(),
            "echo two > a; git add a; git commit -qm one",
            Some(1),
            Some(1),
        ),
        (
            "no commit at all",
            "git init -q -b main .".into(),
            "echo two > a",
            Some(0),
            Some(1),
        ),
        (
            "detached",
            with("git checkout -q --detach"),
            "echo x > a; git commit -qam two",
            Some(1),
            Some(1),
        ),
        (
            "switches",
            with("git branch other"),
            "git switch -q other; echo x > a; git commit -qam two",
            Some(1),
            Some(1),
        ),
        (
            "rebases",
            with("git branch base; echo l > l; git add l; git commit -qm local"),
            "git commit -q --amend -m anew; echo z > l; git commit -qam z",
            Some(2),
            Some(1),
        ),
        (
            "nested",
            with(
                "git init -q inner; echo i > inner/i; git init -q other; cd other; echo o > o; git add o; git commit -qm o",
            ),
            "echo x > a; echo j > inner/j",
            Some(0),
            Some(1),
        ),
        (
            "submodule",
            with(
                "git init -q ../sub; (cd ../sub; echo s > s; git add s; git commit -qm s); git -c protocol.file.allow=always submodule -q add ../sub sub; git commit -qm sub",
            ),
            "echo x > a",
            Some(0),
            Some(1),
        ),
        (
            "a commit in a submodule, and another one",
            with(
                "git init -q ../sub; (cd ../sub; echo s > s; git add s; git commit -qm s); git -c protocol.file.allow=always submodule -q add ../sub sub; git commit -qm sub",
            ),
            "echo x > a; (cd sub; git commit -q --allow-empty -m t); git -c protocol.file.allow=always submodule -q add ../sub two",
            Some(0),
            Some(4),
        ),
        (
            "linked",
            "git init -q -b main ../main; (cd ../main; echo one > a; git add a; git commit -qm one; git worktree add -q ../linked -b side); mv ../linked/.git .; git worktree repair; git checkout -q -f".into(),
            "echo x > a; echo y > y; git commit -qam two",
            Some(1),
            Some(2),
        ),
        (
            "worktree",
            with("git worktree add -q wt -b side; echo wt >> .gitignore; git commit -qam ignore"),
            "echo x > a; echo y > wt/a",
            Some(0),
            Some(1),
        ),
        (
            "crlf",
            with("printf 'x\\r\\ny\\r\\n' > w"),
            "printf 'x\\r\\nz\\r\\n' > w",
            Some(0),
            Some(1),
        ),
    ];
    for (name, before, acts, commits, files) in rows {
        let space = Space::new();
        let project = space.project("alpha");
        let root = &project.path;
        sh(root, before);
        fs::write(root.join("jobs/.gitignore"), "*\n").unwrap();
        let spool = Spool::open(&Project {
            name: "alpha".into(),
            path: root.clone(),
            layout: Layout::Jobs,
        })
        .unwrap();
        let (was, user) = (content(root), kept(root));
        let first = git::snapshot(&spool).unwrap().expect(name);
        assert_eq!(kept(root), user, "{name}");
        // An ignored file is none of ours.
        sh(root, acts);
        let (now, user) = (content(root), kept(root));
        let last = git::snapshot(&spool).unwrap().expect(name);
        let path = space.root().join("patch");
        let patch = File::options()
            .create_new(true)
            .read(true)
            .append(true)
            .open(&path)
            .unwrap();
        let change = git::change(&spool, &first, Some(&last), &patch).expect(name);
        assert_eq!(kept(root), user, "{name}");
        assert_eq!(
            (change.commits, change.files),
            (*commits, *files),
            "{name}: {change:?}"
        );
        if *files != Some(0) {
            sh(root, &format!("git apply -R {}", path.display()));
        }
        let (mut was, mut left) = (was, content(root));
        for other in ["ignored", "inner/j", "wt/a", "two/s"] {
            was.remove(&root.join(other));
            left.remove(&root.join(other));
        }
        assert_eq!(
            left,
            was,
            "{name}: {}",
            fs::read_to_string(&path).unwrap_or_default()
        );
        drop(now);
    }
}

#[test]
fn no_hook_and_no_monitor_of_the_user_s_is_run_for_a_record() {
    let space = Space::new();
    let project = space.project("alpha");
    let (root, ran) = (&project.path, space.root().join("ran"));
    sh(root, COMMITTED);
    let note = format!("echo x >> {}", ran.display());
    let hook = space.program("hook", &note);
    fs::create_dir_all(root.join(".git/hooks")).unwrap();
    fs::rename(hook, root.join(".git/hooks/post-index-change")).unwrap();
    let monitor = space.program("monitor", &format!("{note}; exit 1"));
    sh(
        root,
        &format!("git config core.fsmonitor {}", monitor.display()),
    );
    sh(root, "echo x > a; git add -A");
    assert!(ran.exists(), "git would run them");
    fs::remove_file(&ran).unwrap();
    let project = Project {
        name: "alpha".into(),
        path: root.clone(),
        layout: Layout::Jobs,
    };
    git::snapshot(&Spool::open(&project).unwrap())
        .unwrap()
        .unwrap();
    assert!(!ran.exists());
}

#[test]
fn where_git_keeps_no_tree_nothing_is_recorded_and_a_lost_repository_leaves_the_heads() {
    let space = Space::new();
    let project = space.project("alpha");
    let root = &project.path;
    let spool = Spool::open(&Project {
        name: "alpha".into(),
        path: root.clone(),
        layout: Layout::Jobs,
    })
    .unwrap();
    assert_eq!(git::snapshot(&spool).unwrap(), None);
    sh(root, COMMITTED);
    let first = git::snapshot(&spool).unwrap().unwrap();
    fs::remove_dir_all(root.join(".git")).unwrap();
    assert_eq!(git::snapshot(&spool).unwrap(), None);
    let patch = File::create_new(space.root().join("patch")).unwrap();
    let change = git::change(&spool, &first, None, &patch).unwrap();
    assert_eq!((change.head_before, change.head_after), (first.head, None));
    assert_eq!((change.files, change.patch), (None, None));
}

#[test]
fn a_project_that_is_a_folder_of_a_work_tree_is_recorded_with_all_of_it() {
    let space = Space::new();
    let top = space.root().join("top");
    let root = top.join("folder");
    fs::create_dir_all(&root).unwrap();
    sh(&top, COMMITTED);
    let project = Project {
        name: "alpha".into(),
        path: root.clone(),
        layout: Layout::Tasks,
    };
    let spool = Spool::create(&project).unwrap();
    let first = git::snapshot(&spool).unwrap().unwrap();
    sh(
        &top,
        "echo x > a; echo y > folder/y; echo log > folder/logs/log; echo t > folder/tasks/task-x.md",
    );
    let last = git::snapshot(&spool).unwrap().unwrap();
    let path = space.root().join("patch");
    let patch = File::options()
        .create_new(true)
        .append(true)
        .open(&path)
        .unwrap();
    let change = git::change(&spool, &first, Some(&last), &patch).unwrap();
    assert_eq!(
        change.files,
        Some(2),
        "{}",
        fs::read_to_string(&path).unwrap()
    );
    let text = fs::read_to_string(&path).unwrap();
    assert!(
        text.contains("a/folder/y") && !text.contains("logs"),
        "{text}"
    );
    // A patch that is too large is none, and its numbers stay.
    fs::write(top.join("big"), "0123456789abcde\n".repeat(1 << 20)).unwrap();
    let last = git::snapshot(&spool).unwrap().unwrap();
    let patch = File::create(&path).unwrap();
    let change = git::change(&spool, &first, Some(&last), &patch).unwrap();
    assert_eq!(
        (change.files, change.insertions),
        (Some(3), Some((1 << 20) + 2))
    );
    assert_eq!(patch.metadata().unwrap().len(), 0);
}

#[test]
fn without_git_or_where_git_distrusts_the_owner_a_job_runs_and_its_record_is_left_out() {
    const ID: &str = "job-20260101-120000-hello";
    let space = Space::new();
    space.plain_agent("read -r line; echo done");
    let project = space.project("alpha");
    sh(&project.path, COMMITTED);
    let outer = std::env::var("PATH").unwrap_or_default();
    let bin = space.root().join("bin");
    space.env("PATH", bin.to_str().unwrap());
    space.start();
    project.submit(ID, "x\n");
    let result = project.wait_result(ID);
    assert_eq!(result["status"], "completed", "{result}");
    assert!(result["git"].is_null(), "{result}");
    assert!(!space.log().contains("git"), "{}", space.log());
    space.kill();
    if !Uid::effective().is_root() {
        return lacks("root", "gives a repository to another user");
    }
    chown(project.path.join(".git"), Some(65_534), Some(65_534)).unwrap();
    space.env("PATH", &outer);
    space.start();
    project.submit(&ID.replace("12", "13"), "x\n");
    let result = project.wait_result(&ID.replace("12", "13"));
    assert_eq!(result["status"], "completed", "{result}");
    assert!(result["git"].is_null(), "{result}");
    space.wait_log("safe.directory");
}
