//! [`Host`]: the callbacks as safe functions.
#![expect(unsafe_code, reason = "calls the host's functions")]

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::ptr;
use std::sync::{Mutex, PoisonError, RwLock};

use super::task::Bound;
use super::{ABSENT, Bytes, Lent, LentList, Op, bytes_of, slice, struct_size, thread, with_fields};
use crate::abi::*;
use crate::headers::Fields;

/// The host, as one extension knows it.
///
/// It is never freed, because a [`Context`](crate::Context) or a waker may be in any thread's hands for any time: when the
/// extension is destroyed, it is closed instead. Like the library's code, which is never unloaded, it stays.
pub(crate) struct Host {
    pub(super) table: &'static ext_callbacks,
    ctx: *mut ext_context,
    open: RwLock<bool>,
    env: Mutex<BTreeMap<String, &'static str>>,
}

// SAFETY: the callbacks that take `ctx` may be called from any thread; the rest is made for sharing.
unsafe impl Send for Host {}
// SAFETY: as above.
unsafe impl Sync for Host {}

impl Host {
    /// # Safety
    ///
    /// Both must be what the host handed to `create`; `close` must be called before `destroy` returns.
    pub(crate) unsafe fn new(
        table: &'static ext_callbacks,
        ctx: *mut ext_context,
    ) -> &'static Self {
        Box::leak(Box::new(Self {
            table,
            ctx,
            open: RwLock::new(true),
            env: Mutex::default(),
        }))
    }

    /// Ends the time of `ctx`: waits for calls under way; later ones come to nothing.
    pub(crate) fn close(&self) {
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = false;
    }

    /// Calls `call` with a `ctx` that is alive until it returns; otherwise returns `closed`.
    fn with_ctx<R>(
        &self,
        closed: R,
        call: impl FnOnce(&ext_callbacks, *mut ext_context) -> R,
    ) -> R {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        if *open {
            call(self.table, self.ctx)
        } else {
            closed
        }
    }

    // ---- While the extension is made ----

    pub(crate) fn endpoint(&self, id: &str) -> Result<ext_endpoint, ext_status> {
        let mut endpoint = 0;
        let status = self.with_ctx(EXT_GONE, |table, ctx| {
            // SAFETY: `ctx` is alive; the id is lent for the call; `endpoint` is ours to be written.
            unsafe { (table.endpoint)(ctx, slice(id.as_bytes()), &mut endpoint) }
        });
        ok(status).map(|()| endpoint)
    }

    /// # Safety
    ///
    /// `route` must be what the extension's `handle` expects, until `destroy` returns.
    pub(crate) unsafe fn route(
        &self,
        endpoint: ext_endpoint,
        method: Option<&str>,
        pattern: &str,
        flags: u32,
        route: *mut c_void,
    ) -> Result<(), ext_status> {
        let method = method.map_or(ABSENT, |method| slice(method.as_bytes()));
        ok(self.with_ctx(EXT_GONE, |table, ctx| {
            // SAFETY: `ctx` is alive; the slices are lent for the call; `route` is as `handle` expects, says the caller.
            unsafe {
                (table.route)(
                    ctx,
                    endpoint,
                    method,
                    slice(pattern.as_bytes()),
                    flags,
                    route,
                )
            }
        }))
    }

    pub(crate) fn refuse(&self, message: &str) {
        self.with_ctx((), |table, ctx| {
            // SAFETY: `ctx` is alive; the message is lent for the call.
            unsafe { (table.refuse)(ctx, slice(message.as_bytes())) }
        });
    }

    // ---- At any time ----

    /// A variable's value. It is kept, because the host's is lent only until `destroy`; the manifest bounds how many.
    pub(crate) fn env(&self, name: &str) -> Result<&'static str, ext_status> {
        let mut kept = self.env.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = kept.get(name) {
            return Ok(value);
        }
        let mut value = ABSENT;
        let found = self.with_ctx(Err(EXT_GONE), |table, ctx| {
            // SAFETY: `ctx` is alive; the name is lent for the call; `value` is ours to be written.
            ok(unsafe { (table.env)(ctx, slice(name.as_bytes()), &mut value) })?;
            // SAFETY: the value is lent until `destroy` returns, which waits for this call; it is copied here.
            let bytes = unsafe { bytes_of(value) }.unwrap_or_default();
            std::str::from_utf8(bytes)
                .map(str::to_owned)
                .map_err(|_| EXT_INVALID)
        })?;
        let value: &'static str = found.leak();
        kept.insert(name.to_owned(), value);
        Ok(value)
    }

    pub(crate) fn log_enabled(&self, level: u32) -> bool {
        // SAFETY: `ctx` is alive.
        self.with_ctx(0, |table, ctx| unsafe { (table.log_enabled)(ctx, level) }) != 0
    }

    /// Writes a line, with the id of the request whose handler runs on this thread.
    pub(crate) fn log(&self, level: u32, message: &str, fields: &[(&str, String)]) {
        let fields = fields
            .iter()
            .map(|(name, value)| (*name, Some(value.as_bytes())));
        with_fields(fields, |fields| {
            self.with_ctx((), |table, ctx| {
                let message = slice(message.as_bytes());
                // SAFETY: `ctx` is alive; message and fields are lent for the call.
                unsafe {
                    (table.log)(
                        ctx,
                        thread::request(),
                        level,
                        message,
                        fields.as_ptr(),
                        fields.len(),
                    )
                }
            });
        });
    }

    pub(crate) fn base(&self, url: &str) -> Result<ext_base, ext_status> {
        let mut base = 0;
        let status = self.with_ctx(EXT_GONE, |table, ctx| {
            // SAFETY: `ctx` is alive; the url is lent for the call; `base` is ours to be written.
            unsafe { (table.base)(ctx, slice(url.as_bytes()), &mut base) }
        });
        ok(status).map(|()| base)
    }

    pub(crate) fn op(&self) -> Op {
        Op::new(self.table)
    }

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
        let status = unsafe { op.start(Bound::new(request), register) };
        if status == EXT_OK {
            op.cancels(handle);
        }
        status
    }

    /// # Safety
    ///
    /// The completion's `user` must be valid for its function, for one call from any thread, until it is called.
    pub(super) unsafe fn post(
        &self,
        request: ext_request,
        completion: ext_completion,
    ) -> ext_status {
        self.with_ctx(EXT_GONE, |table, ctx| {
            // SAFETY: `ctx` is alive; the completion is sound, says the caller.
            unsafe { (table.post)(ctx, request, completion) }
        })
    }

    /// Starts a call, and returns the way for its body.
    pub(crate) fn fetch(&self, outgoing: Outgoing<'_>, op: &mut Op) -> Result<Outlet, ext_status> {
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
            unsafe { op.start(Bound::new(outgoing.request), register) }
        });
        ok(status)?;
        op.cancels(handle);
        Ok(Outlet {
            table: self.table,
            to: To::Call(handle),
        })
    }
}

