//! The file in which an agent tells why it failed, where its output does not: it is found by the session in
//! its name, and read with the care that a foreign file needs.

use crate::files::read_range;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// So many entries are looked at; the newest sessions come first.
const LOOKS_MAX: usize = 20_000;
/// Years, months, days.
const DEPTH_MAX: usize = 4;
/// So much of the file's end is read; how a turn ended stands there.
const READ_MAX: u64 = 32 << 20;

/// The end of the file below `dir` whose name ends with the session, if there is one.
pub fn read(dir: &Path, session: &str) -> Option<Vec<u8>> {
    let is_id = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
    let is_plain = session.len() >= 8 && session.bytes().all(is_id);
    let mut looks = LOOKS_MAX;
    let ending = format!("-{session}.jsonl");
    is_plain.then(|| find(dir, &ending, DEPTH_MAX, &mut looks))?
}

/// The newest directory first: their names are dates.
fn find(dir: &Path, ending: &str, depth: usize, looks: &mut usize) -> Option<Vec<u8>> {
    let mut below = Vec::new();
    for entry in fs::read_dir(dir).ok()?.flatten() {
        *looks = looks.checked_sub(1)?;
        let kind = entry.file_type().ok()?;
        if kind.is_dir() && depth > 1 {
            below.push(entry.path());
        } else if kind.is_file() && entry.file_name().to_string_lossy().ends_with(ending) {
            return read_end(&entry.path());
        }
    }
    below.sort();
    let mut newest_first = below.iter().rev();
    newest_first.find_map(|dir| find(dir, ending, depth - 1, looks))
}

/// Reads the end of a file that is the user's own: no link, and no pipe that would keep us waiting.
fn read_end(path: &Path) -> Option<Vec<u8>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .ok()?;
    let meta = file.metadata().ok()?;
    let is_ours = meta.is_file() && meta.uid() == nix::unistd::geteuid().as_raw();
    let start = meta.len().saturating_sub(READ_MAX);
    is_ours.then(|| read_range(&file, start, meta.len(), READ_MAX).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_a_file_of_the_session_s_own_name_is_read() {
        let dir = std::env::temp_dir().join(format!("job-monitor-witness-{}", std::process::id()));
        let day = dir.join("2026/11/28");
        fs::create_dir_all(&day).unwrap();
        fs::create_dir_all(dir.join("2026/11/27")).unwrap();
        let id = "01a22397-c359-7880-9321-b05c8b859285";
        let name = format!("rollout-2026-11-28T20-00-00-{id}.jsonl");
        assert_eq!(read(&dir, id), None);
        symlink("/etc/passwd", day.join(&name)).unwrap();
        assert_eq!(read(&dir, id), None);
        fs::remove_file(day.join(&name)).unwrap();
        fs::write(day.join(&name), "events").unwrap();
        assert_eq!(read(&dir, id).as_deref(), Some(&b"events"[..]));
        assert_eq!(read(&dir, "01a22397-c359"), None);
        assert_eq!(read(&dir, "../x"), None);
        assert_eq!(read(&dir, ""), None);
        fs::remove_dir_all(dir).unwrap();
    }
}
