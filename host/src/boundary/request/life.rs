//! How a request is answered and comes to its end: whichever side ends first.

use std::cell::RefCell;
use std::hint::cold_path;
use std::time::Duration;

use actix_http::{Request, Response};
use extension_api::abi;

use super::incoming::Incoming;
use super::state::{
    ANSWERED, Client, GIVEN_UP, Handle, Local, OVER, Refused, STREAMING, UNDECIDED, requests,
};
use crate::boundary::completion::{Completion, Outcome, complete};
use crate::http::body::Body;
use crate::http::reply::{self, Refusal};
use crate::platform::log::Level;
use crate::runtime::contract_checks::{self, Rule};
use crate::runtime::deadline::Expirable;
use crate::runtime::slot_state::NotAdvanced;
use crate::runtime::worker::Worker;

impl Handle {
    /// Gives the client its answer. The caller has [claimed](Self::claim) it, or answers in the extension's place.
    pub fn answer(&self, response: Response<Body>) {
        self.answer_as_it_is(reply::with_id(response, self.id()));
    }

    /// Gives the client its answer, which names the request, and ends the extension's side.
    pub fn conclude(&self, worker: &'static Worker, response: Response<Body>) {
        let Some(local) = self.local() else { return };
        let mut local_state = local.borrow_mut();
        let is_alone =
            matches!(local_state.client, Client::Waiting(None)) && local_state.has_nothing_open();
        if !is_alone {
            cold_path();
            drop(local_state);
            self.answer_as_it_is(response);
            return self.finish(worker);
        }
        local_state.client = Client::Answered(response);
        let flight = local_state.flight.take();
        drop(local_state);
        drop(flight);
    }

