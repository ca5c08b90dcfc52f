//! The one place that touches the terminal: its size and modes, the line that `wait` keeps up to
//! date, the screen that `watch` draws, and the keys and signals that reach it.

use super::*;

/// The size that is taken where the terminal does not tell it.
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
}

impl LiveLine {
    pub(super) fn new() -> LiveLine {
        LiveLine {
            is_on: io::stderr().is_terminal() && !is_dumb(),
        }
    }

    /// Shows a text in place of the one before; an empty one makes room for something that stays.
    pub(super) fn show(&self, text: &str) {
        // The last column stays free: some terminals wrap as soon as it is taken.
        let text = fit(&clean_line(text), size(io::stderr()).0.saturating_sub(1));
        if self.is_on {
            render::say(&format!("\r\x1b[?7l{text}\x1b[K\x1b[?7h"));
        }
    }
}

impl Drop for LiveLine {
    fn drop(&mut self) {
        self.show("");
    }
}

/// The whole terminal, as long as the value lives; its modes as they were found.
pub(super) struct Screen(Termios);

impl Screen {
    /// Whether there is a terminal, for keys and for lines.
    pub(super) fn is_there() -> bool {
        io::stdin().is_terminal() && io::stdout().is_terminal() && !is_dumb()
    }

    pub(super) fn open() -> Result<Screen> {
        let failed = |e| Error::new(format!("cannot take the terminal: {e}"));
        let found = termios::tcgetattr(io::stdin()).map_err(failed)?;
        let mut modes = found.clone();
        let lines = LocalFlags::ICANON | LocalFlags::ECHO;
        modes.local_flags.remove(lines);
        // A program that has the whole terminal is not stopped in the middle of it.
        modes.control_chars[SpecialCharacterIndices::VSUSP as usize] = 0;
        let screen = Screen(found);
        // Whoever ends us by a signal gets the terminal back, too.
        let modes_found = screen.0.clone();
        let _ = ctrlc::set_handler(move || {
            // Nothing is drawn any more, over what the terminal showed before us.
            let _ours = io::stdout().lock();
            drop(Screen(modes_found.clone()));
            std::process::exit(0);
        });
        let _ = termios::tcsetattr(io::stdin(), SetArg::TCSADRAIN, &modes);
        show(ENTER);
        Ok(screen)
    }

    /// Shows these lines, as many as there is room for.
    pub(super) fn draw(&self, lines: &[String]) {
        let rows = size(io::stdout()).1;
        let lines = lines[..lines.len().min(rows)].join("\x1b[K\r\n");
        show(&format!("\x1b[H{lines}\x1b[K\x1b[J"));
    }

    /// Waits so long for a key; whether the person stays.
    pub(super) fn wait(&self, tick: Duration) -> bool {
        let keyboard = io::stdin();
        let mut source = [PollFd::new(keyboard.as_fd(), PollFlags::POLLIN)];
        let tick = PollTimeout::try_from(tick).unwrap_or(PollTimeout::MAX);
        let mut keys = [0; 32];
        let count = match poll(&mut source, tick) {
            Ok(1..) => nix::unistd::read(&keyboard, &mut keys).unwrap_or(0),
            _ => return true,
        };
        count > 0 && !keys[..count].iter().any(|key| b"qQ".contains(key))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        show(LEAVE);
        let _ = termios::tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.0);
    }
}

/// Shows a frame. A terminal that has gone is no error: a signal ends us then.
fn show(frame: &str) {
    let _ = render::print(frame);
}
