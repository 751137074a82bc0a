//! What is known of one client's connection beside its stream: who is at the other end, and how much is in hand on it.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Instant;

use super::peer::Peer;

/// The peer of a connection that has none any more.
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// See the module's text.
pub struct ClientConnection {
    peer: Peer,
    /// Requests that have begun and whose answers are not yet given to actix whole.
    requests: Cell<u32>,
    /// When the last request ended, or the first byte of the next one came: by the worker's `clock`.
    since: Cell<Instant>,
    clock: Rc<Cell<Instant>>,
    /// The server ends.
    is_last: Cell<bool>,
}

impl ClientConnection {
    /// One that has only a peer: for a request that came on none.
    #[cold]
    pub fn of_peer(peer: Option<SocketAddr>) -> Rc<Self> {
        let clock = Rc::new(Cell::new(Instant::now()));
        Rc::new(Self::new(peer, clock))
    }

    /// A connection on which nothing is in hand. `clock` tells a time that is exact enough.
    pub fn new(peer: Option<SocketAddr>, clock: Rc<Cell<Instant>>) -> Self {
        Self {
            peer: Peer::new(peer.unwrap_or(NOBODY)),
            requests: Cell::new(0),
            since: Cell::new(clock.get()),
            clock,
            is_last: Cell::new(false),
        }
    }

    /// The other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Notes that a request begins.
    pub fn begin(self: &Rc<Self>) -> InHand {
        self.requests.set(self.requests.get() + 1);
        InHand(self.clone())
    }

    /// How many requests are in hand.
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

    /// Whether it is to be closed behind the answer in hand, since the server ends.
    pub fn is_last(&self) -> bool {
        self.is_last.get()
    }

    /// Says whether the server ends.
    pub fn set_last(&self, is_last: bool) {
        self.is_last.set(is_last);
    }
}

/// A request of the connection is in hand while this lives.
pub struct InHand(Rc<ClientConnection>);

impl InHand {
    /// Whether the connection is to be closed behind the answer, since the server ends.
    pub fn is_last(&self) -> bool {
        self.0.is_last()
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.0.requests.set(self.0.requests.get() - 1);
        self.0.touch();
    }
}
