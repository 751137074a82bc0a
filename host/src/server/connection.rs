//! A client's connection: its stream, and what becomes of it while nothing is under way on it.
//!
//! actix-http reads, parses and writes. What it would keep for each connection on its own (a timer that is set anew for each
//! request, a listener for the end of the server, and two buffers of 8 KiB for as long as the connection is open) is kept
//! here for all connections of a worker together: one look over them every so often closes those that nobody uses, and
//! *parks* those that have been idle for a moment. A parked connection is only a stream that waits to be readable.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::hint::cold_path;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use actix_http::h1::{ExpectHandler, H1ServiceHandler, UpgradeHandler};
use actix_http::header::HeaderMap;
use actix_rt::net::TcpStream;
use actix_service::Service as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::boundary::request;
use crate::config::Limits;
use crate::http::facts::Said;
use crate::http::peer::Peer;
use crate::http::reply::Body;
use crate::platform::log::{self, Level};
use crate::platform::memory;
use crate::runtime::worker::Worker;
use crate::server::Dispatch;

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
    peer: Peer,
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
    /// The request whose answer is being written bit by bit, or was.
    streamed: Cell<Option<request::Handle>>,
    told: Cell<Told>,
    waker: RefCell<Option<Waker>>,
    before: RefCell<Before>,
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
    #[cold]
    pub fn of_peer(peer: Option<SocketAddr>) -> Rc<Self> {
        let clock = Rc::new(Cell::new(Instant::now()));
        Rc::new(Self::new(None, peer.unwrap_or(NOBODY), clock))
    }

    fn new(stream: Option<TcpStream>, peer: SocketAddr, clock: Rc<Cell<Instant>>) -> Self {
        Self {
            stream: RefCell::new(stream),
            peer: Peer::new(peer),
            requests: Cell::new(0),
            since: Cell::new(clock.get()),
            clock,
            is_partial: Cell::new(false),
            ends_with_head: Cell::new(false),
            last_had_body: Cell::new(false),
            is_blocked: Cell::new(false),
            is_closing: Cell::new(false),
            is_last: Cell::new(false),
            streamed: Cell::new(None),
            told: Cell::new(Told::Nothing),
            waker: RefCell::default(),
            before: RefCell::default(),
            place: Cell::new(0),
        }
    }

    /// The other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// What stands in the headers of the request that is about to begin.
    pub fn said(&self, headers: &HeaderMap) -> Rc<Said> {
        self.before.borrow_mut().said(headers)
    }

    /// Notes that a request begins.
    pub fn begin(self: &Rc<Self>, has_body: bool) -> InHand {
        if has_body {
            self.before.borrow_mut().give_up();
        }
        self.requests.set(self.requests.get() + 1);
        self.is_partial.set(false);
        self.last_had_body.set(has_body);
        InHand(self.clone())
    }

    /// Notes that the answer to `request` is written bit by bit from now on. The connection polls what the extension has under
    /// way for it as long as the client takes what is written.
    pub fn streams(&self, request: request::Handle) {
        self.streamed.set(Some(request));
    }

    fn heard(&self, bytes: &[u8]) {
        let ends_with_head = bytes.ends_with(b"\r\n\r\n");
        self.ends_with_head.set(ends_with_head);
        let is_first = !self.is_partial.replace(true);
        if is_first {
            self.touch();
        }
        let mut before = self.before.borrow_mut();
        before.hear(bytes, is_first && ends_with_head);
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

/// The headers of the request before, and what stands in them. As long as each request comes as one read and has no body, the
/// bytes that are read are known to be the next one's.
#[derive(Default)]
struct Before {
    /// Behind the first line, with the empty line.
    bytes: Vec<u8>,
    said: Option<Rc<Said>>,
    /// `bytes` are those of the request that is about to begin.
    is_next: bool,
    /// How often they were others, less how often they were the same; two for one.
    changes: u8,
    is_given_up: bool,
}

impl Before {
    /// After so many changes in a row a client is taken for one that sends others each time.
    const CHANGES_MAX: u8 = 16;

    /// Takes bytes that were read. `may_be_one`: nothing was read before of the request that they begin, and they end with a head.
    fn hear(&mut self, bytes: &[u8], may_be_one: bool) {
        self.is_next = false;
        if self.is_given_up {
            return;
        }
        if may_be_one && self.said.is_some() && self.is_behind_a_line(bytes) {
            self.is_next = true;
            self.changes = self.changes.saturating_sub(1);
            return;
        }
        self.hear_others(bytes, may_be_one);
    }

    /// Whether what was read is one line and what stood behind that of the request before.
    fn is_behind_a_line(&self, bytes: &[u8]) -> bool {
        let Some(split) = bytes.len().checked_sub(self.bytes.len()) else {
            return false;
        };
        let (line, behind) = bytes.split_at(split);
        let Some((b'\n', line)) = line.split_last() else {
            return false;
        };
        // Without an early end, so that sixteen bytes are one step.
        let is_one = line.iter().fold(true, |is, byte| is & (*byte != b'\n'));
        is_one && behind == self.bytes
    }

    #[inline(never)]
    fn hear_others(&mut self, bytes: &[u8], may_be_one: bool) {
        let line = bytes.iter().position(|byte| *byte == b'\n');
        let behind = line.map_or(b"".as_slice(), |end| &bytes[end + 1..]);
        if may_be_one && self.changes < Self::CHANGES_MAX && is_one_head(behind) {
            self.bytes.clear();
            self.bytes.extend_from_slice(behind);
            self.said = None;
            self.is_next = true;
            self.changes += 2;
        } else {
            self.give_up();
        }
    }

    /// Looks the headers of each request up from now on.
    fn give_up(&mut self) {
        if !self.is_given_up {
            *self = Self {
                is_given_up: true,
                ..Self::default()
            };
        }
    }

    fn said(&mut self, headers: &HeaderMap) -> Rc<Said> {
        if !self.is_next {
            return Rc::new(Said::of(headers));
        }
        self.is_next = false;
        let said = self.said.get_or_insert_with(|| Rc::new(Said::of(headers)));
        said.clone()
    }
}

/// Whether an empty line stands at the end of a head, and nowhere before: else it is that of several requests.
fn is_one_head(head: &[u8]) -> bool {
    let mut lines = head.split(|byte| *byte == b'\n');
    let is_empty = |line: &[u8]| line.is_empty() || line == b"\r";
    lines.any(is_empty) && lines.eq([b""])
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
        let requests = self.http.call((io, Some(self.connection.peer.address())));
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
            Told::Park => {
                cold_path();
                this.requests = None;
                this.connection.before.take();
            }
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
    /// The place of the one whose requests are being polled. None leaves meanwhile, so that it stays there.
    current: Cell<Option<usize>>,
    /// The time of the last look over them: exact enough for what it is used for, and read for nothing.
    clock: Rc<Cell<Instant>>,
    is_stopping: Cell<bool>,
    watched: tokio::sync::Notify,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            open: RefCell::default(),
            current: Cell::default(),
            clock: Rc::new(Cell::new(Instant::now())),
            is_stopping: Cell::default(),
            watched: tokio::sync::Notify::default(),
        }
    }
}

