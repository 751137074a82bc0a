//! What this thread is doing: whose task it polls, and which task it is about to poll next.
#![expect(
    unsafe_code,
    reason = "the task that is polled is kept as a pointer while it is borrowed"
)]

use std::cell::Cell;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use super::task::{Header, TaskRef};
use crate::abi::ext_request;

thread_local! {
    static THREAD: Thread = const {
        Thread {
            request: Cell::new(ext_request { slot: 0, generation: 0 }),
            task: Cell::new(None),
            collecting: Cell::new(false),
            woken: Cell::new(None),
        }
    };
}

struct Thread {
    request: Cell<ext_request>,
    /// The task that a worker polls; not on a thread that may block.
    task: Cell<Option<NonNull<Header>>>,
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
    THREAD.with(|thread| thread.task.get().is_some())
}

/// Whether this thread, as a worker, polls that task.
pub(super) fn polls(task: NonNull<Header>) -> bool {
    THREAD.with(|thread| thread.task.get() == Some(task))
}

/// The task that this thread polls as a worker, if it is that of `request`.
pub(super) fn task_of(request: ext_request) -> Option<TaskRef> {
    THREAD.with(|thread| {
        let of = thread.request.get();
        let is_same = of.slot == request.slot && of.generation == request.generation;
        let task = thread.task.get().filter(|_| is_same)?;
        // SAFETY: `Running` alone sets it, for as long as it borrows the task.
        Some(unsafe { TaskRef::of_header(task) })
    })
}

/// Marks this thread as running a handler, until dropped.
pub(super) struct Running<'a> {
    request: ext_request,
    task: Option<NonNull<Header>>,
    _of: PhantomData<&'a TaskRef>,
}

impl<'a> Running<'a> {
    /// `task` is given where this thread polls it as a worker.
    pub(super) fn enter(request: ext_request, task: Option<&'a TaskRef>) -> Self {
        THREAD.with(|thread| Self {
            request: thread.request.replace(request),
            task: thread.task.replace(task.map(TaskRef::header_of)),
            _of: PhantomData,
        })
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        THREAD.with(|thread| {
            thread.request.set(self.request);
            thread.task.set(self.task);
        });
    }
}

/// Calls `complete`, and returns the task of this worker that was woken by it: the caller polls it right away, which
/// saves a pass through the host's event loop.
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

/// Leaves a woken task to `collect_woken`; Err: that is not running, or has a task already.
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
