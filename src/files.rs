//! Files and directories, the careful way. Every error names verb and path; nothing here
//! follows a symbolic link below an open directory, and new files are the user's alone.
//!
//! A [`Dir`] holds a directory open, so that one that is swapped for a link or moved away while
//! we work cannot redirect a write: its path is resolved once, by [`Dir::open`].

use crate::error::{Error, Result};
use crate::job::Meta;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, RenameFlags, openat, renameat, renameat2};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat, mkdirat};
use nix::sys::statfs::fstatfs;
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::ffi::{OsStr, OsString};
use std::fs::{DirEntry, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Permissions of every file we make, whatever the umask lets through.
const PRIVATE: Mode = Mode::from_bits_truncate(0o600);
/// Why a link to a directory is no directory to us.
const LINK: &str =
    "it is a file or a symbolic link, which is not followed; put the directory itself in its place";
/// How directories are opened.
const DIRECTORY: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_CLOEXEC);

/// An open directory and the path under which messages name it.
#[derive(Debug)]
pub struct Dir {
    handle: File,
    path: PathBuf,
}

/// Whether a write must have reached the disk before the call returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// File and directory are synced: the change survives a power cut.
    Durable,
    /// Whole or absent for readers, but a power cut may take it back: views.
    Relaxed,
}

/// Whether directories that are not there are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Make {
    /// They are.
    Missing,
    /// They are an error.
    Nothing,
}

/// What matters of an inode that was looked at.
pub fn meta_of(stat: &FileStat) -> Meta {
    Meta {
        place: (stat.st_dev, stat.st_ino),
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mtime_ns: i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec),
        mode: stat.st_mode,
    }
}

/// What matters of what a path leads to; links are followed.
pub fn meta_at(path: &Path) -> Result<Meta> {
    let stat = nix::sys::stat::stat(path).map_err(|e| Error::io("look at", path, e.into()))?;
    Ok(meta_of(&stat))
}

impl Dir {
    /// Opens a directory, which may be reached by links. Messages name it by its real path.
    pub fn open(path: &Path) -> Result<Dir> {
        let open = || -> io::Result<Dir> {
            let handle = File::from(nix::fcntl::open(path, DIRECTORY, Mode::empty())?);
            let path = std::fs::read_link(place_of(&handle))?;
            Ok(Dir { handle, path })
        };
        open().map_err(|e| Error::io("open directory", path, e))
    }

    /// Opens a directory, first making it (0700) and what leads to it where missing.
    pub fn create(path: &Path) -> Result<Dir> {
        let mut builder = std::fs::DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(path);
        made.map_err(|e| Error::io("create", path, e))?;
        Dir::open(path)
    }

    /// Opens a directory in this one, which is no link; `make` says what becomes of one that is
    /// missing (0755).
    pub fn sub(&self, name: &str, make: Make) -> Result<Dir> {
        let mut opened = self.open_at(name, DIRECTORY);
        if matches!(opened, Err(nix::Error::ENOENT)) && make == Make::Missing {
            let mode = Mode::from_bits_truncate(0o755);
            mkdirat(&self.handle, name, mode).map_err(|e| self.failed("create", name, e))?;
            opened = self.open_at(name, DIRECTORY);
        }
        let handle = opened.map_err(|error| match error {
            // The system only says that it is no directory, which a person may not believe.
            nix::Error::ENOTDIR => self.failed("open directory", name, io::Error::other(LINK)),
            error => self.failed("open directory", name, error),
        })?;
        let path = self.path_of(name);
        Ok(Dir { handle, path })
    }

