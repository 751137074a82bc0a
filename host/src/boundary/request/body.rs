//! A request's body on its way in.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use actix_http::header::HeaderMap;
use actix_http::{Payload, Request};
use bytes::Bytes;
use extension_api::abi;
use futures_core::Stream;

use super::{Client, Handle, Local, Refused};
use crate::http::facts::Noted;
use crate::runtime::completion::{Completion, Outcome};
use crate::runtime::worker::Worker;

/// What is called with the next chunk of a body, and the task that waits for it where the connection does not.
pub(super) type Reading = (Completion, Option<tokio::task::AbortHandle>);

/// The request's body on its way in, counted against the limit.
pub struct Incoming {
    payload: Payload,
    left: u64,
    /// What is still to come of a body that the connection does not end by itself.
    ends_after: Option<u64>,
    failed: Option<i32>,
}

impl Incoming {
    /// A body of which at most `bytes_max` are taken.
    pub fn new(payload: Payload, bytes_max: u64) -> Self {
        Self {
            payload,
            left: bytes_max,
            ends_after: None,
            failed: None,
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
            match std::task::ready!(Pin::new(&mut self.payload).poll_next(cx)) {
                None if self.ends_after.is_some() => self.failed = Some(abi::EXT_BROKEN),
                None => return Poll::Ready(None),
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
pub(super) fn incoming(
    request: &Request,
    noted: &Noted,
    payload: Payload,
    bytes_max: u64,
) -> (Option<Incoming>, Option<u64>) {
    let length = noted.content_length;
    // Of a request that asks for a WebSocket, which no extension can have, actix gives everything until the connection
    // ends. Asking does not change what its body is.
    let ends_after = (noted.has_upgrade && asks_for_websocket(&request.head().headers))
        .then(|| length.unwrap_or(0));
    if ends_after == Some(0) {
        return (None, Some(0));
    }
    let body = Incoming::new(payload, bytes_max).ending_after(ends_after);
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

impl Handle {
    /// Reads the next chunk of the body and completes with it.
    pub fn read(&self, worker: &Rc<Worker>, mut completion: Completion) -> Result<(), Refused> {
        let Some(local) = self.local() else {
            return Err((completion, abi::EXT_GONE));
        };
        let mut own = local.borrow_mut();
        if own.flight.is_none() {
            return Err((completion, abi::EXT_GONE));
        }
        if own.reading.is_some() {
            return Err((completion, abi::EXT_BUSY));
        }
        completion.hold(own.flight.clone());
        let has_left = matches!(own.client, Client::Ended);
        let polled = match &mut own.payload {
            _ if has_left => Poll::Ready(Outcome::failed(abi::EXT_CANCELLED)),
            None => Poll::Ready(Outcome::failed(abi::EXT_END)),
            Some(payload) => payload
                .poll_chunk(&mut Context::from_waker(Waker::noop()))
                .map(Outcome::of_chunk),
        };
        match polled {
            Poll::Ready(outcome) => worker.complete(completion, outcome),
            Poll::Pending => {
                own.reading = Some((completion, None));
                if !own.wake_connection() {
                    self.read_in_task(&mut own);
                }
            }
        }
        Ok(())
    }

    /// Lets a task of its own wait for what is being read.
    pub(super) fn read_in_task(self, local: &mut Local) {
        let Some((_, task)) = &mut local.reading else {
            return;
        };
        let reading = actix_rt::spawn(async move {
            let (completion, outcome) = std::future::poll_fn(|cx| self.poll_read(cx)).await;
            completion.call(outcome);
        });
        *task = Some(reading.abort_handle());
    }

    /// What is being read, once it is there.
    pub(super) fn poll_read(self, cx: &mut Context<'_>) -> Poll<(Completion, Outcome)> {
        let mut local = self.own().borrow_mut();
        if local.reading.is_none() {
            return Poll::Pending;
        }
        let outcome = match &mut local.payload {
            Some(payload) => std::task::ready!(payload.poll_chunk(cx).map(Outcome::of_chunk)),
            None => Outcome::failed(abi::EXT_CANCELLED),
        };
        match local.reading.take() {
            Some((completion, _)) => Poll::Ready((completion, outcome)),
            None => Poll::Pending,
        }
    }

    /// Takes the body, for a fetch that passes it on. `None`: there is none, or it is being read.
    pub fn take_body(&self) -> Option<Incoming> {
        let mut local = self.local()?.borrow_mut();
        if local.reading.is_some() {
            None
        } else {
            local.payload.take()
        }
    }

    /// Reads the whole body into the head. The error is a status of the ABI.
    pub async fn collect_body(&self) -> Result<(), i32> {
        let mut whole = bytes::BytesMut::new();
        let mut first = None;
        loop {
            let chunk = std::future::poll_fn(|cx| {
                let Some(local) = self.local() else {
                    return Poll::Ready(Some(Err(abi::EXT_CANCELLED)));
                };
                let mut local = local.borrow_mut();
                let has_left = matches!(local.client, Client::Ended);
                match &mut local.payload {
                    Some(payload) => payload.poll_chunk(cx),
                    None if has_left => Poll::Ready(Some(Err(abi::EXT_CANCELLED))),
                    None => Poll::Ready(None),
                }
            });
            match chunk.await {
                Some(chunk) if first.is_none() && whole.is_empty() => first = Some(chunk?),
                Some(chunk) => {
                    if let Some(first) = first.take() {
                        whole.extend_from_slice(&first);
                    }
                    whole.extend_from_slice(&chunk?);
                }
                None => break,
            }
        }
        self.set_body(first.unwrap_or_else(|| whole.freeze()));
        Ok(())
    }

    /// Keeps the collected body for the head, before the extension has seen the request.
    #[expect(
        unsafe_code,
        reason = "the head is read without a lock once the extension has the handle"
    )]
    fn set_body(&self, body: Bytes) {
        // SAFETY: the extension is called only after this, so no other reader of the entry exists.
        unsafe { self.shared_mut(|shared| shared.body = body) };
    }
}
