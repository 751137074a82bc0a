//! Watches the extensions folder, and brings the host's snapshot in line when something there has changed and is whole.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

use super::catalog::Catalog;
use super::discovery;
use super::loader::{self, Scope};
use super::marks::FileMarks;
use crate::platform::log::{self, Level};

/// How long nothing may change before files count as whole.
pub const SETTLED: Duration = Duration::from_millis(20);
/// How often files are looked at where no event comes: some file systems send none.
const EVERY: Duration = Duration::from_secs(2);

/// Watches until it is dropped.
pub struct Watcher {
    wake: Sender<Wake>,
}

enum Wake {
    /// Something has changed, perhaps.
    Event,
    /// The host is stopping.
    Stop,
}

impl Watcher {
    /// Starts to watch.
    ///
    /// # Errors
    /// Where the thread cannot be started.
    pub fn start(catalog: Arc<Catalog>) -> std::io::Result<Self> {
        let (wake, woken) = mpsc::channel();
        let events = wake.clone();
        std::thread::Builder::new()
            .name("watcher".to_owned())
            .spawn(move || watch(&catalog, &events, &woken))?;
        Ok(Self { wake })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // Err: the thread has ended.
        let _ = self.wake.send(Wake::Stop);
    }
}

fn watch(catalog: &Arc<Catalog>, events: &Sender<Wake>, woken: &Receiver<Wake>) {
    let sender = events.clone();
    let watcher = notify::recommended_watcher(move |_event| {
        // Err: nobody listens any more.
        let _ = sender.send(Wake::Event);
    });
    let mut watcher = watcher
        .inspect_err(|cause| {
            log::event(
                Level::Warn,
                "the system reports no changes of files; they are looked at now and then",
                &[("cause", cause)],
            )
        })
        .ok();
    let mut watched = HashSet::new();
    let mut seen = look(catalog);
    // What changed between the loading and this look has been seen, and not loaded.
    let mut is_loaded = false;
    loop {
        if let Some(watcher) = &mut watcher {
            watch_folders(watcher, &mut watched, &seen);
        }
        // What changed before its folder was watched sent no event.
        let now = look(catalog);
        if now == seen && is_loaded {
            match woken.recv_timeout(EVERY) {
                Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(Wake::Event) | Err(RecvTimeoutError::Timeout) => {}
            }
        }
        let Some(settled) = settle(catalog, woken) else {
            return;
        };
        if settled != seen || !is_loaded {
            (seen, is_loaded) = (settled, true);
            // An error has been logged; the next change may cure it.
            let _ = loader::refresh(catalog, &Scope::Changed);
        }
    }
}

/// All that is watched: the environment file, and each extension folder.
#[derive(PartialEq)]
struct Seen {
    env: FileMarks,
    env_folder: PathBuf,
    root: PathBuf,
    extensions: Vec<(PathBuf, FileMarks)>,
}

fn look(catalog: &Catalog) -> Seen {
    let env_file = &catalog.config.env_file;
    let root = catalog.config.extensions_path.clone();
    Seen {
        env: FileMarks::of_file(env_file),
        env_folder: env_file
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or(Path::new("."))
            .to_owned(),
        extensions: discovery::folders(&root)
            .into_iter()
            .map(|path| (path.clone(), FileMarks::of(&path)))
            .collect(),
        root,
    }
}

/// Waits until nothing changes any more; `None` when the host stops.
fn settle(catalog: &Catalog, woken: &Receiver<Wake>) -> Option<Seen> {
    let mut before = look(catalog);
    loop {
        std::thread::sleep(SETTLED);
        while let Ok(wake) = woken.try_recv() {
            if matches!(wake, Wake::Stop) {
                return None;
            }
        }
        let now = look(catalog);
        if now == before {
            return Some(now);
        }
        before = now;
    }
}

/// Watches the folders in which a change may matter: the root, each extension, its `dist`, and where links lead.
fn watch_folders(watcher: &mut RecommendedWatcher, watched: &mut HashSet<PathBuf>, seen: &Seen) {
    let mut wanted = HashSet::from([seen.root.clone(), seen.env_folder.clone()]);
    for (path, marks) in &seen.extensions {
        wanted.insert(path.clone());
        wanted.insert(path.join("dist"));
        wanted.extend(marks.folders());
    }
    for gone in watched.difference(&wanted).filter(|gone| gone.exists()) {
        let _ = watcher.unwatch(gone);
    }
    // A folder that was deleted and made again has lost its watch, so that each is asked for anew.
    watched.clear();
    for folder in wanted {
        if watcher.watch(&folder, RecursiveMode::NonRecursive).is_ok() {
            watched.insert(folder);
        }
    }
}
