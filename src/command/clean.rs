//! `clean`: removes what old finished jobs left.

use super::*;

/// Removes document, logs and result of each job that finished so long ago.
pub(super) fn clean(scope: &Scope, asked: &Asked) -> Result<()> {
    let none = || Error::with(Exit::Usage, "clean needs --older-than DURATION");
    let age = asked.older_than.ok_or_else(none)?;
    for spool in scope.whole(false)? {
        render::print(&clean_project(&spool, age, asked.dry_run)?)?;
    }
    Ok(())
}

/// Gives a sentence on what was, or would be, removed.
fn clean_project(spool: &Spool, age: Duration, dry_run: bool) -> Result<String> {
    // Every job, and whether it is old.
    let (mut jobs, now) = (BTreeMap::new(), Wall::now());
    each_id(spool, &mut |id, ended| {
        let is_old = ended.is_some_and(|ended| ended.plus(age) <= now);
        jobs.insert(id.to_string(), is_old);
    })?;
    let Project { path, layout, .. } = spool.project();
    let (mut files, mut bytes) = (0, 0);
    // The result goes last: a job whose document is there without it could run again.
    let places = [layout.items(), layout.archive(), layout.logs()];
    for place in places.into_iter().chain([layout.results()]) {
        let Ok(dir) = Dir::open(&path.join(place)) else {
            continue;
        };
        for name in dir.list()? {
            let name = name?;
            if owner(&name, &jobs).is_some_and(|id| jobs[id]) {
                bytes += dir.look(&name)?.map_or(0, |stat| stat.st_size);
                files += 1;
                if !dry_run {
                    dir.remove(&name)?;
                }
            }
        }
        dir.sync()?;
    }
    let verb = if dry_run { "Would remove" } else { "Removed" };
    let old = jobs.values().filter(|is_old| **is_old).count() as u64;
    let (old, files) = (counted(old, "job"), counted(files, "file"));
    let name = clean_line(&spool.project().name);
    let mib = bytes as f64 / f64::from(1 << 20);
    Ok(format!("{verb} {old} of {name}: {files}, {mib:.1} MiB\n"))
}

/// The job that a file belongs to: of the ids that its name begins with, the longest.
fn owner<'a>(name: &'a str, jobs: &BTreeMap<String, bool>) -> Option<&'a str> {
    let mut stems = name.rmatch_indices('.').map(|(at, _)| &name[..at]);
    stems.find(|stem| jobs.contains_key(*stem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_belongs_to_the_job_with_the_longest_id() {
        let (a, ab) = ("job-20260130-143000-a", "job-20260130-143000-a.b");
        let known = [a, ab].map(|id| (id.to_owned(), true)).into();
        for (name, id) in [
            ("job-20260130-143000-a.2.jsonl", Some(a)),
            ("job-20260130-143000-a.check.2", Some(a)),
            ("job-20260130-143000-a.b.md", Some(ab)),
            ("job-20260130-143000-c.md", None),
            ("monitor.log", None),
        ] {
            assert_eq!(owner(name, &known), id, "{name}");
        }
    }
}
