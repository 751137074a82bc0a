//! The file of a SQLite store: its folder, its neighbours, and whether it is still the one that was opened.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::error::StoreError;

/// The first bytes of every SQLite database.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// A file that was opened, and by what it is known again.
#[derive(Debug, Clone)]
pub(super) struct OpenedFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl OpenedFile {
    /// Notes which file has the name now.
    pub(super) fn of(path: &Path) -> Result<OpenedFile, StoreError> {
        let found = path.metadata().map_err(|cause| unreadable(path, cause))?;
        Ok(OpenedFile {
            path: path.to_owned(),
            device: found.dev(),
            inode: found.ino(),
        })
    }

    /// Whether the name still leads to it. Where it does not, whatever is read is out of date and whatever is written is lost.
    /// Costs one system call.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let is_same = self
            .path
            .metadata()
            .is_ok_and(|now| (now.dev(), now.ino()) == (self.device, self.inode));
        if is_same {
            Ok(())
        } else {
            Err(StoreError::Moved(self.path.clone()))
        }
    }
}

/// A file beside the database: `suffix` is "-wal" and the like.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// The folder of a file.
pub(super) fn folder_of(path: &Path) -> &Path {
    let folder = path.parent();
    folder
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Makes the folder of a file, for the host's user alone.
pub(super) fn make_folder(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder_of(path))
}

/// Makes an empty file that was not there, for its owner alone: it will hold the secret that signs tokens. SQLite gives its other
/// files the same permissions.
pub(super) fn make_empty(path: &Path) -> io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(path).map(drop)
}

/// Gives a finished file its name, so that it outlives the machine's fall.
pub(super) fn finish(unfinished: &Path, path: &Path) -> io::Result<()> {
    File::open(unfinished)?.sync_all()?;
    std::fs::rename(unfinished, path)?;
    File::open(folder_of(path))?.sync_all()
}

/// Removes a file, where there is one.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(cause) if cause.kind() != ErrorKind::NotFound => Err(cause),
        _ => Ok(()),
    }
}

/// Refuses what SQLite would take for a new database, or for none. To be called while this process has no connection to the
/// file: closing a file ends the process's locks on it.
pub(super) fn check_head(path: &Path) -> Result<(), StoreError> {
    let mut head = [0; MAGIC.len()];
    let read = File::open(path).and_then(|mut file| {
        if file.metadata()?.len() == 0 {
            return Ok(false);
        }
        file.read_exact(&mut head).map(|()| true)
    });
    match read {
        Ok(false) => Err(no_store(path, "it is empty")),
        Ok(true) if head == *MAGIC => Ok(()),
        Ok(true) => Err(no_store(path, "it is no SQLite database")),
        Err(cause) if cause.kind() == ErrorKind::UnexpectedEof => {
            Err(no_store(path, "it is no SQLite database"))
        }
        Err(cause) => Err(unreadable(path, cause)),
    }
}

/// An error about a file that is there and holds no store.
pub(super) fn no_store(path: &Path, why: &str) -> StoreError {
    StoreError::NoStore {
        path: path.to_owned(),
        why: why.to_owned(),
    }
}

fn unreadable(path: &Path, cause: io::Error) -> StoreError {
    StoreError::File("read", path.to_owned(), cause)
}
