//! An answer that is written bit by bit, on its way out.

use std::io;
use std::task::{Context, Poll};

use actix_http::Response;
use bytes::Bytes;
use extension_api::abi;

use super::client_side::ClientSide;
use super::state::{GIVEN_UP, Handle, OVER, Refused, STREAMING};
use crate::boundary::completion::{Completion, Outcome, complete};
use crate::http::body::{Body, BodySource};
use crate::platform::slice::{Slice, give_way};
use crate::runtime::contract_checks::{self, Rule};
use crate::runtime::worker::{Worker, current};

/// The answer whose head is `response`, with a body that is written bit by bit.
#[inline(never)]
pub(super) fn stream(client: ClientSide, response: Response<Body>) -> Response<Body> {
    response.map_body(|_, declared| {
        Body::of_source(Streaming {
            client,
            size: declared.declared(),
            sent: 0,
            is_broken: false,
            has_paused: false,
        })
    })
}

/// The body of a streamed answer.
pub struct Streaming {
    client: ClientSide,
    /// What was declared as Content-Length.
    size: Option<u64>,
    sent: u64,
    /// It ended before it was whole.
    is_broken: bool,
    /// What was sent before that has had its chance to go out.
    has_paused: bool,
}

impl BodySource for Streaming {
    fn declared(&self) -> Option<u64> {
        self.size
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let request = self.client.handle();
        let local_state = request.local_state();
        // Whatever writes or reads while this polls need not wake it.
        let waker = {
            let mut local = local_state.borrow_mut();
            local.is_being_polled = true;
            local.stream.waker.take()
        };
        let mut slice = Slice::default();
        let polled = loop {
            if let Some(polled) = self.waiting() {
                break Poll::Ready(polled);
            }
            if self.is_broken {
                self.has_paused = true;
                cx.waker().wake_by_ref();
                break Poll::Pending;
            }
            if slice.is_over() {
                give_way(cx);
                break Poll::Pending;
            }
            if !request.poll_pending(local_state, cx) {
                break Poll::Pending;
            }
        };
        let mut local = local_state.borrow_mut();
        local.is_being_polled = false;
        if polled.is_pending() {
            let waker = waker.filter(|waker| waker.will_wake(cx.waker()));
            local.stream.waker = waker.or_else(|| Some(cx.waker().clone()));
        }
        polled
    }
}

impl Streaming {
    /// What is there of the stream; the inner `None` is its end.
    fn waiting(&mut self) -> Option<Option<io::Result<Bytes>>> {
        let mut local = self.client.handle().local_state().borrow_mut();
        if let Some(chunk) = local.stream.chunk.take() {
            local.stream.chunk = local.stream.next.take();
            if let Some(written) = local.stream.written.take()
                && let Some(worker) = current()
            {
                complete(worker, written, Outcome::OK);
            }
            self.sent += chunk.len() as u64;
            if let Some(size) = self.size.filter(|size| self.sent > *size) {
                note_length(size, self.sent);
            }
            return Some(Some(Ok(chunk)));
        }
        let ended = local.stream.ended?;
        let other_size = self.size.filter(|size| ended && self.sent != *size);
        if let Some(size) = other_size.filter(|_| !self.has_paused) {
            note_length(size, self.sent);
        }
        let is_whole = ended && self.size.is_none_or(|size| self.sent >= size);
        match is_whole {
            true => Some(None),
            // actix drops what it has not yet written when a body fails: what came before goes out first.
            false if !self.has_paused => {
                self.is_broken = true;
                None
            }
            false => Some(Some(Err(io::Error::other(
                "the extension broke its answer off",
            )))),
        }
    }
}

fn note_length(declared: u64, sent: u64) {
    contract_checks::note(Rule::TrueLength, || {
        format!("{declared} bytes were declared and {sent} written")
    });
}

impl Handle {
    /// Takes the next chunk of a streamed answer.
    pub fn write(
        &self,
        worker: &'static Worker,
        chunk: Bytes,
        mut completion: Completion,
    ) -> Result<(), Refused> {
        let Some(local) = self.local() else {
            return Err((completion, abi::EXT_GONE));
        };
        let mut local = local.borrow_mut();
        let stage = self.stage();
        if local.flight.is_none() {
            return Err((completion, abi::EXT_GONE));
        }
        completion.hold(local.flight.clone());
        if stage == Some(GIVEN_UP) {
            return Err((completion, abi::EXT_GONE));
        }
        if stage == Some(OVER) {
            complete(worker, completion, Outcome::of_status(abi::EXT_CANCELLED));
            return Ok(());
        }
        if stage == Some(STREAMING) && chunk.is_empty() {
            complete(worker, completion, Outcome::OK);
            return Ok(());
        }
        if stage != Some(STREAMING) {
            return Err((completion, abi::EXT_STAGE));
        }
        if local.stream.written.is_some() {
            return Err((completion, abi::EXT_BUSY));
        }
        if local.stream.chunk.is_none() {
            local.stream.chunk = Some(chunk);
            complete(worker, completion, Outcome::OK);
        } else {
            local.stream.next = Some(chunk);
            local.stream.written = Some(completion);
        }
        local.stream.wake_connection();
        Ok(())
    }

    /// Ends a streamed answer, and with it the extension's side.
    pub fn end(&self, worker: &'static Worker, whole: bool) -> Result<(), i32> {
        let Some(local) = self.local() else {
            return Err(abi::EXT_GONE);
        };
        let is_over = match self.stage() {
            Some(STREAMING) => false,
            Some(OVER) => true,
            Some(GIVEN_UP) => return Err(abi::EXT_GONE),
            Some(_) => return Err(abi::EXT_STAGE),
            None => return Err(abi::EXT_GONE),
        };
        {
            let mut local = local.borrow_mut();
            local.stream.ended = Some(whole);
            local.stream.wake_connection();
        }
        self.finish(worker);
        if is_over { Err(abi::EXT_GONE) } else { Ok(()) }
    }
}
