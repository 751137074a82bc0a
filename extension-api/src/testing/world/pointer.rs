//! [`Pointer`]: the extension's own pointers, which the host only hands back.
#![expect(unsafe_code, reason = "a raw pointer goes from thread to thread")]

use std::ffi::c_void;

/// A pointer that only the extension follows.
#[derive(Clone, Copy)]
pub(super) struct Pointer(pub(super) *mut c_void);

// SAFETY: nothing is read through it here; the extension's hooks may be called with it from any thread.
unsafe impl Send for Pointer {}
// SAFETY: as above.
unsafe impl Sync for Pointer {}
