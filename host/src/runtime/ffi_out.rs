//! Slices of the ABI made from Rust's.

use actix_http::header::HeaderMap;
use extension_api::abi::{ext_buffer, ext_field, ext_slice};

/// No bytes.
pub const EMPTY_BUFFER: ext_buffer = ext_buffer {
    ptr: std::ptr::null(),
    len: 0,
    owner: std::ptr::null_mut(),
    release: None,
};

/// Nothing there.
pub const ABSENT: ext_slice = ext_slice {
    ptr: std::ptr::null(),
    len: 0,
};

/// Bytes, lent for as long as they stay where they are.
pub fn bytes(bytes: &[u8]) -> ext_slice {
    ext_slice {
        ptr: bytes.as_ptr(),
        len: bytes.len(),
    }
}

/// Text.
pub fn text(text: &str) -> ext_slice {
    bytes(text.as_bytes())
}

/// Text, or nothing.
pub fn option(value: Option<&str>) -> ext_slice {
    option_bytes(value.map(str::as_bytes))
}

/// Bytes, or nothing.
pub fn option_bytes(value: Option<&[u8]>) -> ext_slice {
    value.map_or(ABSENT, bytes)
}

/// All headers, each line a field of its own.
pub fn fields(headers: &HeaderMap) -> Vec<ext_field> {
    headers
        .iter()
        .map(|(name, value)| ext_field {
            name: text(name.as_str()),
            value: bytes(value.as_bytes()),
        })
        .collect()
}
