//! Starts the workers, and stops them in order.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use actix_web::dev::{Server, ServerHandle};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::blocked_watch::BlockedWatch;
use super::connection::connections;
use super::host::Host;
use super::serve_error::ServeError;
use super::service::Factory;
use crate::extension::loader::{self, Scope};
use crate::extension::watcher::Watcher;
use crate::platform::handover::Notice;
use crate::platform::log::{self, Level};

/// Serves what comes to the listeners until a signal says to stop; `listening` is told the addresses once requests are taken.
///
/// # Errors
/// Where a listener cannot be used or the event loop fails.
pub async fn run(
    host: Arc<Host>,
    listeners: Vec<TcpListener>,
    listening: impl FnOnce(&[SocketAddr]),
) -> Result<(), ServeError> {
    run_until(host, listeners, listening, std::future::pending()).await
}

/// Serves until a signal, or `stop`, says to stop.
///
/// # Errors
/// As [`run`].
pub async fn run_until(
    host: Arc<Host>,
    listeners: Vec<TcpListener>,
    listening: impl FnOnce(&[SocketAddr]),
    stop: impl Future<Output = ()> + 'static,
) -> Result<(), ServeError> {
    let config = &host.config;
    let limits = &config.limits;
    let mut server = Server::build()
        .workers(config.worker_count())
        .worker_max_blocking_threads(
            limits
                .blocking_threads
                .div_ceil(config.worker_count())
                .max(1),
        )
        .max_concurrent_connections(limits.connections_max)
        .shutdown_timeout(config.shutdown_timeout().as_secs().max(1))
        .disable_signals();
    let mut addresses = Vec::new();
    for listener in listeners {
        addresses.extend(listener.local_addr());
        let factory = Factory { host: host.clone() };
        server = server
            .listen("http", listener, move || factory.clone())
            .map_err(ServeError::Run)?;
    }
    let running = server.run();
    // Awaited before anybody is told that the host listens: one that comes at once must not end it the hard way.
    let signals = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    );
    actix_rt::spawn(stop_on_signal(host.clone(), running.handle(), signals));
    let (server, stopped) = (running.handle(), host.clone());
    actix_rt::spawn(async move {
        stop.await;
        finish_connections(&stopped);
        server.stop(true).await;
    });
    actix_rt::spawn(refresh_on_signal(
        host.clone(),
        signal(SignalKind::hangup()),
    ));
    let watcher = config
        .auto_reload
        .then(|| Watcher::start(host.catalog.clone()))
        .transpose()
        .map_err(ServeError::Run)?;
    let watch = BlockedWatch::start(host.catalog.workers.clone());
    listening(&addresses);
    if let Some(link) = &host.link {
        link.tell(&Notice::Ready);
    }
    let ended = running.await;
    drop((watch, watcher));
    ended.map_err(ServeError::Run)
}

/// Has each worker close its connections as soon as nothing is in flight on them.
fn finish_connections(host: &Host) {
    host.is_stopping.store(true, Ordering::Relaxed);
    host.catalog.workers.on_each(|_| connections().stop());
}

/// The first signal lets requests finish, the second does not.
async fn stop_on_signal(
    host: Arc<Host>,
    server: ServerHandle,
    signals: (io::Result<Signal>, io::Result<Signal>),
) {
    let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
        log::event(
            Level::Error,
            "signals cannot be awaited; end the host by SIGKILL",
            &[],
        );
        return;
    };
    let mut next = async || {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    let name = next().await;
    log::event(
        Level::Info,
        "stopping: requests in flight are finished first",
        &[("signal", &name)],
    );
    finish_connections(&host);
    let graceful = server.stop(true);
    tokio::select! {
        () = graceful => {}
        name = next() => {
            log::event(Level::Info, "stopping now", &[("signal", &name)]);
            // actix does not turn a graceful stop into a hard one, and who asks twice does not want to wait for hooks.
            host.catalog.copies.end();
            std::process::exit(0);
        }
    }
}

/// SIGHUP: look at the extensions folder and the environment now, and try again what was refused for a cause that may have passed.
async fn refresh_on_signal(host: Arc<Host>, hangup: io::Result<Signal>) {
    let Ok(mut hangup) = hangup else {
        return;
    };
    while hangup.recv().await.is_some() {
        let (host, link) = (host.clone(), host.link.clone());
        // Both errors have been logged, or end the host by other ways.
        let _ =
            tokio::task::spawn_blocking(move || loader::refresh(&host.catalog, &Scope::Refused))
                .await;
        if let Some(link) = &link {
            link.tell(&Notice::Reloaded);
        }
    }
}
