//! The callbacks of time and of outgoing calls.
#![expect(unsafe_code, reason = "the header says what the pointers point at")]

use std::mem::offset_of;

use super::ffi_in::{
    give_header, give_headers, headers, is_hop_by_hop, known_size, register, sized, text,
    with_fetched, with_op, world,
};
use crate::abi::*;
use crate::bridge::Bytes;
use crate::header_lines::is_name;
use crate::testing::upstream::Call;
use crate::testing::world::base;
use crate::testing::world::completion::{Event, Outcome};
use crate::testing::world::operations::Upload;
use crate::testing::world::state::{State, World};

/// What an operation belongs to, as a number; 0: the extension. The error is a status of the ABI.
fn owner(state: &State, request: ext_request) -> Result<u64, ext_status> {
    match request {
        ext_request { slot: 0, .. } => Ok(0),
        ext_request { slot, generation } => {
            let is_open = slot == state.world && state.requests.contains_key(&generation);
            is_open.then_some(generation).ok_or(EXT_GONE)
        }
    }
}

/// Gives an operation's handle, where the caller wants one: zero for an operation that is started elsewhere than on the worker.
///
/// # Safety
///
/// NULL, or to be written.
unsafe fn give_op(world: &World, out: *mut ext_op, op: ext_op) {
    if !out.is_null() {
        let op = if world.is_worker() {
            op
        } else {
            ext_op::default()
        };
        // SAFETY: not NULL, and to be written.
        unsafe { out.write(op) };
    }
}

pub(super) unsafe extern "C" fn sleep(
    ctx: *mut ext_context,
    request: ext_request,
    ms: u64,
    completion: ext_completion,
    op: *mut ext_op,
) -> ext_status {
    // SAFETY: NULL, or alive.
    let Some(world) = (unsafe { world(ctx) }) else {
        return EXT_INVALID;
    };
    let mut state = world.lock();
    let owner = match owner(&state, request) {
        Ok(owner) => owner,
        Err(status) => return status,
    };
    let status = register(world, &mut state, completion, |state, completion| {
        if !state.may_start() {
            return Err((completion, EXT_GONE));
        }
        let number = state.start(owner, completion, None, Upload::None);
        let time_ms = state.now_ms.saturating_add(ms);
        if state.ops.contains_key(&number) {
            state.timers.insert((time_ms, number), ());
        }
        // SAFETY: NULL, or to be written.
        unsafe { give_op(world, op, state.op_handle(number)) };
        Ok(())
    });
    world.changed.notify_all();
    status
}

pub(super) unsafe extern "C" fn post(
    ctx: *mut ext_context,
    request: ext_request,
    completion: ext_completion,
) -> ext_status {
    // SAFETY: NULL, or alive.
    let Some(world) = (unsafe { world(ctx) }) else {
        return EXT_INVALID;
    };
    let mut state = world.lock();
    if let Err(status) = owner(&state, request) {
        return status;
    }
    if !state.may_start() {
        return EXT_GONE;
    }
    let status = register(world, &mut state, completion, |state, completion| {
        state.complete(completion, Outcome::status(EXT_OK));
        Ok(())
    });
    world.changed.notify_all();
    status
}

pub(super) unsafe extern "C" fn cancel(op: ext_op) {
    with_op(op, |_, state, op| {
        state.cancel(op);
        EXT_OK
    });
}

pub(super) unsafe extern "C" fn fetch(
    ctx: *mut ext_context,
    fetch: *const ext_fetch,
    completion: ext_completion,
    op: *mut ext_op,
) -> ext_status {
    // SAFETY: NULL, or lent for the call.
    let Some(fetch) = (unsafe { sized(fetch) }) else {
        return EXT_INVALID;
    };
    // SAFETY: the body is given in every case.
    let body = unsafe { Bytes::from_raw(fetch.body) };
    // SAFETY: NULL, or alive.
    let Some(world) = (unsafe { world(ctx) }) else {
        return EXT_INVALID;
    };
    let mut state = world.lock();
    let owner = match owner(&state, fetch.request) {
        Ok(owner) => owner,
        Err(status) => return status,
    };
    let is_upload = fetch.flags & EXT_FETCH_STREAM_BODY != 0;
    let takes_body = fetch.flags & EXT_FETCH_TAKE_BODY != 0;
    if is_upload && (op.is_null() || takes_body || !world.is_worker()) || takes_body && owner == 0 {
        return EXT_INVALID;
    }
    // SAFETY: its slices are lent for the call.
    let Some(mut call) = (unsafe { prepare(&state, &fetch, owner) }) else {
        return EXT_INVALID;
    };
    call.body = body.to_vec();
    let status = register(world, &mut state, completion, |state, completion| {
        if !state.may_start() {
            return Err((completion, EXT_GONE));
        }
        if takes_body {
            let open = state.requests.get_mut(&owner);
            let body = open.and_then(|open| open.take_body());
            let chunks = body.map(|body| body.chunks).unwrap_or_default();
            call.body = chunks.into_iter().flat_map(Vec::from).collect();
        }
        let upload = if is_upload {
            Upload::Open
        } else {
            Upload::None
        };
        let number = state.start(owner, completion, Some(call), upload);
        if !is_upload {
            state.events.push_back(Event::CallOut { op: number });
        }
        // SAFETY: NULL, or to be written.
        unsafe { give_op(world, op, state.op_handle(number)) };
        Ok(())
    });
    world.changed.notify_all();
    status
}

