//! A worker: one event-loop thread, what it keeps for itself, and how other threads reach it.
//!
//! Completions are called from here, one after the other, never from inside the call that registered them.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Poll, Waker};

use crate::boundary::fetched;
use crate::boundary::operation;
use crate::boundary::request;
use crate::extension;
use crate::runtime::completion::{Completion, Outcome};
use crate::runtime::deadline::{self, Deadlines};
use crate::server::Host;
use crate::server::connection::{self, Connections};
use crate::upstream::Upstream;

thread_local! {
    static CURRENT: OnceCell<Rc<Worker>> = const { OnceCell::new() };
    /// 0 on a thread that is no worker.
    static NUMBER: Cell<u32> = const { Cell::new(0) };
}

static NEXT_NUMBER: AtomicU32 = AtomicU32::new(1);

type Job = Box<dyn FnOnce(&Rc<Worker>) + Send>;

/// One event-loop thread's own things.
pub struct Worker {
    /// The server that it works for.
    pub host: Arc<Host>,
    /// How other threads reach it.
    pub remote: Remote,
    /// Clients' connections.
    pub connections: Connections,
    /// Requests that extensions work on.
    pub requests: request::Requests,
    /// Answers to fetches that wait to be read or relayed.
    pub fetched: fetched::Pool,
    /// Sleeps and fetches under way.
    pub operations: operation::Pool,
    /// When these must be over.
    pub deadlines: Deadlines,
    /// Outgoing connections.
    pub upstream: Rc<Upstream>,
    ready: RefCell<VecDeque<(Completion, Outcome)>>,
    ending: Cell<Ending>,
    /// It runs, or is about to.
    is_pump_woken: Cell<bool>,
    beat: Arc<Beat>,
}

/// Whether a worker is inside an extension, for the thread that watches for those that block.
#[derive(Default)]
pub struct Beat {
    /// The extension's number; 0 outside.
    inside: AtomicU64,
    /// Counts the times that an extension was entered.
    turn: AtomicU64,
}

impl Beat {
    /// Which extension the worker is in, and for the how manyeth time.
    pub fn read(&self) -> (u64, u64) {
        (
            self.inside.load(Ordering::Relaxed),
            self.turn.load(Ordering::Relaxed),
        )
    }
}

/// The worker is inside an extension while this lives.
pub struct Inside<'a>(&'a Beat);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.inside.store(0, Ordering::Relaxed);
    }
}

/// The way to a worker from any thread.
#[derive(Clone)]
pub struct Remote {
    number: u32,
    inbox: Arc<Inbox>,
}

/// Jobs that other threads leave for a worker.
#[derive(Default)]
struct Inbox {
    /// `None` after the worker has ended.
    jobs: Mutex<Option<Vec<Job>>>,
    /// There may be some: so that the pump needs no lock to see that there are none.
    is_filled: AtomicBool,
    /// Wakes [`pump`]; there once that has run.
    pump: OnceLock<Waker>,
}

impl Inbox {
    fn put(&self, job: Job) {
        match &mut *self.lock() {
            Some(jobs) => jobs.push(job),
            // The end of the process: the job is dropped.
            None => return,
        }
        // In this order: whoever is woken sees the mark, and whoever sees the mark sees the job.
        self.is_filled.store(true, Ordering::Release);
        if let Some(waker) = self.pump.get() {
            waker.wake_by_ref();
        }
    }

