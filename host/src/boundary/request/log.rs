//! Log lines about a request, under the name of the extension that works on it.

use super::state::Handle;
use crate::http::reply::Failure;
use crate::platform::log::{self, Level};
use crate::runtime::worker;

impl Handle {
    /// Writes what went wrong in the extension. What the caller brought on itself is for `debug`.
    pub fn log_failure(&self, failure: &Failure) {
        let level = match failure.status.as_u16() {
            500 => Level::Error,
            501.. => Level::Warn,
            _ => Level::Debug,
        };
        let Some(local) = self.local() else { return };
        let local = local.borrow();
        let Some(flight) = &local.flight else { return };
        let sentence = if failure.is_panic {
            "the extension panicked"
        } else {
            "the extension failed"
        };
        let (status, id) = (failure.status.as_u16(), self.id());
        let cause = failure.cause.as_deref().unwrap_or(&failure.message);
        let fields: [log::Field<'_>; 4] = [
            ("extension", flight.name()),
            ("request", &id),
            ("status", &status),
            ("cause", &cause),
        ];
        log::event(level, sentence, &fields);
    }

    /// Writes a log line about the request, under its extension's name.
    pub fn log(&self, level: Level, sentence: &str) {
        let Some(local) = self.local() else { return };
        let name = match &local.borrow().flight {
            Some(flight) => Some(flight.name().clone()),
            // The extension has finished it; that it speaks of it all the same is seen from inside of it.
            None => worker::inside(),
        };
        let id = self.id();
        let name = name.as_deref().unwrap_or("unknown");
        log::event(level, sentence, &[("extension", &name), ("request", &id)]);
    }
}
