//! The body of an answer that is known whole, on its way to the client.

use std::hint::cold_path;
use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::request;
use crate::http::body::{Body, BodySource};
use crate::runtime::in_flight::Flight;

/// actix takes a body that is known whole at once, and copies it. What is larger than this is given to it as the client reads: the
/// request is in flight until then, and the memory is the extension's alone.
const AT_ONCE_BYTES_MAX: usize = 64 << 10;

/// As much as is given at once of a larger one.
const PIECE_BYTES: usize = 32 << 10;

/// The body of an answer that is known whole.
#[inline]
pub(super) fn whole_body(request: request::Handle, bytes: Bytes) -> Body {
    if bytes.len() <= AT_ONCE_BYTES_MAX {
        return Body::Bytes(bytes);
    }
    cold_path();
    Body::of_source(Pieces {
        left: bytes,
        _flight: request.hand_flight_on(),
    })
}

/// A large body.
struct Pieces {
    left: Bytes,
    /// The request is in flight until the body has been given to the connection.
    _flight: Option<Flight>,
}

impl BodySource for Pieces {
    fn declared(&self) -> Option<u64> {
        Some(self.left.len() as u64)
    }

    fn poll_chunk(&mut self, _: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let bytes = PIECE_BYTES.min(self.left.len());
        let piece = self.left.split_to(bytes);
        Poll::Ready(Some(piece).filter(|piece| !piece.is_empty()).map(Ok))
    }
}
