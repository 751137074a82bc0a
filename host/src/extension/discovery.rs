//! What the extensions folder holds: the folders that are extensions, and of each its manifest and the path of its library.
//!
//! Nothing is loaded here, and no library is opened.

use std::ffi::OsStr;
use std::fs::{self, DirEntry};
use std::io;
use std::path::{Path, PathBuf};

use super::error::{ManifestError, Reason};
use super::manifest::{self, Manifest};

/// What the name of an extension's folder begins with.
pub const FOLDER_PREFIX: &str = "directus-extension-";

/// What the extensions folder holds.
#[derive(Debug, Default)]
pub struct Discovery {
    /// The extensions, sorted by name, none of them looked into: see [`examine`].
    pub folders: Vec<Folder>,
    /// Entries with the name of an extension that are none, sorted.
    pub passed_over: Vec<PassedOver>,
}

/// A folder that is an extension.
#[derive(Debug)]
pub struct Folder {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
}

/// An extension that can be loaded, as far as this is seen from outside.
#[derive(Debug)]
pub struct Discovered {
    /// What it says about itself.
    pub manifest: Manifest,
    /// Its library.
    pub library: PathBuf,
}

/// A folder that has the name of an extension and is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedOver {
    /// Its name.
    pub folder: String,
    /// Why.
    pub why: &'static str,
}

/// Looks through the extensions folder.
///
/// # Errors
/// Where the folder itself is missing or cannot be read.
pub fn discover(extensions: &Path) -> io::Result<Discovery> {
    let mut discovery = Discovery::default();
    for entry in fs::read_dir(extensions)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with(FOLDER_PREFIX) {
            continue;
        }
        let path = entry.path();
        match passed_over(&entry) {
            Some(why) => discovery.passed_over.push(PassedOver { folder: name, why }),
            None => discovery.folders.push(Folder { name, path }),
        }
    }
    discovery.folders.sort_by(|a, b| a.name.cmp(&b.name));
    discovery
        .passed_over
        .sort_by(|a, b| a.folder.cmp(&b.folder));
    Ok(discovery)
}

/// The folders that may be extensions, by name; none where the extensions folder cannot be read.
pub fn folders(extensions: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(extensions).into_iter().flatten().flatten();
    let has_name = |entry: &DirEntry| {
        entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with(FOLDER_PREFIX))
    };
    let mut folders: Vec<PathBuf> = entries.filter(has_name).map(|entry| entry.path()).collect();
    folders.sort();
    folders
}

/// Reads the manifest of one extension and finds its library.
///
/// # Errors
/// Where one of the two cannot be read, or is not as it must be.
pub fn examine(folder: &Path) -> Result<Discovered, Reason> {
    let manifest = read_manifest(&folder.join(manifest::FILE_NAME))?;
    let library = find_library(&folder.join("dist"), manifest.library.as_deref())?;
    Ok(Discovered { manifest, library })
}

/// The name of an extension's folder, also where the path is "." or ends with a slash.
pub fn folder_name(folder: &Path) -> String {
    let absolute = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    absolute
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn passed_over(entry: &DirEntry) -> Option<&'static str> {
    if entry.file_name().to_str().is_none() {
        return Some("its name is not UTF-8");
    }
    // Most are folders, which the system has said already.
    if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
        // Follows a link, as `DirEntry::metadata` would not.
        match fs::metadata(entry.path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Some("it is a link that leads nowhere");
            }
            Ok(metadata) if !metadata.is_dir() => return Some("it is not a folder"),
            // What cannot be looked into is reported as an extension that cannot be loaded.
            Err(_) | Ok(_) => {}
        }
    }
    match fs::symlink_metadata(entry.path().join(manifest::FILE_NAME)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some("it holds no extension.toml"),
        Err(_) | Ok(_) => None,
    }
}

