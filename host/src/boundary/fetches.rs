//! UNSAFE: how an extension calls elsewhere, and reads what comes back.
#![expect(
    unsafe_code,
    reason = "the functions of the ABI take raw pointers; the header says what they must point at"
)]

use std::hint::cold_path;
use std::mem::MaybeUninit;

use actix_http::Method;
use actix_http::header::{self, HeaderName};
use extension_api::abi::*;
use smallvec::SmallVec;

use super::answer_headers::{NOT_A_NAME, NOT_A_VALUE, is_settable};
use super::completion::Outcome;
use super::ffi_in::{
    bytes, context, hand_over, known_size, look_up, of_fetched, sized, slice_of, text,
};
use super::start_operation::{OutPointer, begin, on_worker, worker_for};
use super::{buffers, fetched, operation, request, upload};
use crate::extension::context::Context;
use crate::http::headers;
use crate::upstream::{self, Call, Limits, OutgoingBody};

pub(super) unsafe extern "C" fn fetch(
    ctx: *mut ext_context,
    fetch: *const ext_fetch,
    completion: ext_completion,
    op: *mut ext_op,
) -> ext_status {
    let mut room = MaybeUninit::uninit();
    // SAFETY: the header makes it a fetch, lent for the call.
    let Some(fetch) = (unsafe { sized("fetch", fetch, &mut room) }) else {
        return EXT_INVALID;
    };
    // SAFETY: given by the rules of the header, also where the call fails.
    let body = unsafe { buffers::take(fetch.body) };
    let Some(ctx) = context(ctx) else {
        return EXT_INVALID;
    };
    let Ok((remote, request)) = worker_for(ctx, fetch.request) else {
        return EXT_GONE;
    };
    let streams = fetch.flags & EXT_FETCH_STREAM_BODY != 0;
    let takes_body = fetch.flags & EXT_FETCH_TAKE_BODY != 0;
    if streams && (op.is_null() || takes_body || !remote.is_current())
        || takes_body && request.is_none()
    {
        ctx.log_misuse("fetch", "a streamed body needs a place for the operation, on a worker, and a body to take needs a request");
        return EXT_INVALID;
    }
    let call = match prepare(ctx, fetch, request) {
        Ok(call) => call,
        Err(status) => return status,
    };
    let (upload, parts) = if streams {
        cold_path();
        let (upload, parts) = upload::upload();
        (Some(upload), Some(parts))
    } else {
        (None, None)
    };
    let Some(flight) = ctx.hold() else {
        return EXT_GONE;
    };
    let out = OutPointer::of(op, &remote);
    let hold = || ctx.hold();
    on_worker(&remote, completion, hold, move |worker, completion| {
        let body = match (parts, request) {
            (Some(parts), _) => OutgoingBody::Stream(Box::new(parts), None),
            (None, Some(request)) if takes_body => taken_body(request),
            _ => OutgoingBody::of(body),
        };
        let kept = flight.clone();
        let Some(upstream) = upstream::current() else {
            return Err((completion, EXT_GONE));
        };
        let limit = upstream.head_limit(&call);
        let limit = limit.map(|limit| (call.base().clone(), limit));
        let owner = request.map(request::Handle::polls_with_request);
        begin(
            worker,
            ctx,
            flight,
            request,
            completion,
            out,
            |completion| {
                operation::start(worker, owner, completion, upload, limit, |guard| {
                    Box::pin(async move {
                        guard.complete(match upstream.call(call, body).await {
                            Ok(response) => {
                                Outcome::fetched(fetched::keep(worker, response, kept).to_abi())
                            }
                            Err(failed) => Outcome::failed_because(failed.status, failed.message),
                        });
                    })
                })
            },
        )
    })
}

/// The body of a request, for a fetch that passes it on.
fn taken_body(request: request::Handle) -> OutgoingBody {
    let length = request.read().and_then(|shared| shared.body_length());
    match request.take_body() {
        Some(body) => OutgoingBody::Stream(Box::new(body), length),
        None => OutgoingBody::Empty,
    }
}

pub(super) unsafe extern "C" fn fetch_write(
    op: ext_op,
    chunk: ext_buffer,
    completion: ext_completion,
) -> ext_status {
    // SAFETY: given by the rules of the header, also where the call fails.
    let chunk = unsafe { buffers::take(chunk) };
    // SAFETY: zero, or a handle of this host's (header).
    let Some(operation) = (unsafe { operation::Handle::from_numbers(op.slot, op.generation) })
    else {
        return EXT_GONE;
    };
    on_worker(
        operation.worker(),
        completion,
        || operation.hold(),
        move |_, completion| match operation.upload() {
            None => Err((completion, EXT_GONE)),
            Some(upload) => upload
                .write(chunk, completion)
                .map_err(|completion| (completion, EXT_BUSY)),
        },
    )
}

pub(super) unsafe extern "C" fn fetch_end(op: ext_op, status: ext_status) -> ext_status {
    // SAFETY: zero, or a handle of this host's (header).
    let Some(operation) = (unsafe { operation::Handle::from_numbers(op.slot, op.generation) })
    else {
        return EXT_GONE;
    };
    operation.worker().run(move |_| {
        if let Some(upload) = operation.upload() {
            upload.end(status == EXT_OK);
        }
    });
    EXT_OK
}

