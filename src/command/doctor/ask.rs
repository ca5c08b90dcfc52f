//! Programs that are asked something: for a short while, and with nothing that they say kept in
//! pipes that could fill.

use crate::error::plain;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;
use wait_timeout::ChildExt;

/// A program that only has to look at its own files answers at once; a cold start on a busy
/// machine takes some seconds.
const LIMIT: Duration = Duration::from_secs(8);
/// No answer that we ask for is longer.
const ANSWER_MAX: usize = 64 << 10;

/// What a program said, and how it ended.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: ExitStatus,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Answer {
    /// What it complained of, in a line: the last that is not empty.
    pub(super) fn complaint(&self) -> String {
        let said = |text: &str| {
            let mut lines = text.lines().map(str::trim);
            lines.rfind(|line| !line.is_empty()).map(str::to_owned)
        };
        let words = said(&self.stderr).or_else(|| said(&self.stdout));
        words.unwrap_or_else(|| "it says nothing".to_owned())
    }
}

/// Asks a program with an environment of its own, or with ours.
pub(super) fn ask(
    program: &Path,
    args: &[&str],
    directory: &Path,
    env: Option<&[(OsString, OsString)]>,
) -> Result<Answer, String> {
    let file = || memfd_create(c"answer", MFdFlags::MFD_CLOEXEC).map(File::from);
    let files = || -> io::Result<[File; 4]> {
        let (out, err) = (file()?, file()?);
        Ok([out.try_clone()?, err.try_clone()?, out, err])
    };
    let [out, err, child_out, child_err] =
        files().map_err(|e| format!("cannot be asked: {}", plain(&e)))?;
    let mut command = Command::new(program);
    command.args(args).current_dir(directory);
    if let Some(env) = env {
        command.env_clear();
        command.envs(env.iter().map(|(name, value)| (name, value)));
    }
    command
        .stdin(Stdio::null())
        .stdout(child_out)
        .stderr(child_err);
    let mut child = command
        .process_group(0)
        .spawn()
        .map_err(|e| format!("cannot be started: {}", plain(&e)))?;
    match child.wait_timeout(LIMIT) {
        Ok(Some(status)) => Ok(Answer {
            status,
            stdout: head(&out),
            stderr: head(&err),
        }),
        ended => {
            let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
            let _ = child.wait();
            Err(match ended {
                Ok(_) => format!("gave no answer within {} s", LIMIT.as_secs()),
                Err(error) => format!("cannot be waited for: {}", plain(&error)),
            })
        }
    }
}

fn head(file: &File) -> String {
    let mut bytes = vec![0; ANSWER_MAX];
    let mut filled = 0;
    while let Ok(length @ 1..) = file.read_at(&mut bytes[filled..], filled as u64) {
        filled += length;
    }
    String::from_utf8_lossy(&bytes[..filled]).into_owned()
}

/// The value of a variable in an environment.
pub(super) fn variable<'a>(env: &'a [(OsString, OsString)], name: &str) -> Option<&'a OsStr> {
    let found = env.iter().find(|(known, _)| known == name);
    found.map(|(_, value)| value.as_os_str())
}

/// Sets a variable in an environment.
pub(super) fn set(env: &mut Vec<(OsString, OsString)>, name: &OsStr, value: &OsStr) {
    match env.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => *old = value.to_owned(),
        None => env.push((name.to_owned(), value.to_owned())),
    }
}
