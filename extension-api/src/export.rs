//! The library's entry: the hooks, generic over the endpoints, and [`export_endpoint!`](crate::export_endpoint).
#![expect(unsafe_code, reason = "the hooks take what the host hands over")]

use std::ffi::c_void;
use std::sync::Arc;

use crate::abi::*;
use crate::bridge::{
    Host, PoolRequest, WorkerRequest, catch_panic, record_panic_locations, struct_size,
};
use crate::context::Context;
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::handler::Handler;
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
            handler,
        } in router.routes
        {
            let endpoint = Arc::clone(&endpoint);
            let (flags, serve): (u32, Box<dyn Fn(ext_request) + Send + Sync>) = match handler {
                Handler::Asynchronous(handler) => {
                    let serve = move |request| {
                        // SAFETY: `handle` calls it with requests that are ours to finish, on their worker. Endpoint and handler
                        // live until `destroy`, before which every request is finished.
                        let request = unsafe { WorkerRequest::new(host, request) };
                        handler.serve(&endpoint, request);
                    };
                    (0, Box::new(serve))
                }
                Handler::Blocking(handler) => {
                    let serve = move |request| {
                        // SAFETY: as above, but for the thread, which is one of the pool's: the flag asks for that.
                        let request = unsafe { PoolRequest::new(host, request) };
                        handler.serve(&endpoint, request);
                    };
                    (EXT_ROUTE_BLOCKING, Box::new(serve))
                }
            };
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

// ---- Hooks ----

/// For log lines that belong to no request.
const NO_REQUEST: ext_request = ext_request {
    slot: 0,
    generation: 0,
};

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
    record_panic_locations();
    // SAFETY: large enough, says the line above. `ctx` is closed here on failure, else in `destroy`.
    let host = unsafe { Host::new(&*callbacks, ctx) };
    let mounted = catch_panic(|| {
        let mut mounted = Box::new(Instance {
            host,
            routes: Vec::new(),
            stops: Vec::new(),
        });
        B::mount(&mut mounted).map(|()| mounted)
    });
    let why = match mounted {
        Ok(Ok(mounted)) => {
            // SAFETY: the host gives an out-pointer for the instance.
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
    // What may panic is caught within; this keeps a mistake of ours from ending the host.
    if let Err(panic) = catch_panic(|| (route.serve)(request)) {
        instance.host.log(
            NO_REQUEST,
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
        if let Err(panic) = catch_panic(stop) {
            instance.host.log(
                NO_REQUEST,
                EXT_LOG_ERROR,
                "stopping failed",
                &[("cause", panic.0)],
            );
        }
    }
}

unsafe extern "C" fn destroy(instance: *mut c_void) {
    // SAFETY: made by `Box::into_raw` in `create`; this is the last call with it.
    let instance = unsafe { Box::from_raw(instance.cast::<Instance>()) };
    let host = instance.host;
    if let Err(panic) = catch_panic(|| drop(instance)) {
        host.log(
            NO_REQUEST,
            EXT_LOG_ERROR,
            "an endpoint panicked while it was dropped",
            &[("cause", panic.0)],
        );
    }
    host.close();
}
