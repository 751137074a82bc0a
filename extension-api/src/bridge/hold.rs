//! [`Hold`]: keeps a request from being finished, so that what the host lends of it can be read.
#![expect(
    unsafe_code,
    reason = "calls the host's functions, and reads what they lend"
)]

use std::ptr::{self, NonNull};
use std::sync::atomic::Ordering;

use super::lent::{ABSENT, Lent, LentList, bytes_of, slice};
use super::task::{FINISHED, HELD, TaskRef};
use crate::abi::*;

/// Keeps a request from being finished, so that what it lends can be read. One for each request.
pub(crate) struct Hold(TaskRef);

impl Hold {
    pub(super) fn new(task: TaskRef) -> Self {
        Self(task)
    }

    pub(crate) fn handle(&self) -> ext_request {
        self.0.handle()
    }

    pub(super) fn table(&self) -> &'static ext_callbacks {
        self.0.table()
    }

    fn raw_head(&self) -> NonNull<ext_request_head> {
        let kept = &self.0.header().head;
        let head = NonNull::new(kept.load(Ordering::Acquire)).or_else(|| {
            // SAFETY: `head` takes every handle.
            let head = unsafe { (self.table().head)(self.handle()) }.cast_mut();
            // Another thread may be doing the same: it is given the same.
            kept.store(head, Ordering::Release);
            NonNull::new(head)
        });
        head.expect("the host keeps the head of a request that is not finished")
    }

    pub(crate) fn head(&self) -> Lent<'_, ext_request_head> {
        // SAFETY: the head is lent until the request is finished, which waits for this hold to be dropped.
        unsafe { Lent::new(self.raw_head().as_ref()) }
    }

    pub(crate) fn header(&self, name: &str, index: usize) -> Option<&[u8]> {
        let mut value = ABSENT;
        // SAFETY: the name is lent for the call; `value` is ours to be written.
        let status = unsafe {
            (self.table().header)(self.handle(), slice(name.as_bytes()), index, &mut value)
        };
        if status != EXT_OK {
            return None;
        }
        // SAFETY: lent like the head.
        unsafe { bytes_of(value) }
    }

    pub(crate) fn headers(&self) -> LentList<'_, ext_field> {
        let (mut fields, mut count) = (ptr::null(), 0);
        // SAFETY: both are ours to be written.
        let status = unsafe { (self.table().headers)(self.handle(), &mut fields, &mut count) };
        if status != EXT_OK {
            return LentList::EMPTY;
        }
        // SAFETY: lent like the head.
        unsafe { LentList::new(fields, count) }
    }

    /// The whole body, on a route that has it read beforehand.
    pub(crate) fn whole_body(&self) -> &[u8] {
        let body = self.head().raw().body;
        // SAFETY: lent like the head.
        unsafe {
            bytes_of(ext_slice {
                ptr: body.ptr,
                len: body.len,
            })
        }
        .unwrap_or_default()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.0.clear(HELD) & FINISHED != 0 {
            self.0.abandon();
        }
    }
}
