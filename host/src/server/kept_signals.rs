//! How the host takes the signals that it lives by, kept although an extension may change it: the process has one way for each.

use std::io;

use tokio::signal::unix::SignalKind;

use crate::platform::log::{self, Level};
use crate::platform::process::{self, Disposition};

/// How the host takes signals.
pub struct KeptSignals(Vec<(&'static str, i32, Disposition)>);

impl KeptSignals {
    /// Keeps how the signals are taken now, when the host has begun to await them. A broken pipe is always to be an error of a
    /// write.
    ///
    /// # Errors
    /// Where the system does not let a signal be ignored.
    pub fn now() -> io::Result<Self> {
        process::ignore(SignalKind::pipe().as_raw_value())?;
        let signals = [
            ("SIGTERM", SignalKind::terminate()),
            ("SIGINT", SignalKind::interrupt()),
            ("SIGHUP", SignalKind::hangup()),
            ("SIGPIPE", SignalKind::pipe()),
        ];
        let kept = signals.into_iter().filter_map(|(name, kind)| {
            let signal = kind.as_raw_value();
            Some((name, signal, Disposition::of(signal)?))
        });
        Ok(Self(kept.collect()))
    }

    /// Sets back what an extension has changed, and says so.
    pub fn restore(&self) {
        for (name, signal, kept) in &self.0 {
            let Some(now) = Disposition::of(*signal) else {
                continue;
            };
            if now != *kept {
                kept.restore(*signal);
                log::event(
                    Level::Warn,
                    "an extension changed how the process takes a signal, which has been set back; `extension-host check` tells which extension does",
                    &[("signal", name), ("was", &now)],
                );
            }
        }
    }
}
