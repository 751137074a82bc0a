//! Folders in the system's folder for temporary files. A process locks its folder for as long as it lives, so that a folder
//! that a killed process left can be told from one in use.

use std::collections::hash_map::RandomState;
use std::fs::{self, DirBuilder, File, Metadata};
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::platform::fnv::Fnv;

/// Each name begins with this; a word and sixteen hexadecimal digits follow.
const PREFIX: &str = "extension-host";
/// The word for a folder that the next process takes over.
const KEPT: &str = "copies";
/// The word for copies of libraries that nobody needs when the process has ended.
pub const ONCE: &str = "once";
/// The word for links to extensions that are developed.
pub const DEV: &str = "dev";
/// Folders with these words are of no use when their process has ended.
const TEMPORARY: [&str; 2] = [ONCE, DEV];
/// Only the owner may read and write.
const MODE: u32 = 0o700;

/// A folder of this process. A drop does not remove it.
pub struct Scratch {
    path: PathBuf,
    /// The system releases it with the process, however that ends. `None`: the file system has no locks, and nobody will take
    /// the folder over.
    lock: Mutex<Option<File>>,
    /// It was removed for good. Changed under the lock.
    is_over: AtomicBool,
}

impl Scratch {
    /// Makes a folder for a purpose, one of the words above, and removes those that ended processes of this user left.
    ///
    /// # Errors
    /// Where the system's folder for temporary files cannot be written.
    pub fn temporary(word: &str) -> Result<Self, (PathBuf, io::Error)> {
        /// How often another process may remove the folder between the two steps: each does so once, at its start.
        const ATTEMPTS_MAX: u32 = 8;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let path = named(word, RandomState::new().build_hasher().finish());
            let made = DirBuilder::new().mode(MODE).create(&path);
            match made.and_then(|()| lock(&path)) {
                Ok(lock) => {
                    let scratch = Self {
                        path,
                        lock: Mutex::new(lock),
                        is_over: AtomicBool::new(false),
                    };
                    scratch.remove_stale();
                    return Ok(scratch);
                }
                Err(_) if path.parent().is_some_and(Path::exists) && attempts < ATTEMPTS_MAX => {}
                Err(error) => return Err((path, error)),
            }
        }
    }

    /// Replaces it by the folder that the process before this one left for the same `owner`, or by a new one that the next
    /// process finds.
    ///
    /// # Errors
    /// Gives itself back where that cannot be, for instance because another process uses that folder. The folder must belong to
    /// this user, and nobody else may have access: its content is trusted.
    pub fn kept_for(self, owner: &Path) -> Result<Self, Self> {
        let Ok(own) = fs::metadata(&self.path) else {
            return Err(self);
        };
        let path = kept_path(own.uid(), owner);
        // Err: it exists already, or the next step fails, too.
        let _ = DirBuilder::new().mode(MODE).create(&path);
        let Some(lock) = taken(&path, &own) else {
            return Err(self);
        };
        self.remove();
        let lock = Mutex::new(Some(lock));
        Ok(Self {
            path,
            lock,
            is_over: AtomicBool::new(false),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it anew where it has vanished: programs that clean the system's folder for temporary files remove what is old.
    ///
    /// # Errors
    /// Where it cannot be made, or is somebody else's by now.
    pub fn restore(&self) -> io::Result<()> {
        let mut held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_over.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::NotFound.into());
        }
        match DirBuilder::new().mode(MODE).create(&self.path) {
            Ok(()) => {
                *held = lock(&self.path)?;
                Ok(())
            }
            // Another thread was first, and holds the lock.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let there = fs::symlink_metadata(&self.path)?;
                let is_ours = held.as_ref().is_none_or(|held| {
                    let is_held =
                        |held: Metadata| (held.dev(), held.ino()) == (there.dev(), there.ino());
                    held.metadata().is_ok_and(is_held)
                });
                if is_ours { Ok(()) } else { Err(error) }
            }
            Err(error) => Err(error),
        }
    }

    /// Removes it with its content, for good: another thread that is still at work does not make it anew. Libraries that are mapped
    /// from there stay mapped.
    pub fn remove(&self) {
        let _held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_over.store(true, Ordering::Relaxed);
        // Nothing depends on it; the next process tries again.
        let _ = fs::remove_dir_all(&self.path);
    }

    /// Removes temporary folders whose processes have ended.
    fn remove_stale(&self) {
        let Ok(own) = fs::metadata(&self.path) else {
            return;
        };
        let entries = fs::read_dir(parent());
        for entry in entries.into_iter().flatten().flatten() {
            let path = entry.path();
            // Until it is removed, nobody else can take it.
            let taken = Some(&path)
                .filter(|path| is_temporary(path))
                .and_then(|path| taken(path, &own));
            if taken.is_some() {
                // Nothing depends on it; the next process tries again.
                let _ = fs::remove_dir_all(&path);
            }
        }
    }
}

fn kept_path(user: u32, owner: &Path) -> PathBuf {
    let mut key = Fnv::default();
    key.write_u32(user);
    key.write(owner.as_os_str().as_encoded_bytes());
    named(KEPT, key.finish())
}

/// Removes temporary folders that ended processes of this user left: at the end of a command that another process worked for.
pub fn remove_left() {
    if let Ok(scratch) = Scratch::temporary(ONCE) {
        scratch.remove();
    }
}

/// The system's folder for temporary files, as it was when it was first asked for: an extension may change the environment and
/// the working directory.
fn parent() -> &'static Path {
    static PARENT: OnceLock<PathBuf> = OnceLock::new();
    PARENT.get_or_init(|| {
        let folder = std::env::temp_dir();
        std::path::absolute(&folder).unwrap_or(folder)
    })
}

fn named(word: &str, unique: u64) -> PathBuf {
    parent().join(format!("{PREFIX}-{word}-{unique:016x}"))
}

fn is_temporary(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let rest = name.and_then(|name| name.strip_prefix(PREFIX)?.strip_prefix('-'));
    rest.and_then(|rest| rest.split_once('-'))
        .is_some_and(|(word, unique)| {
            let is_unique =
                unique.len() == 16 && unique.bytes().all(|byte| byte.is_ascii_hexdigit());
            is_unique && TEMPORARY.contains(&word)
        })
}

/// Locks a folder whose process has ended; `None`: it is in use, or others have access to it. `own` is the metadata of a folder
/// that this process made beside it.
fn taken(path: &Path, own: &Metadata) -> Option<File> {
    // Not of a link's target, which may be anywhere.
    let about = fs::symlink_metadata(path).ok()?;
    let is_ours = about.is_dir()
        && about.uid() == own.uid()
        // Another user's mount could claim any owner and mode.
        && about.dev() == own.dev()
        && about.mode() & 0o777 == MODE;
    is_ours.then(|| lock(path))?.ok()?
}

/// Locks a folder; `None` where the file system has no locks.
///
/// # Errors
/// Where it cannot be opened, another process has locked it, or it has been removed meanwhile.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let folder = File::open(path)?;
    match folder.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => return Err(io::ErrorKind::ResourceBusy.into()),
        Err(fs::TryLockError::Error(_)) => return Ok(None),
    }
    let (held, there) = (folder.metadata()?, fs::symlink_metadata(path)?);
    if (held.dev(), held.ino()) == (there.dev(), there.ino()) {
        Ok(Some(folder))
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}
