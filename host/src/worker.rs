//! A worker: one event-loop thread, what it keeps for itself, and how other threads reach it.
//!
//! Completions are called from here, one after the other, never from inside the call that registered them.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Poll, Waker};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::callbacks::completion::{Completion, Outcome};
use crate::extension::Context;
use crate::server::Host;
use crate::upstream::Upstream;
use crate::{fetched, operation, request};

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
    /// Requests that extensions work on.
    pub requests: request::Requests,
    /// Answers to fetches that wait to be read or relayed.
    pub fetched: fetched::Pool,
    /// Sleeps and fetches under way.
    pub operations: operation::Pool,
    /// Outgoing connections.
    pub upstream: Rc<Upstream>,
    ready: RefCell<VecDeque<(Completion, Outcome)>>,
    ending: Cell<Ending>,
    pump: RefCell<Option<Waker>>,
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
    jobs: UnboundedSender<Job>,
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
            // A send fails only when the worker has ended, at the end of the process.
            let _ = self.jobs.send(Box::new(job));
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
        let (jobs, inbox) = unbounded_channel();
        let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
        let remote = Remote { number, jobs };
        let worker = Rc::new(Self {
            host: host.clone(),
            remote: remote.clone(),
            requests: request::Requests::default(),
            fetched: fetched::Pool::default(),
            operations: operation::Pool::default(),
            upstream: Rc::new(Upstream::new(&host.config.fetch)),
            ready: RefCell::default(),
            ending: Cell::default(),
            pump: RefCell::default(),
            beat: Arc::default(),
        });
        NUMBER.set(number);
        CURRENT.with(|current| {
            current.get_or_init(|| worker.clone());
        });
        host.add_worker(remote, worker.beat.clone());
        actix_rt::spawn(pump(worker.clone(), inbox));
        actix_rt::spawn(request::watch_deadlines(worker.clone()));
        worker
    }

    /// Notes that the worker goes into an extension.
    pub fn enter(&self, context: &Context) -> Inside<'_> {
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
        } else if let Some(waker) = self.pump.borrow_mut().take() {
            waker.wake();
        }
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
struct Rest {
    worker: Rc<Worker>,
    inbox: UnboundedReceiver<Job>,
}

impl Drop for Rest {
    fn drop(&mut self) {
        self.worker.ending.set(Ending::Yes);
        self.worker.drain();
        self.inbox.close();
        while let Ok(job) = self.inbox.try_recv() {
            job(&self.worker);
        }
    }
}

/// Runs the jobs of other threads and the completions that are due, for as long as the thread lives.
async fn pump(worker: Rc<Worker>, inbox: UnboundedReceiver<Job>) {
    /// How much is done before the connections get their turn.
    const BATCH: usize = 64;
    let mut rest = Rest { worker, inbox };
    std::future::poll_fn(move |cx| {
        let Rest { worker, inbox } = &mut rest;
        for _ in 0..BATCH {
            let due = worker.ready.borrow_mut().pop_front();
            if let Some((completion, outcome)) = due {
                completion.call(outcome);
                continue;
            }
            match inbox.poll_recv(cx) {
                Poll::Ready(Some(job)) => job(worker),
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => {
                    if worker.ready.borrow().is_empty() {
                        let mut pump = worker.pump.borrow_mut();
                        if !pump
                            .as_ref()
                            .is_some_and(|waker| waker.will_wake(cx.waker()))
                        {
                            *pump = Some(cx.waker().clone());
                        }
                        return Poll::Pending;
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