pub(super) unsafe extern "C" fn fetched_head(
    fetched: ext_fetched,
    head: *mut ext_fetched_head,
) -> ext_status {
    let Some(answer) = of_fetched(fetched) else {
        return EXT_GONE;
    };
    if head.is_null() {
        return EXT_INVALID;
    }
    let Some(answer) = answer.read() else {
        return EXT_GONE;
    };
    let known = ext_fetched_head {
        struct_size: size_of::<ext_fetched_head>() as u32,
        status: answer.status().as_u16().into(),
        body_length: answer.body_length().map_or(-1, |length| length as i64),
    };
    // SAFETY: not NULL; `struct_size` says how much of it the caller knows, and no more is written.
    unsafe {
        let room = known_size::<ext_fetched_head>((*head).struct_size);
        std::ptr::copy_nonoverlapping((&raw const known).cast::<u8>(), head.cast::<u8>(), room);
        if room >= size_of::<u32>() {
            (*head).struct_size = room as u32;
        }
    }
    EXT_OK
}

pub(super) unsafe extern "C" fn fetched_header(
    fetched: ext_fetched,
    name: ext_slice,
    index: usize,
    value: *mut ext_slice,
) -> ext_status {
    let Some(answer) = of_fetched(fetched) else {
        return EXT_GONE;
    };
    match answer.read() {
        Some(answer) => look_up(answer.headers(), &name, index, value),
        None => EXT_GONE,
    }
}

pub(super) unsafe extern "C" fn fetched_headers(
    fetched: ext_fetched,
    fields: *mut *const ext_field,
    count: *mut usize,
) -> ext_status {
    let Some(answer) = of_fetched(fetched) else {
        return EXT_GONE;
    };
    match answer.read() {
        Some(answer) => hand_over(answer.fields(), fields, count),
        None => EXT_GONE,
    }
}

pub(super) unsafe extern "C" fn fetched_read(
    fetched: ext_fetched,
    completion: ext_completion,
) -> ext_status {
    let Some(answer) = of_fetched(fetched) else {
        return EXT_GONE;
    };
    let read = move |worker, completion| answer.read_chunk(worker, completion);
    on_worker(answer.worker(), completion, || answer.hold(), read)
}

pub(super) unsafe extern "C" fn fetched_drop(fetched: ext_fetched) -> ext_status {
    let Some(answer) = of_fetched(fetched) else {
        return EXT_GONE;
    };
    answer
        .worker()
        .run(move |worker| drop(answer.close(worker)));
    EXT_OK
}

/// Turns a fetch into a call. The error is a status of the ABI, and has been logged.
fn prepare(
    ctx: &'static Context,
    fetch: &ext_fetch,
    request: Option<request::Handle>,
) -> Result<Call, ext_status> {
    let misuse = |rule: &str| {
        cold_path();
        ctx.log_misuse("fetch", rule);
        EXT_INVALID
    };
    let base = ctx
        .base(fetch.base)
        .ok_or_else(|| misuse("the base was not made by `base`"))?;
    let target = text(&fetch.target).ok_or_else(|| misuse("the target is not UTF-8"))?;
    let takes_headers = fetch.flags & EXT_FETCH_TAKE_HEADERS != 0;
    let taken = request
        .filter(|_| takes_headers)
        .and_then(|request| request.read());
    let parsed;
    let method = match (bytes(&fetch.method), &taken) {
        (b"", Some(request)) => request.method(),
        (b"", None) => &Method::GET,
        (method, _) => {
            parsed = Method::from_bytes(method).map_err(|_| misuse("the method is not a token"))?;
            &parsed
        }
    };
    let mut call = Call::new(base, method, target)
        .ok_or_else(|| misuse("the target must be a path or a query, and stay below the base"))?
        .limit(Limits {
            connect: duration(fetch.connect_ms),
            first_byte: duration(fetch.first_byte_ms),
            total: duration(fetch.total_ms),
        });
    if fetch.flags & EXT_FETCH_FOLLOW_REDIRECTS != 0 {
        cold_path();
        call = call.follow(method.clone(), target, Box::new(|base| ctx.allows(base)));
    }
    let decompress = fetch.flags & EXT_FETCH_DECOMPRESS != 0;
    let set = set_by(slice_of(fetch.headers, fetch.header_count)).map_err(misuse)?;
    if let Some(request) = &taken {
        for (name, value) in headers::end_to_end(request.headers()) {
            let is_set = set.iter().any(|(other, _)| other == name)
                || decompress && *name == header::ACCEPT_ENCODING;
            if !is_set {
                call.add(name, value.as_bytes());
            }
        }
    }
    for (name, value) in &set {
        if let Some(value) = value
            && !(decompress && *name == header::ACCEPT_ENCODING)
        {
            call.add(name, value);
        }
    }
    Ok(if decompress { call.decompress() } else { call })
}

/// Few set more than two or three.
type Set<'a> = SmallVec<[(HeaderName, Option<&'a [u8]>); 4]>;

/// The headers that a fetch sets, or keeps back where the value is absent. The error is the rule that they break.
fn set_by(fields: &[ext_field]) -> Result<Set<'_>, &'static str> {
    let mut set = SmallVec::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(bytes(&field.name)).map_err(|_| NOT_A_NAME)?;
        let value = (!field.value.ptr.is_null()).then(|| bytes(&field.value));
        let is_bad = value
            .unwrap_or_default()
            .iter()
            .fold(false, |is_bad, byte| {
                is_bad | (*byte < b' ' && *byte != b'\t') | (*byte == 0x7f)
            });
        if is_bad {
            return Err(NOT_A_VALUE);
        }
        if is_settable(&name) {
            set.push((name, value));
        }
    }
    Ok(set)
}

fn duration(ms: u64) -> Option<std::time::Duration> {
    (ms > 0).then(|| std::time::Duration::from_millis(ms))
}
