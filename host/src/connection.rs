//! A client's connection: its stream, and what becomes of it while nothing is under way on it.
//!
//! actix-http reads, parses and writes. What it would keep for each connection on its own (a timer that is set anew for each
//! request, a listener for the end of the server, and two buffers of 8 KiB for as long as the connection is open) is kept
//! here for all connections of a worker together: one look over them every so often closes those that nobody uses, and
//! *parks* those that have been idle for a moment. A parked connection is only a stream that waits to be readable.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use actix_http::h1::{ExpectHandler, H1ServiceHandler, UpgradeHandler};
use actix_rt::net::TcpStream;
use actix_service::Service as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::accountability::client::{IpText, write_peer};
use crate::config::Limits;
use crate::log::{self, Level};
use crate::memory;
use crate::reply::Body;
use crate::server::Dispatch;
use crate::worker::Worker;

/// How long a connection is idle before it is parked: longer than a busy client pauses, so that it never pays for it.
const PARK_AFTER: Duration = Duration::from_secs(2);

/// So many parked connections leave memory that is worth giving back.
const MANY: usize = 16;

/// The peer of a connection that has none any more.
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// actix's part of a connection.
pub type Http = H1ServiceHandler<Io, Dispatch, Body, ExpectHandler, UpgradeHandler>;

/// What is known of one connection.
pub struct Connection {
    stream: RefCell<Option<TcpStream>>,
    peer: SocketAddr,
    /// The peer as "address:port", and its address alone: text that each request on the connection shows.
    peer_text: Vec<u8>,
    ip_text: IpText,
    /// Requests that have begun and whose answers are not yet given to actix whole.
    requests: Cell<u32>,
    /// When the last request ended, or the first byte of the next one came: by the worker's `clock`.
    since: Cell<Instant>,
    clock: Rc<Cell<Instant>>,
    /// Bytes of a request have come that is not there whole.
    is_partial: Cell<bool>,
    /// The last bytes that came were the end of a head, and the last request had no body: nothing is left to be parsed.
    ends_with_head: Cell<bool>,
    last_had_body: Cell<bool>,
    /// The client does not read, or the connection is being closed: there is something to write.
    is_blocked: Cell<bool>,
    is_closing: Cell<bool>,
    /// The server ends.
    is_last: Cell<bool>,
    told: Cell<Told>,
    waker: RefCell<Option<Waker>>,
    /// Where it stands in [`Connections::open`].
    place: Cell<usize>,
}

/// What the look over all connections has decided about one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Park,
    Close,
}

impl Connection {
    /// One that has only a peer: for a request that came on none.
    pub fn of_peer(peer: Option<SocketAddr>) -> Rc<Self> {
        let clock = Rc::new(Cell::new(Instant::now()));
        Rc::new(Self::new(None, peer.unwrap_or(NOBODY), clock))
    }

    fn new(stream: Option<TcpStream>, peer: SocketAddr, clock: Rc<Cell<Instant>>) -> Self {
        let mut peer_text = Vec::new();
        write_peer(&mut peer_text, peer);
        Self {
            stream: RefCell::new(stream),
            peer,
            peer_text,
            ip_text: IpText::new(peer.ip()),
            requests: Cell::new(0),
            since: Cell::new(clock.get()),
            clock,
            is_partial: Cell::new(false),
            ends_with_head: Cell::new(false),
            last_had_body: Cell::new(false),
            is_blocked: Cell::new(false),
            is_closing: Cell::new(false),
            is_last: Cell::new(false),
            told: Cell::new(Told::Nothing),
            waker: RefCell::default(),
            place: Cell::new(0),
        }
    }

    /// The other end.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The other end as "address:port".
    pub fn peer_text(&self) -> &[u8] {
        &self.peer_text
    }

    /// The other end's address.
    pub fn ip_text(&self) -> &IpText {
        &self.ip_text
    }

    /// Notes that a request begins.
    pub fn begin(self: &Rc<Self>, has_body: bool) -> InHand {
        self.requests.set(self.requests.get() + 1);
        self.is_partial.set(false);
        self.last_had_body.set(has_body);
        InHand(self.clone())
    }

    fn heard(&self, bytes: &[u8]) {
        self.ends_with_head.set(bytes.ends_with(b"\r\n\r\n"));
        if !self.is_partial.replace(true) {
            self.touch();
        }
    }

    fn touch(&self) {
        self.since.set(self.clock.get());
    }

    fn is_idle(&self) -> bool {
        self.requests.get() == 0 && !self.is_blocked.get()
    }

    /// Whether actix holds nothing of it that would be lost: no answer that is not yet written, no byte that is not yet parsed.
    fn may_be_parked(&self) -> bool {
        self.is_idle()
            && self.ends_with_head.get()
            && !self.is_partial.get()
            && !self.last_had_body.get()
            && !self.is_closing.get()
    }

