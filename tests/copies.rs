//! The private copies of libraries: kept from one start to the next, and used again only where they are, byte for byte, what
//! the library is.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::reload::{number_of, numbered, numbered_with};
use crate::support::host::Plan;
use crate::support::{Extension, Host, built, eventually};

const FOLDER: &str = "directus-extension-generation";

/// Where hosts are started, one after the other.
pub struct Place(TempDir);

impl Place {
    /// With build 1 of the extension, and another one.
    pub fn new() -> Self {
        let place = Self(built::scratch());
        fs::create_dir(place.tmp()).expect("a folder");
        place.put(1);
        Extension::good().put(&place.extensions());
        place
    }

    fn tmp(&self) -> PathBuf {
        self.0.path().join("tmp")
    }

    /// Where all of them are.
    pub fn folder(&self) -> &Path {
        self.0.path()
    }

    pub fn extensions(&self) -> PathBuf {
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

    pub fn plan(&self) -> Plan {
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
    assert_eq!(place.copies(), of_first);
}

#[test]
fn hosts_of_other_extensions_have_each_their_own() {
    let (place, other) = (Place::new(), Place::new());
    other.put(2);
    let of_other = || {
        other
            .plan()
            .variable("TMPDIR", place.tmp().to_string_lossy())
    };
    assert_eq!(place.served(), 1);
    let copies = place.copies();
    let host = of_other().start();
    assert_eq!(number_of(host.get("/generation/now").text()), 2);
    assert_eq!(host.stop().code, Some(0));
    assert_eq!(place.copies().len(), 4);
    assert_eq!(place.served(), 1);
    for (copy, inode) in copies {
        assert_eq!(place.copies().get(&copy), Some(&inode));
    }
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

/// A folder beside the host's own, with a file in it.
fn folder(place: &Place, name: &str, mode: u32) -> PathBuf {
    let path = place.tmp().join(name);
    let made = fs::DirBuilder::new().mode(mode).create(&path);
    made.expect("a folder");
    fs::write(path.join("1-file"), "text").expect("a file");
    path
}

#[test]
fn what_is_not_the_hosts_own_is_not_removed() {
    let place = Place::new();
    let elsewhere = folder(&place, "elsewhere", 0o700);
    let link = place.tmp().join("extension-host-once-0000000000000001");
    symlink(&elsewhere, &link).expect("a link");
    let file = place.tmp().join("extension-host-once-0000000000000002");
    fs::write(&file, "text").expect("a file");
    let mut others = vec![elsewhere, link, file];
    for (name, mode) in [
        ("extension-host-once-0000000000000003", 0o755),
        ("extension-host-copies-0000000000000004", 0o700),
        ("extension-host-4242-18094cd2cefa0000", 0o700),
        ("extension-host-backup-0123456789abcdef", 0o700),
        ("extension-host-dev-of-mine", 0o700),
        ("extension-host", 0o700),
    ] {
        others.push(folder(&place, name, mode));
    }
    let of_another = folder(&place, "extension-host-once-0000000000000005", 0o700);
    if given_away(&of_another) {
        others.push(of_another);
    }
    assert_eq!(place.served(), 1);
    for other in others {
        assert!(other.exists(), "{}", other.display());
        let inside = other.join("1-file");
        assert!(!other.is_dir() || inside.exists(), "{}", inside.display());
    }
}

/// Makes a folder another user's, which only root can.
fn given_away(folder: &Path) -> bool {
    let chown = Command::new("chown")
        .args(["-R", "65534"])
        .arg(folder)
        .stderr(Stdio::null())
        .status();
    chown.expect("chown runs").success()
}

#[test]
fn those_that_others_could_have_put_there_are_not_used() {
    type Spoil = fn(&Path) -> bool;
    let open_to_all: Spoil = |folder| {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("a mode");
        true
    };
    let a_link: Spoil = |folder| {
        let elsewhere = folder.with_file_name("elsewhere");
        fs::rename(folder, &elsewhere).expect("a folder");
        symlink(&elsewhere, folder).expect("a link");
        true
    };
    for spoil in [open_to_all, a_link, given_away as Spoil] {
        let place = Place::new();
        assert_eq!(place.served(), 1);
        let copies = place.copies();
        if !spoil(&place.folders()[0]) {
            continue;
        }
        let host = place.plan().start();
        let loaded = fs::read_to_string(format!("/proc/{}/maps", host.pid())).expect("its maps");
        assert!(!loaded.contains("/elsewhere/"));
        for copy in copies.keys() {
            assert!(!loaded.contains(&*copy.to_string_lossy()), "{copy:?}");
        }
        assert_eq!(number_of(host.get("/generation/now").text()), 1);
        assert_eq!(host.stop().code, Some(0));
    }
}

/// The loader takes files of one inode for one library.
#[test]
fn one_with_another_name_or_a_link_is_not_used() {
    let place = Place::new();
    assert_eq!(place.served(), 1);
    let (copy, _) = place.copy();
    fs::hard_link(&copy, place.tmp().join("same")).expect("a hard link");
    assert_eq!(place.served(), 1);
    assert!(!copy.exists());
    let (copy, _) = place.copy();
    fs::remove_file(&copy).expect("a copy");
    symlink(place.extensions().join(FOLDER).join("dist/lib.so"), &copy).expect("a link");
    let host = place.plan().start();
    let loaded = fs::read_to_string(format!("/proc/{}/maps", host.pid())).expect("its maps");
    let library = place.extensions().join(FOLDER);
    assert!(!loaded.contains(&*library.to_string_lossy()));
    assert_eq!(host.stop().code, Some(0));
}

#[test]
fn what_other_commands_have_left_is_removed() {
    let place = Place::new();
    for word in ["once", "dev"] {
        folder(
            &place,
            &format!("extension-host-{word}-0123456789abcdef"),
            0o700,
        );
    }
    assert_eq!(place.served(), 1);
    assert_eq!(place.folders().len(), 1);
}

#[test]
fn other_commands_leave_none() {
    let place = Place::new();
    assert_eq!(place.served(), 1);
    let before = (place.folders(), place.copies());
    let good = place.extensions().join(FOLDER);
    let refusing = Extension::c("directus-extension-no", "broken.c", &["REFUSES=\"no\""]);
    let refusing = refusing.put(&place.0.path().join("others"));
    let good = ["check", &good.to_string_lossy()];
    let refusing = ["check", &refusing.to_string_lossy()];
    for arguments in [&["list"][..], &good, &refusing] {
        let done = Command::new(built::host())
            .args(arguments)
            .current_dir(place.0.path())
            .env("TMPDIR", place.tmp())
            .output()
            .expect("the host runs");
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(
            said.contains("directus-extension-"),
            "{arguments:?}: {said}"
        );
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
