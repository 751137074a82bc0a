//! What an extension's library finds beside itself (`$ORIGIN`): all of `dist`, taken along into the folder of a private copy.
//!
//! The system's loader takes a library that is needed by name for one that it has loaded under that name. So each copy of a
//! library that others need gets a name of its own, of the same length, in all that name it; else a new build would run on the
//! libraries of the build before it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::discovery::is_library_name;
use super::gate;

/// More files than this, or more bytes, are nothing that a library needs beside itself.
pub const FILES_MAX: usize = 1_000;
/// See [`FILES_MAX`].
pub const BYTES_MAX: u64 = 2 << 30;
/// How deep folders may lie in each other.
const DEPTH_MAX: usize = 8;

/// What lies in a `dist`, by its path in there.
#[derive(Default)]
pub struct Listing {
    folders: Vec<PathBuf>,
    files: Vec<PathBuf>,
    /// Links to files in there, and the path in there that each leads to.
    links: Vec<(PathBuf, PathBuf)>,
    bytes: u64,
}

impl Listing {
    /// Lists a folder. Names that begin with a dot are files that are not finished. A link that leads out of it counts as the file
    /// that it leads to; what is neither file nor folder is passed over.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn of(dist: &Path) -> io::Result<Self> {
        let root = dist.canonicalize()?;
        let mut listing = Self::default();
        listing.add(&root, Path::new(""), 0)?;
        Ok(listing)
    }

    fn add(&mut self, root: &Path, within: &Path, depth: usize) -> io::Result<()> {
        for entry in fs::read_dir(root.join(within))? {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_string_lossy().starts_with('.') || self.is_too_large() {
                continue;
            }
            let (path, kind) = (within.join(&name), entry.file_type()?);
            // Err: a link that leads nowhere.
            let Ok(about) = fs::metadata(entry.path()) else {
                continue;
            };
            let target = kind.is_symlink().then(|| entry.path().canonicalize());
            let inside = target
                .and_then(Result::ok)
                .and_then(|target| Some(target.strip_prefix(root).ok()?.to_owned()));
            if let Some(inside) = inside {
                self.links.push((path, inside));
            } else if about.is_file() {
                self.bytes += about.len();
                self.files.push(path);
            } else if about.is_dir() && !kind.is_symlink() && depth < DEPTH_MAX {
                self.folders.push(path.clone());
                self.add(root, &path, depth + 1)?;
            }
        }
        Ok(())
    }

    /// Whether it holds more than is taken along.
    pub fn is_too_large(&self) -> bool {
        self.files.len() + self.links.len() + self.folders.len() > FILES_MAX
            || self.bytes > BYTES_MAX
    }

    /// The libraries in there: files, and links to such.
    pub fn libraries(&self) -> impl Iterator<Item = &Path> {
        let links = self.links.iter().map(|(path, _)| path);
        let all = self.files.iter().chain(links).map(PathBuf::as_path);
        all.filter(|path| path.file_name().is_some_and(is_library_name))
    }

    /// Copies all but one file, which is there already.
    ///
    /// # Errors
    /// Where something cannot be read or written.
    pub fn copy(&self, dist: &Path, to: &Path, except: &Path) -> io::Result<()> {
        for folder in &self.folders {
            fs::create_dir(to.join(folder))?;
        }
        for file in self.files.iter().filter(|file| *file != except) {
            let mut from = File::open(dist.join(file))?;
            io::copy(&mut from, &mut File::create_new(to.join(file))?)?;
        }
        for (link, target) in self.links.iter().filter(|(link, _)| link != except) {
            let up = link.components().skip(1).map(|_| "..").collect::<PathBuf>();
            symlink(up.join(target), to.join(link))?;
        }
        Ok(())
    }

    /// Gives each library in the copy that others may need a name of its own. Returns the new names, with the old ones.
    ///
    /// # Errors
    /// Where something cannot be read or written.
    pub fn rename(&self, copy: &Path, main: &Path) -> io::Result<Vec<(String, String)>> {
        let mut names: HashMap<String, String> = HashMap::new();
        for library in self.libraries().filter(|library| *library != main) {
            let Some(old) = library.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            let Some(new) = names.get(old).cloned().or_else(|| unused_name(old)) else {
                continue;
            };
            symlink(old, copy.join(library).with_file_name(&new))?;
            names.insert(old.to_owned(), new);
        }
        let files = self.files.iter().map(PathBuf::as_path);
        for file in files.chain([main]) {
            let path = copy.join(file);
            // The extension's own may have any name.
            if file != main && !file.file_name().is_some_and(is_library_name) {
                continue;
            }
            let named = gate::library_names(&fs::read(&path)?);
            let mut renamed = named
                .iter()
                .filter_map(|(at, name)| Some((at, names.get(name)?)))
                .peekable();
            if renamed.peek().is_some() {
                let file = File::options().write(true).open(&path)?;
                for (at, name) in renamed {
                    file.write_all_at(name.as_bytes(), *at)?;
                }
            }
        }
        Ok(names.into_iter().map(|(old, new)| (new, old)).collect())
    }
}

/// A name of the same length that no library of this process has: the end stays, because a linker lets a symbol share it with a
/// name. `None`: the name is too short for that.
fn unused_name(name: &str) -> Option<String> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    /// As many as letters and digits: with the least of three places, 46,656 names.
    const BASE: u64 = 36;
    const KEPT: usize = 3;
    let places = name.len().checked_sub(KEPT + 1)?.min(8);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    if places < 3 || number >= BASE.pow(places as u32) || !name.is_ascii() {
        return None;
    }
    let digit = |place: usize| {
        let digit = number / BASE.pow(place as u32) % BASE;
        char::from_digit(digit as u32, BASE as u32)
    };
    let digits: String = (0..places).rev().filter_map(digit).collect();
    // No linker makes a name that begins like this.
    Some(format!("~{digits}{}", &name[places + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_length_and_its_end_and_is_used_once() {
        for name in ["libhelper.so", "liba.so", "libstdc++.so.6.0.30"] {
            let (first, second) = (unused_name(name).unwrap(), unused_name(name).unwrap());
            assert_eq!((first.len(), second.len()), (name.len(), name.len()));
            assert!(first.ends_with(&name[name.len() - 3..]), "{first}");
            assert_ne!(first, second);
        }
        assert_eq!(unused_name("a.so"), None);
    }
}
