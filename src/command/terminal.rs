//! The one place that touches the terminal: its size and modes, the line that `wait` keeps up to
//! date, the screen that `watch` draws, and the keys and signals that reach it.

use crate::error::{Error, Result};
use crate::render::{self, clean_line, fit, is_dumb};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal::{self, SIGHUP, SIGINT, SIGTERM, SIGTSTP, SIGWINCH};
use nix::sys::signal::{SigSet, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{self, LocalFlags, SetArg, Termios};
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// Taken where the size is not known.
const COLUMNS: usize = 80;
const ROWS: usize = 24;

/// Alternate screen, no cursor, no wrapping: a line that is too wide all the same stays one.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// Columns and rows of a terminal.
pub(super) fn size(terminal: impl AsFd) -> (usize, usize) {
    let mut size = [0_u16; 4];
    let fd = terminal.as_fd().as_raw_fd();
    // SAFETY: TIOCGWINSZ writes a winsize, which is four numbers of this type, to the live local.
    unsafe { libc::ioctl(fd, libc::TIOCGWINSZ, &mut size) };
    let or = |number: u16, default| if number > 0 { number.into() } else { default };
    (or(size[1], COLUMNS), or(size[0], ROWS))
}

/// The columns of standard output; `piped` where it is no terminal.
pub(super) fn columns(piped: usize) -> usize {
    match io::stdout().is_terminal() {
        true => size(io::stdout()).0,
        false => piped,
    }
}

/// One line on standard error that is written over and over, where a person is looking.
pub(super) struct LiveLine {
    /// Whether anybody sees it.
    pub is_on: bool,
    shown: String,
}

impl LiveLine {
    pub(super) fn new() -> LiveLine {
        LiveLine {
            is_on: io::stderr().is_terminal() && !is_dumb(),
            shown: String::new(),
        }
    }

    /// Shows a text in place of the one before; an empty one makes room for something that stays.
    pub(super) fn show(&mut self, text: &str) {
        // The last column stays free: some terminals wrap as soon as it is taken.
        let text = fit(&clean_line(text), size(io::stderr()).0.saturating_sub(1));
        if self.is_on && text != self.shown {
            render::say(&format!("\r\x1b[?7l{text}\x1b[K\x1b[?7h"));
            self.shown = text;
        }
    }
}

impl Drop for LiveLine {
    fn drop(&mut self) {
        self.show("");
    }
}

/// The whole terminal, as long as the value lives.
pub(super) struct Screen {
    /// How the terminal was found.
    modes: Termios,
    /// What a person or the system asks for.
    signals: SignalFd,
}

impl Screen {
    /// Whether there is a terminal, for keys and for lines.
    pub(super) fn is_there() -> bool {
        io::stdin().is_terminal() && io::stdout().is_terminal() && !is_dumb()
    }

    pub(super) fn open() -> Result<Screen> {
        let failed = |e| Error::new(format!("cannot take the terminal: {e}"));
        let asks = [SIGHUP, SIGINT, SIGTERM, SIGTSTP, SIGWINCH];
        let asks: SigSet = asks.into_iter().collect();
        asks.thread_block().map_err(failed)?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let screen = Screen {
            modes: termios::tcgetattr(io::stdin()).map_err(failed)?,
            signals: SignalFd::with_flags(&asks, flags).map_err(failed)?,
        };
        screen.enter();
        Ok(screen)
    }

    /// Shows these lines, as many as there is room for.
    pub(super) fn draw(&self, lines: &[String]) {
        let rows = size(io::stdout()).1;
        let lines = lines[..lines.len().min(rows)].join("\x1b[K\r\n");
        show(&format!("\x1b[H{lines}\x1b[K\x1b[J"));
    }

    /// Waits so long for a key or a signal; whether the person stays.
    pub(super) fn wait(&self, tick: Duration) -> bool {
        let keyboard = io::stdin();
        let mut sources =
            [self.signals.as_fd(), keyboard.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let tick = PollTimeout::try_from(tick).unwrap_or(PollTimeout::MAX);
        let _ = poll(&mut sources, tick);
        let typed = sources[1].any() == Some(true);
        if let Ok(Some(signal)) = self.signals.read_signal() {
            match Signal::try_from(signal.ssi_signo.cast_signed()) {
                // A window of another size is drawn at once.
                Ok(SIGWINCH) => {}
                // The person has the terminal back until the program is to go on.
                Ok(SIGTSTP) => {
                    self.leave();
                    let _ = raise(Signal::SIGSTOP);
                    self.enter();
                }
                _ => return false,
            }
        }
        let mut keys = [0; 32];
        let count = match typed {
            true => nix::unistd::read(&keyboard, &mut keys).unwrap_or(0),
            false => return true,
        };
        count > 0 && !keys[..count].iter().any(|key| b"qQ".contains(key))
    }

    fn enter(&self) {
        let mut modes = self.modes.clone();
        let flags = &mut modes.local_flags;
        flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
        let _ = termios::tcsetattr(io::stdin(), SetArg::TCSADRAIN, &modes);
        show(ENTER);
    }

    fn leave(&self) {
        show(LEAVE);
        let _ = termios::tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.modes);
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A terminal that has gone is no matter: a signal tells us so.
fn show(frame: &str) {
    let _ = render::print(frame);
}
