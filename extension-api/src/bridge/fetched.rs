//! [`FetchedHandle`]: the answer to a fetch, which is given up when nobody relays it.
#![expect(unsafe_code, reason = "calls the host's functions")]

use std::mem::ManuallyDrop;
use std::ptr;

use super::lent::{ABSENT, LentList, bytes_of, slice, struct_size};
use crate::abi::{EXT_OK, ext_callbacks, ext_fetched, ext_fetched_head, ext_field};

/// The answer to a fetch, which is given up when this is dropped.
pub(crate) struct FetchedHandle {
    table: &'static ext_callbacks,
    fetched: ext_fetched,
}

impl FetchedHandle {
    /// # Safety
    ///
    /// `fetched` must be zero, or an answer that is the caller's to end.
    pub(super) unsafe fn from_raw(
        table: &'static ext_callbacks,
        fetched: ext_fetched,
    ) -> Option<Self> {
        let is_zero = fetched.slot == 0 && fetched.generation == 0;
        (!is_zero).then_some(Self { table, fetched })
    }

    /// Gives the answer away, to `relay`.
    pub(super) fn into_raw(self) -> ext_fetched {
        ManuallyDrop::new(self).fetched
    }

    pub(super) fn table(&self) -> &'static ext_callbacks {
        self.table
    }

    pub(super) fn raw(&self) -> ext_fetched {
        self.fetched
    }

    /// Status and length of the body, where it is known.
    pub(crate) fn head(&self) -> (u16, Option<u64>) {
        let mut head = ext_fetched_head {
            struct_size: struct_size::<ext_fetched_head>(),
            status: 0,
            body_length: -1,
        };
        // SAFETY: `head` is ours to be written, and says its size.
        unsafe { (self.table.fetched_head)(self.fetched, &mut head) };
        (head.status as u16, u64::try_from(head.body_length).ok())
    }

    pub(crate) fn header(&self, name: &str, index: usize) -> Option<&[u8]> {
        let mut value = ABSENT;
        // SAFETY: the name is lent for the call; `value` is ours to be written.
        let status = unsafe {
            (self.table.fetched_header)(self.fetched, slice(name.as_bytes()), index, &mut value)
        };
        if status != EXT_OK {
            return None;
        }
        // SAFETY: lent until `relay` or `fetched_drop`, which both take or drop `self`.
        unsafe { bytes_of(value) }
    }

    pub(crate) fn headers(&self) -> LentList<'_, ext_field> {
        let (mut fields, mut count) = (ptr::null(), 0);
        // SAFETY: both are ours to be written.
        let status = unsafe { (self.table.fetched_headers)(self.fetched, &mut fields, &mut count) };
        if status != EXT_OK {
            return LentList::EMPTY;
        }
        // SAFETY: lent until `relay` or `fetched_drop`, which both take or drop `self`.
        unsafe { LentList::new(fields, count) }
    }
}

impl Drop for FetchedHandle {
    fn drop(&mut self) {
        // SAFETY: takes every handle; ours has not been given away, or `into_raw` would have kept `drop` from it.
        unsafe { (self.table.fetched_drop)(self.fetched) };
    }
}
