//! `registered.json`: which projects there are. Read by everybody, changed under a lock by the
//! commands; what we do not know in it is kept.

use crate::error::{Error, Exit, Result};
use crate::files::{self, Dir, Durability};
use crate::project::{FLAG, Form, Layout, Policy, Project, typed};
use crate::settings::{self, Settings, Warnings, member};
use crate::time::Wall;
use nix::fcntl::FlockArg;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Held by whoever changes the registry.
const LOCK: &str = ".registered.lock";
/// An editor that replaces the registry leaves it missing for no longer than this.
const REPLACE_MAX: Duration = Duration::from_secs(1);
/// How long the directories of projects are looked at; longer takes only a dead mount.
const LOOK_MAX: Duration = Duration::from_millis(500);

/// The registry file as it stands.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Registry {
    /// The entries by the projects' names, usable or not.
    #[serde(default)]
    pub projects: Map<String, Value>,
    /// What else stands there.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// One entry, usable.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The project.
    pub project: Project,
    /// Whether its jobs are to be run.
    pub enabled: bool,
    /// When it was registered, as it was written.
    pub registered_at: Option<String>,
    /// Keys of ours that override the settings.
    pub own: Map<String, Value>,
}

impl Entry {
    /// What holds for this project.
    pub fn policy(&self, settings: &Settings) -> Result<Policy> {
        let name = &self.project.name;
        let policy = settings.policy(&self.own);
        policy.map_err(|e| e.context(&format!("project {name:?} in registered.json")))
    }
}

impl Registry {
    /// Reads the registry; a missing file is an empty one.
    pub fn load(path: &Path) -> Result<Registry> {
        let Some(bytes) = settings::read_config(path)? else {
            return Ok(Registry::default());
        };
        serde_json::from_slice(&bytes).map_err(|error| {
            let what = format!("the registry {} is broken ({error})", path.display());
            Error::new(what + "; mend it by hand")
        })
    }

    /// The usable entries as they were registered, and a sentence for each of the others. Of two names
    /// for one directory the older is served.
    pub fn entries(&self) -> (Vec<Entry>, Warnings) {
        let (mut entries, mut warnings) = (Vec::new(), Vec::new());
        let mut skip = |name: &str, why: String| {
            warnings.push(format!("project {name:?} is skipped: {why}"));
        };
        for (name, value) in &self.projects {
            match entry(name, value) {
                Ok(entry) => entries.push(entry),
                Err(error) => skip(name, format!("{error}; mend its entry in registered.json")),
            }
        }
        entries.sort_by_key(|entry| (entry.registered_at.is_none(), entry.registered_at.clone()));
        let paths = entries.iter().map(|entry| entry.project.path.clone());
        let mut places = places(paths.collect()).into_iter();
        let mut names = BTreeMap::new();
        entries.retain(|Entry { project, .. }| {
            let (name, path) = (&project.name, project.path.display());
            let first = names.entry(places.next()).or_insert_with(|| name.clone());
            let is_first = first == name;
            if !is_first {
                let why = format!("{path} is registered already, as {first:?}");
                skip(name, why + "; unregister one of them");
            }
            is_first
        });
        (entries, warnings)
    }

    /// A sentence for each key of an entry that nobody reads: it may be a setting that was mistyped.
    pub fn unknown_keys(&self) -> Warnings {
        let mut warnings = Vec::new();
        for (name, entry) in &self.projects {
            let place = format!("project {name:?} in registered.json");
            let keys = entry.as_object().into_iter().flat_map(Map::keys);
            let unknown = keys
                .filter(|key| !settings::is_setting(key) && !ENTRY_KEYS.contains(&key.as_str()));
            warnings.extend(unknown.map(|key| settings::unknown_setting(&place, key)));
        }
        warnings
    }

    /// The entry whose project is at `path`, under whatever name either goes.
    pub fn at(&self, path: &Path) -> Option<Entry> {
        let (here, mut entries) = (place(path), self.entries().0.into_iter());
        entries.find(|entry| place(&entry.project.path) == here)
    }

    /// Adds a project; refuses a name or a directory that is there already.
    pub fn add(&mut self, project: &Project, now: Wall) -> Result<()> {
        let Project { name, path, layout } = project;
        // If both are there already, the directory is what to tell of: another name would not help.
        if let Some(other) = self.at(path) {
            let (path, name) = (path.display(), other.project.name);
            let what = format!("{path} is registered already, as {name:?}");
            return Err(Error::new(what));
        }
        if self.projects.contains_key(name) {
            let remedy = "choose another --name, or if it moved, its new path in registered.json";
            let what = format!("a project named {name:?} is registered already; {remedy}");
            return Err(Error::new(what));
        }
        let odd = || format!("{} is not UTF-8 text; rename the directory", path.display());
        let text = path.to_str().ok_or_else(|| Error::new(odd()))?;
        let mut entry = json!({"path": text, "enabled": true, "registered_at": now});
        if *layout != Layout::default() {
            entry["layout"] = json!(layout);
        }
        self.projects.insert(name.clone(), entry);
        Ok(())
    }

    /// Takes a project out.
    pub fn remove(&mut self, name: &str) -> Result<()> {
        let removed = self.projects.remove(name);
        removed.map(drop).ok_or_else(|| self.unknown(name))
    }

    /// Switches a project on or off.
    pub fn enable(&mut self, name: &str, enabled: bool) -> Result<()> {
        let unknown = self.unknown(name);
        let entry = self.projects.get_mut(name).and_then(Value::as_object_mut);
        let enabled = json!(enabled);
        entry.ok_or(unknown)?.insert("enabled".to_owned(), enabled);
        Ok(())
    }

