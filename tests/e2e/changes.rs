//! The record of change: whatever an agent does to the work tree and its repository, the patch takes
//! it back byte for byte, and nothing of the user's in the repository is touched by us.

use crate::space::{MustHave, Ran, Space, lacks};
use crate::stage::*;
use job_monitor::git;
use job_monitor::project::{Layout, Project};
use job_monitor::spool::Spool;
use nix::unistd::Uid;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs a shell script that must succeed.
pub fn sh(dir: &Path, script: &str) -> String {
    let mut command = Command::new("sh");
    command.args(["-euc", script]).current_dir(dir);
    command.env("HOME", dir).env("GIT_CONFIG_NOSYSTEM", "1");
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "a");
        command.env(format!("GIT_{who}_EMAIL"), "a@example.org");
    }
    Ran::of(command.output().unwrap()).ok()
}

fn project_at(root: &Path, layout: Layout) -> Project {
    Project {
        name: "alpha".into(),
        path: root.to_owned(),
        layout,
    }
}

fn spool_of(root: &Path) -> Spool {
    Spool::open(&project_at(root, Layout::Jobs)).unwrap()
}

/// A new file for a patch.
fn new_patch(path: &Path) -> File {
    let mut options = File::options();
    let options = options.create_new(true).read(true).append(true);
    options.open(path).unwrap()
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

/// A name, how many commits are found and how many files, then what is there before and what the agent
/// does. COMMITTED stands for the script above, ADD for what adds a submodule.
const ROWS: &str = r#"
edits 0 6
    COMMITTED
    echo more >> a; mv d/b d/c; printf 'z\0z' > bin; rm link; ln -s d link; chmod +x a; mkdir n; echo new > 'n/ä b'; echo out > ignored; : > empty
nothing 0 0
    COMMITTED
    :
commits 2 2
    COMMITTED
    echo x > a; git commit -qam two; echo y > e; git add e; git commit -qm three
dirty 0 3
    COMMITTED; echo mine >> a; echo staged > s; git add s; echo loose > l; git stash -q; git stash apply -q
    echo theirs > a; rm l; echo t > t; git add t
unborn 1 1
    git init -q -b main .; echo one > a
    echo two > a; git add a; git commit -qm one
no-commit-at-all 0 1
    git init -q -b main .
    echo two > a
detached 1 1
    COMMITTED; git checkout -q --detach
    echo x > a; git commit -qam two
switches 1 1
    COMMITTED; git branch other
    git switch -q other; echo x > a; git commit -qam two
rebases 2 1
    COMMITTED; git branch base; echo l > l; git add l; git commit -qm local
    git commit -q --amend -m anew; echo z > l; git commit -qam z
nested 0 1
    COMMITTED; git init -q inner; echo i > inner/i; git init -q other; cd other; echo o > o; git add o; git commit -qm o
    echo x > a; echo j > inner/j
submodule 0 1
    COMMITTED; git init -q ../sub; (cd ../sub; echo s > s; git add s; git commit -qm s); ADD ../sub sub; git commit -qm sub
    echo x > a
a-commit-in-a-submodule-and-another-one 0 4
    COMMITTED; git init -q ../sub; (cd ../sub; echo s > s; git add s; git commit -qm s); ADD ../sub sub; git commit -qm sub
    echo x > a; (cd sub; git commit -q --allow-empty -m t); ADD ../sub two
linked 1 2
    git init -q -b main ../main; (cd ../main; echo one > a; git add a; git commit -qm one; git worktree add -q ../linked -b side); mv ../linked/.git .; git worktree repair; git checkout -q -f
    echo x > a; echo y > y; git commit -qam two
worktree 0 1
    COMMITTED; git worktree add -q wt -b side; echo wt >> .gitignore; git commit -qam ignore
    echo x > a; echo y > wt/a
crlf 0 1
    COMMITTED; printf 'x\r\ny\r\n' > w
    printf 'x\r\nz\r\n' > w
"#;

#[test]
fn whatever_an_agent_does_the_patch_takes_it_back() {
    let rows: Vec<&str> = ROWS.trim().lines().map(str::trim).collect();
    for row in rows.chunks(3) {
        let &[head, before, acts] = row else {
            panic!("three lines a row: {row:?}");
        };
        let script = |text: &str| {
            let add = "git -c protocol.file.allow=always submodule -q add";
            text.replace("COMMITTED", COMMITTED).replace("ADD", add)
        };
        let words: Vec<&str> = head.split(' ').collect();
        let [name, commits, files] = words[..] else {
            panic!("a name and two numbers: {head}");
        };
        let number = |text: &str| text.parse::<u64>().ok();
        let space = Space::new();
        let project = space.project("alpha");
        let root = &project.path;
        sh(root, &script(before));
        fs::write(root.join("jobs/.gitignore"), "*\n").unwrap();
        let spool = spool_of(root);
        let (was, user) = (content(root), kept(root));
        let first = git::snapshot(&spool).unwrap().expect(name);
        assert_eq!(kept(root), user, "{name}");
        // An ignored file is none of ours.
        sh(root, &script(acts));
        let user = kept(root);
        let last = git::snapshot(&spool).unwrap().expect(name);
        let path = space.root().join("patch");
        let patch = new_patch(&path);
        let change = git::change(&spool, &first, Some(&last), &patch).expect(name);
        assert_eq!(kept(root), user, "{name}");
        let found = (change.commits, change.files);
        let told = (number(commits), number(files));
        assert_eq!(found, told, "{name}: {change:?}");
        if files != "0" {
            sh(root, &format!("git apply -R {}", path.display()));
        }
        let (mut was, mut left) = (was, content(root));
        for other in ["ignored", "inner/j", "wt/a", "two/s"] {
            was.remove(&root.join(other));
            left.remove(&root.join(other));
        }
        let patch = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(left, was, "{name}: {patch}");
        // Names stand in it as they are, for whoever reads it.
        assert_eq!(patch.contains(" b/n/ä b\n"), name == "edits", "{patch}");
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
    let monitor = monitor.display();
    sh(root, &format!("git config core.fsmonitor {monitor}"));
    sh(root, "echo x > a; git add -A");
    assert!(ran.exists(), "git would run them");
    fs::remove_file(&ran).unwrap();
    git::snapshot(&spool_of(root)).unwrap().unwrap();
    assert!(!ran.exists());
}

#[test]
fn where_git_keeps_no_tree_nothing_is_recorded_and_a_lost_repository_leaves_the_heads() {
    let space = Space::new();
    let project = space.project("alpha");
    let root = &project.path;
    let spool = spool_of(root);
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
    let spool = Spool::create(&project_at(&root, Layout::Tasks)).unwrap();
    let first = git::snapshot(&spool).unwrap().unwrap();
    sh(
        &top,
        "echo x > a; echo y > folder/y; echo log > folder/logs/log; echo t > folder/tasks/task-x.md",
    );
    let last = git::snapshot(&spool).unwrap().unwrap();
    let path = space.root().join("patch");
    let patch = new_patch(&path);
    let change = git::change(&spool, &first, Some(&last), &patch).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(change.files, Some(2), "{text}");
    text.must_have("a/folder/y");
    assert!(!text.contains("logs"), "{text}");
    // A patch that is too large is none, and its numbers stay.
    fs::write(top.join("big"), "0123456789abcde\n".repeat(1 << 20)).unwrap();
    let last = git::snapshot(&spool).unwrap().unwrap();
    let patch = File::create(&path).unwrap();
    let change = git::change(&spool, &first, Some(&last), &patch).unwrap();
    let counted = (change.files, change.insertions);
    assert_eq!(counted, (Some(3), Some((1 << 20) + 2)));
    assert_eq!(patch.metadata().unwrap().len(), 0);
}

#[test]
fn without_git_or_where_git_distrusts_the_owner_a_job_runs_and_its_record_is_left_out() {
    let (space, project) = alpha("read -r line; echo done");
    sh(&project.path, COMMITTED);
    let outer = std::env::var("PATH").unwrap_or_default();
    let bin = space.root().join("bin");
    space.env("PATH", bin.to_str().unwrap());
    space.start();
    project.submit(ID, "x\n");
    let result = project.wait_completed(ID);
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
    let result = project.wait_completed(&ID.replace("12", "13"));
    assert!(result["git"].is_null(), "{result}");
    space.wait_log("safe.directory");
}