fn ok(status: ext_status) -> Result<(), ext_status> {
    if status == EXT_OK {
        Ok(())
    } else {
        Err(status)
    }
}

/// A call before it is made.
pub(crate) struct Outgoing<'a> {
    pub(crate) base: ext_base,
    pub(crate) flags: u32,
    pub(crate) request: ext_request,
    pub(crate) method: Option<&'a str>,
    pub(crate) target: &'a [u8],
    pub(crate) headers: &'a Fields,
    pub(crate) body: Bytes,
    pub(crate) connect_ms: u64,
    pub(crate) first_byte_ms: u64,
    pub(crate) total_ms: u64,
}

/// Where a streamed body goes: the answer to a request, or an outgoing call.
#[derive(Clone, Copy)]
pub(crate) struct Outlet {
    table: &'static ext_callbacks,
    to: To,
}

#[derive(Clone, Copy)]
enum To {
    Answer(ext_request),
    Call(ext_op),
}

impl Outlet {
    pub(super) fn answer(table: &'static ext_callbacks, request: ext_request) -> Self {
        Self {
            table,
            to: To::Answer(request),
        }
    }

    pub(crate) fn op(self) -> Op {
        Op::new(self.table)
    }

    pub(crate) fn write(self, chunk: Bytes, op: &mut Op) -> ext_status {
        // SAFETY: the completion goes to one of the two. Both take every handle, also one whose time is over; the chunk is
        // given in every case.
        unsafe {
            op.start(None, |completion| match self.to {
                To::Answer(request) => (self.table.write)(request, chunk.into_raw(), completion),
                To::Call(call) => (self.table.fetch_write)(call, chunk.into_raw(), completion),
            })
        }
    }

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

/// The answer to a fetch, which is given up when this is dropped.
pub(crate) struct FetchedHandle {
    table: &'static ext_callbacks,
    fetched: ext_fetched,
}

impl FetchedHandle {
    /// # Safety
    ///
    /// `fetched` must be zero, or an answer that is the caller's to end.
    pub(super) unsafe fn from_raw(
        table: &'static ext_callbacks,
        fetched: ext_fetched,
    ) -> Option<Self> {
        let is_zero = fetched.slot == 0 && fetched.generation == 0;
        (!is_zero).then_some(Self { table, fetched })
    }

