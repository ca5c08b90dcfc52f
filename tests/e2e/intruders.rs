//! Only the user gets in (SPEC 11.6): what others could have written is not believed, no link leads
//! out of the spool, nothing that lies in the way is written through, what we write is the user's
//! alone, and nothing is ever asked of a network.

use crate::machine::{Mounted, in_namespace};
use crate::space::{MustHave, Project, Space, job_monitor, lacks, spawn, wait_until};
use crate::stage::*;
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Group, Pid, Uid, User, chown};
use serde_json::json;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The directories of a spool.
const PARTS: [&str; 5] = [
    "jobs",
    "jobs/items",
    "jobs/results",
    "jobs/state",
    "jobs/logs",
];

/// A user and a group that nobody has here.
const STRANGER: u32 = 12_345;

// --- owners and modes ---

/// A way in which a file or directory can be open to others.
#[derive(Clone, Copy, Debug)]
enum Breach {
    /// Everybody may write.
    World,
    /// A group with other members in it may write.
    Group,
    /// It is another user's.
    Owner,
}

impl Breach {
    /// Only root can give a file away.
    fn all() -> &'static [Breach] {
        match Uid::effective().is_root() {
            true => &[Breach::World, Breach::Group, Breach::Owner],
            false => {
                lacks("root", "only root can give files to others");
                &[Breach::World]
            }
        }
    }

    fn make(self, path: &Path) {
        let mode = fs::metadata(path).unwrap().permissions().mode();
        match self {
            Breach::World => chmod(path, mode | 0o002),
            Breach::Group => {
                chown(path, None, Some(Gid::from_raw(STRANGER))).unwrap();
                chmod(path, mode | 0o020);
            }
            Breach::Owner => chown(path, Some(Uid::from_raw(STRANGER)), None).unwrap(),
        }
    }

    fn mend(self, path: &Path) {
        let mode = fs::metadata(path).unwrap().permissions().mode();
        chown(path, Some(Uid::effective()), Some(Gid::effective())).unwrap();
        chmod(path, mode & !0o022);
    }

    fn words(self) -> &'static str {
        match self {
            Breach::World | Breach::Group => "can be written by others",
            Breach::Owner => "belongs to another user (uid 12345)",
        }
    }
}

#[test]
fn a_project_s_directory_that_others_can_use_is_not_served_until_it_is_mended() {
    let space = with_agent(NOTES);
    let mut rows: Vec<(Project, PathBuf, Breach)> = Vec::new();
    for (at, part) in PARTS.iter().enumerate() {
        for breach in Breach::all() {
            let project = space.project(&format!("p{at}-{breach:?}"));
            project.submit(ID, "x");
            let path = project.path.join(part);
            breach.make(&path);
            rows.push((project, path, *breach));
        }
    }
    space.start();
    let healthy = space.project("healthy");
    healthy.run(ID, "x");
    for (project, path, breach) in &rows {
        let sentence = format!("{} {}", path.display(), breach.words());
        let told = format!("[{}] the project is unavailable: ", project.name);
        space.wait_log(&format!("{told}{sentence}"));
        assert_eq!(project.made("ran"), "", "{sentence}");
        breach.mend(path);
    }
    for (project, ..) in &rows {
        project.wait_result(ID);
    }
}

#[test]
fn registry_and_settings_that_others_can_write_are_not_believed_until_they_are_mended() {
    for file in ["registered.json", "config.json"] {
        for breach in Breach::all() {
            let (space, project) = alpha(NOTES);
            project.submit(ID, "x");
            let path = space.config().join(file);
            breach.make(&path);
            let sentence = format!("{} {}", path.display(), breach.words());
            space.start();
            space.wait_log(&sentence);
            // An event that is looked at later shows that nothing was believed until then.
            space.credentials("", 0o600);
            let listed = space.run(&["-p", "alpha", "queue"]);
            if file == "registered.json" {
                assert_eq!(listed.status, 1, "{listed:?}");
                listed.stderr.must_have(&sentence);
            }
            let found = space.run(&["doctor"]);
            [found.stdout, found.stderr].concat().must_have(&sentence);
            assert_eq!(project.made("ran"), "", "{sentence}");
            breach.mend(&path);
            // A change of permissions alone is seen within a minute; a new file at once.
            fs::rename(&path, path.with_extension("moved")).unwrap();
            fs::rename(path.with_extension("moved"), &path).unwrap();
            project.wait_result(ID);
        }
    }
}

