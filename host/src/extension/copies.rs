//! Private copies of libraries, and which copies of the host before this one may be used again.
//!
//! A copy's name is its number, the mark of the trial that it has passed, and its key: see [`CopyName`].

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File, Permissions};
use std::hash::Hasher;
use std::io::{self, Read, Seek};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::companions::{self, Listing};
use super::error::Reason;
use crate::platform::fnv::Fnv;
use crate::platform::scratch::{self, Scratch};

/// The folder for private copies. A drop does not remove it: threads that an extension left running keep the host alive.
pub struct Copies {
    scratch: Scratch,
    /// Whether the next host finds them.
    are_kept: bool,
    /// Copies that the host before this one left, by their [`copy_key`].
    left: Mutex<HashMap<String, PathBuf>>,
    next: AtomicU64,
}

/// What a copy has passed: see [`trial`](super::trial). Others than this user cannot write there, so that they cannot forge it;
/// who runs as this user can do worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrialMark(pub u64);

/// A private copy of a library. The drop removes it, until it is [kept](Self::keep).
pub struct PrivateCopy {
    library: PathBuf,
    /// The folder that is its own, where it was copied with all that lies beside it.
    folder: Option<OwnFolder>,
    is_removed: bool,
}

struct OwnFolder {
    path: PathBuf,
    /// What it is a copy of.
    dist: PathBuf,
    /// New names of libraries, with the old ones.
    names: Vec<(String, String)>,
}

impl PrivateCopy {
    fn new(library: PathBuf) -> Self {
        Self {
            library,
            folder: None,
            is_removed: true,
        }
    }

    /// A copy that another process has made, and removes.
    pub fn of_another(library: PathBuf) -> Self {
        Self {
            library,
            folder: None,
            is_removed: false,
        }
    }

    /// The library.
    pub fn path(&self) -> &Path {
        &self.library
    }

    /// Has the drop leave it where it is.
    pub fn keep(&mut self) {
        self.is_removed = false;
    }

    /// Removes it. A library that is mapped from it stays mapped.
    pub fn remove(&self) {
        match &self.folder {
            // Nothing depends on it.
            Some(folder) => _ = fs::remove_dir_all(&folder.path),
            None => remove(&self.library),
        }
    }

    /// A text of the system's loader, with the names that the operator knows.
    pub fn as_known(&self, text: &str, library: &Path) -> String {
        let mut text = text.replace(&*self.library.to_string_lossy(), &library.to_string_lossy());
        if let Some(folder) = &self.folder {
            let (path, dist) = (folder.path.to_string_lossy(), folder.dist.to_string_lossy());
            text = text.replace(&*path, &dist);
            for (new, old) in &folder.names {
                text = text.replace(new, old);
            }
        }
        text
    }
}

impl Drop for PrivateCopy {
    fn drop(&mut self) {
        if self.is_removed {
            self.remove();
        }
    }
}

/// The name of a copy.
struct CopyName<'a> {
    number: u64,
    /// `None`: it has passed no trial.
    passed: Option<TrialMark>,
    key: &'a str,
}

impl<'a> CopyName<'a> {
    fn parse(name: &'a str) -> Option<Self> {
        let mut parts = name.splitn(3, '-');
        let number = parts.next()?.parse().ok()?;
        let passed = match parts.next()? {
            "new" => None,
            mark => Some(TrialMark(u64::from_str_radix(mark, 16).ok()?)),
        };
        let key = parts.next()?;
        Some(Self {
            number,
            passed,
            key,
        })
    }

    fn of(copy: &'a Path) -> Option<Self> {
        Self::parse(copy.file_name()?.to_str()?)
    }
}

impl fmt::Display for CopyName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            number,
            passed,
            key,
        } = self;
        match passed {
            Some(TrialMark(mark)) => write!(f, "{number}-{mark:016x}-{key}"),
            None => write!(f, "{number}-new-{key}"),
        }
    }
}

impl Copies {
    /// Copies that are removed at the end.
    ///
    /// # Errors
    /// Where the system's folder for temporary files cannot be written.
    pub fn temporary() -> Result<Self, (PathBuf, io::Error)> {
        Ok(Self {
            scratch: Scratch::temporary(scratch::ONCE)?,
            are_kept: false,
            left: Mutex::default(),
            next: AtomicU64::new(1),
        })
    }

