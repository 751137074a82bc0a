//! [`Completion`] and [`Event`]: what the worker has to call.
#![expect(unsafe_code, reason = "calls function pointers that an extension gave")]

use super::pointer::Pointer;
use crate::abi::*;
use crate::bridge::{Bytes, slice, struct_size};

/// A completion that is called once, from the worker. Its function is not NULL.
pub(super) struct Completion(ext_completion);

// SAFETY: the header has completions called on another thread than the one that registers them.
unsafe impl Send for Completion {}

/// What a completion is called with.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) status: ext_status,
    pub(super) data: Bytes,
    pub(super) fetched: ext_fetched,
    pub(super) message: String,
}

/// What the worker does next.
pub(super) enum Event {
    /// Calls `handle`.
    Handle { route: Pointer, request: u64 },
    /// Calls a completion.
    Complete(Completion, Outcome),
    /// Takes the chunk of a call's body that waits.
    Written { op: u64 },
    /// Has the test's upstream answer a call.
    CallOut { op: u64 },
    /// Lets the client take what there is of an answer.
    ClientTakes { request: u64 },
}

impl Outcome {
    /// Only a status.
    pub(super) fn status(status: ext_status) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    /// A chunk of a body.
    pub(super) fn chunk(data: Bytes) -> Self {
        Self {
            data,
            ..Self::default()
        }
    }
}

impl Completion {
    /// `None` where the function is NULL.
    pub(super) fn new(completion: ext_completion) -> Option<Self> {
        completion.function.map(|_| Self(completion))
    }

    pub(super) fn call(self, outcome: Outcome) {
        let Some(function) = self.0.function else {
            return;
        };
        let result = ext_result {
            struct_size: struct_size::<ext_result>(),
            status: outcome.status,
            data: outcome.data.into_raw(),
            fetched: outcome.fetched,
            message: slice(outcome.message.as_bytes()),
        };
        // SAFETY: registered by the extension, and used up here: called once. The result is lent until it returns.
        unsafe { function(self.0.user, &result) }
    }
}
