//! [`BoundOperation`]: an operation that the host ends with its request, and then the request's task learns of it.

use std::sync::atomic::Ordering;

use super::task::TaskRef;
use super::thread;
use crate::abi::ext_request;

/// Stands for an operation that the host ends when the client of its request leaves, from its start to its completion.
pub(super) struct BoundOperation(Option<TaskRef>);

impl BoundOperation {
    /// For an operation that the task which this thread polls starts for `request`, if it is that one's.
    pub(super) fn new(request: ext_request) -> Option<Self> {
        let task = thread::task_of(request)?;
        task.header().bound.fetch_add(1, Ordering::Relaxed);
        Some(Self(Some(task)))
    }

    /// The operation was not started.
    pub(super) fn release(mut self) {
        if let Some(task) = self.0.take() {
            task.header().bound.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The client has left.
    pub(super) fn cancel(mut self) {
        if let Some(task) = self.0.take() {
            task.header().bound.fetch_sub(1, Ordering::Relaxed);
            task.cancel();
        }
    }
}

impl Drop for BoundOperation {
    fn drop(&mut self) {
        if let Some(task) = self.0.take()
            && task.header().bound.fetch_sub(1, Ordering::Relaxed) == 1
            && !thread::polls(task.0)
        {
            // The last one: whatever the task waits for now, the next poll has it watch. A poll that is running does so anyway;
            // woken by it, a future that starts and drops an operation in each poll would never rest.
            task.wake();
        }
    }
}
