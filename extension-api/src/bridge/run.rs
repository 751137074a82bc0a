//! How a task runs: its future is polled on the request's worker, and dropped early when the client leaves.
#![expect(unsafe_code, reason = "polls a future whose type is erased")]

use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::sync::atomic::Ordering;
use std::task::{Context, Waker};

use super::answer::Body;
use super::panics::catch_panic;
use super::task::{CANCELLED, OVER, RUNNING, Step, TaskRef, WOKEN};
use super::thread::Running;
use crate::abi::{EXT_LOG_ERROR, ext_result};

impl TaskRef {
    /// Polls the future, and finishes the request when that is ready.
    pub(super) fn run(&self) {
        let state = self.set(RUNNING);
        if state & (RUNNING | OVER) != 0 {
            return;
        }
        if state & WOKEN != 0 {
            self.clear(WOKEN);
        }
        // SAFETY: a waker of this vtable holds a counted reference; this one borrows ours, and is never dropped.
        let waker = ManuallyDrop::new(unsafe { Waker::from_raw(self.raw_waker()) });
        if self.advance(&mut Context::from_waker(&waker), true) {
            return;
        }
        let watching = self.header().bound.load(Ordering::Relaxed) > 0 || self.watch();
        let state = self.clear(RUNNING);
        if !watching || state & CANCELLED != 0 {
            self.drop_unanswered();
        } else if state & WOKEN != 0 {
            // It woke itself: the worker's other requests come first.
            self.post();
        }
    }

    /// Polls until the future is pending, or the task is over and the request finished: then `true`.
    pub(super) fn advance(&self, cx: &mut Context<'_>, on_worker: bool) -> bool {
        let _running = Running::enter(self.header().request, on_worker.then_some(self));
        loop {
            // SAFETY: on the polling thread; RUNNING, or the loop of `PoolRequest::serve`, keeps it from being entered twice.
            match catch_panic(|| unsafe { (self.header().functions.poll)(self.0, cx) }) {
                Ok(Step::Pending) => return false,
                Ok(Step::Answered(Ok(answer))) => match answer.body {
                    Body::Bytes(body) => {
                        self.answer(answer.status, &answer.headers, body);
                        return true;
                    }
                    Body::Relay(fetched) => {
                        self.relay(answer.status, &answer.headers, fetched);
                        return true;
                    }
                    Body::Stream(producer) => {
                        if !self.begin_stream(answer.status, &answer.headers, producer) {
                            return true;
                        }
                    }
                },
                Ok(Step::Answered(Err(error))) => {
                    self.fail(&error);
                    return true;
                }
                Ok(Step::Streamed(result)) => {
                    self.end_stream(result);
                    return true;
                }
                Err(panic) => {
                    self.clear_stage();
                    self.panicked(panic.0);
                    return true;
                }
            }
        }
    }

    /// Has the host say when the client leaves. `false` where it has left.
    fn watch(&self) -> bool {
        if self.header().watched.replace(true) {
            return true;
        }
        let completion = self.completion(watch_completed);
        // SAFETY: `watch` takes every handle; the completion holds a counted reference.
        let status = unsafe { (self.table().watch)(self.header().request, completion) };
        self.accepted(status, completion)
    }

    /// The client has left, or the time is up: drops the future and gives the request up.
    pub(super) fn cancel(&self) {
        if self.set(CANCELLED) & (RUNNING | OVER) == 0 {
            self.drop_unanswered();
        }
    }

    fn drop_unanswered(&self) {
        self.set(OVER);
        self.clear_stage();
        self.finish(Self::abandon);
    }

    /// Drops the future; a panic in that is logged.
    #[cold]
    fn clear_stage(&self) {
        // SAFETY: on the polling thread; not within a poll: `cancel` looks at RUNNING, and a poll that panicked is over.
        if let Err(panic) = catch_panic(|| unsafe { (self.header().functions.clear)(self.0) }) {
            self.header().host.log(
                self.handle(),
                EXT_LOG_ERROR,
                "a handler's future panicked while it was dropped",
                &[("cause", panic.0)],
            );
        }
    }
}

unsafe extern "C" fn watch_completed(user: *mut c_void, _: *const ext_result) {
    // SAFETY: given away by `watch`; a completion is called exactly once.
    let task = unsafe { TaskRef::from_user(user) };
    // What may panic is caught within; this keeps a mistake of ours from ending the host.
    let _ = catch_panic(|| task.cancel());
}
