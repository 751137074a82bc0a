//! Folders in the system's folder for temporary files. Each is locked for as long as the process that made it lives, so that
//! what one that was killed has left can be told from what is in use.

use std::collections::hash_map::RandomState;
use std::fs::{self, DirBuilder, File, Metadata};
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// What the name of each begins with; its kind follows, and sixteen hexadecimal digits.
const PREFIX: &str = "extension-host-";
/// Nobody else may put anything there.
const MODE: u32 = 0o700;

/// A folder of this process. It is not removed by a drop.
pub struct Scratch {
    path: PathBuf,
    /// Goes with the process, however that ends. `None` where the system has no locks: nobody takes it for left there, either.
    _lock: Option<File>,
}

impl Scratch {
    /// Makes a folder for a purpose, of a few letters.
    ///
    /// # Errors
    /// Where the system's folder for temporary files cannot be written.
    pub fn create(kind: &str) -> Result<Self, (PathBuf, io::Error)> {
        loop {
            let unique = RandomState::new().build_hasher().finish();
            let path = std::env::temp_dir().join(format!("{PREFIX}{kind}-{unique:016x}"));
            if let Err(error) = DirBuilder::new().mode(MODE).create(&path) {
                return Err((path, error));
            }
            let _lock = match lock(&path) {
                Ok(Some(lock)) => Some(lock),
                // Somebody who tidies up came between the two steps.
                Ok(None) => continue,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(_) => None,
            };
            return Ok(Self { path, _lock });
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it was made for this purpose.
    pub fn is_for(&self, kind: &str) -> bool {
        kind_of(&self.path) == Some(kind)
    }

    /// What processes of the same user have left, of every kind: the latest first, and this one's from now on.
    pub fn left_by_others(&self) -> Vec<Self> {
        let Ok(own) = fs::metadata(&self.path) else {
            return Vec::new();
        };
        let may_be_left = |about: &Metadata| {
            about.is_dir() && about.uid() == own.uid() && about.mode() & 0o777 == MODE
        };
        let parent = std::env::temp_dir();
        let mut left = Vec::new();
        for path in fs::read_dir(parent).into_iter().flatten().flatten() {
            let path = path.path();
            // Of the link, where it is one: it may lead anywhere.
            let about = kind_of(&path).and_then(|_| fs::symlink_metadata(&path).ok());
            let about = about.filter(may_be_left);
            // Neither what is in use nor what cannot be opened was left.
            if let (Some(about), Ok(Some(lock))) = (about, lock(&path)) {
                let _lock = Some(lock);
                left.push((about.modified().ok(), Self { path, _lock }));
            }
        }
        left.sort_by_key(|(modified, _)| std::cmp::Reverse(*modified));
        left.into_iter().map(|(_, left)| left).collect()
    }

    /// Removes it with all that is in it. What is mapped from there stays mapped.
    pub fn remove(&self) {
        // Nothing depends on it; the next host tries again.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// What a folder is for, by its name; `None` for one that is none of these.
fn kind_of(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?.strip_prefix(PREFIX)?;
    let (kind, unique) = name.rsplit_once('-')?;
    let is_unique = unique.len() == 16 && unique.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_unique.then_some(kind)
}

/// Locks a folder; `None` where another has, or has removed it meanwhile.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let folder = File::open(path)?;
    match folder.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => return Ok(None),
        Err(fs::TryLockError::Error(error)) => return Err(error),
    }
    let (held, there) = (folder.metadata()?, fs::symlink_metadata(path)?);
    let is_there = (held.dev(), held.ino()) == (there.dev(), there.ino());
    Ok(is_there.then_some(folder))
}
