//! `extension-host upgrade`: has the supervisor put the binary that is on the disk now in the place of the server.

use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{fmt, io, thread};

use rustix::process::{Signal, kill_process};
use serde_json::json;

use super::standing::{Standing, standing};
use super::supervise::ready_within;
use crate::config::Config;

/// Why nothing was replaced.
#[derive(Debug)]
pub enum UpgradeError {
    /// Nobody serves with these settings.
    NoSupervisor(String),
    /// The supervisor takes no signal.
    Signal(io::Error),
    /// The new server did not start.
    Refused,
    /// Nothing came of it in time.
    Timeout,
}

impl UpgradeError {
    fn no_supervisor(config: &Config) -> Self {
        let (extensions, file) = (config.extensions_path.display(), config.file.display());
        Self::NoSupervisor(format!("{extensions} with the settings of {file}"))
    }
}

impl fmt::Display for UpgradeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSupervisor(what) => write!(
                f,
                "no supervisor of this user serves {what}; say --config and --extensions-path as for its `serve`, and run this as its user; a host with supervise = false has none and is restarted instead"
            ),
            Self::Signal(_) => f.write_str("the supervisor cannot be told"),
            Self::Refused => f.write_str(
                "the new server did not start, and the old one serves on; its log says why",
            ),
            Self::Timeout => f.write_str(
                "no new server serves yet, and where an old one serves it goes on; the host's log says why",
            ),
        }
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

/// Tells the supervisor for these settings, and waits until the new server serves, or is given up.
///
/// # Errors
/// Where there is no supervisor, or no new server.
pub fn run(config: &Config, json: bool) -> Result<ExitCode, UpgradeError> {
    /// For the supervisor to notice.
    const MARGIN: Duration = Duration::from_secs(5);
    let none = || UpgradeError::no_supervisor(config);
    let (supervisor, before) = standing(config).ok_or_else(none)?;
    kill_process(supervisor, Signal::USR2).map_err(|cause| UpgradeError::Signal(cause.into()))?;
    let after = wait(
        config,
        &before,
        Instant::now() + ready_within(config) + MARGIN,
    )?;
    let supervisor = supervisor.as_raw_nonzero();
    if json {
        let said =
            json!({"supervisor": supervisor, "replaced": before.server, "server": after.server});
        println!("{said}");
    } else {
        println!(
            "server {} serves in place of server {}, which has {} ms to finish what it has begun",
            after.server, before.server, config.limits.shutdown_timeout_ms
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn wait(config: &Config, before: &Standing, deadline: Instant) -> Result<Standing, UpgradeError> {
    loop {
        let (_, now) = standing(config).ok_or_else(|| UpgradeError::no_supervisor(config))?;
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
