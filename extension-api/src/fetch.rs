//! An outgoing call: [`Fetch`] prepares it, from a [`Base`] and a target, and [`Sending`] makes it.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use serde::Serialize;

use crate::abi::*;
use crate::body_writer::{BodyWriter, producer};
use crate::bridge::{
    BodyFuture, BodySink, Bytes, Host, Op, Outcome, OutgoingCall, Producer, current_request,
};
use crate::error::Result;
use crate::fetch_error::FetchError;
use crate::fetched::Fetched;
use crate::form::Form;
use crate::header_lines::HeaderLines;

/// A base URL that calls go to: parsed, and checked against the manifest, once. From [`Context::base`](crate::Context::base).
#[derive(Clone)]
pub struct Base {
    host: &'static Host,
    number: ext_base,
}

impl Base {
    pub(crate) fn new(host: &'static Host, number: ext_base) -> Self {
        Self { host, number }
    }
}

impl fmt::Debug for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Base({})", self.number)
    }
}

/// A call that is being prepared; [`send`](Self::send) makes it. It is never sent twice.
#[must_use = "a call is made by `send`"]
pub struct Fetch<'a> {
    base: Base,
    flags: u32,
    request: ext_request,
    method: Option<Cow<'a, str>>,
    target: Cow<'a, [u8]>,
    headers: HeaderLines,
    body: Payload<'a>,
    connect_ms: u64,
    first_byte_ms: u64,
    total_ms: u64,
}

enum Payload<'a> {
    Bytes(Bytes),
    Stream(Producer<'a>),
}

impl<'a> Fetch<'a> {
    /// A GET that ends with the request whose handler runs on this thread.
    pub(crate) fn new(base: &Base, target: Cow<'a, str>) -> Self {
        let target = match target {
            Cow::Borrowed(target) => Cow::Borrowed(target.as_bytes()),
            Cow::Owned(target) => Cow::Owned(target.into_bytes()),
        };
        Self {
            base: base.clone(),
            flags: 0,
            request: current_request(),
            method: None,
            target,
            headers: HeaderLines::default(),
            body: Payload::Bytes(Bytes::new()),
            connect_ms: 0,
            first_byte_ms: 0,
            total_ms: 0,
        }
    }

    pub(crate) fn forward(base: &Base, request: ext_request, url: &'a [u8]) -> Self {
        let flags = EXT_FETCH_TAKE_HEADERS | EXT_FETCH_TAKE_BODY;
        Self {
            flags,
            request,
            target: Cow::Borrowed(url),
            ..Self::new(base, Cow::Borrowed(""))
        }
    }

    /// Sets the method; without it, a GET, or that of the request which is passed on.
    pub fn method(mut self, method: impl Into<Cow<'a, str>>) -> Self {
        self.method = Some(method.into());
        self
    }

    /// Sets a header, in place of any others of that name.
    pub fn header(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.headers.set(name, value.as_ref());
        self
    }

    /// Keeps a header of the request that is passed on from going along.
    pub fn remove_header(mut self, name: &str) -> Self {
        self.headers.remove(name);
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.flags &= !(EXT_FETCH_TAKE_BODY | EXT_FETCH_STREAM_BODY);
        self.body = Payload::Bytes(body.into());
        self
    }

    /// Sets the body to JSON.
    pub fn json(mut self, value: &(impl Serialize + ?Sized)) -> Self {
        self.headers.set_content_type("application/json");
        match serde_json::to_vec(value) {
            Ok(json) => return self.body(json),
            Err(error) => self.headers.fail(format_args!(
                "cannot write the call's body as JSON: {error}"
            )),
        }
        self
    }

    /// Sets the body to a form. What a JSON object is as a form, [`Form`] says.
    pub fn form(mut self, form: &Form) -> Self {
        self.headers
            .set_content_type("application/x-www-form-urlencoded");
        self.body(form.as_str().to_owned())
    }

    /// Has the body written chunk by chunk, while the upstream reads it.
    pub fn stream_body(mut self, write: impl AsyncFnOnce(BodyWriter) -> Result<()> + 'a) -> Self {
        self.flags = self.flags & !EXT_FETCH_TAKE_BODY | EXT_FETCH_STREAM_BODY;
        self.body = Payload::Stream(producer(write));
        self
    }

