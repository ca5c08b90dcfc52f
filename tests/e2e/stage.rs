//! What many themes do with a space: its usual agents, a job from its document to its result, and
//! looks at texts and files.

use crate::space::{BOUND, Project, Space};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub const ID: &str = "job-20260101-120000-hello";
pub const NEXT: &str = "job-20260101-120001-next";
pub const LAST: &str = "job-20260101-120002-last";

/// An agent that notes that it ran.
pub const NOTES: &str = r#"echo "$JOB_MONITOR_JOB_ID" >> ran; cat > /dev/null; echo done"#;

/// An agent that notes that it ran, and ends when the test makes the file `go`.
pub const GATED: &str = r#"echo "$JOB_MONITOR_JOB_ID" >> ran; cat > /dev/null
while [ ! -e go ]; do sleep 0.02; done; echo done"#;

/// The minute of the slow look, and what a busy machine may add.
pub const A_MINUTE: Duration = Duration::from_secs(60 + BOUND.as_secs());

/// A space with a plain agent.
pub fn with_agent(body: &str) -> Space {
    let space = Space::new();
    space.plain_agent(body);
    space
}

/// A space with a plain agent and a project, `alpha`.
pub fn alpha(body: &str) -> (Space, Project) {
    let space = with_agent(body);
    let project = space.project("alpha");
    (space, project)
}

/// Submits a job and waits until its agent has noted that it runs.
#[track_caller]
pub fn begin(project: &Project, id: &str, text: &str) {
    project.submit(id, text);
    project.wait_made("ran");
}

/// The jobs that ran, as agents noted it.
pub fn ran(project: &Project) -> Vec<String> {
    project.made("ran").lines().map(str::to_owned).collect()
}

/// The reason why a project's agents are held; it must be of this kind.
#[track_caller]
pub fn wait_hold(project: &Project, kind: &str) -> String {
    let view = project.wait_view(kind, |view| view["hold"]["kind"] == kind);
    assert_eq!(view["is_processing"], false);
    assert_eq!(view["queue_size"], 1);
    view["hold"]["reason"].as_str().unwrap().to_owned()
}

pub fn times(log: &str, text: &str) -> usize {
    log.matches(text).count()
}

pub fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// The line of a text that has these words.
#[track_caller]
pub fn line_with<'a>(text: &'a str, words: &str) -> &'a str {
    let line = text.lines().find(|line| line.contains(words));
    line.unwrap_or_else(|| panic!("no line has {words:?}: {text}"))
}

/// Every regular file below a directory.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => found.extend(files_below(&entry.path())),
            kind if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    found
}
