//! What is under way for a request: reads, and the operations that are tied to it. The connection polls it while its client
//! waits for the answer or for more of it; else tasks do.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll};

use extension_api::abi;
use smallvec::SmallVec;

use super::body::Reading;
use super::{Client, Handle, Local};
use crate::boundary::operation::{self, Work};
use crate::runtime::completion::Outcome;
use crate::runtime::worker::Worker;

/// What is under way for a request; few have more than one or two at a time.
pub(super) type Operations = SmallVec<[operation::Handle; 2]>;

/// What ends with either side.
pub(super) struct UnderWay {
    reading: Option<Reading>,
    operations: Operations,
}

impl UnderWay {
    pub(super) fn cancel(self, worker: &Rc<Worker>) {
        if let Some((completion, task)) = self.reading {
            if let Some(task) = task {
                task.abort();
            }
            worker.complete(completion, Outcome::failed(abi::EXT_CANCELLED));
        }
        for operation in self.operations {
            operation.cancel();
        }
    }
}

impl Local {
    /// What has to be cancelled. Most requests leave nothing.
    pub(super) fn take_under_way(&mut self) -> Option<UnderWay> {
        self.operations.retain(|operation| operation.is_open());
        let has_any = self.reading.is_some() || !self.operations.is_empty();
        has_any.then(|| UnderWay {
            reading: self.reading.take(),
            operations: std::mem::take(&mut self.operations),
        })
    }

    /// Whether the connection polls what is under way: while its client waits for the answer, or for the next chunk of it. If
    /// so, has it polled.
    pub(super) fn wake_connection(&self) -> bool {
        let waker = match &self.client {
            Client::Waiting(waker) => waker,
            // It is about to take the answer, and then decides.
            Client::Answered(_) => return true,
            Client::Writing if self.is_being_polled => return true,
            Client::Writing if self.stream.waker.is_some() => &self.stream.waker,
            Client::Ended | Client::Writing => return false,
        };
        if let Some(waker) = waker.as_ref().filter(|_| !self.is_being_polled) {
            waker.wake_by_ref();
        }
        true
    }
}

impl Handle {
    /// Ties an operation to the request: it is cancelled when either side ends.
    pub fn bind(&self, operation: operation::Handle) -> bool {
        let Some(local) = self.local() else {
            return false;
        };
        let mut local = local.borrow_mut();
        if local.flight.is_none() || matches!(local.client, Client::Ended) {
            return false;
        }
        // A long stream sleeps often: those that are over make room.
        if local.operations.len() >= 16 {
            local.operations.retain(|operation| operation.is_open());
        }
        local.operations.push(operation);
        true
    }

    /// Has the connection poll the work of an operation. Gives it back where no client waits for an answer: then it would be
    /// polled at the pace at which that one reads.
    pub fn poll_along(&self, operation: operation::Handle, work: Work) -> Result<(), Work> {
        let Some(local) = self.local() else {
            return Err(work);
        };
        let mut local = local.borrow_mut();
        if !local.wake_connection() {
            return Err(work);
        }
        local.work.push((operation, work));
        Ok(())
    }

    /// Leaves what is under way to tasks, since the client takes no more for now, or has its answer: then the connection has no
    /// reason to poll.
    pub fn leave_to_tasks(self) {
        let Some(local) = self.local() else { return };
        let work = {
            let mut local = local.borrow_mut();
            if matches!(local.reading, Some((_, None))) {
                self.read_in_task(&mut local);
            }
            if local.work.is_empty() {
                return;
            }
            std::mem::take(&mut local.work)
        };
        for (operation, work) in work {
            operation.go_on(work);
        }
    }

    /// Drops the work of an operation that has been given up.
    pub fn forget(&self, operation: operation::Handle) {
        let Some(local) = self.local() else { return };
        let work = {
            let work = &mut local.borrow_mut().work;
            let place = work.iter().position(|(other, _)| other.is(operation));
            place.map(|place| work.swap_remove(place))
        };
        drop(work);
    }

    /// Polls what is under way, and calls what is due; tells whether anything has come to its end.
    pub(super) fn go_on(self, own: &'static RefCell<Local>, cx: &mut Context<'_>) -> bool {
        let (reads, works) = {
            let local = own.borrow();
            (
                matches!(local.reading, Some((_, None))),
                !local.work.is_empty(),
            )
        };
        let has_read = reads
            && match self.poll_read(cx) {
                Poll::Ready((completion, outcome)) => {
                    completion.call(outcome);
                    true
                }
                Poll::Pending => false,
            };
        let has_worked = works && Self::poll_work(own, cx);
        call_ready() || has_worked || has_read
    }

    fn poll_work(own: &'static RefCell<Local>, cx: &mut Context<'_>) -> bool {
        let mut has_ended = false;
        let mut polled = 0;
        // Not lent while it is polled: what is completed may start more, which is polled as well, or cancel some.
        let mut work = std::mem::take(&mut own.borrow_mut().work);
        loop {
            while let Some((_, next)) = work.get_mut(polled) {
                if next.as_mut().poll(cx).is_ready() {
                    drop(work.swap_remove(polled));
                    has_ended = true;
                } else {
                    polled += 1;
                }
            }
            if has_ended {
                work.retain(|(operation, _)| operation.is_open());
            }
            let mut local = own.borrow_mut();
            if local.work.is_empty() {
                local.work = work;
                return has_ended;
            }
            polled = work.len();
            work.append(&mut local.work);
        }
    }
}

/// Calls what is due on this worker; tells whether anything was.
fn call_ready() -> bool {
    // `None` only while the thread itself ends.
    crate::runtime::worker::with_current(|worker| worker.call_ready()).unwrap_or(false)
}
