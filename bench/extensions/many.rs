//! UNSAFE: as many endpoints as `BENCH_MOUNTS` says, from one library, written against the ABI itself: the SDK takes a type
//! for each endpoint, which nobody would write ten thousand times.
#![expect(unsafe_code, reason = "the hooks and callbacks of the ABI")]

use std::ffi::c_void;
use std::ptr;
use std::sync::OnceLock;

use extension_api::abi::*;

static CALLBACKS: OnceLock<&'static ext_callbacks> = OnceLock::new();

/// The entry that the host looks for.
#[unsafe(no_mangle)]
pub static extension_entry_v1: ext_entry = ext_entry {
    magic: EXT_MAGIC,
    struct_size: size_of::<ext_entry>() as u32,
    abi_major: EXT_ABI_MAJOR,
    abi_minor: EXT_ABI_MINOR,
    needs_minor: 0,
    flags: 0,
    reserved: 0,
    sdk: *b"bench_many\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    create: Some(create),
    handle: Some(handle),
    stop: None,
    destroy: None,
};

fn slice(text: &str) -> ext_slice {
    ext_slice {
        ptr: text.as_ptr(),
        len: text.len(),
    }
}

unsafe extern "C" fn create(
    callbacks: *const ext_callbacks,
    ctx: *mut ext_context,
    instance: *mut *mut c_void,
) -> ext_status {
    // SAFETY: the table lives as long as the process; slices and places are good for the calls in which they stand.
    unsafe {
        let callbacks = &*callbacks;
        CALLBACKS.get_or_init(|| callbacks);
        let mut value = slice("");
        let status = (callbacks.env)(ctx, slice("BENCH_MOUNTS"), &mut value);
        let count = match status {
            EXT_OK => std::str::from_utf8(std::slice::from_raw_parts(value.ptr, value.len))
                .ok()
                .and_then(|count| count.parse().ok())
                .unwrap_or(1),
            _ => 1,
        };
        for number in 0..count {
            let mut endpoint = 0;
            let status = (callbacks.endpoint)(ctx, slice(&format!("m{number}")), &mut endpoint);
            if status != EXT_OK {
                return status;
            }
            let (get, pattern) = (slice("GET"), slice("/json"));
            let status = (callbacks.route)(ctx, endpoint, get, pattern, 0, ptr::null_mut());
            if status != EXT_OK {
                return status;
            }
        }
        *instance = ptr::null_mut();
    }
    EXT_OK
}

unsafe extern "C" fn handle(_: *mut c_void, _: *mut c_void, request: ext_request) {
    let Some(callbacks) = CALLBACKS.get() else {
        return;
    };
    let body = "{\"message\":\"Hello, world!\",\"id\":42}";
    let content_type = ext_field {
        name: slice("content-type"),
        value: slice("application/json; charset=utf-8"),
    };
    let response = ext_response {
        struct_size: size_of::<ext_response>() as u32,
        status: 200,
        headers: &raw const content_type,
        header_count: 1,
        body: ext_buffer {
            ptr: body.as_ptr(),
            len: body.len(),
            owner: ptr::null_mut(),
            release: None,
        },
    };
    // SAFETY: the response is lent for the call; its body is constant.
    unsafe { (callbacks.respond)(request, &raw const response) };
}
