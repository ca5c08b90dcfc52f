//! The service manager's side: readiness and status by the notify protocol, and how log lines
//! look to whoever reads standard error.

use crate::error::one_line;
use crate::settings;
use crate::time::Wall;
use log::{Level, LevelFilter};
use std::io::Write;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;

/// The command that starts the monitor here: the service, where a user manager answers to this shell.
pub fn start_command() -> &'static str {
    let runtime = settings::variable("XDG_RUNTIME_DIR").map(PathBuf::from);
    match runtime.is_some_and(|dir| dir.join("systemd/private").exists()) {
        true => "systemctl --user start job-monitor",
        false => "job-monitor daemon",
    }
}

/// Every project is watched.
pub const READY: &str = "READY=1";
/// Agents are being ended.
pub const STOPPING: &str = "STOPPING=1";

/// A line for `systemctl --user status`.
pub fn status(text: &str) {
    tell(&format!("STATUS={}", text.replace('\n', " ")));
}

/// Tells the service manager. Without one there is nobody to tell. One that does not listen just now is waited for
/// with `READY` only, for which it waits itself.
pub fn tell(message: &str) {
    let Some(socket) = settings::variable("NOTIFY_SOCKET") else {
        return;
    };
    let address = match socket.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&socket),
    };
    if let (Ok(address), Ok(sender)) = (address, UnixDatagram::unbound()) {
        let _ = sender.set_nonblocking(message != READY);
        let _ = sender.send_to_addr(message.as_bytes(), &address);
    }
}

/// Sends log lines to standard error: with the journal's priority prefixes where it reads them,
/// else with time and level. A standard error that is closed, or on a full disk, loses lines and nothing more.
pub fn init_logging() {
    let journal = is_journal();
    let mut builder = env_logger::Builder::new();
    builder.filter_level(LevelFilter::Info);
    // It also tells of what is no trouble: watches that went with their directory.
    builder.filter_module("notify", LevelFilter::Warn);
    builder.format(move |out, record| {
        let text = one_line(&record.args().to_string());
        if journal {
            let priority = match record.level() {
                Level::Error => 3,
                Level::Warn => 4,
                _ => 6,
            };
            writeln!(out, "<{priority}>{text}")
        } else {
            writeln!(out, "{} {:<5} {text}", Wall::now(), record.level())
        }
    });
    builder.init();
}

/// Whether standard error is the very stream that the journal gave us.
fn is_journal() -> bool {
    let stderr = nix::sys::stat::fstat(std::io::stderr()).ok();
    let stderr = stderr.map(|stat| format!("{}:{}", stat.st_dev, stat.st_ino));
    stderr.is_some() && stderr == settings::variable("JOURNAL_STREAM")
}
