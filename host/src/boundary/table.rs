//! UNSAFE: what an extension may call. Each function checks what it is given, turns it into the host's own types once, and
//! leaves the work to `request`, `operation`, `fetched` and `upstream`.
//!
//! Every function may be called from every thread. What concerns a request or an answer happens on its worker: at once where
//! the caller is that worker, else as a job of it.
#![expect(
    unsafe_code,
    reason = "the functions of the ABI take raw pointers; the header says what they must point at"
)]

use std::ffi::c_void;

use extension_api::abi::*;

use super::answers::{end, fail, give_up, relay, respond, stream, write};
use super::completion::{Outcome, complete};
use super::fetches::{
    fetch, fetch_end, fetch_write, fetched_drop, fetched_head, fetched_header, fetched_headers,
    fetched_read,
};
use super::ffi_in::{bytes, context, hand_over, look_up, lossy, of_request, slice_of, text};
use super::start_operation::{OutPointer, begin, on_worker, staged, worker_for};
use super::{operation, request};
use crate::platform::log::{self, Level};
use crate::runtime::contract_checks::{self, Rule};
use crate::runtime::ffi_out;

/// The table that `create` is given.
pub static CALLBACKS: ext_callbacks = ext_callbacks {
    struct_size: size_of::<ext_callbacks>() as u32,
    abi_minor: EXT_ABI_MINOR,
    get_interface,
    endpoint,
    route,
    refuse,
    env,
    log_enabled,
    log: log_line,
    base,
    head,
    header,
    headers: all_headers,
    read,
    respond,
    fail,
    stream,
    write,
    end,
    relay,
    drop: give_up,
    watch,
    sleep,
    post,
    cancel,
    fetch,
    fetch_write,
    fetch_end,
    fetched_head,
    fetched_header,
    fetched_headers,
    fetched_read,
    fetched_drop,
};

// ---- The extension ----

unsafe extern "C" fn get_interface(_ctx: *mut ext_context, _id: ext_slice) -> *const c_void {
    std::ptr::null()
}

unsafe extern "C" fn endpoint(
    ctx: *mut ext_context,
    id: ext_slice,
    endpoint: *mut ext_endpoint,
) -> ext_status {
    let (Some(ctx), Some(id), false) = (context(ctx), text(&id), endpoint.is_null()) else {
        return EXT_INVALID;
    };
    match ctx.declare_endpoint(id) {
        // SAFETY: not NULL, and the header makes it a place for the number.
        Ok(number) => unsafe { endpoint.write(number) },
        Err(status) => return staged("endpoint", status),
    }
    EXT_OK
}

unsafe extern "C" fn route(
    ctx: *mut ext_context,
    endpoint: ext_endpoint,
    method: ext_slice,
    pattern: ext_slice,
    flags: u32,
    route: *mut c_void,
) -> ext_status {
    let (Some(ctx), Some(method), Some(pattern)) = (context(ctx), text(&method), text(&pattern))
    else {
        return EXT_INVALID;
    };
    ctx.declare_route(endpoint, method, pattern, flags, route)
        .map_or_else(|status| staged("route", status), |()| EXT_OK)
}

unsafe extern "C" fn refuse(ctx: *mut ext_context, message: ext_slice) {
    if let Some(ctx) = context(ctx) {
        ctx.refuse(&lossy(&message));
    }
}

unsafe extern "C" fn env(
    ctx: *mut ext_context,
    name: ext_slice,
    value: *mut ext_slice,
) -> ext_status {
    let (Some(ctx), Some(name), false) = (context(ctx), text(&name), value.is_null()) else {
        return EXT_INVALID;
    };
    match ctx.variable(name) {
        Some(Some(found)) => {
            // SAFETY: not NULL, and the header makes it a place for a slice.
            unsafe { value.write(ffi_out::text(found)) };
            EXT_OK
        }
        Some(None) => EXT_ABSENT,
        None => {
            contract_checks::note(Rule::DeclaresVariables, || {
                format!("`env` was asked for {name}")
            });
            EXT_UNDECLARED
        }
    }
}

unsafe extern "C" fn log_enabled(_ctx: *mut ext_context, level: u32) -> u32 {
    level_of(level).is_some_and(log::enabled).into()
}

unsafe extern "C" fn log_line(
    ctx: *mut ext_context,
    request: ext_request,
    level: u32,
    message: ext_slice,
    fields: *const ext_field,
    field_count: usize,
) {
    let (Some(ctx), Some(level)) = (context(ctx), level_of(level)) else {
        return;
    };
    if level == Level::Error && contract_checks::is_watched() {
        note_panic(slice_of(fields, field_count));
    }
    if !log::enabled(level) {
        return;
    }
    let request = of_request(request);
    let texts: Vec<(String, String)> = slice_of(fields, field_count)
        .iter()
        .map(|field| (lossy(&field.name), lossy(&field.value)))
        .collect();
    let mut line: Vec<log::Field<'_>> = vec![("extension", ctx.name())];
    let id = request.map(|request| request.id());
    if let Some(id) = &id {
        line.push(("request", id));
    }
    line.extend(
        texts
            .iter()
            .map(|(name, value)| (name.as_str(), value as &dyn std::fmt::Display)),
    );
    log::event(level, &lossy(&message), &line);
}

