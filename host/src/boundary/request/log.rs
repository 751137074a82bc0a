//! Log lines about a request, under the name of the extension that works on it.

use super::state::Handle;
use crate::http::reply::Failure;
use crate::platform::log::{self, Level};
use crate::platform::log_limit;
use crate::runtime::crash_page::page;

impl Handle {
    /// Writes what went wrong. What the caller brought on itself is for `debug`; a 502 or 504 says that an upstream failed, and not
    /// the extension.
    pub fn log_failure(&self, failure: &Failure) {
        let status = failure.status.as_u16();
        let level = match status {
            500 => Level::Error,
            501.. => Level::Warn,
            _ => Level::Debug,
        };
        let sentence = match status {
            _ if failure.is_panic => "the extension panicked",
            502 | 504 => "an upstream of the extension failed",
            _ => "the extension failed",
        };
        let cause = failure.cause.as_deref().unwrap_or(&failure.message);
        self.log_with_route(level, sentence, &[("status", &status), ("cause", &cause)]);
    }

    /// Writes that the host has answered in the extension's place, for it took too long.
    pub fn log_late(&self) {
        let timeout = self.read().and_then(|shared| shared.timeout);
        let timeout_ms = timeout.unwrap_or_default().as_millis();
        let sentence = "the extension did not answer in time";
        self.log_with_route(Level::Warn, sentence, &[("timeout_ms", &timeout_ms)]);
    }

    fn log_with_route(&self, level: Level, sentence: &str, facts: &[log::Field<'_>]) {
        if !log::enabled(level) {
            return;
        }
        let Some(local) = self.local() else { return };
        let local = local.borrow();
        let Some(flight) = &local.flight else { return };
        let route = page().route_of(flight.call()).unwrap_or_default();
        let facts = [&[("route", &route as _)], facts].concat();
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
