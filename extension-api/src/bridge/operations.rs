//! The callbacks that take time, each as an [`Op`] that is started: sleep, fetch, and the reads and writes of bodies.
#![expect(unsafe_code, reason = "calls the host's functions")]

use std::ptr;

use super::bound::BoundOperation;
use super::bytes::Bytes;
use super::fetched::FetchedHandle;
use super::hold::Hold;
use super::host::{Host, ok};
use super::lent::{ABSENT, slice, struct_size, with_fields};
use super::op::Op;
use super::sink::BodySink;
use super::thread;
use crate::abi::*;
use crate::header_lines::HeaderLines;

/// A call before it is made.
pub(crate) struct OutgoingCall<'a> {
    pub(crate) base: ext_base,
    pub(crate) flags: u32,
    pub(crate) request: ext_request,
    pub(crate) method: Option<&'a str>,
    pub(crate) target: &'a [u8],
    pub(crate) headers: &'a HeaderLines,
    pub(crate) body: Bytes,
    pub(crate) connect_ms: u64,
    pub(crate) first_byte_ms: u64,
    pub(crate) total_ms: u64,
}

impl Host {
    /// An operation that is not started.
    pub(crate) fn op(&self) -> Op {
        Op::new(self.table)
    }

    /// Waits so many milliseconds, or until the request ends whose handler runs on this thread.
    pub(crate) fn sleep(&self, ms: u64, op: &mut Op) -> ext_status {
        let mut handle = ext_op::default();
        let request = thread::request();
        let register = |completion| {
            self.with_ctx(EXT_CANCELLED, |table, ctx| {
                // SAFETY: `ctx` is alive; `handle` is ours to be written.
                unsafe { (table.sleep)(ctx, request, ms, completion, &mut handle) }
            })
        };
        // SAFETY: the completion goes to `sleep`, or nowhere.
        let status = unsafe { op.start(BoundOperation::new(request), register) };
        if status == EXT_OK {
            op.cancel_on_drop(handle);
        }
        status
    }

    /// Starts a call, and returns where its body goes.
    pub(crate) fn fetch(
        &self,
        outgoing: OutgoingCall<'_>,
        op: &mut Op,
    ) -> Result<BodySink, ext_status> {
        let mut handle = ext_op::default();
        let status = with_fields(outgoing.headers.iter(), |headers| {
            let fetch = ext_fetch {
                struct_size: struct_size::<ext_fetch>(),
                flags: outgoing.flags,
                base: outgoing.base,
                reserved: 0,
                method: outgoing
                    .method
                    .map_or(ABSENT, |method| slice(method.as_bytes())),
                target: slice(outgoing.target),
                headers: headers.as_ptr(),
                header_count: headers.len(),
                body: ext_buffer {
                    ptr: ptr::null(),
                    len: 0,
                    owner: ptr::null_mut(),
                    release: None,
                },
                request: outgoing.request,
                connect_ms: outgoing.connect_ms,
                first_byte_ms: outgoing.first_byte_ms,
                total_ms: outgoing.total_ms,
            };
            let register = |completion| {
                self.with_ctx(EXT_CANCELLED, |table, ctx| {
                    let fetch = ext_fetch {
                        body: outgoing.body.into_raw(),
                        ..fetch
                    };
                    // SAFETY: `ctx` is alive; all slices are lent for the call; the body is given in every case; `handle` is
                    // ours to be written.
                    unsafe { (table.fetch)(ctx, &fetch, completion, &mut handle) }
                })
            };
            // SAFETY: the completion goes to `fetch`, or nowhere.
            unsafe { op.start(BoundOperation::new(outgoing.request), register) }
        });
        ok(status)?;
        op.cancel_on_drop(handle);
        Ok(BodySink::call(self.table, handle))
    }
}

impl BodySink {
    /// An operation that is not started.
    pub(crate) fn op(self) -> Op {
        Op::new(self.table())
    }

    /// Writes a chunk; the operation completes when there is room for the next one.
    pub(crate) fn start_write(self, chunk: Bytes, op: &mut Op) -> ext_status {
        // SAFETY: the completion goes to the sink, once.
        unsafe { op.start(None, |completion| self.write(chunk, completion)) }
    }
}

impl FetchedHandle {
    /// An operation that is not started.
    pub(crate) fn op(&self) -> Op {
        Op::new(self.table())
    }

    /// Reads the next chunk of the body.
    pub(crate) fn start_read(&self, op: &mut Op) -> ext_status {
        // SAFETY: the completion goes to `fetched_read`, which takes every handle.
        unsafe {
            op.start(None, |completion| {
                (self.table().fetched_read)(self.raw(), completion)
            })
        }
    }
}

impl Hold {
    /// An operation that is not started.
    pub(crate) fn op(&self) -> Op {
        Op::new(self.table())
    }

    /// Reads the next chunk of the body.
    pub(crate) fn start_read(&self, op: &mut Op) -> ext_status {
        // SAFETY: the completion goes to `read`, which takes every handle.
        unsafe {
            op.start(None, |completion| {
                (self.table().read)(self.handle(), completion)
            })
        }
    }
}
