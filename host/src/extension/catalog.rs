//! All that is known of extensions while the host runs: what is mounted, what they are made from, and what they leave behind.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use std::{fmt, io};

use arc_swap::ArcSwap;
use extension_api::abi::ext_callbacks;

use super::copies::Copies;
use super::loaded::Extension;
use super::quarantine::Quarantine;
use super::registry::Registry;
use crate::config::Config;
use crate::platform::env::Env;
use crate::platform::log::{self, Level};
use crate::runtime::workers::Workers;

/// See the module's text.
pub struct Catalog {
    /// The settings.
    pub config: Arc<Config>,
    /// The variables that extensions may be given.
    pub env: ArcSwap<Env>,
    /// What is mounted.
    pub registry: ArcSwap<Registry>,
    /// Private copies of libraries.
    pub copies: Copies,
    /// What is left out.
    pub quarantine: Quarantine,
    /// Who calls extensions.
    pub workers: Arc<Workers>,
    /// What extensions may call.
    pub callbacks: &'static ext_callbacks,
    /// Held while the snapshot is being brought in line.
    pub updating: Mutex<()>,
    /// Extensions that were replaced and may still have requests in hand.
    retired: Mutex<Vec<Weak<Extension>>>,
}

/// The folder for private copies cannot be made.
#[derive(Debug)]
pub struct CopiesError(PathBuf, io::Error);

impl fmt::Display for CopiesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cannot make the folder {} for copies of libraries; set TMPDIR",
            self.0.display()
        )
    }
}

impl std::error::Error for CopiesError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.1)
    }
}

impl Catalog {
    /// One that knows no extension yet; `copies` says whether the next host finds its copies of libraries.
    ///
    /// # Errors
    /// Where the folder for private copies of libraries cannot be made.
    pub fn new(
        config: Arc<Config>,
        env: Env,
        callbacks: &'static ext_callbacks,
        copies: impl FnOnce() -> Result<Copies, (PathBuf, io::Error)>,
        quarantine: Quarantine,
    ) -> Result<Arc<Self>, CopiesError> {
        let copies = copies().map_err(|(path, cause)| CopiesError(path, cause))?;
        Ok(Arc::new(Self {
            config,
            env: ArcSwap::from_pointee(env),
            registry: ArcSwap::default(),
            copies,
            quarantine,
            workers: Arc::default(),
            callbacks,
            updating: Mutex::default(),
            retired: Mutex::default(),
        }))
    }

    /// Stops and destroys an extension that is not mounted any more, when the last request on it is over.
    pub fn retire(&self, extension: Arc<Extension>) {
        extension.context.in_flight.retire();
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.retain(|old| old.strong_count() > 0);
        retired.push(Arc::downgrade(&extension));
        drop(retired);
        // What a request may take, and what cancelling its operations takes.
        let timeout = extension.timeout.unwrap_or(Duration::from_secs(3_600))
            + self.config.shutdown_timeout();
        retire_on_a_thread(extension, timeout);
    }

    /// Replaced builds of an extension that still have requests in hand, and how many.
    pub fn requests_on_older(&self, folder: &str) -> usize {
        let retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        let older = retired
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|old| old.name() == folder);
        older.map(|old| old.context.in_flight.requests()).sum()
    }

    /// Stops and destroys all extensions, when no request is served any more, and removes the copies. An extension that hangs
    /// does not keep the host from ending.
    pub fn end(&self) {
        const TIMEOUT: Duration = Duration::from_secs(5);
        let registry = self.registry.swap(Arc::default());
        let (done, wait) = std::sync::mpsc::channel();
        let mut running: Vec<Arc<str>> = Vec::new();
        for extension in registry.loaded().cloned() {
            running.push(extension.context.name().clone());
            let done = done.clone();
            std::thread::spawn(move || {
                extension.retire(Instant::now() + TIMEOUT);
                // Err: nobody waits any more.
                let _ = done.send(extension.context.name().clone());
            });
        }
        let deadline = Instant::now() + 2 * TIMEOUT;
        while !running.is_empty() {
            match wait.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(name) => running.retain(|other| *other != name),
                Err(_) => break,
            }
        }
        for name in running {
            log::event(
                Level::Warn,
                "an extension does not stop; the host ends without it",
                &[("extension", &name)],
            );
        }
        self.copies.end();
    }
}

/// Stops and destroys an extension when the last request on it is over.
fn retire_on_a_thread(extension: Arc<Extension>, timeout: Duration) {
    let work = move || {
        extension.retire(Instant::now() + timeout);
        extension.remove_copy();
    };
    // A thread of its own: it waits, and the hooks may block.
    let started = std::thread::Builder::new()
        .name("retire".to_owned())
        .spawn(work);
    if let Err(cause) = started {
        log::event(
            Level::Error,
            "cannot start a thread to stop an extension; it is kept as it is",
            &[("cause", &cause)],
        );
    }
}
