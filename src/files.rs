//! Files and directories, the careful way. Every error names verb and path; nothing here
//! follows a symbolic link in the last part of a path, and new files are the user's alone.
//!
//! A [`Dir`] holds a directory open, so that a directory swapped for a link or moved away while
//! we work cannot redirect a write: the name is resolved once, by [`Dir::open`].

use crate::error::{Error, Result};
use crate::job::Meta;
use nix::dir::Dir as Listing;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, renameat, renameat2};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Permissions of every file we make, whatever the umask lets through.
const PRIVATE: Mode = Mode::from_bits_truncate(0o600);

/// An open directory and the path under which messages name it.
#[derive(Debug)]
pub struct Dir {
    handle: File,
    path: PathBuf,
    /// Its signature when that was first asked for, of which device and inode stay true.
    place: OnceLock<Signature>,
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

/// What a directory listing says of an entry without looking at the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Link,
    /// FIFO, socket, device.
    Special,
    /// The file system does not say.
    Unknown,
}

/// What matters of a file's inode.
pub fn meta_of(stat: &FileStat) -> Meta {
    Meta {
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mtime_ns: i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec),
        mode: stat.st_mode,
        uid: stat.st_uid,
    }
}

/// Identity and age of a directory: as long as it is unchanged, so are its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    device: u64,
    inode: u64,
    mtime_ns: i128,
}

impl Signature {
    /// The signature of what a `stat` saw.
    pub fn of(stat: &FileStat) -> Signature {
        Signature {
            device: stat.st_dev,
            inode: stat.st_ino,
            mtime_ns: i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec),
        }
    }

    /// The signature of the directory that `path` names now; a link to one counts.
    pub fn at(path: &Path) -> Result<Signature> {
        let stat = nix::sys::stat::stat(path).map_err(|e| Error::io("look at", path, e.into()))?;
        Ok(Signature::of(&stat))
    }

    /// The modification time as text, for the view of the queue.
    pub fn mtime(&self) -> String {
        self.mtime_ns.to_string()
    }
}

/// Why a link to a directory is none to us.
const LINK: &str =
    "it is a symbolic link, which is not followed; put the directory itself in its place";

