//! A worker's connections to elsewhere: opened by awc's connector, kept while idle, counted for each base.
//!
//! Each base has its own, so that no extension's call travels on a connection that another has used.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use actix_http::{ServiceConfig, Uri};
use actix_service::Service as _;
use awc::BoxedSocket;
use awc::error::ConnectError;
use bytes::BytesMut;
use futures_core::future::LocalBoxFuture;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::sync::Semaphore;

use super::base::Base;
use super::connect;
use crate::config;

/// How old a connection may be to be used once more.
const LIFETIME: Duration = Duration::from_secs(600);
/// For awc's own limit of time, in place of which each call has one.
const NEVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// How much an answer's buffer holds at first: more than most answers need.
pub const BUFFER_BYTES: usize = 8 << 10;
/// How many such buffers are kept for the next calls, each for one that is in flight.
const BUFFERS_MAX: usize = 64;

/// Opens a connection to a URL's host.
type Open = Box<dyn Fn(Uri) -> LocalBoxFuture<'static, Result<BoxedSocket, ConnectError>>>;

/// A worker's connections.
pub struct ConnectionPool {
    limits: config::Fetch,
    /// For connections that are not encrypted, and for those that are: made when first used.
    connectors: [OnceCell<Open>; 2],
    /// By the base's number.
    destinations: RefCell<HashMap<u64, Rc<Destination>>>,
    buffers: RefCell<Vec<BytesMut>>,
    /// What actix's decoder wants to have: it keeps a clock, so it is there only while there are connections.
    decoding: RefCell<Option<ServiceConfig>>,
    is_watched: Cell<bool>,
}

/// Where calls go.
struct Destination {
    idle: RefCell<Vec<Connection>>,
    /// How many more calls may be in flight.
    permits: Semaphore,
}

/// An open connection.
struct Connection {
    /// Encrypted where it has to be.
    io: BoxedSocket,
    opened: Instant,
    used: Instant,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Lets TLS say goodbye, where that can be written at once.
        let _ = Pin::new(&mut self.io).poll_shutdown(&mut Context::from_waker(Waker::noop()));
    }
}

/// A connection on loan for one call. Dropped, it is closed; [`Lease::give_back`] keeps it.
pub struct Lease {
    pool: Rc<ConnectionPool>,
    permit: Permit,
    connection: Option<Connection>,
}

/// One of the calls that may be in flight to a destination.
struct Permit(Rc<Destination>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.permits.add_permits(1);
    }
}

impl ConnectionPool {
    pub fn new(limits: &config::Fetch) -> Self {
        Self {
            limits: limits.clone(),
            connectors: Default::default(),
            destinations: RefCell::default(),
            buffers: RefCell::default(),
            decoding: RefCell::default(),
            is_watched: Cell::default(),
        }
    }

    /// Takes a connection to where `base` says: an idle one, or a new one, which has to be there within `timeout`.
    pub async fn lease(
        self: &Rc<Self>,
        base: &Base,
        timeout: Duration,
    ) -> Result<Lease, ConnectError> {
        let destination = self.destination(base);
        match destination.permits.try_acquire() {
            Ok(permit) => permit.forget(),
            // It is never closed.
            Err(_) => {
                if let Ok(permit) = destination.permits.acquire().await {
                    permit.forget();
                }
            }
        }
        let permit = Permit(destination);
        let connection = match self.take_idle(&permit.0) {
            Some(connection) => connection,
            None => {
                let connecting = self.connector(base.is_tls())(base.url().clone());
                let io = actix_rt::time::timeout(timeout, connecting)
                    .await
                    .map_err(|_| ConnectError::Timeout)??;
                let now = Instant::now();
                Connection {
                    io,
                    opened: now,
                    used: now,
                }
            }
        };
        Ok(Lease {
            pool: self.clone(),
            permit,
            connection: Some(connection),
        })
    }

    fn destination(self: &Rc<Self>, base: &Base) -> Rc<Destination> {
        let mut destinations = self.destinations.borrow_mut();
        let destination = destinations.entry(base.number()).or_insert_with(|| {
            // Also of one whose connections are never kept nothing must be left.
            self.watch();
            Rc::new(Destination {
                idle: RefCell::default(),
                permits: Semaphore::new(self.limits.connections_max.max(1)),
            })
        });
        destination.clone()
    }

    /// The connection that was used last: the others are closed as soon as they are not needed.
    fn take_idle(&self, destination: &Destination) -> Option<Connection> {
        let now = Instant::now();
        loop {
            let connection = destination.idle.borrow_mut().pop();
            let mut connection = connection?;
            if !connection.is_old(now, self.idle()) && connection.is_quiet() {
                return Some(connection);
            }
        }
    }

    fn idle(&self) -> Duration {
        Duration::from_millis(self.limits.idle_ms)
    }

