//! The one error type. An [`Error`] means that the monitor or a command is in trouble; a job
//! that fails is a value (see `job::ErrorKind`), never an `Err`.

use std::fmt;
use std::io;
use std::path::Path;

/// What the process tells its caller; the numbers are part of the contract (SPEC 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All is well.
    Done = 0,
    /// I/O or the daemon failed.
    Failed = 1,
    /// The command line was not understood.
    Usage = 2,
    /// No such job or project.
    NotFound = 3,
    /// A job that was waited for did not complete.
    NotCompleted = 4,
    /// Another daemon serves this user already.
    AlreadyRunning = 5,
    /// `wait --timeout` ran out.
    TimedOut = 124,
}

/// A sentence for a person, the exit status that goes with it, and the system's own kind of
/// error where there was one (callers decide on it, people never see it).
#[derive(Debug)]
pub struct Error {
    /// The process exit status if this error ends a command.
    pub exit: Exit,
    /// The system's error number, if the error came from the system.
    pub errno: Option<i32>,
    text: String,
}

/// `Result` with our [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of our own making, exit status 1.
    pub fn new(text: impl Into<String>) -> Error {
        Error::with(Exit::Failed, text)
    }

    /// An error of our own making with the given exit status.
    pub fn with(exit: Exit, text: impl Into<String>) -> Error {
        let (errno, text) = (None, text.into());
        Error { exit, errno, text }
    }

    /// A failed system call: `cannot VERB PATH: cause`.
    pub fn io(verb: &str, path: &Path, cause: io::Error) -> Error {
        let (path, what) = (path.display(), plain(&cause));
        let mut error = Error::new(format!("cannot {verb} {path}: {what}"));
        error.errno = cause.raw_os_error();
        error
    }

    /// The same error with what was being done in front of it.
    pub fn context(mut self, doing: &str) -> Error {
        self.text = format!("{doing}: {}", self.text);
        self
    }

    /// Whether the file or directory is simply not there.
    pub fn is_not_found(&self) -> bool {
        self.errno == Some(libc::ENOENT)
    }
}

/// Lifts a shortage of memory or descriptors into the outer result: it is trouble of our own and says nothing
/// of the file that was asked for. Any other error stays in the inner one, for the caller to decide on.
pub fn lift_shortage<T>(result: Result<T>) -> Result<Result<T>> {
    let lacks = |errno| matches!(errno, libc::EMFILE | libc::ENFILE | libc::ENOMEM);
    match result {
        Err(error) if error.errno.is_some_and(lacks) => Err(error),
        other => Ok(other),
    }
}

/// The system's words without Rust's "(os error 2)", which helps nobody.
pub(crate) fn plain(cause: &io::Error) -> String {
    let text = cause.to_string();
    let known = text.split_once(" (os error ");
    known.map_or(text.clone(), |(words, _)| words.to_lowercase())
}

/// Whether a character could move a cursor, change a terminal's state or reorder a line: C0 but
/// newline and tab, DEL, C1, and the bidirectional controls. Kept here because it holds for every
/// sentence, whether a command prints it or the daemon logs it.
pub fn is_harmful(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t')
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A text from outside as a part of one line of a log, which it could otherwise forge.
pub fn one_line(text: &str) -> String {
    text.replace(|c: char| c.is_control() || is_harmful(c), " ")
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_io_error_names_verb_path_and_cause_and_no_error_number() {
        let cause = io::Error::from_raw_os_error(libc::ENOENT);
        let error = Error::io("open", Path::new("/x/y"), cause);
        let sentence = "cannot open /x/y: no such file or directory";
        assert_eq!(error.to_string(), sentence);
        assert!(error.is_not_found());
        assert_eq!(error.errno, Some(libc::ENOENT));
    }
}
