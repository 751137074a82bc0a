//! How a task finishes its request: by an answer, a stream or an error, once its future is dropped.
#![expect(unsafe_code, reason = "calls the host's functions")]

use std::hint::cold_path;
use std::ptr;
use std::sync::atomic::Ordering;

use super::answer::Producer;
use super::bytes::Bytes;
use super::fetched::FetchedHandle;
use super::lent::{ABSENT, slice, struct_size, with_fields};
use super::panics::catch_panic;
use super::sink::BodySink;
use super::task::{FINISHED, HELD, OVER, STREAMING, TaskRef};
use crate::abi::*;
use crate::error::{Error, Result};
use crate::header_lines::HeaderLines;

impl TaskRef {
    pub(super) fn answer(&self, status: u16, headers: &HeaderLines, body: Bytes) {
        if let Some(fault) = headers.fault() {
            return self.fail(&Error::internal(fault));
        }
        self.finish(|task| {
            with_fields(headers.iter(), |headers| {
                let raw = raw_response(status, headers, body);
                // SAFETY: `respond` takes every handle; headers are lent for the call, the body is given.
                unsafe { (task.table().respond)(task.handle(), &raw) }
            })
        });
    }

    #[inline(never)]
    pub(super) fn relay(&self, status: u16, headers: &HeaderLines, fetched: FetchedHandle) {
        if let Some(fault) = headers.fault() {
            return self.fail(&Error::internal(fault));
        }
        self.finish(|task| {
            with_fields(headers.iter(), |headers| {
                let raw = raw_response(status, headers, Bytes::new());
                let edits = if status == 0 && headers.is_empty() {
                    ptr::null()
                } else {
                    &raw const raw
                };
                // SAFETY: `relay` takes every handle; headers are lent for the call, the answer is given.
                unsafe { (task.table().relay)(task.handle(), fetched.into_raw(), edits) }
            })
        });
    }

    #[inline(never)]
    pub(super) fn fail(&self, error: &Error) {
        self.fail_with(
            error.status(),
            error.code(),
            error.message(),
            error.cause_text(),
            0,
        );
    }

    /// Ends the request for a panic, by an error or, where the answer's head is out, by breaking off.
    #[cold]
    pub(super) fn panicked(&self, text: String) {
        if self.header().state.load(Ordering::Acquire) & STREAMING != 0 {
            return self.break_off(text);
        }
        self.fail_with(
            500,
            "INTERNAL_SERVER_ERROR",
            "the handler panicked",
            &text,
            EXT_ERROR_PANIC,
        );
    }

    fn fail_with(&self, status: u16, code: &str, message: &str, cause: &str, flags: u32) {
        self.finish(|task| {
            let absent_if_empty = |text: &str| {
                if text.is_empty() {
                    ABSENT
                } else {
                    slice(text.as_bytes())
                }
            };
            let error = ext_error {
                struct_size: struct_size::<ext_error>(),
                status: u32::from(status),
                code: absent_if_empty(code),
                message: slice(message.as_bytes()),
                cause: absent_if_empty(cause),
                flags,
                reserved: 0,
            };
            // SAFETY: `fail` takes every handle; the slices are lent for the call.
            unsafe { (task.table().fail)(task.handle(), &error) }
        });
    }

    /// Sends the head of a streamed answer. `false` where that finished the request.
    #[inline(never)]
    pub(super) fn begin_stream(
        &self,
        status: u16,
        headers: &HeaderLines,
        producer: Producer<'static>,
    ) -> bool {
        if let Some(fault) = headers.fault() {
            // Before: it may own the request.
            drop(catch_panic(|| drop(producer)));
            self.fail(&Error::internal(fault));
            return false;
        }
        let status = with_fields(headers.iter(), |headers| {
            let head = raw_response(status, headers, Bytes::new());
            // SAFETY: `stream` takes every handle; the headers are lent for the call.
            unsafe { (self.table().stream)(self.handle(), &head) }
        });
        if status != EXT_OK {
            drop(catch_panic(|| drop(producer)));
            self.finish(Self::abandon);
            return false;
        }
        self.set(STREAMING);
        let sink = BodySink::answer(self.table(), self.handle());
        match catch_panic(|| producer(sink)) {
            // SAFETY: on the polling thread, between two polls.
            Ok(future) => unsafe { (self.header().functions.stream)(self.0, future) },
            Err(panic) => {
                self.break_off(panic.0);
                return false;
            }
        }
        true
    }

    #[inline(never)]
    pub(super) fn end_stream(&self, result: Result<()>) {
        let status = match result {
            Ok(()) => EXT_OK,
            Err(error) if error.is_client_left() => EXT_CANCELLED,
            Err(error) => return self.break_off(error.report()),
        };
        // SAFETY: `end` takes every handle.
        self.finish(|task| unsafe { (task.table().end)(task.handle(), status) });
    }

    fn break_off(&self, why: String) {
        let message = "a streamed answer was broken off";
        self.header()
            .host
            .log(self.handle(), EXT_LOG_ERROR, message, &[("cause", why)]);
        // SAFETY: `end` takes every handle.
        self.finish(|task| unsafe { (task.table().end)(task.handle(), EXT_FAILED) });
    }

    /// Finishes the request by `call`, or leaves that to a `Hold` that the author has taken elsewhere.
    pub(super) fn finish(&self, call: impl FnOnce(&Self) -> ext_status) {
        if self.set(OVER | FINISHED) & HELD != 0 {
            cold_path();
            let message = "the answer was discarded: the Request outlives its handler";
            let host = self.header().host;
            return host.log(self.handle(), EXT_LOG_ERROR, message, &[]);
        }
        if call(self) != EXT_OK {
            cold_path();
            self.abandon();
        }
    }

    /// Gives the request up; of no effect where it is finished.
    #[inline(never)]
    pub(super) fn abandon(&self) -> ext_status {
        // SAFETY: both take every handle.
        unsafe {
            match self.header().state.load(Ordering::Acquire) & STREAMING {
                0 => (self.table().drop)(self.handle()),
                _ => (self.table().end)(self.handle(), EXT_CANCELLED),
            }
        }
    }
}

fn raw_response(status: u16, headers: &[ext_field], body: Bytes) -> ext_response {
    ext_response {
        struct_size: struct_size::<ext_response>(),
        status: u32::from(status),
        headers: headers.as_ptr(),
        header_count: headers.len(),
        body: body.into_raw(),
    }
}