#[test]
fn with_directories_of_its_own_that_others_can_use_the_daemon_does_not_start() {
    for dir in ["config", "config/state"] {
        for breach in Breach::all() {
            let (space, project) = alpha(NOTES);
            project.submit(ID, "x");
            fs::create_dir_all(space.state()).unwrap();
            let path = space.root().join(dir);
            breach.make(&path);
            space.spawn(|_| {});
            assert_eq!(space.wait_end(), 1, "{dir}, {breach:?}");
            let sentence = format!("{} {}", path.display(), breach.words());
            space.log().must_have(&sentence);
            assert_eq!(project.made("ran"), "", "{dir}, {breach:?}");
            breach.mend(&path);
            space.start();
            project.wait_result(ID);
            if dir == "config" {
                // Opened later, its files may be anybody's.
                breach.make(&path);
                space.project("planted");
                space.wait_log("the projects before stay in force");
                let log = space.log();
                assert!(!log.contains("'planted' configured"), "{breach:?}: {log}");
            }
        }
    }
}

fn user() -> User {
    let user = User::from_uid(Uid::effective()).unwrap();
    user.expect("tests run as a user who has a name")
}

#[test]
fn what_the_user_s_private_group_can_write_is_believed() {
    let user = user();
    let group = Group::from_gid(user.gid).unwrap().unwrap();
    if group.name != user.name || group.mem.iter().any(|member| *member != user.name) {
        return lacks("group", "the user has no group of their own");
    }
    let (space, project) = alpha(NOTES);
    for part in PARTS {
        chmod(&project.path.join(part), 0o775);
    }
    fs::create_dir(space.state()).unwrap();
    for dir in [space.config(), space.state()] {
        chmod(&dir, 0o775);
    }
    for file in ["registered.json", "config.json"] {
        chmod(&space.config().join(file), 0o664);
    }
    let submit = |id: &str, gid: Gid| {
        let temporary = project.item(".new");
        fs::write(&temporary, "x").unwrap();
        chown(&temporary, None, Some(gid)).unwrap();
        chmod(&temporary, 0o664);
        fs::rename(&temporary, project.item(&format!("{id}.md"))).unwrap();
        project.wait_result(id)
    };
    space.start();
    assert_eq!(submit(ID, user.gid)["status"], "completed");
    // That the user has such a group says nothing of a document of another one.
    if Uid::effective().is_root() {
        let result = submit(NEXT, Gid::from_raw(STRANGER));
        assert_eq!(result["error_kind"], "rejected", "{result}");
    }
}

#[test]
fn a_group_of_the_user_s_name_that_has_other_members_is_not_private() {
    in_namespace(|| {
        let user = user();
        let space = Space::new();
        space.project("alpha");
        let registry = space.config().join("registered.json");
        chown(&registry, None, Some(user.gid)).unwrap();
        chmod(&registry, 0o664);
        let groups = space.root().join("group");
        let entry = |members: &str| format!("{}:x:{}:{members}\n", user.name, user.gid);
        fs::write(&groups, entry(&user.name)).unwrap();
        let _groups = Mounted::bind(&groups, Path::new("/etc/group"));
        space.run(&["list"]).ok();
        fs::write(&groups, entry("somebody")).unwrap();
        let refused = space.run(&["list"]);
        assert_eq!(refused.status, 1, "{refused:?}");
        refused.stderr.must_have("can be written by others");
    });
}