    /// Copies that the next host of the same extensions finds, with those that the host before this one left: a start with
    /// many extensions spends most of its time on making copies, and ext4 makes that slow where many files were deleted in
    /// the last minutes.
    ///
    /// # Errors
    /// Where the system's folder for temporary files cannot be written.
    pub fn kept_for(extensions: &Path) -> Result<Self, (PathBuf, io::Error)> {
        let mut copies = Self::temporary()?;
        let absolute = extensions.canonicalize();
        let owner = absolute.as_deref().unwrap_or(extensions);
        match copies.scratch.kept_for(owner) {
            Ok(kept) => {
                copies.are_kept = true;
                copies.scratch = kept;
                copies.find_left();
            }
            Err(temporary) => copies.scratch = temporary,
        }
        Ok(copies)
    }

    /// Finds what is left. Links are skipped: their targets may be no private copies.
    fn find_left(&mut self) {
        let entries = fs::read_dir(self.scratch.path());
        let numbered = |entry: fs::DirEntry| {
            let name = entry.file_name().into_string().ok()?;
            let kind = entry.file_type().ok()?;
            let name = CopyName::parse(&name)?;
            if kind.is_dir() {
                // A copy with all that lies beside it is not what the original is: see `companions`.
                let _ = fs::remove_dir_all(entry.path());
            }
            let name = Some(name).filter(|_| kind.is_file())?;
            Some((name.number, name.key.to_owned(), entry.path()))
        };
        let entries = entries.into_iter().flatten().flatten();
        let mut copies: Vec<_> = entries.filter_map(numbered).collect();
        copies.sort();
        for (number, key, copy) in copies {
            self.next = AtomicU64::new(number.saturating_add(1));
            if let Some(older) = self.left().insert(key, copy) {
                remove(&older);
            }
        }
    }

    /// A copy of the library, open for reading.
    ///
    /// # Errors
    /// Where the library cannot be read, or the copy not be written.
    pub fn of(&self, library: &Path) -> Result<(PrivateCopy, File), Reason> {
        let unreadable = |error| Reason::unreadable(library, error);
        let mut original = File::open(library).map_err(unreadable)?;
        let key = copy_key(library);
        let left = self.left().remove(&key);
        if let Some(left) = left {
            // One that cannot be read is of no use.
            if let Ok(Some(copy)) = same(&mut original, &left) {
                return Ok((PrivateCopy::new(left), copy));
            }
            remove(&left);
            original.rewind().map_err(unreadable)?;
        }
        let name = CopyName {
            number: self.next.fetch_add(1, Ordering::Relaxed),
            passed: None,
            key: &key,
        };
        let path = self.scratch.path().join(name.to_string());
        let mut made = copied(&mut original, &path);
        // What was in the way may not be any more.
        let is_cured = match made.as_ref().map_err(io::Error::kind) {
            // The copies that are left may be what fills the disk.
            Err(io::ErrorKind::StorageFull) => {
                remove(&path);
                self.forget_left();
                true
            }
            Err(io::ErrorKind::NotFound) => self.scratch.restore().is_ok(),
            _ => false,
        };
        if is_cured {
            original.rewind().map_err(unreadable)?;
            made = copied(&mut original, &path);
        }
        match made {
            Ok(copy) => Ok((PrivateCopy::new(path), copy)),
            Err(source) => {
                remove(&path);
                Err(Reason::CannotCopy {
                    library: library.to_owned(),
                    to: self.scratch.path().to_owned(),
                    source,
                })
            }
        }
    }

