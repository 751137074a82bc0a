//! Binds, starts the workers, and stops them in order.

pub mod admin;
pub mod connection;
pub mod dispatch;
pub mod sign_in;

use std::future::ready;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};
use std::{fmt, io};

use actix_http::error::DispatchError;
use actix_http::{HttpService, KeepAlive, Request, Response};
use actix_rt::net::TcpStream;
use actix_service::{Service, ServiceFactory, fn_factory};
use actix_web::dev::{Server, ServerHandle};
use arc_swap::ArcSwap;
use futures_core::future::LocalBoxFuture;
use tokio::net::TcpSocket;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::Config;
use crate::extension::Extension;
use crate::extension::copies::Copies;
use crate::extension::loader::{self, Scope};
use crate::extension::registry::Registry;
use crate::extension::watcher::Watcher;
use crate::http::reply::Body;
use crate::identity::Authority;
use crate::platform::env::Env;
use crate::platform::log::{self, Level};
use crate::runtime::worker::{Beat, Remote, Worker};

/// The server: what all workers share.
pub struct Host {
    /// The settings.
    pub config: Config,
    /// The variables that extensions may be given.
    pub env: ArcSwap<Env>,
    /// Who asks.
    pub authority: Authority,
    /// What is mounted.
    pub registry: ArcSwap<Registry>,
    /// Private copies of libraries.
    pub copies: Copies,
    /// When the host started.
    pub started: Instant,
    /// Held while the snapshot is being brought in line.
    pub updating: Mutex<()>,
    /// Extensions that were replaced and may still have requests in hand.
    retired: Mutex<Vec<Weak<Extension>>>,
    workers: RwLock<Vec<(Remote, Arc<Beat>)>>,
    next_worker: AtomicUsize,
    next_extension: AtomicU64,
}

/// Why the server does not run.
#[derive(Debug)]
pub enum ServeError {
    /// The extensions folder cannot be read.
    Extensions(PathBuf, io::Error),
    /// An extension was refused, and the operator wants all of them.
    MustLoad(usize),
    /// The address cannot be bound.
    Bind(String, io::Error),
    /// The folder for private copies cannot be made.
    Copies(PathBuf, io::Error),
    /// The event loop failed.
    Run(io::Error),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Extensions(path, _) => {
                write!(
                    f,
                    "cannot read the extensions folder {}; create it, or set extensions_path",
                    path.display()
                )
            }
            Self::MustLoad(1) => f.write_str("an extension was refused, and must_load is set"),
            Self::MustLoad(count) => {
                write!(f, "{count} extensions were refused, and must_load is set")
            }
            Self::Bind(address, cause) if cause.kind() == io::ErrorKind::AddrInUse => {
                write!(
                    f,
                    "cannot listen on {address}; stop what uses it, or choose another with --port"
                )
            }
            Self::Bind(address, _) => write!(f, "cannot listen on {address}"),
            Self::Copies(path, _) => write!(
                f,
                "cannot make the folder {} for copies of libraries; set TMPDIR",
                path.display()
            ),
            Self::Run(_) => f.write_str("the server ended"),
        }
    }
}

impl std::error::Error for ServeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Extensions(_, cause)
            | Self::Bind(_, cause)
            | Self::Copies(_, cause)
            | Self::Run(cause) => Some(cause),
            Self::MustLoad(_) => None,
        }
    }
}

impl Host {
    /// A host that serves nothing yet; `copies` says whether the next one finds its copies of libraries.
    ///
    /// # Errors
    /// Where the folder for private copies of libraries cannot be made.
    pub fn new(
        config: Config,
        env: Env,
        authority: Authority,
        copies: impl FnOnce() -> Result<Copies, (PathBuf, io::Error)>,
    ) -> Result<Arc<Self>, ServeError> {
        let copies = copies().map_err(|(path, cause)| ServeError::Copies(path, cause))?;
        Ok(Arc::new(Self {
            authority,
            config,
            env: ArcSwap::from_pointee(env),
            registry: ArcSwap::default(),
            updating: Mutex::default(),
            retired: Mutex::default(),
            copies,
            started: Instant::now(),
            workers: RwLock::default(),
            next_worker: AtomicUsize::new(0),
            next_extension: AtomicU64::new(1),
        }))
    }

    /// Makes a worker known to other threads.
    pub fn add_worker(&self, remote: Remote, beat: Arc<Beat>) {
        self.workers
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push((remote, beat));
    }

    /// A worker for what belongs to no request; `None` before the first has started.
    pub fn any_worker(&self) -> Option<Remote> {
        let workers = self.workers.read().unwrap_or_else(PoisonError::into_inner);
        let turn = self.next_worker.fetch_add(1, Ordering::Relaxed);
        workers
            .get(turn % workers.len().max(1))
            .map(|(remote, _)| remote.clone())
    }

    /// Has each worker close its connections as soon as nothing is under way on them.
    fn finish_connections(&self) {
        let workers = self.workers.read().unwrap_or_else(PoisonError::into_inner);
        for (remote, _) in &*workers {
            remote.run(|worker| worker.connections.stop());
        }
    }

