//! What is answered: bodies, the host's own errors, and what an extension's failure looks like to its caller.

use std::pin::Pin;
use std::task::{Context, Poll};

use actix_http::body::{BodySize, MessageBody};
use actix_http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_http::{ConnectionType, Response, StatusCode};
use bytes::Bytes;
use serde::Serialize;

use crate::boundary::request::{RequestId, Shared, Streaming};
use crate::extension::Flight;
use crate::http::headers;
use crate::server::connection::InHand;
use crate::upstream::AnswerBody;

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
    /// Written by an extension, chunk by chunk.
    Stream(Streaming),
    /// Passed on from an upstream.
    Relay(Box<Relayed>),
}

/// A body on its way from an upstream to the client.
pub struct Relayed {
    body: AnswerBody,
    /// The extension counts as busy until the relay is done.
    _flight: Option<Flight>,
    /// So does the connection.
    in_hand: Option<InHand>,
    is_broken: bool,
}

impl Relayed {
    /// The next chunk. An error ends the connection, so that the client sees that the answer is not whole.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, std::io::Error>>> {
        if self.is_broken {
            let error = std::io::Error::other("the upstream's answer broke off");
            return Poll::Ready(Some(Err(error)));
        }
        match std::task::ready!(self.body.poll_chunk(cx)) {
            Some(Err(_)) => {
                // actix drops what it has not yet written when a body fails: what came before goes out first.
                self.is_broken = true;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Ok(chunk)) => Poll::Ready(Some(Ok(chunk))),
            None => Poll::Ready(None),
        }
    }
}

impl Body {
    /// The length that the extension declared for a stream.
    pub fn declared(&self) -> Option<u64> {
        match self {
            Self::Declared(length) => *length,
            _ => None,
        }
    }
}

impl MessageBody for Body {
    type Error = std::io::Error;

    fn size(&self) -> BodySize {
        let sized = |length: Option<u64>| length.map_or(BodySize::Stream, BodySize::Sized);
        match self {
            Self::Empty | Self::Declared(_) => BodySize::Sized(0),
            Self::Left(size) => *size,
            Self::Bytes(bytes) => BodySize::Sized(bytes.len() as u64),
            Self::Stream(stream) => sized(stream.size),
            Self::Relay(relayed) => sized(relayed.body.declared()),
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
            Self::Stream(stream) => stream.poll_chunk(cx),
            Self::Relay(relayed) => relayed.poll_chunk(cx),
        }
    }
}

