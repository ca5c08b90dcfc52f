//! How a document gets to its place: editors and tools save in many ways (in place, beside and
//! renamed, the old file made a backup first, slowly), and each way ends in exactly one run with
//! the whole text. The programs are the real ones; one that is not installed is skipped and said,
//! unless `JOB_MONITOR_REQUIRE` lists `editors`.

use crate::space::{Project, Space, lacks, spawn, wait_until};
use crate::stage::*;
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

/// A way to bring a text to its place: its name, the program without which it cannot be tried, and a
/// shell script.
struct Way {
    name: &'static str,
    program: &'static str,
    script: &'static str,
}

impl Way {
    /// Whether it needs a document that is there already.
    fn changes(&self) -> bool {
        self.program == "sed"
    }
}

/// One way a line: name, program, script, which brings the text in the file `$2` to the place `$1`. `$3`
/// is a directory on another file system, `$4` one that is nobody's but this way's.
///
/// - The pause of the slow ones is longer than `settle`, or a document that is still being written
///   would not be told from one that is whole.
/// - chmod-between: an event tells of it while it has text and is still being written.
/// - append: it is nobody's between its two parts.
/// - cp-with-its-time: the time that it gives is long ago, so there is nothing to settle, as it seems.
/// - rsync-of-all: a directory and its time; whatever has that name lies in it alone.
/// - vim: `backupskip` has /tmp in it, where this runs; else these are its defaults, and two variants.
const WAYS: &str = r#"
cat                 cat      cat "$2" > "$1"
cat-slowly          cat      slowly "$2" > "$1"
touch-first         touch    touch "$1"; cat "$2" > "$1"
chmod-between       chmod    { head -c 1000 "$2"; chmod 600 "$1"; sleep 0.5; tail -c +1001 "$2"; } > "$1"
append              cat      head -c 1000 "$2" > "$1"; sleep 0.2; tail -c +1001 "$2" >> "$1"
tee-slowly          tee      slowly "$2" | tee "$1" > "$4/out"
dd                  dd       dd if="$2" of="$1" bs=4k status=none
cp                  cp       cp "$2" "$1"
cp-slowly           cp       slowly "$2" | cp /dev/stdin "$1"
cp-with-its-time    cp       cp "$2" "$4/old"; touch -d yesterday "$4/old"; cp -p "$4/old" "$1"
cp-with-a-backup    cp       cp --backup=simple "$2" "$1"
cp-instead          cp       cp --remove-destination "$2" "$1"
hard-link           ln       cp "$2" "$4/draft"; ln -f "$4/draft" "$1"
mv                  mv       cp "$2" "$4/draft"; mv "$4/draft" "$1"
mv-from-elsewhere   mv       cp "$2" "$3/draft"; mv "$3/draft" "$1"
install             install  install -m 600 "$2" "$1"
install-slowly      install  slowly "$2" | install -m 600 /dev/stdin "$1"
tar                 tar      cp "$2" "$4/${1##*/}"; tar -C "$4" -c "${1##*/}" | tar -C "${1%/*}" -x
sed                 sed      sed -i -e "1r $2" -e 1d "$1"
sed-with-a-backup   sed      sed -i.bak -e "1r $2" -e 1d "$1"
rsync               rsync    rsync "$2" "$1"
rsync-in-place      rsync    rsync --inplace --times --ignore-times "$2" "$1"
rsync-slowly        rsync    rsync --inplace --bwlimit=400 "$2" "$1"
rsync-of-all        rsync    cp "$2" "$4/${1##*/}"; touch -d yesterday "$4"; rsync --archive --ignore-times "$4/" "${1%/*}/"
vim                 vim      edit "set backupskip="
vim-with-a-backup   vim      edit "set backupskip= backup backupcopy=no"
vim-in-place        vim      edit "set backupskip= backupcopy=yes"
nano                nano     type_into nano --ignorercfiles
nano-with-a-backup  nano     type_into nano --ignorercfiles --backup
emacs               ln       as_emacs_does
"#;

fn ways() -> Vec<Way> {
    let way = |line: &'static str| {
        let (name, rest) = line.split_once(' ').unwrap();
        let (program, script) = rest.trim_start().split_once(' ').unwrap();
        Way {
            name,
            program,
            script,
        }
    };
    WAYS.trim().lines().map(way).collect()
}

