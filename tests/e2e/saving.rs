//! How a document gets to its place: editors and tools save in many ways (in place, beside and
//! renamed, the old file made a backup first, slowly), and each way ends in exactly one run with
//! the whole text. The programs are the real ones; one that is not installed is skipped and said,
//! unless `JOB_MONITOR_REQUIRE` lists `editors`.

use crate::space::{Project, Space, lacks, spawn, wait_until};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Notes each start, and keeps what the job was given.
const NOTES: &str =
    r#"echo "$JOB_MONITOR_JOB_ID" >> ran; cat > "prompt-$JOB_MONITOR_JOB_ID"; echo done"#;

/// As `NOTES`, but the job `GATE` ends only when the test makes the file `go`.
const GATED: &str = r#"echo "$JOB_MONITOR_JOB_ID" >> ran; cat > "prompt-$JOB_MONITOR_JOB_ID"
case $JOB_MONITOR_JOB_ID in *-gate) while [ ! -e go ]; do sleep 0.02; done;; esac; echo done"#;

const GATE: &str = "job-20260101-000000-gate";

/// Whether a way of saving needs a document that is there already.
#[derive(Clone, Copy, PartialEq)]
enum Needs {
    Nothing,
    AnOldOne,
}

/// A way to bring the text in the file `$2` to the place `$1`: its name, the program without which
/// it cannot be tried, what it needs, and a shell script. `$3` is a directory on another file
/// system, `$4` one that is nobody's but this way's.
type Way = (&'static str, &'static str, Needs, &'static str);

/// The pause of the slow ones is longer than `settle`, or a document that is still being written
/// would not be told from one that is whole.
const WAYS: [Way; 30] = [
    ("cat", "cat", Needs::Nothing, r#"cat "$2" > "$1""#),
    ("cat-slowly", "cat", Needs::Nothing, r#"slowly "$2" > "$1""#),
    (
        "touch-first",
        "touch",
        Needs::Nothing,
        r#"touch "$1"; cat "$2" > "$1""#,
    ),
    // An event tells of it while it has text and is still being written.
    (
        "chmod-between",
        "chmod",
        Needs::Nothing,
        r#"{ head -c 1000 "$2"; chmod 600 "$1"; sleep 0.5; tail -c +1001 "$2"; } > "$1""#,
    ),
    // It is nobody's between its two parts.
    (
        "append",
        "cat",
        Needs::Nothing,
        r#"head -c 1000 "$2" > "$1"; sleep 0.2; tail -c +1001 "$2" >> "$1""#,
    ),
    (
        "tee-slowly",
        "tee",
        Needs::Nothing,
        r#"slowly "$2" | tee "$1" > "$4/out""#,
    ),
    (
        "dd",
        "dd",
        Needs::Nothing,
        r#"dd if="$2" of="$1" bs=4k status=none"#,
    ),
    ("cp", "cp", Needs::Nothing, r#"cp "$2" "$1""#),
    (
        "cp-slowly",
        "cp",
        Needs::Nothing,
        r#"slowly "$2" | cp /dev/stdin "$1""#,
    ),
    // The time that it gives is long ago: nothing to settle, as it seems.
    (
        "cp-with-its-time",
        "cp",
        Needs::Nothing,
        r#"cp "$2" "$4/old"; touch -d yesterday "$4/old"; cp -p "$4/old" "$1""#,
    ),
    (
        "cp-with-a-backup",
        "cp",
        Needs::Nothing,
        r#"cp --backup=simple "$2" "$1""#,
    ),
    (
        "cp-instead",
        "cp",
        Needs::Nothing,
        r#"cp --remove-destination "$2" "$1""#,
    ),
    (
        "hard-link",
        "ln",
        Needs::Nothing,
        r#"cp "$2" "$4/draft"; ln -f "$4/draft" "$1""#,
    ),
    (
        "mv",
        "mv",
        Needs::Nothing,
        r#"cp "$2" "$4/draft"; mv "$4/draft" "$1""#,
    ),
    (
        "mv-from-elsewhere",
        "mv",
        Needs::Nothing,
        r#"cp "$2" "$3/draft"; mv "$3/draft" "$1""#,
    ),
    (
        "install",
        "install",
        Needs::Nothing,
        r#"install -m 600 "$2" "$1""#,
    ),
    (
        "install-slowly",
        "install",
        Needs::Nothing,
        r#"slowly "$2" | install -m 600 /dev/stdin "$1""#,
    ),
    (
        "tar",
        "tar",
        Needs::Nothing,
        r#"cp "$2" "$4/${1##*/}"; tar -C "$4" -c "${1##*/}" | tar -C "${1%/*}" -x"#,
    ),
    (
        "sed",
        "sed",
        Needs::AnOldOne,
        r#"sed -i -e "1r $2" -e 1d "$1""#,
    ),
    (
        "sed-with-a-backup",
        "sed",
        Needs::AnOldOne,
        r#"sed -i.bak -e "1r $2" -e 1d "$1""#,
    ),
    ("rsync", "rsync", Needs::Nothing, r#"rsync "$2" "$1""#),
    (
        "rsync-in-place",
        "rsync",
        Needs::Nothing,
        r#"rsync --inplace --times --ignore-times "$2" "$1""#,
    ),
    (
        "rsync-slowly",
        "rsync",
        Needs::Nothing,
        r#"rsync --inplace --bwlimit=400 "$2" "$1""#,
    ),
    // A directory and its time; whatever has that name lies in it alone.
    (
        "rsync-of-all",
        "rsync",
        Needs::Nothing,
        r#"cp "$2" "$4/${1##*/}"; touch -d yesterday "$4"; rsync --archive --ignore-times "$4/" "${1%/*}/""#,
    ),
    // `backupskip` has /tmp in it, where this runs; else these are vim's defaults, and two variants.
    ("vim", "vim", Needs::Nothing, r#"edit "set backupskip=""#),
    (
        "vim-with-a-backup",
        "vim",
        Needs::Nothing,
        r#"edit "set backupskip= backup backupcopy=no""#,
    ),
    (
        "vim-in-place",
        "vim",
        Needs::Nothing,
        r#"edit "set backupskip= backupcopy=yes""#,
    ),
    (
        "nano",
        "nano",
        Needs::Nothing,
        r#"type_into nano --ignorercfiles"#,
    ),
    (
        "nano-with-a-backup",
        "nano",
        Needs::Nothing,
        r#"type_into nano --ignorercfiles --backup"#,
    ),
    // emacs is large, so this is what it does: a link as its lock, what was typed so far beside it,
    // the old file made a backup, the new one written in its place.
    (
        "emacs",
        "ln",
        Needs::Nothing,
        r##"dir=${1%/*} name=${1##*/}
ln -s "somebody@somewhere.1:1" "$dir/.#$name"; head -c 1000 "$2" > "$dir/#$name#"
if [ -e "$1" ]; then mv "$1" "$1~"; sleep 0.5; fi
slowly "$2" > "$1"; rm "$dir/#$name#" "$dir/.#$name""##,
    ),
];

/// What the scripts share. nano reads its text from the file: a terminal would have to type it.
const SHARED: &str = r#"set -eu
slowly() { head -c 1000 "$1"; sleep 0.5; tail -c +1001 "$1"; }
edit() { "$VIM" -N -u NONE -i NONE -es -c "$1" -c '%d' -c "silent 0read $text" -c wq "$item" < /dev/null; }
type_into() {
    mkfifo "$own/keys"; : > "$own/screen"
    TERM=xterm script --quiet --flush --command "$* '$item'" "$own/screen" < "$own/keys" > /dev/null &
    exec 3> "$own/keys"
    until grep -q 'Read File' "$own/screen"; do sleep 0.02; done
    # Cut to the end; read the file; write; leave.
    printf '\033T\022%s\r\017\r\030' "$text" >&3
    wait
}
item=$1 text=$2 own=$4
"#;

/// A directory on another file system than the space's, if the machine has one for everybody.
struct Elsewhere(Option<PathBuf>);

impl Elsewhere {
    fn new(space: &Space) -> Elsewhere {
        let shared = Path::new("/dev/shm");
        let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev()).ok();
        let other = device(shared).filter(|other| Some(*other) != device(space.root()));
        let name = space.root().file_name().unwrap();
        let dir = shared.join(name);
        Elsewhere(other.and_then(|_| fs::create_dir(&dir).ok()).map(|()| dir))
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        if let Some(dir) = &self.0 {
            let _ = fs::remove_dir_all(dir);
        }
    }
}

/// The program of that name, or the variant of it that Debian has installed.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let names = [name.to_owned(), format!("{name}.tiny")];
    let found = |name: &String| {
        std::env::split_paths(&path)
            .map(|dir| dir.join(name))
            .find(|file| file.is_file())
    };
    names.iter().find_map(found)
}

/// Saves a way's text at `item`; `false` where it cannot be tried. `root` is the space's.
fn save(way: &Way, root: &Path, item: &Path, elsewhere: &Elsewhere) -> bool {
    let (name, needed, _, script) = way;
    let other = elsewhere.0.as_deref();
    let lacking = if program(needed).is_none() {
        Some(format!("there is no {needed}"))
    } else if script.contains("$3") && other.is_none() {
        Some("/dev/shm is no other file system".to_owned())
    } else {
        None
    };
    if let Some(why) = lacking {
        lacks("editors", &format!("{name}: {why}"));
        return false;
    }
    let own = root.join(format!("own-{name}"));
    fs::create_dir(&own).unwrap();
    let source = root.join(format!("text-{name}"));
    fs::write(&source, text_of(way)).unwrap();
    let mut command = Command::new("timeout");
    command.args(["30", "sh", "-c", &format!("{SHARED}{script}"), name]);
    command.args([item, &source, other.unwrap_or(&own), &own]);
    command.current_dir(root).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("HOME", root.join("home"));
    command.env("VIM", program("vim").unwrap_or_default());
    let output = spawn(&mut command).wait_with_output().unwrap();
    assert!(output.status.success(), "{name}: {output:?}");
    true
}

/// So long that it is not written at one stroke, and each way has its own.
fn text_of(way: &Way) -> String {
    let lines = (0..8_000).map(|line| format!("line {line} by {}\n", way.0));
    lines.collect()
}

/// Saves in many ways side by side; gives those that could be tried.
fn save_all<'a>(
    space: &Space,
    ways: impl Iterator<Item = &'a Way>,
    item: impl Fn(&Way) -> PathBuf,
) -> Vec<&'a Way> {
    let elsewhere = Elsewhere::new(space);
    let (root, elsewhere) = (space.root(), &elsewhere);
    std::thread::scope(|scope| {
        let begin = |way: &'a Way| {
            let item = item(way);
            (way, scope.spawn(move || save(way, root, &item, elsewhere)))
        };
        let begun: Vec<_> = ways.map(begin).collect();
        let ended = begun.into_iter().map(|(way, thread)| (way, thread.join()));
        let tried = ended.filter(|(_, outcome)| match outcome {
            Ok(tried) => *tried,
            Err(_) => panic!("a document could not be saved; see above"),
        });
        tried.map(|(way, _)| way).collect()
    })
}

fn id_of(way: &Way) -> String {
    let at = WAYS.iter().position(|other| other.0 == way.0).unwrap();
    format!("job-20260101-12{at:04}-{}", way.0)
}

/// The job is done, once, and was given what was saved.
fn assert_ran_once(project: &Project, way: &Way) {
    let id = id_of(way);
    let result = project.wait_result(&id);
    assert_eq!(result["status"], "completed", "{id}: {result}");
    let prompt = project.made(&format!("prompt-{id}"));
    let text = text_of(way);
    assert!(
        prompt == text,
        "{id} was given {} bytes of {}",
        prompt.len(),
        text.len()
    );
    let ran = project.made("ran");
    let starts = ran.lines().filter(|line| *line == id).count();
    assert_eq!(starts, 1, "{id} was started {starts} times");
}

#[test]
fn a_new_document_runs_once_with_its_whole_text_whatever_saves_it() {
    let space = Space::new();
    space.plain_agent(NOTES);
    // Each in a project of its own, or a way that is slow would hide behind another's job.
    let new: Vec<&Way> = WAYS.iter().filter(|way| way.2 == Needs::Nothing).collect();
    let project = |way: &Way| match way.0 {
        "append" => space.project_with(way.0, json!({"settle": "3s"})),
        name => space.project(name),
    };
    let projects: BTreeMap<&str, Project> = new.iter().map(|way| (way.0, project(way))).collect();
    space.start();
    let item = |way: &Way| projects[way.0].item(&format!("{}.md", id_of(way)));
    let tried = save_all(&space, new.into_iter(), item);
    for way in &tried {
        assert_ran_once(&projects[way.0], way);
    }
    // What comes after has seen every event of what came before.
    let last = "job-20991231-235959-last";
    for way in tried {
        let project = &projects[way.0];
        project.submit(last, "x");
        project.wait_result(last);
        assert_eq!(project.made("ran"), format!("{}\n{last}\n", id_of(way)));
    }
}

#[test]
fn a_waiting_document_runs_once_with_its_new_text_whatever_changes_it() {
    let space = Space::new();
    space.plain_agent(GATED);
    let project = space.project("alpha");
    space.start();
    project.submit(GATE, "x");
    project.wait_made("ran");
    for way in &WAYS {
        project.submit(&id_of(way), "the old text, which is to be replaced\n");
    }
    project.wait_view("all wait", |view| view["queue_size"] == WAYS.len());
    let item = |way: &Way| project.item(&format!("{}.md", id_of(way)));
    let tried = save_all(&space, WAYS.iter(), item);
    fs::write(project.path.join("go"), "").unwrap();
    for way in &tried {
        assert_ran_once(&project, way);
    }
    wait_until("nothing to be left", || project.view()["queue_size"] == 0);
    assert_eq!(project.made("ran").lines().count(), 1 + WAYS.len());
}
