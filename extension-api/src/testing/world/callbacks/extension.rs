//! The callbacks of the extension itself: what it declares, its variables, its log, its base URLs.
#![expect(unsafe_code, reason = "the header says what the pointers point at")]

use std::ffi::c_void;
use std::ptr;

use super::ffi_in::{fields, lossy, text, world};
use crate::abi::*;
use crate::bridge::slice;
use crate::header_lines::is_name;
use crate::testing::world::base;
use crate::testing::world::pointer::Pointer;
use crate::testing::world::routes::{Route, is_pattern};

pub(super) unsafe extern "C" fn get_interface(_: *mut ext_context, _: ext_slice) -> *const c_void {
    ptr::null()
}

pub(super) unsafe extern "C" fn endpoint(
    ctx: *mut ext_context,
    id: ext_slice,
    endpoint: *mut ext_endpoint,
) -> ext_status {
    // SAFETY: NULL, or alive; the id is lent for the call.
    let (Some(world), Some(_), false) = (unsafe { (world(ctx), text(id), endpoint.is_null()) })
    else {
        return EXT_INVALID;
    };
    let mut state = world.lock();
    if state.is_created {
        return EXT_STAGE;
    }
    // SAFETY: not NULL, and to be written.
    unsafe { endpoint.write(state.endpoints) };
    state.endpoints += 1;
    EXT_OK
}

pub(super) unsafe extern "C" fn route(
    ctx: *mut ext_context,
    endpoint: ext_endpoint,
    method: ext_slice,
    pattern: ext_slice,
    flags: u32,
    route: *mut c_void,
) -> ext_status {
    // SAFETY: NULL, or alive; the slices are lent for the call.
    let (Some(world), Some(method), Some(pattern)) =
        (unsafe { (world(ctx), text(method), text(pattern)) })
    else {
        return EXT_INVALID;
    };
    let mut state = world.lock();
    if state.is_created {
        return EXT_STAGE;
    }
    let is_method = method.is_empty() || is_name(&method);
    if endpoint >= state.endpoints || !is_method || !is_pattern(&pattern) {
        return EXT_INVALID;
    }
    let route = Route {
        method: Some(method).filter(|method| !method.is_empty()),
        pattern,
        flags,
        route: Pointer(route),
    };
    if state.routes.iter().any(|other| other.is_same(&route)) {
        return EXT_INVALID;
    }
    state.routes.push(route);
    EXT_OK
}

pub(super) unsafe extern "C" fn refuse(ctx: *mut ext_context, message: ext_slice) {
    // SAFETY: NULL, or alive; the message is lent for the call.
    let (world, message) = unsafe { (world(ctx), lossy(message)) };
    if let Some(world) = world {
        world.lock().refusal.get_or_insert(message);
    }
}

pub(super) unsafe extern "C" fn env(
    ctx: *mut ext_context,
    name: ext_slice,
    value: *mut ext_slice,
) -> ext_status {
    // SAFETY: NULL, or alive; the name is lent for the call.
    let (Some(world), Some(name), false) = (unsafe { (world(ctx), text(name), value.is_null()) })
    else {
        return EXT_INVALID;
    };
    let grants = world.grants.as_ref();
    if grants.is_some_and(|grants| !grants.variables.contains(&name)) {
        return EXT_UNDECLARED;
    }
    let Some(found) = world.env.get(&name) else {
        return EXT_ABSENT;
    };
    // SAFETY: not NULL, and to be written; what is lent lives until after `destroy`.
    unsafe { value.write(slice(found.as_bytes())) };
    EXT_OK
}

pub(super) unsafe extern "C" fn log_enabled(_: *mut ext_context, level: u32) -> u32 {
    name_of(level).is_some().into()
}

pub(super) unsafe extern "C" fn log(
    ctx: *mut ext_context,
    _: ext_request,
    level: u32,
    message: ext_slice,
    lines: *const ext_field,
    count: usize,
) {
    // SAFETY: NULL, or alive.
    let (Some(world), Some(level)) = (unsafe { world(ctx) }, name_of(level)) else {
        return;
    };
    // SAFETY: lent for the call.
    let mut line = format!("{level} {}", unsafe { lossy(message) });
    // SAFETY: lent for the call.
    for field in unsafe { fields(lines, count) } {
        // SAFETY: lent with the field.
        let (name, value) = unsafe { (lossy(field.name), lossy(field.value)) };
        line += &format!(" {name}={value}");
    }
    world.lock().log.push(line);
}

fn name_of(level: u32) -> Option<&'static str> {
    match level {
        EXT_LOG_ERROR => Some("error"),
        EXT_LOG_WARN => Some("warn"),
        EXT_LOG_INFO => Some("info"),
        EXT_LOG_DEBUG => Some("debug"),
        EXT_LOG_TRACE => Some("trace"),
        _ => None,
    }
}

pub(super) unsafe extern "C" fn base(
    ctx: *mut ext_context,
    url: ext_slice,
    base: *mut ext_base,
) -> ext_status {
    // SAFETY: NULL, or alive; the url is lent for the call.
    let (Some(world), Some(url), false) = (unsafe { (world(ctx), text(url), base.is_null()) })
    else {
        return EXT_INVALID;
    };
    let Some((origin, path)) = base::parse(&url) else {
        return EXT_INVALID;
    };
    let grants = world.grants.as_ref();
    if grants.is_some_and(|grants| !grants.origins.contains(&origin)) {
        return EXT_DENIED;
    }
    let mut state = world.lock();
    // SAFETY: not NULL, and to be written.
    unsafe { base.write(state.bases.len() as ext_base) };
    state.bases.push((origin, path));
    EXT_OK
}
