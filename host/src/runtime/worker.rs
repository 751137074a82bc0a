//! A worker: one event-loop thread, how other threads reach it, and when it calls what is due.
//!
//! What a layer above keeps for each worker is a thread-local of that layer's.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Poll, Waker};

use tokio::sync::Notify;

use super::crash_page::{CallMark, Inside, ThreadMark, end_broken};
use super::in_flight::InFlight;
use super::inbox::{Inbox, Wake};
use super::workers::Workers;
use crate::platform::slice::{Slice, give_way};

thread_local! {
    static CURRENT: Cell<Option<&'static Worker>> = const { Cell::new(None) };
    /// 0 on a thread that is no worker.
    static NUMBER: Cell<u32> = const { Cell::new(0) };
}

static NEXT_NUMBER: AtomicU32 = AtomicU32::new(1);

type Job = Box<dyn FnOnce(&'static Worker) + Send>;

/// Calls what is due on a worker, or a part of it where others should get their turn; tells whether something is left.
pub type CallDue = fn() -> bool;

/// One event-loop thread's own state. Lives as long as the process, so that what outlives the thread's loop finds it.
pub struct Worker {
    /// How other threads reach it.
    pub remote: Remote,
    call_due: CallDue,
    /// Something is due.
    has_due: Cell<bool>,
    /// The thread's loop is over.
    is_ending: Cell<bool>,
    /// Wakes [`pump`]; there once that has run.
    pump: RefCell<Option<Waker>>,
    /// It runs, or is about to.
    is_pump_woken: Cell<bool>,
    mark: &'static ThreadMark,
    workers: Arc<Workers>,
}

/// The way to a worker from any thread.
#[derive(Clone)]
pub struct Remote {
    number: u32,
    inbox: Arc<Inbox<Job, Waker>>,
}

impl Remote {
    /// Whether other threads may have left jobs for it.
    pub fn has_jobs(&self) -> bool {
        self.inbox.is_filled()
    }

    /// Whether this thread is that worker.
    #[inline]
    pub fn is_current(&self) -> bool {
        NUMBER.get() == self.number
    }

    /// Runs `job` on the worker: at once where this thread is that worker, else soon. After the worker has ended the job is
    /// dropped.
    #[inline]
    pub fn run(&self, job: impl FnOnce(&'static Worker) + Send + 'static) {
        match current().filter(|_| self.is_current()) {
            Some(worker) => job(worker),
            None => self.inbox.put(Box::new(job)),
        }
    }
}

impl Wake for Waker {
    /// Tokio panics where the descriptor is gone that wakes a worker. The caller may be an extension's own thread, which no panic
    /// must reach.
    fn wake(&self) {
        if catch_unwind(AssertUnwindSafe(|| self.wake_by_ref())).is_err() {
            let sentence = "a worker cannot be woken, its descriptors were closed or replaced by the code of an extension; the process ends";
            end_broken(sentence, &[]);
        }
    }
}

/// This thread's worker, if it is one.
#[inline]
pub fn current() -> Option<&'static Worker> {
    CURRENT.get()
}

impl Worker {
    /// Makes this thread a worker, if it is none yet. What is due is called by `call_due`, from the thread's own loop.
    pub fn start(workers: &Arc<Workers>, call_due: CallDue) -> &'static Self {
        if let Some(worker) = current() {
            return worker;
        }
        let remote = Remote {
            number: NEXT_NUMBER.fetch_add(1, Ordering::Relaxed),
            inbox: Arc::default(),
        };
        let worker: &'static Self = Box::leak(Box::new(Self {
            remote: remote.clone(),
            call_due,
            has_due: Cell::new(false),
            is_ending: Cell::new(false),
            pump: RefCell::default(),
            is_pump_woken: Cell::new(true),
            mark: ThreadMark::of_this_thread(),
            workers: workers.clone(),
        }));
        let jobs_left: &'static Notify = Box::leak(Box::default());
        NUMBER.set(remote.number);
        CURRENT.set(Some(worker));
        workers.add(remote, worker.mark, jobs_left);
        actix_rt::spawn(pump(worker));
        actix_rt::spawn(look_again(worker, jobs_left));
        worker
    }

    /// Calls an extension's code by `f`: the worker is noted to be inside it meanwhile, and for what.
    #[inline]
    pub fn within<R>(&self, build: &InFlight, call: CallMark, f: impl FnOnce() -> R) -> R {
        self.mark.within(build.number, call, f)
    }

    /// As [`within`](Self::within), in two steps: for what must not be moved into a closure.
    #[inline]
    pub fn enter(&self, build: &InFlight, call: CallMark) -> Inside<'_> {
        self.mark.enter(build.number, call)
    }

    /// Notes that something is due: it is called soon, from the worker's own loop.
    #[inline]
    pub fn note_due(&self) {
        self.has_due.set(true);
        self.wake_pump();
    }

    /// Has the pump look at what is due, once.
    fn wake_pump(&self) {
        if let Some(waker) = &*self.pump.borrow()
            && !self.is_pump_woken.replace(true)
        {
            waker.wake_by_ref();
        }
    }

    /// What becomes due while the returned guard lives is called by whoever holds it, or by the pump afterwards.
    #[inline]
    pub fn hold_pump(&self) -> PumpHeld<'_> {
        PumpHeld {
            worker: self,
            was_woken: self.is_pump_woken.replace(true),
        }
    }

    /// Calls what is due, from a place where no extension is being called; tells whether there was anything.
    #[inline]
    pub fn call_due(&self) -> bool {
        let has_due = self.has_due.get();
        if has_due {
            self.has_due.set((self.call_due)());
        }
        has_due
    }

    /// Runs what other threads have left.
    fn run_jobs(&'static self) {
        for job in self.remote.inbox.take() {
            job(self);
        }
    }

    /// Notes that the loop goes round.
    pub fn give_sign_of_life(&self) {
        self.mark.give_sign_of_life();
    }

    /// Whether the thread's loop is over: nothing new can be begun.
    pub fn is_ending(&self) -> bool {
        self.is_ending.get()
    }
}

