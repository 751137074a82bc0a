//! UNSAFE: how what an extension begins gets to its worker, and to whom it belongs.
#![expect(
    unsafe_code,
    reason = "the place for an operation's handle is a raw pointer; the header says what it must point at"
)]

use std::borrow::Cow;
use std::hint::cold_path;
use std::ptr::NonNull;

use extension_api::abi::*;

use super::completion::{Completion, Outcome, complete};
use super::ffi_in::of_request;
use super::operation;
use super::request;
use crate::extension::context::Context;
use crate::runtime::contract_checks::{self, Rule};
use crate::runtime::in_flight::Flight;
use crate::runtime::worker::{Remote, Worker, current};

/// The worker on which an operation runs: the request's; without one this thread's, or else any.
pub(super) fn worker_for(
    ctx: &Context,
    request: ext_request,
) -> Result<(Cow<'static, Remote>, Option<request::Handle>), ()> {
    if request.slot != 0 {
        let request = of_request(request).ok_or(())?;
        return Ok((Cow::Borrowed(request.worker()), Some(request)));
    }
    let remote = current()
        .map(|worker| worker.remote.clone())
        .or_else(|| ctx.any_worker());
    Ok((Cow::Owned(remote.ok_or(())?), None))
}

/// Registers a completion on a worker. Where that is another thread's, a failure comes through the completion; `hold` then keeps
/// the extension from being destroyed before it has been called.
pub(super) fn on_worker(
    remote: &Remote,
    completion: ext_completion,
    hold: impl FnOnce() -> Option<Flight>,
    act: impl FnOnce(&'static Worker, Completion) -> Result<(), (Completion, ext_status)>
    + Send
    + 'static,
) -> ext_status {
    if completion.function.is_none() {
        contract_checks::note(Rule::CompletionFunction, || {
            "its function is NULL".to_owned()
        });
        return EXT_INVALID;
    }
    if !remote.is_current() {
        return on_worker_elsewhere(remote, completion, hold(), act);
    }
    let completion = Completion::new(completion);
    match current().map(|worker| act(worker, completion)) {
        Some(Ok(())) => EXT_OK,
        Some(Err((completion, status))) => {
            cold_path();
            completion.forget();
            refused(status)
        }
        None => EXT_GONE,
    }
}

#[inline(never)]
fn on_worker_elsewhere(
    remote: &Remote,
    completion: ext_completion,
    flight: Option<Flight>,
    act: impl FnOnce(&'static Worker, Completion) -> Result<(), (Completion, ext_status)>
    + Send
    + 'static,
) -> ext_status {
    if flight.is_none() {
        return EXT_GONE;
    }
    let mut completion = Completion::new(completion);
    completion.hold(flight);
    remote.run(move |worker| {
        if let Err((completion, status)) = act(worker, completion) {
            complete(worker, completion, Outcome::of_status(refused(status)));
        }
    });
    EXT_OK
}

/// Where the caller waits for an operation's handle, if it does.
pub(super) struct OutPointer(Option<NonNull<ext_op>>);
// SAFETY: `of` keeps the pointer only where the job runs on the caller's thread, inside the caller's own call.
unsafe impl Send for OutPointer {}

impl OutPointer {
    /// That for what is begun on this worker. Begun elsewhere, an operation cannot be cancelled early: no handle is there yet.
    pub(super) fn of(op: *mut ext_op, worker: &Remote) -> Self {
        let place = NonNull::new(op);
        if worker.is_current() {
            return Self(place);
        }
        if let Some(place) = place {
            // SAFETY: not NULL, and the header makes it a place for a handle.
            unsafe { place.write(ext_op::default()) };
        }
        Self(None)
    }

    fn put(self, operation: operation::Handle) {
        if let Some(place) = self.0 {
            // SAFETY: the caller is still inside its call, which lends the place (header); see `of`.
            unsafe { place.write(operation.to_abi()) };
        }
    }
}

/// Starts an operation and ties it to the request, or to the extension's own life. `flight` was taken before the
/// callback returned EXT_OK: from then on the extension is not destroyed before the completion has been called.
pub(super) fn begin(
    worker: &'static Worker,
    ctx: &'static Context,
    flight: Flight,
    request: Option<request::Handle>,
    mut completion: Completion,
    out: OutPointer,
    start: impl FnOnce(Completion) -> operation::Handle,
) -> Result<(), (Completion, ext_status)> {
    let call = request.and_then(|request| request.call_mark());
    completion.hold(flight.with_call(call.unwrap_or_default()));
    if worker.is_ending() {
        return Err((completion, EXT_GONE));
    }
    let operation = start(completion);
    out.put(operation);
    let is_bound = match request {
        Some(request) => request.bind(operation),
        None => ctx.bind(Box::new(operation)),
    };
    if !is_bound {
        operation.cancel();
    }
    Ok(())
}

/// Passes on why an operation was not begun, and notes what should not have been asked for.
fn refused(status: ext_status) -> ext_status {
    if status == EXT_BUSY {
        contract_checks::note(Rule::OneAtATime, || {
            "a read or write was begun while one was in flight".to_owned()
        });
    }
    staged("write", status)
}

/// Passes a status on, and notes one that says that the call came at the wrong time.
pub(super) fn staged(call: &str, status: ext_status) -> ext_status {
    if status == EXT_STAGE {
        contract_checks::note(Rule::AtItsStage, || {
            format!("`{call}` was called too early or too late")
        });
    }
    status
}
