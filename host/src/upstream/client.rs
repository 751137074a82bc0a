//! Makes calls: a worker's way to elsewhere.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use actix_http::StatusCode;
use actix_http::header::HeaderMap;
use actix_rt::time::sleep;

use super::body::OutgoingBody;
use super::call::Call;
use super::call_error::CallError;
use super::exchange::Exchange;
use super::pool::ConnectionPool;
use super::response_body::ResponseBody;
use crate::config;

thread_local! {
    static CURRENT: RefCell<Option<Rc<Upstream>>> = const { RefCell::new(None) };
}

/// Gives this worker its way to elsewhere.
pub fn start(limits: &config::Fetch) -> Rc<Upstream> {
    let upstream = Rc::new(Upstream::new(limits));
    CURRENT.set(Some(upstream.clone()));
    upstream
}

/// This worker's way to elsewhere; `None` on a thread that is no worker, or is ending.
pub fn current() -> Option<Rc<Upstream>> {
    CURRENT.try_with(|current| current.borrow().clone()).ok()?
}

/// A worker's way to elsewhere.
pub struct Upstream {
    limits: config::Fetch,
    pool: Rc<ConnectionPool>,
}

/// An answer whose head has arrived.
pub struct UpstreamResponse {
    /// The status.
    pub status: StatusCode,
    /// The headers as they came.
    pub headers: HeaderMap,
    /// The body, still to come.
    pub body: ResponseBody,
}

impl Upstream {
    /// No connection yet.
    pub fn new(limits: &config::Fetch) -> Self {
        Self {
            limits: limits.clone(),
            pool: Rc::new(ConnectionPool::new(limits)),
        }
    }

    /// How long to wait for the head of an answer; `None`: for ever.
    pub fn timeout(&self, call: &Call) -> Option<Duration> {
        let first_byte = call.limits.first_byte.or(self.limits.first_byte_timeout());
        let total = call.limits.total.or(self.limits.total_timeout());
        [first_byte, total].into_iter().flatten().min()
    }

    /// Makes the call, once, and follows redirects where asked to. Whoever calls gives up after [`timeout`](Self::timeout):
    /// that needs a timer, which the callers have.
    pub async fn call(
        &self,
        mut call: Call,
        mut body: OutgoingBody,
    ) -> Result<UpstreamResponse, CallError> {
        let connect = call.limits.connect.unwrap_or(self.limits.connect_timeout());
        let stall = call.limits.first_byte.or(self.limits.first_byte_timeout());
        let total = call.limits.total.or(self.limits.total_timeout());
        let total = total.map(|total| Box::pin(sleep(total)));
        loop {
            let Call {
                base,
                head,
                follow,
                decompress,
                ..
            } = call;
            let sent = follow.as_ref().and_then(|_| body.clone_bytes());
            let lease = self.pool.lease(&base, connect).await?;
            let mut exchange = Box::new(Exchange::new(lease, head, body));
            let head = std::future::poll_fn(|cx| exchange.poll_head(cx)).await?;
            let (status, headers) = (head.status, head.headers);
            if let Some(mut follow) = follow
                && let Some((base, sent)) = follow.next(&base, status, &headers, sent)
                && let Some(next) = Call::redirected(base, follow, decompress)
            {
                call = next;
                body = sent;
                continue;
            }
            return Ok(UpstreamResponse {
                body: ResponseBody::new(exchange, &headers, decompress, stall, total),
                status,
                headers,
            });
        }
    }
}