    /// Whether it lies on another machine, or on a file system of somebody's own making: one that may
    /// not answer, and may not tell of changes.
    pub fn is_remote(&self) -> bool {
        // ext4, tmpfs, btrfs, xfs, f2fs, overlay, zfs.
        const LOCAL: [u32; 7] = [
            0xef53, 0x01021994, 0x9123683e, 0x58465342, 0xf2f52010, 0x794c7630, 0x2fc12fc1,
        ];
        let stat = fstatfs(&self.handle).ok();
        stat.is_none_or(|stat| !LOCAL.contains(&(stat.filesystem_type().0 as u32)))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of an entry, for messages.
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn failed(&self, verb: &str, name: &str, cause: impl Into<io::Error>) -> Error {
        Error::io(verb, &self.path_of(name), cause.into())
    }

    /// Owner, mode and the like of the open directory itself.
    pub fn stat(&self) -> Result<FileStat> {
        fstat(&self.handle).map_err(|e| Error::io("look at", &self.path, e.into()))
    }

    /// The name of every entry but `.` and `..`, in no order. One that is not UTF-8 has replacement
    /// characters, which no name of ours has.
    pub fn list(&self) -> Result<impl Iterator<Item = Result<String>>> {
        let failed = |e| Error::io("list", &self.path, e);
        // A fresh description of the same directory: a listing has a position of its own.
        let entries = std::fs::read_dir(place_of(&self.handle)).map_err(failed)?;
        let lossy = |name: OsString| name.to_string_lossy().into_owned();
        let name = move |entry: DirEntry| entry.file_name().into_string().unwrap_or_else(lossy);
        Ok(entries.map(move |entry| entry.map(name).map_err(failed)))
    }

    /// What is at `name`, itself and not what a link points to; `None` if nothing is.
    pub fn look(&self, name: &str) -> Result<Option<FileStat>> {
        let looked = fstatat(&self.handle, name, AtFlags::AT_SYMLINK_NOFOLLOW);
        if_there(looked).map_err(|e| self.failed("look at", name, e))
    }

    /// Whether anything is at `name`.
    pub fn has(&self, name: &str) -> Result<bool> {
        Ok(self.look(name)?.is_some())
    }

    fn open_at(&self, name: &str, flags: OFlag) -> nix::Result<File> {
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(&self.handle, name, flags, PRIVATE).map(File::from)
    }

    /// Opens a file for reading; `None` if there is none. Links and FIFOs are neither followed nor
    /// waited for.
    pub fn open_file(&self, name: &str) -> Result<Option<File>> {
        let opened = self.open_at(name, OFlag::O_RDONLY | OFlag::O_NONBLOCK);
        if_there(opened).map_err(|e| self.failed("open", name, e))
    }

    /// Reads a regular file of at most `max` bytes; `None` if there is none.
    pub fn read(&self, name: &str, max: u64) -> Result<Option<Vec<u8>>> {
        let file = self.open_file(name)?;
        file.map(|file| read_whole(&file, &self.path_of(name), max))
            .transpose()
    }

    /// Makes a new file (0600) for reading and appending, replacing nothing: a leftover or a
    /// planted link of that name is removed first, never written through.
    pub fn create_file(&self, name: &str) -> Result<File> {
        let flags = OFlag::O_RDWR | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_EXCL;
        let mut created = self.open_at(name, flags);
        if matches!(created, Err(nix::Error::EEXIST)) {
            self.remove(name)?;
            created = self.open_at(name, flags);
        }
        created.map_err(|e| self.failed("create", name, e))
    }

    /// Opens a file for appending, making it (0600) where missing. One that has a second name may be
    /// somebody's for whom we must not write.
    pub fn append_file(&self, name: &str) -> Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_NONBLOCK;
        let file = self.open_at(name, flags);
        let file = file.map_err(|e| self.failed("open", name, e))?;
        let stat = fstat(&file).map_err(|e| self.failed("look at", name, e))?;
        if stat.st_mode & libc::S_IFMT != libc::S_IFREG || stat.st_nlink > 1 {
            let path = self.path_of(name);
            let text = "is not a regular file with one name; remove it";
            return Err(Error::new(format!("{} {text}", path.display())));
        }
        Ok(file)
    }

