//! One loaded build of an extension, ready to be called.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use extension_api::abi::ext_request;

use super::backend::Backend;
use super::context::Context;
use super::copies::PrivateCopy;
use super::manifest::Manifest;
use super::routes::{RouteData, Routes};
use crate::platform::log::{self, Level};
use crate::runtime::crash_page::{CallMark, ThreadMark};

/// One loaded build of an extension.
pub struct Extension {
    /// What its callbacks see.
    pub context: &'static Context,
    /// Its endpoints, each under its id.
    pub endpoints: Vec<Endpoint>,
    /// What its manifest says.
    pub manifest: Manifest,
    /// Where it was found.
    pub path: PathBuf,
    /// What the library was built with, for people.
    pub sdk: String,
    /// What an operator has to know of it.
    pub warnings: Vec<String>,
    /// Counts the builds of this extension that were loaded, from 1.
    pub generation: u64,
    /// When it was loaded.
    pub loaded_at: SystemTime,
    /// How long a client waits for an answer.
    pub timeout: Option<Duration>,
    /// The most that a request's body may hold.
    pub body_bytes_max: u64,
    /// The most requests at once.
    pub concurrency_max: usize,
    /// The most threads at once in its blocking routes.
    pub blocking_threads: usize,
    /// The private copy that was loaded.
    pub(super) copy: PrivateCopy,
    pub(super) content_sha256: OnceLock<String>,
    pub(super) backend: Arc<dyn Backend>,
    pub(super) is_stopped: AtomicBool,
}

/// A mounted id and what serves it.
pub struct Endpoint {
    /// The id.
    pub id: String,
    /// Its routes.
    pub routes: Routes,
}

impl Extension {
    /// The folder's name.
    pub fn name(&self) -> &str {
        self.context.name()
    }

    /// The SHA-256 of the library, in hexadecimal digits; empty where its copy cannot be read any more. Computed when first
    /// asked for: not at the start, where nobody waits for it. That takes long for a large library: not for a worker.
    pub fn content_sha256(&self) -> &str {
        self.content_sha256
            .get_or_init(|| sha256(self.copy.path()).unwrap_or_default())
    }

    /// Whether the hash is there already.
    pub fn has_content_sha256(&self) -> bool {
        self.content_sha256.get().is_some()
    }

    /// Lets the extension handle a request. On the request's worker, or on a thread that may block where the route says so.
    #[inline]
    pub fn handle(&self, route: RouteData, request: ext_request) {
        self.backend.handle(route, request);
    }

    /// Waits until nothing is in flight, at most until `deadline`, then stops and destroys the instance. Where something
    /// remains, the instance is left running: what is still used cannot be freed. Blocks: not for a worker.
    pub fn retire(&self, deadline: Instant) {
        self.context.in_flight.retire();
        self.wait_until(deadline, || self.context.in_flight.requests() == 0);
        self.context.cancel_operations();
        if self.wait_until(deadline, || self.context.in_flight.flights() == 0) {
            self.destroy();
        }
    }

    /// Tells that it was not destroyed in time; `workers` are in its code.
    pub fn report_left(&self, workers: usize) {
        let in_flight = &self.context.in_flight;
        let fields: [log::Field<'_>; 4] = [
            ("extension", self.context.name()),
            ("requests", &in_flight.requests()),
            ("in_flight", &in_flight.flights()),
            ("workers", &workers),
        ];
        let sentence = "an extension did not stop in time; it was left running and not destroyed";
        log::event(Level::Warn, sentence, &fields);
    }

    /// Removes the private copy: while a developer reloads, there are many.
    pub fn remove_copy(&self) {
        self.copy.remove();
    }

    /// Whether it has been stopped and destroyed.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire)
    }

    fn wait_until(&self, deadline: Instant, is_so: impl Fn() -> bool) -> bool {
        while !is_so() {
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(Duration::from_millis(2));
        }
        true
    }

    /// Stops and destroys the instance, once.
    pub(super) fn destroy(&self) {
        if self.is_stopped.swap(true, Ordering::AcqRel) {
            return;
        }
        let number = self.context.in_flight.number;
        let thread = ThreadMark::of_this_thread();
        thread.within(number, CallMark::default(), || self.backend.stop());
    }
}

fn sha256(file: &Path) -> io::Result<String> {
    const PIECE_BYTES: usize = 64 << 10;
    let mut file = File::open(file)?;
    let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match file.read(&mut piece)? {
            0 => break,
            count => digest.update(&piece[..count]),
        }
    }
    let digest = digest.finish();
    Ok(digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}
