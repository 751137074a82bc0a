//! What callbacks are given, as our own types; and how each gets from its handle to the state.
#![expect(unsafe_code, reason = "the header says what the pointers point at")]

use std::mem::{MaybeUninit, offset_of};
use std::ptr;

use crate::abi::*;
use crate::bridge::bytes_of;
use crate::header_lines::{is_name, is_value};
use crate::testing::world::completion::{Completion, Outcome};
use crate::testing::world::head::HeaderFields;
use crate::testing::world::requests::Refused;
use crate::testing::world::state::{State, World, world_of};

/// Headers to be set; a value of `None` removes.
pub(super) type Edits = Vec<(String, Option<String>)>;

/// The host that `ctx` stands for.
///
/// # Safety
///
/// NULL, or what `create` was given, until `destroy` returns.
pub(super) unsafe fn world<'a>(ctx: *mut ext_context) -> Option<&'a World> {
    // SAFETY: the world that was handed to `create`, which is kept until after `destroy`.
    unsafe { ctx.cast::<World>().cast_const().as_ref() }
}

/// A struct that begins with its `struct_size`, and may be all zeros.
pub(super) trait SizedStruct: Copy {
    /// Where it ends in version 1.0 of the header: behind what was its last field then.
    const SIZE_1_0: usize;
}
impl SizedStruct for ext_response {
    const SIZE_1_0: usize = offset_of!(Self, body) + size_of::<ext_buffer>();
}
impl SizedStruct for ext_error {
    const SIZE_1_0: usize = offset_of!(Self, reserved) + size_of::<u32>();
}
impl SizedStruct for ext_fetch {
    const SIZE_1_0: usize = offset_of!(Self, total_ms) + size_of::<u64>();
}
impl SizedStruct for ext_fetched_head {
    const SIZE_1_0: usize = offset_of!(Self, body_length) + size_of::<i64>();
}

/// How much of a struct its giver knows, which says so, or says nothing.
pub(super) fn known_size<T: SizedStruct>(struct_size: u32) -> usize {
    match struct_size as usize {
        0 => T::SIZE_1_0,
        size => size.min(size_of::<T>()),
    }
}

/// A struct as far as its `struct_size` says; what follows reads as zero.
///
/// # Safety
///
/// NULL, or to be read during the call, as far as it says.
pub(super) unsafe fn sized<T: SizedStruct>(given: *const T) -> Option<T> {
    if given.is_null() {
        return None;
    }
    let mut whole = MaybeUninit::<T>::zeroed();
    // SAFETY: not NULL, and it begins with its size; no more is read, nor written than there is room for.
    unsafe {
        let size = known_size::<T>(given.cast::<u32>().read());
        ptr::copy_nonoverlapping(given.cast::<u8>(), whole.as_mut_ptr().cast::<u8>(), size);
    }
    // SAFETY: zeros are a value of each `SizedStruct`, whatever of it has been written over.
    Some(unsafe { whole.assume_init() })
}

/// Text; `None` where it is not UTF-8.
///
/// # Safety
///
/// The slice must be readable during the call.
pub(super) unsafe fn text(slice: ext_slice) -> Option<String> {
    // SAFETY: as the caller says.
    let bytes = unsafe { bytes_of(slice) }.unwrap_or_default();
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

/// Text, whatever it is.
///
/// # Safety
///
/// As for [`text`].
pub(super) unsafe fn lossy(slice: ext_slice) -> String {
    // SAFETY: as the caller says.
    String::from_utf8_lossy(unsafe { bytes_of(slice) }.unwrap_or_default()).into_owned()
}

/// Fields, as they are.
///
/// # Safety
///
/// The fields, and the slices in them, must be readable during the call.
pub(super) unsafe fn fields<'a>(fields: *const ext_field, count: usize) -> &'a [ext_field] {
    if count == 0 || fields.is_null() {
        return &[];
    }
    // SAFETY: as the caller says.
    unsafe { std::slice::from_raw_parts(fields, count) }
}

/// Headers, names in lower case, without those that are the host's; the error is the rule that they break.
///
/// # Safety
///
/// As for [`fields`].
pub(super) unsafe fn headers(lines: *const ext_field, count: usize) -> Result<Edits, &'static str> {
    let mut edits = Vec::new();
    // SAFETY: as the caller says.
    for field in unsafe { fields(lines, count) } {
        // SAFETY: as above.
        let (name, value) = unsafe { (bytes_of(field.name), bytes_of(field.value)) };
        let name = std::str::from_utf8(name.unwrap_or_default()).unwrap_or_default();
        if !is_name(name) {
            return Err("a header's name is not a token");
        }
        if !is_value(value.unwrap_or_default()) {
            return Err("a header's value holds a control character");
        }
        let name = name.to_ascii_lowercase();
        if !is_hop_by_hop(&name) && !["content-length", "host"].contains(&name.as_str()) {
            let value = value.map(|value| String::from_utf8_lossy(value).into_owned());
            edits.push((name, value));
        }
    }
    Ok(edits)
}

