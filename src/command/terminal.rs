//! The one place that touches the terminal: its size and modes, the line that `wait` keeps up to
//! date, the screen that `watch` draws, and the keys and signals that reach it.

use crate::error::{Error, Result};
use crate::render::{Style, clean_line, encoded, fit};
use crate::settings;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{self, LocalFlags, SetArg, Termios};
use nix::unistd::dup;
use std::io::{self, IsTerminal, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

/// Taken where the size is not known.
pub(super) const COLUMNS: usize = 80;
const ROWS: usize = 24;

/// Alternate screen, no cursor, no wrapping: a line that is too wide all the same stays one.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// Columns and rows of a terminal.
pub(super) fn size(terminal: impl AsFd) -> (usize, usize) {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ writes a winsize to the live local that the pointer is to.
    let told =
        unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &mut size) } == 0;
    let or = |number: u16, default| match number {
        number if told && number > 0 => usize::from(number),
        _ => default,
    };
    (or(size.ws_col, COLUMNS), or(size.ws_row, ROWS))
}

/// Whether the terminal understands cursor movements.
pub(super) fn is_capable() -> bool {
    settings::variable("TERM").is_some_and(|term| term != "dumb")
}

/// One line that is written over and over, where a person is looking; elsewhere nothing.
pub(super) struct LiveLine {
    terminal: Option<OwnedFd>,
    style: Style,
    shown: String,
}

impl LiveLine {
    /// On standard error, or else on standard output.
    pub(super) fn new() -> LiveLine {
        let terminals = [
            io::stderr().is_terminal().then(|| dup(io::stderr())),
            io::stdout().is_terminal().then(|| dup(io::stdout())),
        ];
        let style = Style::of_stdout();
        LiveLine {
            terminal: terminals
                .into_iter()
                .flatten()
                .find_map(std::result::Result::ok)
                .filter(|_| is_capable()),
            style,
            shown: String::new(),
        }
    }

    /// Whether anybody sees it.
    pub(super) fn is_on(&self) -> bool {
        self.terminal.is_some()
    }

    /// Shows a text in place of the one before.
    pub(super) fn show(&mut self, text: &str) {
        let Some(terminal) = &self.terminal else {
            return;
        };
        // The last column stays free: some terminals wrap as soon as it is taken.
        let text = fit(
            &clean_line(text),
            size(terminal).0.saturating_sub(1),
            self.style,
        );
        if text != self.shown {
            put(terminal, &format!("\r\x1b[?7l{text}\x1b[K\x1b[?7h"));
            self.shown = text;
        }
    }

    /// Takes it away, to make room for something that stays.
    pub(super) fn clear(&mut self) {
        if let Some(terminal) = self.terminal.as_ref().filter(|_| !self.shown.is_empty()) {
            put(terminal, "\r\x1b[K");
            self.shown.clear();
        }
    }
}

impl Drop for LiveLine {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The whole terminal, as long as the value lives.
pub(super) struct Screen {
    /// How the terminal was found.
    modes: Option<Termios>,
    /// What a person or the system asks for.
    signals: SignalFd,
    drawn: String,
}

impl Screen {
    pub(super) fn open() -> Result<Screen> {
        use Signal::{SIGHUP, SIGINT, SIGTERM, SIGTSTP, SIGWINCH};
        let asks: SigSet = [SIGHUP, SIGINT, SIGTERM, SIGTSTP, SIGWINCH]
            .into_iter()
            .collect();
        let signals = asks.thread_block();
        let signals = signals.and_then(|()| {
            SignalFd::with_flags(&asks, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        });
        let mut screen = Screen {
            modes: termios::tcgetattr(io::stdin().as_fd()).ok(),
            signals: signals.map_err(|e| Error::new(format!("cannot await signals: {e}")))?,
            drawn: String::new(),
        };
        screen.enter();
        Ok(screen)
    }

    /// Columns and rows.
    pub(super) fn size(&self) -> (usize, usize) {
        size(io::stdout())
    }

    /// Shows these lines, as many as there is room for, in one write: nothing flickers. What is
    /// there already is not drawn again.
    pub(super) fn draw(&mut self, lines: &[String]) {
        let rows = self.size().1;
        let lines = lines[..lines.len().min(rows)].join("\x1b[K\r\n");
        let frame = format!("\x1b[H{lines}\x1b[K\x1b[J");
        if frame != self.drawn {
            put(io::stdout(), &frame);
            self.drawn = frame;
        }
    }

    /// Waits so long for a key or a signal; whether the person stays.
    pub(super) fn wait(&mut self, tick: Duration) -> bool {
        let keyboard = io::stdin();
        let signals = PollFd::new(self.signals.as_fd(), PollFlags::POLLIN);
        let mut sources = vec![signals];
        if keyboard.is_terminal() {
            sources.push(PollFd::new(keyboard.as_fd(), PollFlags::POLLIN));
        }
        let _ = poll(
            &mut sources,
            PollTimeout::try_from(tick).unwrap_or(PollTimeout::MAX),
        );
        let typed = sources.get(1).and_then(PollFd::any).unwrap_or(false);
        if let Ok(Some(signal)) = self.signals.read_signal() {
            match Signal::try_from(signal.ssi_signo.cast_signed()) {
                // Whatever is on the terminal is not what was drawn.
                Ok(Signal::SIGWINCH) => self.drawn.clear(),
                Ok(Signal::SIGTSTP) => self.pause(),
                _ => return false,
            }
        }
        let mut keys = [0; 32];
        match typed {
            true => match keyboard.lock().read(&mut keys) {
                Ok(0) | Err(_) => false,
                Ok(count) => !keys[..count].iter().any(|key| b"qQ".contains(key)),
            },
            false => true,
        }
    }

    /// Gives the terminal back and stops, until the person wants to go on.
    fn pause(&mut self) {
        self.leave();
        let _ = raise(Signal::SIGSTOP);
        self.enter();
        self.drawn.clear();
    }

    fn enter(&mut self) {
        if let Some(modes) = &self.modes {
            let mut modes = modes.clone();
            modes
                .local_flags
                .remove(LocalFlags::ICANON | LocalFlags::ECHO);
            let _ = termios::tcsetattr(io::stdin().as_fd(), SetArg::TCSADRAIN, &modes);
        }
        put(io::stdout(), ENTER);
    }

    fn leave(&mut self) {
        put(io::stdout(), LEAVE);
        if let Some(modes) = &self.modes {
            let _ = termios::tcsetattr(io::stdin().as_fd(), SetArg::TCSADRAIN, modes);
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.leave();
    }
}

/// In one write where the terminal takes it, which `Stdout` would make two. A terminal that has
/// gone is no matter: a signal tells us so.
fn put(terminal: impl AsFd, text: &str) {
    let text = encoded(text);
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        match nix::unistd::write(&terminal, rest) {
            Ok(written) => rest = &rest[written..],
            Err(nix::Error::EINTR | nix::Error::EAGAIN) => {}
            Err(_) => return,
        }
    }
}
