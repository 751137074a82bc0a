//! [`Response`]: what a handler answers.

use std::fmt;

use serde::Serialize;

use crate::body_writer::{BodyWriter, producer};
use crate::bridge::{Answer, Body, Bytes};
use crate::error::Result;
use crate::fetched::Fetched;
use crate::header_lines::HeaderLines;

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
pub struct Response(Answer);

impl Response {
    /// An answer of this status, from 200 to 599, without a body.
    pub fn new(status: u16) -> Self {
        Self(Answer {
            status,
            headers: HeaderLines::default(),
            body: Body::Bytes(Bytes::new()),
        })
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
            Ok(json) => response.0.body = Body::Bytes(json.into()),
            Err(error) => response
                .0
                .headers
                .fail(format_args!("cannot write the answer as JSON: {error}")),
        }
        response
    }

    /// 200 with bytes; say what they are by `.header("content-type", …)`.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        Self(Answer {
            body: Body::Bytes(bytes.into()),
            ..Self::new(200).0
        })
    }

    /// 200 with a body that `write` writes while the client reads: a slow client slows it down. The head is sent before it
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
    pub fn stream(write: impl AsyncFnOnce(BodyWriter) -> Result<()> + 'static) -> Self {
        Self(Answer {
            body: Body::Stream(producer(write)),
            ..Self::new(200).0
        })
    }

    /// The answer to a fetch as it is: status, end-to-end headers, and the body as it arrives. It passes through the host
    /// alone, which costs what a built-in proxy costs. `status`, `set_header` and `remove_header` change its head;
    /// `header` sets, too.
    pub fn relay(fetched: Fetched) -> Self {
        Self(Answer {
            status: 0,
            headers: HeaderLines::default(),
            body: Body::Relay(fetched.into_handle()),
        })
    }

    /// Sets the status, from 200 to 599.
    pub fn status(mut self, status: u16) -> Self {
        self.0.status = status;
        self
    }

    /// Adds a header, beside others of that name.
    pub fn header(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.0.headers.append(name, value.as_ref());
        self
    }

    /// Sets a header, in place of others of that name.
    pub fn set_header(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.0.headers.set(name, value.as_ref());
        self
    }

    /// Removes the headers of that name, also those of a relayed answer.
    pub fn remove_header(mut self, name: &str) -> Self {
        match self.0.body {
            Body::Relay(_) => self.0.headers.remove(name),
            _ => self.0.headers.drop_name(name),
        }
        self
    }

    fn of_type(content_type: &'static str, body: Bytes) -> Self {
        Self(Answer {
            status: 200,
            headers: HeaderLines::with_content_type(content_type),
            body: Body::Bytes(body),
        })
    }
}

impl From<Response> for Answer {
    fn from(response: Response) -> Self {
        response.0
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = match &self.0.body {
            Body::Bytes(bytes) => format!("{} bytes", bytes.len()),
            Body::Relay(_) => "relayed".to_owned(),
            Body::Stream(_) => "streamed".to_owned(),
        };
        f.debug_struct("Response")
            .field("status", &self.0.status)
            .field("body", &body)
            .finish_non_exhaustive()
    }
}
