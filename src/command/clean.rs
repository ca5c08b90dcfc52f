//! `clean`: removes what old finished jobs left.

use super::scope::Scope;
use crate::error::Result;
use crate::files::Dir;
use crate::job::JobId;
use crate::project::Project;
use crate::render::{self, clean_line};
use crate::spool::{Leftovers, Spool};
use crate::time::Wall;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

/// What was, or would be, removed.
#[derive(Default)]
struct Removed {
    jobs: usize,
    files: usize,
    bytes: u64,
}

/// Removes document, logs and result of each job that finished so long ago.
pub(super) fn clean(scope: &Scope, older_than: Duration, dry_run: bool) -> Result<()> {
    let before =
        i128::from(Wall::now().0) - i128::try_from(older_than.as_millis()).unwrap_or(i128::MAX);
    let mut text = String::new();
    for spool in scope.whole()? {
        let removed = clean_project(&spool, before * 1_000_000, dry_run)?;
        let verb = if dry_run { "Would remove" } else { "Removed" };
        let name = clean_line(&spool.project().name);
        let Removed { jobs, files, bytes } = removed;
        let (s, mib) = (
            if jobs == 1 { "" } else { "s" },
            bytes as f64 / f64::from(1 << 20),
        );
        let _ = writeln!(
            text,
            "{verb} {jobs} job{s} of {name}: {files} files, {mib:.1} MiB"
        );
    }
    render::print(&text)
}

fn clean_project(spool: &Spool, before_ns: i128, dry_run: bool) -> Result<Removed> {
    let mut known = BTreeSet::new();
    let mut old = BTreeSet::new();
    spool.finished(&mut |id, written| {
        known.insert(id.to_owned());
        if written < before_ns {
            old.insert(id.to_owned());
        }
    })?;
    let marks = spool.marks(Leftovers::Leave)?;
    let open = spool
        .scan(Leftovers::Leave)?
        .waiting
        .into_iter()
        .chain(marks.claims);
    known.extend(open.map(|id| id.to_string()));
    let Project { path, layout, .. } = spool.project();
    let mut removed = Removed {
        jobs: old.len(),
        ..Removed::default()
    };
    // The result goes last: a job whose document is there without it could run again.
    for place in [
        layout.items(),
        layout.archive(),
        layout.logs(),
        layout.results(),
    ] {
        let Ok(dir) = Dir::open(&path.join(place)) else {
            continue;
        };
        let mut names = Vec::new();
        dir.list(&mut |name, _| {
            if owner(name, &known).is_some_and(|id| old.contains(id)) {
                names.push(name.to_owned());
            }
        })?;
        for name in names {
            removed.bytes += dir
                .look(&name)?
                .map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0));
            removed.files += 1;
            if !dry_run {
                dir.remove(&name)?;
            }
        }
        dir.sync()?;
    }
    Ok(removed)
}

/// The job that a file belongs to: of the ids that its name begins with, the longest.
fn owner<'a>(name: &'a str, known: &BTreeSet<String>) -> Option<&'a str> {
    let dots = name.rmatch_indices('.').map(|(at, _)| &name[..at]);
    dots.filter(|stem| known.contains(*stem))
        .find(|stem| JobId::exact(stem).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_belongs_to_the_job_with_the_longest_id() {
        let known = ["job-20260130-143000-a", "job-20260130-143000-a.b"].map(str::to_owned);
        let known = BTreeSet::from(known);
        for (name, id) in [
            (
                "job-20260130-143000-a.2.jsonl",
                Some("job-20260130-143000-a"),
            ),
            (
                "job-20260130-143000-a.check.2",
                Some("job-20260130-143000-a"),
            ),
            (
                "job-20260130-143000-a.b.md",
                Some("job-20260130-143000-a.b"),
            ),
            ("job-20260130-143000-c.md", None),
            ("monitor.log", None),
        ] {
            assert_eq!(owner(name, &known), id, "{name}");
        }
    }
}