    /// What is there.
    fn empty(&self) -> Vec<Job> {
        if !self.is_filled.load(Ordering::Relaxed) || !self.is_filled.swap(false, Ordering::Acquire)
        {
            return Vec::new();
        }
        self.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// What is left when nobody looks any more.
    fn close(&self) -> Vec<Job> {
        self.lock().take().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Vec<Job>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Remote {
    /// Whether this thread is that worker.
    pub fn is_current(&self) -> bool {
        NUMBER.get() == self.number
    }

    /// Runs `job` on the worker: at once where this thread is that worker, else soon. After the worker has ended the job is
    /// dropped.
    pub fn run(&self, job: impl FnOnce(&Rc<Worker>) + Send + 'static) {
        if self.is_current() {
            with_current(|worker| job(worker));
        } else {
            self.inbox.put(Box::new(job));
        }
    }
}

/// Calls `f` with this thread's worker, if it is one and the thread is not ending.
pub fn with_current<R>(f: impl FnOnce(&Rc<Worker>) -> R) -> Option<R> {
    CURRENT
        .try_with(|current| current.get().map(f))
        .ok()
        .flatten()
}

/// This thread's worker, if it is one and the thread is not ending.
pub fn current() -> Option<Rc<Worker>> {
    with_current(Rc::clone)
}

/// The name of the extension that this thread's worker is in.
pub fn inside() -> Option<Arc<str>> {
    with_current(|worker| worker.host.name_of(worker.beat.read().0)).flatten()
}

impl Worker {
    /// Makes this thread a worker of `host`, if it is none yet, and starts what runs beside its requests.
    pub fn start(host: &Arc<Host>) -> Rc<Self> {
        if let Some(worker) = current() {
            return worker;
        }
        let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
        let inbox = Arc::new(Inbox {
            jobs: Mutex::new(Some(Vec::new())),
            ..Inbox::default()
        });
        let remote = Remote { number, inbox };
        let worker = Rc::new(Self {
            host: host.clone(),
            remote: remote.clone(),
            connections: Connections::default(),
            requests: request::Requests::default(),
            fetched: fetched::Pool::default(),
            operations: operation::Pool::default(),
            deadlines: Deadlines::default(),
            upstream: Rc::new(Upstream::new(&host.config.fetch)),
            ready: RefCell::default(),
            ending: Cell::default(),
            is_pump_woken: Cell::new(true),
            beat: Arc::default(),
        });
        NUMBER.set(number);
        CURRENT.with(|current| {
            current.get_or_init(|| worker.clone());
        });
        host.add_worker(remote, worker.beat.clone());
        actix_rt::spawn(pump(worker.clone()));
        actix_rt::spawn(deadline::watch(worker.clone()));
        actix_rt::spawn(connection::watch(worker.clone()));
        worker
    }

    /// Notes that the worker goes into an extension.
    pub fn enter(&self, context: &extension::Context) -> Inside<'_> {
        let beat = &*self.beat;
        // The worker is the only writer, so that two plain steps do what an atomic one would.
        beat.turn.store(
            beat.turn.load(Ordering::Relaxed).wrapping_add(1),
            Ordering::Relaxed,
        );
        beat.inside.store(context.number, Ordering::Relaxed);
        Inside(beat)
    }

    /// Calls `completion` soon, from the worker's own loop.
    pub fn complete(&self, completion: Completion, outcome: Outcome) {
        self.ready.borrow_mut().push_back((completion, outcome));
        if self.is_ending() {
            self.drain();
        } else {
            self.wake_pump();
        }
    }

    /// Has the pump look at what is due, once.
    pub fn wake_pump(&self) {
        if let Some(waker) = self.remote.inbox.pump.get()
            && !self.is_pump_woken.replace(true)
        {
            waker.wake_by_ref();
        }
    }

    /// Completions that become due while this lives are called by whoever holds it, or by the pump afterwards.
    pub fn turn(&self) -> Turn<'_> {
        Turn {
            worker: self,
            was_pump_woken: self.is_pump_woken.replace(true),
        }
    }

    /// Calls the completions that are due, from a place where no extension is being called; tells whether there were any.
    pub fn call_ready(&self) -> bool {
        /// How much is done before others get their turn.
        const BATCH: usize = 64;
        if self.ready.borrow().is_empty() {
            return false;
        }
        let mut has_called = false;
        for _ in 0..BATCH {
            let due = self.ready.borrow_mut().pop_front();
            let Some((completion, outcome)) = due else {
                break;
            };
            completion.call(outcome);
            has_called = true;
        }
        has_called
    }

    /// Whether the thread's loop is over: nothing new can be begun.
    pub fn is_ending(&self) -> bool {
        self.ending.get() != Ending::No
    }

    /// Calls what is due when there is no loop any more that would; still never from inside another completion.
    fn drain(&self) {
        if self.ending.replace(Ending::Draining) == Ending::Draining {
            return;
        }
        loop {
            let due = self.ready.borrow_mut().pop_front();
            let Some((completion, outcome)) = due else {
                break;
            };
            completion.call(outcome);
        }
        self.ending.set(Ending::Yes);
    }
}

/// See [`Worker::turn`].
pub struct Turn<'a> {
    worker: &'a Worker,
    was_pump_woken: bool,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.worker.is_pump_woken.set(self.was_pump_woken);
        if !self.worker.ready.borrow().is_empty() {
            self.worker.wake_pump();
        }
    }
}

/// Whether a worker's loop is over.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Ending {
    #[default]
    No,
    Yes,
    /// And completions are being called.
    Draining,
}

/// What is left to do of a worker whose loop is over: every completion is called, and every request finished, also of those
/// that were in hand at the end.
struct Rest(Rc<Worker>);

impl Drop for Rest {
    fn drop(&mut self) {
        let worker = &self.0;
        worker.ending.set(Ending::Yes);
        worker.drain();
        for job in worker.remote.inbox.close() {
            job(worker);
        }
    }
}

/// Runs the jobs of other threads and the completions that are due, for as long as the thread lives.
async fn pump(worker: Rc<Worker>) {
    let rest = Rest(worker);
    std::future::poll_fn(move |cx| {
        let worker = &rest.0;
        worker.remote.inbox.pump.get_or_init(|| cx.waker().clone());
        worker.is_pump_woken.set(true);
        for job in worker.remote.inbox.empty() {
            job(worker);
        }
        worker.call_ready();
        worker.is_pump_woken.set(false);
        if !worker.ready.borrow().is_empty() {
            worker.wake_pump();
        }
        Poll::<()>::Pending
    })
    .await;
}
