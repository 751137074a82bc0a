//! The private copies of libraries: kept from one start to the next, and used again only where they are, byte for byte, what
//! the library is.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::reload::{number_of, numbered, numbered_with};
use crate::support::host::Plan;
use crate::support::{Extension, Host, built, eventually};

const FOLDER: &str = "directus-extension-generation";

/// Where hosts are started, one after the other.
struct Place(TempDir);

impl Place {
    /// With build 1 of the extension, and another one.
    fn new() -> Self {
        let place = Self(built::scratch());
        fs::create_dir(place.tmp()).expect("a folder");
        place.put(1);
        Extension::good().put(&place.extensions());
        place
    }

    fn tmp(&self) -> PathBuf {
        self.0.path().join("tmp")
    }

    fn extensions(&self) -> PathBuf {
        self.0.path().join("extensions")
    }

    /// Replaces the library by another build, of the same size and age.
    fn put(&self, number: u32) {
        let extension = Extension::empty(FOLDER)
            .manifest("")
            .file("dist/lib.so", numbered(number));
        let library = extension.put(&self.extensions()).join("dist/lib.so");
        let library = fs::File::options().write(true).open(library);
        let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        library
            .and_then(|library| library.set_modified(long_ago))
            .expect("a library");
    }

    fn plan(&self) -> Plan {
        Host::plan()
            .config(&format!("extensions_path = {:?}", self.extensions()))
            .variable("TMPDIR", self.tmp().to_string_lossy())
    }

    /// Starts a host, has it tell which build it serves, and ends it.
    #[track_caller]
    fn served(&self) -> u32 {
        let host = self.plan().start();
        assert_eq!(host.get("/c-sample/now").status, 200);
        let number = number_of(host.get("/generation/now").text());
        assert_eq!(host.stop().code, Some(0));
        number
    }

    fn folders(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.tmp()).expect("a folder");
        let mut folders: Vec<_> = entries.map(|entry| entry.expect("one").path()).collect();
        folders.sort();
        folders
    }

    /// The copies, each with its inode.
    fn copies(&self) -> BTreeMap<PathBuf, u64> {
        let entries = |folder| fs::read_dir(folder).into_iter().flatten().flatten();
        let copies = self.folders().into_iter().flat_map(entries);
        let with_inode = copies.map(|copy| (copy.path(), copy.metadata().expect("a file").ino()));
        with_inode.collect()
    }

    /// The one copy of the extension's library.
    #[track_caller]
    fn copy(&self) -> (PathBuf, u64) {
        let copies = self.copies().into_iter();
        let is_of_library = |path: &Path| path.to_string_lossy().ends_with("-lib.so");
        let mut of_library = copies.filter(|(path, _)| is_of_library(path));
        let copy = of_library.next().expect("a copy");
        assert_eq!(of_library.next(), None, "one copy");
        copy
    }
}

#[test]
fn they_are_used_again_by_the_next_host() {
    let place = Place::new();
    assert_eq!(place.served(), 1);
    let copies = place.copies();
    assert_eq!(copies.len(), 2);
    assert_eq!(place.served(), 1);
    assert_eq!(place.copies(), copies);
}

#[test]
fn another_build_of_the_same_size_and_age_is_copied_anew() {
    let place = Place::new();
    assert_eq!(place.served(), 1);
    let (before, _) = place.copy();
    place.put(2);
    assert_eq!(place.served(), 2);
    assert_ne!(place.copy().0, before);
}

#[test]
fn one_that_somebody_has_changed_is_not_loaded() {
    let place = Place::new();
    assert_eq!(place.served(), 1);
    for other in [numbered(2), numbered(1)[..100].to_vec(), Vec::new()] {
        let (copy, _) = place.copy();
        fs::write(&copy, other).expect("a file");
        assert_eq!(place.served(), 1);
        assert_ne!(place.copy().0, copy);
    }
}

#[test]
fn those_of_a_host_that_was_killed_are_taken_over() {
    let place = Place::new();
    let host = place.plan().start();
    let copies = place.copies();
    host.signal("KILL");
    assert_eq!(host.ended().code, None);
    assert_eq!(place.served(), 1);
    assert_eq!(place.copies(), copies);
}

#[test]
fn hosts_at_the_same_time_have_each_their_own() {
    let place = Place::new();
    let first = place.plan().start();
    let of_first = place.copies();
    let second = place.plan().start();
    assert_eq!(place.folders().len(), 2);
    assert_eq!(place.copies().len(), 4);
    for (copy, inode) in &of_first {
        assert_eq!(place.copies().get(copy), Some(inode));
    }
    assert_eq!(second.stop().code, Some(0));
    assert_eq!(number_of(first.get("/generation/now").text()), 1);
    assert_eq!(first.stop().code, Some(0));
    assert_eq!(place.served(), 1);
    assert_eq!(place.folders().len(), 1, "nobody else needs the other");
}