impl Dir {
    /// Opens a directory; a symbolic link in its place is an error.
    pub fn open(path: &Path) -> Result<Dir> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let handle = nix::fcntl::open(path, flags, Mode::empty())
            .map_err(|e| Error::io("open directory", path, e.into()))?;
        Ok(Dir {
            handle: handle.into(),
            path: path.to_owned(),
            place: OnceLock::new(),
        })
    }

    /// Opens a directory, first making it (0700) and what leads to it where missing.
    pub fn create(path: &Path) -> Result<Dir> {
        match Dir::open(path) {
            Err(error) if error.is_not_found() => {
                let mut builder = std::fs::DirBuilder::new();
                std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
                builder
                    .recursive(true)
                    .create(path)
                    .map_err(|e| Error::io("create", path, e))?;
                Dir::open(path)
            }
            other => other,
        }
    }

    /// Opens a directory below this one, making it (0755) where missing if `make`. No part of
    /// `relative` may be a symbolic link.
    pub fn descend(&self, relative: &str, make: Make) -> Result<Dir> {
        let mut dir = Dir {
            handle: self.duplicate()?,
            path: self.path.clone(),
            place: OnceLock::new(),
        };
        for part in relative.split('/') {
            let path = dir.path.join(part);
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let open = || openat(&dir.handle, part, flags, Mode::empty());
            let opened = match open() {
                Err(nix::Error::ENOENT) if make == Make::Missing => {
                    match mkdirat(&dir.handle, part, Mode::from_bits_truncate(0o755)) {
                        Ok(()) | Err(nix::Error::EEXIST) => open(),
                        Err(error) => return Err(Error::io("create", &path, error.into())),
                    }
                }
                other => other,
            };
            let handle = opened.map_err(|e| match dir.entry_is_link(part) {
                // The system only says that it is no directory, which a person may not believe.
                true => Error::io("open directory", &path, io::Error::other(LINK)),
                false => Error::io("open directory", &path, e.into()),
            })?;
            dir = Dir {
                handle: handle.into(),
                path,
                place: OnceLock::new(),
            };
        }
        Ok(dir)
    }

    fn entry_is_link(&self, name: &str) -> bool {
        let looked = fstatat(&self.handle, name, AtFlags::AT_SYMLINK_NOFOLLOW);
        looked.is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFLNK)
    }

    /// The path as it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of an entry, for messages.
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Identity and modification time of the open directory itself.
    pub fn signature(&self) -> Result<Signature> {
        let stat = fstat(&self.handle).map_err(|e| Error::io("look at", &self.path, e.into()))?;
        Ok(Signature::of(&stat))
    }

    /// Whether it was this very directory that was seen, changed since or not.
    pub fn is_what(&self, seen: &FileStat) -> Result<bool> {
        let place = match self.place.get() {
            Some(place) => place,
            None => {
                let place = self.signature()?;
                self.place.get_or_init(|| place)
            }
        };
        Ok((place.device, place.inode) == (seen.st_dev, seen.st_ino))
    }

    /// Owner, mode and the like of the open directory itself.
    pub fn stat(&self) -> Result<FileStat> {
        fstat(&self.handle).map_err(|e| Error::io("look at", &self.path, e.into()))
    }

    /// Calls `each` with the name and kind of every entry but `.` and `..`, in no order. Names
    /// that are not UTF-8 are passed with replacement characters, which no name of ours has.
    pub fn list(&self, each: &mut dyn FnMut(&str, Kind)) -> Result<()> {
        let failed = |e: nix::Error| Error::io("list", &self.path, e.into());
        // A fresh description of the same directory: a listing has a position of its own.
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut listing =
            Listing::openat(&self.handle, ".", flags, Mode::empty()).map_err(failed)?;
        for entry in listing.iter() {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let kind = match entry.file_type() {
                Some(nix::dir::Type::File) => Kind::File,
                Some(nix::dir::Type::Directory) => Kind::Dir,
                Some(nix::dir::Type::Symlink) => Kind::Link,
                Some(_) => Kind::Special,
                None => Kind::Unknown,
            };
            each(&String::from_utf8_lossy(name), kind);
        }
        Ok(())
    }

    /// What is at `name`, itself and not what a link points to; `None` if nothing is.
    pub fn look(&self, name: &str) -> Result<Option<FileStat>> {
        match fstatat(&self.handle, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(nix::Error::ENOENT | nix::Error::ENAMETOOLONG) => Ok(None),
            Err(error) => Err(Error::io("look at", &self.path_of(name), error.into())),
        }
    }

    /// Whether anything is at `name`.
    pub fn has(&self, name: &str) -> Result<bool> {
        Ok(self.look(name)?.is_some())
    }

    /// Opens a file for reading. Neither links nor FIFOs are waited for or followed.
    pub fn open_file(&self, name: &str) -> Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        match openat(&self.handle, name, flags, Mode::empty()) {
            Ok(handle) => Ok(handle.into()),
            Err(error) => Err(Error::io("open", &self.path_of(name), error.into())),
        }
    }

    /// Reads a regular file of at most `max` bytes; `None` if there is none.
    pub fn read(&self, name: &str, max: u64) -> Result<Option<Vec<u8>>> {
        match self.open_file(name) {
            Ok(file) => read_whole(&file, &self.path_of(name), max).map(Some),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a new file (0600), replacing nothing: a leftover or a planted link of that name is
    /// removed first, never written through.
    pub fn create_file(&self, name: &str) -> Result<File> {
        let flags =
            OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let create = || openat(&self.handle, name, flags, PRIVATE);
        let created = match create() {
            Err(nix::Error::EEXIST) => {
                self.remove(name)?;
                create()
            }
            other => other,
        };
        created
            .map(File::from)
            .map_err(|e| Error::io("create", &self.path_of(name), e.into()))
    }

    /// Makes a new file (0600) if nothing is there; whether it did.
    pub fn create_new(&self, name: &str, content: &[u8]) -> Result<bool> {
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let path = self.path_of(name);
        match openat(&self.handle, name, flags, PRIVATE) {
            Ok(handle) => {
                let mut file = File::from(handle);
                file.write_all(content)
                    .map_err(|e| Error::io("write", &path, e))?;
                Ok(true)
            }
            Err(nix::Error::EEXIST) => Ok(false),
            Err(error) => Err(Error::io("create", &path, error.into())),
        }
    }

    /// Opens a file for appending, making it (0600) where missing. One that has a second name may be
    /// somebody's for whom we must not write.
    pub fn append_file(&self, name: &str) -> Result<File> {
        let flags = OFlag::O_WRONLY
            | OFlag::O_APPEND
            | OFlag::O_CREAT
            | OFlag::O_NOFOLLOW
            | OFlag::O_NONBLOCK
            | OFlag::O_CLOEXEC;
        let path = self.path_of(name);
        let file = openat(&self.handle, name, flags, PRIVATE)
            .map(File::from)
            .map_err(|e| Error::io("open", &path, e.into()))?;
        let stat = fstat(&file).map_err(|e| Error::io("look at", &path, e.into()))?;
        if stat.st_mode & libc::S_IFMT != libc::S_IFREG || stat.st_nlink > 1 {
            return Err(Error::new(format!(
                "{} is not a regular file with one name; remove it",
                path.display()
            )));
        }
        Ok(file)
    }

    /// Puts durable `content` at `name` as [`Dir::replace`] does, but only if nothing is there;
    /// whether it did. The file is closed before it gets its name, so that whoever watches the
    /// directory sees it whole at once.
    pub fn add(&self, name: &str, content: &[u8]) -> Result<bool> {
        let path = self.path_of(name);
        let temporary = format!(".{name}.{}.tmp", std::process::id());
        let mut file = self.create_file(&temporary)?;
        let written = file.write_all(content).and_then(|()| file.sync_all());
        drop(file);
        let put = written
            .map_err(|e| Error::io("write", &path, e))
            .and_then(|()| self.rename_new(&temporary, name));
        match put {
            Ok(true) => self.sync()?,
            _ => self.remove(&temporary)?,
        }
        put
    }

    /// Renames unless something has the new name; whether it did.
    fn rename_new(&self, from: &str, to: &str) -> Result<bool> {
        let flags = RenameFlags::RENAME_NOREPLACE;
        let renamed = match renameat2(&self.handle, from, &self.handle, to, flags) {
            // A file system without that flag: between look and rename there is a moment, in which
            // only a document of this very name could come.
            Err(nix::Error::EINVAL) if self.has(to)? => Err(nix::Error::EEXIST),
            Err(nix::Error::EINVAL) => renameat(&self.handle, from, &self.handle, to),
            other => other,
        };
        match renamed {
            Ok(()) => Ok(true),
            Err(nix::Error::EEXIST) => Ok(false),
            Err(error) => Err(Error::io("write", &self.path_of(to), error.into())),
        }
    }

    /// Puts `content` at `name` so that readers see the old or the new whole, never a part:
    /// temporary file beside it, rename, and for [`Durability::Durable`] fsync of both file and
    /// directory, without which default ext4 was seen to lose either in a power cut. A failed
    /// fsync is never repeated on the same file, since the kernel reports it once only.
    /// Returns the new file, still open for reading and writing.
    pub fn replace(&self, name: &str, content: &[u8], durability: Durability) -> Result<File> {
        self.replace_with(name, durability, &mut |file| file.write_all(content))
    }

    /// As [`Dir::replace`], with the content as `write` brings it.
    pub fn replace_with(
        &self,
        name: &str,
        durability: Durability,
        write: &mut dyn FnMut(&mut File) -> io::Result<()>,
    ) -> Result<File> {
        let temporary = format!(".{name}.tmp");
        let mut file = self.create_file(&temporary)?;
        let failed = |verb, e| Error::io(verb, &self.path_of(name), e);
        let mut put = || -> Result<()> {
            write(&mut file).map_err(|e| failed("write", e))?;
            if durability == Durability::Durable {
                file.sync_all().map_err(|e| failed("sync", e))?;
            }
            renameat(&self.handle, temporary.as_str(), &self.handle, name)
                .map_err(|e| failed("write", e.into()))
        };
        match put() {
            Ok(()) if durability == Durability::Durable => self.sync()?,
            Ok(()) => {}
            Err(error) => {
                // The temporary file is of no use to anybody; the first error is the one to tell.
                let _ = self.remove(&temporary);
                return Err(error);
            }
        }
        Ok(file)
    }

    /// Moves an entry to another directory of the same file system, replacing nothing that
    /// matters: both names are ours.
    pub fn rename_to(&self, name: &str, to: &Dir, new_name: &str) -> Result<()> {
        renameat(&self.handle, name, &to.handle, new_name)
            .map_err(|e| Error::io("move", &self.path_of(name), e.into()))
    }

    /// Removes a file if it is there.
    pub fn remove(&self, name: &str) -> Result<()> {
        match unlinkat(&self.handle, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(nix::Error::ENOENT) => Ok(()),
            Err(error) => Err(Error::io("remove", &self.path_of(name), error.into())),
        }
    }

    /// Makes the directory's entries durable.
    pub fn sync(&self) -> Result<()> {
        self.handle
            .sync_all()
            .map_err(|e| Error::io("sync", &self.path, e))
    }

    fn duplicate(&self) -> Result<File> {
        self.handle
            .try_clone()
            .map_err(|e| Error::io("open", &self.path, e))
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

/// Reads an open regular file from its beginning; more than `max` bytes is an error.
pub fn read_whole(file: &File, path: &Path, max: u64) -> Result<Vec<u8>> {
    let stat = fstat(file).map_err(|e| Error::io("look at", path, e.into()))?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(Error::new(format!(
            "{} is not a regular file",
            path.display()
        )));
    }
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let too_large = || Error::new(format!("{} is larger than {max} bytes", path.display()));
    if size > max {
        return Err(too_large());
    }
    let content =
        read_range(file, 0, size, max.saturating_add(1)).map_err(|e| Error::io("read", path, e))?;
    if content.len() as u64 > max {
        return Err(too_large());
    }
    Ok(content)
}

/// Reads a regular file from `start` to its end, at most `max` bytes; `size` is how long it was found
/// to be. It is asked for one byte more than that: that a read gives less than it was asked for is
/// the end, and needs no second read to be known.
pub fn read_range(file: &File, start: u64, size: u64, max: u64) -> io::Result<Vec<u8>> {
    let most = usize::try_from(max).unwrap_or(usize::MAX);
    let expected = usize::try_from(size.saturating_sub(start)).unwrap_or(usize::MAX);
    let (mut content, mut length) = (Vec::new(), 0);
    let mut room = expected.saturating_add(1).min(most);
    while room > 0 {
        content.resize(length + room, 0);
        match file.read_at(&mut content[length..], start + length as u64) {
            Ok(more) => {
                length += more;
                if more < room {
                    break;
                }
                room = length.min(most - length);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    content.truncate(length);
    Ok(content)
}

/// Reads a file by path, at most `max` bytes; `None` if there is none. Links are followed: a user
/// may keep settings elsewhere.
pub fn read_path(path: &Path, max: u64) -> Result<Option<Vec<u8>>> {
    match open_path(path)? {
        Some(file) => read_whole(&file, path, max).map(Some),
        None => Ok(None),
    }
}

/// As [`read_path`], a file that has us run what it says: it must be the user's own, and the
/// directory in which it could be replaced, too.
pub fn read_own(path: &Path, max: u64) -> Result<Option<Vec<u8>>> {
    let Some(file) = open_path(path)? else {
        return Ok(None);
    };
    let look = |e: nix::Error| Error::io("look at", path, e.into());
    check_own(&fstat(&file).map_err(look)?, path)?;
    if let Some(parent) = path.parent() {
        check_own(&nix::sys::stat::stat(parent).map_err(look)?, parent)?;
    }
    read_whole(&file, path, max).map(Some)
}

/// Opens a file for reading by path, following links, without waiting for a pipe's other end;
/// `None` if there is none.
pub fn open_path(path: &Path) -> Result<Option<File>> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    match nix::fcntl::open(path, flags, Mode::empty()) {
        Ok(handle) => Ok(Some(handle.into())),
        Err(nix::Error::ENOENT) => Ok(None),
        Err(error) => Err(Error::io("open", path, error.into())),
    }
}

/// Whether a file or directory is the user's (or root's) own and cannot be written by others, as
/// sshd and cron ask of theirs; the user's private group may write.
pub fn check_own(stat: &FileStat, path: &Path) -> Result<()> {
    let path = path.display();
    check_owner(stat, &path)?;
    let group_may = private_group() == Some(stat.st_gid);
    if stat.st_mode & 0o002 != 0 || (stat.st_mode & 0o020 != 0 && !group_may) {
        return Err(Error::new(format!(
            "{path} can be written by others (mode {:03o}); run: chmod go-w {path}",
            stat.st_mode & 0o777
        )));
    }
    Ok(())
}

/// As [`check_own`], of a file with secrets in it, which nobody else may even read.
pub fn check_secret(stat: &FileStat, path: &Path) -> Result<()> {
    let path = path.display();
    check_owner(stat, &path)?;
    if stat.st_mode & 0o077 != 0 {
        return Err(Error::new(format!(
            "{path} is open to others (mode {:03o}); run: chmod 600 {path}",
            stat.st_mode & 0o777
        )));
    }
    Ok(())
}

fn check_owner(stat: &FileStat, path: &std::path::Display<'_>) -> Result<()> {
    if stat.st_uid == 0 || stat.st_uid == nix::unistd::geteuid().as_raw() {
        return Ok(());
    }
    Err(Error::new(format!(
        "{path} belongs to another user (uid {}); run: sudo chown \"$(id -un)\" {path}",
        stat.st_uid
    )))
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
    let read = || -> io::Result<Vec<u8>> {
        match file.metadata()?.len() {
            0 => Ok(Vec::new()),
            size => read_range(file, size.saturating_sub(max), size, max),
        }
    };
    let bytes = read().map_err(|e| Error::io("read", path, e))?;
    // The cut may have gone through a character: drop its rest rather than show a replacement.
    let start = bytes
        .iter()
        .take(3)
        .take_while(|&&byte| byte & 0xc0 == 0x80)
        .count();
    let start = if bytes.len() as u64 == max { start } else { 0 };
    Ok(String::from_utf8_lossy(&bytes[start..]).into_owned())
}

/// A file name as text, if it is UTF-8.
pub fn name_of(path: &Path) -> Option<&str> {
    path.file_name()
        .map(OsStr::as_bytes)
        .and_then(|bytes| std::str::from_utf8(bytes).ok())
}
