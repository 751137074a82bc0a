//! [`Bytes`]: a body, or a part of one, that travels without being copied.
#![expect(
    unsafe_code,
    reason = "owns memory of either side and releases it once"
)]

use std::borrow::Cow;
use std::ffi::c_void;
use std::fmt;
use std::mem::{self, ManuallyDrop};
use std::ops::Deref;
use std::ptr;

use crate::abi::ext_buffer;

/// Bytes that travel between host and extension without being copied: a chunk of a body, or all of it.
///
/// Made from a `Vec<u8>`, a `String` or constant data; read as a `&[u8]`.
pub struct Bytes(ext_buffer);

// SAFETY: the bytes do not change while the buffer lives, and the contract lets `release` be called from any thread.
unsafe impl Send for Bytes {}
// SAFETY: a shared `Bytes` can only be read.
unsafe impl Sync for Bytes {}

impl Bytes {
    /// No bytes.
    pub const fn new() -> Self {
        Self::from_static(&[])
    }

    /// Constant data, which is neither copied nor freed.
    pub const fn from_static(bytes: &'static [u8]) -> Self {
        Self(ext_buffer {
            ptr: bytes.as_ptr(),
            len: bytes.len(),
            owner: ptr::null_mut(),
            release: None,
        })
    }

    /// Takes over what the other side gave.
    ///
    /// # Safety
    ///
    /// `buffer` must have been given, so that releasing it is up to the caller, who does not use it again.
    pub(crate) unsafe fn from_raw(buffer: ext_buffer) -> Self {
        Self(buffer)
    }

    /// Gives the bytes to the other side, which releases them.
    pub(crate) fn into_raw(self) -> ext_buffer {
        ManuallyDrop::new(self).0
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        if let Some(release) = self.0.release {
            // SAFETY: a `Bytes` owns its buffer, and drops once; `into_raw` keeps it from coming here.
            unsafe { release(self.0.owner, self.0.ptr, self.0.len) }
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        if self.0.len == 0 {
            return &[];
        }
        // SAFETY: a buffer that is not empty has `len` readable bytes, unchanged until it is released in `drop`.
        unsafe { std::slice::from_raw_parts(self.0.ptr, self.0.len) }
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Default for Bytes {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.escape_ascii())
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(mut vec: Vec<u8>) -> Self {
        if vec.capacity() == 0 {
            return Self::new();
        }
        let (ptr, len, capacity) = (vec.as_mut_ptr(), vec.len(), vec.capacity());
        mem::forget(vec);
        // The capacity travels in the owner's place: freeing a Vec takes nothing else that is not in the buffer.
        Self(ext_buffer {
            ptr,
            len,
            owner: ptr::without_provenance_mut(capacity),
            release: Some(FREE_VEC),
        })
    }
}

const FREE_VEC: unsafe extern "C" fn(*mut c_void, *const u8, usize) = free_vec;

unsafe extern "C" fn free_vec(capacity: *mut c_void, ptr: *const u8, len: usize) {
    // SAFETY: only `From<Vec<u8>>` names this function, with the three parts of a Vec that it forgot; called once.
    drop(unsafe { Vec::from_raw_parts(ptr.cast_mut(), len, capacity.addr()) });
}

impl From<String> for Bytes {
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

impl From<&'static str> for Bytes {
    fn from(text: &'static str) -> Self {
        Self::from_static(text.as_bytes())
    }
}

impl From<&'static [u8]> for Bytes {
    fn from(bytes: &'static [u8]) -> Self {
        Self::from_static(bytes)
    }
}

impl From<Cow<'static, str>> for Bytes {
    fn from(text: Cow<'static, str>) -> Self {
        match text {
            Cow::Borrowed(text) => text.into(),
            Cow::Owned(text) => text.into(),
        }
    }
}

impl From<Bytes> for Vec<u8> {
    fn from(bytes: Bytes) -> Self {
        if bytes
            .0
            .release
            .is_some_and(|release| ptr::fn_addr_eq(release, FREE_VEC))
        {
            let raw = bytes.into_raw();
            // SAFETY: made by `From<Vec<u8>>` of this very library, and not released: `into_raw` kept `drop` from it.
            return unsafe { Vec::from_raw_parts(raw.ptr.cast_mut(), raw.len, raw.owner.addr()) };
        }
        bytes.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vec_goes_through_without_being_copied() {
        let mut vec = Vec::with_capacity(100);
        vec.extend_from_slice(b"hello");
        let at = vec.as_ptr();
        let bytes = Bytes::from(vec);
        assert_eq!(&*bytes, b"hello");
        assert_eq!(bytes.as_ptr(), at);
        let vec = Vec::from(bytes);
        assert_eq!((vec.as_ptr(), vec.capacity()), (at, 100));
    }

    #[test]
    fn constant_and_empty_bytes_are_never_released() {
        assert!(Bytes::from("hello").into_raw().release.is_none());
        assert!(Bytes::from(Vec::new()).into_raw().release.is_none());
        drop(Bytes::from(String::with_capacity(10)));
    }
}
