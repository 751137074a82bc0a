//! `extension-host upgrade`: has the supervisor put the binary that is on the disk now in the place of the server.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{fmt, io, thread};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::standing::{Standing, standing};

/// Why nothing was replaced.
#[derive(Debug)]
pub enum UpgradeError {
    /// Nobody serves these extensions.
    NoSupervisor,
    /// The supervisor takes no signal.
    Signal(io::Error),
    /// The new server did not start.
    Refused,
    /// Nothing came of it in time.
    Timeout,
}

impl fmt::Display for UpgradeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSupervisor => {
                "no supervisor of this user serves this extensions folder; start one with: extension-host serve"
            }
            Self::Signal(_) => "the supervisor cannot be told",
            Self::Refused => "the new server did not start, and the old one serves on; its log says why",
            Self::Timeout => "the new server does not serve yet; the old one serves on until it does",
        })
    }
}

impl std::error::Error for UpgradeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Signal(cause) => Some(cause),
            _ => None,
        }
    }
}

/// Tells the supervisor of `extensions`, and waits until the new server serves, at most for `timeout`.
///
/// # Errors
/// Where there is no supervisor, or no new server.
pub fn run(extensions: &Path, timeout: Duration, json: bool) -> Result<ExitCode, UpgradeError> {
    let before = standing(extensions).ok_or(UpgradeError::NoSupervisor)?;
    let pid = i32::try_from(before.supervisor)
        .ok()
        .and_then(Pid::from_raw);
    let pid = pid.ok_or(UpgradeError::NoSupervisor)?;
    kill_process(pid, Signal::USR2).map_err(|cause| UpgradeError::Signal(cause.into()))?;
    let after = wait(extensions, &before, Instant::now() + timeout)?;
    if json {
        let said = json!({"supervisor": after.supervisor, "replaced": before.server, "server": after.server});
        println!("{said}");
    } else {
        println!(
            "server {} serves in place of server {}",
            after.server, before.server
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn wait(extensions: &Path, before: &Standing, deadline: Instant) -> Result<Standing, UpgradeError> {
    loop {
        let now = standing(extensions).ok_or(UpgradeError::NoSupervisor)?;
        if now.upgrades != before.upgrades {
            return Ok(now);
        }
        if now.failed_upgrades != before.failed_upgrades {
            return Err(UpgradeError::Refused);
        }
        if Instant::now() > deadline {
            return Err(UpgradeError::Timeout);
        }
        thread::sleep(Duration::from_millis(10));
    }
}
