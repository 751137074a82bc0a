//! The entry of a library as it stands in the file: its fields, read by their offsets in `ext_entry`.

use std::mem::offset_of;
use std::path::Path;

use extension_api::abi::{
    EXT_ABI_MAJOR, EXT_ENTRY_OWNS_THREADS, EXT_ENTRY_PANIC_ABORT, EXT_MAGIC, ext_entry,
};

use crate::extension::error::Reason;

/// The bytes of the entry before its hooks: the same in every version of the ABI.
const HEAD_BYTES: usize = offset_of!(ext_entry, create);
/// The size of the whole entry of version 1.0, the last of its hooks included: what lies beyond came later.
pub const ENTRY_BYTES_MIN: usize = offset_of!(ext_entry, destroy) + size_of::<usize>();

/// What a library says about itself in its entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LibraryEntry {
    /// The ABI that it was built for.
    pub abi_major: u32,
    /// The minor version of the header that it was built with; for messages only.
    pub abi_minor: u32,
    /// The least minor version that it cannot do without.
    pub needs_minor: u32,
    /// All its flags, unknown ones included.
    pub flags: u32,
    /// What it was built with; for messages only.
    pub sdk: String,
    /// What else of its file matters.
    pub facts: LibraryFacts,
}

/// What of a library's file decides how it can be loaded, and loaded again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LibraryFacts {
    /// The first of its symbols that the process has once, whatever is loaded later (STB_GNU_UNIQUE): in C++ the statics of
    /// inline functions and templates.
    pub unique_symbol: Option<String>,
    /// Whether it has thread-locals in the small space that is laid out when a thread starts (DF_STATIC_TLS).
    pub has_static_tls: bool,
    /// The libraries that it needs.
    pub needed: Vec<String>,
    /// Whether it looks for some of them beside itself ($ORIGIN).
    pub looks_beside: bool,
}

impl LibraryFacts {
    /// What an operator has to know who replaces the library while the host runs.
    pub fn warnings(&self) -> Vec<String> {
        let unique = self.unique_symbol.as_ref().map(|symbol| format!(
            "its library has statics that the process keeps once for all builds (STB_GNU_UNIQUE, the first is {symbol}): a new build works on those of the build before; build it with -fno-gnu-unique, or restart the host for each build"
        ));
        let static_tls = self.has_static_tls.then(|| "its library has thread-locals of the initial-exec model (DF_STATIC_TLS), whose space is small and never given back: after some reloads the system loads no further build until the host is restarted; build it without -ftls-model=initial-exec".to_owned());
        unique.into_iter().chain(static_tls).collect()
    }
}

impl LibraryEntry {
    /// Whether a panic in it ends the process.
    pub fn panics_abort(&self) -> bool {
        self.flags & EXT_ENTRY_PANIC_ABORT != 0
    }

    /// Whether it starts threads of its own.
    pub fn owns_threads(&self) -> bool {
        self.flags & EXT_ENTRY_OWNS_THREADS != 0
    }
}

/// Reads the fields by their offsets in `ext_entry`. The major version is not looked at, but for where it decides whether
/// the rest can be read: the head is the same in every version, the size is that of this one.
pub fn decode(bytes: &[u8], library: &Path) -> Result<LibraryEntry, Reason> {
    let number = |at: usize| {
        bytes
            .get(at..at + 4)
            .and_then(|bytes| Some(u32::from_ne_bytes(bytes.try_into().ok()?)))
    };
    let magic = bytes
        .get(..8)
        .and_then(|bytes| Some(u64::from_ne_bytes(bytes.try_into().ok()?)));
    if magic != Some(EXT_MAGIC) {
        return Err(Reason::BadMagic {
            library: library.to_owned(),
        });
    }
    let stated = number(offset_of!(ext_entry, struct_size)).unwrap_or(0);
    let too_small = |found| Reason::EntryTooSmall {
        library: library.to_owned(),
        found,
        least: ENTRY_BYTES_MIN as u32,
    };
    let (Some(abi_major), Some(abi_minor), Some(needs_minor), Some(flags), Some(sdk)) = (
        number(offset_of!(ext_entry, abi_major)),
        number(offset_of!(ext_entry, abi_minor)),
        number(offset_of!(ext_entry, needs_minor)),
        number(offset_of!(ext_entry, flags)),
        bytes.get(offset_of!(ext_entry, sdk)..HEAD_BYTES),
    ) else {
        return Err(too_small(bytes.len() as u32));
    };
    // What another major version puts after the head is not for this one to judge.
    let whole = stated.min(bytes.len() as u32);
    if abi_major == EXT_ABI_MAJOR && (whole as usize) < ENTRY_BYTES_MIN {
        return Err(too_small(whole));
    }
    let sdk = sdk.split(|byte| *byte == 0).next().unwrap_or_default();
    let sdk = String::from_utf8_lossy(sdk)
        .chars()
        .filter(|char| !char.is_control())
        .collect();
    Ok(LibraryEntry {
        abi_major,
        abi_minor,
        needs_minor,
        flags,
        sdk,
        facts: LibraryFacts::default(),
    })
}
