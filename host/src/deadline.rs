//! When requests and operations of a worker must be over. One look over all of them every so often costs less than a timer
//! for each; in exchange they may end that much late.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::worker::Worker;
use crate::{operation, request};

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
    ahead: RefCell<Vec<(Instant, Late)>>,
    watched: Notify,
}

impl Deadlines {
    /// Has `late` ended soon after `deadline`, where it is still awaited then.
    pub fn set(&self, deadline: Instant, late: Late) {
        let mut ahead = self.ahead.borrow_mut();
        ahead.push((deadline, late));
        if ahead.len() == 1 {
            self.watched.notify_one();
        }
    }

    /// Takes out what is late at `now`, and what is not awaited any more.
    fn due(&self, now: Instant) -> Vec<Late> {
        let mut due = Vec::new();
        self.ahead.borrow_mut().retain(|(deadline, late)| {
            let is_awaited = late.is_awaited();
            let is_late = is_awaited && *deadline <= now;
            if is_late {
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
