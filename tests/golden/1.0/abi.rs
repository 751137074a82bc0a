//! `include/extension_api.h` in Rust, one to one: the same names, the same order, no logic.
//!
//! The header is the contract and its documentation; `tests/layout.rs` compiles it and holds every size, offset and
//! constant below against it. Pointers to functions that may be NULL are `Option`s.
#![expect(non_camel_case_types, reason = "the header's own names")]
#![expect(
    missing_docs,
    reason = "the header documents them; saying it twice would let the two drift"
)]

use std::ffi::c_void;
use std::marker::{PhantomData, PhantomPinned};

pub const EXT_ABI_MAJOR: u32 = 1;
pub const EXT_ABI_MINOR: u32 = 0;

// ---- Status ----

pub type ext_status = i32;

pub const EXT_OK: ext_status = 0;
pub const EXT_END: ext_status = 1;
pub const EXT_ABSENT: ext_status = 2;
pub const EXT_CANCELLED: ext_status = 3;
pub const EXT_GONE: ext_status = -1;
pub const EXT_ANSWERED: ext_status = -2;
pub const EXT_BUSY: ext_status = -3;
pub const EXT_INVALID: ext_status = -4;
pub const EXT_UNDECLARED: ext_status = -5;
pub const EXT_DENIED: ext_status = -6;
pub const EXT_TOO_LARGE: ext_status = -7;
pub const EXT_BROKEN: ext_status = -8;
pub const EXT_RESOLVE: ext_status = -9;
pub const EXT_CONNECT: ext_status = -10;
pub const EXT_TLS: ext_status = -11;
pub const EXT_TIMEOUT: ext_status = -12;
pub const EXT_FAILED: ext_status = -13;
pub const EXT_STAGE: ext_status = -14;

