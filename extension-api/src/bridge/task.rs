//! A request's task: the author's future in one allocation, from `handle` until the request is finished.
//!
//! The future is polled, and dropped, only on the request's worker: in `handle`, and in completions. What wakes it there is
//! followed by a poll right away; what wakes it from elsewhere posts, once. When the client leaves, the future is dropped and the
//! request given up: the operation that it waits for says so, or where it waits for none of the request's, the watch.
//!
//! The request is finished after its future is dropped, and not while its [`Hold`] lives: so whatever a `Request` lends
//! stays readable, wherever the author has taken it.
#![expect(
    unsafe_code,
    reason = "erases a future's type and lifetime, and counts references"
)]

use std::cell::{Cell, UnsafeCell};
use std::ffi::c_void;
use std::future::Future;
use std::hint::cold_path;
use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Wake, Waker};
use std::{ptr, thread as std_thread};

use super::{
    ABSENT, Bytes, FetchedHandle, Host, Outlet, guarded, slice, struct_size, thread, with_fields,
};
use crate::abi::*;
use crate::error::{Error, Result};
use crate::headers::Fields;
use crate::request::Request;
use crate::response::{Body, Producer, Response};

/// Serves a request with the future that `make` returns.
///
/// # Safety
///
/// The request must be the caller's to finish, and this thread its worker. What the future borrows must live until the
/// request is finished.
pub(crate) unsafe fn serve<F>(
    host: &'static Host,
    request: ext_request,
    make: impl FnOnce(Request) -> F,
) where
    F: Future<Output = Result<Response>>,
{
    if let Some(task) = TaskRef::new(host, request, make) {
        task.run();
    }
}

/// Serves a request on a thread that may block.
///
/// # Safety
///
/// As for [`serve`], except that this thread is one of the pool's.
pub(crate) unsafe fn serve_blocking<F>(
    host: &'static Host,
    request: ext_request,
    make: impl FnOnce(Request) -> F,
) where
    F: Future<Output = Result<Response>>,
{
    if let Some(task) = TaskRef::new(host, request, make) {
        let waker = Unpark::this_thread();
        while !task.advance(&mut Context::from_waker(&waker), false) {
            std_thread::park();
        }
    }
}

/// Waits for a future on this thread, which is parked meanwhile.
///
/// # Panics
///
/// On a worker, in an asynchronous handler: there, `.await` the future.
pub fn block_on<F: Future>(future: F) -> F::Output {
    assert!(
        !thread::on_worker(),
        "block_on would block the worker: `.await` the future instead"
    );
    let waker = Unpark::this_thread();
    let mut cx = Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(output) => return output,
            Poll::Pending => std_thread::park(),
        }
    }
}

/// Wakes by unparking a thread.
struct Unpark(std_thread::Thread);

impl Unpark {
    fn this_thread() -> Waker {
        Waker::from(std::sync::Arc::new(Self(std_thread::current())))
    }
}

impl Wake for Unpark {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &std::sync::Arc<Self>) {
        self.0.unpark();
    }
}

// ---- The task ----

/// A task whose future's type is known. The header comes first, so that a pointer to the task points to it.
#[repr(C)]
struct Task<F> {
    header: Header,
    /// Not dropped with the task: the future is dropped before, on its own thread, by `clear`.
    stage: UnsafeCell<ManuallyDrop<Stage<F>>>,
}

type Streaming = Pin<Box<dyn Future<Output = Result<()>>>>;

enum Stage<F> {
    Handler(F),
    Streaming(Streaming),
    Over,
}

pub(super) struct Header {
    functions: &'static Functions,
    host: &'static Host,
    /// NULL until somebody asks.
    head: AtomicPtr<ext_request_head>,
    request: ext_request,
    /// The thread that polls.
    worker: usize,
    references: AtomicUsize,
    /// Bits, see below.
    state: AtomicU32,
    /// Operations under way that end when the client leaves: while there are any, nothing else needs to tell.
    bound: AtomicU32,
    /// Whether `watch` has been called. Of the polling thread only.
    watched: Cell<bool>,
}

