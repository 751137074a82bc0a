//! What the supervisor lets other processes of its user know: the commands `upgrade` and `list` read it.

use std::fs::{File, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::platform::handover::Quarantined;
use crate::platform::scratch;

const FILE_NAME: &str = "supervisor.json";

/// How a supervisor and its server stand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The supervisor's process.
    pub supervisor: u32,
    /// The server's.
    pub server: u32,
    /// How often the server was replaced because somebody asked for it.
    pub upgrades: u64,
    /// How often that failed.
    pub failed_upgrades: u64,
    /// What is left out.
    pub quarantined: Vec<Quarantined>,
}

/// The file, locked for as long as the supervisor lives, however that ends.
pub struct StandingFile {
    file: File,
    path: PathBuf,
}

impl StandingFile {
    /// Takes it; `None` where there can be none, or another supervisor of the same extensions has it: nothing depends on it but
    /// those commands.
    pub fn take(extensions: &Path) -> Option<Self> {
        let path = path(extensions)?;
        let mut options = File::options();
        options.create(true).truncate(false).write(true).read(true);
        options.mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let file = options.open(&path).ok()?;
        file.try_lock().ok()?;
        Some(Self { file, path })
    }

    /// Writes how things stand.
    ///
    /// # Errors
    /// Where the disk does not take it.
    pub fn write(&self, standing: &Standing) -> io::Result<()> {
        let mut text = serde_json::to_vec(standing)?;
        // In one step, so that nobody reads the half of it: blanks cover what stood there before.
        let length = self.file.metadata()?.len() as usize;
        text.resize(text.len().max(length), b' ');
        self.file.write_all_at(&text, 0)
    }
}

impl Drop for StandingFile {
    fn drop(&mut self) {
        // Err: somebody else has cleaned up.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// How the supervisor stands that serves these extensions; `None`: there is none.
pub fn standing(extensions: &Path) -> Option<Standing> {
    /// The supervisor may be writing.
    const ATTEMPTS: u32 = 5;
    let mut file = File::open(path(extensions)?).ok()?;
    // Whoever held it has ended, however.
    if !matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)) {
        return None;
    }
    for _ in 0..ATTEMPTS {
        let mut text = String::new();
        file.read_to_string(&mut text).ok()?;
        if let Ok(standing) = serde_json::from_str(&text) {
            return Some(standing);
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
        file = File::open(path(extensions)?).ok()?;
    }
    None
}

/// What the supervisor that serves these extensions leaves out, for the commands beside it.
pub fn quarantined(extensions: &Path) -> Vec<Quarantined> {
    standing(extensions).unwrap_or_default().quarantined
}

fn path(extensions: &Path) -> Option<PathBuf> {
    let absolute = extensions.canonicalize();
    let owner = absolute.as_deref().unwrap_or(extensions);
    scratch::folder_kept_for(owner).map(|folder| folder.join(FILE_NAME))
}
