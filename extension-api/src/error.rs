//! [`Error`]: what a handler may return instead of an answer.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;

use crate::fetch_error::FetchError;

/// What handlers return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure: a status, a code and a message for the caller, and a cause for the log.
///
/// The host answers `{"errors":[{"message":…,"extensions":{"code":…}}]}`. Every standard error becomes one by `?`:
/// a [`FetchError`] a 502 or 504, any other a 500, whose message only administrators read.
///
/// ```
/// use extension_api::prelude::*;
///
/// fn amount(text: &str) -> Result<u32> {
///     text.parse().map_err(|error| Error::bad_request("The amount is not a number.").cause(error))
/// }
///
/// let error = amount("twelve").unwrap_err();
/// assert_eq!((error.status(), error.code()), (400, "INVALID_PAYLOAD"));
/// assert_eq!(error.to_string(), "The amount is not a number.");
/// ```
// One pointer wide, so that a `Result` which is `Ok` stays small.
pub struct Error(Box<Parts>);

const CLIENT_LEFT: &str = "CLIENT_CLOSED_REQUEST";

struct Parts {
    status: u16,
    code: Cow<'static, str>,
    message: Cow<'static, str>,
    cause: String,
}

impl Error {
    /// An error of any status from 400 to 599.
    pub fn new(
        status: u16,
        code: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self(Box::new(Parts {
            status,
            code: code.into(),
            message: message.into(),
            cause: String::new(),
        }))
    }

    /// 400 `INVALID_PAYLOAD`.
    pub fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(400, "INVALID_PAYLOAD", message)
    }

    /// 401 `INVALID_CREDENTIALS`.
    pub fn unauthorized(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(401, "INVALID_CREDENTIALS", message)
    }

    /// 403 `FORBIDDEN`.
    pub fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(403, "FORBIDDEN", message)
    }

    /// 404 `NOT_FOUND`.
    pub fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(404, "NOT_FOUND", message)
    }

    /// 500 `INTERNAL_SERVER_ERROR`: the message is for the log and for administrators; other callers read the host's.
    pub fn internal(message: impl fmt::Display) -> Self {
        Self::new(500, "INTERNAL_SERVER_ERROR", message.to_string())
    }

    /// 499: there is nobody to answer, and nothing to log.
    pub(crate) fn client_left() -> Self {
        Self::new(499, CLIENT_LEFT, "The client has left.")
    }

    pub(crate) fn is_client_left(&self) -> bool {
        self.0.code == CLIENT_LEFT
    }

    /// Adds the cause, for the log.
    pub fn cause(mut self, cause: impl fmt::Display) -> Self {
        self.0.cause = cause.to_string();
        self
    }

    /// The status of the answer.
    pub fn status(&self) -> u16 {
        self.0.status
    }

    /// The code, for programs.
    pub fn code(&self) -> &str {
        &self.0.code
    }

    /// The message, for the caller.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The cause, for the log; empty where there is none.
    pub(crate) fn cause_text(&self) -> &str {
        &self.0.cause
    }

    /// Message and cause, for an operator.
    pub(crate) fn report(&self) -> String {
        match self.0.cause.as_str() {
            "" => self.0.message.to_string(),
            cause => format!("{}: {cause}", self.0.message),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.0.status, self.0.code, self.report())
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        match (&error as &dyn Any).downcast_ref::<FetchError>() {
            Some(fetch) => match fetch.as_answer() {
                Some((status, code, message)) => Self::new(status, code, message).cause(fetch),
                None => Self::internal(fetch),
            },
            None => Self::internal(&error).cause(sources(&error)),
        }
    }
}

/// The causes of an error, from the nearest to the first.
fn sources(error: &dyn std::error::Error) -> String {
    let mut text = String::new();
    let mut next = error.source();
    while let Some(source) = next {
        let separator = if text.is_empty() { "" } else { ": " };
        text += &format!("{separator}{source}");
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standard_error_is_a_500_with_its_sources_as_cause() {
        #[derive(Debug)]
        struct Outer(std::num::ParseIntError);
        impl fmt::Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("cannot read the answer")
            }
        }
        impl std::error::Error for Outer {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                Some(&self.0)
            }
        }
        let error = Error::from(Outer("x".parse::<u8>().unwrap_err()));
        assert_eq!(
            (error.status(), error.code()),
            (500, "INTERNAL_SERVER_ERROR")
        );
        assert_eq!(
            error.report(),
            "cannot read the answer: invalid digit found in string"
        );
    }

    #[test]
    fn a_fetch_error_is_a_gateway_error_without_detail() {
        let timeout = Error::from(FetchError::Timeout("10.0.0.1:443 after 5 s".into()));
        assert_eq!((timeout.status(), timeout.code()), (504, "GATEWAY_TIMEOUT"));
        let connect = Error::from(FetchError::Connect("10.0.0.1:443 refused".into()));
        assert_eq!((connect.status(), connect.code()), (502, "BAD_GATEWAY"));
        assert!(!connect.message().contains("10.0.0.1"));
        assert!(connect.report().contains("10.0.0.1"));
    }
}