    /// Locks a file that is there for nothing else, as long as the value lives; `None` while another
    /// process holds it, unless that is waited for.
    pub fn lock(&self, name: &str, how: FlockArg) -> Result<Option<Flock<File>>> {
        match Flock::lock(self.append_file(name)?, how) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, nix::Error::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => Err(self.failed("lock", name, error)),
        }
    }

    /// Puts durable `content` at `name` as [`Dir::replace`] does, but only if nothing is there;
    /// whether it did.
    pub fn add(&self, name: &str, content: &[u8]) -> Result<bool> {
        let temporary = &*format!(".{name}.{}.tmp", std::process::id());
        let (here, flags) = (&self.handle, RenameFlags::RENAME_NOREPLACE);
        let rename = || match renameat2(here, temporary, here, name, flags) {
            // A file system without that flag: between look and rename there is a moment, in which
            // only a document of this very name could come.
            Err(nix::Error::EINVAL) => match self.has(name) {
                Ok(false) => renameat(here, temporary, here, name),
                _ => Err(nix::Error::EEXIST),
            },
            renamed => renamed,
        };
        match self.put(name, temporary, content, Durability::Durable, &rename) {
            Err(error) if error.errno == Some(libc::EEXIST) => Ok(false),
            put => put.map(|()| true),
        }
    }

    /// Puts `content` at `name` so that readers see the old or the new whole, never a part:
    /// temporary file beside it, rename, and for [`Durability::Durable`] fsync of both file and
    /// directory, without which default ext4 was seen to lose either in a power cut. A failed
    /// fsync is never repeated on the same file, since the kernel reports it once only.
    pub fn replace(&self, name: &str, content: &[u8], durability: Durability) -> Result<()> {
        let (here, temporary) = (&self.handle, &*format!(".{name}.tmp"));
        let rename = || renameat(here, temporary, here, name);
        self.put(name, temporary, content, durability, &rename)
    }

    /// The file is closed before it gets its name, so that whoever watches the directory sees it whole
    /// at once.
    fn put(
        &self,
        name: &str,
        temporary: &str,
        content: &[u8],
        durability: Durability,
        rename: &dyn Fn() -> nix::Result<()>,
    ) -> Result<()> {
        let mut file = self.create_file(temporary)?;
        let mut put = file.write_all(content);
        if durability == Durability::Durable {
            put = put.and_then(|()| file.sync_all());
        }
        drop(file);
        let put = put.and_then(|()| Ok(rename()?));
        if put.is_err() {
            // The temporary file is of no use to anybody; the first error is the one to tell.
            let _ = self.remove(temporary);
        }
        put.map_err(|e| self.failed("write", name, e))?;
        match durability {
            Durability::Durable => self.sync(),
            Durability::Relaxed => Ok(()),
        }
    }

    /// Moves an entry to another directory of the same file system, replacing nothing that
    /// matters: both names are ours.
    pub fn rename_to(&self, name: &str, to: &Dir, new_name: &str) -> Result<()> {
        let renamed = renameat(&self.handle, name, &to.handle, new_name);
        renamed.map_err(|e| self.failed("move", name, e))
    }

    /// Removes a file if it is there.
    pub fn remove(&self, name: &str) -> Result<()> {
        let removed = unlinkat(&self.handle, name, UnlinkatFlags::NoRemoveDir);
        let removed = if_there(removed).map(|_| ());
        removed.map_err(|e| self.failed("remove", name, e))
    }

    /// Makes the directory's entries durable.
    pub fn sync(&self) -> Result<()> {
        let synced = self.handle.sync_all();
        synced.map_err(|e| Error::io("sync", &self.path, e))
    }
}

/// Takes the error out of a question after what is not there, because no file has the name or none can.
fn if_there<T>(asked: nix::Result<T>) -> nix::Result<Option<T>> {
    match asked {
        Err(nix::Error::ENOENT | nix::Error::ENAMETOOLONG) => Ok(None),
        asked => asked.map(Some),
    }
}

/// A path that leads to an open directory, wherever it was moved.
fn place_of(handle: &File) -> String {
    format!("/proc/self/fd/{}", handle.as_raw_fd())
}

/// Reads an open regular file from its beginning; more than `max` bytes is an error.
pub fn read_whole(file: &File, path: &Path, max: u64) -> Result<Vec<u8>> {
    let meta = file.metadata().map_err(|e| Error::io("look at", path, e))?;
    let wrong = |what: &str| Err(Error::new(format!("{} is {what}", path.display())));
    if !meta.is_file() {
        return wrong("not a regular file");
    }
    if meta.len() > max {
        return wrong(&format!("larger than {max} bytes"));
    }
    read_range(file, 0, max).map_err(|e| Error::io("read", path, e))
}

/// Reads a regular file from `start` to the end that it has now, at most `max` bytes.
pub fn read_range(file: &File, start: u64, max: u64) -> io::Result<Vec<u8>> {
    let left = file.metadata()?.len().saturating_sub(start).min(max);
    let mut content = vec![0; usize::try_from(left).unwrap_or(usize::MAX)];
    let mut length = 0;
    while let more @ 1.. = file.read_at(&mut content[length..], start + length as u64)? {
        length += more;
    }
    content.truncate(length);
    Ok(content)
}

/// Reads a file by path, at most `max` bytes; `None` if there is none. Links are followed: a user
/// may keep settings elsewhere.
pub fn read_path(path: &Path, max: u64) -> Result<Option<Vec<u8>>> {
    let file = open_path(path)?;
    file.map(|file| read_whole(&file, path, max)).transpose()
}

