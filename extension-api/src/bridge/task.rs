//! A request's task: the author's future in one allocation, from `handle` until the request is finished.
//!
//! The future is polled, and dropped, only on the request's worker: in `handle`, and in completions. What wakes it there is
//! followed by a poll right away; what wakes it from elsewhere posts, once. When the client leaves, the future is dropped and the
//! request given up: the operation that it waits for says so, or where it waits for none of the request's, the watch.
//!
//! The request is finished after its future is dropped, and not while its [`Hold`](super::Hold) lives: so whatever a `Request`
//! lends stays readable, wherever the author has taken it.
//!
//! This file has the memory: the allocation, its counted references, and the bits of its state. `run` polls, `wake` wakes,
//! `finish` finishes.
#![expect(
    unsafe_code,
    reason = "erases a future's type and lifetime, and counts references"
)]

use std::cell::{Cell, UnsafeCell};
use std::future::Future;
use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use super::answer::{Answer, BodyFuture};
use super::host::Host;
use crate::abi::{ext_callbacks, ext_request, ext_request_head};
use crate::error::Result;

/// A task whose future's type is known. The header comes first, so that a pointer to the task points to it.
#[repr(C)]
struct Task<F> {
    header: Header,
    /// Not dropped with the task: the future is dropped before, on its own thread, by `clear`.
    stage: UnsafeCell<ManuallyDrop<Stage<F>>>,
}

enum Stage<F> {
    Handler(F),
    Streaming(BodyFuture<'static>),
    Over,
}

pub(super) struct Header {
    pub(super) functions: &'static Functions,
    pub(super) host: &'static Host,
    /// NULL until somebody asks.
    pub(super) head: AtomicPtr<ext_request_head>,
    pub(super) request: ext_request,
    /// The thread that polls.
    pub(super) worker: usize,
    pub(super) references: AtomicUsize,
    /// Bits, see below.
    pub(super) state: AtomicU32,
    /// Pending operations that the host cancels when the client leaves: while there are any, no `watch` is needed.
    pub(super) bound: AtomicU32,
    /// Whether `watch` has been called. Of the polling thread only.
    pub(super) watched: Cell<bool>,
}

/// The future is being polled.
pub(super) const RUNNING: u32 = 1;
/// Woken since the last poll began; who sets it has the task polled again.
pub(super) const WOKEN: u32 = 2;
/// The client has left while the future was being polled.
pub(super) const CANCELLED: u32 = 4;
/// The answer's head is sent; `end` finishes the request.
pub(super) const STREAMING: u32 = 8;
/// The future is dropped, the request finished or left to the hold.
pub(super) const OVER: u32 = 16;

/// A `Hold` lives.
pub(super) const HELD: u32 = 32;
/// The request was to be finished; where a `Hold` lives then, it does so when it is dropped.
pub(super) const FINISHED: u32 = 64;

/// What depends on the future's type. Each takes a pointer to the header of a live `Task` of that type.
pub(super) struct Functions {
    pub(super) poll: unsafe fn(NonNull<Header>, &mut Context<'_>) -> Step,
    pub(super) clear: unsafe fn(NonNull<Header>),
    pub(super) stream: unsafe fn(NonNull<Header>, BodyFuture<'static>),
    pub(super) free: unsafe fn(NonNull<Header>),
}

pub(super) enum Step {
    Pending,
    Answered(Result<Answer>),
    Streamed(Result<()>),
}

impl<F, R> Task<F>
where
    F: Future<Output = Result<R>>,
    R: Into<Answer>,
{
    const FUNCTIONS: Functions = Functions {
        poll: Self::poll,
        clear: Self::clear,
        stream: Self::stream,
        free: Self::free,
    };

    /// # Safety
    ///
    /// `header` must be that of a live `Task<F>`; only the thread that polls may call this, and not from within itself.
    unsafe fn stage<'a>(header: NonNull<Header>) -> &'a mut ManuallyDrop<Stage<F>> {
        // SAFETY: a live task, whose stage nobody else looks at, says the caller.
        unsafe { &mut *header.cast::<Self>().as_ref().stage.get() }
    }

    unsafe fn poll(header: NonNull<Header>, cx: &mut Context<'_>) -> Step {
        // SAFETY: `advance` is called on the polling thread alone, and RUNNING keeps it from being entered twice.
        let step = match &mut **unsafe { Self::stage(header) } {
            // SAFETY: the future stays where it is until `clear` drops it there.
            Stage::Handler(future) => match unsafe { Pin::new_unchecked(future) }.poll(cx) {
                Poll::Ready(Ok(answer)) => Step::Answered(Ok(answer.into())),
                Poll::Ready(Err(error)) => Step::Answered(Err(error)),
                Poll::Pending => return Step::Pending,
            },
            Stage::Streaming(future) => match future.as_mut().poll(cx) {
                Poll::Ready(result) => Step::Streamed(result),
                Poll::Pending => return Step::Pending,
            },
            Stage::Over => return Step::Pending,
        };
        // SAFETY: as above.
        unsafe { Self::clear(header) };
        step
    }

    unsafe fn clear(header: NonNull<Header>) {
        // A future that panics while it is dropped must not be dropped twice.
        struct Over<'a, F>(&'a mut ManuallyDrop<Stage<F>>);
        impl<F> Drop for Over<'_, F> {
            fn drop(&mut self) {
                *self.0 = ManuallyDrop::new(Stage::Over);
            }
        }
        // SAFETY: as for `poll`.
        let over = Over(unsafe { Self::stage(header) });
        // SAFETY: replaced by `Over` at the end of this function, also by a panic.
        unsafe { ManuallyDrop::drop(over.0) };
    }