/// The future is being polled.
const RUNNING: u32 = 1;
/// Woken since the last poll began; who sets it has the task polled again.
const WOKEN: u32 = 2;
/// The client has left while the future was being polled.
const CANCELLED: u32 = 4;
/// The answer's head is sent; `end` finishes the request.
const STREAMING: u32 = 8;
/// The future is dropped, the request finished or left to the hold.
const OVER: u32 = 16;

/// A `Hold` lives.
const HELD: u32 = 32;
/// The request was to be finished; where a `Hold` lives then, it does so when it is dropped.
const FINISHED: u32 = 64;

/// What depends on the future's type. Each takes a pointer to the header of a live `Task` of that type.
struct Functions {
    poll: unsafe fn(NonNull<Header>, &mut Context<'_>) -> Step,
    clear: unsafe fn(NonNull<Header>),
    stream: unsafe fn(NonNull<Header>, Streaming),
    free: unsafe fn(NonNull<Header>),
}

enum Step {
    Pending,
    Answered(Result<Response>),
    Streamed(Result<()>),
}

impl<F: Future<Output = Result<Response>>> Task<F> {
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
                Poll::Ready(answer) => Step::Answered(answer),
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

    unsafe fn stream(header: NonNull<Header>, future: Streaming) {
        // SAFETY: as for `poll`. The stage before was `Over`, which needs no drop.
        *unsafe { Self::stage(header) } = ManuallyDrop::new(Stage::Streaming(future));
    }

