//! Private copies of libraries, and which copies of the host before this one may be used again.

use std::collections::HashMap;
use std::fs::{self, File, Permissions};
use std::hash::Hasher;
use std::io::{self, Read, Seek};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

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
            let (number, key) = name.split_once('-')?;
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            let number = number.parse::<u32>().ok().filter(|_| is_file)?;
            Some((number, key.to_owned(), entry.path()))
        };
        let entries = entries.into_iter().flatten().flatten();
        let mut copies: Vec<_> = entries.filter_map(numbered).collect();
        copies.sort();
        for (number, key, copy) in copies {
            self.next = AtomicU64::new(u64::from(number) + 1);
            if let Some(older) = self.left().insert(key, copy) {
                remove(&older);
            }
        }
    }

    /// A copy of the library, open for reading.
    ///
    /// # Errors
    /// Where the library cannot be read, or the copy not be written.
    pub fn of(&self, library: &Path) -> Result<(PathBuf, File), Reason> {
        let unreadable = |error| Reason::unreadable(library, error);
        let mut original = File::open(library).map_err(unreadable)?;
        let key = copy_key(library);
        let left = self.left().remove(&key);
        if let Some(left) = left {
            // One that cannot be read is of no use.
            if let Ok(Some(copy)) = same(&mut original, &left) {
                return Ok((left, copy));
            }
            remove(&left);
            original.rewind().map_err(unreadable)?;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.scratch.path().join(format!("{number}-{key}"));
        let mut made = copied(&mut original, &path);
        if made
            .as_ref()
            .is_err_and(|error| error.kind() == io::ErrorKind::StorageFull)
        {
            // The copies that are left may be what fills the disk.
            remove(&path);
            self.forget_left();
            original.rewind().map_err(unreadable)?;
            made = copied(&mut original, &path);
        }
        match made {
            Ok(copy) => Ok((path, copy)),
            Err(source) => {
                remove(&path);
                Err(Reason::CannotCopy {
                    library: library.to_owned(),
                    to: path,
                    source,
                })
            }
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
pub fn remove(copy: &Path) {
    // Nothing depends on it.
    let _ = fs::remove_file(copy);
}
