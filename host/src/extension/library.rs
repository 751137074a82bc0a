//! UNSAFE: opens a library, always from a private copy, and never closes it.
//!
//! A private copy, because overwriting a loaded library kills the process, and opening a path that was replaced gives the
//! old code. Never closed, because `dlclose` of Rust code is not safe: a thread-local destructor may still point into it.
#![expect(unsafe_code, reason = "loading code cannot be checked by the compiler")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::{io, process};

use extension_api::abi::ext_entry;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use super::error::Reason;
use super::gate;

/// How many libraries this process has mapped; none is ever let go.
static MAPPED: AtomicU64 = AtomicU64::new(0);

/// The folder for private copies. Not removed by a drop: threads that an extension has left over keep the host alive.
pub struct Copies {
    folder: PathBuf,
    next: AtomicU64,
}

impl Copies {
    /// Makes the folder, and removes those that hosts that were killed have left.
    ///
    /// # Errors
    /// Where the system's folder for temporary files cannot be written.
    pub fn new() -> Result<Self, (PathBuf, io::Error)> {
        const PREFIX: &str = "extension-host-";
        let parent = std::env::temp_dir();
        for left in fs::read_dir(&parent).into_iter().flatten().flatten() {
            let name = left.file_name();
            let owner = name
                .to_str()
                .and_then(|name| name.strip_prefix(PREFIX))
                .and_then(|rest| rest.split('-').next());
            let owner = owner.and_then(|pid| pid.parse::<u32>().ok());
            if owner.is_some_and(|pid| {
                cfg!(target_os = "linux") && !Path::new(&format!("/proc/{pid}")).exists()
            }) {
                // What cannot be removed is another user's.
                let _ = fs::remove_dir_all(left.path());
            }
        }
        let unique = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos();
        let folder = parent.join(format!("{PREFIX}{}-{unique:x}", process::id()));
        let mut builder = fs::DirBuilder::new();
        // Nobody else may put a library there.
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        match builder.create(&folder) {
            Ok(()) => Ok(Self {
                folder,
                next: AtomicU64::new(1),
            }),
            Err(cause) => Err((folder, cause)),
        }
    }

    /// Removes the folder: at the end, when nothing is loaded any more. What is mapped stays mapped.
    pub fn remove(&self) {
        // Nothing depends on it; the next host tries again.
        let _ = fs::remove_dir_all(&self.folder);
    }

    /// The path of the next copy.
    fn next(&self, library: &Path) -> PathBuf {
        let name = library.file_name().unwrap_or_default().to_string_lossy();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.folder.join(format!("{number}-{name}"))
    }
}

/// How many libraries this process has mapped.
pub fn mapped() -> u64 {
    MAPPED.load(Ordering::Relaxed)
}

/// A loaded library: its hooks, and what it says of itself.
pub struct Loaded {
    /// The hooks; what the library did not know is absent.
    pub entry: ext_entry,
    /// What the gate read from the file.
    pub about: gate::Entry,
    /// The private copy.
    pub copy: PathBuf,
}

/// A private copy of a library that may be loaded; not a line of it has run. Removed by a drop, unless it is opened.
pub struct Checked {
    /// The file that the operator knows.
    library: PathBuf,
    copy: Option<PathBuf>,
    about: Option<gate::Entry>,
}

impl Checked {
    /// Takes a private copy of the library and checks it.
    ///
    /// # Errors
    /// Each reason for which a file is not an extension for this host.
    pub fn of(library: &Path, copies: &Copies, allow_panic_abort: bool) -> Result<Self, Reason> {
        gate::check_file(library)?;
        let copy = copies.next(library);
        let mut checked = Self {
            library: library.to_owned(),
            copy: Some(copy.clone()),
            about: None,
        };
        let content = copied(library, &copy).map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => Reason::NoPermission {
                path: library.to_owned(),
            },
            _ => Reason::CannotCopy {
                library: library.to_owned(),
                to: copy,
                source,
            },
        })?;
        checked.about = Some(gate::check_copy(content, library, allow_panic_abort)?);
        Ok(checked)
    }

    /// Loads it.
    ///
    /// # Errors
    /// Where the system's loader does not want it.
    pub fn open(mut self) -> Result<Loaded, Reason> {
        let copy = self.copy.take().expect("only a drop takes it, too");
        let about = self.about.take().expect("`of` sets it");
        open(&self.library, copy, about)
    }
}

impl Drop for Checked {
    fn drop(&mut self) {
        if let Some(copy) = &self.copy {
            // It would only fill the disk.
            let _ = fs::remove_file(copy);
        }
    }
}

/// Copies a file into a new one, by the kernel alone where it can; what comes back is open for reading.
fn copied(from: &Path, to: &Path) -> io::Result<File> {
    let mut from = File::open(from)?;
    let mut to = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(to)?;
    io::copy(&mut from, &mut to)?;
    Ok(to)
}

fn open(library: &Path, copy: PathBuf, about: gate::Entry) -> Result<Loaded, Reason> {
    let failed = |cause: libloading::Error| {
        // What the loader said stands in the source alone.
        let said = std::error::Error::source(&cause).map_or(cause.to_string(), ToString::to_string);
        let text = said.replace(&*copy.to_string_lossy(), &library.to_string_lossy());
        Reason::OpenFailed {
            library: library.to_owned(),
            text,
        }
    };
    // SAFETY: the file is a library for this machine that exports an entry of our ABI; running its initialisers is what the
    // operator asked for by putting it in the folder (see the trust model in ARCHITECTURE.md).
    let opened = unsafe { Library::open(Some(&copy), RTLD_NOW | RTLD_LOCAL) }.map_err(failed)?;
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
    Ok(Loaded { entry, about, copy })
}
