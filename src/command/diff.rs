//! `diff`: what a job changed, from the patch that was kept of it.

use super::result::{Finished, change_line};
use super::scope::{Scope, Standing};
use crate::error::{Error, Result};
use crate::job::JobId;
use crate::render::{self, Style, clean};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::Read;

/// The daemon writes none that is larger; what somebody else put there is cut.
const PATCH_MAX: u64 = 16 << 20;

/// Prints the patch, coloured on a terminal; with `stat`, how many lines of each file.
pub(super) fn diff(scope: &Scope, id: &JobId, stat: bool) -> Result<()> {
    let (spool, standing) = scope.job(id)?;
    let change = match &standing {
        Standing::Done(result) => Finished::read(result).and_then(|result| result.git.clone()),
        _ => {
            return Err(Error::new(format!(
                "{id} is not finished; its patch is made at its end"
            )));
        }
    };
    let none = "its project is no git work tree, or the setting \"git\" is off";
    let change =
        change.ok_or_else(|| Error::new(format!("{id} has no record of change: {none}")))?;
    let style = Style::of_stdout();
    let line = change_line(&change, style).unwrap_or_else(|| "an unknown change".to_owned());
    let name = format!("{id}.patch");
    let Some(file) = spool.open_log(&name)? else {
        return render::print(&format!("{line}; no patch was kept\n"));
    };
    let mut bytes = Vec::new();
    let read = file.take(PATCH_MAX).read_to_end(&mut bytes);
    read.map_err(|e| Error::io("read", &spool.log_path(&name), e))?;
    let text = String::from_utf8_lossy(&bytes);
    if stat {
        return render::print(&(stat_of(&text) + &line + "\n"));
    }
    let paint = |line: &str| match (line.as_bytes(), style.color) {
        ([b'+', ..], true) => style.paint("32", &clean(line)),
        ([b'-', ..], true) => style.paint("31", &clean(line)),
        ([b'@', ..], true) => style.paint("36", &clean(line)),
        ([b'd', b'i', b'f', b'f', ..], true) => style.paint("1", &clean(line)),
        _ => clean(line).into_owned(),
    };
    // To a file or a pipe it goes as it is, so that git can apply it.
    match style.terminal {
        true => text
            .lines()
            .try_for_each(|line| render::print(&(paint(line) + "\n"))),
        false => render::unless_gone(render::put(&bytes)),
    }
}

/// Lines added and removed, file by file.
fn stat_of(patch: &str) -> String {
    let mut files: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let (mut file, mut in_hunk) = ("", false);
    for line in patch.lines() {
        if let Some(names) = line.strip_prefix("diff --git ") {
            (file, in_hunk) = (
                names.rsplit_once(" b/").map_or(names, |(_, name)| name),
                false,
            );
            files.entry(file).or_default();
        } else if line.starts_with("@@") {
            in_hunk = true;
        } else if let Some(counts) = files.get_mut(file).filter(|_| in_hunk) {
            counts.0 += usize::from(line.starts_with('+'));
            counts.1 += usize::from(line.starts_with('-'));
        }
    }
    let mut text = String::new();
    for (file, (more, less)) in files {
        let _ = writeln!(text, "{more:>6} {less:>6}  {}", clean(file));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_file_by_file_and_headers_are_no_lines() {
        let patch = "diff --git a/x b/x\nindex 1..2\n--- a/x\n+++ b/x\n@@ -1 +1,2 @@\n-a\n+++b\n+c\n\
                     diff --git a/n b/m\nsimilarity index 100%\nrename from n\nrename to m\n";
        assert_eq!(stat_of(patch), "     0      0  m\n     2      1  x\n");
    }
}
