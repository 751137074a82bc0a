//! The library's entry: the hooks, generic over the endpoints, and [`export_endpoint!`](crate::export_endpoint).
#![expect(unsafe_code, reason = "the hooks take what the host hands over")]

use std::ffi::c_void;
use std::sync::Arc;

use crate::abi::*;
use crate::bridge::{Host, guarded, note_panics, struct_size, task};
use crate::context::Context;
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::request::Request;
use crate::response::Response;
use crate::router::{Route, Router};

/// Exports an endpoint from the library, or several as a bundle. Once a library, which is built as `crate-type = ["cdylib"]`.
///
/// ```
/// # #![forbid(unsafe_code)]
/// # use extension_api::prelude::*;
/// # macro_rules! endpoints {
/// #     ($($name:ident $id:literal)*) => {$(
/// #         struct $name;
/// #         impl Endpoint for $name {
/// #             const ID: &'static str = $id;
/// #             fn new(_: Context) -> Result<Self> { Ok(Self) }
/// #             fn routes(_: &mut Router<Self>) {}
/// #         }
/// #     )*};
/// # }
/// # endpoints!(Accounts "accounts" Webhooks "webhooks");
/// export_endpoint!(Accounts, Webhooks);
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! export_endpoint {
    ($($endpoint:ty),+ $(,)?) => {
        const _: () = {
            #[unsafe(no_mangle)]
            #[allow(non_upper_case_globals)]
            pub static extension_entry_v1: $crate::abi::ext_entry =
                $crate::export::entry::<$crate::__bundle!($($endpoint),+)>(cfg!(panic = "abort"));
        };
    };
}

/// `(A, (B, ()))` for `A, B`.
#[doc(hidden)]
#[macro_export]
macro_rules! __bundle {
    () => { () };
    ($first:ty $(, $rest:ty)*) => { ($first, $crate::__bundle!($($rest),*)) };
}

/// The entry of a library that serves `B`.
#[doc(hidden)]
pub const fn entry<B: Bundle>(panics_abort: bool) -> ext_entry {
    ext_entry {
        magic: EXT_MAGIC,
        struct_size: struct_size::<ext_entry>(),
        abi_major: EXT_ABI_MAJOR,
        abi_minor: EXT_ABI_MINOR,
        needs_minor: 0,
        flags: if panics_abort {
            EXT_ENTRY_PANIC_ABORT
        } else {
            0
        },
        reserved: 0,
        sdk: sdk(),
        create: Some(create::<B>),
        handle: Some(handle),
        stop: Some(stop),
        destroy: Some(destroy),
    }
}

const fn sdk() -> [u8; 32] {
    let name = concat!("extension-api ", env!("CARGO_PKG_VERSION")).as_bytes();
    let mut sdk = [0; 32];
    let mut at = 0;
    while at < name.len() && at < sdk.len() - 1 {
        sdk[at] = name[at];
        at += 1;
    }
    sdk
}

/// Endpoints that one library exports: `(A, (B, ()))`.
#[doc(hidden)]
pub trait Bundle {
    #[doc(hidden)]
    fn mount(instance: &mut Instance) -> Result<()>;
}

impl Bundle for () {
    fn mount(_: &mut Instance) -> Result<()> {
        Ok(())
    }
}

impl<T: Endpoint, Rest: Bundle> Bundle for (T, Rest) {
    fn mount(instance: &mut Instance) -> Result<()> {
        instance.mount::<T>()?;
        Rest::mount(instance)
    }
}

/// What the host holds of an extension, from `create` until `destroy`.
#[doc(hidden)]
pub struct Instance {
    host: &'static Host,
    routes: Vec<Arc<Served>>,
    stops: Vec<Box<dyn Fn() + Send + Sync>>,
}

/// One route; the host holds a pointer to it.
struct Served {
    /// Called with requests that are ours to finish.
    serve: Box<dyn Fn(ext_request) + Send + Sync>,
}

impl Instance {
    fn mount<T: Endpoint>(&mut self) -> Result<()> {
        let host = self.host;
        let endpoint = Arc::new(T::new(Context::new(host))?);
        let mut router = Router::<T>::new();
        T::routes(&mut router);
        let number = host
            .endpoint(T::ID)
            .map_err(|status| refused(format_args!("endpoint {:?}", T::ID), status))?;
        for Route {
            method,
            pattern,
            flags,
            handler,
        } in router.routes
        {
            let endpoint = Arc::clone(&endpoint);
            // SAFETY: `handle` calls it with requests that are ours to finish, on their thread. Endpoint and handler live until
            // `destroy`, before which every request is finished.
            let serve = Box::new(move |request| unsafe { handler.serve(&endpoint, host, request) });
            let served = Arc::new(Served { serve });
            // SAFETY: `handle` expects a `Served`, which `self.routes` keeps until `destroy`.
            unsafe {
                host.route(
                    number,
                    method.as_deref(),
                    &pattern,
                    flags,
                    Arc::as_ptr(&served).cast_mut().cast(),
                )
            }
            .map_err(|status| {
                let method = method.as_deref().unwrap_or("every method");
                refused(format_args!("route {method} {pattern:?}"), status)
            })?;
            self.routes.push(served);
        }
        self.stops.push(Box::new(move || endpoint.stop()));
        Ok(())
    }
}

