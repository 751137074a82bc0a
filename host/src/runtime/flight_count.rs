//! How much is in flight, whether it may still grow, and how many of it are requests: one atomic number.
//!
//! One number, because a count that is looked at before it is changed is wrong by then: what was let in after the last one had
//! left would run in what has been destroyed. The model in `tests/loom` tries every order of the steps.

use super::sync::{AtomicU64, Ordering};

/// One of whatever is in flight; they are counted by the lower half.
const ONE: u64 = 1;
/// One request, which is in flight, too.
const REQUEST: u64 = (1 << 32) + ONE;
/// Nothing is let in from outside any more.
const RETIRED: u64 = 1 << 63;

/// See the module's text.
#[derive(Default)]
pub struct FlightCount(AtomicU64);

/// What was counted in, and has to be counted out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted(u64);

/// Why no request is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// As many as are allowed are in flight.
    Full,
    /// The extension is being stopped.
    Retired,
}

fn flights_in(count: u64) -> usize {
    (count & u64::from(u32::MAX)) as usize
}

fn requests_in(count: u64) -> usize {
    ((count & !RETIRED) >> 32) as usize
}

impl FlightCount {
    /// Counts a request in.
    ///
    /// # Errors
    /// Where nothing is let in any more, or `limit` are in flight.
    #[inline]
    pub fn enter(&self, limit: usize) -> Result<Counted, Closed> {
        let mut count = self.0.load(Ordering::Relaxed);
        loop {
            if count & RETIRED != 0 {
                return Err(Closed::Retired);
            }
            if requests_in(count) >= limit {
                return Err(Closed::Full);
            }
            match self.add(count, REQUEST) {
                Ok(counted) => return Ok(counted),
                Err(now) => count = now,
            }
        }
    }

    /// Counts anything else in; `None`: nothing is let in any more, and nothing is left.
    #[inline]
    pub fn hold(&self) -> Option<Counted> {
        let mut count = self.0.load(Ordering::Relaxed);
        loop {
            if count & RETIRED != 0 && flights_in(count) == 0 {
                return None;
            }
            match self.add(count, ONE) {
                Ok(counted) => return Some(counted),
                Err(now) => count = now,
            }
        }
    }

    /// Counts one more in, for somebody who is counted in already.
    pub fn hold_again(&self) -> Counted {
        self.0.fetch_add(ONE, Ordering::Relaxed);
        Counted(ONE)
    }

    fn add(&self, count: u64, what: u64) -> Result<Counted, u64> {
        self.0
            .compare_exchange_weak(count, count + what, Ordering::AcqRel, Ordering::Relaxed)
            .map(|_| Counted(what))
    }

    /// Counts out.
    #[inline]
    pub fn leave(&self, counted: Counted) {
        self.0.fetch_sub(counted.0, Ordering::AcqRel);
    }

    /// Lets no further request in, and nothing at all once nothing is left.
    pub fn retire(&self) {
        self.0.fetch_or(RETIRED, Ordering::AcqRel);
    }

    /// Whether [`retire`](Self::retire) has been called.
    pub fn is_retired(&self) -> bool {
        self.0.load(Ordering::Acquire) & RETIRED != 0
    }

    /// Requests in flight.
    pub fn requests(&self) -> usize {
        requests_in(self.0.load(Ordering::Acquire))
    }

    /// Whatever is in flight, requests among them.
    pub fn flights(&self) -> usize {
        flights_in(self.0.load(Ordering::Acquire))
    }
}
