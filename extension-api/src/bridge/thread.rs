//! What this thread is doing: whose task it polls, and which task it is about to poll next.

use std::cell::Cell;
use std::mem::ManuallyDrop;

use super::task::TaskRef;
use crate::abi::ext_request;

thread_local! {
    static THREAD: Thread = const {
        Thread {
            request: Cell::new(ext_request { slot: 0, generation: 0 }),
            on_worker: Cell::new(false),
            collecting: Cell::new(false),
            woken: Cell::new(None),
        }
    };
}

struct Thread {
    request: Cell<ext_request>,
    on_worker: Cell<bool>,
    collecting: Cell<bool>,
    /// Without a destructor, so that the thread has none of ours to run when it ends.
    woken: Cell<Option<ManuallyDrop<TaskRef>>>,
}

/// A number that no other living thread has.
pub(super) fn token() -> usize {
    THREAD.with(|thread| std::ptr::from_ref(thread).addr())
}

/// The request whose handler runs on this thread; zero where none does.
pub(crate) fn request() -> ext_request {
    THREAD.with(|thread| thread.request.get())
}

/// Whether an asynchronous handler runs on this thread, which must then not block.
pub(crate) fn on_worker() -> bool {
    THREAD.with(|thread| thread.on_worker.get())
}

/// Marks this thread as running a handler, until dropped.
pub(super) struct Running {
    request: ext_request,
    on_worker: bool,
}

impl Running {
    pub(super) fn enter(request: ext_request, on_worker: bool) -> Self {
        THREAD.with(|thread| Self {
            request: thread.request.replace(request),
            on_worker: thread.on_worker.replace(on_worker),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        THREAD.with(|thread| {
            thread.request.set(self.request);
            thread.on_worker.set(self.on_worker);
        });
    }
}

/// Calls `complete`, and returns the task of this worker that was woken by it: the caller polls it right away, which
/// saves a way through the host's event loop.
pub(super) fn collect_woken(complete: impl FnOnce()) -> Option<TaskRef> {
    THREAD.with(|thread| {
        let outer = thread.collecting.replace(true);
        complete();
        thread.collecting.set(outer);
        if outer {
            None
        } else {
            thread.woken.take().map(ManuallyDrop::into_inner)
        }
    })
}

/// Leaves a woken task to `collect_woken`; gives it back where that is not under way, or has one already.
pub(super) fn leave_woken(task: TaskRef) -> Result<(), TaskRef> {
    THREAD.with(|thread| {
        if !thread.collecting.get() {
            return Err(task);
        }
        match thread.woken.take() {
            None => {
                thread.woken.set(Some(ManuallyDrop::new(task)));
                Ok(())
            }
            first => {
                thread.woken.set(first);
                Err(task)
            }
        }
    })
}