/// The call that a fetch stands for, without its body; `None` where it breaks a rule.
///
/// # Safety
///
/// The slices of the fetch must be readable during the call.
unsafe fn prepare(state: &State, fetch: &ext_fetch, owner: u64) -> Option<Call> {
    let (origin, path) = state.bases.get(fetch.base as usize)?;
    // SAFETY: as the caller says.
    let (target, method) = unsafe { (text(fetch.target)?, text(fetch.method)?) };
    // SAFETY: as the caller says.
    let edits = unsafe { headers(fetch.headers, fetch.header_count) }.ok()?;
    let taken = state
        .requests
        .get(&owner)
        .filter(|_| fetch.flags & EXT_FETCH_TAKE_HEADERS != 0)
        .map(|request| &request.head);
    let method = match (method.as_str(), taken) {
        ("", Some(head)) => head.spec.method.clone(),
        ("", None) => "GET".to_owned(),
        (given, _) => Some(given.to_owned()).filter(|method| is_name(method))?,
    };
    if !base::takes(path, &target) {
        return None;
    }
    let is_kept = |name: &str| !is_hop_by_hop(name) && !edits.iter().any(|(edit, _)| edit == name);
    let lines = taken
        .map(|head| head.headers.lines.iter())
        .into_iter()
        .flatten();
    let kept = lines.filter(|(name, _)| is_kept(name)).cloned();
    let set = edits
        .iter()
        .filter_map(|(name, value)| Some((name.clone(), value.clone()?)));
    Some(Call {
        method,
        url: format!("{origin}{path}{target}"),
        headers: kept.chain(set).collect(),
        body: Vec::new(),
    })
}

pub(super) unsafe extern "C" fn fetch_write(
    op: ext_op,
    chunk: ext_buffer,
    completion: ext_completion,
) -> ext_status {
    // SAFETY: given in every case.
    let chunk = unsafe { Bytes::from_raw(chunk) };
    with_op(op, |world, state, op| {
        register(world, state, completion, |state, completion| {
            let operation = state.ops.get_mut(&op);
            let Some((call, upload)) =
                operation.and_then(|op| Some((op.call.as_mut()?, &mut op.upload)))
            else {
                return Err((completion, EXT_GONE));
            };
            let status = match upload {
                Upload::None => return Err((completion, EXT_GONE)),
                Upload::Writing => return Err((completion, EXT_BUSY)),
                Upload::Open => {
                    call.body.extend_from_slice(&chunk);
                    *upload = Upload::Writing;
                    state.events.push_back(Event::Written { op });
                    EXT_OK
                }
                Upload::Ended => EXT_CANCELLED,
            };
            state.complete(completion, Outcome::status(status));
            Ok(())
        })
    })
}

pub(super) unsafe extern "C" fn fetch_end(op: ext_op, status: ext_status) -> ext_status {
    with_op(op, |_, state, number| {
        let upload = state.ops.get_mut(&number).map(|op| &mut op.upload);
        let is_open = |upload: &Upload| matches!(upload, Upload::Open | Upload::Writing);
        if let Some(upload) = upload.filter(|upload| is_open(upload)) {
            *upload = Upload::Ended;
            if status == EXT_OK {
                state.events.push_back(Event::CallOut { op: number });
            } else {
                let message = "the call's body was broken off".to_owned();
                let outcome = Outcome {
                    message,
                    ..Outcome::status(EXT_BROKEN)
                };
                state.end_op(number, outcome);
            }
        }
        EXT_OK
    })
}

pub(super) unsafe extern "C" fn fetched_head(
    fetched: ext_fetched,
    head: *mut ext_fetched_head,
) -> ext_status {
    with_fetched(fetched, |_, state, fetched| {
        if head.is_null() {
            return EXT_INVALID;
        }
        let fetched = &state.fetched[&fetched];
        // SAFETY: not NULL; the first field says how much of it the caller knows, and no field beyond is written.
        unsafe {
            let size = known_size::<ext_fetched_head>((*head).struct_size);
            let knows = |end: usize| size >= end;
            if knows(offset_of!(ext_fetched_head, body_length)) {
                (&raw mut (*head).status).write(fetched.status.into());
            }
            if knows(size_of::<ext_fetched_head>()) {
                (&raw mut (*head).body_length).write(fetched.body_length.unwrap_or(-1));
            }
            if knows(size_of::<u32>()) {
                (*head).struct_size = size as u32;
            }
        }
        EXT_OK
    })
}

pub(super) unsafe extern "C" fn fetched_header(
    fetched: ext_fetched,
    name: ext_slice,
    index: usize,
    value: *mut ext_slice,
) -> ext_status {
    with_fetched(fetched, |_, state, fetched| {
        // SAFETY: as the header has it.
        unsafe { give_header(&state.fetched[&fetched].headers, name, index, value) }
    })
}

pub(super) unsafe extern "C" fn fetched_headers(
    fetched: ext_fetched,
    fields: *mut *const ext_field,
    count: *mut usize,
) -> ext_status {
    with_fetched(fetched, |_, state, fetched| {
        // SAFETY: as the header has it.
        unsafe { give_headers(&state.fetched[&fetched].headers, fields, count) }
    })
}

pub(super) unsafe extern "C" fn fetched_read(
    fetched: ext_fetched,
    completion: ext_completion,
) -> ext_status {
    with_fetched(fetched, |world, state, fetched| {
        register(world, state, completion, |state, completion| {
            state.read_fetched(fetched, completion)
        })
    })
}

pub(super) unsafe extern "C" fn fetched_drop(fetched: ext_fetched) -> ext_status {
    with_fetched(fetched, |_, state, fetched| {
        drop(state.close_fetched(fetched));
        EXT_OK
    })
}
