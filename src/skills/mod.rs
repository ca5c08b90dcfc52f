//! The two skills that come with the program (SPEC 6): texts for the agent, which read well to a
//! person, too.

use crate::error::Result;
use crate::files::Dir;
use std::path::Path;

const WRITER: &str = include_str!("job-document-writer.md");
/// Name and text of each.
pub const SKILLS: [(&str, &str); 2] = [
    ("task-coordination", include_str!("task-coordination.md")),
    ("job-document-writer", WRITER),
];

/// Where the agents look for them, in a project.
const DIRS: [&str; 2] = [".claude/skills", ".agents/skills"];

/// Writes the skills into a project, never over an existing file; says of each what was done, in a line.
pub fn install(project: &Path) -> Result<String> {
    let mut told = String::new();
    for (dir, (name, text)) in DIRS.iter().flat_map(|dir| SKILLS.map(|skill| (dir, skill))) {
        let dir = Dir::create(&project.join(dir).join(name))?;
        // Whole or not at all: what lies there is never written again.
        let is_new = dir.add("SKILL.md", text.as_bytes())?;
        let what = if is_new { "Wrote" } else { "Kept your" };
        told += &format!("  {what} {}\n", dir.path_of("SKILL.md").display());
    }
    Ok(told)
}