    fn tell(&self, what: Told) {
        self.told.set(what);
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

/// A request of the connection is in hand while this lives.
pub struct InHand(Rc<Connection>);

impl InHand {
    /// Whether the connection is to be closed behind the answer, since the server ends.
    pub fn is_last(&self) -> bool {
        self.0.is_last.get()
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.0.requests.set(self.0.requests.get() - 1);
        self.0.touch();
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
        if self.0.is_blocked.replace(written.is_pending()) {
            self.0.touch();
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

/// A connection as a task of its worker: until the client closes it, or nobody uses it.
pub struct Serving {
    worker: Rc<Worker>,
    http: Rc<Http>,
    connection: Rc<Connection>,
    /// `None` while the connection is parked. Boxed, so that its memory is given back then.
    #[expect(clippy::type_complexity, reason = "actix names it by its service")]
    requests: Option<Pin<Box<<Http as actix_service::Service<(Io, Option<SocketAddr>)>>::Future>>>,
}

impl Serving {
    /// Takes up a connection that was just made.
    pub fn new(worker: &Rc<Worker>, http: &Rc<Http>, stream: TcpStream) -> Self {
        // An answer that is written in several steps must not wait for the client to confirm the first.
        let _ = stream.set_nodelay(true);
        let peer = stream.peer_addr().unwrap_or(NOBODY);
        let connection = worker.connections.add(stream, peer);
        let mut serving = Self {
            worker: worker.clone(),
            http: http.clone(),
            connection,
            requests: None,
        };
        serving.unpark();
        serving
    }

    fn unpark(&mut self) {
        let io = Io(self.connection.clone());
        let requests = self.http.call((io, Some(self.connection.peer)));
        self.requests = Some(Box::pin(requests));
    }
}

impl Future for Serving {
    type Output = Result<(), actix_http::error::DispatchError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        this.connection.keep_waker(cx.waker());
        match this.connection.told.replace(Told::Nothing) {
            Told::Nothing => {}
            Told::Close => return Poll::Ready(Ok(())),
            Told::Park => this.requests = None,
        }
        loop {
            if let Some(requests) = &mut this.requests {
                let polled = {
                    let _turn = this.worker.turn();
                    let _on = this.worker.connections.enter(&this.connection);
                    requests.as_mut().poll(cx)
                };
                let is_over = this.connection.is_last.get() && this.connection.is_idle();
                return match polled {
                    Poll::Pending if is_over => Poll::Ready(Ok(())),
                    polled => polled,
                };
            }
            if this.connection.is_last.get() {
                return Poll::Ready(Ok(()));
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

impl Drop for Serving {
    fn drop(&mut self) {
        // What is under way ends before the connection is forgotten.
        self.requests = None;
        self.worker.connections.remove(&self.connection);
    }
}

/// A worker's connections.
pub struct Connections {
    open: RefCell<Vec<Rc<Connection>>>,
    /// The one whose requests are being polled.
    current: RefCell<Option<Rc<Connection>>>,
    /// The time of the last look over them: exact enough for what it is used for, and read for nothing.
    clock: Rc<Cell<Instant>>,
    is_stopping: Cell<bool>,
    watched: tokio::sync::Notify,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            open: RefCell::default(),
            current: RefCell::default(),
            clock: Rc::new(Cell::new(Instant::now())),
            is_stopping: Cell::default(),
            watched: tokio::sync::Notify::default(),
        }
    }
}

impl Connections {
    /// The connection that the request which is being polled came on.
    pub fn current(&self) -> Option<Rc<Connection>> {
        self.current.borrow().clone()
    }

    /// Closes what is idle, and the rest as soon as it is.
    pub fn stop(&self) {
        self.is_stopping.set(true);
        for connection in &*self.open.borrow() {
            connection.is_last.set(true);
            connection.tell(Told::Nothing);
        }
    }

    fn add(&self, stream: TcpStream, peer: SocketAddr) -> Rc<Connection> {
        let mut open = self.open.borrow_mut();
        if open.is_empty() {
            self.clock.set(Instant::now());
            self.watched.notify_one();
        }
        let clock = self.clock.clone();
        let connection = Rc::new(Connection::new(Some(stream), peer, clock));
        connection.is_last.set(self.is_stopping.get());
        connection.place.set(open.len());
        open.push(connection.clone());
        connection
    }

    fn remove(&self, connection: &Connection) {
        let place = connection.place.get();
        let mut open = self.open.borrow_mut();
        open.swap_remove(place);
        if let Some(moved) = open.get(place) {
            moved.place.set(place);
        }
    }

    fn enter(&self, connection: &Rc<Connection>) -> Entered<'_> {
        *self.current.borrow_mut() = Some(connection.clone());
        Entered(self)
    }

    /// Decides about each connection, and tells how many are to be parked.
    fn look_over(&self, now: Instant, limits: &Limits) -> usize {
        let keep_alive = Duration::from_millis(limits.keep_alive_ms);
        let request = Duration::from_millis(limits.client_request_timeout_ms);
        let mut parked = 0;
        for connection in &*self.open.borrow() {
            if connection.requests.get() > 0 {
                continue;
            }
            let idle = now.saturating_duration_since(connection.since.get());
            let patience = if connection.is_partial.get() {
                request
            } else {
                keep_alive
            };
            if idle > patience {
                connection.tell(Told::Close);
            } else if idle >= PARK_AFTER && connection.may_be_parked() {
                // Once parked it holds nothing that may be parked again.
                connection.ends_with_head.set(false);
                connection.tell(Told::Park);
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
        *self.0.current.borrow_mut() = None;
    }
}

/// Looks over a worker's connections every so often, for as long as there are any.
pub async fn watch(worker: Rc<Worker>) {
    let limits = &worker.host.config.limits;
    let shortest = limits.keep_alive_ms.min(limits.client_request_timeout_ms);
    let every = Duration::from_millis((shortest / 8).clamp(20, 1_000));
    let connections = &worker.connections;
    let mut let_go = 0;
    loop {
        if connections.open.borrow().is_empty() {
            connections.watched.notified().await;
        }
        actix_rt::time::sleep(every).await;
        let now = Instant::now();
        connections.clock.set(now);
        // Those that were told the last time have let go by now.
        if let_go >= MANY {
            memory::give_back();
            let_go = 0;
        }
        let parked = connections.look_over(now, limits);
        let_go += parked;
        if parked > 0 {
            log::event(
                Level::Debug,
                "idle connections gave their buffers back",
                &[("connections", &parked)],
            );
        }
    }
}
