//! Why there is no answer to a call.

use awc::error::ConnectError;
use extension_api::abi;

use super::body::BodyFailed;
use super::connect;
use super::limit::Limit;
use super::origin::Origin;

/// Why there is no answer.
#[derive(Debug)]
pub struct CallError {
    /// A status of the ABI.
    pub status: i32,
    /// For the log: the origin and the cause; no header, no target, no body.
    pub message: String,
}

impl CallError {
    /// There is no connection to the origin.
    pub fn of_connect(error: &ConnectError, origin: &Origin, limit: Limit) -> Self {
        let status = match error {
            ConnectError::Resolver(_) | ConnectError::NoRecords => abi::EXT_RESOLVE,
            ConnectError::Timeout => abi::EXT_TIMEOUT,
            ConnectError::Io(cause) if is_tls_failure(cause) => abi::EXT_TLS,
            _ => abi::EXT_CONNECT,
        };
        let cause = match error {
            ConnectError::Timeout => format!("no connection {limit}"),
            error => error.to_string(),
        };
        Self {
            status,
            message: format!("{origin}: {cause}"),
        }
    }

    /// The same, with the origin that was called.
    pub fn at(self, origin: &Origin) -> Self {
        Self {
            message: format!("{origin}: {}", self.message),
            ..self
        }
    }

    /// The request's body could not be sent to its end.
    pub fn of_body(cause: Box<dyn std::error::Error>) -> Self {
        let status = match cause.downcast_ref::<BodyFailed>() {
            Some(BodyFailed(status)) => *status,
            None => abi::EXT_BROKEN,
        };
        Self {
            status,
            message: cause.to_string(),
        }
    }

    /// The request's body is not as long as was said.
    pub fn of_length() -> Self {
        Self::of_body(BodyFailed(abi::EXT_BROKEN).into())
    }
}

fn is_tls_failure(cause: &std::io::Error) -> bool {
    cause.get_ref().is_some_and(|cause| {
        cause.is::<connect::TlsFailed>()
            || cause
                .source()
                .is_some_and(|cause| cause.is::<connect::TlsFailed>())
    })
}
