//! Which jobs of a project are finished, kept outside of it: a document whose result was taken away by
//! `git clean`, a restored backup or a sync tool is not run again (SPEC 4).

use crate::digest::sha256_hex;
use crate::error::{Error, Result};
use crate::files::{self, Dir, Durability};
use crate::job::JobId;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// So many jobs are remembered at least, the last ones; the file may hold twice as many.
pub const KEPT: usize = 10_000;
/// What stands in the file for each: the first bytes of a digest of its id, enough to tell it from others.
type Key = [u8; 8];

/// The memory of one project: a file in STATE. It is read when it is first asked for something; what was read
/// is given back while nothing is to be done.
#[derive(Debug)]
pub struct Memory {
    path: PathBuf,
    /// What the file holds, as far as it was read.
    pub known: Option<Vec<Key>>,
    /// Whether the project has no file yet, so that results may lie in it that were never taken in.
    pub is_new: bool,
}

impl Memory {
    /// The memory of the project at `root`.
    pub fn of(state: &Path, root: &Path) -> Memory {
        let name = &sha256_hex(root.as_os_str().as_bytes())[..16];
        let path = state.join("finished").join(name);
        Memory {
            is_new: !path.exists(),
            path,
            known: None,
        }
    }

    fn known(&mut self) -> Result<&mut Vec<Key>> {
        if self.known.is_none() {
            let bytes = files::read_path(&self.path, u64::MAX - 1)?;
            self.known = Some(bytes.unwrap_or_default().as_chunks().0.to_vec());
        }
        Ok(self.known.get_or_insert_default())
    }

    /// Why a document that looks like a new job is none.
    pub fn objection(&mut self, id: &JobId) -> Result<Option<String>> {
        let what = "it was finished once, and its result is gone";
        let text = || format!("{what}; job-monitor retry {id} runs it again");
        Ok(self.known()?.contains(&key(id)).then(text))
    }

    /// Remembers jobs. What a power cut takes of it matters only where it takes the results, too.
    pub fn add<'a>(&mut self, ids: impl IntoIterator<Item = &'a JobId>) -> Result<()> {
        let new: Vec<Key> = ids.into_iter().map(key).collect();
        let path = self.path.clone();
        let known = self.known()?;
        known.extend(&new);
        // Opening its directory would wake the watcher of STATE.
        let written = match File::options().append(true).open(&path) {
            Ok(mut file) if known.len() <= 2 * KEPT => file.write_all(new.as_flattened()),
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => {
                known.drain(..known.len().saturating_sub(KEPT));
                let dir = Dir::create(path.parent().expect("it lies in STATE"))?;
                let name = files::name_of(&path).unwrap_or_default();
                return dir.replace(name, known.as_flattened(), Durability::Relaxed);
            }
        };
        written.map_err(|e| Error::io("write", &path, e))
    }
}

fn key(id: &JobId) -> Key {
    let digest = u64::from_str_radix(&sha256_hex(id.as_str().as_bytes())[..16], 16);
    digest.expect("a digest is hexadecimal").to_le_bytes()
}
