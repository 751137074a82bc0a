//! UNSAFE: what the head of a request shows, and where that stands: for any thread to read.
#![expect(unsafe_code, reason = "slices of the ABI are raw pointers")]

use actix_http::RequestHead;
use extension_api::abi;

use crate::http::peer::{IpText, Peer};

/// What is read of a request: parts of the slot's local part, which stay where they are, unchanged, until the slot is recycled.
pub(super) struct HeadSources {
    pub(super) request: Kept<RequestHead>,
    pub(super) peer: Kept<Peer>,
}

impl HeadSources {
    /// Those of a slot that is free.
    pub(super) const NOTHING: Self = Self {
        request: Kept(std::ptr::null()),
        peer: Kept(std::ptr::null()),
    };
}

/// What the slot keeps in its local part, for any thread to read.
pub(super) struct Kept<T>(*const T);

// SAFETY: what it points at may be read by any thread, since it is Sync; who drops it, and when, is said at `of`.
unsafe impl<T: Sync> Send for Kept<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Kept<T> {}

impl<T: Sync> Kept<T> {
    /// Points at what the slot keeps.
    ///
    /// # Safety
    /// It stays where it is, unchanged, until the slot is recycled; that takes this out, too.
    pub(super) unsafe fn of(kept: &T) -> Self {
        Self(kept)
    }

    pub(super) fn get(&self) -> &T {
        // SAFETY: the promise of `of`. `self` is borrowed from the slot's shared part, and that is lent only to who keeps the
        // slot from being recycled: see `runtime::handle`. Before `of` it is NULL, and nobody has a handle.
        unsafe { self.0.as_ref() }.expect("a slot with a handle has been opened")
    }
}

/// A head as the ABI has it, and what it shows that stands nowhere else.
pub(super) struct Head {
    pub(super) raw: abi::ext_request_head,
    pub(super) _roles: Vec<abi::ext_slice>,
    pub(super) _ip: Option<Box<IpText>>,
    pub(super) _texts: [Option<Box<str>>; 2],
}

// SAFETY: the slices point at what stands beside them or in the slot, until that is recycled and this dropped before; it is read
// by the extension, by the rules of the header.
unsafe impl Send for Head {}
// SAFETY: as above.
unsafe impl Sync for Head {}

/// A route's parameters. Their values may point into the request's url, their names into the generation.
#[derive(Default)]
pub(super) struct Params(pub(super) Vec<abi::ext_field>);

// SAFETY: as for `Head`: the url and the generation outlive the request.
unsafe impl Send for Params {}
// SAFETY: as above.
unsafe impl Sync for Params {}
