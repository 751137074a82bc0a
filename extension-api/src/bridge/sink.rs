//! [`BodySink`]: where a streamed body goes.
#![expect(unsafe_code, reason = "calls the host's functions")]

use super::bytes::Bytes;
use crate::abi::{ext_callbacks, ext_completion, ext_op, ext_request, ext_status};

/// Where a streamed body goes: the answer to a request, or an outgoing call.
#[derive(Clone, Copy)]
pub(crate) struct BodySink {
    table: &'static ext_callbacks,
    to: To,
}

#[derive(Clone, Copy)]
enum To {
    Answer(ext_request),
    Call(ext_op),
}

impl BodySink {
    pub(super) fn answer(table: &'static ext_callbacks, request: ext_request) -> Self {
        Self {
            table,
            to: To::Answer(request),
        }
    }

    pub(super) fn call(table: &'static ext_callbacks, call: ext_op) -> Self {
        Self {
            table,
            to: To::Call(call),
        }
    }

    pub(super) fn table(self) -> &'static ext_callbacks {
        self.table
    }

    /// Writes a chunk; the completion is called when there is room for the next one.
    ///
    /// # Safety
    ///
    /// The completion's `user` must be valid for its function, for one call, until it is called.
    pub(super) unsafe fn write(self, chunk: Bytes, completion: ext_completion) -> ext_status {
        // SAFETY: the completion is sound, says the caller. Both functions take every handle, also one whose time is over; the
        // chunk is given in every case.
        unsafe {
            match self.to {
                To::Answer(request) => (self.table.write)(request, chunk.into_raw(), completion),
                To::Call(call) => (self.table.fetch_write)(call, chunk.into_raw(), completion),
            }
        }
    }

    /// Ends the body; with any other status than EXT_OK it is broken off.
    pub(crate) fn end(self, status: ext_status) -> ext_status {
        // SAFETY: both take every handle, also one whose time is over.
        unsafe {
            match self.to {
                To::Answer(request) => (self.table.end)(request, status),
                To::Call(call) => (self.table.fetch_end)(call, status),
            }
        }
    }
}
