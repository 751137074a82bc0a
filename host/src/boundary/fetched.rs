//! The answer to a fetch, while an extension reads it or before it is relayed.

use std::cell::Cell;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};

use actix_http::StatusCode;
use actix_http::header::HeaderMap;
use extension_api::abi;

use super::completion::{Completion, Outcome, complete, complete_from_task};
use super::fields::Fields;
use crate::runtime::handle::{Recycle, SlotPool, SlotRef};
use crate::runtime::in_flight::{Flight, InFlight};
use crate::runtime::worker::Worker;
use crate::upstream::{ResponseBody, UpstreamResponse};

thread_local! {
    static FETCHED: Cell<Option<&'static Answers>> = const { Cell::new(None) };
}

/// An answer as callbacks name it.
pub type Handle = SlotRef<Shared, Local>;

type Answers = SlotPool<Shared, Local>;

/// This thread's answers to fetches. Never freed: handles outlive the thread's loop.
fn answers() -> &'static Answers {
    FETCHED.get().unwrap_or_else(|| {
        let answers: &Answers = Box::leak(Box::default());
        FETCHED.set(Some(answers));
        answers
    })
}

/// What every thread may read until the answer is relayed or dropped.
pub struct Shared {
    status: StatusCode,
    body_length: Option<u64>,
    headers: HeaderMap,
    fields: OnceLock<Fields>,
    /// The build that asked for it.
    build: &'static InFlight,
}

/// What only its worker touches.
#[derive(Default)]
pub struct Local {
    body: Option<ResponseBody>,
    /// The body is out of its place, being polled.
    is_being_polled: bool,
    reading: Option<(Completion, tokio::task::AbortHandle)>,
    /// Keeps the generation that asked for it from being destroyed.
    flight: Option<Flight>,
}

impl Recycle<Local> for Shared {
    fn recycle(&mut self, _: &mut Local) {
        self.fields.take();
        self.headers.clear();
    }
}

/// Keeps an answer for the extension that asked for it.
pub fn keep(worker: &Worker, response: UpstreamResponse, flight: Flight) -> Handle {
    let UpstreamResponse {
        status,
        headers,
        body,
    } = response;
    let empty = || {
        let shared = Shared {
            status,
            body_length: None,
            headers: HeaderMap::new(),
            fields: OnceLock::new(),
            build: flight.build(),
        };
        (shared, Local::default())
    };
    let mut slot = answers().take(worker, empty);
    let (shared, mut local) = slot.parts();
    shared.status = status;
    shared.body_length = body.declared();
    shared.headers = headers;
    shared.build = flight.build();
    local.body = Some(body);
    local.flight = Some(flight);
    drop(local);
    slot.hand_out()
}

impl Shared {
    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The declared length of the body.
    pub fn body_length(&self) -> Option<u64> {
        self.body_length
    }

    /// The headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The headers as fields of the ABI.
    pub fn fields(&self) -> &[abi::ext_field] {
        self.fields.get_or_init(|| Fields::of(&self.headers)).all()
    }
}

impl Handle {
    /// The handle as the ABI has it.
    pub fn to_abi(self) -> abi::ext_fetched {
        let (slot, generation) = self.numbers();
        abi::ext_fetched { slot, generation }
    }

    /// Keeps the build that asked for it from being destroyed, from any thread; `None`: the answer is over.
    pub fn hold(&self) -> Option<Flight> {
        self.read()?.build.hold()
    }

    /// Ends the handle and gives what it held.
    pub fn close(self, worker: &'static Worker) -> Option<UpstreamParts> {
        let local = std::mem::take(&mut *self.local()?.borrow_mut());
        let take = |shared: &mut Shared| (shared.status, std::mem::take(&mut shared.headers));
        let copy = |shared: &Shared| (shared.status, shared.headers.clone());
        let (status, headers) = answers().close_with(self, take, copy)?;
        if let Some((completion, task)) = local.reading {
            task.abort();
            complete(worker, completion, Outcome::of_status(abi::EXT_CANCELLED));
        }
        Some((status, headers, local.body))
    }

    /// Reads the next chunk of the body and completes with it.
    pub fn read_chunk(
        &self,
        worker: &'static Worker,
        mut completion: Completion,
    ) -> Result<(), (Completion, i32)> {
        let Some(local) = self.local() else {
            return Err((completion, abi::EXT_GONE));
        };
        {
            let local = local.borrow();
            if local.reading.is_some() || local.is_being_polled {
                return Err((completion, abi::EXT_BUSY));
            }
            completion.hold(local.flight.clone());
        }
        match self.poll_body(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => complete(worker, completion, outcome),
            Poll::Pending => {
                let task = actix_rt::spawn(self.read_to_its_end()).abort_handle();
                match self.local() {
                    Some(local) => local.borrow_mut().reading = Some((completion, task)),
                    // It was dropped while it was polled: the completion, dropped here, is called as cancelled.
                    None => task.abort(),
                }
            }
        }
        Ok(())
    }

    /// Waits for the chunk that is being read, and completes with it.
    async fn read_to_its_end(self) {
        let outcome = std::future::poll_fn(|cx| self.poll_body(cx)).await;
        let reading = self
            .local()
            .and_then(|local| local.borrow_mut().reading.take());
        if let Some((completion, _)) = reading {
            complete_from_task(completion, outcome);
        }
    }

    /// The next chunk of the body. Not borrowed while it is polled: a chunk of the request that is sent meanwhile is released by
    /// the extension, which may call the host from there, also with this answer.
    fn poll_body(&self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let Some(local) = self.local() else {
            return Poll::Ready(Outcome::of_status(abi::EXT_CANCELLED));
        };
        let body = {
            let mut local = local.borrow_mut();
            local.is_being_polled = true;
            local.body.take()
        };
        let Some(mut body) = body else {
            local.borrow_mut().is_being_polled = false;
            return Poll::Ready(Outcome::of_status(abi::EXT_END));
        };
        let polled = body.poll_chunk(cx).map(Outcome::of_chunk);
        match self.local() {
            Some(local) => {
                let mut local = local.borrow_mut();
                local.is_being_polled = false;
                local.body = Some(body);
                polled
            }
            None => Poll::Ready(Outcome::of_status(abi::EXT_CANCELLED)),
        }
    }
}

/// What an answer is relayed from; the body is `None` where it has been read.
pub type UpstreamParts = (StatusCode, HeaderMap, Option<ResponseBody>);
