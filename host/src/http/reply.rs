//! The host's own answers: errors in Directus's shape, and what an extension's failure looks like to its caller.

use actix_http::header::{self, HeaderName, HeaderValue};
use actix_http::{Response, StatusCode};
use serde::Serialize;

use super::body::Body;
use super::request_id::RequestId;

/// Names the request. An upstream's own id is passed on as it is, like all of its headers.
#[inline(never)]
pub fn with_id(mut response: Response<Body>, id: RequestId) -> Response<Body> {
    if !response.headers().contains_key(REQUEST_ID) {
        let headers = response.headers_mut();
        headers.append(REQUEST_ID, id.header_value());
    }
    response
}

/// The header that names the request.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

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
    /// As many requests as the extension may handle are in flight.
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

/// Answers with an extension's failure. The cause of a 500 is shown to administrators only.
pub fn fail(failure: &Failure, is_admin: bool) -> Response<Body> {
    let code = failure
        .code
        .as_deref()
        .unwrap_or_else(|| code_of(failure.status));
    let is_hidden = failure.status == StatusCode::INTERNAL_SERVER_ERROR && !is_admin;
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
