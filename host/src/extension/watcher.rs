//! Watches the extensions folder, and brings the host's snapshot in line when something there has changed and is whole.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

use super::catalog::Catalog;
use super::discovery;
use super::loader::{self, Scope};
use super::marks::FileMarks;
use super::registry::FolderEntry;
use crate::platform::log::{self, Level};

/// How long nothing may change before files count as whole that were put in their place by a rename, as builds should be.
pub const SETTLED: Duration = Duration::from_millis(20);
/// The same for files that are written over: who writes may pause, and what is there meanwhile may be half of a file.
const REWRITTEN_SETTLED: Duration = Duration::from_millis(500);
/// What the system says where a process has too many of something open.
const EMFILE: i32 = 24;
/// How often files are looked at where no event comes: some file systems send none.
const EVERY: Duration = Duration::from_secs(2);

/// When what was refused for a cause that may have passed is tried again: soon, then more and more seldom.
struct Retry {
    pause: Duration,
    /// `None`: there is nothing to be tried.
    due: Option<Instant>,
}

impl Retry {
    const FIRST: Duration = Duration::from_secs(2);
    const MAX: Duration = Duration::from_secs(300);

    /// After a change: there may be something else to be tried.
    fn begin(&mut self, catalog: &Catalog) {
        self.pause = Self::FIRST;
        self.plan(catalog);
    }

    /// After a try.
    fn go_on(&mut self, catalog: &Catalog) {
        self.pause = (self.pause * 2).min(Self::MAX);
        self.plan(catalog);
    }

    fn plan(&mut self, catalog: &Catalog) {
        let registry = catalog.registry.load();
        let is_needed = registry.entries.iter().any(FolderEntry::may_have_passed);
        self.due = is_needed.then(|| Instant::now() + self.pause);
    }

    fn is_due(&self) -> bool {
        self.due.is_some_and(|due| Instant::now() >= due)
    }
}

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
    let mut watcher = watcher.inspect_err(report_unwatched).ok();
    let mut watched = HashSet::new();
    let mut is_unwatched_told = false;
    let mut retry = Retry {
        pause: Retry::FIRST,
        due: None,
    };
    let mut seen = as_loaded(catalog);
    // The environment file may have changed between its being read and this look.
    let mut is_loaded = false;
    loop {
        if let Some(watcher) = &mut watcher {
            let failed = watch_folders(watcher, &mut watched, &seen);
            if let Some(cause) = failed.filter(|_| !is_unwatched_told) {
                is_unwatched_told = true;
                report_unwatched(&cause);
            }
        }
        // What changed before its folder was watched sent no event.
        let now = look(catalog);
        if now == seen && is_loaded {
            match woken.recv_timeout(EVERY) {
                Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(Wake::Event) | Err(RecvTimeoutError::Timeout) => {}
            }
        }
        let Some(settled) = settle(catalog, &seen, woken) else {
            return;
        };
        // Errors have been logged; the next change may cure them.
        if settled != seen || !is_loaded {
            (seen, is_loaded) = (settled, true);
            let _ = loader::refresh(catalog, &Scope::Changed);
            retry.begin(catalog);
        } else if retry.is_due() {
            let _ = loader::refresh(catalog, &Scope::RefusedStill);
            retry.go_on(catalog);
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

impl Seen {
    /// Whether a file was written over since.
    fn is_rewritten_since(&self, before: &Self) -> bool {
        let of_extension = |(path, now): &(PathBuf, FileMarks)| {
            // They are sorted.
            let found = before.extensions.binary_search_by(|(old, _)| old.cmp(path));
            found.is_ok_and(|at| now.is_rewritten_since(&before.extensions[at].1))
        };
        self.env.is_rewritten_since(&before.env) || self.extensions.iter().any(of_extension)
    }
}

/// Says that changes are seen late, and what can be done about it.
fn report_unwatched(cause: &notify::Error) {
    let remedy = match &cause.kind {
        notify::ErrorKind::MaxFilesWatch => {
            "raise the sysctl fs.inotify.max_user_watches (in a user namespace, user.max_inotify_watches)"
        }
        notify::ErrorKind::Io(error) if error.raw_os_error() == Some(EMFILE) => {
            "raise the sysctl fs.inotify.max_user_instances (in a user namespace, user.max_inotify_instances), or the limit of open files"
        }
        _ => "nothing has to be done, unless changes have to be seen sooner",
    };
    let fields: [log::Field<'_>; 2] = [("cause", cause), ("remedy", &remedy)];
    log::event(
        Level::Warn,
        "the system does not report each change of a file; files are looked at every 2 s",
        &fields,
    );
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

/// [`look`], of the extensions as they were when they were loaded: one may have been written over since.
fn as_loaded(catalog: &Catalog) -> Seen {
    let root = &catalog.config.extensions_path;
    let registry = catalog.registry.load();
    let entries = registry.entries.iter();
    let extensions = entries.map(|entry| (root.join(&entry.folder), entry.marks.clone()));
    Seen {
        extensions: extensions.collect(),
        ..look(catalog)
    }
}

/// Waits until nothing changes any more; `None` when the host stops. `seen` is what was there when nothing did.
fn settle(catalog: &Catalog, seen: &Seen, woken: &Receiver<Wake>) -> Option<Seen> {
    let mut before = look(catalog);
    let mut is_rewritten = before.is_rewritten_since(seen);
    let mut quiet_since = Instant::now();
    loop {
        std::thread::sleep(SETTLED);
        while let Ok(wake) = woken.try_recv() {
            if matches!(wake, Wake::Stop) {
                return None;
            }
        }
        let now = look(catalog);
        if now != before {
            is_rewritten |= now.is_rewritten_since(&before);
            (before, quiet_since) = (now, Instant::now());
        } else if !is_rewritten || quiet_since.elapsed() >= REWRITTEN_SETTLED {
            return Some(now);
        }
    }
}

/// Watches the folders in which a change may matter: the root, each extension, its `dist`, and where links lead. Returns why one
/// that is there cannot be watched.
fn watch_folders(
    watcher: &mut RecommendedWatcher,
    watched: &mut HashSet<PathBuf>,
    seen: &Seen,
) -> Option<notify::Error> {
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
    let mut failed = None;
    for folder in wanted {
        match watcher.watch(&folder, RecursiveMode::NonRecursive) {
            Ok(()) => _ = watched.insert(folder),
            Err(error) if folder.exists() => failed = Some(error),
            Err(_) => {}
        }
    }
    failed
}
