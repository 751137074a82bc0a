//! UNSAFE: bytes that change hands between host and extension without a copy.
#![expect(
    unsafe_code,
    reason = "the buffers of the ABI are raw pointers; the header says who releases them"
)]

use std::ffi::c_void;

use bytes::Bytes;
use extension_api::abi;

use crate::runtime::{contract_checks, ffi_out};

/// Hands bytes to an extension without copying them.
pub fn give(data: Bytes) -> abi::ext_buffer {
    if data.is_empty() {
        return ffi_out::EMPTY_BUFFER;
    }
    let (ptr, len) = (data.as_ptr(), data.len());
    let owner = Box::into_raw(Box::new(data)).cast::<c_void>();
    contract_checks::note_buffer_given(owner as usize);
    abi::ext_buffer {
        ptr,
        len,
        owner,
        release: Some(release),
    }
}

unsafe extern "C" fn release(owner: *mut c_void, _ptr: *const u8, _len: usize) {
    if !contract_checks::note_buffer_released(owner as usize) {
        return;
    }
    // SAFETY: `owner` came from `give`, and the receiver releases once.
    drop(unsafe { Box::from_raw(owner.cast::<Bytes>()) });
}

/// Takes bytes over from an extension without copying them; they are released when the last use of them ends.
///
/// # Safety
/// The buffer was given by the rules of the header: its memory stays unchanged until it is released.
pub unsafe fn take(buffer: abi::ext_buffer) -> Bytes {
    struct ForeignBuffer(abi::ext_buffer);
    // SAFETY: a given buffer may be read and released on every thread (header).
    unsafe impl Send for ForeignBuffer {}
    // SAFETY: as above; it is only read.
    unsafe impl Sync for ForeignBuffer {}
    impl AsRef<[u8]> for ForeignBuffer {
        fn as_ref(&self) -> &[u8] {
            // SAFETY: the caller's promise: unchanged and alive until it is released, in `drop`.
            unsafe { std::slice::from_raw_parts(self.0.ptr, self.0.len) }
        }
    }
    impl Drop for ForeignBuffer {
        fn drop(&mut self) {
            if let Some(release) = self.0.release {
                // SAFETY: released once, here.
                unsafe { release(self.0.owner, self.0.ptr, self.0.len) };
            }
        }
    }
    let foreign = ForeignBuffer(buffer);
    if buffer.len == 0 || buffer.ptr.is_null() {
        return Bytes::new();
    }
    if buffer.release.is_none() {
        // SAFETY: without a release function the bytes are constant for the life of the process (header).
        return Bytes::from_static(unsafe { std::slice::from_raw_parts(buffer.ptr, buffer.len) });
    }
    Bytes::from_owner(foreign)
}
