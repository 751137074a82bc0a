//! A request's body on its way in, counted against the limit.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_http::header::HeaderMap;
use actix_http::{Payload, Request};
use bytes::Bytes;
use extension_api::abi;
use futures_core::Stream;

use crate::http::client_connection::ClientConnection;
use crate::http::facts::RequestFacts;
use crate::upstream::body::RequestBody;

/// The request's body on its way in, counted against the limit.
pub struct Incoming {
    payload: Payload,
    left: u64,
    /// What is still to come of a body that the connection does not end by itself.
    ends_after: Option<u64>,
    failed: Option<i32>,
    /// That on which it comes, where its framing has no bound of its own: where no length is known.
    framed_on: Option<Rc<ClientConnection>>,
}

impl Incoming {
    /// A body of which at most `bytes_max` are taken; its length, where that is declared.
    pub fn new(
        payload: Payload,
        length: Option<u64>,
        bytes_max: u64,
        connection: &Rc<ClientConnection>,
    ) -> Self {
        let framed_on = length.is_none().then(|| connection.clone());
        if let Some(connection) = &framed_on {
            connection.limit_body(bytes_max);
        }
        Self {
            payload,
            left: bytes_max,
            ends_after: None,
            failed: None,
            framed_on,
        }
    }

    /// The body is over after so many bytes, whatever follows.
    fn ending_after(mut self, length: Option<u64>) -> Self {
        self.ends_after = length;
        self
    }

    /// The next chunk; the failure is a status of the ABI, and stays.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, i32>>> {
        loop {
            if let Some(failed) = self.failed {
                return Poll::Ready(Some(Err(failed)));
            }
            if self.ends_after == Some(0) {
                return Poll::Ready(None);
            }
            if self.has_too_much_framing() {
                self.failed = Some(abi::EXT_TOO_LARGE);
                continue;
            }
            let Poll::Ready(polled) = Pin::new(&mut self.payload).poll_next(cx) else {
                if let Some(connection) = &self.framed_on {
                    connection.wake_when_too_much(cx.waker());
                }
                return Poll::Pending;
            };
            match polled {
                None if self.ends_after.is_some() => self.failed = Some(abi::EXT_BROKEN),
                None => {
                    if let Some(connection) = self.framed_on.take() {
                        connection.lift_limit();
                    }
                    return Poll::Ready(None);
                }
                Some(Ok(chunk)) if chunk.is_empty() => {}
                Some(Ok(mut chunk)) => {
                    match self.cut(&mut chunk).left.checked_sub(chunk.len() as u64) {
                        Some(left) => {
                            self.left = left;
                            return Poll::Ready(Some(Ok(chunk)));
                        }
                        None => self.failed = Some(abi::EXT_TOO_LARGE),
                    }
                }
                Some(Err(_)) => self.failed = Some(abi::EXT_BROKEN),
            }
        }
    }

    fn has_too_much_framing(&self) -> bool {
        let connection = self.framed_on.as_ref();
        connection.is_some_and(|connection| connection.has_sent_too_much())
    }

    /// Cuts off what is not of the body any more.
    fn cut(&mut self, chunk: &mut Bytes) -> &mut Self {
        if let Some(to_come) = &mut self.ends_after {
            chunk.truncate(usize::try_from(*to_come).unwrap_or(usize::MAX));
            *to_come -= chunk.len() as u64;
        }
        self
    }

    /// Whether more arrived than is allowed.
    pub fn is_too_large(&self) -> bool {
        self.failed == Some(abi::EXT_TOO_LARGE)
    }
}

/// The body of a request that may have one, and its length.
#[inline(never)]
pub fn incoming(
    request: &Request,
    facts: &RequestFacts,
    payload: Payload,
    bytes_max: u64,
    connection: &Rc<ClientConnection>,
) -> (Option<Incoming>, Option<u64>) {
    let length = facts.content_length;
    // Of a request that asks for a WebSocket, which no extension can have, actix gives everything until the connection
    // ends. Asking does not change what its body is.
    let ends_after = (facts.has_upgrade && asks_for_websocket(&request.head().headers))
        .then(|| length.unwrap_or(0));
    if ends_after == Some(0) {
        return (None, Some(0));
    }
    let body = Incoming::new(payload, length, bytes_max, connection).ending_after(ends_after);
    (Some(body), length)
}

/// Whether actix takes what follows a head for a WebSocket's: its own rule.
fn asks_for_websocket(headers: &HeaderMap) -> bool {
    use actix_http::header::{TRANSFER_ENCODING, UPGRADE};
    let is_websocket = |value: &actix_http::header::HeaderValue| {
        let value = value.as_bytes().trim_ascii();
        value.eq_ignore_ascii_case(b"websocket")
    };
    headers.contains_key(UPGRADE)
        && headers.get_all(UPGRADE).any(is_websocket)
        && !headers.contains_key(TRANSFER_ENCODING)
}

impl RequestBody for Incoming {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, i32>>> {
        Self::poll_chunk(self, cx)
    }
}
