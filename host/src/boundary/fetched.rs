//! The answer to a fetch, while an extension reads it or before it is relayed.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};

use actix_http::StatusCode;
use actix_http::header::HeaderMap;
use extension_api::abi;

use crate::extension::Flight;
use crate::runtime::completion::{Completion, Outcome};
use crate::runtime::handle::{self, Held};
use crate::runtime::worker::Worker;
use crate::upstream::{Answer, AnswerBody};

/// An answer as callbacks name it.
pub type Handle = Held<Shared, Local>;
/// A worker's answers.
pub type Pool = handle::Pool<Shared, Local>;

/// What every thread may read until the answer is relayed or dropped.
pub struct Shared {
    status: StatusCode,
    body_length: Option<u64>,
    headers: HeaderMap,
    fields: OnceLock<Fields>,
}

struct Fields(Vec<abi::ext_field>);
// SAFETY: the slices point into `Shared::headers`, which is not changed while a handle is out; see `handle::Entry`.
#[expect(unsafe_code, reason = "slices of the ABI are raw pointers")]
unsafe impl Send for Fields {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "slices of the ABI are raw pointers")]
unsafe impl Sync for Fields {}

/// What only its worker touches.
#[derive(Default)]
pub struct Local {
    body: Option<AnswerBody>,
    reading: Option<(Completion, tokio::task::AbortHandle)>,
    /// Keeps the generation that asked for it from being destroyed.
    flight: Option<Flight>,
}

/// Keeps an answer for the extension that asked for it.
pub fn keep(worker: &Rc<Worker>, answer: Answer, flight: Flight) -> Handle {
    let Answer {
        status,
        headers,
        body,
    } = answer;
    let empty = || {
        (
            Shared {
                status,
                body_length: None,
                headers: HeaderMap::new(),
                fields: OnceLock::new(),
            },
            Local::default(),
        )
    };
    let mut place = worker.fetched.take(&worker.remote, empty);
    let (shared, mut local) = place.parts();
    shared.status = status;
    shared.body_length = body.declared();
    shared.headers = headers;
    local.body = Some(body);
    local.flight = Some(flight);
    drop(local);
    place.hand_out()
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
        &self
            .fields
            .get_or_init(|| Fields(crate::runtime::ffi_out::fields(&self.headers)))
            .0
    }
}

impl Handle {
    /// The handle as the ABI has it.
    pub fn to_abi(self) -> abi::ext_fetched {
        let (slot, generation) = self.numbers();
        abi::ext_fetched { slot, generation }
    }

    /// Ends the handle and gives what it held.
    pub fn close(self, worker: &Rc<Worker>) -> Option<(StatusCode, HeaderMap, Option<AnswerBody>)> {
        self.local()?;
        let (status, headers, local) = worker.fetched.close(self, |shared, local| {
            shared.fields.take();
            (
                shared.status,
                std::mem::take(&mut shared.headers),
                std::mem::take(local),
            )
        });
        if let Some((completion, task)) = local.reading {
            task.abort();
            worker.complete(completion, Outcome::failed(abi::EXT_CANCELLED));
        }
        Some((status, headers, local.body))
    }

    /// Reads the next chunk of the body and completes with it.
    pub fn read(
        &self,
        worker: &Rc<Worker>,
        completion: Completion,
    ) -> Result<(), (Completion, i32)> {
        let Some(local) = self.local() else {
            return Err((completion, abi::EXT_GONE));
        };
        let mut own = local.borrow_mut();
        if own.reading.is_some() {
            return Err((completion, abi::EXT_BUSY));
        }
        match poll(&mut own, &mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => worker.complete(completion, outcome),
            Poll::Pending => {
                let handle = *self;
                let task = actix_rt::spawn(async move {
                    let own = || -> Option<&'static RefCell<Local>> { handle.local() };
                    let outcome = std::future::poll_fn(|cx| match own() {
                        Some(local) => poll(&mut local.borrow_mut(), cx),
                        None => Poll::Ready(Outcome::failed(abi::EXT_CANCELLED)),
                    })
                    .await;
                    let reading = own().and_then(|local| local.borrow_mut().reading.take());
                    if let Some((completion, _)) = reading {
                        completion.call(outcome);
                    }
                });
                own.reading = Some((completion, task.abort_handle()));
            }
        }
        Ok(())
    }
}

fn poll(local: &mut Local, cx: &mut Context<'_>) -> Poll<Outcome> {
    match &mut local.body {
        Some(body) => body.poll_chunk(cx).map(Outcome::of_chunk),
        None => Poll::Ready(Outcome::failed(abi::EXT_END)),
    }
}
