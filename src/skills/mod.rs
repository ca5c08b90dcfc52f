//! The two skills that come with the program (SPEC 6): texts for the agent, which read well to a
//! person, too.

use crate::error::{Error, Result};
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Name and text of each.
pub const SKILLS: [(&str, &str); 2] = [
    ("task-coordination", include_str!("task-coordination.md")),
    (
        "job-document-writer",
        include_str!("job-document-writer.md"),
    ),
];

/// Writes the skills into a project, never over an existing file. Each path, and whether it was
/// written.
pub fn install(project: &Path) -> Result<Vec<(PathBuf, bool)>> {
    let mut files = Vec::new();
    for (name, text) in SKILLS {
        let dir = project.join(".claude/skills").join(name);
        std::fs::create_dir_all(&dir).map_err(|e| Error::io("create", &dir, e))?;
        let path = dir.join("SKILL.md");
        let written = match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(mut file) => {
                file.write_all(text.as_bytes())
                    .map_err(|e| Error::io("write", &path, e))?;
                true
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
            Err(error) => return Err(Error::io("create", &path, error)),
        };
        files.push((path, written));
    }
    Ok(files)
}