/// As [`read_path`], a file that has us run what it says: it must be as `check` wants it, and the directory
/// in which it, or a link to it, could be replaced the user's own. A link to nothing is no missing file:
/// what it led to may be on a disk that is not there.
pub fn read_own(path: &Path, max: u64, check: OwnerCheck) -> Result<Option<Vec<u8>>> {
    let real = match path.canonicalize() {
        Err(_) if !path.is_symlink() => path.to_owned(),
        real => real.map_err(|e| Error::io("follow the link", path, e))?,
    };
    let Some(file) = open_path(path)? else {
        return Ok(None);
    };
    let look = |e: nix::Error| Error::io("look at", path, e.into());
    check(&fstat(&file).map_err(look)?, path)?;
    for dir in [path.parent(), real.parent()].into_iter().flatten() {
        check_own(&nix::sys::stat::stat(dir).map_err(look)?, dir)?;
    }
    let bytes = read_whole(&file, path, max)?;
    // Some editors put a byte order mark in front.
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    Ok(Some(text.to_owned()))
}

/// A function that says whether owner and mode are as they should be.
pub type OwnerCheck = fn(&FileStat, &Path) -> Result<()>;

/// Opens a file for reading by path, following links, without waiting for a pipe's other end;
/// `None` if there is none.
pub fn open_path(path: &Path) -> Result<Option<File>> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let opened = nix::fcntl::open(path, flags, Mode::empty()).map(File::from);
    if_there(opened).map_err(|e| Error::io("open", path, e.into()))
}

/// Whether a file or directory is the user's (or root's) own and cannot be written by others, as
/// sshd and cron ask of theirs; the user's private group may write.
pub fn check_own(stat: &FileStat, path: &Path) -> Result<()> {
    let is_private = private_group() == Some(stat.st_gid);
    let closed = if is_private { 0o002 } else { 0o022 };
    check(stat, path, closed, ["can be written by others", "go-w"])
}

/// As [`check_own`], of a file with secrets in it, which nobody else may even read.
pub fn check_secret(stat: &FileStat, path: &Path) -> Result<()> {
    check(stat, path, 0o077, ["is open to others", "600"])
}

fn check(stat: &FileStat, path: &Path, closed: u32, [what, remedy]: [&str; 2]) -> Result<()> {
    let (path, uid, mode) = (path.display(), stat.st_uid, stat.st_mode & 0o777);
    let is_ours = uid == 0 || uid == nix::unistd::geteuid().as_raw();
    let text = match (is_ours, mode & closed) {
        (true, 0) => return Ok(()),
        (true, _) => format!(
            "{path} {what} (mode {mode:03o}); run: chmod {remedy} {path} (where that changes nothing, \
             mount its file system with umask=077)"
        ),
        (false, _) => format!(
            "{path} belongs to another user (uid {uid}); run: sudo chown \"$(id -un)\" {path}"
        ),
    };
    Err(Error::new(text))
}

/// The user's own group if it has the user's name and no other members, as Debian and Fedora
/// give everybody one; with it, a umask of 002 opens nothing to anybody.
pub fn private_group() -> Option<u32> {
    static GROUP: OnceLock<Option<u32>> = OnceLock::new();
    *GROUP.get_or_init(|| {
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok()??;
        let group = nix::unistd::Group::from_gid(user.gid).ok()??;
        let alone = group.mem.iter().all(|member| *member == user.name);
        (group.name == user.name && alone).then_some(group.gid.as_raw())
    })
}

/// The last `max` bytes of an open file, as text.
pub fn tail(file: &File, path: &Path, max: u64) -> Result<String> {
    let failed = |e| Error::io("read", path, e);
    let size = file.metadata().map_err(failed)?.len();
    let bytes = read_range(file, size.saturating_sub(max), max).map_err(failed)?;
    let text = String::from_utf8_lossy(&bytes);
    // The cut may have gone through a character: its rest is dropped rather than shown as such.
    let is_cut = bytes.len() as u64 == max;
    let shown = text.trim_start_matches(|c| is_cut && c == char::REPLACEMENT_CHARACTER);
    Ok(shown.to_owned())
}

/// A file that is nowhere but in memory: whoever is started can read it as it likes, and nothing is left of it.
pub fn in_memory(content: &[u8]) -> Result<File> {
    let make = || -> io::Result<File> {
        let file = File::from(memfd_create(c"input", MFdFlags::MFD_CLOEXEC)?);
        file.write_all_at(content, 0)?;
        Ok(file)
    };
    make().map_err(|e| Error::io("make", Path::new("a file in memory"), e))
}

/// A file name as text, if it is UTF-8.
pub fn name_of(path: &Path) -> Option<&str> {
    path.file_name().and_then(OsStr::to_str)
}