#[test]
fn a_credentials_file_that_anybody_else_can_read_or_owns_holds_every_agent() {
    let (space, project) = alpha(NOTES);
    space.start();
    let path = space.config().join(".env");
    // The view may still tell of the hold before.
    let wait_reason = |words: &str| {
        project.wait_view(words, |view| view["hold"].to_string().contains(words));
    };
    for (at, mode) in [0o640, 0o604, 0o620, 0o602, 0o610].into_iter().enumerate() {
        space.credentials("A=b\n", mode);
        let id = format!("job-20260101-12000{at}-x");
        project.submit(&id, "x");
        let sentence = format!("is open to others (mode {mode:03o}); run: chmod 600 ");
        wait_reason(&format!("{} {sentence}", path.display()));
        space.credentials("A=b\n", 0o600);
        project.wait_result(&id);
    }
    if !Uid::effective().is_root() {
        return lacks("root", "only root can give files to others");
    }
    let given = space.config().join("given");
    fs::write(&given, "A=b\n").unwrap();
    chmod(&given, 0o600);
    chown(&given, Some(Uid::from_raw(STRANGER)), None).unwrap();
    fs::rename(&given, &path).unwrap();
    project.submit(ID, "x");
    wait_reason("belongs to another user");
}

// --- what lies in the way ---

#[test]
fn nothing_that_lies_where_we_write_is_written_through() {
    type Plant = fn(&Path, &Path) -> io::Result<()>;
    let plants: [(&str, Plant); 3] = [
        ("a link", |outside, name| symlink(outside, name)),
        ("a link to nothing yet", |outside, name| {
            symlink(outside.with_extension("new"), name)
        }),
        ("a second name", |outside, name| {
            fs::hard_link(outside, name)
        }),
    ];
    for (what, plant) in plants {
        let (space, project) = alpha(NOTES);
        space.set(json!({"archive": true}));
        fs::create_dir(space.state()).unwrap();
        let outside = space.root().join("outside");
        fs::write(&outside, "not ours").unwrap();
        let before = fs::metadata(&outside).unwrap().mode();
        let planted = [
            project.results(&format!(".{ID}.json.tmp")),
            project.state(&format!(".{ID}.claim.tmp")),
            project.state("queue_state.json"),
            project.state(".queue_state.json.tmp"),
            project.logs(&format!("{ID}.md")),
            project.logs(&format!("{ID}.out")),
            project.logs(&format!("{ID}.err")),
            project.logs("monitor.log"),
            project.logs("monitor.log.1"),
            project.item(".poke"),
            space.state().join("holds.json"),
            space.state().join(".holds.json.tmp"),
            space.config().join(".registered.json.tmp"),
        ];
        for name in &planted {
            plant(&outside, name).unwrap();
        }
        // Documents are to be moved there; and nowhere else.
        let elsewhere = space.root().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        symlink(&elsewhere, project.path.join("jobs/archive")).unwrap();
        project.submit(NEXT, "x");
        project.mark(NEXT, "hold");
        space.start();
        let result = project.run(ID, "x");
        assert_eq!(result["status"], "completed", "{what}: {result}");
        assert_eq!(result["stdout"], "done\n", "{what}");
        space.run(&["cancel", NEXT]).ok();
        assert_eq!(project.wait_result(NEXT)["status"], "cancelled", "{what}");
        space.run(&["disable", "alpha"]).ok();
        space.run(&["enable", "alpha"]).ok();
        assert_eq!(space.stop(), 0);
        assert_eq!(fs::read_to_string(&outside).unwrap(), "not ours", "{what}");
        assert_eq!(fs::metadata(&outside).unwrap().mode(), before, "{what}");
        let new = outside.with_extension("new");
        assert!(!new.exists(), "{what}: it was made");
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0, "{what}");
        assert_eq!(fs::read(project.item(&format!("{ID}.md"))).unwrap(), b"x");
    }
}

#[test]
fn a_lock_that_is_another_file_s_second_name_is_not_taken() {
    let (space, project) = alpha(NOTES);
    project.submit(ID, "x");
    fs::create_dir(space.state()).unwrap();
    let outside = space.root().join("outside");
    fs::write(&outside, "not ours").unwrap();
    let lock = space.state().join("daemon.lock");
    fs::hard_link(&outside, &lock).unwrap();
    space.spawn(|_| {});
    assert_eq!(space.wait_end(), 1);
    space.log().must_have(lock.to_str().unwrap());
    assert_eq!(fs::read_to_string(&outside).unwrap(), "not ours");
    fs::remove_file(&lock).unwrap();
    space.start();
    project.wait_result(ID);
}

// --- what we write ---

