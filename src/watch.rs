//! The only user of notify: one watcher for all projects, whose events become rings of the
//! right project's bell. An event carries at most a name to look at; what is there, whoever
//! hears the bell finds out by looking.
//!
//! One watcher, because a user may have 128 inotify instances and shares them with all other
//! programs. Calling [`Watcher::watch`] again on a path is harmless and heals a directory that
//! was replaced or mounted over, of which inotify tells nothing.

use crate::error::plain;
use crossbeam_channel::{Receiver, Sender, unbounded};
use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};
use notify::{Config, Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// So many names are kept for a project that does not listen just now; with more, it looks at
/// everything instead.
const NAMES_MAX: usize = 1024;
/// Fewer than so many ring at the very same time, each having seen room for one more name.
const RINGERS_MAX: usize = 64;

/// All that can wake a project's worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Something happened to this name; `whole` if it was renamed in.
    Look {
        /// The file's name.
        name: Box<str>,
        /// Whether it came by a rename.
        whole: bool,
    },
    /// Anything may have happened: look at all.
    Everything,
    /// What the worker waits for besides documents may have changed: holds, slots, settings.
    Again,
}

/// The ringing end of a bell. Ringing never waits.
#[derive(Clone, Debug)]
pub struct Bell(Sender<Wake>);

/// The listening end.
pub type Ear = Receiver<Wake>;

/// A new bell.
pub fn bell() -> (Bell, Ear) {
    // A bounded one would hold room for all the names it may ever hold.
    let (sender, receiver) = unbounded();
    (Bell(sender), receiver)
}

impl Bell {
    /// Wakes the listener; without one, nothing happens. When too many rings wait to be heard, those that
    /// come last ask for a look at everything, and what comes after them has nothing to add.
    pub fn ring(&self, wake: Wake) {
        let waiting = self.0.len();
        if waiting < NAMES_MAX {
            let _ = self.0.send(wake);
        } else if waiting < NAMES_MAX + RINGERS_MAX {
            let _ = self.0.send(Wake::Everything);
        }
    }
}

/// Which names in a directory matter to its listener.
pub type Interest = fn(&str) -> bool;

type Routes = Arc<Mutex<HashMap<PathBuf, (Bell, Interest)>>>;

/// The watcher of all directories. It comes to life when it first is to watch something, and as long as
/// it cannot, says so each time.
#[derive(Debug, Default)]
pub struct Watcher {
    inner: Mutex<Option<RecommendedWatcher>>,
    routes: Routes,
}

/// Why something cannot be watched, in the words of our other errors, and what would help.
fn reason(error: notify::Error) -> String {
    let what = match &error.kind {
        notify::ErrorKind::MaxFilesWatch => "watches",
        notify::ErrorKind::Io(cause) if cause.raw_os_error() == Some(libc::EMFILE) => "instances",
        notify::ErrorKind::Io(cause) => return plain(cause),
        _ => return error.to_string(),
    };
    format!("too many inotify {what} are in use; raise the sysctl fs.inotify.max_user_{what}")
}

impl Watcher {
    /// Rings `bell` from now on when something happens in `directory` to a name of interest.
    ///
    /// # Errors
    /// Why it cannot be watched, and what would help.
    pub fn watch(&self, directory: &Path, bell: &Bell, interest: Interest) -> Result<(), String> {
        let route = (bell.clone(), interest);
        locked(&self.routes).insert(directory.to_owned(), route);
        let mut inner = locked(&self.inner);
        if inner.is_none() {
            *inner = Some(listen(&self.routes).map_err(reason)?);
        }
        let inner = inner.as_mut().expect("it has just been seen to");
        let watched = inner.watch(directory, RecursiveMode::NonRecursive);
        watched.map_err(reason)
    }

    /// Forgets a directory.
    pub fn unwatch(&self, directory: &Path) {
        locked(&self.routes).remove(directory);
        if let Some(inner) = &mut *locked(&self.inner) {
            // It fails when the directory is gone, and the watch with it.
            let _ = inner.unwatch(directory);
        }
    }
}

/// A panic of whoever held the lock cannot have left anything half changed.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One inotify instance, and a thread of notify's that hears it.
fn listen(routes: &Routes) -> notify::Result<RecommendedWatcher> {
    let handler_routes = Arc::clone(routes);
    let config = Config::default().with_follow_symlinks(false);
    let listener = RecommendedWatcher::new(move |event| deliver(&handler_routes, event), config);
    let mut listener = listener?;
    // notify keeps to itself that its thread could not be started, and then panics at every
    // request, the one to end included. So one is made here, of which nothing comes.
    let asked = AssertUnwindSafe(|| drop(listener.unwatch(Path::new("/"))));
    if catch_unwind(asked).is_err() {
        std::mem::forget(listener);
        return Err(notify::Error::generic("its thread cannot be started"));
    }
    Ok(listener)
}

/// Runs in notify's thread, which a panic would leave deaf: nothing here can.
fn deliver(routes: &Routes, event: notify::Result<Event>) {
    let routes = locked(routes);
    let event = match event {
        Ok(event) if !event.need_rescan() => event,
        // Overflow names no path, an error may: either way nobody knows what was missed.
        _ => return { routes.values() }.for_each(|(bell, _)| bell.ring(Wake::Everything)),
    };
    let Some(whole) = meaning(event.kind) else {
        return;
    };
    for path in &event.paths {
        if let Some((bell, _)) = routes.get(path) {
            // The directory itself was removed or moved.
            bell.ring(Wake::Everything);
            continue;
        }
        let route = path.parent().and_then(|parent| routes.get(parent));
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if let Some((bell, interest)) = route
            && interest(&name)
        {
            let name = name.into();
            bell.ring(Wake::Look { name, whole });
        }
    }
}

/// Whether an event matters, and if so whether it is a rename into the directory. Opening and
/// reading do not: a listing would wake its own reader for ever.
fn meaning(kind: EventKind) -> Option<bool> {
    match kind {
        EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Some(true),
        // Repeats what `From` and `To` have told.
        EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => None,
        // A document that could not be read may be readable now.
        EventKind::Modify(ModifyKind::Name(_) | ModifyKind::Metadata(_))
        | EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Create(_)
        | EventKind::Remove(_) => Some(false),
        _ => None,
    }
}