    /// Gives the answer away, to `relay`.
    pub(super) fn into_raw(self) -> ext_fetched {
        std::mem::ManuallyDrop::new(self).fetched
    }

    pub(crate) fn op(&self) -> Op {
        Op::new(self.table)
    }

    /// Status and length of the body, where it is known.
    pub(crate) fn head(&self) -> (u16, Option<u64>) {
        let mut head = ext_fetched_head {
            struct_size: struct_size::<ext_fetched_head>(),
            status: 0,
            body_length: -1,
        };
        // SAFETY: `head` is ours to be written, and says its size.
        unsafe { (self.table.fetched_head)(self.fetched, &mut head) };
        (head.status as u16, u64::try_from(head.body_length).ok())
    }

    pub(crate) fn header(&self, name: &str, index: usize) -> Option<&[u8]> {
        let mut value = ABSENT;
        // SAFETY: the name is lent for the call; `value` is ours to be written.
        let status = unsafe {
            (self.table.fetched_header)(self.fetched, slice(name.as_bytes()), index, &mut value)
        };
        if status != EXT_OK {
            return None;
        }
        // SAFETY: lent until `relay` or `fetched_drop`, which both take or drop `self`.
        unsafe { bytes_of(value) }
    }

    pub(crate) fn headers(&self) -> LentList<'_, ext_field> {
        let (mut fields, mut count) = (ptr::null(), 0);
        // SAFETY: both are ours to be written.
        let status = unsafe { (self.table.fetched_headers)(self.fetched, &mut fields, &mut count) };
        if status != EXT_OK {
            return LentList::EMPTY;
        }
        // SAFETY: lent until `relay` or `fetched_drop`, which both take or drop `self`.
        unsafe { LentList::new(fields, count) }
    }

    pub(crate) fn read(&self, op: &mut Op) -> ext_status {
        // SAFETY: the completion goes to `fetched_read`, which takes every handle.
        unsafe {
            op.start(None, |completion| {
                (self.table.fetched_read)(self.fetched, completion)
            })
        }
    }
}

impl Drop for FetchedHandle {
    fn drop(&mut self) {
        // SAFETY: takes every handle; ours has not been given away, or `into_raw` would have kept `drop` from it.
        unsafe { (self.table.fetched_drop)(self.fetched) };
    }
}

/// The parts of a request that are read through callbacks. `Hold` keeps the request unfinished meanwhile.
impl super::task::Hold {
    pub(crate) fn head(&self) -> Lent<'_, ext_request_head> {
        // SAFETY: the head is lent until the request is finished, which waits for this hold to be dropped.
        unsafe { Lent::new(self.raw_head().as_ref()) }
    }

    pub(crate) fn header(&self, name: &str, index: usize) -> Option<&[u8]> {
        let mut value = ABSENT;
        // SAFETY: the name is lent for the call; `value` is ours to be written.
        let status = unsafe {
            (self.table().header)(self.handle(), slice(name.as_bytes()), index, &mut value)
        };
        if status != EXT_OK {
            return None;
        }
        // SAFETY: lent like the head.
        unsafe { bytes_of(value) }
    }

    pub(crate) fn headers(&self) -> LentList<'_, ext_field> {
        let (mut fields, mut count) = (ptr::null(), 0);
        // SAFETY: both are ours to be written.
        let status = unsafe { (self.table().headers)(self.handle(), &mut fields, &mut count) };
        if status != EXT_OK {
            return LentList::EMPTY;
        }
        // SAFETY: lent like the head.
        unsafe { LentList::new(fields, count) }
    }

    /// The whole body, on a route that has it read beforehand.
    pub(crate) fn whole_body(&self) -> &[u8] {
        let body = self.head().raw().body;
        // SAFETY: lent like the head.
        unsafe {
            bytes_of(ext_slice {
                ptr: body.ptr,
                len: body.len,
            })
        }
        .unwrap_or_default()
    }

    pub(crate) fn op(&self) -> Op {
        Op::new(self.table())
    }

    pub(crate) fn read(&self, op: &mut Op) -> ext_status {
        // SAFETY: the completion goes to `read`, which takes every handle.
        unsafe {
            op.start(None, |completion| {
                (self.table().read)(self.handle(), completion)
            })
        }
    }
}