    /// What opens connections of a kind. How long that may take is each call's own affair.
    fn connector(&self, is_tls: bool) -> &Open {
        self.connectors[usize::from(is_tls)].get_or_init(|| {
            let connector = awc::Connector::new()
                .connector(connect::Connector {
                    is_tls,
                    stand_in: self.limits.stand_in,
                })
                .timeout(NEVER)
                .limit(0)
                .finish();
            Box::new(move |uri| {
                let connecting = connector.call(awc::Connect { uri, addr: None });
                Box::pin(async move {
                    let connection = connecting.await?;
                    Ok(Box::new(connection) as BoxedSocket)
                })
            })
        })
    }

    /// A buffer for an answer.
    pub fn buffer(&self) -> BytesMut {
        let kept = self.buffers.borrow_mut().pop();
        kept.unwrap_or_else(|| BytesMut::with_capacity(BUFFER_BYTES))
    }

    /// Takes a buffer back, unless somebody still reads what is in it, or it has grown.
    pub fn keep_buffer(&self, mut buffer: BytesMut) {
        buffer.clear();
        let mut buffers = self.buffers.borrow_mut();
        if buffers.len() < BUFFERS_MAX
            && buffer.try_reclaim(BUFFER_BYTES)
            && buffer.capacity() < 2 * BUFFER_BYTES
        {
            buffers.push(buffer);
        }
    }

    /// For actix's decoder.
    pub fn decoding(&self) -> ServiceConfig {
        let mut decoding = self.decoding.borrow_mut();
        decoding.get_or_insert_with(ServiceConfig::default).clone()
    }

    /// Closes what has been idle for too long, for as long as there is anything.
    fn watch(self: &Rc<Self>) {
        if self.is_watched.replace(true) {
            return;
        }
        let pool = self.clone();
        actix_rt::spawn(async move {
            let idle = pool.idle();
            while pool.close_old(idle) {
                let every = (idle / 4).clamp(Duration::from_millis(20), Duration::from_secs(5));
                actix_rt::time::sleep(every).await;
            }
            pool.is_watched.set(false);
        });
    }

    /// Tells whether anything is left.
    fn close_old(&self, idle: Duration) -> bool {
        let now = Instant::now();
        let mut old = Vec::new();
        let mut destinations = self.destinations.borrow_mut();
        destinations.retain(|_, destination| {
            let mut kept = destination.idle.borrow_mut();
            old.extend(kept.extract_if(.., |connection| {
                connection.is_old(now, idle) || !connection.is_quiet()
            }));
            !kept.is_empty() || Rc::strong_count(destination) > 1
        });
        let is_used = !destinations.is_empty();
        if !is_used {
            *self.decoding.borrow_mut() = None;
            self.buffers.take();
        }
        is_used
    }
}

impl Lease {
    /// A loan of a connection that the caller has opened. For the fuzz targets, whose connections are memory.
    #[doc(hidden)]
    pub fn of(pool: &Rc<ConnectionPool>, io: BoxedSocket) -> Self {
        let destination = Destination {
            idle: RefCell::default(),
            permits: Semaphore::new(0),
        };
        let now = Instant::now();
        Self {
            pool: pool.clone(),
            permit: Permit(Rc::new(destination)),
            connection: Some(Connection {
                io,
                opened: now,
                used: now,
            }),
        }
    }

    /// Where the connection came from.
    pub fn pool(&self) -> &Rc<ConnectionPool> {
        &self.pool
    }

    /// The stream; `None` once it is given back or closed.
    pub fn io(&mut self) -> Option<Pin<&mut BoxedSocket>> {
        Some(Pin::new(&mut self.connection.as_mut()?.io))
    }

    /// Keeps the connection for the next call to the same place.
    pub fn give_back(&mut self) {
        let idle = self.pool.limits.idle_ms;
        if let Some(mut connection) = self.connection.take().filter(|_| idle > 0) {
            connection.used = Instant::now();
            self.permit.0.idle.borrow_mut().push(connection);
        }
    }

    /// Closes the connection.
    pub fn close(&mut self) {
        self.connection = None;
    }
}

impl Connection {
    fn is_old(&self, now: Instant, idle: Duration) -> bool {
        now.saturating_duration_since(self.used) > idle
            || now.saturating_duration_since(self.opened) > LIFETIME
    }

    /// Whether the other end has neither closed it nor said anything unasked.
    fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let mut read = ReadBuf::new(&mut byte);
        let mut cx = Context::from_waker(Waker::noop());
        let polled = Pin::new(&mut self.io).poll_read(&mut cx, &mut read);
        polled.is_pending()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_call_goes_to_any_more_is_forgotten() {
        let limits = config::Fetch {
            idle_ms: 80,
            ..config::Fetch::default()
        };
        actix_rt::System::new().block_on(async {
            let pool = Rc::new(ConnectionPool::new(&limits));
            let base = Base::parse("http://127.0.0.1:1").expect("a base");
            let held = pool.destination(&base);
            actix_rt::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(pool.destinations.borrow().len(), 1);
            drop(held);
            let forgotten = async {
                while !pool.destinations.borrow().is_empty() {
                    actix_rt::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let timeout = Duration::from_secs(20);
            let waited = actix_rt::time::timeout(timeout, forgotten).await;
            waited.expect("nothing is kept");
        });
    }
}
