//! All that is known of extensions while the host runs: what is mounted, what they are made from, and what they leave behind.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use std::{fmt, io, thread};

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
    /// Extensions that were replaced and may still have requests in flight.
    retired: Mutex<Vec<Weak<Extension>>>,
    /// Extensions that are being stopped because the host ends.
    ending: Mutex<Vec<Arc<Ending>>>,
    /// It has been told what did not come to its end: who ends the process in time may be a second one.
    is_left_told: AtomicBool,
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
            ending: Mutex::default(),
            is_left_told: AtomicBool::new(false),
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

    /// Replaced builds of an extension that still have requests in flight, and how many.
    pub fn requests_on_older(&self, folder: &str) -> usize {
        let retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        let older = retired
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|old| old.name() == folder);
        older.map(|old| old.context.in_flight.requests()).sum()
    }

    /// Has all extensions stopped and destroyed, each by a thread of its own, when nothing of it is in flight any more; at `deadline`
    /// one that still has something in flight is left as it is.
    pub fn begin_end(&self, deadline: Instant) {
        let registry = self.registry.swap(Arc::default());
        let mut ending = self.ending();
        for extension in registry.loaded().cloned() {
            let end = Arc::new(Ending {
                extension,
                is_over: AtomicBool::new(false),
            });
            ending.push(end.clone());
            let work = move || {
                end.extension.retire(deadline);
                end.is_over.store(true, Ordering::Release);
            };
            start_thread("stop", work);
        }
    }

    /// Whether all that [`begin_end`](Self::begin_end) began is over.
    pub fn is_ended(&self) -> bool {
        self.ending()
            .iter()
            .all(|end| end.is_over.load(Ordering::Acquire))
    }

    /// Says, once, which of those extensions have not been stopped and destroyed, and forgets them all. Tells whether there is any. Beside
    /// that, says where a worker is still in a build that was replaced.
    pub fn report_left(&self) -> bool {
        let mut ending = std::mem::take(&mut *self.ending());
        ending.retain(|end| !end.is_destroyed());
        let marks = self.workers.marks().into_iter().enumerate();
        let mut inside: Vec<_> = marks
            .map(|(worker, mark)| (worker, mark.build()))
            .filter(|(_, build)| *build != 0)
            .collect();
        let is_any = !ending.is_empty();
        if self.is_left_told.swap(true, Ordering::Relaxed) {
            return is_any;
        }
        for end in &ending {
            let number = end.extension.context.in_flight.number;
            let count = inside.len();
            inside.retain(|(_, build)| *build != number);
            end.extension.report_left(count - inside.len());
        }
        for (worker, build) in inside {
            let name = self.workers.name_of(build);
            let name = name.as_deref().unwrap_or("unknown");
            let sentence = "a worker is still in an extension's code; the server ends all the same";
            log::event(
                Level::Warn,
                sentence,
                &[("extension", &name), ("worker", &worker)],
            );
        }
        is_any
    }

    /// Says which extensions have requests in flight that are not waited for any more.
    pub fn report_requests(&self) {
        for extension in self.registry.load().loaded() {
            let requests = extension.context.in_flight.requests();
            if requests > 0 {
                let fields: [log::Field<'_>; 2] = [
                    ("extension", extension.context.name()),
                    ("requests", &requests),
                ];
                let sentence = "requests did not finish before shutdown_timeout_ms was over; they are cancelled";
                log::event(Level::Warn, sentence, &fields);
            }
        }
    }

    /// Stops and destroys all extensions, when no request is served any more, and removes the copies. An extension that hangs
    /// does not keep the host from ending. Blocks.
    pub fn end(&self) {
        const TIMEOUT: Duration = Duration::from_secs(5);
        let began = Instant::now();
        self.begin_end(began + TIMEOUT);
        while !self.is_ended() && began.elapsed() < 2 * TIMEOUT {
            thread::sleep(Duration::from_millis(2));
        }
        self.report_left();
        self.copies.end();
    }

    fn ending(&self) -> MutexGuard<'_, Vec<Arc<Ending>>> {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An extension that is being stopped because the host ends.
struct Ending {
    extension: Arc<Extension>,
    /// It is stopped and destroyed, or left as it is.
    is_over: AtomicBool,
}

impl Ending {
    fn is_destroyed(&self) -> bool {
        self.is_over.load(Ordering::Acquire) && self.extension.is_stopped()
    }
}

/// Starts a thread that stops extensions: it waits, and their hooks may block.
fn start_thread(name: &str, work: impl FnOnce() + Send + 'static) {
    let started = thread::Builder::new().name(name.to_owned()).spawn(work);
    if let Err(cause) = started {
        log::event(
            Level::Error,
            "cannot start a thread to stop an extension; it is left running and not destroyed",
            &[("cause", &cause)],
        );
    }
}

/// Stops and destroys an extension when the last request on it is over.
fn retire_on_a_thread(extension: Arc<Extension>, timeout: Duration) {
    let work = move || {
        extension.retire(Instant::now() + timeout);
        if !extension.is_stopped() {
            extension.report_left(0);
        }
        extension.remove_copy();
    };
    start_thread("retire", work);
}
