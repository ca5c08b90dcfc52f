//! `registered.json`: which projects there are. Read by everybody, changed under a lock by the
//! commands, and given back as it was found but for the change.

use crate::error::{Error, Exit, Result};
use crate::files::{self, Dir, Durability};
use crate::project::{Layout, Policy, Project};
use crate::record::Object;
use crate::settings::{self, Settings, Warnings};
use crate::time::Wall;
use nix::fcntl::{Flock, FlockArg};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// A registry is a few hundred bytes a project.
const REGISTRY_MAX: u64 = 16 << 20;

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
        settings.policy(&self.own).map_err(|e| {
            e.context(&format!(
                "project {:?} in registered.json",
                self.project.name
            ))
        })
    }
}

impl Registry {
    /// Reads the registry; a missing file is an empty one.
    pub fn load(path: &Path) -> Result<Registry> {
        let Some(bytes) = files::read_own(path, REGISTRY_MAX)? else {
            return Ok(Registry::default());
        };
        let broken = |what: &dyn std::fmt::Display| {
            Error::new(format!(
                "the registry {} is broken ({what}); mend it by hand",
                path.display()
            ))
        };
        let document: Object = serde_json::from_slice(&bytes).map_err(|e| broken(&e))?;
        let projects = match document.get("projects") {
            None => Object::default(),
            Some(raw) => serde_json::from_str(raw.get())
                .map_err(|e| broken(&format!("\"projects\": {e}")))?,
        };
        Ok(Registry { document, projects })
    }

    /// The usable entries, and a sentence for each of the others. Paths are compared as text:
    /// looking at each could hang in a dead mount. Two paths to one directory are caught by
    /// [`Registry::add`], and at the latest by the project's lock.
    pub fn entries(&self) -> (Vec<Entry>, Warnings) {
        let mut entries: Vec<Entry> = Vec::new();
        let mut warnings = Vec::new();
        for (name, raw) in self.projects.iter() {
            match entry(name, raw.get()) {
                Err(error) => warnings.push(format!(
                    "project {name:?} is skipped: {error}; mend its entry in registered.json"
                )),
                Ok(entry) => match entries
                    .iter()
                    .find(|other| other.project.path == entry.project.path)
                {
                    Some(other) => warnings.push(format!(
                        "project {name:?} is skipped: {} is registered already, as {:?}; unregister one of them",
                        entry.project.path.display(),
                        other.project.name
                    )),
                    None => entries.push(entry),
                },
            }
        }
        (entries, warnings)
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

/// Changes the registry under its lock and writes it whole; `change` may refuse.
pub fn update<T>(path: &Path, change: impl FnOnce(&mut Registry) -> Result<T>) -> Result<T> {
    let (Some(parent), Some(name)) = (path.parent(), files::name_of(path)) else {
        return Err(Error::new(format!(
            "{} is no place for the registry; set MONITOR_SYSTEM_ROOT to a directory",
            path.display()
        )));
    };
    let dir = Dir::create(parent)?;
    let lock = dir.append_file(".registered.lock")?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, e)| Error::io("lock", &dir.path_of(".registered.lock"), e.into()))?;
    let mut registry = Registry::load(path)?;
    let result = change(&mut registry)?;
    let projects = std::mem::take(&mut registry.projects);
    registry.document.set("projects", &Indented(&projects, 2));
    let mut text = serde_json::to_vec_pretty(&registry.document)
        .map_err(|e| Error::new(format!("the registry cannot be written as JSON: {e}")))?;
    text.push(b'\n');
    dir.replace(name, &text, Durability::Durable)?;
    Ok(result)
}

/// An object whose entries stand in lines of their own, the object itself in a line that is
/// indented so far. The writer of the whole document leaves what is inside a value as it is.
struct Indented<'a>(&'a Object, usize);

impl serde::Serialize for Indented<'_> {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        let (outer, inner) = (" ".repeat(self.1), " ".repeat(self.1 + 2));
        let entries: Vec<String> = self
            .0
            .iter()
            .map(|(name, value)| format!("{inner}{}: {}", Value::from(name), value.get()))
            .collect();
        let text = match entries.len() {
            0 => "{}".to_owned(),
            _ => format!("{{\n{}\n{outer}}}", entries.join(",\n")),
        };
        let raw =
            serde_json::value::RawValue::from_string(text).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

