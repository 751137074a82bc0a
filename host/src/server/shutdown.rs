//! The end of a host that serves, in order, and within its time whatever extensions do.
//!
//! Requests in flight are finished, for as long as `shutdown_timeout_ms` says; then they are cancelled. The extensions are stopped and
//! destroyed. What has not come to its end shortly after that is named and left as it is.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use actix_rt::time::{sleep, timeout};
use actix_web::dev::ServerHandle;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::connection::connections;
use super::host::Host;
use super::watch::Watch;
use crate::extension::library;
use crate::platform::log::{self, Level};
use crate::platform::process;
use crate::platform::threads::COMPUTING;

/// How long a connection may take from the listener to its worker.
const ACCEPTED_WITHIN: Duration = Duration::from_millis(100);
/// How long extensions may take after the deadline to do without what was cancelled, and to stop.
const STOPPED_WITHIN: Duration = Duration::from_millis(700);
/// When, after the deadline, the process ends in any case: within a second, with what is left to be written.
const FORCED_AFTER: Duration = Duration::from_millis(850);

/// How a host has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All extensions have been stopped and destroyed.
    InOrder,
    /// Something was left as it was, and has been named.
    Forced,
}

impl Ended {
    /// The process's exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::InOrder => process::DONE,
            Self::Forced => process::FORCED,
        }
    }
}

/// The signals that tell the host to stop.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Awaits them from now on.
    ///
    /// # Errors
    /// Where the system lets nobody await them.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The name of the next one.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Stops the server and the extensions, as the signal `name` has said. Another signal ends the process at once.
pub async fn stop(
    host: &Arc<Host>,
    server: &ServerHandle,
    name: &str,
    signals: &mut Signals,
    watch: Watch,
) -> Ended {
    let deadline = Instant::now() + host.config.shutdown_timeout();
    watch.end_by(deadline + FORCED_AFTER);
    // Until the process has ended.
    std::mem::forget(watch);
    log::event(
        Level::Info,
        "stopping: requests in flight are finished first",
        &[("signal", &name)],
    );
    tokio::select! {
        () = stop_in_order(host, server, deadline) => {}
        name = signals.next() => {
            log::event(Level::Info, "stopping now", &[("signal", &name)]);
            host.shut_down_listeners();
            // Who asks twice does not want to wait for hooks.
            host.catalog.copies.end();
            process::force_end(process::DONE);
        }
    }
    match report_left(host) {
        true => Ended::Forced,
        false => Ended::InOrder,
    }
}

async fn stop_in_order(host: &Arc<Host>, server: &ServerHandle, deadline: Instant) {
    let is_finished = timeout(
        deadline.saturating_duration_since(Instant::now()),
        finish_connections(host, server),
    );
    if is_finished.await.is_err() {
        host.catalog.report_requests();
        host.catalog.workers.on_each(|_| connections().close());
    }
    let deadline = deadline + STOPPED_WITHIN;
    host.catalog.begin_end(deadline);
    // Beside that: no extension uses it, and one may never come back from its hook.
    let closing = host.clone();
    let closed = COMPUTING.run(move || closing.authority.close());
    // Err: the store does not close in time, and its log stays for the next start.
    let _ = timeout(deadline.saturating_duration_since(Instant::now()), closed).await;
    while !host.catalog.is_ended() && Instant::now() < deadline {
        sleep(Duration::from_millis(2)).await;
    }
}

/// Has each worker close its connections as soon as nothing is in flight on them, and end when it has none.
///
/// A worker that is told to end drops the connections that were accepted for it and that it has not begun. Therefore nothing is
/// accepted any more, and the workers take what there is, before they are told.
pub async fn finish_connections(host: &Host, server: &ServerHandle) {
    host.is_stopping.store(true, Ordering::Relaxed);
    let paused = server.pause();
    host.catalog.workers.on_each(|_| connections().stop());
    paused.await;
    // Who comes now is refused at once, where no other server is there to take it.
    host.shut_down_listeners();
    sleep(ACCEPTED_WITHIN).await;
    // Once more, where the supervisor's word that nobody follows came later than its signal.
    host.shut_down_listeners();
    host.catalog.workers.come_round().await;
    server.stop(true).await;
}

/// Ends the process although something does not come to its end, and names that.
pub fn force_end(host: &Host) -> ! {
    host.shut_down_listeners();
    report_left(host);
    log::event(
        Level::Error,
        "the server did not come to its end in time; it ends at once",
        &[],
    );
    process::force_end(process::FORCED)
}

/// Names what has not come to its end. Tells whether there is anything.
fn report_left(host: &Host) -> bool {
    if let Some(library) = library::stuck(Duration::ZERO) {
        log::event(
            Level::Warn,
            "a library is still being loaded; its initialisers do not return",
            &[("library", &library.display())],
        );
    }
    host.catalog.report_left()
}
