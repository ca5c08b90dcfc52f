//! The only user of notify: one watcher for all projects, whose events become rings of the
//! right project's bell. An event carries at most a name to look at; what is there, whoever
//! hears the bell finds out by looking.
//!
//! One watcher, because a user may have 128 inotify instances and shares them with all other
//! programs. Calling [`Watcher::watch`] again on a path is harmless and heals a directory that
//! was replaced or mounted over, of which inotify tells nothing.

use crossbeam_channel::{Receiver, Sender, unbounded};
use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};
use notify::{Config, Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// So many names are kept for a project that does not listen just now; with more, it looks at
/// everything instead.
const NAMES_MAX: usize = 1024;

const TOO_MANY_WATCHES: &str =
    "too many inotify watches are in use; raise the sysctl fs.inotify.max_user_watches";
const TOO_MANY_INSTANCES: &str =
    "too many inotify instances are in use; raise the sysctl fs.inotify.max_user_instances";

/// All that can wake a project's worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Something happened to this name; `whole` if it was renamed in.
    Look {
        /// The file's name.
        name: String,
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
pub struct Bell {
    sender: Sender<Wake>,
    overflow: Arc<AtomicBool>,
}

/// The listening end.
#[derive(Debug)]
pub struct Ear {
    receiver: Receiver<Wake>,
    overflow: Arc<AtomicBool>,
}

/// A new bell.
pub fn bell() -> (Bell, Ear) {
    // A bounded one would hold room for all the names it may ever hold.
    let (sender, receiver) = unbounded();
    let overflow = Arc::<AtomicBool>::default();
    let ear = Ear {
        receiver,
        overflow: Arc::clone(&overflow),
    };
    (Bell { sender, overflow }, ear)
}

impl Bell {
    /// Wakes the listener; without one, nothing happens.
    pub fn ring(&self, wake: Wake) {
        if self.sender.len() < NAMES_MAX {
            let _ = self.sender.send(wake);
        } else if !self.overflow.swap(true, Ordering::SeqCst) {
            // It may have taken all names between our two steps: it wakes all the same.
            let _ = self.sender.send(Wake::Again);
        }
    }
}

impl Ear {
    /// Waits for a ring, at most until `deadline`; `None` if there was none.
    pub fn wait(&self, deadline: Option<std::time::Instant>) -> Option<Wake> {
        match deadline {
            Some(deadline) => self.receiver.recv_deadline(deadline).ok(),
            None => self.receiver.recv().ok(),
        }
    }

    /// Whether everything that was rung has been heard.
    pub fn is_quiet(&self) -> bool {
        self.receiver.is_empty() && !self.overflow.load(Ordering::SeqCst)
    }

    /// What has been rung and not heard yet. The overflow is looked at after the last name, or one
    /// that came in between would be neither among the names nor told.
    pub fn pending(&self) -> impl Iterator<Item = Wake> {
        let mut names = self.receiver.try_iter();
        let overflow = || self.overflow.swap(false, Ordering::SeqCst);
        std::iter::from_fn(move || {
            let name = names.next();
            name.or_else(|| overflow().then_some(Wake::Everything))
        })
    }
}

/// Which names in a directory matter to its listener.
pub type Interest = fn(&str) -> bool;

type Routes = Arc<Mutex<HashMap<PathBuf, (Bell, Interest)>>>;

/// The watcher of all directories.
pub struct Watcher {
    /// Nothing, as long as the system has none for us.
    inner: Option<RecommendedWatcher>,
    routes: Routes,
}

/// Why something cannot be watched, in the words of our other errors, and what would help.
pub fn reason(error: &notify::Error) -> String {
    match &error.kind {
        notify::ErrorKind::Io(cause) => crate::error::plain(cause),
        notify::ErrorKind::MaxFilesWatch => TOO_MANY_WATCHES.to_owned(),
        notify::ErrorKind::PathNotFound => "no such file or directory".to_owned(),
        _ => error.to_string(),
    }
}

impl Watcher {
    /// A watcher that comes to life when it first is to watch something, and as long as it cannot, says so
    /// each time.
    pub fn asleep() -> Watcher {
        let (inner, routes) = (None, Routes::default());
        Watcher { inner, routes }
    }

    /// Rings `bell` from now on when something happens in `directory` to a name of interest.
    pub fn watch(
        &mut self,
        directory: &Path,
        bell: &Bell,
        interest: Interest,
    ) -> notify::Result<()> {
        let route = (bell.clone(), interest);
        self.routes().insert(directory.to_owned(), route);
        let inner = match self.inner.take() {
            Some(inner) => inner,
            None => listen(&self.routes)?,
        };
        let inner = self.inner.insert(inner);
        inner.watch(directory, RecursiveMode::NonRecursive)
    }

    /// Forgets a directory.
    pub fn unwatch(&mut self, directory: &Path) {
        self.routes().remove(directory);
        if let Some(inner) = &mut self.inner {
            // It fails when the directory is gone, and the watch with it.
            let _ = inner.unwatch(directory);
        }
    }

    fn routes(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, (Bell, Interest)>> {
        // A panic while the map was held cannot have left it half changed.
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watcher")
    }
}

/// One inotify instance, and a thread of notify's that hears it.
fn listen(routes: &Routes) -> notify::Result<RecommendedWatcher> {
    let handler_routes = Arc::clone(routes);
    let config = Config::default().with_follow_symlinks(false);
    let listener = RecommendedWatcher::new(move |event| deliver(&handler_routes, event), config);
    let mut listener = listener.map_err(|error| match &error.kind {
        notify::ErrorKind::Io(cause) if cause.raw_os_error() == Some(libc::EMFILE) => {
            notify::Error::generic(TOO_MANY_INSTANCES)
        }
        _ => error,
    })?;
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
    let routes = routes.lock().unwrap_or_else(PoisonError::into_inner);
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
            let name = name.into_owned();
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
