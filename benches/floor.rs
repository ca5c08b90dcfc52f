//! The floor: the least that any job monitor on Linux does. It waits for an event, starts the agent,
//! awaits it, and renames a result into place. It is a measuring stick and no product: it trusts
//! what it finds, writes nothing down before it starts anything, and ends at the first error.

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// Serves one project for ever, what lies there already first.
pub fn serve(project: &Path, agent: &[String]) -> io::Result<()> {
    let items = project.join("jobs/items");
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
    inotify.add_watch(&items, AddWatchFlags::IN_MOVED_TO)?;
    let results: HashSet<String> = names(&project.join("jobs/results"))?.collect();
    let is_new = |name: &String| !results.contains(&name.replace(".md", ".json"));
    let waiting: BTreeSet<String> = names(&items)?.filter(is_new).collect();
    for name in waiting {
        run(project, agent, &name)?;
    }
    loop {
        for event in inotify.read_events()? {
            let name = event.name.unwrap_or_default();
            run(project, agent, &name.to_string_lossy())?;
        }
    }
}

fn run(project: &Path, agent: &[String], name: &str) -> io::Result<()> {
    let log = File::create(project.join("jobs/logs").join(name))?;
    let document = File::open(project.join("jobs/items").join(name))?;
    let status = Command::new(&agent[0])
        .args(&agent[1..])
        .stdin(document)
        .stdout(log)
        .stderr(Stdio::null())
        .status()?;
    let results = project.join("jobs/results");
    let temporary = results.join(".tmp");
    let mut file = File::create(&temporary)?;
    writeln!(file, "{{\"status\": \"completed\", \"exit\": {status:?}}}")?;
    file.sync_all()?;
    fs::rename(&temporary, results.join(name.replace(".md", ".json")))?;
    File::open(&results)?.sync_all()
}

/// Reads one file, or every file of a directory, and prints how much that was.
pub fn read(path: &Path) -> io::Result<()> {
    let mut length = 0;
    if path.is_dir() {
        for name in names(path)?.collect::<BTreeSet<String>>() {
            length += fs::read(path.join(name))?.len();
        }
    } else {
        length += fs::read(path)?.len();
    }
    println!("{length}");
    Ok(())
}

fn names(directory: &Path) -> io::Result<impl Iterator<Item = String>> {
    let entries = fs::read_dir(directory)?.flatten();
    Ok(entries.filter_map(|entry| entry.file_name().into_string().ok()))
}
