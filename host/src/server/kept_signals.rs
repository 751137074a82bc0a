//! How the host takes the signals that it lives by, kept although an extension may change it: the process has one way for each.

use std::io;

use tokio::signal::unix::SignalKind;

use crate::platform::child::signal_name;
use crate::platform::log::{self, Level};
use crate::platform::process::{self, Disposition};

/// How the host takes signals.
pub struct KeptSignals(Vec<(i32, Disposition)>);

impl KeptSignals {
    /// Keeps how the signals are taken now, when the host has begun to await them. A broken pipe is always to be an error of a
    /// write. The signals of faults are not among them: a runtime that handles its own, such as Go's, passes on what is not.
    ///
    /// # Errors
    /// Where the system does not let a signal be ignored.
    pub fn now() -> io::Result<Self> {
        let pipe = SignalKind::pipe();
        process::ignore(pipe.as_raw_value())?;
        let awaited = [
            SignalKind::terminate(),
            SignalKind::interrupt(),
            SignalKind::hangup(),
            SignalKind::user_defined2(),
            pipe,
        ];
        let awaited = awaited.into_iter().filter_map(|kind| {
            let signal = kind.as_raw_value();
            Some((signal, Disposition::of(signal)?))
        });
        Ok(Self(awaited.collect()))
    }

    /// Sets back what an extension has changed, and says so.
    pub fn restore(&self) {
        for (signal, kept) in &self.0 {
            let Some(now) = Disposition::of(*signal) else {
                continue;
            };
            if now != *kept {
                kept.restore(*signal);
                log::event(
                    Level::Warn,
                    "an extension changed how the process takes a signal, which has been set back; `extension-host check` tells which extension does",
                    &[("signal", &signal_name(*signal)), ("was", &now)],
                );
            }
        }
    }
}
