//! Private copies of libraries, and which of those that the host before has left may be used again.

use std::collections::HashMap;
use std::fs::{self, File};
use std::hash::Hasher;
use std::io::{self, Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::Reason;
use crate::platform::fnv::Fnv;
use crate::platform::scratch::{self, Scratch};

/// The folder for private copies. Not removed by a drop: threads that an extension has left over keep the host alive.
pub struct Copies {
    scratch: Scratch,
    /// Whether the next host finds them.
    are_kept: bool,
    /// What the host before this one has left, by [`whose`] copy it is.
    left: Mutex<HashMap<String, PathBuf>>,
    next: AtomicU64,
}

impl Copies {
    /// Copies that are removed at the end.
    ///
    /// # Errors
    /// Where the system's folder for temporary files cannot be written.
    pub fn passing() -> Result<Self, (PathBuf, io::Error)> {
        Ok(Self {
            scratch: Scratch::passing(scratch::ONCE)?,
            are_kept: false,
            left: Mutex::default(),
            next: AtomicU64::new(1),
        })
    }

    /// Copies that the next host of the same extensions finds, with those that the one before has left: to make each anew is
    /// most of what a start with many extensions takes, and ext4 makes it slow where many files were deleted in the last
    /// minutes.
    ///
    /// # Errors
    /// Where the system's folder for temporary files cannot be written.
    pub fn kept_for(extensions: &Path) -> Result<Self, (PathBuf, io::Error)> {
        let mut copies = Self::passing()?;
        let whole = extensions.canonicalize();
        let whom = whole.as_deref().unwrap_or(extensions);
        match copies.scratch.kept_for(whom) {
            Ok(kept) => {
                copies.are_kept = true;
                copies.scratch = kept;
                copies.look();
            }
            Err(passing) => copies.scratch = passing,
        }
        Ok(copies)
    }

    /// Sees what is left. Links are not looked at: what they lead to may be no private copy.
    fn look(&mut self) {
        let entries = fs::read_dir(self.scratch.path());
        let numbered = |entry: fs::DirEntry| {
            let name = entry.file_name().into_string().ok()?;
            let (number, whose) = name.split_once('-')?;
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            let number = number.parse::<u32>().ok().filter(|_| is_file)?;
            Some((number, whose.to_owned(), entry.path()))
        };
        let entries = entries.into_iter().flatten().flatten();
        let mut copies: Vec<_> = entries.filter_map(numbered).collect();
        copies.sort();
        for (number, whose, copy) in copies {
            self.next = AtomicU64::new(u64::from(number) + 1);
            if let Some(older) = self.left().insert(whose, copy) {
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
        let whose = whose(library);
        let left = self.left().remove(&whose);
        if let Some(left) = left {
            // Where it cannot be read, it is as good as none.
            if let Ok(Some(copy)) = same(&mut original, &left) {
                return Ok((left, copy));
            }
            remove(&left);
            original.rewind().map_err(unreadable)?;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.scratch.path().join(format!("{number}-{whose}"));
        let mut made = copied(&mut original, &path);
        if made
            .as_ref()
            .is_err_and(|error| error.kind() == io::ErrorKind::StorageFull)
        {
            // For which there is a remedy, perhaps.
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

    /// Removes what the host before has left and this one does not need.
    pub fn forget_left(&self) {
        self.left().drain().for_each(|(_, left)| remove(&left));
    }

    /// Tidies up: at the end, when nothing is loaded any more. What is mapped stays mapped.
    pub fn end(&self) {
        if self.are_kept {
            // Done only where there is none.
            let _ = fs::remove_dir(self.scratch.path());
        } else {
            self.scratch.remove();
        }
    }

    fn left(&self) -> MutexGuard<'_, HashMap<String, PathBuf>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// By what a copy is found again: the library's path, in brief, and its name for people.
fn whose(library: &Path) -> String {
    let mut path = Fnv::default();
    path.write(library.as_os_str().as_encoded_bytes());
    let name = library.file_name().unwrap_or_default().to_string_lossy();
    format!("{:016x}-{name}", path.finish())
}

/// The copy, where it holds the very bytes of the original, and has no other name: some programs make one file of all that
/// are equal, and the loader makes one library of one file.
fn same(original: &mut File, copy: &Path) -> io::Result<Option<File>> {
    /// As much at once as is quickest: two such pieces fit the cache next to the core.
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

/// Copies a file into a new one, by the kernel alone where it can; what comes back is open for reading.
fn copied(from: &mut File, to: &Path) -> io::Result<File> {
    let mut to = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(to)?;
    io::copy(from, &mut to)?;
    Ok(to)
}

/// Removes a copy that would only fill the disk. What is mapped stays mapped.
pub fn remove(copy: &Path) {
    // Nothing depends on it.
    let _ = fs::remove_file(copy);
}
