//! Log lines about a request, under the name of the extension that works on it.

use super::state::Handle;
use crate::http::reply::Failure;
use crate::platform::log::{self, Level};
use crate::platform::log_limit;

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
        let status = failure.status.as_u16();
        let cause = failure.cause.as_deref().unwrap_or(&failure.message);
        let facts: [log::Field<'_>; 2] = [("status", &status), ("cause", &cause)];
        self.log_with(level, flight.name(), sentence, &facts);
    }

    /// Writes a log line about the request, under its extension's name.
    pub fn log(&self, level: Level, sentence: &str) {
        let build = self.read().and_then(|shared| shared.build);
        if let Some(build) = build {
            self.log_with(level, &build.name, sentence, &[]);
        }
    }

    /// Writes who asked, too: whom the operator has to talk to, or to keep out.
    fn log_with(&self, level: Level, extension: &str, sentence: &str, facts: &[log::Field<'_>]) {
        if !log::enabled(level) {
            return;
        }
        let id = self.id();
        let shared = self.read();
        let ip = shared.as_ref().map(|shared| shared.client_ip());
        let who = shared.as_ref().map(|shared| shared.accountability());
        let user = who.and_then(|who| who.user.as_deref());
        let mut fields: Vec<log::Field<'_>> = vec![("extension", &extension), ("request", &id)];
        fields.extend_from_slice(facts);
        if let Some(ip) = &ip {
            fields.push(("ip", ip));
        }
        if let Some(user) = &user {
            fields.push(("user", user));
        }
        log_limit::event((extension, sentence), level, sentence, &fields);
    }
}
