//! One thread that brings the extensions in line with their folder, for signals and for administrators. One, and none of a pool: the
//! initialisers of a library may never return, and then it is this thread alone that waits.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::catalog::Catalog;
use super::library;
use super::loader::{self, Scope};
use crate::platform::process::EndsWithThread;
use crate::platform::thread_locals::touch_thread_locals;
use crate::upstream::connect::knock;

/// See the module's text. Not started yet by its `default`.
#[derive(Default)]
pub struct ReloadThread {
    running: Mutex<Option<Running>>,
}

#[derive(Clone)]
struct Running {
    orders: Sender<Order>,
    /// How long the initialisers of a library may take before nobody waits for them any more.
    timeout: Duration,
}

struct Order {
    /// The extension that is loaded anew in any case.
    id: Option<String>,
    /// Whether anything has changed.
    done: oneshot::Sender<io::Result<bool>>,
}

/// Why a reload did not take place.
#[derive(Debug)]
pub enum ReloadError {
    /// The extensions folder cannot be read, which has been logged.
    Failed,
    /// The initialisers of this library do not return. The reload takes place when they do.
    Waits(PathBuf),
    /// The host is stopping.
    Stopping,
}

impl fmt::Display for ReloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed => f.write_str("the extensions folder cannot be read"),
            Self::Waits(library) => write!(
                f,
                "nothing is reloaded: the initialisers of {} do not return, and the system's loader loads nothing else until they do; remove that extension and start the host again",
                library.display()
            ),
            Self::Stopping => f.write_str("nothing is reloaded: the host is stopping"),
        }
    }
}

impl std::error::Error for ReloadError {}

impl ReloadThread {
    /// Starts it.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn start(&self, catalog: &Arc<Catalog>, listening: Vec<SocketAddr>) -> io::Result<()> {
        let (orders, next) = mpsc::channel();
        let timeout = Duration::from_millis(catalog.config.limits.create_timeout_ms.max(1));
        let catalog = catalog.clone();
        thread::Builder::new()
            .name("reload".to_owned())
            .spawn(move || follow(&next, &catalog, &listening))?;
        *self.running() = Some(Running { orders, timeout });
        Ok(())
    }

    /// Ends it when it has done what it does.
    pub fn end(&self) {
        *self.running() = None;
    }

    /// Brings the extensions in line, the one with this id in any case. Waits until that is done, or until a library's initialisers
    /// have not returned for as long as an extension may take to get ready. Tells whether anything has changed.
    ///
    /// # Errors
    /// See [`ReloadError`].
    pub async fn refresh(&self, id: Option<String>) -> Result<bool, ReloadError> {
        const LOOK_EVERY: Duration = Duration::from_millis(50);
        let running = self.running().clone();
        let Running { orders, timeout } = running.ok_or(ReloadError::Stopping)?;
        let is_stuck = || library::stuck(timeout).map_or(Ok(()), |at| Err(ReloadError::Waits(at)));
        // Before the order: those of impatient people would pile up.
        is_stuck()?;
        let (done, mut wait) = oneshot::channel();
        let order = Order { id, done };
        orders.send(order).map_err(|_| ReloadError::Stopping)?;
        loop {
            match tokio::time::timeout(LOOK_EVERY, &mut wait).await {
                Ok(Ok(Ok(has_changed))) => return Ok(has_changed),
                Ok(Ok(Err(_))) => return Err(ReloadError::Failed),
                Ok(Err(_)) => return Err(ReloadError::Stopping),
                Err(_) => is_stuck()?,
            }
        }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn follow(orders: &Receiver<Order>, catalog: &Arc<Catalog>, listening: &[SocketAddr]) {
    let _ends = EndsWithThread;
    touch_thread_locals();
    wait_for_server(catalog, listening);
    for Order { id, done } in orders {
        let scope = id.as_deref().map_or(Scope::Refused, Scope::Id);
        let refreshed = loader::refresh(catalog, &scope).map(|changes| !changes.is_empty());
        // Err: nobody waits any more.
        let _ = done.send(refreshed);
    }
}

/// Waits until all threads of the server have touched what they need: before that, a library whose initialisers never return would stop
/// them. The thread that accepts is actix's, and a connection has it do so.
fn wait_for_server(catalog: &Catalog, listening: &[SocketAddr]) {
    /// It serves already, but for what has gone wrong and is told elsewhere.
    const TIMEOUT: Duration = Duration::from_secs(5);
    let began = Instant::now();
    while catalog.workers.count() < catalog.config.worker_count() && began.elapsed() < TIMEOUT {
        thread::sleep(Duration::from_millis(2));
    }
    for address in listening {
        // Err: it cannot be reached from here.
        let _ = knock(*address, TIMEOUT);
    }
}