fn refused(what: std::fmt::Arguments<'_>, status: ext_status) -> Error {
    Error::internal(match status {
        EXT_INVALID => format!("{what} is not valid, or is declared twice"),
        other => format!("{what} is refused by the host, which says {other}"),
    })
}

// ---- Handlers ----

/// A handler whose kind is forgotten.
pub(crate) trait Handler<T>: Send + Sync {
    /// Serves a request.
    ///
    /// # Safety
    ///
    /// The request must be the caller's to finish, on its own thread. Handler and endpoint must live until it is finished.
    unsafe fn serve(&self, endpoint: &T, host: &'static Host, request: ext_request);
}

pub(crate) struct Asynchronous<F>(pub(crate) F);

impl<T, F> Handler<T> for Asynchronous<F>
where
    F: AsyncFn(&T, Request) -> Result<Response> + Send + Sync,
{
    unsafe fn serve(&self, endpoint: &T, host: &'static Host, request: ext_request) {
        // SAFETY: what the future borrows is handler and endpoint; the rest is promised by the caller.
        unsafe { task::serve(host, request, |req| (self.0)(endpoint, req)) }
    }
}

pub(crate) struct Blocking<F>(pub(crate) F);

impl<T, F> Handler<T> for Blocking<F>
where
    F: Fn(&T, Request) -> Result<Response> + Send + Sync,
{
    unsafe fn serve(&self, endpoint: &T, host: &'static Host, request: ext_request) {
        // SAFETY: what the future borrows is handler and endpoint; the rest is promised by the caller.
        unsafe { task::serve_blocking(host, request, async |req| (self.0)(endpoint, req)) }
    }
}

// ---- Hooks ----

unsafe extern "C" fn create<B: Bundle>(
    callbacks: *const ext_callbacks,
    ctx: *mut ext_context,
    instance: *mut *mut c_void,
) -> ext_status {
    // SAFETY: the table begins with its size, and lives as long as the process.
    let known = unsafe { (*callbacks).struct_size };
    if known < struct_size::<ext_callbacks>() {
        return EXT_INVALID;
    }
    note_panics();
    // SAFETY: large enough, says the line above. `ctx` is closed here on failure, else in `destroy`.
    let host = unsafe { Host::new(&*callbacks, ctx) };
    let mounted = guarded(|| {
        let mut mounted = Box::new(Instance {
            host,
            routes: Vec::new(),
            stops: Vec::new(),
        });
        B::mount(&mut mounted).map(|()| mounted)
    });
    let why = match mounted {
        Ok(Ok(mounted)) => {
            // SAFETY: the host has given a place for the instance.
            unsafe { *instance = Box::into_raw(mounted).cast() };
            return EXT_OK;
        }
        Ok(Err(error)) => error.report(),
        Err(panic) => panic.0,
    };
    host.refuse(&why);
    host.close();
    EXT_FAILED
}

unsafe extern "C" fn handle(instance: *mut c_void, route: *mut c_void, request: ext_request) {
    // SAFETY: both were handed to the host by `create` and `mount`, and live until `destroy`.
    let (instance, route) = unsafe { (&*instance.cast::<Instance>(), &*route.cast::<Served>()) };
    // What may panic is guarded within; this keeps a mistake of ours from ending the host.
    if let Err(panic) = guarded(|| (route.serve)(request)) {
        instance.host.log(
            EXT_LOG_ERROR,
            "a request was given up",
            &[("cause", panic.0)],
        );
    }
}

unsafe extern "C" fn stop(instance: *mut c_void) {
    // SAFETY: handed to the host by `create`, and lives until `destroy`.
    let instance = unsafe { &*instance.cast::<Instance>() };
    for stop in &instance.stops {
        if let Err(panic) = guarded(stop) {
            instance
                .host
                .log(EXT_LOG_ERROR, "stopping failed", &[("cause", panic.0)]);
        }
    }
}

unsafe extern "C" fn destroy(instance: *mut c_void) {
    // SAFETY: made by `Box::into_raw` in `create`; this is the last call with it.
    let instance = unsafe { Box::from_raw(instance.cast::<Instance>()) };
    let host = instance.host;
    if let Err(panic) = guarded(|| drop(instance)) {
        host.log(
            EXT_LOG_ERROR,
            "an endpoint panicked while it was dropped",
            &[("cause", panic.0)],
        );
    }
    host.close();
}
