//! The primitives that the parts are built of which threads share without waiting for each other. In one place, so that
//! `tests/loom` can build the same files with loom's, which tries every order in which the threads can meet.

pub use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
pub use std::sync::{Mutex, MutexGuard};
