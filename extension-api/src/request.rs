//! [`Request`]: what a handler is asked.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::abi::*;
use crate::accountability::Accountability;
use crate::bridge::{Bytes, Hold, Op};
use crate::error::{Error, Result};
use crate::fetch::{Base, Fetch};
use crate::form::{self, Form};
use crate::headers::Headers;

/// A request, whose head is here and whose body is still to come.
///
/// The host answers for a handler once its `Request` is dropped, as it is by itself when the handler returns.
pub struct Request {
    hold: Hold,
    /// There from the first read on.
    body: RefCell<Option<Reading>>,
}

impl Request {
    pub(crate) fn new(hold: Hold) -> Self {
        let body = RefCell::default();
        Self { hold, body }
    }

    /// The method, as sent. `HEAD` also comes to a route for `GET`.
    pub fn method(&self) -> &str {
        self.hold
            .head()
            .text(|head| &head.method)
            .unwrap_or_default()
    }

    /// Path and query below the mount, as sent, not decoded; begins with `/`.
    pub fn url(&self) -> &str {
        self.hold.head().text(|head| &head.url).unwrap_or_default()
    }

    /// The path below the mount, as sent, not decoded; begins with `/`.
    pub fn path(&self) -> &str {
        self.hold.head().text(|head| &head.path).unwrap_or_default()
    }

    /// What follows the `?`, as sent, not decoded; empty without one.
    pub fn query(&self) -> &str {
        self.hold
            .head()
            .text(|head| &head.query)
            .unwrap_or_default()
    }

    /// The pairs of the query, decoded, in their order; a name may repeat.
    pub fn query_pairs(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        form::pairs(self.query())
    }

    /// A parameter of the route's pattern, decoded: `id` of `/:id`, `*` of `/*`.
    ///
    /// # Panics
    ///
    /// Where the pattern has no such parameter: the first call of the route shows it.
    pub fn param(&self, name: &str) -> Cow<'_, str> {
        let params = self
            .hold
            .head()
            .list(|head| (&head.params, &head.param_count));
        let param = params
            .iter()
            .find(|param| param.text(|field| &field.name) == Some(name));
        let param =
            param.unwrap_or_else(|| panic!("the route's pattern has no parameter {name:?}"));
        form::decode(param.text(|field| &field.value).unwrap_or_default(), false)
    }

    /// The first header of that name, in any case, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.hold.header(name, 0)?).ok()
    }

    /// All headers. For one or two, `header` is quicker.
    pub fn headers(&self) -> Headers<'_> {
        Headers::new(self.hold.headers())
    }

    /// Who asks.
    pub fn accountability(&self) -> Accountability<'_> {
        Accountability::new(self.hold.head().part(|head| &head.accountability))
    }

    /// `address:port` of the connection, which is a proxy's where there is one; `accountability().ip()` is the client's.
    pub fn peer(&self) -> &str {
        self.hold.head().text(|head| &head.peer).unwrap_or_default()
    }

    /// The request's id, as in the log and in the answer's `X-Request-Id`.
    pub fn id(&self) -> &str {
        self.hold.head().text(|head| &head.id).unwrap_or_default()
    }

    /// How long the host waits for the answer, from when the request came; `None`: without a limit.
    pub fn deadline(&self) -> Option<Duration> {
        match self.hold.head().raw().deadline_ms {
            0 => None,
            ms => Some(Duration::from_millis(ms)),
        }
    }

    /// The length of the body, where the client has said it.
    pub fn body_length(&self) -> Option<u64> {
        u64::try_from(self.hold.head().raw().body_length).ok()
    }

    /// Whether there is a body that calls itself JSON.
    pub fn is_json(&self) -> bool {
        let content_type = self.header("content-type").unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        let suffix = essence.rsplit(['/', '+']).next().unwrap_or_default();
        suffix.eq_ignore_ascii_case("json") && self.body_length() != Some(0)
    }

    // ---- The body ----

    /// The next chunk of the body; `None` at its end.
    ///
    /// # Errors
    ///
    /// 413 where the body is over the limit, 400 where it broke off.
    pub async fn chunk(&self) -> Result<Option<Bytes>> {
        let body = &self.body;
        poll_fn(|cx| {
            let mut body = body.borrow_mut();
            body.get_or_insert_with(|| Reading::new(&self.hold))
                .poll_chunk(&self.hold, cx)
        })
        .await
    }

    /// The whole body, once. One that arrives in one chunk is not copied.
    ///
    /// # Errors
    ///
    /// As for `chunk`; a 500 where a part of it has been read before.
    pub async fn bytes(&self) -> Result<Bytes> {
        if self.body.borrow().is_some() {
            return Err(Error::internal("the request's body has been read before"));
        }
        let Some(first) = self.chunk().await? else {
            return Ok(Bytes::new());
        };
        let Some(second) = self.chunk().await? else {
            return Ok(first);
        };
        // A length is a claim: no more is reserved for it than this; what really comes makes the rest.
        const RESERVED_MAX: u64 = 1 << 20;
        let expected = self.body_length().unwrap_or(0).min(RESERVED_MAX) as usize;
        let mut whole = Vec::with_capacity(expected.max(first.len() + second.len()));
        whole.extend_from_slice(&first);
        whole.extend_from_slice(&second);
        while let Some(chunk) = self.chunk().await? {
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.into())
    }

    /// The whole body, once, as text.
    ///
    /// # Errors
    ///
    /// As for `bytes`; 400 `INVALID_PAYLOAD` where it is not UTF-8.
    pub async fn text(&self) -> Result<String> {
        String::from_utf8(self.bytes().await?.into()).map_err(|error| {
            Error::bad_request("Invalid payload. The body is not UTF-8.").cause(error)
        })
    }

    /// The whole body, once, from JSON.
    ///
    /// # Errors
    ///
    /// As for `bytes`; 400 `INVALID_PAYLOAD` where it is not such JSON.
    pub async fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.bytes().await?).map_err(|error| {
            Error::bad_request(format!(
                "Invalid payload. The body is not the JSON expected: {error}."
            ))
        })
    }

    /// The whole body, once, as a form.
    ///
    /// # Errors
    ///
    /// As for `text`.
    pub async fn form(&self) -> Result<Form> {
        self.text().await.map(Form::from_encoded)
    }

    /// The whole body, on a blocking route; empty on others.
    pub fn body(&self) -> &[u8] {
        self.hold.whole_body()
    }

    /// Prepares this request's passing on to `base`: the same method, path and query, end-to-end headers, and the body as it
    /// arrives. Every part can be changed before it is sent.
    pub fn forward(&self, base: &Base) -> Fetch<'_> {
        let url = self.hold.head().bytes(|head| &head.url).unwrap_or_default();
        Fetch::forward(base, self.hold.handle(), url)
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.method(), self.path(), self.id())
    }
}

