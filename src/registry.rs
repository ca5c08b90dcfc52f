//! `registered.json`: which projects there are. Read by everybody, changed under a lock by the
//! commands, and given back as it was found but for the change.

use crate::error::{Error, Exit, Result};
use crate::files::{self, Dir, Durability};
use crate::project::{Layout, Policy, Project, form, word};
use crate::settings::{self, Settings, Warnings, wrong};
use crate::time::Wall;
use nix::fcntl::{Flock, FlockArg};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Held by whoever changes the registry.
const LOCK: &str = ".registered.lock";
/// A registry that is missing for so short is being replaced by an editor.
const REPLACE_MAX: Duration = Duration::from_secs(1);

/// The registry file as it stands.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    document: Object,
    projects: Object,
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
        let broken = |what: String| {
            let path = path.display();
            Error::new(format!(
                "the registry {path} is broken ({what}); mend it by hand"
            ))
        };
        let document: Object = serde_json::from_slice(&bytes).map_err(|e| broken(e.to_string()))?;
        let projects = match document.get("projects") {
            None => Object::default(),
            Some(json) => {
                serde_json::from_str(json).map_err(|e| broken(format!("\"projects\": {e}")))?
            }
        };
        Ok(Registry { document, projects })
    }

    /// The usable entries, and a sentence for each of the others. Paths are compared as text:
    /// looking at each could hang in a dead mount. Two paths to one directory are caught by
    /// [`Registry::add`], and at the latest by the project's lock.
    pub fn entries(&self) -> (Vec<Entry>, Warnings) {
        let mut entries: Vec<Entry> = Vec::new();
        let mut warnings = Vec::new();
        for (name, json) in &self.projects.0 {
            let skipped = match entry(name, json.get()) {
                Err(error) => format!("{error}; mend its entry in registered.json"),
                Ok(entry) => {
                    let path = &entry.project.path;
                    match entries.iter().find(|other| other.project.path == *path) {
                        None => {
                            entries.push(entry);
                            continue;
                        }
                        Some(other) => format!(
                            "{} is registered already, as {:?}; unregister one of them",
                            path.display(),
                            other.project.name
                        ),
                    }
                }
            };
            warnings.push(format!("project {name:?} is skipped: {skipped}"));
        }
        (entries, warnings)
    }

    /// A sentence for each key of an entry that nobody reads: it may be a setting that was mistyped.
    pub fn unknown_keys(&self) -> Warnings {
        let mut warnings = Vec::new();
        for (name, json) in &self.projects.0 {
            let entry: Object = serde_json::from_str(json.get()).unwrap_or_default();
            let unknown = entry.0.iter().filter(|(key, _)| {
                !ENTRY_KEYS.contains(&key.as_str()) && !settings::is_setting(key)
            });
            let place = format!("project {name:?} in registered.json");
            warnings.extend(unknown.map(|(key, _)| settings::unknown_setting(&place, key)));
        }
        warnings
    }

    /// The entry whose project is at `path`, under whatever name either goes.
    pub fn at(&self, path: &Path) -> Option<Entry> {
        let (entries, _) = self.entries();
        entries
            .into_iter()
            .find(|entry| same_place(&entry.project.path, path))
    }

    /// Whether there is an entry of that name, usable or not.
    pub fn has(&self, name: &str) -> bool {
        self.projects.get(name).is_some()
    }
}

/// Changes the registry under its lock and writes it whole, where a link leads if it is one; `change`
/// may refuse.
pub fn update<T>(path: &Path, change: impl FnOnce(&mut Registry) -> Result<T>) -> Result<T> {
    let no_place = || {
        let path = path.display();
        Error::new(format!(
            "{path} is no place for the registry; set MONITOR_SYSTEM_ROOT to a directory"
        ))
    };
    let dir = Dir::create(path.parent().ok_or_else(no_place)?)?;
    let was_there = dir.path_of(LOCK).exists();
    let lock = dir.append_file(LOCK)?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, e)| Error::io("lock", &dir.path_of(LOCK), e.into()))?;
    let began = Instant::now();
    while was_there && !path.exists() && began.elapsed() < REPLACE_MAX {
        std::thread::sleep(REPLACE_MAX / 20);
    }
    let mut registry = Registry::load(path)?;
    let result = change(&mut registry)?;
    registry.document.set("projects", registry.projects.text(2));
    let text = registry.document.text(0) + "\n";
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let parent = Dir::open(real.parent().ok_or_else(no_place)?)?;
    let name = files::name_of(&real).ok_or_else(no_place)?;
    parent.replace(name, text.as_bytes(), Durability::Durable)?;
    Ok(result)
}

