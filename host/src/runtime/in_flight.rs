//! What is in flight in one build of an extension: requests, operations and completions. As long as any is, the build is not
//! destroyed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::crash_page::CallMark;
pub use super::flight_count::Closed;
use super::flight_count::{Counted, FlightCount};

/// One build of an extension, as those see it who call its code.
pub struct InFlight {
    /// The name of the extension's folder: whom log lines are about.
    pub name: Arc<str>,
    /// A number that no other loaded build has: see [`Workers::register`](super::workers::Workers::register).
    pub number: u64,
    count: FlightCount,
    served: AtomicU64,
}

impl InFlight {
    /// Nothing is in flight yet.
    pub fn new(name: Arc<str>, number: u64) -> Self {
        Self {
            name,
            number,
            count: FlightCount::default(),
            served: AtomicU64::new(0),
        }
    }

    /// Counts a request in; `call` says which, should it end the process.
    ///
    /// # Errors
    /// Where the build is being stopped, or `limit` requests are in flight.
    #[inline]
    pub fn enter(&'static self, limit: usize, call: CallMark) -> Result<Flight, Closed> {
        let counted = self.count.enter(limit)?;
        self.served.fetch_add(1, Ordering::Relaxed);
        Ok(Flight {
            build: self,
            counted,
            call,
        })
    }

    /// Keeps the build from being destroyed; `None` where it is being stopped and nothing else holds it.
    #[inline]
    pub fn hold(&'static self) -> Option<Flight> {
        let counted = self.count.hold()?;
        Some(Flight {
            build: self,
            counted,
            call: CallMark::default(),
        })
    }

    /// Lets no further request in.
    pub fn retire(&self) {
        self.count.retire();
    }

    /// Whether no further request is let in.
    pub fn is_retired(&self) -> bool {
        self.count.is_retired()
    }

    /// Requests in flight.
    pub fn requests(&self) -> usize {
        self.count.requests()
    }

    /// Requests, operations and completions in flight.
    pub fn flights(&self) -> usize {
        self.count.flights()
    }

    /// Requests ever let in.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }
}

/// Something in flight in an extension: while it lives, the extension is not destroyed.
pub struct Flight {
    build: &'static InFlight,
    counted: Counted,
    call: CallMark,
}

impl Flight {
    /// In which build.
    pub fn build(&self) -> &'static InFlight {
        self.build
    }

    /// The same, for a request.
    #[inline]
    pub fn with_call(mut self, call: CallMark) -> Self {
        self.call = call;
        self
    }

    /// For which request.
    pub fn call(&self) -> CallMark {
        self.call
    }

    /// The extension's name.
    pub fn name(&self) -> &'static Arc<str> {
        &self.build.name
    }
}

impl Clone for Flight {
    fn clone(&self) -> Self {
        Self {
            build: self.build,
            counted: self.build.count.hold_again(),
            call: self.call,
        }
    }
}

impl Drop for Flight {
    #[inline]
    fn drop(&mut self) {
        self.build.count.leave(self.counted);
    }
}