/// Passes an upstream's answer on: its status, its end-to-end headers, its body as it arrives.
pub fn relay(
    status: StatusCode,
    mut headers: HeaderMap,
    body: AnswerBody,
    flight: Option<Flight>,
) -> Response<Body> {
    headers::remove_hop_by_hop(&mut headers);
    let mut response = Response::with_body(
        status,
        Body::Relay(Box::new(Relayed {
            body,
            _flight: flight,
            in_hand: None,
            is_broken: false,
        })),
    );
    // `Content-Length` stays among them: the encoder passes over it, except where it alone tells a length (HEAD, 304).
    *response.headers_mut() = headers;
    response
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

/// Names the request. An upstream's own id is passed on as it is, like all of its headers.
#[inline(never)]
pub fn with_id(mut response: Response<Body>, id: RequestId) -> Response<Body> {
    if !response.headers().contains_key(REQUEST_ID) {
        let headers = response.headers_mut();
        headers.append(REQUEST_ID, id.header_value());
    }
    response
}

/// A header's value; `None`: it may not stand in a header.
// One copy for all: written into its callers, it takes more lines of cache than it takes steps.
#[inline(never)]
pub fn value_of(bytes: &[u8]) -> Option<HeaderValue> {
    HeaderValue::from_bytes(bytes).ok()
}

/// The header that names the request.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Whether HTTP has no body for a status.
pub fn has_none(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Whether the body is still on its way, and not known whole.
pub fn is_on_its_way(response: &Response<Body>) -> bool {
    matches!(response.body(), Body::Stream(_) | Body::Relay(_))
}

/// Keeps the request in hand for as long as its body is on its way.
pub fn keep(response: Response<Body>, in_hand: InHand) -> Response<Body> {
    response.map_body(|_, mut body| {
        match &mut body {
            Body::Stream(stream) => stream.in_hand = Some(in_hand),
            Body::Relay(relayed) => relayed.in_hand = Some(in_hand),
            _ => {}
        }
        body
    })
}

/// Lets the end of the connection be the end of a body without a length: HTTP/1.0 knows no chunks.
pub fn end_by_closing(response: &mut Response<Body>) {
    if response.body().size() == BodySize::Stream {
        let head = response.head_mut();
        head.no_chunking(true);
        head.set_connection_type(ConnectionType::Close);
    }
}

/// Why the host itself answers a request.
#[derive(Debug)]
pub enum Refusal {
    /// No such mount, or no such route below it.
    NotFound {
        /// The path that was asked for.
        path: String,
    },
    /// The path is served, by other methods.
    MethodNotAllowed {
        /// Those methods.
        allow: String,
    },
    /// The operator has closed the extension for this caller.
    Forbidden,
    /// The body is over the limit.
    ContentTooLarge,
    /// The body broke off, or is not well-formed.
    BadBody,
    /// As many requests as the extension may handle are under way.
    Busy,
    /// The extension did not answer in time.
    Timeout,
    /// The extension gave the request up.
    Unanswered,
    /// Something failed that the caller can do nothing about.
    Internal,
}

/// The type of an answer in JSON.
pub const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
/// The type of an answer in plain text.
pub const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// The sentence of Directus's guide for those who may not.
pub const FORBIDDEN: &str = "You don't have permission to access this.";
/// What callers read of failures that are none of their business.
pub const UNEXPECTED: &str = "An unexpected error occurred.";

/// Answers in the host's own name.
#[cold]
pub fn refuse(refusal: &Refusal) -> Response<Body> {
    let (status, code, message) = match refusal {
        Refusal::NotFound { path } => {
            return errors_at(
                StatusCode::NOT_FOUND,
                &format!("Route {path} doesn't exist."),
                "ROUTE_NOT_FOUND",
                Some(path),
            );
        }
        Refusal::MethodNotAllowed { .. } => (
            StatusCode::METHOD_NOT_ALLOWED,
            "METHOD_NOT_ALLOWED",
            "This path is not served by that method; see the Allow header.",
        ),
        Refusal::Forbidden => (StatusCode::FORBIDDEN, "FORBIDDEN", FORBIDDEN),
        Refusal::ContentTooLarge => (
            StatusCode::PAYLOAD_TOO_LARGE,
            "CONTENT_TOO_LARGE",
            "The request's body is too large.",
        ),
        Refusal::BadBody => (
            StatusCode::BAD_REQUEST,
            "INVALID_PAYLOAD",
            "The request's body is not whole or not well-formed.",
        ),
        Refusal::Busy => (
            StatusCode::SERVICE_UNAVAILABLE,
            "SERVICE_UNAVAILABLE",
            "Too many requests at once; try again soon.",
        ),
        Refusal::Timeout => (
            StatusCode::GATEWAY_TIMEOUT,
            "GATEWAY_TIMEOUT",
            "There was no answer in time.",
        ),
        Refusal::Unanswered | Refusal::Internal => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "INTERNAL_SERVER_ERROR",
            UNEXPECTED,
        ),
    };
    let mut response = errors(status, message, code);
    let headers = response.headers_mut();
    match refusal {
        Refusal::MethodNotAllowed { allow } => {
            headers.insert(
                header::ALLOW,
                HeaderValue::from_str(allow).unwrap_or(HeaderValue::from_static("GET")),
            );
        }
        Refusal::Busy => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        _ => {}
    }
    response
}

/// What an extension says went wrong.
pub struct Failure {
    /// The status.
    pub status: StatusCode,
    /// For programs.
    pub code: Option<String>,
    /// For the caller.
    pub message: String,
    /// For the log.
    pub cause: Option<String>,
    /// It is the extension's own fault.
    pub is_panic: bool,
}

/// Answers with an extension's failure. What lies behind a 500 is shown to administrators only.
pub fn fail(failure: &Failure, request: &Shared) -> Response<Body> {
    let code = failure
        .code
        .as_deref()
        .unwrap_or_else(|| code_of(failure.status));
    let is_hidden =
        failure.status == StatusCode::INTERNAL_SERVER_ERROR && !request.accountability().admin;
    let message = match failure.message.as_str() {
        _ if is_hidden => UNEXPECTED,
        "" => failure.status.canonical_reason().unwrap_or(UNEXPECTED),
        message => message,
    };
    errors(failure.status, message, code)
}

/// The host's code for a status: "NOT_FOUND".
fn code_of(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "INVALID_PAYLOAD",
        401 => "INVALID_CREDENTIALS",
        403 => "FORBIDDEN",
        404 => "NOT_FOUND",
        405 => "METHOD_NOT_ALLOWED",
        409 => "CONFLICT",
        413 => "CONTENT_TOO_LARGE",
        415 => "UNSUPPORTED_MEDIA_TYPE",
        422 => "UNPROCESSABLE_CONTENT",
        429 => "REQUESTS_EXCEEDED",
        502 => "BAD_GATEWAY",
        503 => "SERVICE_UNAVAILABLE",
        504 => "GATEWAY_TIMEOUT",
        402..500 => "BAD_REQUEST",
        _ => "INTERNAL_SERVER_ERROR",
    }
}

/// An error in Directus's shape.
pub fn errors(status: StatusCode, message: &str, code: &str) -> Response<Body> {
    errors_at(status, message, code, None)
}

fn errors_at(status: StatusCode, message: &str, code: &str, path: Option<&str>) -> Response<Body> {
    // Structs and not `json!`, whose objects are sorted by name: Directus says the message first.
    #[derive(Serialize)]
    struct Errors<'a> {
        errors: [Error<'a>; 1],
    }
    #[derive(Serialize)]
    struct Error<'a> {
        message: &'a str,
        extensions: Extensions<'a>,
    }
    #[derive(Serialize)]
    struct Extensions<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        path: Option<&'a str>,
        code: &'a str,
    }
    json_with(
        status,
        &Errors {
            errors: [Error {
                message,
                extensions: Extensions { path, code },
            }],
        },
    )
}

/// A JSON answer.
pub fn json_with(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    // Fails for maps whose keys are no text, of which the host has none.
    with_type(
        status,
        JSON,
        serde_json::to_string(value).unwrap_or_default(),
    )
}

/// A text answer.
pub fn text(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    with_type(status, TEXT, text.into())
}

fn with_type(status: StatusCode, content_type: HeaderValue, body: String) -> Response<Body> {
    let mut response = Response::with_body(status, Body::Bytes(body.into()));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}
