//! What one side of the boundary lends to the other: slices, structs and lists, with the lifetime that the header gives them.
#![expect(unsafe_code, reason = "raw pointers become lifetimes here")]

use std::hint::cold_path;

use crate::abi::{ext_field, ext_slice};

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
