//! The body of a call.

use std::pin::Pin;
use std::task::{Context, Poll};

use actix_http::body::{BodySize, MessageBody};
use bytes::Bytes;
use extension_api::abi;

/// A body that comes chunk by chunk from a layer above.
pub trait RequestBody {
    /// The next chunk; the failure is a status of the ABI.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, i32>>>;
}

/// The body of a call.
pub enum OutgoingBody {
    /// None.
    Empty,
    /// Known whole.
    Bytes(Bytes),
    /// Passed on as it comes, and its length where it is declared.
    Stream(Box<dyn RequestBody>, Option<u64>),
}

impl OutgoingBody {
    /// A body that is known whole.
    pub fn of(bytes: Bytes) -> Self {
        if bytes.is_empty() {
            Self::Empty
        } else {
            Self::Bytes(bytes)
        }
    }

    /// A copy, where the body is known whole.
    pub fn clone_bytes(&self) -> Option<Bytes> {
        match self {
            Self::Empty => Some(Bytes::new()),
            Self::Bytes(bytes) => Some(bytes.clone()),
            Self::Stream(..) => None,
        }
    }
}

impl MessageBody for OutgoingBody {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        match self {
            Self::Empty => BodySize::None,
            Self::Bytes(bytes) => BodySize::Sized(bytes.len() as u64),
            Self::Stream(_, Some(length)) => BodySize::Sized(*length),
            Self::Stream(_, None) => BodySize::Stream,
        }
    }

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Bytes(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Bytes(bytes) => Poll::Ready(Some(Ok(std::mem::take(bytes)))),
            Self::Stream(body, _) => body
                .poll_chunk(cx)
                .map_err(|status| BodyFailed(status).into()),
        }
    }
}

/// Why a body could not be sent to its end: a status of the ABI.
#[derive(Debug)]
pub struct BodyFailed(pub i32);

impl std::fmt::Display for BodyFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            abi::EXT_TOO_LARGE => "the request's body is over the limit",
            _ => "the request's body broke off",
        })
    }
}

impl std::error::Error for BodyFailed {}
