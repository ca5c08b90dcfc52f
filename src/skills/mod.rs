//! The two skills that come with the program (SPEC 6): texts for the agent, which read well to a
//! person, too.

use crate::error::{Error, Result};
use crate::files::{Dir, Durability};
use std::path::{Path, PathBuf};

/// Name and text of each.
pub const SKILLS: [(&str, &str); 2] = [
    ("task-coordination", include_str!("task-coordination.md")),
    (
        "job-document-writer",
        include_str!("job-document-writer.md"),
    ),
];

/// Writes the skills into a directory of a project, never over an existing file. Each path, and whether it
/// was written.
pub fn install(directory: &Path) -> Result<Vec<(PathBuf, bool)>> {
    let mut files = Vec::new();
    for (name, text) in SKILLS {
        let path = directory.join(name);
        std::fs::create_dir_all(&path).map_err(|e| Error::io("create", &path, e))?;
        let dir = Dir::open(&path)?;
        let file = "SKILL.md";
        let write = std::fs::symlink_metadata(path.join(file)).is_err();
        if write {
            dir.replace(file, text.as_bytes(), Durability::Durable)?;
        }
        files.push((path.join(file), write));
    }
    Ok(files)
}
