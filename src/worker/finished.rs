//! Which jobs of a project are finished, kept outside of it: a document whose result was taken away by
//! `git clean`, a restored backup or a sync tool is not run again (SPEC 4).

use crate::digest::sha256_hex;
use crate::error::{Error, Result};
use crate::files::{Dir, Durability};
use crate::job::JobId;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// So many are remembered, the last.
const KEPT: usize = 10_000;
/// What stands in the file for each: half of a digest of its id.
type Half = [u8; 8];

/// The memory of one project: a file in STATE, which is read when it is first asked and forgotten while
/// nothing is to be done.
#[derive(Debug)]
pub struct Memory {
    state: PathBuf,
    name: String,
    open: Option<(Dir, Vec<Half>)>,
    /// Whether results may lie in the project that were never taken in.
    pub is_new: bool,
}

impl Memory {
    /// The memory of the project at `root`.
    pub fn of(state: &Path, root: &Path) -> Memory {
        let name = sha256_hex(root.as_os_str().as_bytes())[..16].to_owned();
        let state = state.join("finished");
        Memory {
            is_new: !state.join(&name).exists(),
            state,
            name,
            open: None,
        }
    }

    fn open(&mut self) -> Result<&mut (Dir, Vec<Half>)> {
        if self.open.is_none() {
            let dir = Dir::create(&self.state)?;
            let bytes = dir.read(&self.name, u64::MAX - 1)?.unwrap_or_default();
            self.open = Some((dir, bytes.as_chunks().0.to_vec()));
        }
        Ok(self.open.as_mut().expect("it was opened just now"))
    }

    /// Whether a job was finished once.
    pub fn has(&mut self, id: &JobId) -> Result<bool> {
        Ok(self.open()?.1.contains(&half(id)))
    }

    /// Remembers jobs. What a power cut takes of it matters only where it takes the results, too.
    pub fn add<'a>(&mut self, ids: impl IntoIterator<Item = &'a JobId>) -> Result<()> {
        let new: Vec<Half> = ids.into_iter().map(half).collect();
        let name = self.name.clone();
        let (dir, known) = self.open()?;
        known.extend(&new);
        if known.len() > 2 * KEPT {
            known.drain(..known.len() - KEPT);
            let all = known.as_flattened();
            return dir.replace(&name, all, Durability::Relaxed).map(drop);
        }
        let mut file = dir.append_file(&name)?;
        file.write_all(new.as_flattened())
            .map_err(|e| Error::io("write", &dir.path_of(&name), e))
    }

    /// Gives the memory back while nothing is to be done.
    pub fn rest(&mut self) {
        self.open = None;
    }
}

fn half(id: &JobId) -> Half {
    let digest = u64::from_str_radix(&sha256_hex(id.as_str().as_bytes())[..16], 16);
    digest.expect("a digest is hexadecimal").to_le_bytes()
}
