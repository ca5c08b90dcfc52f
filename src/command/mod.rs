//! faces
use crate::cli::{self, Command};
use std::process::ExitCode;
/// main
pub fn main() -> ExitCode {
    let r = cli::parse(std::env::args_os().skip(1)).and_then(|i| match i.command {
        Command::Daemon => crate::daemon::run(crate::settings::Places::find()?),
        _ => Ok(()),
    });
    match r {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("job-monitor: {e}");
            ExitCode::from(e.exit as u8)
        }
    }
}
