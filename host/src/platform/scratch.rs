//! Folders in the system's folder for temporary files. Each is locked for as long as the process that uses it lives, so that
//! what one that was killed has left can be told from what is in use.

use std::collections::hash_map::RandomState;
use std::fs::{self, DirBuilder, File, Metadata};
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::platform::fnv::Fnv;

/// What the name of each begins with; a word and sixteen hexadecimal digits follow.
const PREFIX: &str = "extension-host";
/// The word for one that the next process takes over.
const KEPT: &str = "copies";
/// The word for copies of libraries that nobody needs afterwards.
pub const ONCE: &str = "once";
/// The word for links to extensions that are developed.
pub const DEV: &str = "dev";
/// The word for the socket of a check: short, for a socket's path has a hundred bytes.
pub const CHECK: &str = "c";
/// Of which nobody needs what is left.
const PASSING: [&str; 3] = [ONCE, DEV, CHECK];
/// Nobody else may put anything there.
const MODE: u32 = 0o700;

/// A folder of this process. It is not removed by a drop.
pub struct Scratch {
    path: PathBuf,
    /// Goes with the process, however that ends. `None` where the file system has no locks: nobody finds it left, either.
    _lock: Option<File>,
}

impl Scratch {
    /// Makes a folder for a purpose, one of the words above, and removes those that processes of this user have left.
    ///
    /// # Errors
    /// Where the system's folder for temporary files cannot be written.
    pub fn passing(word: &str) -> Result<Self, (PathBuf, io::Error)> {
        /// How often somebody else may come between the two steps: whoever tidies up does so once.
        const ATTEMPTS_MAX: u32 = 8;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let path = named(word, RandomState::new().build_hasher().finish());
            let made = DirBuilder::new().mode(MODE).create(&path);
            match made.and_then(|()| lock(&path)) {
                Ok(_lock) => {
                    let scratch = Self { path, _lock };
                    scratch.tidy();
                    return Ok(scratch);
                }
                Err(_) if path.parent().is_some_and(Path::exists) && attempts < ATTEMPTS_MAX => {}
                Err(error) => return Err((path, error)),
            }
        }
    }

    /// In its place, the folder that the process before this one has left for `whom`, or a new one that the next one finds.
    ///
    /// # Errors
    /// Gives itself back where there can be none, as where another process uses that folder. Whoever has left it must have
    /// been the same user, and nobody else may have access: its content is trusted.
    pub fn kept_for(self, whom: &Path) -> Result<Self, Self> {
        let Ok(own) = fs::metadata(&self.path) else {
            return Err(self);
        };
        let mut owner = Fnv::default();
        owner.write_u32(own.uid());
        owner.write(whom.as_os_str().as_encoded_bytes());
        let path = named(KEPT, owner.finish());
        // An error says that it is there already, or the next step finds out what is the matter.
        let _ = DirBuilder::new().mode(MODE).create(&path);
        let Some(lock) = taken(&path, &own) else {
            return Err(self);
        };
        self.remove();
        let _lock = Some(lock);
        Ok(Self { path, _lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it with all that is in it. What is mapped from there stays mapped.
    pub fn remove(&self) {
        // Nothing depends on it; the next process tries again.
        let _ = fs::remove_dir_all(&self.path);
    }

    /// Removes what others have left that nobody needs.
    fn tidy(&self) {
        let Ok(own) = fs::metadata(&self.path) else {
            return;
        };
        let entries = fs::read_dir(std::env::temp_dir());
        for entry in entries.into_iter().flatten().flatten() {
            let path = entry.path();
            // Until it is removed, nobody else can take it.
            let taken = Some(&path)
                .filter(|path| is_passing(path))
                .and_then(|path| taken(path, &own));
            if taken.is_some() {
                // As above.
                let _ = fs::remove_dir_all(&path);
            }
        }
    }
}

fn named(word: &str, unique: u64) -> PathBuf {
    std::env::temp_dir().join(format!("{PREFIX}-{word}-{unique:016x}"))
}

fn is_passing(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let rest = name.and_then(|name| name.strip_prefix(PREFIX)?.strip_prefix('-'));
    rest.and_then(|rest| rest.split_once('-'))
        .is_some_and(|(word, unique)| {
            let is_unique =
                unique.len() == 16 && unique.bytes().all(|byte| byte.is_ascii_hexdigit());
            is_unique && PASSING.contains(&word)
        })
}

/// Takes a folder that somebody has left; `None` where it is in use, or not this user's alone. `own` is about a folder that
/// this process has made beside it.
fn taken(path: &Path, own: &Metadata) -> Option<File> {
    // Of the link, where it is one: it may lead anywhere.
    let about = fs::symlink_metadata(path).ok()?;
    let is_ours = about.is_dir()
        && about.uid() == own.uid()
        // What another user has mounted there can say of itself what it likes.
        && about.dev() == own.dev()
        && about.mode() & 0o777 == MODE;
    is_ours.then(|| lock(path))?.ok()?
}

/// Locks a folder; `None` where the file system has no locks.
///
/// # Errors
/// Where it cannot be opened, another has locked it, or somebody has removed it meanwhile.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let folder = File::open(path)?;
    match folder.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => return Err(io::ErrorKind::ResourceBusy.into()),
        Err(fs::TryLockError::Error(_)) => return Ok(None),
    }
    let (held, there) = (folder.metadata()?, fs::symlink_metadata(path)?);
    if (held.dev(), held.ino()) == (there.dev(), there.ino()) {
        Ok(Some(folder))
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}
