//! The worker's inbox.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use crate::inbox::{Inbox, Wake};

/// Counts how often a worker is woken.
#[derive(Clone)]
struct Counter(Arc<AtomicUsize>);

impl Wake for Counter {
    fn wake(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// A worker that looks when it is woken, and only then.
struct Worker {
    inbox: Inbox<u32, Counter>,
    woken: Arc<AtomicUsize>,
}

impl Worker {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            inbox: Inbox::new(),
            woken: Arc::new(AtomicUsize::new(0)),
        })
    }

    /// The first look: says how it is woken, then takes what is there.
    fn first_look(&self) -> Vec<u32> {
        self.inbox.set_waker(Counter(self.woken.clone()));
        self.inbox.take()
    }
}

/// A job comes while the worker looks for the first time: it is taken by that look, or the worker is woken for it.
#[test]
fn no_job_is_left_lying() {
    loom::model(|| {
        let worker = Worker::new();
        let putting = {
            let worker = worker.clone();
            thread::spawn(move || worker.inbox.put(7))
        };
        let mut taken = worker.first_look();
        // A second look, as the worker's loop would do for other reasons.
        taken.extend(worker.inbox.take());
        putting.join().expect("no panic");
        if taken.is_empty() {
            assert!(
                worker.woken.load(Ordering::Acquire) > 0,
                "nobody looks again"
            );
            taken.extend(worker.inbox.take());
        }
        assert_eq!(taken, [7]);
    });
}

/// Two threads leave jobs while the worker takes some: each comes once.
#[test]
fn each_job_comes_once() {
    loom::model(|| {
        let worker = Worker::new();
        let mut taken = worker.first_look();
        let put = |job| {
            let worker = worker.clone();
            thread::spawn(move || worker.inbox.put(job))
        };
        let (first, second) = (put(1), put(2));
        taken.extend(worker.inbox.take());
        first.join().expect("no panic");
        second.join().expect("no panic");
        taken.extend(worker.inbox.take());
        taken.sort_unstable();
        assert_eq!(taken, [1, 2]);
        assert_eq!(worker.woken.load(Ordering::Acquire), 2);
    });
}

/// A job comes while the worker ends: it is run by the end, or dropped; never kept.
#[test]
fn nothing_is_kept_at_the_end() {
    loom::model(|| {
        let worker = Worker::new();
        let putting = {
            let worker = worker.clone();
            thread::spawn(move || worker.inbox.put(7))
        };
        let left = worker.inbox.close();
        putting.join().expect("no panic");
        assert!(left.len() <= 1);
        assert!(worker.inbox.take().is_empty());
    });
}
