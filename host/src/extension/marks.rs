//! Whether an extension's files have changed: what the system says of each, compared as one.

use std::fs;
use std::hash::{Hash as _, Hasher as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::companions::Listing;
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
    /// Of the content or of what is said of it: no program can set it, so that it tells where a file was given its old time back.
    changed_ns: i128,
}

impl FileMarks {
    /// The marks of an extension's manifest and libraries, those in folders of `dist` included.
    pub fn of(folder: &Path) -> Self {
        let mut marks: Vec<FileMark> = mark(&folder.join(manifest::FILE_NAME))
            .into_iter()
            .collect();
        let dist = folder.join("dist");
        // Err: it is said elsewhere that there is none.
        let listing = Listing::of(&dist).unwrap_or_default();
        marks.extend(
            listing
                .libraries()
                .filter_map(|path| mark(&dist.join(path))),
        );
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

    /// Whether a file is another than it was before, and yet the same: it was written over, not replaced, and may be half of it.
    pub fn is_rewritten_since(&self, before: &Self) -> bool {
        let is_rewritten = |now: &FileMark| {
            let is_same = |old: &&FileMark| {
                (&old.path, old.device, old.inode) == (&now.path, now.device, now.inode)
            };
            before.0.iter().find(is_same).is_some_and(|old| old != now)
        };
        self.0.iter().any(is_rewritten)
    }

    /// The folders that hold the files, behind all links as they lead now.
    pub fn folders(&self) -> impl Iterator<Item = PathBuf> {
        let behind = self.0.iter().flat_map(|mark| mark.path.canonicalize());
        behind.filter_map(|path| path.parent().map(Path::to_owned))
    }
}

fn mark(path: &Path) -> Option<FileMark> {
    let about = fs::metadata(path).ok()?;
    let ns = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
    Some(FileMark {
        path: path.to_owned(),
        device: about.dev(),
        inode: about.ino(),
        size: about.size(),
        modified_ns: ns(about.mtime(), about.mtime_nsec()),
        changed_ns: ns(about.ctime(), about.ctime_nsec()),
    })
}