    unsafe fn free(header: NonNull<Header>) {
        // SAFETY: made by `Box::leak` in `TaskRef::new`; the last reference is gone, says the caller.
        drop(unsafe { Box::from_raw(header.cast::<Self>().as_ptr()) });
    }
}

/// A counted reference to a task. From any thread it wakes; on the polling thread it runs, and cancels.
pub(super) struct TaskRef(NonNull<Header>);

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
    /// Makes the task, and with `make` its future. `None` where the request has been finished instead.
    fn new<F>(
        host: &'static Host,
        request: ext_request,
        make: impl FnOnce(Request) -> F,
    ) -> Option<Self>
    where
        F: Future<Output = Result<Response>>,
    {
        let task: Box<Task<F>> = Box::new(Task {
            header: Header {
                functions: const { &Task::<F>::FUNCTIONS },
                host,
                head: AtomicPtr::default(),
                request,
                worker: thread::token(),
                // Ours, and the hold's.
                references: AtomicUsize::new(2),
                state: AtomicU32::new(HELD),
                bound: AtomicU32::new(0),
                watched: Cell::new(false),
            },
            stage: UnsafeCell::new(ManuallyDrop::new(Stage::Over)),
        });
        let task = Self(NonNull::from(Box::leak(task)).cast());
        let hold = Hold(Self(task.0));
        let made = {
            let _running = thread::Running::enter(request, None);
            guarded(|| make(Request::new(hold)))
        };
        match made {
            Ok(future) => {
                // SAFETY: this thread polls, and does not yet.
                *unsafe { Task::<F>::stage(task.0) } = ManuallyDrop::new(Stage::Handler(future));
                Some(task)
            }
            Err(panic) => {
                task.panicked(panic.0);
                None
            }
        }
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

    fn header(&self) -> &Header {
        // SAFETY: a reference is counted, so the task is alive.
        unsafe { self.0.as_ref() }
    }

    fn set(&self, bits: u32) -> u32 {
        self.header().state.fetch_or(bits, Ordering::AcqRel)
    }

    fn clear(&self, bits: u32) -> u32 {
        self.header().state.fetch_and(!bits, Ordering::AcqRel)
    }

    // ---- On the polling thread ----

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
            self.give_up();
        } else if state & WOKEN != 0 {
            // It woke itself: the worker's other requests come first.
            self.post();
        }
    }

    /// Polls until the future is pending, or the task is over and the request finished: then `true`.
    fn advance(&self, cx: &mut Context<'_>, on_worker: bool) -> bool {
        let _running = thread::Running::enter(self.header().request, on_worker.then_some(self));
        loop {
            // SAFETY: on the polling thread; RUNNING, or the loop of `serve_blocking`, keeps it from being entered twice.
            match guarded(|| unsafe { (self.header().functions.poll)(self.0, cx) }) {
                Ok(Step::Pending) => return false,
                Ok(Step::Answered(Ok(response))) => match response.body {
                    Body::Bytes(body) => {
                        self.answer(response.status, &response.headers, body);
                        return true;
                    }
                    Body::Relay(fetched) => {
                        self.relay(response.status, &response.headers, fetched);
                        return true;
                    }
                    Body::Stream(producer) => {
                        if !self.begin_stream(response.status, &response.headers, producer) {
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
    fn cancel(&self) {
        if self.set(CANCELLED) & (RUNNING | OVER) == 0 {
            self.give_up();
        }
    }

    fn give_up(&self) {
        self.set(OVER);
        self.clear_stage();
        self.finish(Self::abandon);
    }

    /// Drops the future, whatever it does about it.
    #[cold]
    fn clear_stage(&self) {
        // SAFETY: on the polling thread; not within a poll: `cancel` looks at RUNNING, and a poll that panicked is over.
        if let Err(panic) = guarded(|| unsafe { (self.header().functions.clear)(self.0) }) {
            self.header().host.log(
                EXT_LOG_ERROR,
                "a handler's future panicked while it was dropped",
                &[("cause", panic.0)],
            );
        }
    }

    // ---- The end of a request: the future is dropped ----

    fn answer(&self, status: u16, headers: &Fields, body: Bytes) {
        if let Some(fault) = headers.fault() {
            return self.fail(&Error::internal(fault));
        }
        self.finish(|task| {
            with_fields(headers.iter(), |headers| {
                let raw = raw_response(status, headers, body);
                // SAFETY: `respond` takes every handle; headers are lent for the call, the body is given.
                unsafe { (task.table().respond)(task.handle(), &raw) }
            })
        });
    }

    #[inline(never)]
    fn relay(&self, status: u16, headers: &Fields, fetched: FetchedHandle) {
        if let Some(fault) = headers.fault() {
            return self.fail(&Error::internal(fault));
        }
        self.finish(|task| {
            with_fields(headers.iter(), |headers| {
                let raw = raw_response(status, headers, Bytes::new());
                let edits = if status == 0 && headers.is_empty() {
                    ptr::null()
                } else {
                    &raw const raw
                };
                // SAFETY: `relay` takes every handle; headers are lent for the call, the answer is given.
                unsafe { (task.table().relay)(task.handle(), fetched.into_raw(), edits) }
            })
        });
    }

    #[inline(never)]
    fn fail(&self, error: &Error) {
        self.fail_with(
            error.status(),
            error.code(),
            error.message(),
            error.cause_text(),
            0,
        );
    }

    /// Ends the request for a panic, by an error or, where the answer's head is out, by breaking off.
    #[cold]
    fn panicked(&self, text: String) {
        if self.header().state.load(Ordering::Acquire) & STREAMING != 0 {
            return self.break_off(text);
        }
        self.fail_with(
            500,
            "INTERNAL_SERVER_ERROR",
            "the handler panicked",
            &text,
            EXT_ERROR_PANIC,
        );
    }

    fn fail_with(&self, status: u16, code: &str, message: &str, cause: &str, flags: u32) {
        self.finish(|task| {
            let absent_if_empty = |text: &str| {
                if text.is_empty() {
                    ABSENT
                } else {
                    slice(text.as_bytes())
                }
            };
            let error = ext_error {
                struct_size: struct_size::<ext_error>(),
                status: u32::from(status),
                code: absent_if_empty(code),
                message: slice(message.as_bytes()),
                cause: absent_if_empty(cause),
                flags,
                reserved: 0,
            };
            // SAFETY: `fail` takes every handle; the slices are lent for the call.
            unsafe { (task.table().fail)(task.handle(), &error) }
        });
    }

    /// Sends the head of a streamed answer. `false` where that finished the request.
    #[inline(never)]
    fn begin_stream(&self, status: u16, headers: &Fields, producer: Producer<'static>) -> bool {
        if let Some(fault) = headers.fault() {
            // Before: it may own the request.
            drop(guarded(|| drop(producer)));
            self.fail(&Error::internal(fault));
            return false;
        }
        let status = with_fields(headers.iter(), |headers| {
            let head = raw_response(status, headers, Bytes::new());
            // SAFETY: `stream` takes every handle; the headers are lent for the call.
            unsafe { (self.table().stream)(self.handle(), &head) }
        });
        if status != EXT_OK {
            drop(guarded(|| drop(producer)));
            self.finish(Self::abandon);
            return false;
        }
        self.set(STREAMING);
        let outlet = Outlet::answer(self.table(), self.handle());
        match guarded(|| producer.start(outlet)) {
            // SAFETY: on the polling thread, between two polls.
            Ok(future) => unsafe { (self.header().functions.stream)(self.0, future) },
            Err(panic) => {
                self.break_off(panic.0);
                return false;
            }
        }
        true
    }

    #[inline(never)]
    fn end_stream(&self, result: Result<()>) {
        let status = match result {
            Ok(()) => EXT_OK,
            Err(error) if error.is_client_left() => EXT_CANCELLED,
            Err(error) => return self.break_off(error.report()),
        };
        // SAFETY: `end` takes every handle.
        self.finish(|task| unsafe { (task.table().end)(task.handle(), status) });
    }

    fn break_off(&self, why: String) {
        let message = "a streamed answer was broken off";
        self.header()
            .host
            .log(EXT_LOG_ERROR, message, &[("cause", why)]);
        // SAFETY: `end` takes every handle.
        self.finish(|task| unsafe { (task.table().end)(task.handle(), EXT_FAILED) });
    }

    /// Finishes the request by `call`, or leaves that to a `Hold` that the author has taken elsewhere.
    fn finish(&self, call: impl FnOnce(&Self) -> ext_status) {
        if self.set(OVER | FINISHED) & HELD != 0 {
            cold_path();
            let message = "the answer was discarded: the Request outlives its handler";
            return self.header().host.log(EXT_LOG_ERROR, message, &[]);
        }
        if call(self) != EXT_OK {
            cold_path();
            self.abandon();
        }
    }

    /// Gives the request up; of no effect where it is finished.
    #[inline(never)]
    fn abandon(&self) -> ext_status {
        // SAFETY: both take every handle.
        unsafe {
            match self.header().state.load(Ordering::Acquire) & STREAMING {
                0 => (self.table().drop)(self.handle()),
                _ => (self.table().end)(self.handle(), EXT_CANCELLED),
            }
        }
    }

    fn table(&self) -> &'static ext_callbacks {
        self.header().host.table
    }

    fn handle(&self) -> ext_request {
        self.header().request
    }

    // ---- On any thread ----

    fn wake(&self) {
        if self.set(WOKEN) & (RUNNING | WOKEN | OVER) != 0 {
            return;
        }
        let here = self.header().worker == thread::token();
        if !here || thread::leave_woken(self.clone()).is_err() {
            self.post();
        }
    }

    /// Has the task run by its worker, soon.
    fn post(&self) {
        let completion = self.completion(post_completed);
        // SAFETY: the completion holds a counted reference, and may be used by any thread.
        let status = unsafe { self.header().host.post(self.header().request, completion) };
        self.accepted(status, completion);
    }

    fn completion(
        &self,
        function: unsafe extern "C" fn(*mut c_void, *const ext_result),
    ) -> ext_completion {
        ext_completion {
            function: Some(function),
            user: ManuallyDrop::new(self.clone()).0.as_ptr().cast(),
        }
    }

    /// Whether the host took the completion; takes its reference back where it did not.
    fn accepted(&self, status: ext_status, completion: ext_completion) -> bool {
        if status != EXT_OK {
            // SAFETY: made by `completion`, and not called by a host that did not take it.
            drop(unsafe { Self::from_user(completion.user) });
        }
        status == EXT_OK
    }

    /// # Safety
    ///
    /// `user` must come from `completion`, once for each.
    unsafe fn from_user(user: *mut c_void) -> Self {
        // SAFETY: `completion` made it from a pointer to a task, and left a counted reference to it.
        Self(unsafe { NonNull::new_unchecked(user.cast()) })
    }

    fn raw_waker(&self) -> RawWaker {
        RawWaker::new(self.0.as_ptr().cast_const().cast(), &WAKER)
    }

    /// # Safety
    ///
    /// `data` must come from `raw_waker`; the reference counts as borrowed.
    unsafe fn from_waker(data: *const ()) -> ManuallyDrop<Self> {
        // SAFETY: `raw_waker` made it from a pointer to a task.
        ManuallyDrop::new(Self(unsafe {
            NonNull::new_unchecked(data.cast_mut().cast())
        }))
    }
}

static WAKER: RawWakerVTable =
    RawWakerVTable::new(waker_clone, waker_wake, waker_wake_by_ref, waker_drop);

unsafe fn waker_clone(data: *const ()) -> RawWaker {
    // SAFETY: the data of a waker of this table, as for the three below.
    let task = unsafe { TaskRef::from_waker(data) };
    ManuallyDrop::new(TaskRef::clone(&task)).raw_waker()
}

unsafe fn waker_wake(data: *const ()) {
    // SAFETY: as above; the waker is used up, and its reference with it.
    ManuallyDrop::into_inner(unsafe { TaskRef::from_waker(data) }).wake();
}

unsafe fn waker_wake_by_ref(data: *const ()) {
    // SAFETY: as above.
    unsafe { TaskRef::from_waker(data) }.wake();
}

unsafe fn waker_drop(data: *const ()) {
    // SAFETY: as above; the waker is used up, and its reference with it.
    drop(ManuallyDrop::into_inner(unsafe {
        TaskRef::from_waker(data)
    }));
}

unsafe extern "C" fn watch_completed(user: *mut c_void, _: *const ext_result) {
    // SAFETY: given away by `watch`; a completion is called exactly once.
    let task = unsafe { TaskRef::from_user(user) };
    // What may panic is guarded within; this keeps a mistake of ours from ending the host.
    let _ = guarded(|| task.cancel());
}

unsafe extern "C" fn post_completed(user: *mut c_void, _: *const ext_result) {
    // SAFETY: given away by `post`; a completion is called exactly once.
    let task = unsafe { TaskRef::from_user(user) };
    // As above.
    let _ = guarded(|| task.run());
}

fn raw_response(status: u16, headers: &[ext_field], body: Bytes) -> ext_response {
    ext_response {
        struct_size: struct_size::<ext_response>(),
        status: u32::from(status),
        headers: headers.as_ptr(),
        header_count: headers.len(),
        body: body.into_raw(),
    }
}

// ---- An operation of a request ----

/// Stands for an operation that the host ends when the client of its request leaves, from its start to its completion.
pub(super) struct Bound(Option<TaskRef>);

impl Bound {
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

impl Drop for Bound {
    fn drop(&mut self) {
        if let Some(task) = self.0.take()
            && task.header().bound.fetch_sub(1, Ordering::Relaxed) == 1
            && !thread::polls(task.0)
        {
            // The last one: whatever the task waits for now, the next poll has it watch. A poll that is under way does so anyway;
            // woken by it, a future that starts and drops an operation in each poll would never rest.
            task.wake();
        }
    }
}

// ---- The hold ----

/// Keeps a request from being finished, so that what it lends can be read. One for each request.
pub(crate) struct Hold(TaskRef);

impl Hold {
    pub(crate) fn handle(&self) -> ext_request {
        self.0.handle()
    }

    pub(super) fn table(&self) -> &'static ext_callbacks {
        self.0.table()
    }

    pub(super) fn raw_head(&self) -> NonNull<ext_request_head> {
        let kept = &self.0.header().head;
        let head = NonNull::new(kept.load(Ordering::Acquire)).or_else(|| {
            // SAFETY: `head` takes every handle.
            let head = unsafe { (self.table().head)(self.handle()) }.cast_mut();
            // Another thread may be doing the same: it is given the same.
            kept.store(head, Ordering::Release);
            NonNull::new(head)
        });
        head.expect("the host keeps the head of a request that is not finished")
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.0.clear(HELD) & FINISHED != 0 {
            self.0.abandon();
        }
    }
}
