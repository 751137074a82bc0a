//! The raw boundary made safe, once.
//!
//! Everything above this module is safe code. What is unsafe about the boundary is said here, by noun:
//! [`Lent`] for what the host lends, [`Bytes`] for what is given either way, [`Host`] for the callbacks, [`Op`] for
//! whatever takes time, [`task`] for an author's future; [`guarded`] keeps a panic from crossing.
#![expect(unsafe_code, reason = "raw pointers become lifetimes here")]

mod bytes;
mod host;
mod op;
pub(crate) mod task;
pub(crate) mod thread;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::hint::cold_path;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use crate::abi::{ext_field, ext_slice};

pub use bytes::Bytes;
pub(crate) use host::{FetchedHandle, Host, Outgoing, Outlet};
pub(crate) use op::{Op, Outcome};

/// The size of a struct as its `struct_size` says it.
pub(crate) const fn struct_size<T>() -> u32 {
    size_of::<T>() as u32
}

pub(crate) const ABSENT: ext_slice = ext_slice {
    ptr: std::ptr::null(),
    len: 0,
};

/// Lends bytes to the host: for the call in which the slice is an argument.
pub(crate) fn slice(bytes: &[u8]) -> ext_slice {
    ext_slice {
        ptr: bytes.as_ptr(),
        len: bytes.len(),
    }
}

/// The bytes of a slice; `None` where it is absent.
///
/// # Safety
///
/// The slice must be readable, and unchanged, for `'a`.
pub(crate) unsafe fn bytes_of<'a>(slice: ext_slice) -> Option<&'a [u8]> {
    match slice {
        ext_slice { ptr, .. } if ptr.is_null() => None,
        ext_slice { len: 0, .. } => Some(&[]),
        // SAFETY: readable and unchanged for 'a, says the caller; neither NULL nor empty, say the arms above.
        ext_slice { ptr, len } => Some(unsafe { std::slice::from_raw_parts(ptr, len) }),
    }
}

// ---- What the host lends ----

/// A struct of the host's, lent for `'a` with every slice and list in it.
pub(crate) struct Lent<'a, T>(&'a T);

impl<T> Clone for Lent<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Lent<'_, T> {}

impl<'a, T> Lent<'a, T> {
    /// # Safety
    ///
    /// Every slice and every list in `raw` must be readable, and unchanged, for `'a`.
    pub(crate) unsafe fn new(raw: &'a T) -> Self {
        Self(raw)
    }

    /// The struct itself, for its numbers.
    pub(crate) fn raw(self) -> &'a T {
        self.0
    }

    /// A struct within the struct.
    pub(crate) fn part<U>(self, pick: fn(&T) -> &U) -> Lent<'a, U> {
        Lent(pick(self.0))
    }

    /// The bytes of one of its slices; `None` where it is absent.
    pub(crate) fn bytes(self, pick: fn(&T) -> &ext_slice) -> Option<&'a [u8]> {
        // SAFETY: a slice of a lent struct is readable for 'a; that was promised to `new`.
        unsafe { bytes_of(*pick(self.0)) }
    }

    /// One of its slices as text; `None` where it is absent or not UTF-8.
    pub(crate) fn text(self, pick: fn(&T) -> &ext_slice) -> Option<&'a str> {
        std::str::from_utf8(self.bytes(pick)?).ok()
    }

    /// One of its lists: a pointer and a count.
    pub(crate) fn list<U>(self, pick: fn(&T) -> (&*const U, &usize)) -> LentList<'a, U> {
        let (items, count) = pick(self.0);
        // SAFETY: a list of a lent struct is readable for 'a; that was promised to `new`.
        unsafe { LentList::new(*items, *count) }
    }
}

/// A list of the host's, lent for `'a` with every slice in it.
pub(crate) struct LentList<'a, T>(&'a [T]);

impl<T> Clone for LentList<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for LentList<'_, T> {}

impl<'a, T> LentList<'a, T> {
    pub(crate) const EMPTY: Self = Self(&[]);

    /// # Safety
    ///
    /// `count` items at `items`, and every slice in them, must be readable, and unchanged, for `'a`.
    pub(crate) unsafe fn new(items: *const T, count: usize) -> Self {
        if items.is_null() || count == 0 {
            return Self::EMPTY;
        }
        // SAFETY: `count` items are readable for 'a, says the caller; not NULL, says the line above.
        Self(unsafe { std::slice::from_raw_parts(items, count) })
    }

    pub(crate) fn len(self) -> usize {
        self.0.len()
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Lent<'a, T>> {
        self.0.iter().map(Lent)
    }
}

// SAFETY: lent memory is unchanged while it is lent, so it may be read from every thread.
unsafe impl<T> Send for Lent<'_, T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Lent<'_, T> {}
// SAFETY: as above.
unsafe impl<T> Send for LentList<'_, T> {}
// SAFETY: as above.
unsafe impl<T> Sync for LentList<'_, T> {}

/// Lends name and value pairs to the host for the time of `call`; a value of `None` is absent. A few need no allocation.
pub(crate) fn with_fields<'a, R>(
    pairs: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>,
    call: impl FnOnce(&[ext_field]) -> R,
) -> R {
    const FEW: usize = 8;
    let mut few = [ext_field {
        name: ABSENT,
        value: ABSENT,
    }; FEW];
    let mut many = Vec::new();
    let mut count = 0;
    for (name, value) in pairs {
        let field = ext_field {
            name: slice(name.as_bytes()),
            value: value.map_or(ABSENT, slice),
        };
        if count < FEW {
            few[count] = field;
        } else {
            cold_path();
            if many.is_empty() {
                many.extend_from_slice(&few);
            }
            many.push(field);
        }
        count += 1;
    }
    call(if count <= FEW { &few[..count] } else { &many })
}

// ---- Panics ----

/// What a panic said, and where.
pub(crate) struct Panic(pub(crate) String);

/// Calls code of the author's; a panic ends here.
pub(crate) fn guarded<R>(call: impl FnOnce() -> R) -> Result<R, Panic> {
    GUARDS.set(GUARDS.get() + 1);
    // Unwind safety: whoever may see the closure's state after a panic drops it, and nothing else.
    let result = panic::catch_unwind(AssertUnwindSafe(call));
    GUARDS.set(GUARDS.get() - 1);
    result.map_err(|payload| Panic(panic_text(payload)))
}

#[cold]
fn panic_text(payload: Box<dyn Any + Send>) -> String {
    let message = match (
        payload.downcast_ref::<&str>(),
        payload.downcast_ref::<String>(),
    ) {
        (Some(message), _) => message,
        (_, Some(message)) => message.as_str(),
        (None, None) => "a value that is not text",
    };
    let text = match PLACE.try_with(RefCell::take) {
        Ok(Some(place)) => format!("panicked at {place}: {message}"),
        _ => format!("panicked: {message}"),
    };
    // A payload of the author's own type may panic when it is dropped; the second one is leaked.
    if let Err(second) = panic::catch_unwind(AssertUnwindSafe(move || drop(payload))) {
        std::mem::forget(second);
    }
    text
}

thread_local! {
    static GUARDS: Cell<u32> = const { Cell::new(0) };
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Notes where a guarded panic happened, instead of printing it: it becomes a log line of the host. Other panics, on
/// threads of the author's own, are printed as ever. The hook belongs to this library's copy of std, not to the host.
pub(crate) fn note_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if GUARDS.try_with(Cell::get).unwrap_or(0) == 0 {
                return before(info);
            }
            let place = info.location().map(ToString::to_string);
            let _ = PLACE.try_with(|noted| noted.replace(place));
        }));
    });
}
