//! A client's connection: its stream, and what becomes of it while nothing is in flight on it.
//!
//! actix-http reads, parses and writes. What it would keep for each connection on its own (a timer that is set anew for each
//! request, a listener for the end of the server, and two buffers of 8 KiB for as long as the connection is open) is kept
//! here for all connections of a worker together: one look over them every so often closes those that nobody uses, and
//! *parks* those that have been idle for a moment. A parked connection is only a stream that waits to be readable.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::hint::cold_path;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use actix_http::h1::{ExpectHandler, H1ServiceHandler, UpgradeHandler};
use actix_http::{Request, Response};
use actix_rt::net::TcpStream;
use actix_rt::time::{Sleep, sleep};
use actix_service::Service as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::boundary::request;
use crate::config::Limits;
use crate::http::body::Body;
use crate::http::client_connection::ClientConnection;
use crate::platform::log::{self, Level};
use crate::platform::memory;
use crate::runtime::worker::Worker;

/// How long a connection is idle before it is parked: longer than a busy client pauses, so that it never pays for it.
const PARK_AFTER: Duration = Duration::from_secs(2);

/// How long a connection stays open for a request that is on its way when the server is told to stop: its answer says that it is the
/// last. Longer than a busy client pauses, and than a request travels.
const LAST_REQUEST_WITHIN: Duration = Duration::from_millis(500);

/// How long a client that has sent too much may take to see its answer, as where actix closes a connection.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);

/// So many parked connections leave memory that is worth giving back.
const MANY: usize = 16;

/// actix's part of a connection, whose requests go to `S`.
pub type Http<S> = H1ServiceHandler<Io, S, Body, ExpectHandler, UpgradeHandler>;

thread_local! {
    static CONNECTIONS: Cell<Option<&'static Connections>> = const { Cell::new(None) };
}

/// This worker's connections. Never freed: whoever asks to stop them may come when the thread's loop is over.
pub fn connections() -> &'static Connections {
    CONNECTIONS.get().unwrap_or_else(|| {
        let connections: &Connections = Box::leak(Box::default());
        CONNECTIONS.set(Some(connections));
        connections
    })
}

/// One connection: its stream, and how far actix has come with it.
struct Connection {
    stream: RefCell<Option<TcpStream>>,
    client: Rc<ClientConnection>,
    /// Bytes of a request have come that is not there whole.
    is_partial: Cell<bool>,
    /// The last bytes that came were the end of a head, and the last request had no body: nothing is left to be parsed.
    ends_with_head: Cell<bool>,
    last_had_body: Cell<bool>,
    /// The client does not read: there is something to write; and since when.
    is_blocked: Cell<bool>,
    blocked_since: Cell<Instant>,
    /// It is being closed.
    is_closing: Cell<bool>,
    /// The request whose answer is being written bit by bit, or was.
    streamed: Cell<Option<request::Handle>>,
    directive: Cell<Directive>,
    waker: RefCell<Option<Waker>>,
    /// Where it stands in [`Connections::open`].
    index: Cell<usize>,
}

/// What the look over all connections has decided about one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Directive {
    Nothing,
    Park,
    Close,
    /// At once, and whatever is in flight: the client takes nothing.
    Abort,
}

impl Connection {
    fn heard(&self, bytes: &[u8]) {
        self.client.count_received(bytes.len());
        self.ends_with_head.set(bytes.ends_with(b"\r\n\r\n"));
        if !self.is_partial.replace(true) {
            self.client.touch();
        }
    }

    fn is_idle(&self) -> bool {
        self.client.requests() == 0 && !self.is_blocked.get()
    }

    /// Whether actix holds nothing of it that would be lost: no answer that is not yet written, no byte that is not yet parsed.
    fn may_be_parked(&self) -> bool {
        self.is_idle()
            && self.ends_with_head.get()
            && !self.is_partial.get()
            && !self.last_had_body.get()
            && !self.is_closing.get()
    }

    /// Notes that the client does not read any more, or reads again.
    #[cold]
    fn turn(&self, is_blocked: bool) {
        self.client.touch();
        if is_blocked {
            self.blocked_since.set(self.client.since());
        }
    }

