//! A small disk of a test's own, which can be filled.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::built;

/// A file system in memory, mounted in a folder of its own until it is dropped.
pub struct Disk(TempDir);

impl Disk {
    /// A disk of so many bytes.
    pub fn of(bytes: usize) -> Self {
        let folder = built::scratch();
        let mounted = Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={bytes},mode=700"),
                "tmpfs",
            ])
            .arg(folder.path())
            .status();
        assert!(
            mounted.is_ok_and(|status| status.success()),
            "this test mounts a disk that it can fill: run it as root, or by unshare --user --map-root-user --mount"
        );
        Self(folder)
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Fills it to the last byte.
    pub fn fill(&self) {
        let mut filler = File::options();
        let filler = filler.create(true).append(true).open(self.filler());
        let mut filler = filler.expect("a file");
        for block in [4096, 1] {
            while filler.write_all(&vec![0; block]).is_ok() {}
        }
    }

    /// Gives the space back.
    pub fn free(&self) {
        fs::remove_file(self.filler()).expect("it was filled");
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a host that a failed test leaves behind may still use it. Err: the folder stays, and shows it.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}
