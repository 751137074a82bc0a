//! UNSAFE: headers as fields of the ABI, for every thread to read.
#![expect(unsafe_code, reason = "slices of the ABI are raw pointers")]

use actix_http::header::HeaderMap;
use extension_api::abi;

use crate::runtime::ffi_out;

/// Fields whose slices point into headers that stand beside them, in the same slot.
pub struct Fields(Vec<abi::ext_field>);

// SAFETY: the slices point into headers of the slot's shared part, which are not changed before the fields are taken out; see
// `runtime::handle`. They are only read.
unsafe impl Send for Fields {}
// SAFETY: as above.
unsafe impl Sync for Fields {}

impl Fields {
    /// Each line of the headers as a field.
    pub fn of(headers: &HeaderMap) -> Self {
        Self(ffi_out::fields(headers))
    }

    /// All of them.
    pub fn all(&self) -> &[abi::ext_field] {
        &self.0
    }
}
