//! UNSAFE: opens a library, always from a private copy, and never closes it.
//!
//! A private copy, because overwriting a loaded library kills the process, and opening a path that was replaced gives the
//! old code. Never closed, because `dlclose` of Rust code is not safe: a thread-local destructor may still point into it.
#![expect(unsafe_code, reason = "loading code cannot be checked by the compiler")]

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use extension_api::abi::ext_entry;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use super::copies::{Copies, PrivateCopy, TrialMark};
use super::error::Reason;
use super::gate::{self, LibraryFacts};
use super::open_fault::OpenFault;
use crate::platform::log::{self, Level};

/// How many libraries this process has mapped; none is ever let go.
static MAPPED: AtomicU64 = AtomicU64::new(0);

/// What is being opened, if anything is.
static OPENING: Mutex<Option<Opening>> = Mutex::new(None);

/// A library that is being opened. Until its initialisers have returned, the system's loader opens no other, and code that
/// needs the loader waits.
struct Opening {
    library: PathBuf,
    since: Instant,
    is_logged: bool,
}

/// How many libraries this process has mapped.
pub fn mapped() -> u64 {
    MAPPED.load(Ordering::Relaxed)
}

/// Whether a library is being opened. Says so, once, where that takes longer than `timeout`: for nothing can be done about it.
pub fn is_opening(timeout: Duration) -> bool {
    stuck(timeout);
    OPENING
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .is_some()
}

/// The library whose initialisers have not returned for longer than `timeout`, if there is one. Says so, once.
pub fn stuck(timeout: Duration) -> Option<PathBuf> {
    let mut opening = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
    let opening = opening.as_mut()?;
    if opening.since.elapsed() < timeout {
        return None;
    }
    if !std::mem::replace(&mut opening.is_logged, true) {
        log::event(
            Level::Error,
            "the initialisers of a library do not return, and nothing else is loaded until they do; if they never will, remove that extension and start the host again",
            &[("library", &opening.library.display())],
        );
    }
    Some(opening.library.clone())
}

fn opening(library: Option<&Path>) {
    let mut opening = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
    *opening = library.map(|library| Opening {
        library: library.to_owned(),
        since: Instant::now(),
        is_logged: false,
    });
}

/// A loaded library: its hooks, and what it says of itself.
pub struct LoadedLibrary {
    /// The hooks; what the library did not know is absent.
    pub entry: ext_entry,
    /// What the gate read from the file.
    pub about: gate::LibraryEntry,
    /// The file that the operator knows.
    pub library: PathBuf,
    /// The private copy.
    pub copy: PrivateCopy,
}

/// A private copy of a library that may be loaded; not a line of it has run. The drop removes it.
pub struct Checked {
    /// The file that the operator knows.
    library: PathBuf,
    copy: PrivateCopy,
    about: gate::LibraryEntry,
}

impl Checked {
    /// Takes a private copy of the library and checks it.
    ///
    /// # Errors
    /// Each reason for which a file is not an extension for this host.
    pub fn of(library: &Path, copies: &Copies, allow_panic_abort: bool) -> Result<Self, Reason> {
        gate::check_file(library)?;
        let (copy, content) = copies.of(library)?;
        let about = gate::check_copy(content, library, allow_panic_abort)?;
        Ok(Self {
            copy: copies.with_companions(copy, library, about.facts.looks_beside)?,
            library: library.to_owned(),
            about,
        })
    }

    /// Checks a copy that another process has taken, and that stays its own.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn again(library: &Path, copy: &Path, allow_panic_abort: bool) -> Result<Self, Reason> {
        let content = File::open(copy).map_err(|error| Reason::unreadable(copy, error))?;
        Ok(Self {
            about: gate::check_copy(content, library, allow_panic_abort)?,
            library: library.to_owned(),
            copy: PrivateCopy::of_another(copy.to_owned()),
        })
    }

    /// The file that the operator knows.
    pub fn library(&self) -> &Path {
        &self.library
    }

    /// The private copy.
    pub fn copy(&self) -> &Path {
        self.copy.path()
    }

    /// Notes that the copy has passed a trial.
    pub fn mark_passed(&mut self, copies: &Copies, mark: TrialMark) {
        copies.mark(&mut self.copy, mark);
    }

    /// The inode of the private copy, by which addresses in its code are known; 0: the system does not say.
    pub fn inode(&self) -> u64 {
        self.copy().metadata().map_or(0, |about| about.ino())
    }

    /// Loads it.
    ///
    /// # Errors
    /// Where the system's loader does not want it.
    pub fn open(self) -> Result<LoadedLibrary, Reason> {
        Ok(LoadedLibrary {
            entry: open(&self.library, &self.copy, &self.about.facts)?,
            about: self.about,
            library: self.library,
            copy: self.copy,
        })
    }
}

fn open(library: &Path, copy: &PrivateCopy, facts: &LibraryFacts) -> Result<ext_entry, Reason> {
    let failed = |cause: libloading::Error| {
        // What the loader said stands in the source alone.
        let said = std::error::Error::source(&cause).map_or(cause.to_string(), ToString::to_string);
        let text = copy.as_known(&said, library);
        Reason::OpenFailed {
            library: library.to_owned(),
            fault: OpenFault::of(&text, copy.path(), &facts.needed),
            text,
        }
    };
    opening(Some(library));
    // SAFETY: the file is a library for this machine that exports an entry of our ABI; running its initialisers is what the
    // operator asked for by putting it in the folder (see the trust model in ARCHITECTURE.md).
    let opened = unsafe { Library::open(Some(copy.path()), RTLD_NOW | RTLD_LOCAL) };
    opening(None);
    let opened = opened.map_err(failed)?;
    // SAFETY: the gate found the symbol in the file, as data with our magic; it is a constant, initialised `ext_entry` of at
    // least the size that the gate asks for.
    let entry = unsafe {
        let symbol = opened
            .get::<*const ext_entry>(b"extension_entry_v1\0")
            .map_err(failed)?;
        let mut entry = std::mem::MaybeUninit::<ext_entry>::zeroed();
        let size = ((**symbol).struct_size as usize).min(size_of::<ext_entry>());
        std::ptr::copy_nonoverlapping(
            (*symbol).cast::<u8>(),
            entry.as_mut_ptr().cast::<u8>(),
            size,
        );
        // All zero is a value of every field: numbers, bytes, and hooks that are absent.
        entry.assume_init()
    };
    MAPPED.fetch_add(1, Ordering::Relaxed);
    std::mem::forget(opened);
    Ok(entry)
}
