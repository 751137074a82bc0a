//! UNSAFE: what an extension gives, as the host's own types.
#![expect(
    unsafe_code,
    reason = "the functions of the ABI take raw pointers; the header says what they must point at"
)]

use std::hint::cold_path;
use std::mem::{MaybeUninit, offset_of};

use actix_http::header::HeaderMap;
use extension_api::abi::*;

use super::{fetched, request};
use crate::extension::context::Context;
use crate::runtime::contract_checks::{self, Rule};
use crate::runtime::ffi_out;

pub(super) fn context(ctx: *mut ext_context) -> Option<&'static Context> {
    // SAFETY: the header: the pointer that `create` was given; it is one to a `Context` that is never freed.
    unsafe { ctx.cast::<Context>().as_ref() }
}

pub(super) fn of_request(request: ext_request) -> Option<request::Handle> {
    // SAFETY: zero, or a handle of this host's (header).
    unsafe { request::Handle::from_numbers(request.slot, request.generation) }
}

pub(super) fn of_fetched(fetched: ext_fetched) -> Option<fetched::Handle> {
    // SAFETY: zero, or a handle of this host's (header).
    unsafe { fetched::Handle::from_numbers(fetched.slot, fetched.generation) }
}

pub(super) fn bytes(slice: &ext_slice) -> &[u8] {
    if slice.len == 0 || slice.ptr.is_null() {
        return b"";
    }
    // SAFETY: lent by the caller for the call (header), and the reference lives no longer than the slice that was passed in.
    unsafe { std::slice::from_raw_parts(slice.ptr, slice.len) }
}

pub(super) fn text(slice: &ext_slice) -> Option<&str> {
    std::str::from_utf8(bytes(slice)).ok()
}

pub(super) fn lossy(slice: &ext_slice) -> String {
    String::from_utf8_lossy(bytes(slice)).into_owned()
}

pub(super) fn slice_of<'a>(fields: *const ext_field, count: usize) -> &'a [ext_field] {
    if count == 0 || fields.is_null() {
        return &[];
    }
    // SAFETY: an array lent by the caller for the call (header); every caller of this uses it within that call.
    unsafe { std::slice::from_raw_parts(fields, count) }
}

/// A struct of the ABI that begins with its `struct_size`, and may be all zeros.
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

/// How much of a struct its giver knows, which says so, or says nothing: the hosts of 1.0 did not look at it.
pub(super) fn known_size<T: SizedStruct>(struct_size: u32) -> usize {
    match struct_size as usize {
        0 => T::SIZE_1_0,
        size => size.min(size_of::<T>()),
    }
}

/// A struct that the caller lends, of which nothing is read beyond the size that it says: the rest reads as zero, for which `room`
/// is the place. `None`: there is none. Notes one that is shorter than the first version of the header has it.
///
/// # Safety
/// NULL, or a struct whose `struct_size` says how much of it may be read, during the life of `room`.
#[inline]
pub(super) unsafe fn sized<'a, T: SizedStruct>(
    call: &str,
    given: *const T,
    room: &'a mut MaybeUninit<T>,
) -> Option<&'a T> {
    if given.is_null() {
        return None;
    }
    // SAFETY: not NULL, and every struct that grows begins with this (header).
    let struct_size = unsafe { given.cast::<u32>().read() };
    if struct_size as usize >= size_of::<T>() {
        // SAFETY: it is whole, and lent by the caller for the call.
        return unsafe { given.as_ref() };
    }
    cold_path();
    contract_checks::note(Rule::StructSize, || {
        format!("`{call}` was given a struct_size of {struct_size}")
    });
    *room = MaybeUninit::zeroed();
    let size = known_size::<T>(struct_size);
    // SAFETY: as much as the struct says that it has, or as every struct of its kind has; no more than `room`.
    unsafe {
        std::ptr::copy_nonoverlapping(given.cast::<u8>(), room.as_mut_ptr().cast::<u8>(), size);
    }
    // SAFETY: zeros are values of each `SizedStruct`, whatever of it has been written over.
    Some(unsafe { room.assume_init_ref() })
}

pub(super) fn look_up(
    headers: &HeaderMap,
    name: &ext_slice,
    index: usize,
    value: *mut ext_slice,
) -> ext_status {
    let (Some(name), false) = (text(name), value.is_null()) else {
        return EXT_INVALID;
    };
    match headers.get_all(name).nth(index) {
        Some(found) => {
            // SAFETY: not NULL, and the header makes it a place for a slice.
            unsafe { value.write(ffi_out::bytes(found.as_bytes())) };
            EXT_OK
        }
        None => EXT_ABSENT,
    }
}

pub(super) fn hand_over(
    all: &[ext_field],
    fields: *mut *const ext_field,
    count: *mut usize,
) -> ext_status {
    if fields.is_null() || count.is_null() {
        return EXT_INVALID;
    }
    // SAFETY: not NULL, and the header makes them places for a pointer and a number.
    unsafe {
        fields.write(all.as_ptr());
        count.write(all.len());
    }
    EXT_OK
}