/// See [`Worker::hold_pump`].
pub struct PumpHeld<'a> {
    worker: &'a Worker,
    was_woken: bool,
}

impl Drop for PumpHeld<'_> {
    #[inline]
    fn drop(&mut self) {
        self.worker.is_pump_woken.set(self.was_woken);
        if self.worker.has_due.get() {
            self.worker.wake_pump();
        }
    }
}

/// What is left to do of a worker whose loop is over: what is due is called, and the jobs of other threads are run, also of
/// what was in flight at the end.
struct EndOfLoop(&'static Worker);

impl Drop for EndOfLoop {
    fn drop(&mut self) {
        let worker = self.0;
        if !worker.workers.may_end() {
            end_broken("a worker has died; the process ends", &[]);
        }
        worker.is_ending.set(true);
        while worker.call_due() {}
        for job in worker.remote.inbox.close() {
            job(worker);
        }
    }
}

/// Runs the jobs of other threads and calls what is due, for as long as the thread's loop lives.
async fn pump(worker: &'static Worker) {
    let _end = EndOfLoop(worker);
    std::future::poll_fn(move |cx| {
        if worker.pump.borrow().is_none() {
            let waker = cx.waker().clone();
            *worker.pump.borrow_mut() = Some(waker.clone());
            worker.remote.inbox.set_waker(waker);
        }
        worker.is_pump_woken.set(true);
        worker.run_jobs();
        let mut slice = Slice::default();
        while worker.call_due() && !slice.is_over() {}
        let is_left = worker.has_due.get();
        worker.is_pump_woken.set(is_left);
        if is_left {
            give_way(cx);
        }
        Poll::<()>::Pending
    })
    .await;
}

/// Runs the jobs that somebody has seen lying there, whether [`pump`] was woken or not. A thread of an extension that wakes it for the
/// first time may wait for the system's loader in the middle of that, and then nobody else can wake it.
async fn look_again(worker: &'static Worker, jobs_left: &'static Notify) {
    loop {
        jobs_left.notified().await;
        worker.run_jobs();
        if worker.has_due.get() {
            worker.note_due();
        }
    }
}
