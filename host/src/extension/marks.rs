//! Whether an extension's files have changed: what the system says of each, compared as one.

use std::fs;
use std::hash::{Hash as _, Hasher as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::manifest;
use crate::platform::fnv::Fnv;

/// The files of an extension as they were at some time: whether they have changed since is one comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileMarks(Vec<FileMark>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct FileMark {
    path: PathBuf,
    /// Of the file behind all links, with the inode, so that a link that is switched counts as a change.
    device: u64,
    inode: u64,
    size: u64,
    modified_ns: i128,
}

impl FileMarks {
    /// The marks of an extension's manifest and libraries.
    pub fn of(folder: &Path) -> Self {
        let mut marks: Vec<FileMark> = mark(&folder.join(manifest::FILE_NAME))
            .into_iter()
            .collect();
        let libraries = fs::read_dir(folder.join("dist"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        // A name that begins with a dot is a file that is not finished.
        let is_library = |path: &PathBuf| {
            let is_hidden = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with('.');
            path.extension()
                .is_some_and(|suffix| suffix == std::env::consts::DLL_EXTENSION)
                && !path.file_name().is_some_and(is_hidden)
        };
        marks.extend(libraries.filter(is_library).filter_map(|path| mark(&path)));
        marks.sort_by(|a, b| a.path.cmp(&b.path));
        Self(marks)
    }

    /// The mark of one file.
    pub fn of_file(path: &Path) -> Self {
        Self(mark(path).into_iter().collect())
    }

    /// A number that other marks do not have, as far as numbers go: for who cannot keep the marks themselves.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = Fnv::default();
        self.0.hash(&mut hash);
        hash.finish()
    }

    /// The folders that hold the files, behind all links as they lead now.
    pub fn folders(&self) -> impl Iterator<Item = PathBuf> {
        let behind = self.0.iter().flat_map(|mark| mark.path.canonicalize());
        behind.filter_map(|path| path.parent().map(Path::to_owned))
    }
}

fn mark(path: &Path) -> Option<FileMark> {
    let about = fs::metadata(path).ok()?;
    let modified_ns = i128::from(about.mtime()) * 1_000_000_000 + i128::from(about.mtime_nsec());
    Some(FileMark {
        path: path.to_owned(),
        device: about.dev(),
        inode: about.ino(),
        size: about.size(),
        modified_ns,
    })
}