#[test]
fn those_of_extensions_that_have_gone_are_removed() {
    let place = Place::new();
    assert_eq!(place.served(), 1);
    fs::remove_dir_all(place.extensions().join(FOLDER)).expect("a folder");
    let host = place.plan().start();
    assert_eq!(host.get("/c-sample/now").status, 200);
    assert_eq!(place.copies().len(), 1);
    assert_eq!(host.stop().code, Some(0));
    fs::remove_dir_all(place.extensions().join("directus-extension-c-sample")).expect("a folder");
    let host = place.plan().start();
    assert_eq!(place.copies().len(), 0);
    assert_eq!(host.stop().code, Some(0));
    assert_eq!(place.folders(), Vec::<PathBuf>::new(), "an empty folder");
}

#[test]
fn what_is_not_the_hosts_own_is_neither_used_nor_removed() {
    let place = Place::new();
    let folder = |name: &str, mode: u32| {
        let path = place.tmp().join(name);
        let made = fs::DirBuilder::new().mode(mode).create(&path);
        made.expect("a folder");
        fs::write(path.join("1-file"), "text").expect("a file");
        path
    };
    let elsewhere = folder("elsewhere", 0o700);
    let link = place.tmp().join("extension-host-copies-0000000000000001");
    symlink(&elsewhere, &link).expect("a link");
    let file = place.tmp().join("extension-host-copies-0000000000000002");
    fs::write(&file, "text").expect("a file");
    let open_to_all = folder("extension-host-copies-0000000000000003", 0o755);
    let other_name = folder("extension-host-of-mine", 0o700);
    let mut others = vec![elsewhere, link, file, open_to_all, other_name];
    let of_another = folder("extension-host-copies-0000000000000004", 0o700);
    let chown = Command::new("chown")
        .args(["-R", "65534"])
        .arg(&of_another)
        .stderr(Stdio::null())
        .status();
    // Whoever is not root can make none of another user.
    if chown.expect("chown runs").success() {
        others.push(of_another);
    }
    assert_eq!(place.served(), 1);
    for other in others {
        assert!(other.exists(), "{}", other.display());
        let inside = other.join("1-file");
        assert!(!other.is_dir() || inside.exists(), "{}", inside.display());
    }
}

#[test]
fn what_other_commands_have_left_is_removed() {
    let place = Place::new();
    for kind in ["check", "dev", "copies", "copies"] {
        let mut name = format!("extension-host-{kind}-0000000000000000");
        while place.tmp().join(&name).exists() {
            name.replace_range(name.len() - 1.., "1");
        }
        let path = place.tmp().join(name);
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.expect("a folder");
        fs::write(path.join("c"), "").expect("a file");
    }
    assert_eq!(place.served(), 1);
    assert_eq!(place.folders().len(), 1);
}

#[test]
fn other_commands_leave_none() {
    let place = Place::new();
    assert_eq!(place.served(), 1);
    let before = (place.folders(), place.copies());
    let extension = place.extensions().join(FOLDER);
    let extension = extension.to_string_lossy();
    for arguments in [&["list"][..], &["check", &extension]] {
        let done = Command::new(built::host())
            .args(arguments)
            .current_dir(place.0.path())
            .env("TMPDIR", place.tmp())
            .output()
            .expect("the host runs");
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(said.contains("generation"), "{arguments:?}: {said}");
        assert_eq!((place.folders(), place.copies()), before, "{arguments:?}");
    }
}

#[test]
fn those_of_builds_that_were_replaced_or_refused_are_removed() {
    let place = Place::new();
    let host = place.plan().option("--auto-reload").start();
    let library = place.extensions().join(FOLDER).join("dist/lib.so");
    let (first, _) = place.copy();
    fs::write(&library, numbered(2)).expect("a library");
    eventually("build 2 is served", || {
        number_of(host.get("/generation/now").text()) == 2
    });
    eventually("the first copy is gone", || !first.exists());
    let second = place.copy();
    fs::write(&library, numbered_with(3, &["PANICS"])).expect("a library");
    host.logged("a build is refused", |line| {
        line["code"] == "CREATE_PANICKED" && line["folder"] == FOLDER
    });
    assert_eq!(place.copy(), second);
    assert_eq!(host.stop().code, Some(0));
}