/// The SDK says so of a panic that it has caught where there is no request to fail: in `stop`, in a drop.
fn note_panic(fields: &[ext_field]) {
    let panicked = fields
        .iter()
        .find(|field| bytes(&field.value).starts_with(b"panicked"));
    if let Some(field) = panicked {
        contract_checks::note(Rule::DoesNotPanic, || lossy(&field.value));
    }
}

fn level_of(level: u32) -> Option<Level> {
    match level {
        EXT_LOG_ERROR => Some(Level::Error),
        EXT_LOG_WARN => Some(Level::Warn),
        EXT_LOG_INFO => Some(Level::Info),
        EXT_LOG_DEBUG => Some(Level::Debug),
        EXT_LOG_TRACE => Some(Level::Trace),
        _ => None,
    }
}

unsafe extern "C" fn base(
    ctx: *mut ext_context,
    url: ext_slice,
    base: *mut ext_base,
) -> ext_status {
    let (Some(ctx), Some(url), false) = (context(ctx), text(&url), base.is_null()) else {
        return EXT_INVALID;
    };
    match ctx.declare_base(url) {
        // SAFETY: not NULL, and the header makes it a place for the number.
        Ok(number) => unsafe { base.write(number) },
        Err(status) => return status,
    }
    EXT_OK
}

// ---- The request ----

unsafe extern "C" fn head(request: ext_request) -> *const ext_request_head {
    of_request(request)
        .and_then(|request| request.head())
        .unwrap_or(std::ptr::null())
}

unsafe extern "C" fn header(
    request: ext_request,
    name: ext_slice,
    index: usize,
    value: *mut ext_slice,
) -> ext_status {
    let Some(request) = of_request(request) else {
        return EXT_GONE;
    };
    match request.read() {
        Some(request) => look_up(request.headers(), &name, index, value),
        None => EXT_GONE,
    }
}

unsafe extern "C" fn all_headers(
    request: ext_request,
    fields: *mut *const ext_field,
    count: *mut usize,
) -> ext_status {
    let Some(request) = of_request(request) else {
        return EXT_GONE;
    };
    match request.read() {
        Some(request) => hand_over(request.fields(), fields, count),
        None => EXT_GONE,
    }
}

unsafe extern "C" fn read(request: ext_request, completion: ext_completion) -> ext_status {
    let Some(request) = of_request(request) else {
        return EXT_GONE;
    };
    let read = move |worker, completion| request.read_body(worker, completion);
    on_worker(request.worker(), completion, || request.hold(), read)
}

unsafe extern "C" fn watch(request: ext_request, completion: ext_completion) -> ext_status {
    let Some(request) = of_request(request) else {
        return EXT_GONE;
    };
    let watch = move |worker, completion| request.watch(worker, completion);
    on_worker(request.worker(), completion, || request.hold(), watch)
}

// ---- Time and threads ----

unsafe extern "C" fn sleep(
    ctx: *mut ext_context,
    request: ext_request,
    ms: u64,
    completion: ext_completion,
    op: *mut ext_op,
) -> ext_status {
    let Some(ctx) = context(ctx) else {
        return EXT_INVALID;
    };
    let Ok((remote, request)) = worker_for(ctx, request) else {
        return EXT_GONE;
    };
    let Some(flight) = ctx.hold() else {
        return EXT_GONE;
    };
    let out = OutPointer::of(op, &remote);
    let hold = || ctx.hold();
    on_worker(&remote, completion, hold, move |worker, completion| {
        let time = std::time::Duration::from_millis(ms);
        begin(
            worker,
            ctx,
            flight,
            request,
            completion,
            out,
            |completion| {
                let owner = request.map(request::Handle::polls_with_request);
                operation::start(worker, owner, completion, None, None, |guard| {
                    Box::pin(async move {
                        actix_rt::time::sleep(time).await;
                        guard.complete(Outcome::OK);
                    })
                })
            },
        )
    })
}

unsafe extern "C" fn post(
    ctx: *mut ext_context,
    request: ext_request,
    completion: ext_completion,
) -> ext_status {
    let Some(ctx) = context(ctx) else {
        return EXT_INVALID;
    };
    let Ok((remote, _)) = worker_for(ctx, request) else {
        return EXT_GONE;
    };
    let Some(flight) = ctx.hold() else {
        return EXT_GONE;
    };
    let hold = || ctx.hold();
    on_worker(&remote, completion, hold, move |worker, mut completion| {
        completion.hold(flight);
        complete(worker, completion, Outcome::OK);
        Ok(())
    })
}

unsafe extern "C" fn cancel(op: ext_op) {
    // SAFETY: zero, or a handle of this host's (header).
    if let Some(operation) = unsafe { operation::Handle::from_numbers(op.slot, op.generation) } {
        operation.cancel();
    }
}
