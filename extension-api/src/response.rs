//! [`Response`]: what a handler answers; [`BodyWriter`]: a body that is written bit by bit.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;

use serde::Serialize;

use crate::abi::{EXT_CANCELLED, EXT_GONE, EXT_OK, ext_status};
use crate::bridge::{Bytes, FetchedHandle, Op, Outlet};
use crate::error::{Error, Result};
use crate::fetch::Fetched;
use crate::headers::Fields;

/// What a handler answers: a status, headers and a body.
///
/// A header's name or value that cannot be one (a line break in it, for example) is never sent: the caller gets a 500, the
/// log says which.
///
/// ```
/// use extension_api::prelude::*;
///
/// let answer = Response::text("Come back later.").status(503).header("retry-after", "30");
/// ```
pub struct Response {
    /// 0 for that of a relayed answer.
    pub(crate) status: u16,
    pub(crate) headers: Fields,
    pub(crate) body: Body,
}

pub(crate) enum Body {
    Bytes(Bytes),
    Relay(FetchedHandle),
    Stream(Producer<'static>),
}

impl Response {
    /// An answer of this status, from 200 to 599, without a body.
    pub fn new(status: u16) -> Self {
        Self {
            status,
            headers: Fields::default(),
            body: Body::Bytes(Bytes::new()),
        }
    }

    /// 204, without a body.
    pub fn empty() -> Self {
        Self::new(204)
    }

    /// 200 with text.
    pub fn text(text: impl Into<Bytes>) -> Self {
        Self::of_type("text/plain; charset=utf-8", text.into())
    }

    /// 200 with a value as JSON. One that JSON cannot say becomes a 500.
    pub fn json(value: &(impl Serialize + ?Sized)) -> Self {
        let mut response = Self::of_type("application/json; charset=utf-8", Bytes::new());
        match serde_json::to_vec(value) {
            Ok(json) => response.body = Body::Bytes(json.into()),
            Err(error) => response
                .headers
                .fail(format_args!("cannot write the answer as JSON: {error}")),
        }
        response
    }

    /// 200 with bytes; say what they are by `.header("content-type", …)`.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        Self {
            body: Body::Bytes(bytes.into()),
            ..Self::new(200)
        }
    }

    /// 200 with a body that `producer` writes while the client reads: a slow client slows it down. The head is sent before it
    /// runs. Where it fails or panics, the connection is broken off, so that the client sees that the answer is not whole.
    ///
    /// ```
    /// use extension_api::prelude::*;
    ///
    /// async fn echo(req: Request) -> Result<Response> {
    ///     Ok(Response::stream(async move |mut out| {
    ///         while let Some(chunk) = req.chunk().await? {
    ///             out.write(chunk).await?;
    ///         }
    ///         Ok(())
    ///     }))
    /// }
    /// ```
    pub fn stream(producer: impl AsyncFnOnce(BodyWriter) -> Result<()> + 'static) -> Self {
        Self {
            body: Body::Stream(Producer::new(producer)),
            ..Self::new(200)
        }
    }

    /// The answer to a fetch as it is: status, end-to-end headers, and the body as it arrives. It passes through the host
    /// alone, which costs what a built-in proxy costs. `status`, `set_header` and `remove_header` change its head;
    /// `header` sets, too.
    pub fn relay(fetched: Fetched) -> Self {
        Self {
            status: 0,
            headers: Fields::default(),
            body: Body::Relay(fetched.into_handle()),
        }
    }

    /// Sets the status, from 200 to 599.
    pub fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// Adds a header, beside others of that name.
    pub fn header(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.headers.append(name, value.as_ref());
        self
    }

    /// Sets a header, in place of others of that name.
    pub fn set_header(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.headers.set(name, value.as_ref());
        self
    }

    /// Removes the headers of that name, also those of a relayed answer.
    pub fn remove_header(mut self, name: &str) -> Self {
        match self.body {
            Body::Relay(_) => self.headers.remove(name),
            _ => self.headers.drop_name(name),
        }
        self
    }

    fn of_type(content_type: &'static str, body: Bytes) -> Self {
        Self {
            status: 200,
            headers: Fields::with_content_type(content_type),
            body: Body::Bytes(body),
        }
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = match &self.body {
            Body::Bytes(bytes) => format!("{} bytes", bytes.len()),
            Body::Relay(_) => "relayed".to_owned(),
            Body::Stream(_) => "streamed".to_owned(),
        };
        f.debug_struct("Response")
            .field("status", &self.status)
            .field("body", &body)
            .finish_non_exhaustive()
    }
}

// ---- A body, bit by bit ----

type Running<'a> = Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// Writes a body when it is time to.
pub(crate) struct Producer<'a>(Box<dyn FnOnce(BodyWriter) -> Running<'a> + 'a>);

impl<'a> Producer<'a> {
    pub(crate) fn new(produce: impl AsyncFnOnce(BodyWriter) -> Result<()> + 'a) -> Self {
        Self(Box::new(|out| Box::pin(async move { produce(out).await })))
    }

    pub(crate) fn start(self, outlet: Outlet) -> Running<'a> {
        (self.0)(BodyWriter {
            outlet,
            op: outlet.op(),
        })
    }
}

/// Where a streamed body is written to: an answer, or an outgoing call.
pub struct BodyWriter {
    outlet: Outlet,
    op: Op,
}

impl BodyWriter {
    /// Writes a chunk, and waits until there is room for the next one.
    ///
    /// # Errors
    ///
    /// When the other side has left; best passed on by `?`.
    pub async fn write(&mut self, chunk: impl Into<Bytes>) -> Result<()> {
        let chunk = chunk.into();
        // A write whose future was dropped is under way all the same.
        self.settle().await?;
        if chunk.is_empty() {
            return Ok(());
        }
        written(self.outlet.write(chunk, &mut self.op))?;
        self.settle().await
    }

    async fn settle(&mut self) -> Result<()> {
        if !self.op.is_started() {
            return Ok(());
        }
        written(poll_fn(|cx| self.op.poll(cx)).await.status)
    }
}

fn written(status: ext_status) -> Result<()> {
    match status {
        EXT_OK => Ok(()),
        EXT_CANCELLED | EXT_GONE => Err(Error::client_left()),
        other => Err(Error::internal(format_args!(
            "cannot write the body: the host says {other}"
        ))),
    }
}

impl fmt::Debug for BodyWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BodyWriter")
    }
}