impl Registry {
    /// Adds a project; refuses a name or a directory that is there already.
    pub fn add(&mut self, project: &Project, now: Wall) -> Result<()> {
        let path = &project.path;
        // Of both, the directory tells more: another name would not help.
        if let Some(other) = self.at(path) {
            let (path, name) = (path.display(), other.project.name);
            return Err(Error::new(format!(
                "{path} is registered already, as {name:?}"
            )));
        }
        if self.has(&project.name) {
            return Err(Error::new(format!(
                "a project named {:?} is registered already; choose another with --name",
                project.name
            )));
        }
        let mut entry = Object::default();
        entry.set("path", text_of(path)?);
        entry.set("enabled", true);
        entry.set("registered_at", Value::from(now.to_string()));
        if project.layout != Layout::default() {
            entry.set("layout", Value::from(project.layout.as_str()));
        }
        self.projects.set(&project.name, entry.text(4));
        Ok(())
    }

    /// Takes a project out.
    pub fn remove(&mut self, name: &str) -> Result<()> {
        let before = self.projects.0.len();
        self.projects.0.retain(|(other, _)| other != name);
        match self.projects.0.len() < before {
            true => Ok(()),
            false => Err(self.unknown(name)),
        }
    }

    /// Switches a project on or off; whether that changed anything.
    pub fn enable(&mut self, name: &str, enabled: bool) -> Result<bool> {
        let mut entry = self.entry(name)?;
        let before = entry.get("enabled") != Some("false");
        entry.set("enabled", enabled);
        self.projects.set(name, entry.text(4));
        Ok(before != enabled)
    }

    /// Gives a project that has moved its new directory.
    pub fn relocate(&mut self, name: &str, path: &Path) -> Result<()> {
        let mut entry = self.entry(name)?;
        entry.set("path", text_of(path)?);
        self.projects.set(name, entry.text(4));
        Ok(())
    }

    fn entry(&self, name: &str) -> Result<Object> {
        let entry = self.projects.get(name);
        let entry = entry.and_then(|json| serde_json::from_str(json).ok());
        entry.ok_or_else(|| self.unknown(name))
    }

    /// The error for a name that is not in the registry.
    pub fn unknown(&self, name: &str) -> Error {
        let names = self.projects.0.iter().map(|(name, _)| format!("{name:?}"));
        let names: Vec<_> = names.collect();
        let known = match names.len() {
            0 => "none is registered; job-monitor register PATH adds one".to_owned(),
            _ => format!("registered: {}", names.join(", ")),
        };
        Error::with(
            Exit::NotFound,
            format!("no project named {name:?}; {known}"),
        )
    }
}

fn text_of(path: &Path) -> Result<Value> {
    path.to_str().map(Value::from).ok_or_else(|| {
        let path = path.display();
        Error::new(format!(
            "the path {path} is not UTF-8 text, which the registry needs; rename the directory"
        ))
    })
}

/// A JSON object as it was written: keys in order, values untouched. What we do not know is given
/// back as it came.
#[derive(Clone, Debug, Default)]
struct Object(Vec<(String, Box<RawValue>)>);

