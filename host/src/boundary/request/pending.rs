//! What is in flight for a request: reads, and the operations that are tied to it. The connection polls it while its client
//! waits for the answer or for more of it; else tasks do.

use std::cell::RefCell;
use std::task::{Context, Poll};

use extension_api::abi;

use super::state::{BodyRead, Client, Handle, Local, Operations, Shared};
use crate::boundary::completion::{Outcome, complete};
use crate::boundary::operation::{self, PollsWithRequest, Work};
use crate::platform::slice::Slice;
use crate::runtime::handle::Slot;
use crate::runtime::worker::{Worker, current};

/// What ends with either side.
pub(super) struct Pending {
    reading: Option<BodyRead>,
    operations: Operations,
    /// The work of those that the connection polls; dropped, it completes as cancelled.
    work: Vec<(operation::Handle, Work)>,
}

impl Pending {
    pub(super) fn cancel(self, worker: &'static Worker) {
        if let Some((completion, task)) = self.reading {
            if let Some(task) = task {
                task.abort();
            }
            complete(worker, completion, Outcome::of_status(abi::EXT_CANCELLED));
        }
        drop(self.work);
        for operation in self.operations {
            operation.cancel();
        }
    }
}

impl Local {
    /// What has to be cancelled. Most requests leave nothing.
    pub(super) fn take_pending(&mut self) -> Option<Pending> {
        self.operations.retain(|operation| operation.is_open());
        let has_any = self.reading.is_some() || !self.operations.is_empty();
        has_any.then(|| Pending {
            reading: self.reading.take(),
            operations: std::mem::take(&mut self.operations),
            work: std::mem::take(&mut self.work),
        })
    }

    /// Whether the connection polls what is in flight: while its client waits for the answer, or for the next chunk of it. If
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
        let operations = &mut local.operations;
        // A long stream sleeps often: those that are over make room. Where few are, there is more room before the next look.
        if operations.len() >= 16 && operations.len() == operations.capacity() {
            operations.retain(|operation| operation.is_open());
            if operations.len() > operations.capacity() / 2 {
                operations.reserve(operations.capacity());
            }
        }
        operations.push(operation);
        true
    }

    /// Leaves what is in flight to tasks, since the client takes no more for now, or has its answer: then the connection has no
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
            operation.continue_in_task(work);
        }
    }

    /// Polls what is in flight, and calls what is due; tells whether anything has come to its end.
    pub(super) fn poll_pending(
        self,
        local_state: &'static RefCell<Local>,
        cx: &mut Context<'_>,
    ) -> bool {
        let (reads, works) = {
            let local = local_state.borrow();
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
        let has_worked = works && Self::poll_work(local_state, cx);
        call_due() || has_worked || has_read
    }

    fn poll_work(local_state: &'static RefCell<Local>, cx: &mut Context<'_>) -> bool {
        let mut has_ended = false;
        let mut slice = Slice::default();
        let mut is_over = false;
        let mut polled = 0;
        // Not lent while it is polled: what is completed may start more, which is polled as well, or cancel some.
        let mut work = std::mem::take(&mut local_state.borrow_mut().work);
        loop {
            while let Some((_, next)) = work.get_mut(polled).filter(|_| !is_over) {
                if next.as_mut().poll(cx).is_ready() {
                    drop(work.swap_remove(polled));
                    has_ended = true;
                    // The connection polls the rest soon, for something has come to its end.
                    is_over = slice.is_over();
                } else {
                    polled += 1;
                }
            }
            if has_ended {
                work.retain(|(operation, _)| operation.is_open());
            }
            let mut local = local_state.borrow_mut();
            polled = work.len();
            work.append(&mut local.work);
            if polled == work.len() || is_over {
                local.work = work;
                break;
            }
        }
        has_ended
    }
}

/// Calls what is due on this worker; tells whether anything was.
fn call_due() -> bool {
    current().is_some_and(Worker::call_due)
}

impl Handle {
    /// The request, as an operation of it knows it.
    pub fn polls_with_request(self) -> (&'static dyn PollsWithRequest, u64) {
        let (slot, generation) = self.parts();
        (slot, generation)
    }
}

impl PollsWithRequest for Slot<Shared, Local> {
    fn poll_with_request(
        &'static self,
        generation: u64,
        operation: operation::Handle,
        work: Work,
    ) -> Result<(), Work> {
        let Some(local) = self.held(generation).local() else {
            return Err(work);
        };
        let mut local = local.borrow_mut();
        if !local.wake_connection() {
            return Err(work);
        }
        local.work.push((operation, work));
        Ok(())
    }

    fn forget(&'static self, generation: u64, operation: operation::Handle) {
        let Some(local) = self.held(generation).local() else {
            return;
        };
        let work = {
            let work = &mut local.borrow_mut().work;
            let index = work.iter().position(|(other, _)| other.is(operation));
            index.map(|index| work.swap_remove(index))
        };
        drop(work);
    }
}
