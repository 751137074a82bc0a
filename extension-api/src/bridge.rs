//! The raw boundary made safe, once: everything above this folder is safe code.
//!
//! From the bottom up: [`lent`] and [`bytes`] for memory of the other side, [`panics`] for what must not cross, [`host`] for the
//! callbacks that need no waiting, [`task`] and what surrounds it for an author's future, [`operations`] for the callbacks that
//! take time. This file only says which of it the files above may name.

mod answer;
mod block_on;
mod bound;
mod bytes;
mod fetched;
mod finish;
mod hold;
mod host;
mod lent;
mod op;
mod operations;
mod panics;
mod run;
mod serve;
mod sink;
mod task;
mod thread;
mod wake;

pub use block_on::block_on;
pub use bytes::Bytes;

pub(crate) use answer::{Answer, Body, BodyFuture, Producer};
pub(crate) use fetched::FetchedHandle;
pub(crate) use hold::Hold;
pub(crate) use host::Host;
#[cfg(feature = "testing")]
pub(crate) use lent::{ABSENT, bytes_of, slice};
pub(crate) use lent::{Lent, LentList, struct_size};
pub(crate) use op::{Op, Outcome};
pub(crate) use operations::OutgoingCall;
pub(crate) use panics::{catch_panic, record_panic_locations};
pub(crate) use serve::{PoolRequest, WorkerRequest};
pub(crate) use sink::BodySink;
pub(crate) use thread::request as current_request;
