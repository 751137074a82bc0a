//! An answer that is written bit by bit, on its way out.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use actix_http::Response;
use bytes::Bytes;
use extension_api::abi;

use super::{ANSWERED, ClientSide, Handle, OVER, Refused, STREAMING, UNDECIDED};
use crate::http::reply::Body;
use crate::runtime::completion::{Completion, Outcome};
use crate::runtime::contract_checks::{self, Rule};
use crate::runtime::worker::Worker;
use crate::server::connection::InHand;

/// A streamed answer on its way from the extension to the connection: while one chunk waits for the connection, the extension
/// may get the next one ready; with two waiting, it waits.
#[derive(Default)]
pub(super) struct Outgoing {
    chunk: Option<Bytes>,
    next: Option<Bytes>,
    /// Called when there is room for another chunk.
    pub(super) written: Option<Completion>,
    /// `Some` once the extension has ended the stream: whole, or to be broken off.
    pub(super) ended: Option<bool>,
    /// There while the connection waits for what comes next.
    pub(super) waker: Option<Waker>,
}

impl Outgoing {
    pub(super) fn wake_connection(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

impl ClientSide {
    /// The answer whose head is `response`, with a body that is written bit by bit.
    #[inline(never)]
    pub(super) fn stream(self, response: Response<Body>) -> Response<Body> {
        if let Some(connection) = &self.0.own().borrow().connection {
            connection.streams(self.0);
        }
        response.map_body(|_, size| {
            Body::Stream(Streaming {
                in_hand: None,
                client: self,
                size: size.declared(),
                sent: 0,
                is_broken: false,
                has_paused: false,
            })
        })
    }
}

/// The body of a streamed answer.
pub struct Streaming {
    /// The connection counts as busy until the stream is over.
    pub in_hand: Option<InHand>,
    client: ClientSide,
    /// What was declared as Content-Length.
    pub size: Option<u64>,
    sent: u64,
    /// It ended before it was whole.
    is_broken: bool,
    /// What was sent before that has had its chance to go out.
    has_paused: bool,
}

impl Streaming {
    /// The next chunk; an error breaks the connection off.
    pub fn poll_chunk(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, std::io::Error>>> {
        let request = self.client.0;
        let own = request.own();
        // Whatever writes or reads while this polls need not wake it.
        let waker = {
            let mut local = own.borrow_mut();
            local.is_being_polled = true;
            local.stream.waker.take()
        };
        let polled = loop {
            if let Some(polled) = self.waiting() {
                break Poll::Ready(polled);
            }
            if self.is_broken {
                self.has_paused = true;
                cx.waker().wake_by_ref();
                break Poll::Pending;
            }
            if !request.go_on(own, cx) {
                break Poll::Pending;
            }
        };
        let mut local = own.borrow_mut();
        local.is_being_polled = false;
        if polled.is_pending() {
            let waker = waker.filter(|waker| waker.will_wake(cx.waker()));
            local.stream.waker = waker.or_else(|| Some(cx.waker().clone()));
        }
        polled
    }

    /// What is there of the stream; the inner `None` is its end.
    fn waiting(&mut self) -> Option<Option<Result<Bytes, std::io::Error>>> {
        let mut local = self.client.0.own().borrow_mut();
        if let Some(chunk) = local.stream.chunk.take() {
            local.stream.chunk = local.stream.next.take();
            if let Some(written) = local.stream.written.take() {
                crate::runtime::worker::with_current(|worker| {
                    worker.complete(written, Outcome::OK)
                });
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
            false => Some(Some(Err(std::io::Error::other(
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
        worker: &Rc<Worker>,
        chunk: Bytes,
        mut completion: Completion,
    ) -> Result<(), Refused> {
        let Some(local) = self.local() else {
            return Err((completion, abi::EXT_GONE));
        };
        let mut local = local.borrow_mut();
        let decision = self.shared().decision.load(Ordering::Acquire);
        if local.flight.is_none() {
            return Err((completion, abi::EXT_GONE));
        }
        completion.hold(local.flight.clone());
        if decision == OVER || chunk.is_empty() && decision == STREAMING {
            worker.complete(
                completion,
                Outcome::failed(if decision == OVER {
                    abi::EXT_CANCELLED
                } else {
                    abi::EXT_OK
                }),
            );
            return Ok(());
        }
        if decision != STREAMING {
            return Err((completion, abi::EXT_STAGE));
        }
        if local.stream.written.is_some() {
            return Err((completion, abi::EXT_BUSY));
        }
        if local.stream.chunk.is_none() {
            local.stream.chunk = Some(chunk);
            worker.complete(completion, Outcome::OK);
        } else {
            local.stream.next = Some(chunk);
            local.stream.written = Some(completion);
        }
        local.stream.wake_connection();
        Ok(())
    }

    /// Ends a streamed answer, and with it the extension's side.
    pub fn end(&self, worker: &Rc<Worker>, whole: bool) -> Result<(), i32> {
        let Some(local) = self.local() else {
            return Err(abi::EXT_GONE);
        };
        let decision = self.shared().decision.load(Ordering::Acquire);
        if decision == UNDECIDED || decision == ANSWERED {
            return Err(abi::EXT_STAGE);
        }
        {
            let mut local = local.borrow_mut();
            local.stream.ended = Some(whole);
            local.stream.wake_connection();
        }
        self.finish(worker);
        if decision == OVER {
            Err(abi::EXT_GONE)
        } else {
            Ok(())
        }
    }
}
