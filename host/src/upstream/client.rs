//! Makes calls: a worker's way to elsewhere.

use std::cell::RefCell;
use std::rc::Rc;

use actix_http::StatusCode;
use actix_http::header::HeaderMap;
use actix_rt::time::sleep;

use super::body::OutgoingBody;
use super::call::Call;
use super::call_error::CallError;
use super::exchange::Exchange;
use super::limit::Limit;
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
    pub fn head_limit(&self, call: &Call) -> Option<Limit> {
        let first_byte = Limit::first_byte(&call.limits, &self.limits);
        let total = Limit::total(&call.limits, &self.limits);
        let limits = [first_byte, total].into_iter().flatten();
        limits.min_by_key(|limit| limit.time)
    }

    /// Makes the call, once, and follows redirects where asked to. Whoever calls gives up after [`head_limit`](Self::head_limit):
    /// that needs a timer, which the callers have.
    pub async fn call(
        &self,
        mut call: Call,
        mut body: OutgoingBody,
    ) -> Result<UpstreamResponse, CallError> {
        let connect = Limit::connect(&call.limits, &self.limits);
        let stall = Limit::first_byte(&call.limits, &self.limits);
        let total = Limit::total(&call.limits, &self.limits);
        let total = total.map(|limit| (Box::pin(sleep(limit.time)), limit));
        loop {
            let Call {
                base,
                head,
                follow,
                decompress,
                ..
            } = call;
            let sent = follow.as_ref().and_then(|_| body.clone_bytes());
            let lease = self.pool.lease(&base, connect.time).await;
            let lease =
                lease.map_err(|error| CallError::of_connect(&error, base.origin(), connect))?;
            let mut exchange = Box::new(Exchange::new(lease, head, body));
            let head = std::future::poll_fn(|cx| exchange.poll_head(cx)).await;
            let head = head.map_err(|failed| failed.at(base.origin()))?;
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
                body: ResponseBody::new(base, exchange, &headers, decompress, stall, total),
                status,
                headers,
            });
        }
    }
}