/// What the scripts share. nano reads its text from the file: a terminal would have to type it.
const SHARED: &str = r##"set -eu
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
# It is large, so this is what it does: a link as its lock, what was typed so far beside it, the old
# file made a backup, the new one written in its place.
as_emacs_does() {
    local dir=${item%/*} name=${item##*/}
    ln -s "somebody@somewhere.1:1" "$dir/.#$name"; head -c 1000 "$text" > "$dir/#$name#"
    if [ -e "$item" ]; then mv "$item" "$item~"; sleep 0.5; fi
    slowly "$text" > "$item"; rm "$dir/#$name#" "$dir/.#$name"
}
item=$1 text=$2 own=$4
"##;

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
    let (name, script, other) = (way.name, way.script, elsewhere.0.as_deref());
    if program(way.program).is_none() {
        lacks("editors", &format!("{name}: there is no {}", way.program));
        return false;
    }
    if script.contains("$3") && other.is_none() {
        lacks(
            "editors",
            &format!("{name}: /dev/shm is no other file system"),
        );
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
    let lines = (0..8_000).map(|line| format!("line {line} by {}\n", way.name));
    lines.collect()
}

/// Saves in many ways side by side; gives those that could be tried.
fn save_all<'a>(space: &Space, ways: &'a [Way], item: impl Fn(&Way) -> PathBuf) -> Vec<&'a Way> {
    let elsewhere = Elsewhere::new(space);
    let (root, elsewhere) = (space.root(), &elsewhere);
    std::thread::scope(|scope| {
        let begin = |way: &'a Way| {
            let item = item(way);
            (way, scope.spawn(move || save(way, root, &item, elsewhere)))
        };
        let begun: Vec<_> = ways.iter().map(begin).collect();
        let ended = begun.into_iter().map(|(way, thread)| (way, thread.join()));
        let tried = ended.filter(|(_, outcome)| match outcome {
            Ok(tried) => *tried,
            Err(_) => panic!("a document could not be saved; see above"),
        });
        tried.map(|(way, _)| way).collect()
    })
}

fn id_of(way: &Way) -> String {
    format!("job-20260101-120000-{}", way.name)
}

/// The job is done, once, and was given what was saved.
fn assert_ran_once(project: &Project, way: &Way) {
    let id = id_of(way);
    project.wait_completed(&id);
    let prompt = project.made(&format!("prompt-{id}"));
    let text = text_of(way);
    let (given, all) = (prompt.len(), text.len());
    assert!(prompt == text, "{id} was given {given} bytes of {all}");
    let ran = project.made("ran");
    let starts = ran.lines().filter(|line| *line == id).count();
    assert_eq!(starts, 1, "{id} was started {starts} times");
}

#[test]
fn a_new_document_runs_once_with_its_whole_text_whatever_saves_it() {
    let space = with_agent(NOTES);
    // Each in a project of its own, or a way that is slow would hide behind another's job.
    let mut ways = ways();
    ways.retain(|way| !way.changes());
    let project = |way: &Way| match way.name {
        "append" => space.project_with(way.name, json!({"settle": "3s"})),
        name => space.project(name),
    };
    let projects: BTreeMap<_, _> = ways.iter().map(|way| (way.name, project(way))).collect();
    space.start();
    let item = |way: &Way| projects[way.name].item(&format!("{}.md", id_of(way)));
    let tried = save_all(&space, &ways, item);
    for way in &tried {
        assert_ran_once(&projects[way.name], way);
    }
    // What comes after has seen every event of what came before.
    let last = "job-20991231-235959-last";
    for way in tried {
        let project = &projects[way.name];
        project.run(last, "x");
        assert_eq!(project.made("ran"), format!("{}\n{last}\n", id_of(way)));
    }
}

#[test]
fn a_waiting_document_runs_once_with_its_new_text_whatever_changes_it() {
    let (space, project) = alpha(GATED);
    space.start();
    project.submit(GATE, "x");
    project.wait_made("ran");
    let ways = ways();
    for way in &ways {
        project.submit(&id_of(way), "the old text, which is to be replaced\n");
    }
    project.wait_view("all wait", |view| view["queue_size"] == ways.len());
    let item = |way: &Way| project.item(&format!("{}.md", id_of(way)));
    let tried = save_all(&space, &ways, item);
    project.touch("go");
    for way in &tried {
        assert_ran_once(&project, way);
    }
    wait_until("nothing to be left", || project.view()["queue_size"] == 0);
    assert_eq!(project.made("ran").lines().count(), 1 + ways.len());
}