/// Whether a header speaks of one connection only.
pub(super) fn is_hop_by_hop(name: &str) -> bool {
    const NAMES: [&str; 9] = [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    NAMES.contains(&name)
}

/// Calls `act` with the request that a handle names; EXT_GONE where its time is over.
pub(super) fn with_request(
    handle: ext_request,
    act: impl FnOnce(&World, &mut State, u64) -> ext_status,
) -> ext_status {
    with_state(handle.slot, |world, state| {
        if state.requests.contains_key(&handle.generation) {
            act(world, state, handle.generation)
        } else {
            EXT_GONE
        }
    })
}

/// Calls `act` with the answer that a handle names; EXT_GONE where its time is over.
pub(super) fn with_fetched(
    handle: ext_fetched,
    act: impl FnOnce(&World, &mut State, u64) -> ext_status,
) -> ext_status {
    with_state(handle.slot, |world, state| {
        if state.fetched.contains_key(&handle.generation) {
            act(world, state, handle.generation)
        } else {
            EXT_GONE
        }
    })
}

/// Calls `act` with the operation that a handle names; EXT_GONE where its time is over.
pub(super) fn with_op(
    handle: ext_op,
    act: impl FnOnce(&World, &mut State, u64) -> ext_status,
) -> ext_status {
    with_state(handle.slot, |world, state| {
        if state.ops.contains_key(&handle.generation) {
            act(world, state, handle.generation)
        } else {
            EXT_GONE
        }
    })
}

fn with_state(slot: u64, act: impl FnOnce(&World, &mut State) -> ext_status) -> ext_status {
    let Some(world) = world_of(slot) else {
        return EXT_GONE;
    };
    let status = act(&world, &mut world.lock());
    world.changed.notify_all();
    status
}

/// Registers a completion. As in the real host, a failure comes through it where the caller is not the worker.
pub(super) fn register(
    world: &World,
    state: &mut State,
    completion: ext_completion,
    act: impl FnOnce(&mut State, Completion) -> Result<(), Refused>,
) -> ext_status {
    let Some(completion) = Completion::new(completion) else {
        return EXT_INVALID;
    };
    match act(state, completion) {
        Ok(()) => EXT_OK,
        Err((_, status)) if world.is_worker() => status,
        Err((completion, status)) => {
            state.complete(completion, Outcome::status(status));
            EXT_OK
        }
    }
}

/// Gives the value of a header.
///
/// # Safety
///
/// The name must be readable during the call; `value` is NULL, or to be written.
pub(super) unsafe fn give_header(
    headers: &HeaderFields,
    name: ext_slice,
    index: usize,
    value: *mut ext_slice,
) -> ext_status {
    // SAFETY: as the caller says.
    let (Some(name), false) = (unsafe { text(name) }, value.is_null()) else {
        return EXT_INVALID;
    };
    let Some(found) = headers.get(&name, index) else {
        return EXT_ABSENT;
    };
    // SAFETY: not NULL, and to be written.
    unsafe { value.write(found) };
    EXT_OK
}

/// Gives all headers.
///
/// # Safety
///
/// Both pointers are NULL, or to be written.
pub(super) unsafe fn give_headers(
    headers: &HeaderFields,
    fields: *mut *const ext_field,
    count: *mut usize,
) -> ext_status {
    if fields.is_null() || count.is_null() {
        return EXT_INVALID;
    }
    // SAFETY: not NULL, and to be written.
    unsafe {
        fields.write(headers.raw.as_ptr());
        count.write(headers.raw.len());
    }
    EXT_OK
}
