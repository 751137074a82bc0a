//! The gate: decides from the library's file alone whether it may be loaded. Not a line of it has run then.
//!
//! The file is parsed as what it is (`file`: ELF, of which `dynamic` is the loader's part, Mach-O, PE), the symbol `extension_entry_v1` is followed to its bytes,
//! their fields are read (`entry`) and compared with what this host speaks (`check`). Nothing here trusts the file: a
//! damaged one is an answer, never a panic.

pub mod check;
mod dynamic;
pub mod entry;
mod file;
mod system;

pub use self::check::{check, check_copy, check_file};
pub use self::entry::{LibraryEntry, LibraryFacts};
pub use self::file::library_names;
