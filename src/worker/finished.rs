//! Which jobs of a project are finished, kept outside of it: a document whose result was taken away by
//! `git clean`, a restored backup or a sync tool is not run again (SPEC 4).

use crate::digest::sha256_hex;
use crate::error::{Error, Result};
use crate::files::{self, Dir, Durability};
use crate::job::JobId;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// So many are remembered, the last.
const KEPT: usize = 10_000;
/// What stands in the file for each: half of a digest of its id.
const SIZE: usize = 8;

/// The memory of one project: a file in STATE, which is read when it is first asked and forgotten while
/// nothing is to be done.
#[derive(Debug)]
pub(super) struct Finished {
    state: PathBuf,
    name: String,
    known: Option<Vec<[u8; SIZE]>>,
    /// Whether results may lie in the project that were never taken in.
    pub(super) is_new: bool,
}

impl Finished {
    /// The memory of the project at `root`.
    pub(super) fn of(state: &Path, root: &Path) -> Finished {
        let mut name = sha256_hex(root.as_os_str().as_bytes());
        name.truncate(16);
        let state = state.join("finished");
        Finished {
            is_new: !state.join(&name).exists(),
            state,
            name,
            known: None,
        }
    }

    fn dir(&self) -> Result<Dir> {
        Dir::create(&self.state)
    }

    fn known(&mut self) -> Result<&mut Vec<[u8; SIZE]>> {
        if self.known.is_none() {
            let bytes = files::read_path(&self.state.join(&self.name), u64::MAX - 1)?;
            let bytes = bytes.unwrap_or_default();
            self.known = Some(bytes.as_chunks().0.to_vec());
        }
        Ok(self.known.get_or_insert_default())
    }

    /// Whether a job was finished once.
    pub(super) fn has(&mut self, id: &JobId) -> Result<bool> {
        let mark = mark(id);
        Ok(self.known()?.contains(&mark))
    }

    /// Remembers jobs. What a power cut takes of it matters only where it takes the results, too.
    pub(super) fn add<'a>(&mut self, ids: impl IntoIterator<Item = &'a JobId>) -> Result<()> {
        let new: Vec<[u8; SIZE]> = ids.into_iter().map(mark).collect();
        let known = self.known()?;
        known.extend(&new);
        if known.len() > 2 * KEPT {
            known.drain(..known.len() - KEPT);
            let all = known.as_flattened().to_vec();
            return self
                .dir()?
                .replace(&self.name, &all, Durability::Relaxed)
                .map(drop);
        }
        let dir = self.dir()?;
        let mut file = dir.append_file(&self.name)?;
        file.write_all(new.as_flattened())
            .map_err(|e| Error::io("write", &dir.path_of(&self.name), e))
    }

    /// Gives the memory back while nothing is to be done.
    pub(super) fn rest(&mut self) {
        self.known = None;
    }
}

fn mark(id: &JobId) -> [u8; SIZE] {
    let digest = sha256_hex(id.as_str().as_bytes());
    let number = u64::from_str_radix(&digest[..2 * SIZE], 16);
    number.expect("a digest is hexadecimal").to_le_bytes()
}