    /// Limits the whole call, to the end of the answer's body.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.total_ms = milliseconds(limit);
        self
    }

    /// Limits the making of the connection.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_ms = milliseconds(limit);
        self
    }

    /// Limits the time from the start of the call to the answer's head.
    pub fn first_byte_timeout(mut self, limit: Duration) -> Self {
        self.first_byte_ms = milliseconds(limit);
        self
    }

    /// Follows redirects, up to ten, to allowed origins alone. Not for an answer that is relayed.
    pub fn follow_redirects(mut self) -> Self {
        self.flags |= EXT_FETCH_FOLLOW_REDIRECTS;
        self
    }

    /// Asks for a compressed answer, and gives its body decoded. Not for an answer that is relayed.
    pub fn decompress(mut self) -> Self {
        self.flags |= EXT_FETCH_DECOMPRESS;
        self
    }

    /// Makes the call; done when the answer's head is here. Dropped before, the call is cancelled.
    ///
    /// # Errors
    ///
    /// Why there is no answer. An answer with a status of 400 or above is an answer.
    pub fn send(self) -> Sending<'a> {
        Sending {
            op: self.base.host.op(),
            fetch: Some(self),
            upload: None,
            upload_error: None,
            outcome: None,
        }
    }
}

impl fmt::Debug for Fetch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetch")
            .field("base", &self.base)
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

/// The least that a limit can be: 0 stands for the host's default.
fn milliseconds(limit: Duration) -> u64 {
    u64::try_from(limit.as_micros().div_ceil(1000))
        .unwrap_or(u64::MAX)
        .max(1)
}

/// A call in progress. From [`Fetch::send`].
#[must_use = "a future does nothing unless it is awaited"]
pub struct Sending<'a> {
    fetch: Option<Fetch<'a>>,
    op: Op,
    upload: Option<Upload<'a>>,
    /// Why the producer of the body gave up.
    upload_error: Option<String>,
    outcome: Option<Outcome>,
}

struct Upload<'a> {
    sink: BodySink,
    body: BodyFuture<'a>,
}

impl Future for Sending<'_> {
    type Output = Result<Fetched, FetchError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let Some(fetch) = this.fetch.take() {
            this.upload = start(fetch, &mut this.op)?;
        }
        this.poll_upload(cx);
        if this.outcome.is_none()
            && let Poll::Ready(outcome) = this.op.poll(cx)
        {
            this.outcome = Some(outcome);
        }
        // The answer is given when the body is out, or will not be.
        match this.outcome.take() {
            Some(outcome) if outcome.status != EXT_OK => {
                let message = this.upload_error.take().unwrap_or(outcome.message);
                Poll::Ready(Err(FetchError::new(outcome.status, message)))
            }
            Some(outcome) if this.upload.is_none() => Poll::Ready(Fetched::new(outcome.fetched)),
            outcome => {
                this.outcome = outcome;
                Poll::Pending
            }
        }
    }
}

/// Starts the call, and the body that is streamed to it.
fn start<'a>(fetch: Fetch<'a>, op: &mut Op) -> Result<Option<Upload<'a>>, FetchError> {
    if let Some(fault) = fetch.headers.fault() {
        return Err(FetchError::Invalid(fault.to_owned()));
    }
    let (body, producer) = match fetch.body {
        Payload::Bytes(body) => (body, None),
        Payload::Stream(producer) => (Bytes::new(), Some(producer)),
    };
    let call = OutgoingCall {
        base: fetch.base.number,
        flags: fetch.flags,
        request: fetch.request,
        method: fetch.method.as_deref(),
        target: &fetch.target,
        headers: &fetch.headers,
        body,
        connect_ms: fetch.connect_ms,
        first_byte_ms: fetch.first_byte_ms,
        total_ms: fetch.total_ms,
    };
    let sink = fetch
        .base
        .host
        .fetch(call, op)
        .map_err(|status| FetchError::new(status, String::new()))?;
    Ok(producer.map(|producer| Upload {
        sink,
        body: producer(sink),
    }))
}

impl Sending<'_> {
    fn poll_upload(&mut self, cx: &mut Context<'_>) {
        let Some(Upload { sink, body }) = &mut self.upload else {
            return;
        };
        let Poll::Ready(result) = body.as_mut().poll(cx) else {
            return;
        };
        sink.end(if result.is_ok() { EXT_OK } else { EXT_FAILED });
        self.upload_error = result.err().map(|error| error.report());
        self.upload = None;
    }
}

impl fmt::Debug for Sending<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sending")
    }
}