    /// The error for a name that is not in the registry.
    pub fn unknown(&self, name: &str) -> Error {
        let names = self.projects.keys().map(|name| format!("{name:?}"));
        let known = names.collect::<Vec<_>>().join(", ");
        let what = format!("no project named {name:?}; registered: {known}");
        Error::with(Exit::NotFound, what)
    }
}

/// Changes the registry under its lock and writes it whole, where a link leads if it is one; `change`
/// may refuse.
pub fn update<T>(path: &Path, change: impl FnOnce(&mut Registry) -> Result<T>) -> Result<T> {
    let dir = Dir::create(path.parent().expect("the registry lies in a directory"))?;
    let was_there = dir.path_of(LOCK).exists();
    let _lock = dir.lock(LOCK, FlockArg::LockExclusive)?;
    let began = Instant::now();
    while was_there && !path.exists() && began.elapsed() < REPLACE_MAX {
        std::thread::sleep(REPLACE_MAX / 20);
    }
    let mut registry = Registry::load(path)?;
    let result = change(&mut registry)?;
    let mut text = serde_json::to_string_pretty(&registry).expect("it came from JSON");
    text.push('\n');
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let place = real.parent().zip(files::name_of(&real));
    let unnamed = || Error::new("registered.json leads to a file without a name; mend the link");
    let (parent, name) = place.ok_or_else(unnamed)?;
    Dir::open(parent)?.replace(name, text.as_bytes(), Durability::Durable)?;
    Ok(result)
}

/// Keys of an entry that are no settings.
const ENTRY_KEYS: [&str; 4] = ["path", "enabled", "registered_at", "layout"];

const LAYOUT: Form<Layout> = Form("\"jobs\" or \"tasks\"", typed);
const PATH: Form<PathBuf> = Form("an absolute path", |value| {
    let path = value.as_str().map(PathBuf::from);
    path.filter(|path| path.is_absolute())
});

fn entry(name: &str, value: &Value) -> Result<Entry> {
    let values = value.as_object();
    let values = values.ok_or_else(|| Error::new("its entry is not a JSON object"))?;
    if !valid_name(name) {
        let why = "its name is empty, over 100 bytes, or has a '/' or a control character in it";
        return Err(Error::new(why));
    }
    let path = member(values, "", "path", &PATH)?;
    let registered_at = values.get("registered_at").and_then(Value::as_str);
    let own = values.iter().filter(|(key, _)| settings::is_setting(key));
    let own = own.map(|(key, value)| (key.clone(), value.clone()));
    Ok(Entry {
        project: Project {
            name: name.to_owned(),
            path: path.ok_or_else(|| Error::new("it has no \"path\""))?,
            layout: member(values, "", "layout", &LAYOUT)?.unwrap_or_default(),
        },
        enabled: member(values, "", "enabled", &FLAG)?.unwrap_or(true),
        registered_at: registered_at.map(str::to_owned),
        own: own.collect(),
    })
}

/// A name goes into messages, logs and environment variables: no control characters, and short.
pub fn valid_name(name: &str) -> bool {
    let is_odd = |c: char| c.is_control() || c == '/';
    (1..=100).contains(&name.len()) && !name.contains(is_odd)
}

/// Device and inode of the directory that a path leads to, by whatever links and mounts; else that path.
type Place = std::result::Result<(u64, u64), PathBuf>;

fn place(path: &Path) -> Place {
    let meta = files::meta_at(path);
    meta.map(|meta| meta.place).map_err(|_| path.to_owned())
}

/// The same for several. A look at a dead mount may never come back, and must not keep the daemon: it
/// happens in a thread of its own, and when that takes too long nothing is known but the paths.
fn places(paths: Vec<PathBuf>) -> Vec<Place> {
    let unseen = paths.iter().cloned().map(Err).collect();
    let (sender, receiver) = crossbeam_channel::bounded(1);
    let look = move || drop(sender.send(paths.iter().map(|path| place(path)).collect()));
    let looks = std::thread::Builder::new().spawn(look).ok();
    let seen = looks.and_then(|_| receiver.recv_timeout(LOOK_MAX).ok());
    seen.unwrap_or(unseen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_entry_is_named_and_skipped() {
        for (json, wanted) in [
            ("1", "not a JSON object"),
            ("{}", "no \"path\""),
            (r#"{"path": 1}"#, "setting \"path\""),
            (r#"{"path": "x"}"#, "an absolute path"),
            (r#"{"path": "/x", "enabled": "yes"}"#, "true or false"),
            (r#"{"path": "/x", "layout": "job"}"#, "setting \"layout\""),
        ] {
            let good = r#"{"path": "/y", "retries": 1, "n": 1}"#;
            let text = format!(r#"{{"bad": {json}, "good": {good}}}"#);
            let projects = serde_json::from_str(&text).unwrap();
            let registry = Registry {
                projects,
                ..Registry::default()
            };
            let (entries, warnings) = registry.entries();
            assert_eq!((entries.len(), warnings.len()), (1, 1));
            for wanted in ["project \"bad\" is skipped", wanted] {
                assert!(warnings[0].contains(wanted), "{warnings:?}");
            }
            assert_eq!(entries[0].own.keys().collect::<Vec<_>>(), ["retries"]);
            assert!(registry.unknown_keys()[0].contains("unknown setting \"n\""));
        }
    }
}
