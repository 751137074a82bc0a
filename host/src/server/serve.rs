//! Starts the workers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use actix_web::dev::{Server, ServerHandle};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinError;

use super::host::Host;
use super::kept_signals::KeptSignals;
use super::serve_error::ServeError;
use super::service::Factory;
use super::shutdown::{self, Ended, Signals};
use super::watch::{Descriptor, Watch};
use crate::extension::reload_thread::ReloadError;
use crate::extension::watcher::Watcher;
use crate::platform::handover::{Link, Notice};
use crate::platform::listen::Listeners;
use crate::platform::log::{self, Level};
use crate::platform::thread_locals::touch_thread_locals;

/// Serves what comes to the listeners until a signal says to stop; `listening` is told the addresses once requests are taken. Then the
/// extensions are stopped, too. The workers may be left running: what follows is the end of the process.
///
/// # Errors
/// Where a listener cannot be used or the event loop fails.
pub async fn run(
    host: Arc<Host>,
    listeners: Listeners,
    listening: impl FnOnce(&[SocketAddr]),
) -> Result<Ended, ServeError> {
    run_until(host, listeners, listening, std::future::pending()).await
}

/// Serves until a signal, or `stop`, says to stop. After `stop` the workers have ended, and the extensions are left to the caller.
///
/// # Errors
/// As [`run`].
pub async fn run_until(
    host: Arc<Host>,
    listeners: Listeners,
    listening: impl FnOnce(&[SocketAddr]),
    stop: impl Future<Output = ()> + 'static,
) -> Result<Ended, ServeError> {
    touch_thread_locals();
    let config = &host.config;
    let mut server = Server::build()
        .workers(config.worker_count())
        .max_concurrent_connections(config.limits.connections_max)
        // Whole seconds are what it takes: `shutdown` cuts off by itself, to the millisecond.
        .shutdown_timeout(config.limits.shutdown_timeout_ms.div_ceil(1_000).max(1))
        .disable_signals();
    let (mut addresses, mut descriptors) = (Vec::new(), Vec::new());
    // Err: a run before this one has left its own.
    let _ = host
        .listeners
        .set(listeners.try_clone().map_err(ServeError::Run)?);
    for listener in listeners.sockets {
        addresses.extend(listener.local_addr());
        descriptors.extend(Descriptor::of(&listener));
        let factory = Factory { host: host.clone() };
        server = server
            .listen("http", listener, move || factory.clone())
            .map_err(ServeError::Run)?;
    }
    let running = server.run();
    let server = running.handle();
    let mut running = actix_rt::spawn(running);
    // Awaited before anybody is told that the host listens: one that comes at once must not end it the hard way.
    let mut signals = Signals::new().map_err(ServeError::Run)?;
    host.reloads
        .start(&host.catalog, addresses.clone())
        .map_err(ServeError::Run)?;
    actix_rt::spawn(pass_over_upgrades(
        host.clone(),
        signal(SignalKind::user_defined2()),
    ));
    actix_rt::spawn(refresh_on_signal(
        host.clone(),
        signal(SignalKind::hangup()),
    ));
    let watcher = config
        .auto_reload
        .then(|| Watcher::start(host.catalog.clone()))
        .transpose()
        .map_err(ServeError::Run)?;
    let signals_kept = KeptSignals::now().map_err(ServeError::Run)?;
    let watch = Watch::start(host.clone(), server.clone(), descriptors, signals_kept)
        .map_err(ServeError::Run)?;
    host.catalog.workers.keep_alive(true);
    if host.has_more_to_load() {
        let host = host.clone();
        // Err: it has been logged, and the next SIGHUP tries again.
        actix_rt::spawn(async move { drop(host.reloads.refresh(None).await) });
    }
    listening(&addresses);
    if let Some(link) = &host.link {
        actix_rt::spawn(accept_again(link.clone(), server.clone()));
        link.tell(&Notice::Ready);
    }
    let end = tokio::select! {
        ended = &mut running => End::OfItself(ended),
        name = signals.next() => End::Signal(name),
        () = stop => End::Ordered,
    };
    watch.stop();
    if let Some(link) = &host.link {
        link.tell(&Notice::Stopping);
    }
    host.catalog.workers.keep_alive(false);
    host.reloads.end();
    drop(watcher);
    let ended = match end {
        End::Signal(name) => {
            return Ok(shutdown::stop(&host, &server, name, &mut signals, watch).await);
        }
        End::Ordered => {
            shutdown::finish_connections(&host, &server).await;
            running.await
        }
        End::OfItself(ended) => ended,
    };
    ended
        .unwrap_or_else(|cause| Err(io::Error::other(cause)))
        .map(|()| Ended::InOrder)
        .map_err(ServeError::Run)
}

/// Why a server ends.
enum End {
    /// It has failed, or something else has told it to.
    OfItself(Result<io::Result<()>, JoinError>),
    /// A signal of this name came.
    Signal(&'static str),
    /// The caller said so.
    Ordered,
}

/// Accepts connections again where the supervisor says so: see [`Notice::Stuck`].
async fn accept_again(link: Arc<Link>, server: ServerHandle) {
    loop {
        link.accept_again().await;
        server.resume().await;
    }
}

/// SIGUSR2, which means an upgrade: only a supervisor can do that.
async fn pass_over_upgrades(host: Arc<Host>, upgrade: io::Result<Signal>) {
    let Ok(mut upgrade) = upgrade else {
        return;
    };
    while upgrade.recv().await.is_some() {
        // With a supervisor, everything that has the program's name was told.
        if host.link.is_none() {
            let sentence = "SIGUSR2 asks for an upgrade, and there is no supervisor that could do it (supervise = false); restart the host instead";
            log::event(Level::Warn, sentence, &[]);
        }
    }
}

/// SIGHUP: look at the extensions folder and the environment now, and try again what was refused for a cause that may have passed.
async fn refresh_on_signal(host: Arc<Host>, hangup: io::Result<Signal>) {
    let Ok(mut hangup) = hangup else {
        return;
    };
    while hangup.recv().await.is_some() {
        match host.reloads.refresh(None).await {
            Ok(false) => log::info(
                "nothing has changed in the extensions folder or the variables",
                &[],
            ),
            // What has changed, and the second, have been logged.
            Ok(true) | Err(ReloadError::Failed) => {}
            Err(waiting) => log::event(Level::Error, &waiting.to_string(), &[]),
        }
        if let Some(link) = &host.link {
            link.tell(&Notice::Reloaded);
        }
    }
}
