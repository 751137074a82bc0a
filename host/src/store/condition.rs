//! Whether a database answers, as its users find it: told in the log when it stops and when it does again, and not for each
//! request in between.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::platform::log;

/// How often the log says again that the database still fails.
const REPEAT: Duration = Duration::from_secs(60);
/// How long after a line about a failure the next one may follow, where a database fails and answers by turns.
const QUIET: Duration = Duration::from_secs(5);

/// What a database is used for. A full disk or another process's lock stops changes, and nobody who reads notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Looking something up.
    Read,
    /// Changing something.
    Change,
}

/// What is known of a database.
pub struct Condition {
    reads: Side,
    changes: Side,
}

struct Side {
    failing: &'static str,
    again: &'static str,
    is_failing: AtomicBool,
    failure: Mutex<Failure>,
}

#[derive(Default)]
struct Failure {
    /// When it began, and what the newest cause is; `None`: all is well.
    now: Option<(Instant, String)>,
    count: u64,
    /// When the log was last told of one.
    told: Option<Instant>,
    /// Whether the log knows of this one.
    is_told: bool,
}

impl Condition {
    /// Of the host's own store.
    pub fn of_the_store() -> Condition {
        Condition {
            reads: Side::new(
                "the store cannot be read: callers with tokens get 503",
                "the store can be read again",
            ),
            changes: Side::new(
                "the store cannot be changed: nobody can sign in",
                "the store can be changed again",
            ),
        }
    }

    /// Of the database of a Directus, which is only read.
    pub fn of_a_directus() -> Condition {
        let failing = "the Directus's database cannot be read: callers with tokens get 503";
        let again = "the Directus's database can be read again";
        Condition {
            reads: Side::new(failing, again),
            changes: Side::new(failing, again),
        }
    }

    /// Notes a failure; true where it is the first of several.
    pub fn failed(&self, using: Use, cause: &str) -> bool {
        self.side(using).failed(cause, Instant::now())
    }

    /// Notes that it answered.
    pub fn answered(&self, using: Use) {
        let side = self.side(using);
        // Nearly always: nothing to be done.
        if side.is_failing.load(Ordering::Relaxed) {
            side.answered(Instant::now());
        }
    }

    /// Why it fails at the moment; `None`: as far as is known, it does not.
    pub fn cause(&self, using: Use) -> Option<String> {
        let failure = self.side(using).failure();
        failure.now.as_ref().map(|(_, cause)| cause.clone())
    }

    fn side(&self, using: Use) -> &Side {
        match using {
            Use::Read => &self.reads,
            Use::Change => &self.changes,
        }
    }
}

impl Side {
    fn new(failing: &'static str, again: &'static str) -> Side {
        Side {
            failing,
            again,
            is_failing: AtomicBool::new(false),
            failure: Mutex::default(),
        }
    }

    fn failure(&self) -> MutexGuard<'_, Failure> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, cause: &str, now: Instant) -> bool {
        let mut failure = self.failure();
        let is_first = failure.now.is_none();
        let since = failure.now.as_ref().map_or(now, |(since, _)| *since);
        failure.now = Some((since, cause.to_owned()));
        failure.count += 1;
        self.is_failing.store(true, Ordering::Relaxed);
        let quiet = if failure.is_told { REPEAT } else { QUIET };
        if failure.told.is_none_or(|told| now >= told + quiet) {
            failure.told = Some(now);
            failure.is_told = true;
            let for_ms = (now - since).as_millis();
            log::error(
                self.failing,
                &[
                    ("cause", &cause),
                    ("failed_count", &failure.count),
                    ("for_ms", &for_ms),
                ],
            );
        }
        is_first
    }

    fn answered(&self, now: Instant) {
        let mut failure = self.failure();
        let Some((since, _)) = failure.now.take() else {
            return;
        };
        self.is_failing.store(false, Ordering::Relaxed);
        let count = std::mem::take(&mut failure.count);
        if std::mem::take(&mut failure.is_told) {
            let after_ms = (now - since).as_millis();
            log::info(
                self.again,
                &[("failed_count", &count), ("after_ms", &after_ms)],
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_told_of_the_first_failure_and_then_once_a_minute() {
        let side = Side::new("fails", "answers");
        let begin = Instant::now();
        let told = |after: u64| {
            let now = begin + Duration::from_secs(after);
            side.failed("a cause", now);
            side.failure().told == Some(now)
        };
        assert!(told(0));
        assert!((1..60).all(|second| !told(second)));
        assert!(told(60) && !told(119) && told(120));
    }

    #[test]
    fn a_database_that_fails_by_turns_does_not_fill_the_log() {
        let side = Side::new("fails", "answers");
        let begin = Instant::now();
        let mut lines = 0;
        for tenth in 0..100 {
            let now = begin + Duration::from_millis(100 * tenth);
            assert!(side.failed("a cause", now), "each is the first again");
            lines += u32::from(side.failure().is_told);
            side.answered(now);
            assert!(!side.is_failing.load(Ordering::Relaxed));
        }
        assert_eq!(lines, 2);
    }
}
