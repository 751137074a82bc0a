//! The parts of the host that threads share without waiting for each other, built with loom's primitives in place of std's:
//! each test runs once for every order in which the threads' steps can meet.
//!
//! `.ci/checks/loom` runs them: they are compiled for nothing else, and the rest of the host knows nothing of them.
#![cfg(test)]

/// What `host/src/runtime/sync.rs` names, of loom's.
mod sync {
    pub use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    pub use loom::sync::{Mutex, MutexGuard};
}

#[path = "../../../host/src/runtime/slot_state.rs"]
mod slot_state;

#[path = "../../../host/src/runtime/flight_count.rs"]
mod flight_count;

#[path = "../../../host/src/runtime/inbox.rs"]
mod inbox;

mod flights;
mod jobs;
mod slots;
