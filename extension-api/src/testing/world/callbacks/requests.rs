//! The callbacks that read a request, and wait for its end.
#![expect(unsafe_code, reason = "the header says what the pointers point at")]

use std::ptr;

use super::ffi_in::{give_header, give_headers, register, with_request};
use crate::abi::*;

pub(super) unsafe extern "C" fn head(request: ext_request) -> *const ext_request_head {
    let mut head = ptr::null();
    with_request(request, |_, state, request| {
        // It stays where it is until both sides of the request have ended.
        head = &raw const state.requests[&request].head.raw;
        EXT_OK
    });
    head
}

pub(super) unsafe extern "C" fn header(
    request: ext_request,
    name: ext_slice,
    index: usize,
    value: *mut ext_slice,
) -> ext_status {
    with_request(request, |_, state, request| {
        let headers = &state.requests[&request].head.headers;
        // SAFETY: as the header has it.
        unsafe { give_header(headers, name, index, value) }
    })
}

pub(super) unsafe extern "C" fn headers(
    request: ext_request,
    fields: *mut *const ext_field,
    count: *mut usize,
) -> ext_status {
    with_request(request, |_, state, request| {
        let headers = &state.requests[&request].head.headers;
        // SAFETY: as the header has it.
        unsafe { give_headers(headers, fields, count) }
    })
}

pub(super) unsafe extern "C" fn read(
    request: ext_request,
    completion: ext_completion,
) -> ext_status {
    with_request(request, |world, state, request| {
        register(world, state, completion, |state, completion| {
            state.read(request, completion)
        })
    })
}

pub(super) unsafe extern "C" fn watch(
    request: ext_request,
    completion: ext_completion,
) -> ext_status {
    with_request(request, |world, state, request| {
        register(world, state, completion, |state, completion| {
            state.watch(request, completion)
        })
    })
}