impl Object {
    /// The value of a key, as the JSON that was written.
    fn get(&self, key: &str) -> Option<&str> {
        let found = self.0.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.get())
    }

    /// Sets a key to some JSON, in its place if it is there, else at the end.
    fn set(&mut self, key: &str, json: impl ToString) {
        let value = RawValue::from_string(json.to_string()).expect("what we write is JSON");
        match self.0.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => *old = value,
            None => self.0.push((key.to_owned(), value)),
        }
    }

    /// The object with each entry in a line of its own, itself in a line that is indented so far.
    fn text(&self, indent: usize) -> String {
        if self.0.is_empty() {
            return "{}".to_owned();
        }
        let inner = indent + 2;
        let line = |(name, value): &(String, Box<RawValue>)| {
            format!(
                "{:inner$}{}: {}",
                "",
                Value::from(name.as_str()),
                value.get()
            )
        };
        let lines: Vec<_> = self.0.iter().map(line).collect();
        format!("{{\n{}\n{:indent$}}}", lines.join(",\n"), "")
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Object, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Object;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Object, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Object(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// Keys of an entry that are no settings.
const ENTRY_KEYS: [&str; 4] = ["path", "enabled", "registered_at", "layout"];

fn entry(name: &str, json: &str) -> Result<Entry> {
    let mut values: Map<String, Value> =
        serde_json::from_str(json).map_err(|_| Error::new("its entry is not a JSON object"))?;
    if !valid_name(name) {
        return Err(Error::new(
            "its name is empty, over 100 bytes, or has a '/' or a control character in it",
        ));
    }
    let path = values
        .get("path")
        .ok_or_else(|| Error::new("it has no \"path\""))?;
    let path = path.as_str().map(PathBuf::from);
    let path = path.ok_or_else(|| Error::new("its \"path\" is not a text"))?;
    if !path.is_absolute() {
        let path = path.display();
        return Err(Error::new(format!("its path {path} is not absolute")));
    }
    let enabled = values.get("enabled").map_or(Some(true), Value::as_bool);
    let enabled = enabled.ok_or_else(|| Error::new("its \"enabled\" is not true or false"))?;
    let layout = values.get("layout").map_or(Some(Layout::Jobs), word);
    let layout = layout.ok_or_else(|| wrong("layout", &format!("must be {}", form("layout"))))?;
    let registered_at = values.get("registered_at").and_then(Value::as_str);
    let registered_at = registered_at.map(str::to_owned);
    values.retain(|key, _| settings::is_setting(key));
    let name = name.to_owned();
    Ok(Entry {
        project: Project { name, path, layout },
        enabled,
        registered_at,
        own: values,
    })
}

/// A name goes into messages, logs and environment variables: no control characters, and short.
pub fn valid_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 100
        && !name.chars().any(char::is_control)
        && !name.contains('/')
}

/// Whether two paths lead to one directory; what is not there is compared as text.
fn same_place(a: &Path, b: &Path) -> bool {
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    a == b || real(a) == real(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_keeps_order_and_unknown_values() {
        let text = r#"{"z":1,"a":{"y":[1, 2],"b":1e400},"m":"ü"}"#;
        let mut object: Object = serde_json::from_str(text).unwrap();
        object.set("z", true);
        object.set("new", Value::from("x\n"));
        let changed = "{\n    \"z\": true,\n    \"a\": {\"y\":[1, 2],\"b\":1e400},\n    \"m\": \"ü\",\n    \"new\": \"x\\n\"\n  }";
        assert_eq!(object.text(2), changed);
        assert_eq!(Object::default().text(4), "{}");
        assert!(serde_json::from_str::<Object>("[]").is_err());
    }

    #[test]
    fn a_bad_entry_is_named_and_skipped() {
        for (json, wanted) in [
            ("1", "not a JSON object"),
            ("{}", "no \"path\""),
            (r#"{"path": 1}"#, "not a text"),
            (r#"{"path": "x"}"#, "not absolute"),
            (r#"{"path": "/x", "enabled": "yes"}"#, "not true or false"),
            (r#"{"path": "/x", "layout": "job"}"#, "setting \"layout\""),
        ] {
            let text =
                format!(r#"{{"bad": {json}, "good": {{"path": "/y", "retries": 1, "n": 1}}}}"#);
            let projects: Object = serde_json::from_str(&text).unwrap();
            let registry = Registry {
                projects,
                ..Registry::default()
            };
            let (entries, warnings) = registry.entries();
            assert_eq!((entries.len(), warnings.len()), (1, 1));
            assert!(
                warnings[0].contains("project \"bad\" is skipped"),
                "{warnings:?}"
            );
            assert!(warnings[0].contains(wanted), "{warnings:?}");
            assert_eq!(entries[0].own.keys().collect::<Vec<_>>(), ["retries"]);
            assert!(registry.unknown_keys()[0].contains("unknown setting \"n\""));
        }
    }
}