    /// How many workers have started.
    pub fn worker_count(&self) -> usize {
        self.workers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Of each worker, whether it is in an extension, and for the how manyeth time.
    pub fn beats(&self) -> Vec<(u64, u64)> {
        let workers = self.workers.read().unwrap_or_else(PoisonError::into_inner);
        workers.iter().map(|(_, beat)| beat.read()).collect()
    }

    /// A number that no other loaded build of an extension has.
    pub fn next_extension(&self) -> u64 {
        self.next_extension.fetch_add(1, Ordering::Relaxed)
    }

    /// The name of the extension that has the number.
    pub fn name_of(&self, number: u64) -> Option<Arc<str>> {
        let registry = self.registry.load();
        let named = |extension: &&Arc<Extension>| extension.context.number == number;
        let found = registry.loaded().find(named)?;
        Some(found.context.name.clone())
    }

    /// Loads what the extensions folder holds, and mounts it.
    ///
    /// # Errors
    /// Where the folder cannot be read, or something was refused and must not be.
    pub fn load_extensions(self: &Arc<Self>) -> Result<(), ServeError> {
        let changes = loader::update(self, &Scope::Changed)
            .map_err(|cause| ServeError::Extensions(self.config.extensions_path.clone(), cause))?;
        self.copies.forget_left();
        let registry = self.registry.load();
        loader::report_passed_over(&registry);
        loader::report(&changes);
        match registry.refused().count() {
            refused if self.config.must_load && refused > 0 => Err(ServeError::MustLoad(refused)),
            _ => Ok(()),
        }
    }

    /// Stops and destroys an extension that is not mounted any more, when the last request on it is over.
    pub fn retire(&self, extension: Arc<Extension>) {
        extension.context.retire();
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.retain(|old| old.strong_count() > 0);
        retired.push(Arc::downgrade(&extension));
        drop(retired);
        // What a request may take, and what cancelling its operations takes.
        let patience = extension.timeout.unwrap_or(Duration::from_secs(3_600))
            + self.config.shutdown_timeout();
        loader::retire(extension, patience);
    }

    /// Replaced builds of an extension that still have requests in hand, and how many.
    pub fn requests_on_older(&self, folder: &str) -> usize {
        let retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        let older = retired
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|old| old.name() == folder);
        older.map(|old| old.context.requests()).sum()
    }