    unsafe fn stream(header: NonNull<Header>, future: BodyFuture<'static>) {
        // SAFETY: as for `poll`. The stage before was `Over`, which needs no drop.
        *unsafe { Self::stage(header) } = ManuallyDrop::new(Stage::Streaming(future));
    }

    unsafe fn free(header: NonNull<Header>) {
        // SAFETY: made by `Box::leak` in `TaskRef::new`; the last reference is gone, says the caller.
        drop(unsafe { Box::from_raw(header.cast::<Self>().as_ptr()) });
    }
}

/// A counted reference to a task. From any thread it wakes; on the polling thread it runs, and cancels.
pub(super) struct TaskRef(pub(super) NonNull<Header>);

// SAFETY: what other threads use of the header is atomic or constant; the stage is only used on the polling thread.
unsafe impl Send for TaskRef {}
// SAFETY: as above.
unsafe impl Sync for TaskRef {}

impl Clone for TaskRef {
    fn clone(&self) -> Self {
        self.header().references.fetch_add(1, Ordering::Relaxed);
        Self(self.0)
    }
}

impl Drop for TaskRef {
    fn drop(&mut self) {
        // As in std's Arc: what other threads did with the task happens before it is freed.
        if self.header().references.fetch_sub(1, Ordering::AcqRel) == 1 {
            debug_assert!(
                self.header().state.load(Ordering::Relaxed) & OVER != 0,
                "a task is over before it is freed"
            );
            // SAFETY: the last reference to a live task.
            unsafe { (self.header().functions.free)(self.0) }
        }
    }
}

impl TaskRef {
    /// Makes a task without a future, with two references: the one that is returned, and one for the request's `Hold`.
    /// `worker` is the token of the thread that polls.
    pub(super) fn new<F, R>(host: &'static Host, request: ext_request, worker: usize) -> Self
    where
        F: Future<Output = Result<R>>,
        R: Into<Answer>,
    {
        let task: Box<Task<F>> = Box::new(Task {
            header: Header {
                functions: const { &Task::<F>::FUNCTIONS },
                host,
                head: AtomicPtr::default(),
                request,
                worker,
                references: AtomicUsize::new(2),
                state: AtomicU32::new(HELD),
                bound: AtomicU32::new(0),
                watched: Cell::new(false),
            },
            stage: UnsafeCell::new(ManuallyDrop::new(Stage::Over)),
        });
        Self(NonNull::from(Box::leak(task)).cast())
    }

    /// The second reference that [`new`](Self::new) has counted.
    ///
    /// # Safety
    ///
    /// Called once for a task.
    pub(super) unsafe fn second(&self) -> Self {
        Self(self.0)
    }

    /// Gives the task its future.
    ///
    /// # Safety
    ///
    /// The task was made for this `F`, has no future, and this thread is the one that polls it. What the future borrows lives
    /// until the request is finished.
    pub(super) unsafe fn set_future<F, R>(&self, future: F)
    where
        F: Future<Output = Result<R>>,
        R: Into<Answer>,
    {
        // SAFETY: as the caller says. The stage before was `Over`, which needs no drop.
        *unsafe { Task::<F>::stage(self.0) } = ManuallyDrop::new(Stage::Handler(future));
    }

    pub(super) fn header_of(&self) -> NonNull<Header> {
        self.0
    }

    /// # Safety
    ///
    /// A reference to the task is held elsewhere.
    pub(super) unsafe fn of_header(header: NonNull<Header>) -> Self {
        Self::clone(&ManuallyDrop::new(Self(header)))
    }

    pub(super) fn header(&self) -> &Header {
        // SAFETY: a reference is counted, so the task is alive.
        unsafe { self.0.as_ref() }
    }

    pub(super) fn set(&self, bits: u32) -> u32 {
        self.header().state.fetch_or(bits, Ordering::AcqRel)
    }

    pub(super) fn clear(&self, bits: u32) -> u32 {
        self.header().state.fetch_and(!bits, Ordering::AcqRel)
    }

    pub(super) fn table(&self) -> &'static ext_callbacks {
        self.header().host.table
    }

    pub(super) fn handle(&self) -> ext_request {
        self.header().request
    }
}