fn read_manifest(path: &Path) -> Result<Manifest, Reason> {
    let bad = |source| Reason::BadManifest {
        path: path.to_owned(),
        source,
    };
    let unreadable = |error| Reason::unreadable(path, error);
    let metadata = fs::metadata(path).map_err(unreadable)?;
    // Reading a pipe would block until something is written to it. Reading a folder fails with the system's own words.
    if !metadata.is_file() && !metadata.is_dir() {
        return Err(unreadable(io::Error::other("it is a device or pipe")));
    }
    if metadata.len() > manifest::FILE_BYTES_MAX {
        return Err(bad(ManifestError::TooLarge {
            bytes_max: manifest::FILE_BYTES_MAX,
        }));
    }
    let bytes = fs::read(path).map_err(unreadable)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| bad(ManifestError::NotText))?;
    Manifest::parse(text).map_err(bad)
}

/// Finds the library that is named, or the only one. A `dist` may hold the libraries of several systems: the one for this
/// system is then meant.
fn find_library(dist: &Path, named: Option<&str>) -> Result<PathBuf, Reason> {
    if let Some(name) = named {
        let library = dist.join(name);
        return match fs::metadata(&library) {
            Ok(metadata) if metadata.is_file() => Ok(library),
            Ok(_) => Err(Reason::NotALibrary {
                library,
                found: "a folder".to_owned(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Reason::NamedLibraryMissing { library })
            }
            Err(error) => Err(Reason::unreadable(&library, error)),
        };
    }
    let mut names = library_names(dist)?;
    if names.len() > 1 && names.iter().any(|name| is_native(name)) {
        names.retain(|name| is_native(name));
    }
    match names.as_slice() {
        [] => Err(Reason::MissingLibrary {
            dist: dist.to_owned(),
        }),
        [name] => Ok(dist.join(name)),
        _ => Err(Reason::SeveralLibraries {
            dist: dist.to_owned(),
            names,
        }),
    }
}

fn library_names(dist: &Path) -> Result<Vec<String>, Reason> {
    let entries = match fs::read_dir(dist) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Reason::unreadable(dist, error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry
            .map_err(|error| Reason::unreadable(dist, error))?
            .file_name()
            .to_string_lossy()
            .into_owned();
        // A name that begins with a dot is a file that a copying program has not finished.
        if !name.starts_with('.')
            && [".so", ".dylib", ".dll"]
                .iter()
                .any(|suffix| name.ends_with(suffix))
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Whether a file in `dist` is a library that others may need, by its name: "libx.so", "libx.so.1".
pub fn is_library_name(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    !name.starts_with('.') && (is_native(&name) || name.contains(".so."))
}

fn is_native(name: &str) -> bool {
    name.ends_with(std::env::consts::DLL_SUFFIX)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// A folder of its own, removed at the end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new() -> Scratch {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let name = format!(
                "extension-host-discovery-{}-{}",
                std::process::id(),
                COUNT.fetch_add(1, Ordering::Relaxed)
            );
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(&path).unwrap();
            Scratch(path)
        }

        fn with(self, files: &[(&str, &str)]) -> Scratch {
            for (path, text) in files {
                let path = self.0.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            self
        }

        fn discover(&self) -> Discovery {
            discover(&self.0).unwrap()
        }

        fn examined(&self) -> Vec<Result<Discovered, Reason>> {
            let folders = self.discover().folders;
            folders.iter().map(|folder| examine(&folder.path)).collect()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn native(name: &str) -> String {
        format!("{name}{}", std::env::consts::DLL_SUFFIX)
    }

    #[test]
    fn extensions_are_found_and_others_passed_over() {
        let library = native("directus-extension-b/dist/libb");
        let scratch = Scratch::new().with(&[
            ("directus-extension-b/extension.toml", ""),
            (&library, ""),
            ("directus-extension-b/dist/README.md", ""),
            (&native("directus-extension-b/dist/.libb"), ""),
            ("directus-extension-a/extension.toml", "name = \"a\""),
            ("directus-extension-c/package.json", ""),
            ("directus-extension-d", ""),
            ("other/extension.toml", ""),
        ]);
        let discovery = scratch.discover();
        let folders = discovery.folders.iter();
        let names: Vec<_> = folders.map(|folder| folder.name.as_str()).collect();
        assert_eq!(names, ["directus-extension-a", "directus-extension-b"]);
        let [missing, found] = &scratch.examined()[..] else {
            panic!("two are found");
        };
        assert_eq!(missing.as_ref().unwrap_err().code(), "LIBRARY_MISSING");
        assert_eq!(found.as_ref().unwrap().library, scratch.0.join(library));
        let passed_over: Vec<_> = discovery
            .passed_over
            .iter()
            .map(|passed| (passed.folder.as_str(), passed.why))
            .collect();
        assert_eq!(
            passed_over,
            [
                ("directus-extension-c", "it holds no extension.toml"),
                ("directus-extension-d", "it is not a folder")
            ]
        );
    }

    #[test]
    fn several_libraries_must_be_told_apart() {
        let scratch = Scratch::new().with(&[
            ("directus-extension-a/extension.toml", ""),
            (&native("directus-extension-a/dist/one"), ""),
            (&native("directus-extension-a/dist/two"), ""),
            (
                "directus-extension-b/extension.toml",
                "library = \"two.bin\"",
            ),
            ("directus-extension-b/dist/two.bin", ""),
            (
                "directus-extension-c/extension.toml",
                "library = \"gone.so\"",
            ),
            ("directus-extension-d/extension.toml", ""),
            ("directus-extension-d/dist/x.so", ""),
            ("directus-extension-d/dist/x.dylib", ""),
            ("directus-extension-d/dist/x.dll", ""),
        ]);
        let found = scratch.examined();
        let error = found[0].as_ref().unwrap_err();
        assert!(
            error
                .to_string()
                .contains(&format!("({}, {})", native("one"), native("two"))),
            "{error}"
        );
        assert!(found[1].is_ok());
        assert!(matches!(
            found[2].as_ref().unwrap_err(),
            Reason::NamedLibraryMissing { .. }
        ));
        assert!(found[3].as_ref().unwrap().library.ends_with(native("x")));
    }

    #[test]
    fn a_bad_manifest_is_its_own_affair() {
        let scratch = Scratch::new().with(&[
            ("directus-extension-a/extension.toml", "nmae = 1"),
            ("directus-extension-b/extension.toml", "library = \"x\""),
            ("directus-extension-b/dist/x", ""),
            ("directus-extension-c/extension.toml/folder", ""),
        ]);
        fs::write(
            scratch.0.join("directus-extension-a/extension.toml"),
            b"\xff",
        )
        .unwrap();
        let found = scratch.examined();
        assert_eq!(found[0].as_ref().unwrap_err().code(), "MANIFEST_INVALID");
        assert!(found[1].is_ok());
        assert_eq!(found[2].as_ref().unwrap_err().code(), "UNREADABLE");
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed() {
        let scratch = Scratch::new().with(&[
            ("elsewhere/extension.toml", ""),
            (&native("elsewhere/dist/x"), ""),
        ]);
        std::os::unix::fs::symlink("elsewhere", scratch.0.join("directus-extension-a")).unwrap();
        std::os::unix::fs::symlink("nowhere", scratch.0.join("directus-extension-b")).unwrap();
        let discovery = scratch.discover();
        assert!(scratch.examined()[0].is_ok());
        assert_eq!(
            discovery.passed_over[0].why,
            "it is a link that leads nowhere"
        );
    }

    #[test]
    fn a_missing_folder_is_an_error() {
        assert_eq!(
            discover(Path::new("/nowhere/extensions"))
                .unwrap_err()
                .kind(),
            io::ErrorKind::NotFound
        );
    }
}