impl Connections {
    /// The connection that the request which is being polled came on.
    pub fn current(&self) -> Option<Rc<Connection>> {
        let place = self.current.get()?;
        self.open.borrow().get(place).cloned()
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

    fn enter(&self, connection: &Connection) -> Entered<'_> {
        self.current.set(Some(connection.place.get()));
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
        self.0.current.set(None);
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

#[cfg(test)]
mod tests {
    use actix_http::header::{self, HeaderValue};

    use super::*;

    fn agent(name: &'static str) -> HeaderMap {
        let value = HeaderValue::from_static(name);
        [(header::USER_AGENT, value)].into_iter().collect()
    }

    /// What is taken for the headers of a request that came in these reads and has the headers of `agent(read)`.
    fn said(before: &mut Before, reads: &[&str], read: &'static str) -> Vec<u8> {
        for (at, bytes) in reads.iter().enumerate() {
            before.hear(bytes.as_bytes(), at == 0 && bytes.ends_with("\r\n\r\n"));
        }
        let said = before.said(&agent(read));
        said.user_agent().expect("it is there").to_vec()
    }

    const A: &str = "GET /1 HTTP/1.1\r\nUser-Agent: a\r\n\r\n";
    const B: &str = "GET /1 HTTP/1.1\r\nUser-Agent: b\r\n\r\n";

    #[test]
    fn headers_are_looked_up_anew_when_they_differ() {
        let mut before = Before::default();
        assert_eq!(said(&mut before, &[A], "a"), b"a");
        // Not looked at: the bytes are the same.
        assert_eq!(said(&mut before, &[&A.replace("/1", "/2")], "x"), b"a");
        assert_eq!(said(&mut before, &[B], "b"), b"b");
        assert_eq!(said(&mut before, &[B], "x"), b"b");
        assert_eq!(said(&mut before, &[A], "a"), b"a");
    }

    #[test]
    fn what_is_not_one_head_is_never_taken_for_the_next_request() {
        let twice = [A, A].concat();
        for reads in [&[&*twice][..], &[&A[..20], &A[20..]], &[A, "\r\n\r\n"]] {
            let mut before = Before::default();
            assert_eq!(said(&mut before, &[A], "a"), b"a");
            assert_eq!(said(&mut before, reads, "b"), b"b", "{reads:?}");
            assert_eq!(said(&mut before, &[A], "c"), b"c", "{reads:?}");
        }
    }

    #[test]
    fn a_client_that_sends_others_each_time_is_given_up() {
        let mut before = Before::default();
        for _ in 0..20 {
            assert_eq!(said(&mut before, &[A], "a"), b"a");
            assert_eq!(said(&mut before, &[B], "b"), b"b");
        }
        assert!(before.is_given_up && before.bytes.capacity() == 0);
    }
}
