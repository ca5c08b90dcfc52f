//! The file in which an agent tells why it failed, where its output does not: it is found by the session in
//! its name, and read with the care that a foreign file needs.

use crate::error::Result;
use crate::files::{Dir, Make, check_own, read_range};
use nix::sys::stat::fstat;
use std::path::Path;

/// Years, months, days.
const DEPTH_MAX: usize = 4;
/// So much of the file's end is read; how a turn ended stands there.
const READ_MAX: u64 = 32 << 20;

/// The end of the file below `dir` whose name ends with the session, if there is one.
pub fn read(dir: &Path, session: &str) -> Option<Vec<u8>> {
    let is_id = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
    let is_plain = session.len() >= 8 && session.bytes().all(is_id);
    let ending = format!("-{session}.jsonl");
    is_plain.then(|| find(&Dir::open(dir).ok()?, &ending, DEPTH_MAX))?
}

/// The newest directory first: their names are dates.
fn find(dir: &Dir, ending: &str, depth: usize) -> Option<Vec<u8>> {
    let mut names: Vec<String> = dir.list().ok()?.collect::<Result<_>>().ok()?;
    if let Some(name) = names.iter().find(|name| name.ends_with(ending)) {
        return read_end(dir, name);
    }
    names.sort();
    let below = |name: &String| find(&dir.sub(name, Make::Nothing).ok()?, ending, depth - 1);
    names.iter().rev().filter(|_| depth > 1).find_map(below)
}

/// Reads the end of a file that is the user's own, and no link.
fn read_end(dir: &Dir, name: &str) -> Option<Vec<u8>> {
    let file = dir.open_file(name).ok()??;
    check_own(&fstat(&file).ok()?, dir.path()).ok()?;
    let start = file.metadata().ok()?.len().saturating_sub(READ_MAX);
    read_range(&file, start, READ_MAX).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

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
        let mode = |mode| fs::Permissions::from_mode(mode);
        fs::set_permissions(day.join(&name), mode(0o666)).unwrap();
        assert_eq!(read(&dir, id), None, "others may have written it");
        fs::set_permissions(day.join(&name), mode(0o644)).unwrap();
        assert_eq!(read(&dir, "01a22397-c359"), None);
        assert_eq!(read(&dir, "../x"), None);
        assert_eq!(read(&dir, ""), None);
        fs::remove_dir_all(dir).unwrap();
    }
}
