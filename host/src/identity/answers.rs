//! What the client reads where its credential is not good, in Directus's words.

use std::fmt;

use actix_http::header::{self, HeaderValue};
use actix_http::{Response, StatusCode};
use bytes::Bytes;

use crate::http::body::Body;
use crate::http::reply::JSON;

/// A credential that is not good, and what the client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthError {
    /// What is wrong.
    pub denial: Denial,
    /// Whether the answer also takes the session cookie away.
    pub clear_cookie: bool,
}

/// The value of the `Set-Cookie` header that takes a bad session cookie away.
const CLEAR_SESSION_COOKIE: &str = "directus_session_token=; Path=/; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; HttpOnly; SameSite=Lax";

/// What is wrong with a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// No user has this token.
    InvalidCredentials,
    /// It was good once.
    TokenExpired,
    /// It is a JWT that was not signed with our secret, or has a claim that it must not have.
    InvalidToken,
    /// There is one in the query and another one in the header.
    SeveralTokens,
    /// The user may not ask from this address.
    InvalidIp,
    /// No source can tell at the moment.
    Unavailable,
}

impl Denial {
    /// The status of the answer.
    pub fn status(self) -> StatusCode {
        match self {
            Denial::InvalidCredentials | Denial::TokenExpired | Denial::InvalidIp => {
                StatusCode::UNAUTHORIZED
            }
            Denial::InvalidToken => StatusCode::FORBIDDEN,
            Denial::SeveralTokens => StatusCode::BAD_REQUEST,
            Denial::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The code in the answer, for programs.
    pub fn code(self) -> &'static str {
        match self {
            Denial::InvalidCredentials => "INVALID_CREDENTIALS",
            Denial::TokenExpired => "TOKEN_EXPIRED",
            Denial::InvalidToken => "INVALID_TOKEN",
            Denial::SeveralTokens => "INVALID_PAYLOAD",
            Denial::InvalidIp => "INVALID_IP",
            Denial::Unavailable => "SERVICE_UNAVAILABLE",
        }
    }

    /// The message in the answer.
    pub fn message(self) -> &'static str {
        match self {
            Denial::InvalidCredentials => "Invalid user credentials.",
            Denial::TokenExpired => "Token expired.",
            Denial::InvalidToken => "Invalid token.",
            Denial::SeveralTokens => {
                "Invalid payload. The request uses more than one method for including an access token."
            }
            Denial::InvalidIp => "Invalid IP address.",
            Denial::Unavailable => "It cannot be checked who asks; try again soon.",
        }
    }

    /// The body of the answer, JSON.
    pub fn body(self) -> &'static str {
        match self {
            Denial::InvalidCredentials => {
                r#"{"errors":[{"message":"Invalid user credentials.","extensions":{"code":"INVALID_CREDENTIALS"}}]}"#
            }
            Denial::TokenExpired => {
                r#"{"errors":[{"message":"Token expired.","extensions":{"code":"TOKEN_EXPIRED"}}]}"#
            }
            Denial::InvalidToken => {
                r#"{"errors":[{"message":"Invalid token.","extensions":{"code":"INVALID_TOKEN"}}]}"#
            }
            Denial::SeveralTokens => {
                r#"{"errors":[{"message":"Invalid payload. The request uses more than one method for including an access token.","extensions":{"reason":"The request uses more than one method for including an access token","code":"INVALID_PAYLOAD"}}]}"#
            }
            Denial::InvalidIp => {
                r#"{"errors":[{"message":"Invalid IP address.","extensions":{"code":"INVALID_IP"}}]}"#
            }
            Denial::Unavailable => {
                r#"{"errors":[{"message":"It cannot be checked who asks; try again soon.","extensions":{"code":"SERVICE_UNAVAILABLE"}}]}"#
            }
        }
    }

    /// Whether the token can never become good. An expired one still tells a browser which session to refresh.
    pub fn is_final(self) -> bool {
        matches!(self, Denial::InvalidCredentials | Denial::InvalidToken)
    }
}

impl From<Denial> for AuthError {
    fn from(denial: Denial) -> AuthError {
        AuthError {
            denial,
            clear_cookie: false,
        }
    }
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.denial.message())
    }
}

impl std::error::Error for AuthError {}

/// The response to a request whose credential is not good.
#[cold]
pub fn unauthorized(error: &AuthError) -> Response<Body> {
    let status = error.denial.status();
    let body = Bytes::from_static(error.denial.body().as_bytes());
    let mut response = Response::with_body(status, Body::Bytes(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, JSON);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if error.clear_cookie {
        headers.insert(
            header::SET_COOKIE,
            HeaderValue::from_static(CLEAR_SESSION_COOKIE),
        );
    }
    response
}
