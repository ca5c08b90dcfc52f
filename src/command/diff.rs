//! `diff`: what a job changed, from the patch that was kept of it.

use super::*;

/// More than the daemon keeps of a patch (10 MiB; see `git`).
const PATCH_MAX: u64 = 16 << 20;

/// Prints the patch, coloured on a terminal; with `stat`, how many lines of each file.
pub(super) fn diff(scope: &Scope, job: &Job, stat: bool) -> Result<()> {
    let Job { id, spool } = job;
    let Standing::Done(result) = &scope.standing(job)? else {
        let text = format!("{id} is not finished; its patch is made at its end");
        return Err(Error::new(text));
    };
    let change = ResultView::read(result).git;
    let none = || Error::new(format!("{id} has no record of change"));
    let line = change_line(&change.ok_or_else(none)?);
    let name = format!("{id}.patch");
    let Some(bytes) = spool.logs()?.read(&name, PATCH_MAX)? else {
        // Standard output is for a patch.
        render::note(&format!("{id} has no patch; it changed {line}"));
        return Ok(());
    };
    let (text, style) = (String::from_utf8_lossy(&bytes), Style::of_stdout());
    let lines = text.lines().map(|line| painted(line, style));
    match (stat, style.terminal) {
        (true, _) => render::print(&(stat_of(&text) + &line + "\n")),
        (false, true) => render::print(&lines.collect::<String>()),
        // To a file or a pipe it goes as it is, so that git can apply it.
        (false, false) => render::put(&bytes),
    }
}

fn painted(line: &str, style: Style) -> String {
    let color = match line.as_bytes() {
        [b'+', ..] => "32",
        [b'-', ..] => "31",
        [b'@', ..] => "36",
        [b'd', b'i', b'f', b'f', ..] => "1",
        _ => "",
    };
    style.paint(color, &clean(line)) + "\n"
}

/// Lines added and removed, file by file.
fn stat_of(patch: &str) -> String {
    let mut files: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let (mut file, mut in_hunk) = ("", false);
    for line in patch.lines() {
        if let Some(names) = line.strip_prefix("diff --git ") {
            file = names.rsplit_once(" b/").map_or(names, |(_, name)| name);
            in_hunk = false;
        }
        in_hunk |= line.starts_with("@@");
        let counts = files.entry(file).or_default();
        counts.0 += usize::from(in_hunk && line.starts_with('+'));
        counts.1 += usize::from(in_hunk && line.starts_with('-'));
    }
    let line = |(file, (more, less)): (_, _)| format!("{more:>6} {less:>6}  {}\n", clean(file));
    files.into_iter().map(line).collect()
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
