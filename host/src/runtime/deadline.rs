//! When requests and operations of a worker must be over. One look over all of them every so often costs less than a timer
//! for each, and less than a look at the clock: time counts from the first look that finds them. In exchange they may end two
//! looks late.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::boundary::operation;
use crate::boundary::request;
use crate::runtime::worker::Worker;

/// How late something may end.
const EVERY: Duration = Duration::from_millis(50);

/// What is late.
#[derive(Clone, Copy)]
pub enum Late {
    /// The extension's answer to a request.
    Answer(request::Handle),
    /// An operation's outcome.
    Operation(operation::Handle),
}

impl Late {
    /// Whether it still counts.
    fn is_awaited(&self) -> bool {
        match self {
            Self::Answer(request) => request.is_awaited(),
            Self::Operation(operation) => operation.is_open(),
        }
    }
}

/// A worker's deadlines.
#[derive(Default)]
pub struct Deadlines {
    ahead: RefCell<Vec<(When, Late)>>,
    watched: Notify,
}

#[derive(Clone, Copy)]
enum When {
    /// So long after the next look.
    After(Duration),
    At(Instant),
}

impl Deadlines {
    /// Has `late` ended soon after `patience`, where it is still awaited then.
    pub fn set(&self, patience: Duration, late: Late) {
        let mut ahead = self.ahead.borrow_mut();
        ahead.push((When::After(patience), late));
        if ahead.len() == 1 {
            self.watched.notify_one();
        }
    }

    /// Takes out what is late at `now`, and what is not awaited any more.
    fn due(&self, now: Instant) -> Vec<Late> {
        let mut due = Vec::new();
        self.ahead.borrow_mut().retain_mut(|(when, late)| {
            if let When::After(patience) = *when {
                *when = When::At(now + patience);
            }
            let is_late = matches!(*when, When::At(deadline) if deadline <= now);
            let is_awaited = late.is_awaited();
            if is_late && is_awaited {
                due.push(*late);
            }
            is_awaited && !is_late
        });
        due
    }
}

/// Ends what is late, for as long as the worker lives.
pub async fn watch(worker: Rc<Worker>) {
    loop {
        if worker.deadlines.ahead.borrow().is_empty() {
            worker.deadlines.watched.notified().await;
        }
        actix_rt::time::sleep(EVERY).await;
        for late in worker.deadlines.due(Instant::now()) {
            match late {
                Late::Answer(request) => request.time_out(),
                Late::Operation(operation) => operation.time_out(&worker),
            }
        }
    }
}
