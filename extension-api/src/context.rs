//! [`Context`]: what the host does for an extension, beside a request.

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::future::{Future, poll_fn};
use std::time::Duration;

use crate::abi::*;
use crate::bridge::{Host, current_request};
use crate::error::{Error, Result};
use crate::fetch::{Base, Fetch};

/// What the host does for an extension: its variables, its log, outgoing calls, time.
///
/// An endpoint keeps it, or what it made of it. It may be cloned, and used from any thread.
#[derive(Clone)]
pub struct Context {
    host: &'static Host,
}

/// How important a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Level {
    /// Something failed, and somebody should look.
    Error = EXT_LOG_ERROR,
    /// Something is not as it should be, and goes on.
    Warn = EXT_LOG_WARN,
    /// Something worth knowing happened.
    Info = EXT_LOG_INFO,
    /// For somebody who looks for a mistake.
    Debug = EXT_LOG_DEBUG,
    /// For somebody who looks for a mistake, in every detail.
    Trace = EXT_LOG_TRACE,
}

impl Context {
    pub(crate) fn new(host: &'static Host) -> Self {
        Self { host }
    }

    // ---- Variables ----

    /// A variable that must be set. An empty one counts as not set: that is how .env files say it.
    ///
    /// # Errors
    ///
    /// Where it is not set, or not declared under `[env]` in extension.toml.
    pub fn env(&self, name: &str) -> Result<&str> {
        self.env_opt(name)?
            .ok_or_else(|| Error::internal(format_args!("environment variable {name} is not set")))
    }

    /// A variable that may be set, and is not empty.
    ///
    /// # Errors
    ///
    /// Where it is not declared under `[env]` in extension.toml.
    pub fn env_opt(&self, name: &str) -> Result<Option<&str>> {
        match self.host.env(name) {
            Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
            Err(EXT_ABSENT) => Ok(None),
            Err(EXT_UNDECLARED) => Err(Error::internal(format_args!(
                "environment variable {name} is not declared; add it to [env] required or optional in extension.toml"
            ))),
            Err(EXT_GONE) => Err(stopped()),
            Err(EXT_INVALID) => Err(Error::internal(format_args!(
                "environment variable {name} is not UTF-8"
            ))),
            Err(other) => Err(Error::internal(format_args!(
                "cannot read environment variable {name}: the host says {other}"
            ))),
        }
    }

    /// A variable, or `default` where it is not set.
    ///
    /// # Errors
    ///
    /// Where it is not declared under `[env]` in extension.toml.
    pub fn env_or<'a>(&'a self, name: &str, default: &'a str) -> Result<&'a str> {
        Ok(self.env_opt(name)?.unwrap_or(default))
    }

    // ---- The log ----

    /// Writes a line under the extension's name, with the id of the request whose handler runs. A sentence, then facts;
    /// never a secret, never a body. Nothing is formatted where the level is not written.
    ///
    /// ```
    /// # use extension_api::{Context, Level};
    /// # fn example(ctx: &Context, sid: &str, parts: usize) {
    /// ctx.log(Level::Info, "message sent", &[("sid", &sid), ("parts", &parts)]);
    /// # }
    /// ```
    pub fn log(&self, level: Level, sentence: impl Display, fields: &[(&str, &dyn Display)]) {
        if self.host.log_enabled(level as u32) {
            let fields: Vec<_> = fields
                .iter()
                .map(|(name, value)| (*name, value.to_string()))
                .collect();
            self.host.log(
                current_request(),
                level as u32,
                &sentence.to_string(),
                &fields,
            );
        }
    }

    /// Writes a line at [`Level::Error`].
    pub fn error(&self, sentence: impl Display) {
        self.log(Level::Error, sentence, &[]);
    }

    /// Writes a line at [`Level::Warn`].
    pub fn warn(&self, sentence: impl Display) {
        self.log(Level::Warn, sentence, &[]);
    }

    /// Writes a line at [`Level::Info`].
    pub fn info(&self, sentence: impl Display) {
        self.log(Level::Info, sentence, &[]);
    }

    /// Writes a line at [`Level::Debug`].
    pub fn debug(&self, sentence: impl Display) {
        self.log(Level::Debug, sentence, &[]);
    }

    /// Writes a line at [`Level::Trace`].
    pub fn trace(&self, sentence: impl Display) {
        self.log(Level::Trace, sentence, &[]);
    }

    // ---- Outgoing calls, and time ----

    /// Parses a base URL, and checks it against the manifest: once, in `new`. Scheme `http` or `https`, host, port, path.
    ///
    /// # Errors
    ///
    /// Where it is not such a URL, or not allowed under `[fetch]` in extension.toml.
    pub fn base(&self, url: &str) -> Result<Base> {
        match self.host.base(url) {
            Ok(number) => Ok(Base::new(self.host, number)),
            Err(EXT_INVALID) => Err(Error::internal(format_args!(
                "base URL {url:?} is not valid: http or https, host, port and path alone"
            ))),
            Err(EXT_DENIED) => Err(Error::internal(format_args!(
                "base URL {url:?} is not allowed; add its origin to [fetch] allow in extension.toml"
            ))),
            Err(EXT_GONE) => Err(stopped()),
            Err(other) => Err(Error::internal(format_args!(
                "cannot take base URL {url:?}: the host says {other}"
            ))),
        }
    }

    /// Prepares a call to `base`, with `target` appended as it is: `"/a?b=1"`, `"?b=1"` or `""`. Whatever the target holds,
    /// scheme, host and port stay the base's. The call ends with the request whose handler runs.
    pub fn fetch<'a>(&self, base: &Base, target: impl Into<Cow<'a, str>>) -> Fetch<'a> {
        Fetch::new(base, target.into())
    }

    /// Waits.
    ///
    /// # Errors
    ///
    /// Where the request ended meanwhile, or the extension is being stopped.
    pub fn sleep(&self, time: Duration) -> impl Future<Output = Result<()>> + Send + use<> {
        let host = self.host;
        async move {
            let mut op = host.op();
            let ms = u64::try_from(time.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
            match host.sleep(ms, &mut op) {
                EXT_OK => {}
                _ => return Err(stopped()),
            }
            match poll_fn(|cx| op.poll(cx)).await.status {
                EXT_OK => Ok(()),
                _ => Err(stopped()),
            }
        }
    }
}

fn stopped() -> Error {
    Error::internal("the request has ended, or the extension is being stopped")
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Context")
    }
}
