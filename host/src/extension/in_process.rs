//! UNSAFE: an extension in the host's own process: its hooks are called as functions.
#![expect(unsafe_code, reason = "hooks are function pointers of foreign code")]

use std::ffi::c_void;
use std::path::Path;
use std::sync::atomic::{AtomicPtr, Ordering};

use extension_api::abi::*;

use super::backend::Backend;
use super::context::Context;
use super::error::Reason;
use super::routes::RouteData;

/// The hooks of a library, and the instance that they have made.
pub struct InProcess {
    entry: ext_entry,
    create: CreateHook,
    handle: HandleHook,
    callbacks: &'static ext_callbacks,
    /// What `create` has made: handed back to the other hooks, and never followed here.
    instance: AtomicPtr<c_void>,
}

type CreateHook =
    unsafe extern "C" fn(*const ext_callbacks, *mut ext_context, *mut *mut c_void) -> ext_status;
type HandleHook = unsafe extern "C" fn(*mut c_void, *mut c_void, ext_request);

impl InProcess {
    /// Takes the hooks of `entry`, which `library` has exported. They may call the host through `callbacks`.
    ///
    /// # Errors
    /// Where a hook is missing that every extension has.
    pub fn new(
        entry: ext_entry,
        callbacks: &'static ext_callbacks,
        library: &Path,
    ) -> Result<Self, Reason> {
        let missing = |hook| Reason::MissingHook {
            library: library.to_owned(),
            hook,
        };
        Ok(Self {
            create: entry.create.ok_or_else(|| missing("create"))?,
            handle: entry.handle.ok_or_else(|| missing("handle"))?,
            entry,
            callbacks,
            instance: AtomicPtr::new(std::ptr::null_mut()),
        })
    }
}

impl Backend for InProcess {
    fn create(&self, context: &'static Context) -> ext_status {
        let ctx = std::ptr::from_ref(context).cast_mut().cast::<ext_context>();
        let mut instance = std::ptr::null_mut();
        // SAFETY: the hook is the library's own; the table is constant, and the context is never freed. The header lets it be
        // called on any thread that is no worker.
        let status = unsafe { (self.create)(self.callbacks, ctx, &raw mut instance) };
        self.instance.store(instance, Ordering::Release);
        status
    }

    #[inline]
    fn handle(&self, route: RouteData, request: ext_request) {
        let instance = self.instance.load(Ordering::Acquire);
        // SAFETY: `create` has made the instance, and it is not destroyed while the request is in flight; the header says that
        // it is called on many workers at once. `route` is what the extension gave for the route.
        unsafe { (self.handle)(instance, route.pointer(), request) };
    }

    fn stop(&self) {
        let instance = self.instance.load(Ordering::Acquire);
        // SAFETY: `create` has made the instance, nothing is in flight, and `LoadedExtension` calls this once.
        unsafe {
            if let Some(stop) = self.entry.stop {
                stop(instance);
            }
            if let Some(destroy) = self.entry.destroy {
                destroy(instance);
            }
        }
    }
}