#[test]
fn what_we_write_is_for_the_user_alone_under_every_umask_and_the_agent_keeps_its_own() {
    for umask in [0, 0o002, 0o077] {
        let set = |command: &mut Command| {
            // SAFETY: umask takes a number and cannot fail; allowed between fork and exec.
            unsafe {
                command.pre_exec(move || {
                    libc::umask(umask);
                    Ok(())
                });
            }
        };
        let space = with_agent("cat > /dev/null; umask");
        let hook = space.program("hook", "umask > umask.new; mv umask.new umask");
        space.set(json!({"archive": true, "on_finish": [hook]}));
        let root = space.root().join("alpha");
        fs::create_dir(&root).unwrap();
        chmod(&root, 0o755);
        // Directories, registry, documents and marks are made by commands.
        let run = |args: &[&str]| space.run_as(set, args).ok();
        run(&["register", root.to_str().unwrap()]);
        let project = Project::at(&root);
        space.spawn(set);
        space.wait_log("Observer started");
        let text = space.root().join("text");
        fs::write(&text, "Do it.").unwrap();
        let id = run(&["submit", "-d", "one", text.to_str().unwrap()]);
        let result = project.wait_result(id.trim());
        assert_eq!(result["stdout"], format!("{umask:04o}\n"), "{result}");
        assert_eq!(project.wait_made("umask"), format!("{umask:04o}\n"));
        let held = run(&["submit", "-d", "two", text.to_str().unwrap()]);
        space.run_as(set, &["hold", held.trim()]);
        project.wait_view("idle", |view| view["is_processing"] == false);
        assert_eq!(space.stop(), 0);
        let mut found = files_below(&project.path.join("jobs"));
        found.extend(files_below(&space.state()));
        found.push(space.config().join("registered.json"));
        assert!(found.len() >= 10, "{found:?}");
        for path in found {
            let mode = mode_of(&path);
            assert_eq!(mode, 0o600, "umask {umask:03o}: {}", path.display());
        }
        let mode = mode_of(&space.state());
        assert_eq!(mode, 0o700, "umask {umask:03o}: the daemon's own state");
    }
}

// --- the network ---

#[test]
fn neither_the_daemon_nor_a_command_opens_a_socket_to_a_network() {
    let (space, project) = alpha("cat > /dev/null; echo done");
    let trace = space.root().join("trace");
    let traced = |args: &[&str]| {
        let mut command = space.command_of("strace");
        command.args(["-f", "-qq", "-A", "-e", "trace=socket,socketpair,execve"]);
        command.arg("-o").arg(&trace).arg(job_monitor()).args(args);
        command
    };
    let can = Command::new("strace")
        .args(["-o", "/dev/null", "true"])
        .output();
    if !can.as_ref().is_ok_and(|output| output.status.success()) {
        return lacks("strace", &format!("it cannot trace here: {can:?}"));
    }
    let mut daemon = traced(&["daemon"]);
    daemon.stderr(fs::File::create(space.root().join("daemon-1.log")).unwrap());
    let mut daemon = spawn(&mut daemon);
    project.run(ID, "x");
    for args in [
        &["list", "--json"][..],
        &["queue"],
        &["status"],
        &["stats"],
        &[ID],
        &["logs", ID],
        &["wait", ID],
        &["retry", ID],
        &["doctor"],
        &["disable", "alpha"],
    ] {
        let output = traced(args).output().unwrap();
        assert!(output.status.code().is_some(), "{args:?}: {output:?}");
    }
    let pid = space.run(&["list", "--json"]).json()["daemon"]["pid"].as_i64();
    kill(Pid::from_raw(pid.unwrap() as i32), Signal::SIGTERM).unwrap();
    wait_until("the daemon's end", || daemon.try_wait().unwrap().is_some());
    let trace = fs::read_to_string(&trace).unwrap();
    // Not what strace says of a call that another thread's came in between: "<... socket resumed>".
    let asked = |line: &&str| line.contains("socket(") || line.contains("socketpair(");
    let sockets = trace.lines().filter(asked);
    let others: Vec<&str> = sockets
        .filter(|line| !line.contains("(AF_UNIX, "))
        .collect();
    assert!(others.is_empty(), "{others:#?}");
    // The trace is of what it says it is.
    trace.must_have("\"daemon\"]");
    trace.must_have("bin/agent");
}
