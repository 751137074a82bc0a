//! The bodies of answers: known whole, or from a source that gives them chunk by chunk.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_http::body::{BodySize, MessageBody};
use actix_http::{ConnectionType, Response, StatusCode};
use bytes::Bytes;

use super::client_connection::RequestInFlight;
use crate::platform::slice::{Slice, give_way};

/// The body of an answer.
pub enum Body {
    /// None.
    Empty,
    /// None yet: an extension is going to stream one, of this length where it has declared it.
    Declared(Option<u64>),
    /// None, where another answer would have one of this size: see [`without_body`].
    Left(BodySize),
    /// Known whole.
    Bytes(Bytes),
    /// Comes chunk by chunk.
    Source(Box<Sourced<dyn BodySource>>),
}

/// A body that comes chunk by chunk.
pub struct Sourced<S: ?Sized> {
    /// The connection counts as busy until it is over.
    in_flight: Option<RequestInFlight>,
    /// actix asks for chunk after chunk for as long as they are there, and the client takes them.
    slice: Slice,
    source: S,
}

/// What gives a body chunk by chunk.
pub trait BodySource {
    /// The declared length.
    fn declared(&self) -> Option<u64>;

    /// The next chunk; an error breaks the connection off, so that the client sees that the answer is not whole.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>>;
}

impl Body {
    /// A body that comes from `source`.
    pub fn of_source(source: impl BodySource + 'static) -> Self {
        Self::Source(Box::new(Sourced {
            in_flight: None,
            slice: Slice::default(),
            source,
        }))
    }

    /// The length that the extension declared for a stream.
    pub fn declared(&self) -> Option<u64> {
        match self {
            Self::Declared(length) => *length,
            _ => None,
        }
    }

    /// Whether the body comes chunk by chunk, and is not known whole.
    pub fn has_source(&self) -> bool {
        matches!(self, Self::Source(..))
    }

    /// Keeps the request in flight for as long as its body is on its way.
    pub fn keep(&mut self, request: RequestInFlight) {
        if let Self::Source(body) = self {
            body.in_flight = Some(request);
        }
    }
}

impl Sourced<dyn BodySource> {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let polled = if self.slice.is_over() {
            // What is there so far goes out meanwhile.
            give_way(cx);
            Poll::Pending
        } else {
            self.source.poll_chunk(cx)
        };
        if polled.is_pending() {
            self.slice = Slice::default();
        }
        polled
    }
}

impl MessageBody for Body {
    type Error = io::Error;

    fn size(&self) -> BodySize {
        match self {
            Self::Empty | Self::Declared(_) => BodySize::Sized(0),
            Self::Left(size) => *size,
            Self::Bytes(bytes) => BodySize::Sized(bytes.len() as u64),
            Self::Source(body) => {
                let declared = body.source.declared();
                declared.map_or(BodySize::Stream, BodySize::Sized)
            }
        }
    }

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        match self.get_mut() {
            Self::Empty | Self::Declared(_) | Self::Left(_) => Poll::Ready(None),
            Self::Bytes(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Bytes(bytes) => Poll::Ready(Some(Ok(std::mem::take(bytes)))),
            Self::Source(body) => body.poll_chunk(cx),
        }
    }
}

/// Leaves the body of an answer out where HTTP has none: the answer to HEAD, 204 and 304. actix's encoder would write a body
/// that is given all the same, or the end of a chunked one, and the client would take it for the next answer.
pub fn without_body(response: Response<Body>, is_head: bool) -> Response<Body> {
    if has_none(response.status()) {
        response.set_body(Body::Empty)
    } else if is_head {
        // Its size is still what GET would tell.
        response.map_body(|_, body| Body::Left(body.size()))
    } else {
        response
    }
}

/// Whether HTTP has no body for a status.
pub fn has_none(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Lets the end of the connection be the end of a body without a length: HTTP/1.0 knows no chunks.
pub fn end_by_closing(response: &mut Response<Body>) {
    if response.body().size() == BodySize::Stream {
        let head = response.head_mut();
        head.no_chunking(true);
        head.set_connection_type(ConnectionType::Close);
    }
}
