//! [`FetchError`]: why a call got no answer, or no more of it.

use std::error;
use std::fmt;

use crate::abi::*;

/// Why there is no answer to a call, or no more of it. Each says what is known of the cause, for a log.
///
/// As a handler's error it becomes a 504 for a time limit, a 500 for a call that could not be made, and a 502 for the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FetchError {
    /// The target is not allowed under `[fetch]` in extension.toml.
    NotAllowed(String),
    /// The host's name cannot be resolved.
    Resolve(String),
    /// No connection could be made.
    Connect(String),
    /// The TLS handshake failed.
    Tls(String),
    /// A time limit passed.
    Timeout(String),
    /// The connection broke off.
    Broken(String),
    /// The request ended, or the extension is being stopped.
    Cancelled(String),
    /// The call could not be made as it was asked for: a header that cannot be one, for example.
    Invalid(String),
    /// The answer's body is larger than what was asked for can hold.
    TooLarge(String),
}

impl FetchError {
    /// What a status of the ABI says of a call.
    pub(crate) fn new(status: ext_status, message: String) -> Self {
        match status {
            EXT_DENIED => Self::NotAllowed(message),
            EXT_RESOLVE => Self::Resolve(message),
            EXT_CONNECT => Self::Connect(message),
            EXT_TLS => Self::Tls(message),
            EXT_TIMEOUT => Self::Timeout(message),
            EXT_CANCELLED | EXT_GONE => Self::Cancelled(message),
            EXT_INVALID | EXT_STAGE => Self::Invalid(message),
            _ => Self::Broken(message),
        }
    }

    /// The status of the ABI, and the message, that a call failed with.
    #[cfg(feature = "testing")]
    pub(crate) fn into_status(self) -> (ext_status, String) {
        match self {
            Self::NotAllowed(message) => (EXT_DENIED, message),
            Self::Resolve(message) => (EXT_RESOLVE, message),
            Self::Connect(message) => (EXT_CONNECT, message),
            Self::Tls(message) => (EXT_TLS, message),
            Self::Timeout(message) => (EXT_TIMEOUT, message),
            Self::Broken(message) | Self::TooLarge(message) => (EXT_BROKEN, message),
            Self::Cancelled(message) => (EXT_CANCELLED, message),
            Self::Invalid(message) => (EXT_INVALID, message),
        }
    }

    /// What the caller of a handler is answered for it: status, code and message. Nothing of the detail, which is for the log.
    /// `None`: it is the extension's own failure.
    pub(crate) fn as_answer(&self) -> Option<(u16, &'static str, &'static str)> {
        let message = match self {
            Self::Timeout(_) => {
                let message = "The upstream did not answer in time.";
                return Some((504, "GATEWAY_TIMEOUT", message));
            }
            Self::Resolve(_) | Self::Connect(_) | Self::Tls(_) => {
                "The upstream could not be reached."
            }
            Self::Broken(_) => "The upstream broke off its answer.",
            Self::TooLarge(_) => "The upstream's answer is too large.",
            Self::NotAllowed(_) | Self::Cancelled(_) | Self::Invalid(_) => return None,
        };
        Some((502, "BAD_GATEWAY", message))
    }
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sentence, detail) = match self {
            Self::NotAllowed(detail) => (
                "the target is not allowed by [fetch] in extension.toml",
                detail,
            ),
            Self::Resolve(detail) => ("cannot resolve the upstream's name", detail),
            Self::Connect(detail) => ("cannot connect to the upstream", detail),
            Self::Tls(detail) => ("cannot agree on TLS with the upstream", detail),
            Self::Timeout(detail) => ("the upstream did not answer in time", detail),
            Self::Broken(detail) => ("the connection to the upstream broke off", detail),
            Self::Cancelled(detail) => ("the call was cancelled", detail),
            Self::Invalid(detail) => ("the call is not a valid one", detail),
            Self::TooLarge(detail) => ("the upstream's answer is too large", detail),
        };
        if detail.is_empty() {
            f.write_str(sentence)
        } else {
            write!(f, "{sentence}: {detail}")
        }
    }
}

impl error::Error for FetchError {}