impl Registry {
    /// Adds a project; refuses a name or a directory that is there already.
    pub fn add(&mut self, project: &Project, now: Wall) -> Result<()> {
        // Of both, the directory tells more: another name would not help.
        if let Some(other) = self.at(&project.path) {
            return Err(Error::new(format!(
                "{} is registered already, as {:?}",
                project.path.display(),
                other.project.name
            )));
        }
        if self.has(&project.name) {
            return Err(Error::new(format!(
                "a project named {:?} is registered already; choose another with --name",
                project.name
            )));
        }
        let mut entry = Object::default();
        entry.set(
            "path",
            &project
                .path
                .to_str()
                .ok_or_else(|| not_text(&project.path))?,
        );
        entry.set("enabled", &true);
        entry.set("registered_at", &now);
        if project.layout != Layout::default() {
            entry.set("layout", &project.layout);
        }
        self.projects.set(&project.name, &Indented(&entry, 4));
        Ok(())
    }

    /// Gives a project that has moved its new directory.
    pub fn relocate(&mut self, name: &str, path: &Path) -> Result<()> {
        let Some(mut entry) = self.projects.read::<Object>(name) else {
            return Err(self.unknown(name));
        };
        entry.set("path", &path.to_str().ok_or_else(|| not_text(path))?);
        self.projects.set(name, &Indented(&entry, 4));
        Ok(())
    }

    /// Takes a project out.
    pub fn remove(&mut self, name: &str) -> Result<()> {
        if self.projects.remove(name) {
            Ok(())
        } else {
            Err(self.unknown(name))
        }
    }

    /// Switches a project on or off; whether that changed anything.
    pub fn enable(&mut self, name: &str, enabled: bool) -> Result<bool> {
        let Some(mut entry) = self.projects.read::<Object>(name) else {
            return Err(self.unknown(name));
        };
        let before = entry.read("enabled").unwrap_or(true);
        entry.set("enabled", &enabled);
        self.projects.set(name, &Indented(&entry, 4));
        Ok(before != enabled)
    }

    /// The error for a name that is not in the registry.
    pub fn unknown(&self, name: &str) -> Error {
        let names: Vec<_> = self
            .projects
            .iter()
            .map(|(name, _)| format!("{name:?}"))
            .collect();
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

fn not_text(path: &Path) -> Error {
    Error::new(format!(
        "the path {} is not UTF-8 text, which the registry needs; rename the directory",
        path.display()
    ))
}

fn entry(name: &str, raw: &str) -> Result<Entry> {
    let object: Object =
        serde_json::from_str(raw).map_err(|_| Error::new("its entry is not a JSON object"))?;
    if !valid_name(name) {
        return Err(Error::new(
            "its name is empty, over 100 bytes, or has a '/' or a control character in it",
        ));
    }
    let path: PathBuf = match object.get("path") {
        None => return Err(Error::new("it has no \"path\"")),
        Some(_) => object
            .read("path")
            .ok_or_else(|| Error::new("its \"path\" is not a text"))?,
    };
    if !path.is_absolute() {
        return Err(Error::new(format!(
            "its path {} is not absolute",
            path.display()
        )));
    }
    let enabled = match object.get("enabled") {
        None => true,
        Some(_) => object
            .read("enabled")
            .ok_or_else(|| Error::new("its \"enabled\" is not true or false"))?,
    };
    let mut own = Map::new();
    for (key, value) in object
        .iter()
        .filter(|(key, _)| settings::is_project_setting(key) || *key == "layout")
    {
        own.insert(
            key.to_owned(),
            serde_json::from_str(value.get()).unwrap_or(Value::Null),
        );
    }
    let layout = settings::layout_of(&own)?;
    own.remove("layout");
    let project = Project {
        name: name.to_owned(),
        path,
        layout,
    };
    Ok(Entry {
        project,
        enabled,
        registered_at: object.read("registered_at"),
        own,
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