/// How far the body has been read.
struct Reading {
    op: Op,
    left: Option<u64>,
    started: bool,
    ended: bool,
}

impl Reading {
    fn new(hold: &Hold) -> Self {
        let left = u64::try_from(hold.head().raw().body_length).ok();
        Self {
            op: hold.op(),
            left,
            started: false,
            ended: left == Some(0),
        }
    }

    fn poll_chunk(&mut self, hold: &Hold, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        let started = std::mem::replace(&mut self.started, true);
        if self.ended {
            return Poll::Ready(Ok(None));
        }
        if !started && !hold.whole_body().is_empty() {
            self.ended = true;
            return Poll::Ready(Ok(Some(hold.whole_body().to_vec().into())));
        }
        // The operation outlives a future that is dropped meanwhile: no chunk is lost.
        let (mut status, mut data) = (EXT_OK, Bytes::new());
        if !self.op.is_started() {
            status = hold.start_read(&mut self.op);
        }
        if status == EXT_OK {
            let outcome = ready!(self.op.poll(cx));
            (status, data) = (outcome.status, outcome.data);
        }
        self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
        self.ended = status != EXT_OK || self.left == Some(0);
        Poll::Ready(match status {
            EXT_OK => Ok(Some(data)),
            EXT_END => Ok(None),
            EXT_TOO_LARGE => Err(Error::new(
                413,
                "CONTENT_TOO_LARGE",
                "The request's body is too large.",
            )),
            EXT_BROKEN => Err(Error::bad_request("Invalid payload. The body broke off.")),
            EXT_CANCELLED | EXT_GONE => Err(Error::client_left()),
            other => Err(Error::internal(format_args!(
                "cannot read the body: the host says {other}"
            ))),
        })
    }
}