    /// Stops and destroys all extensions, when no request is served any more, and tidies up. An extension that hangs does not
    /// keep the host from ending.
    pub fn end(&self) {
        const PATIENCE: Duration = Duration::from_secs(5);
        let registry = self.registry.swap(Arc::default());
        let (done, wait) = std::sync::mpsc::channel();
        let mut running: Vec<Arc<str>> = Vec::new();
        for extension in registry.loaded().cloned() {
            running.push(extension.context.name.clone());
            let done = done.clone();
            std::thread::spawn(move || {
                extension.retire(Instant::now() + PATIENCE);
                // An error says that nobody waits any more.
                let _ = done.send(extension.context.name.clone());
            });
        }
        let deadline = Instant::now() + 2 * PATIENCE;
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

/// Serves until a signal says to stop; `listening` is told the addresses once requests are taken.
///
/// # Errors
/// Where the address cannot be bound or the event loop fails.
pub async fn run(host: Arc<Host>, listening: impl FnOnce(&[SocketAddr])) -> Result<(), ServeError> {
    run_until(host, listening, std::future::pending()).await
}

/// Serves until a signal, or `stop`, says to stop.
///
/// # Errors
/// As [`run`].
pub async fn run_until(
    host: Arc<Host>,
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
    let cannot_bind = |cause| ServeError::Bind(format!("{}:{}", config.host, config.port), cause);
    let mut addresses = Vec::new();
    for listener in listeners(&config.host, config.port).map_err(cannot_bind)? {
        addresses.extend(listener.local_addr());
        let factory = Factory { host: host.clone() };
        server = server
            .listen("http", listener, move || factory.clone())
            .map_err(cannot_bind)?;
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
        stopped.finish_connections();
        server.stop(true).await;
    });
    actix_rt::spawn(refresh_on_signal(
        host.clone(),
        signal(SignalKind::hangup()),
    ));
    let watcher = config
        .auto_reload
        .then(|| Watcher::start(host.clone()))
        .transpose()
        .map_err(ServeError::Run)?;
    let watch = Watch::start(host.clone());
    listening(&addresses);
    let ended = running.await;
    drop((watch, watcher));
    ended.map_err(ServeError::Run)
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
    host.finish_connections();
    let graceful = server.stop(true);
    tokio::select! {
        () = graceful => {}
        name = next() => {
            log::event(Level::Info, "stopping now", &[("signal", &name)]);
            // actix does not turn a graceful stop into a hard one, and who asks twice does not want to wait for hooks.
            host.copies.end();
            std::process::exit(0);
        }
    }
}

/// SIGHUP: look at the extensions folder and the environment now.
async fn refresh_on_signal(host: Arc<Host>, hangup: io::Result<Signal>) {
    let Ok(mut hangup) = hangup else {
        return;
    };
    while hangup.recv().await.is_some() {
        let host = host.clone();
        // Both errors have been logged, or end the host by other ways.
        let _ = tokio::task::spawn_blocking(move || loader::refresh(&host, &Scope::Changed)).await;
    }
}

/// Tells when an extension keeps a worker from its other requests: nothing can be done about it from outside, but the author
/// should know.
struct Watch {
    stop: std::sync::mpsc::Sender<()>,
}

impl Watch {
    fn start(host: Arc<Host>) -> Self {
        const EVERY: Duration = Duration::from_secs(1);
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        std::thread::spawn(move || {
            let mut before: Vec<(u64, u64)> = Vec::new();
            while let Err(std::sync::mpsc::RecvTimeoutError::Timeout) = stopped.recv_timeout(EVERY)
            {
                let now = host.beats();
                for (number, (inside, turn)) in now.iter().enumerate() {
                    if *inside != 0 && before.get(number) == Some(&(*inside, *turn)) {
                        let name = host.name_of(*inside);
                        let name = name.as_deref().unwrap_or("unknown");
                        let fields: [log::Field<'_>; 2] =
                            [("extension", &name), ("worker", &number)];
                        log::event(
                            Level::Warn,
                            "an extension blocks a worker; its route should be declared blocking",
                            &fields,
                        );
                    }
                }
                before = now;
            }
        });
        Self { stop }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // An error says that the thread has ended.
        let _ = self.stop.send(());
    }
}

/// Listens on each address that the name stands for; the error is that of the last, where none could be bound.
fn listeners(host: &str, port: u16) -> io::Result<Vec<std::net::TcpListener>> {
    /// As many as actix-web lets wait to be accepted.
    const BACKLOG: u32 = 1_024;
    let mut bound = Vec::new();
    let mut failed = io::ErrorKind::AddrNotAvailable.into();
    for address in (host, port).to_socket_addrs()? {
        let listen = || {
            let socket = match address {
                SocketAddr::V4(_) => TcpSocket::new_v4()?,
                SocketAddr::V6(_) => TcpSocket::new_v6()?,
            };
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            socket.listen(BACKLOG)?.into_std()
        };
        match listen() {
            Ok(listener) => bound.push(listener),
            Err(cause) => failed = cause,
        }
    }
    if bound.is_empty() {
        Err(failed)
    } else {
        Ok(bound)
    }
}

/// Makes what a worker accepts connections with. It takes bare requests: routing is one hash look-up in [`dispatch`], which
/// costs less than actix-web's own application, whose scopes are tried one after the other.
#[derive(Clone)]
struct Factory {
    host: Arc<Host>,
}

impl ServiceFactory<TcpStream> for Factory {
    type Response = ();
    type Error = DispatchError;
    type Config = ();
    type Service = Accept;
    type InitError = ();
    type Future = LocalBoxFuture<'static, Result<Accept, ()>>;

    fn new_service(&self, (): ()) -> Self::Future {
        let worker = Worker::start(&self.host);
        let limits = &self.host.config.limits;
        let keep_alive = if limits.keep_alive_ms == 0 {
            KeepAlive::Disabled
        } else {
            // The worker itself closes what is idle; see `connection`.
            KeepAlive::Os
        };
        let dispatch = Dispatch {
            worker: worker.clone(),
        };
        let factory = HttpService::build()
            .keep_alive(keep_alive)
            .client_request_timeout(Duration::from_millis(limits.client_request_timeout_ms))
            .client_disconnect_timeout(Duration::from_secs(1))
            // A client that closes its side has left: what it asked for is cancelled.
            .h1_allow_half_closed(false)
            .h1(fn_factory(move || ready(Ok::<_, ()>(dispatch.clone()))));
        Box::pin(async move {
            let http = Rc::new(factory.new_service(()).await?);
            Ok(Accept { worker, http })
        })
    }
}

/// Takes connections up.
struct Accept {
    worker: Rc<Worker>,
    http: Rc<connection::Http>,
}

impl Service<TcpStream> for Accept {
    type Response = ();
    type Error = DispatchError;
    type Future = connection::Serving;

    actix_service::always_ready!();

    fn call(&self, stream: TcpStream) -> Self::Future {
        connection::Serving::new(&self.worker, &self.http, stream)
    }
}

/// Takes the requests of connections.
#[derive(Clone)]
pub struct Dispatch {
    worker: Rc<Worker>,
}

impl Service<Request> for Dispatch {
    type Response = Response<Body>;
    type Error = actix_web::Error;
    type Future = dispatch::Answer;

    actix_service::always_ready!();

    fn call(&self, request: Request) -> Self::Future {
        dispatch::serve(&self.worker, request)
    }
}