// ---- Data ----

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ext_slice {
    pub ptr: *const u8,
    pub len: usize,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ext_buffer {
    pub ptr: *const u8,
    pub len: usize,
    pub owner: *mut c_void,
    pub release: Option<unsafe extern "C" fn(owner: *mut c_void, ptr: *const u8, len: usize)>,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ext_field {
    pub name: ext_slice,
    pub value: ext_slice,
}

// ---- Handles ----

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct ext_request {
    pub slot: u64,
    pub generation: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct ext_fetched {
    pub slot: u64,
    pub generation: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct ext_op {
    pub slot: u64,
    pub generation: u64,
}

/// Opaque: only ever seen behind a pointer.
#[repr(C)]
#[derive(Debug)]
pub struct ext_context {
    opaque: [u8; 0],
    neither_send_nor_moved: PhantomData<(*mut u8, PhantomPinned)>,
}

pub type ext_endpoint = u32;
pub type ext_base = u32;

// ---- Completions ----

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ext_result {
    pub struct_size: u32,
    pub status: ext_status,
    pub data: ext_buffer,
    pub fetched: ext_fetched,
    pub message: ext_slice,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ext_completion {
    pub function: Option<unsafe extern "C" fn(user: *mut c_void, result: *const ext_result)>,
    pub user: *mut c_void,
}

// ---- A request ----

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ext_accountability {
    pub user: ext_slice,
    pub role: ext_slice,
    pub roles: *const ext_slice,
    pub role_count: usize,
    pub ip: ext_slice,
    pub user_agent: ext_slice,
    pub origin: ext_slice,
    pub session: ext_slice,
    pub admin: u8,
    pub app: u8,
    pub reserved: [u8; 6],
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ext_request_head {
    pub struct_size: u32,
    pub http_version: u32,
    pub method: ext_slice,
    pub url: ext_slice,
    pub path: ext_slice,
    pub query: ext_slice,
    pub params: *const ext_field,
    pub param_count: usize,
    pub peer: ext_slice,
    pub id: ext_slice,
    pub deadline_ms: u64,
    pub body_length: i64,
    pub body: ext_buffer,
    pub accountability: ext_accountability,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ext_response {
    pub struct_size: u32,
    pub status: u32,
    pub headers: *const ext_field,
    pub header_count: usize,
    pub body: ext_buffer,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ext_error {
    pub struct_size: u32,
    pub status: u32,
    pub code: ext_slice,
    pub message: ext_slice,
    pub cause: ext_slice,
    pub flags: u32,
    pub reserved: u32,
}

pub const EXT_ERROR_PANIC: u32 = 1;

// ---- An outgoing call ----

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ext_fetch {
    pub struct_size: u32,
    pub flags: u32,
    pub base: ext_base,
    pub reserved: u32,
    pub method: ext_slice,
    pub target: ext_slice,
    pub headers: *const ext_field,
    pub header_count: usize,
    pub body: ext_buffer,
    pub request: ext_request,
    pub connect_ms: u64,
    pub first_byte_ms: u64,
    pub total_ms: u64,
}

pub const EXT_FETCH_TAKE_HEADERS: u32 = 1;
pub const EXT_FETCH_TAKE_BODY: u32 = 2;
pub const EXT_FETCH_STREAM_BODY: u32 = 4;
pub const EXT_FETCH_FOLLOW_REDIRECTS: u32 = 8;
pub const EXT_FETCH_DECOMPRESS: u32 = 16;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ext_fetched_head {
    pub struct_size: u32,
    pub status: u32,
    pub body_length: i64,
}

// ---- Callbacks ----

pub const EXT_ROUTE_BLOCKING: u32 = 1;
pub const EXT_ROUTE_WHOLE_BODY: u32 = 2;

pub const EXT_LOG_ERROR: u32 = 1;
pub const EXT_LOG_WARN: u32 = 2;
pub const EXT_LOG_INFO: u32 = 3;
pub const EXT_LOG_DEBUG: u32 = 4;
pub const EXT_LOG_TRACE: u32 = 5;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ext_callbacks {
    pub struct_size: u32,
    pub abi_minor: u32,

    pub get_interface: unsafe extern "C" fn(ctx: *mut ext_context, id: ext_slice) -> *const c_void,
    pub endpoint: unsafe extern "C" fn(
        ctx: *mut ext_context,
        id: ext_slice,
        endpoint: *mut ext_endpoint,
    ) -> ext_status,
    pub route: unsafe extern "C" fn(
        ctx: *mut ext_context,
        endpoint: ext_endpoint,
        method: ext_slice,
        pattern: ext_slice,
        flags: u32,
        route: *mut c_void,
    ) -> ext_status,
    pub refuse: unsafe extern "C" fn(ctx: *mut ext_context, message: ext_slice),
    pub env: unsafe extern "C" fn(
        ctx: *mut ext_context,
        name: ext_slice,
        value: *mut ext_slice,
    ) -> ext_status,
    pub log_enabled: unsafe extern "C" fn(ctx: *mut ext_context, level: u32) -> u32,
    pub log: unsafe extern "C" fn(
        ctx: *mut ext_context,
        request: ext_request,
        level: u32,
        message: ext_slice,
        fields: *const ext_field,
        field_count: usize,
    ),
    pub base: unsafe extern "C" fn(
        ctx: *mut ext_context,
        url: ext_slice,
        base: *mut ext_base,
    ) -> ext_status,

    pub head: unsafe extern "C" fn(request: ext_request) -> *const ext_request_head,
    pub header: unsafe extern "C" fn(
        request: ext_request,
        name: ext_slice,
        index: usize,
        value: *mut ext_slice,
    ) -> ext_status,
    pub headers: unsafe extern "C" fn(
        request: ext_request,
        fields: *mut *const ext_field,
        count: *mut usize,
    ) -> ext_status,
    pub read: unsafe extern "C" fn(request: ext_request, completion: ext_completion) -> ext_status,
    pub respond:
        unsafe extern "C" fn(request: ext_request, response: *const ext_response) -> ext_status,
    pub fail: unsafe extern "C" fn(request: ext_request, error: *const ext_error) -> ext_status,
    pub stream: unsafe extern "C" fn(request: ext_request, head: *const ext_response) -> ext_status,
    pub write: unsafe extern "C" fn(
        request: ext_request,
        chunk: ext_buffer,
        completion: ext_completion,
    ) -> ext_status,
    pub end: unsafe extern "C" fn(request: ext_request, status: ext_status) -> ext_status,
    pub relay: unsafe extern "C" fn(
        request: ext_request,
        fetched: ext_fetched,
        edits: *const ext_response,
    ) -> ext_status,
    pub drop: unsafe extern "C" fn(request: ext_request) -> ext_status,
    pub watch: unsafe extern "C" fn(request: ext_request, completion: ext_completion) -> ext_status,

    pub sleep: unsafe extern "C" fn(
        ctx: *mut ext_context,
        request: ext_request,
        ms: u64,
        completion: ext_completion,
        op: *mut ext_op,
    ) -> ext_status,
    pub post: unsafe extern "C" fn(
        ctx: *mut ext_context,
        request: ext_request,
        completion: ext_completion,
    ) -> ext_status,
    pub cancel: unsafe extern "C" fn(op: ext_op),

    pub fetch: unsafe extern "C" fn(
        ctx: *mut ext_context,
        fetch: *const ext_fetch,
        completion: ext_completion,
        op: *mut ext_op,
    ) -> ext_status,
    pub fetch_write: unsafe extern "C" fn(
        op: ext_op,
        chunk: ext_buffer,
        completion: ext_completion,
    ) -> ext_status,
    pub fetch_end: unsafe extern "C" fn(op: ext_op, status: ext_status) -> ext_status,
    pub fetched_head:
        unsafe extern "C" fn(fetched: ext_fetched, head: *mut ext_fetched_head) -> ext_status,
    pub fetched_header: unsafe extern "C" fn(
        fetched: ext_fetched,
        name: ext_slice,
        index: usize,
        value: *mut ext_slice,
    ) -> ext_status,
    pub fetched_headers: unsafe extern "C" fn(
        fetched: ext_fetched,
        fields: *mut *const ext_field,
        count: *mut usize,
    ) -> ext_status,
    pub fetched_read:
        unsafe extern "C" fn(fetched: ext_fetched, completion: ext_completion) -> ext_status,
    pub fetched_drop: unsafe extern "C" fn(fetched: ext_fetched) -> ext_status,
}

// ---- The entry ----

pub const EXT_MAGIC: u64 = 0x3154_534f_4854_5845;

pub const EXT_ENTRY_PANIC_ABORT: u32 = 1;
pub const EXT_ENTRY_OWNS_THREADS: u32 = 2;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ext_entry {
    pub magic: u64,
    pub struct_size: u32,
    pub abi_major: u32,
    pub abi_minor: u32,
    pub needs_minor: u32,
    pub flags: u32,
    pub reserved: u32,
    pub sdk: [u8; 32],

    pub create: Option<
        unsafe extern "C" fn(
            callbacks: *const ext_callbacks,
            ctx: *mut ext_context,
            instance: *mut *mut c_void,
        ) -> ext_status,
    >,
    pub handle: Option<
        unsafe extern "C" fn(instance: *mut c_void, route: *mut c_void, request: ext_request),
    >,
    pub stop: Option<unsafe extern "C" fn(instance: *mut c_void)>,
    pub destroy: Option<unsafe extern "C" fn(instance: *mut c_void)>,
}