    /// Takes all along that lies beside the library, where it needs that: it is then loaded from a folder of its own.
    ///
    /// # Errors
    /// Where there is too much of it, it cannot be read, or the copy not be written.
    pub fn with_companions(
        &self,
        copy: PrivateCopy,
        library: &Path,
        looks_beside: bool,
    ) -> Result<PrivateCopy, Reason> {
        let (Some(dist), Some(name)) = (library.parent(), library.file_name().map(Path::new))
        else {
            return Ok(copy);
        };
        let listing = Listing::of(dist).map_err(|error| Reason::unreadable(dist, error))?;
        let is_alone = listing.libraries().all(|other| other == name);
        if is_alone && !looks_beside {
            return Ok(copy);
        }
        if listing.is_too_large() {
            return Err(Reason::DistTooLarge {
                dist: dist.to_owned(),
                files_max: companions::FILES_MAX,
                bytes_max: companions::BYTES_MAX,
            });
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (passed, key) = (None, &*copy_key(library));
        let own = CopyName {
            number,
            passed,
            key,
        };
        let path = self.scratch.path().join(own.to_string());
        let make = || -> io::Result<PrivateCopy> {
            fs::create_dir(&path)?;
            let mut with = PrivateCopy {
                library: path.join(name),
                folder: Some(OwnFolder {
                    path: path.clone(),
                    dist: dist.to_owned(),
                    names: Vec::new(),
                }),
                is_removed: true,
            };
            let mut copy = copy;
            fs::rename(&copy.library, &with.library)?;
            copy.keep();
            listing.copy(dist, &path, name)?;
            if let Some(folder) = &mut with.folder {
                folder.names = listing.rename(&path, name)?;
            }
            Ok(with)
        };
        make().map_err(|source| Reason::CannotCopy {
            library: library.to_owned(),
            to: self.scratch.path().to_owned(),
            source,
        })
    }

    /// Notes in a copy's name that it has passed a trial, so that the next host does not try it again.
    pub fn mark(&self, copy: &mut PrivateCopy, mark: TrialMark) {
        let Some(name) = CopyName::of(&copy.library).filter(|_| self.are_kept) else {
            return;
        };
        let passed = Some(mark);
        let name = CopyName { passed, ..name }.to_string();
        let marked = copy.library.with_file_name(name);
        // Err: it is tried once more, then.
        if fs::rename(&copy.library, &marked).is_ok() {
            copy.library = marked;
        }
    }

    /// Removes the copies that the host before this one left and this one did not use.
    pub fn forget_left(&self) {
        self.left().drain().for_each(|(_, left)| remove(&left));
    }

    /// Cleans up, at the end, when nothing is loaded any more. Libraries that are mapped stay mapped.
    pub fn end(&self) {
        if self.are_kept {
            // Succeeds only where the folder is empty.
            let _ = fs::remove_dir(self.scratch.path());
        } else {
            self.scratch.remove();
        }
    }

    fn left(&self) -> MutexGuard<'_, HashMap<String, PathBuf>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a copy has passed the trial of this mark.
pub fn has_passed(copy: &Path, mark: TrialMark) -> bool {
    CopyName::of(copy).is_some_and(|name| name.passed == Some(mark))
}

/// The part of a copy's name by which it is found again: a hash of the library's path, and the library's name for people.
fn copy_key(library: &Path) -> String {
    let mut path = Fnv::default();
    path.write(library.as_os_str().as_encoded_bytes());
    let name = library.file_name().unwrap_or_default().to_string_lossy();
    format!("{:016x}-{name}", path.finish())
}

/// The copy, where it holds the bytes of the original and has no other name: deduplicating programs link equal files together,
/// and the loader takes one file for one library.
fn same(original: &mut File, copy: &Path) -> io::Result<Option<File>> {
    /// The quickest size: two such pieces fit the cache next to the core.
    const PIECE_BYTES: usize = 64 << 10;
    let mut copy = File::open(copy)?;
    let about = copy.metadata()?;
    if about.len() != original.metadata()?.len() || about.nlink() != 1 {
        return Ok(None);
    }
    let mut pieces = [vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]];
    loop {
        let [piece, other] = &mut pieces;
        let count = original.read(piece)?;
        copy.read_exact(&mut other[..count])?;
        if piece[..count] != other[..count] {
            return Ok(None);
        }
        if count == 0 {
            return Ok(Some(copy));
        }
    }
}

/// Only the owner may read and write a copy.
const COPY_MODE: u32 = 0o600;

/// Copies a file into a new one, which it returns open for reading. The kernel copies by itself where it can.
fn copied(from: &mut File, to: &Path) -> io::Result<File> {
    let mut to = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(to)?;
    // Whatever the umask is: an extension may have changed it.
    to.set_permissions(Permissions::from_mode(COPY_MODE))?;
    io::copy(from, &mut to)?;
    Ok(to)
}

/// Removes a copy. A library that is mapped from it stays mapped.
fn remove(copy: &Path) {
    // Nothing depends on it.
    let _ = fs::remove_file(copy);
}