    fn signal(&self, what: Directive) {
        self.directive.set(what);
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    fn keep_waker(&self, waker: &Waker) {
        let mut kept = self.waker.borrow_mut();
        if !kept.as_ref().is_some_and(|kept| kept.will_wake(waker)) {
            *kept = Some(waker.clone());
        }
    }

    fn with_stream<R>(
        &self,
        call: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        match &mut *self.stream.borrow_mut() {
            Some(stream) => call(Pin::new(stream)),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

/// The stream as actix sees it.
pub struct Io(Rc<Connection>);

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.0.client.has_sent_too_much() {
            cold_path();
            // Its answer wakes the task.
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = self.0.with_stream(|stream| stream.poll_read(cx, buf));
        if buf.filled().len() > before {
            self.0.heard(&buf.filled()[before..]);
        }
        read
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = self.0.with_stream(|stream| stream.poll_write(cx, bytes));
        let is_blocked = written.is_pending();
        if self.0.is_blocked.replace(is_blocked) != is_blocked {
            self.0.turn(is_blocked);
        }
        if written.is_pending()
            && let Some(request) = self.0.streamed.get()
        {
            request.leave_to_tasks();
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.with_stream(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.is_closing.set(true);
        self.0.with_stream(|stream| stream.poll_shutdown(cx))
    }
}

/// What takes a connection's requests.
pub trait Serves:
    actix_service::Service<Request, Response = Response<Body>, Error = actix_web::Error> + 'static
{
}

impl<S> Serves for S where
    S: actix_service::Service<Request, Response = Response<Body>, Error = actix_web::Error>
        + 'static
{
}

/// actix's future of a connection.
type ConnectionFuture<S> = <Http<S> as actix_service::Service<(Io, Option<SocketAddr>)>>::Future;

/// A connection as a task of its worker: until the client closes it, or nobody uses it.
pub struct ServedConnection<S: Serves> {
    worker: &'static Worker,
    connections: &'static Connections,
    http: Rc<Http<S>>,
    connection: Rc<Connection>,
    /// `None` while the connection is parked. Boxed, so that its memory is given back then.
    requests: Option<Pin<Box<ConnectionFuture<S>>>>,
    /// Until when the last of what the client sends is thrown away.
    leaving: Option<Pin<Box<Sleep>>>,
}

impl<S: Serves> ServedConnection<S> {
    /// Takes up a connection that was just made.
    pub fn new(worker: &'static Worker, http: &Rc<Http<S>>, stream: TcpStream) -> Self {
        // An answer that is written in several steps must not wait for the client to confirm the first.
        let _ = stream.set_nodelay(true);
        let connections = connections();
        let peer = stream.peer_addr().ok();
        let mut serving = Self {
            worker,
            connections,
            http: http.clone(),
            connection: connections.add(stream, peer),
            requests: None,
            leaving: None,
        };
        serving.unpark();
        serving
    }

    fn unpark(&mut self) {
        let io = Io(self.connection.clone());
        let requests = self
            .http
            .call((io, Some(self.connection.client.peer().address())));
        self.requests = Some(Box::pin(requests));
    }

    /// Ends the connection so that nobody takes what came of an answer for the whole of it, and the system does not go on
    /// offering the rest to a client that takes nothing.
    fn abort(&mut self) {
        if let Some(stream) = &*self.connection.stream.borrow() {
            // Err: the connection has ended.
            let _ = stream.set_zero_linger();
        }
        let ip = self.connection.client.peer().ip_text();
        log::event(
            Level::Debug,
            "a client did not take its answer in time; its connection was closed",
            &[("ip", ip)],
        );
    }

    /// Says that nothing more comes, and takes what the client still sends for a moment: where something is unread, the system
    /// closes a connection so that the client may not see the answer that is on its way.
    fn leave(&mut self) {
        self.requests = None;
        self.connection.is_closing.set(true);
        self.leaving = Some(Box::pin(sleep(LEAVE_WITHIN)));
    }

    fn poll_leave(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let is_late = match &mut self.leaving {
            Some(leaving) => leaving.as_mut().poll(cx).is_ready(),
            None => true,
        };
        if is_late {
            return Poll::Ready(());
        }
        self.connection
            .with_stream(|mut stream| {
                // Err: the client has left before.
                let _ = stream.as_mut().poll_shutdown(cx);
                let mut bytes = [0; 4 << 10];
                loop {
                    let mut read = ReadBuf::new(&mut bytes);
                    match std::task::ready!(stream.as_mut().poll_read(cx, &mut read)) {
                        Ok(()) if !read.filled().is_empty() => {}
                        _ => return Poll::Ready(Ok(())),
                    }
                }
            })
            .map(|_| ())
    }
}

impl<S: Serves> Future for ServedConnection<S> {
    type Output = Result<(), actix_http::error::DispatchError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        this.connection.keep_waker(cx.waker());
        match this.connection.directive.replace(Directive::Nothing) {
            Directive::Nothing => {}
            Directive::Close => return Poll::Ready(Ok(())),
            Directive::Abort => {
                cold_path();
                this.abort();
                return Poll::Ready(Ok(()));
            }
            Directive::Park => {
                cold_path();
                this.requests = None;
            }
        }
        loop {
            if this.leaving.is_some() {
                return this.poll_leave(cx).map(Ok);
            }
            if let Some(requests) = &mut this.requests {
                let polled = {
                    let _pump = this.worker.hold_pump();
                    let _on = this.connections.enter(&this.connection);
                    requests.as_mut().poll(cx)
                };
                let closes =
                    this.connection.client.closes_after_answer() && this.connection.is_idle();
                if closes && this.connection.client.has_sent_too_much() {
                    cold_path();
                    this.leave();
                    continue;
                }
                return polled;
            }
            let readable = this
                .connection
                .with_stream(|stream| stream.get_mut().poll_read_ready(cx));
            if std::task::ready!(readable).is_err() {
                return Poll::Ready(Ok(()));
            }
            this.unpark();
        }
    }
}

impl<S: Serves> Drop for ServedConnection<S> {
    fn drop(&mut self) {
        // What is in flight ends before the connection is forgotten.
        self.requests = None;
        self.connections.remove(&self.connection);
    }
}

/// A worker's connections.
pub struct Connections {
    open: RefCell<Vec<Rc<Connection>>>,
    /// The index of the one whose requests are being polled. None leaves meanwhile, so that it stays there.
    current: Cell<Option<usize>>,
    /// The time of the last look over them: exact enough for what it is used for, and read for nothing.
    clock: Rc<Cell<Instant>>,
    /// Since when the server has been told to stop.
    stopping: Cell<Option<Instant>>,
    /// There is a connection where there was none, or the server stops.
    changed: tokio::sync::Notify,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            open: RefCell::default(),
            current: Cell::default(),
            clock: Rc::new(Cell::new(Instant::now())),
            stopping: Cell::default(),
            changed: tokio::sync::Notify::default(),
        }
    }
}

impl Connections {
    /// The connection that the request which is being polled came on. Notes that the request begins.
    pub fn begin(&self, peer: Option<SocketAddr>, has_body: bool) -> Rc<ClientConnection> {
        let begin = |connection: &Rc<Connection>| {
            connection.is_partial.set(false);
            connection.last_had_body.set(has_body);
            connection.client.lift_limit();
            connection.client.clone()
        };
        self.with_current(begin)
            .unwrap_or_else(|| ClientConnection::of_peer(peer))
    }

    /// Notes that the answer to `request` is written bit by bit from now on, on the connection that is being polled. It polls
    /// what the extension has in flight for it as long as the client takes what is written.
    pub fn stream(&self, request: request::Handle) {
        self.with_current(|connection| connection.streamed.set(Some(request)));
    }

    fn with_current<R>(&self, f: impl FnOnce(&Rc<Connection>) -> R) -> Option<R> {
        let index = self.current.get()?;
        self.open.borrow().get(index).map(f)
    }

    /// Has each connection take one more request at most, which may be on its way, and closes what stays idle.
    pub fn stop(&self) {
        let now = Instant::now();
        self.clock.set(now);
        self.stopping.set(Some(now));
        for connection in &*self.open.borrow() {
            connection.client.set_closes_after_answer(true);
        }
        self.changed.notify_one();
    }

    /// Closes all, whatever is in flight on them.
    pub fn close(&self) {
        self.stop();
        for connection in &*self.open.borrow() {
            connection.signal(Directive::Close);
        }
    }

    fn add(&self, stream: TcpStream, peer: Option<SocketAddr>) -> Rc<Connection> {
        let mut open = self.open.borrow_mut();
        if open.is_empty() {
            self.clock.set(Instant::now());
            self.changed.notify_one();
        }
        let client = Rc::new(ClientConnection::new(peer, self.clock.clone()));
        client.set_closes_after_answer(self.stopping.get().is_some());
        let connection = Rc::new(Connection {
            stream: RefCell::new(Some(stream)),
            client,
            is_partial: Cell::new(false),
            ends_with_head: Cell::new(false),
            last_had_body: Cell::new(false),
            is_blocked: Cell::new(false),
            blocked_since: Cell::new(self.clock.get()),
            is_closing: Cell::new(false),
            streamed: Cell::new(None),
            directive: Cell::new(Directive::Nothing),
            waker: RefCell::default(),
            index: Cell::new(open.len()),
        });
        open.push(connection.clone());
        connection
    }

    fn remove(&self, connection: &Connection) {
        let index = connection.index.get();
        let mut open = self.open.borrow_mut();
        open.swap_remove(index);
        if let Some(moved) = open.get(index) {
            moved.index.set(index);
        }
    }

    fn enter(&self, connection: &Connection) -> Entered<'_> {
        self.current.set(Some(connection.index.get()));
        Entered(self)
    }

    /// Decides about each connection, and tells how many are to be parked.
    fn look_over(&self, now: Instant, limits: &Limits) -> usize {
        let keep_alive = Duration::from_millis(limits.keep_alive_ms);
        let request = Duration::from_millis(limits.client_request_timeout_ms);
        let write = Duration::from_millis(limits.client_write_timeout_ms);
        let mut parked = 0;
        for connection in &*self.open.borrow() {
            if connection.is_blocked.get() {
                let blocked = now.saturating_duration_since(connection.blocked_since.get());
                if !write.is_zero() && blocked > write {
                    connection.signal(Directive::Abort);
                }
                continue;
            }
            if connection.client.requests() > 0 {
                continue;
            }
            let stopping = self.stopping.get();
            let since = connection.client.since();
            let idle =
                now.saturating_duration_since(stopping.map_or(since, |stop| stop.max(since)));
            let timeout = if connection.is_partial.get() {
                request
            } else if stopping.is_some() {
                LAST_REQUEST_WITHIN
            } else {
                keep_alive
            };
            if idle > timeout {
                connection.signal(Directive::Close);
            } else if idle >= PARK_AFTER && connection.may_be_parked() {
                // Once parked it holds nothing that may be parked again.
                connection.ends_with_head.set(false);
                connection.signal(Directive::Park);
                parked += 1;
            }
        }
        parked
    }
}

/// The connection is the current one while this lives.
struct Entered<'a>(&'a Connections);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.current.set(None);
    }
}

/// Looks over this worker's connections every so often, for as long as there are any.
pub async fn watch(limits: Limits) {
    let write = Some(limits.client_write_timeout_ms).filter(|timeout| *timeout > 0);
    let shortest = limits
        .keep_alive_ms
        .min(limits.client_request_timeout_ms)
        .min(write.unwrap_or(u64::MAX));
    let every = Duration::from_millis((shortest / 8).clamp(20, 1_000));
    let connections = connections();
    let mut freed = 0;
    loop {
        if connections.open.borrow().is_empty() {
            connections.changed.notified().await;
        }
        if connections.stopping.get().is_some() {
            actix_rt::time::sleep(every.min(LAST_REQUEST_WITHIN / 10)).await;
        } else {
            // Ended early where the server stops.
            let _ = actix_rt::time::timeout(every, connections.changed.notified()).await;
        }
        let now = Instant::now();
        connections.clock.set(now);
        // Those that were told the last time have freed theirs by now.
        if freed >= MANY {
            memory::give_back();
            freed = 0;
        }
        let parked = connections.look_over(now, &limits);
        freed += parked;
        if parked > 0 {
            log::event(
                Level::Debug,
                "idle connections gave their buffers back",
                &[("connections", &parked)],
            );
        }
    }
}
