//! What is known of one client's connection beside its stream: who is at the other end, and how much is in flight on it.

use std::cell::Cell;
use std::hint::cold_path;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::task::Waker;
use std::time::Instant;

use super::peer::Peer;

/// The peer of a connection that has none any more.
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// What a body without a length may take beside itself, and beside what its framing may take: what a client sends ahead of the
/// answer comes on the same connection.
const SENT_AHEAD_BYTES: u64 = 256 << 10;

/// See the module's text.
pub struct ClientConnection {
    peer: Peer,
    /// Requests that have begun and whose answers are not yet given to actix whole.
    requests: Cell<u32>,
    /// When the last request ended, or the first byte of the next one came: by the worker's `clock`.
    since: Cell<Instant>,
    clock: Rc<Cell<Instant>>,
    /// No further request is taken: the server ends, or the client has sent too much.
    closes_after_answer: Cell<bool>,
    /// How much the client may still send for the request in flight.
    left: Cell<u64>,
    has_sent_too_much: Cell<bool>,
    /// Whoever waits for the body, and has to learn that too much has come.
    reader: Cell<Option<Waker>>,
}

impl ClientConnection {
    /// One that has only a peer: for a request that came on none.
    #[cold]
    pub fn of_peer(peer: Option<SocketAddr>) -> Rc<Self> {
        let clock = Rc::new(Cell::new(Instant::now()));
        Rc::new(Self::new(peer, clock))
    }

    /// A connection on which nothing is in flight. `clock` tells a time that is exact enough.
    pub fn new(peer: Option<SocketAddr>, clock: Rc<Cell<Instant>>) -> Self {
        Self {
            peer: Peer::new(peer.unwrap_or(NOBODY)),
            requests: Cell::new(0),
            since: Cell::new(clock.get()),
            clock,
            closes_after_answer: Cell::new(false),
            left: Cell::new(u64::MAX),
            has_sent_too_much: Cell::new(false),
            reader: Cell::new(None),
        }
    }

    /// The other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Notes that a request begins.
    pub fn begin(self: &Rc<Self>) -> RequestInFlight {
        self.requests.set(self.requests.get() + 1);
        RequestInFlight(self.clone())
    }

    /// How many requests are in flight.
    pub fn requests(&self) -> u32 {
        self.requests.get()
    }

    /// Notes that the connection is used now.
    pub fn touch(&self) {
        self.since.set(self.clock.get());
    }

    /// When it was last used.
    pub fn since(&self) -> Instant {
        self.since.get()
    }

    /// Whether it is to be closed after the answer in flight.
    pub fn closes_after_answer(&self) -> bool {
        self.closes_after_answer.get()
    }

    /// Limits what may come for the request in flight, whose body has no length: a body of `bytes_max`, and as much of framing.
    /// Extensions of chunks, padded sizes and trailers are not told apart: a body that is made of small chunks has its room,
    /// and a client cannot have the host read more than twice what it may send.
    pub fn limit_body(&self, bytes_max: u64) {
        let both = bytes_max.saturating_mul(2);
        self.left.set(both.saturating_add(SENT_AHEAD_BYTES));
    }

    /// Lets come what wants to: no body is on its way, or one whose length is known.
    pub fn lift_limit(&self) {
        self.left.set(u64::MAX);
    }

    /// Counts bytes that came.
    pub fn count_received(&self, bytes: usize) {
        match self.left.get().checked_sub(bytes as u64) {
            Some(left) => self.left.set(left),
            None => {
                cold_path();
                self.has_sent_too_much.set(true);
                self.closes_after_answer.set(true);
                if let Some(reader) = self.reader.take() {
                    reader.wake();
                }
            }
        }
    }

    /// Whether more came than is [allowed](Self::limit_body). Nothing more is read then.
    pub fn has_sent_too_much(&self) -> bool {
        self.has_sent_too_much.get()
    }

    /// Has `reader` woken when too much has come, of which actix tells it nothing: framing alone is not given to who reads a
    /// body.
    pub fn wake_when_too_much(&self, reader: &Waker) {
        self.reader.set(Some(reader.clone()));
    }

    /// Says whether the server ends.
    pub fn set_closes_after_answer(&self, closes: bool) {
        self.closes_after_answer.set(closes);
    }
}

/// A request of the connection is in flight while this lives.
pub struct RequestInFlight(Rc<ClientConnection>);

impl RequestInFlight {
    /// Whether the connection is to be closed after the answer.
    pub fn closes_after_answer(&self) -> bool {
        self.0.closes_after_answer()
    }
}

impl Drop for RequestInFlight {
    fn drop(&mut self) {
        self.0.requests.set(self.0.requests.get() - 1);
        self.0.touch();
    }
}
