//! When what a worker waits for must be over. One look over all of one kind every so often costs less than a timer for each,
//! and less than a look at the clock: time counts from the first look that finds them. In exchange they may end two looks late.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// How late something may end.
const EVERY: Duration = Duration::from_millis(50);

/// What can be late.
pub trait Expirable: 'static {
    /// Whether it still counts.
    fn is_awaited(&self) -> bool;

    /// Ends it, because its time is out.
    fn expire(self);
}

/// A worker's deadlines of one kind.
pub struct Deadlines<T> {
    ahead: RefCell<Vec<(When, T)>>,
    added: Notify,
}

impl<T> Default for Deadlines<T> {
    fn default() -> Self {
        Self {
            ahead: RefCell::default(),
            added: Notify::new(),
        }
    }
}

#[derive(Clone, Copy)]
enum When {
    /// So long after the next look.
    After(Duration),
    At(Instant),
}

impl<T: Expirable> Deadlines<T> {
    /// Has `what` end soon after `timeout`, where it is still awaited then.
    pub fn set(&self, timeout: Duration, what: T) {
        let mut ahead = self.ahead.borrow_mut();
        ahead.push((When::After(timeout), what));
        if ahead.len() == 1 {
            self.added.notify_one();
        }
    }

    /// Takes out what is late at `now`, and drops what is not awaited any more.
    fn take_late(&self, now: Instant) -> Vec<T> {
        let mut ahead = self.ahead.borrow_mut();
        let is_over = |(when, what): &mut (When, T)| {
            if let When::After(timeout) = *when {
                *when = When::At(now + timeout);
            }
            !what.is_awaited() || matches!(*when, When::At(deadline) if deadline <= now)
        };
        let over = ahead.extract_if(.., is_over).map(|(_, what)| what);
        over.filter(T::is_awaited).collect()
    }

    /// Ends what is late, for as long as the worker's loop lives.
    pub async fn watch(&'static self) {
        loop {
            if self.ahead.borrow().is_empty() {
                self.added.notified().await;
            }
            actix_rt::time::sleep(EVERY).await;
            for late in self.take_late(Instant::now()) {
                late.expire();
            }
        }
    }
}
