//! [`Host`]: the callbacks of an extension that need no waiting, as safe functions.
#![expect(unsafe_code, reason = "calls the host's functions")]

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError, RwLock};

use super::lent::{ABSENT, bytes_of, slice, with_fields};
use crate::abi::*;

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

    /// Ends the time of `ctx`: waits for calls that have not returned; later ones have no effect.
    pub(crate) fn close(&self) {
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = false;
    }

    /// Calls `call` with a `ctx` that is alive until it returns; otherwise returns `closed`.
    pub(super) fn with_ctx<R>(
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

    /// Writes a line, with the id of `request` where that is not zero.
    pub(crate) fn log(
        &self,
        request: ext_request,
        level: u32,
        message: &str,
        fields: &[(&str, String)],
    ) {
        let fields = fields
            .iter()
            .map(|(name, value)| (*name, Some(value.as_bytes())));
        with_fields(fields, |fields| {
            self.with_ctx((), |table, ctx| {
                let message = slice(message.as_bytes());
                // SAFETY: `ctx` is alive; message and fields are lent for the call.
                unsafe { (table.log)(ctx, request, level, message, fields.as_ptr(), fields.len()) }
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
}

/// A status as a `Result`: EXT_OK, or why it is not.
pub(super) fn ok(status: ext_status) -> Result<(), ext_status> {
    if status == EXT_OK {
        Ok(())
    } else {
        Err(status)
    }
}