    fn answer_as_it_is(&self, response: Response<Body>) {
        let Some(local) = self.local() else { return };
        let waker = {
            let mut local = local.borrow_mut();
            let Client::Waiting(waker) = &mut local.client else {
                return;
            };
            let waker = waker.take();
            local.client = Client::Answered(response);
            waker.filter(|_| !local.is_being_polled)
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Answers in the extension's place, unless an answer is decided already; tells whether it did.
    pub fn answer_instead(&self, refusal: &Refusal) -> bool {
        let is_over = self.advance(UNDECIDED, OVER).is_ok() || self.advance(GIVEN_UP, OVER).is_ok();
        if is_over {
            self.answer(reply::refuse(refusal));
        }
        is_over
    }

    /// Gives the request up, from any thread: nothing that the extension says of it counts from now on.
    pub fn give_up(&self) {
        // Where it has been answered already, that stays.
        let _ = self.advance(UNDECIDED, GIVEN_UP);
        let request = *self;
        self.worker().run(move |worker| request.finish(worker));
    }

    /// Ends the extension's side. Without an answer the client gets a 500, or the 413 that the extension left to the host.
    pub fn finish(&self, worker: &'static Worker) {
        let Some(local) = self.local() else { return };
        if matches!(self.stage(), Some(UNDECIDED | GIVEN_UP)) {
            self.answer_in_its_place();
        }
        let is_streaming = self.is_streaming();
        let (had_flight, pending, watch) = {
            let mut local = local.borrow_mut();
            local.payload = None;
            if is_streaming && local.stream.ended.is_none() {
                // Given up in the middle: the client must not take it for whole, nor wait for the rest.
                local.stream.ended = Some(false);
                local.stream.wake_connection();
            }
            let flight = local.flight.take();
            let had_flight = flight.is_some();
            if is_streaming && had_flight {
                local.writing = flight;
            }
            (had_flight, local.take_pending(), local.watch.take())
        };
        if let Some(pending) = pending {
            pending.cancel(worker);
        }
        if let Some(watch) = watch {
            complete(worker, watch, Outcome::OK);
        }
        if had_flight {
            self.close_if_over();
        }
    }

    /// The client gets a 500, or the 413 that the extension left to the host.
    #[cold]
    fn answer_in_its_place(&self) {
        let Some(local) = self.local() else { return };
        let payload_of = |local: &Local| local.payload.as_ref().is_some_and(Incoming::is_too_large);
        if payload_of(&local.borrow()) {
            self.answer_instead(&Refusal::ContentTooLarge);
        } else if self.answer_instead(&Refusal::Unanswered) {
            contract_checks::note(Rule::AnswersRequests, || {
                let local = local.borrow();
                let target = local.request.as_ref().map(|request| request.uri().path());
                let method = local.request.as_ref().map(Request::method);
                let method = method.map_or("", |method| method.as_str());
                format!("{method} {} was given up", target.unwrap_or_default())
            });
            self.log(
                Level::Error,
                "the extension gave a request up without an answer",
            );
        }
    }

    /// Ends the client's side: the answer is written, or the client has left.
    pub(super) fn client_ended(&self, worker: &'static Worker) {
        let Some(local) = self.local() else { return };
        let decided = self.advance(UNDECIDED, OVER);
        {
            let mut local = local.borrow_mut();
            let is_done = decided == Err(NotAdvanced::AtStage(ANSWERED))
                && local.flight.is_none()
                && local.watch.is_none()
                && matches!(local.client, Client::Writing);
            // Then nothing else is left, either: `finish` and `conclude` leave nothing, and nothing begins without a flight.
            if is_done {
                local.client = Client::Ended;
                drop(local);
                return self.close();
            }
        }
        self.client_left(worker, local, decided);
    }

    /// Ends what has to be ended early.
    #[cold]
    fn client_left(
        &self,
        worker: &'static Worker,
        local: &RefCell<Local>,
        decided: Result<(), NotAdvanced>,
    ) {
        let was_open = decided.is_ok();
        let (client, pending, stream, watch, owned, writing) = {
            let mut local = local.borrow_mut();
            let owned = local.flight.is_some();
            if owned {
                self.note_client_left(decided);
                local.payload = None;
            }
            (
                std::mem::take(&mut local.client),
                local.take_pending(),
                (decided == Err(NotAdvanced::AtStage(STREAMING)))
                    .then(|| std::mem::take(&mut local.stream)),
                local.watch.take(),
                owned,
                local.writing.take(),
            )
        };
        drop(writing);
        if was_open && owned {
            self.log(Level::Debug, "the client left before the answer");
        }
        drop(client);
        if let Some(written) = stream.and_then(|stream| stream.written) {
            complete(worker, written, Outcome::of_status(abi::EXT_CANCELLED));
        }
        if let Some(watch) = watch {
            complete(worker, watch, Outcome::of_status(abi::EXT_CANCELLED));
        }
        if let Some(pending) = pending {
            pending.cancel(worker);
        }
        self.close_if_over();
    }

    /// Frees the slot when both sides have ended.
    fn close_if_over(&self) {
        let over = self.local().is_some_and(|local| {
            let local = local.borrow();
            local.flight.is_none() && matches!(local.client, Client::Ended)
        });
        if over {
            self.close();
        }
    }

    /// Frees the slot.
    fn close(&self) {
        requests().pool.close(*self);
    }

    /// Completes when the client's side has ended.
    pub fn watch(
        &self,
        worker: &'static Worker,
        mut completion: Completion,
    ) -> Result<(), Refused> {
        let Some(local) = self.local() else {
            return Err((completion, abi::EXT_GONE));
        };
        let mut local = local.borrow_mut();
        if local.flight.is_none() {
            return Err((completion, abi::EXT_GONE));
        }
        if local.watch.is_some() {
            return Err((completion, abi::EXT_BUSY));
        }
        completion.hold(local.flight.clone());
        if matches!(local.client, Client::Ended) {
            complete(worker, completion, Outcome::of_status(abi::EXT_CANCELLED));
        } else {
            local.watch = Some(completion);
        }
        Ok(())
    }

    /// Whatever was decided, nothing more is heard of it: the client has left.
    fn note_client_left(&self, decided: Result<(), NotAdvanced>) {
        if let Err(NotAdvanced::AtStage(stage)) = decided {
            // Where it fails, it is over already.
            let _ = self.advance(stage, OVER);
        }
    }
}

impl Expirable for Handle {
    fn is_awaited(&self) -> bool {
        self.waits()
    }

    /// Answers 504, because the extension has not answered in time.
    fn expire(self) {
        if self.answer_instead(&Refusal::Timeout) {
            self.log_late();
        }
    }
}

/// Has a request answered with 504 where its client still waits after `timeout`.
pub fn set_deadline(request: Handle, timeout: Duration) {
    requests().deadlines.set(timeout, request);
}

/// Answers this worker's requests that are late, for as long as its loop lives.
pub async fn watch_deadlines() {
    requests().deadlines.watch().await;
}
