//! From the extensions folder to the next snapshot: at the start, and each time that something there has changed.
//!
//! Only what has changed is loaded. A build that cannot be served leaves the one before it serving, and is told once.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::extension::discovery::{self, Discovered, Discovery, Folder};
use crate::extension::instance::{Aside, Opened};
use crate::extension::library::{self, Checked};
use crate::extension::manifest::{self, Manifest};
use crate::extension::registry::{Entry, Registry, State, ids};
use crate::extension::{Extension, LoadError, Reason};
use crate::platform::env::Env;
use crate::platform::error_chain::error_chain;
use crate::platform::log::{self, Level};
use crate::server::Host;

/// The files of an extension as they were at some time: whether they have changed since is one comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks(Vec<Mark>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    path: PathBuf,
    /// Of the file behind all links, with the inode, so that a link that is switched counts as a change.
    device: u64,
    inode: u64,
    size: u64,
    modified_ns: i128,
}

impl Marks {
    /// The marks of an extension's manifest and libraries.
    pub fn of(folder: &Path) -> Self {
        let mut marks: Vec<Mark> = mark(&folder.join(manifest::FILE_NAME))
            .into_iter()
            .collect();
        let libraries = fs::read_dir(folder.join("dist"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        // A name that begins with a dot is a file that is not finished.
        let is_library = |path: &PathBuf| {
            let is_hidden = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with('.');
            path.extension()
                .is_some_and(|suffix| suffix == std::env::consts::DLL_EXTENSION)
                && !path.file_name().is_some_and(is_hidden)
        };
        marks.extend(libraries.filter(is_library).filter_map(|path| mark(&path)));
        marks.sort_by(|a, b| a.path.cmp(&b.path));
        Self(marks)
    }

    /// The mark of one file.
    pub fn of_file(path: &Path) -> Self {
        Self(mark(path).into_iter().collect())
    }

    /// The folders that hold the files, behind all links as they lead now.
    pub fn folders(&self) -> impl Iterator<Item = PathBuf> {
        let behind = self.0.iter().flat_map(|mark| mark.path.canonicalize());
        behind.filter_map(|path| path.parent().map(Path::to_owned))
    }
}

fn mark(path: &Path) -> Option<Mark> {
    let about = fs::metadata(path).ok()?;
    let modified_ns = i128::from(about.mtime()) * 1_000_000_000 + i128::from(about.mtime_nsec());
    Some(Mark {
        path: path.to_owned(),
        device: about.dev(),
        inode: about.ino(),
        size: about.size(),
        modified_ns,
    })
}

/// What is to be looked at.
pub enum Scope<'a> {
    /// What has changed.
    Changed,
    /// What has changed, and this id, whether it has or not.
    Id(&'a str),
}

/// What a look at the folder has changed.
pub struct Change {
    /// The extension's folder.
    pub folder: String,
    /// What happened.
    pub what: What,
}

/// What happened to an extension.
pub enum What {
    /// A new folder is served.
    Mounted(Arc<Extension>),
    /// A new build has taken the place of another.
    Reloaded(Arc<Extension>),
    /// A new build was refused; the one before it serves on.
    Kept(Arc<Extension>, Arc<LoadError>),
    /// It is not served.
    Refused(Arc<LoadError>),
    /// Its folder has gone, or it was switched off.
    Unmounted,
    /// It waits to be switched on, or the operator has switched it off.
    Off,
}

/// Brings the host's snapshot in line with the extensions folder and the environment.
///
/// May block for a while: not for a worker. One caller at a time gets through.
///
/// # Errors
/// Where the folder itself cannot be read; the snapshot then stays.
pub fn update(host: &Arc<Host>, scope: &Scope<'_>) -> io::Result<Vec<Change>> {
    let _one_at_a_time = host.updating.lock().unwrap_or_else(PoisonError::into_inner);
    let before = host.registry.load_full();
    let Discovery {
        folders,
        passed_over,
    } = discovery::discover(&host.config.extensions_path)?;
    let folders = Arc::new(folders);
    let mut next = Registry::clone(&before);
    next.entries.clear();
    next.passed_over = passed_over;
    let mut changes = Vec::new();
    for gone in before
        .entries
        .iter()
        .filter(|entry| !folders.iter().any(|folder| folder.name == entry.folder))
    {
        next.unmount(&gone.folder);
        changes.push(Change {
            folder: gone.folder.clone(),
            what: What::Unmounted,
        });
    }
    let env = host.env.load_full();
    // Afterwards, when the host serves, what has changed is little, and the workers need the cores.
    let is_start = before.entries.is_empty() && !folders.is_empty();
    let mut ahead = is_start.then(|| ahead(host, &env, &folders));
    let mut aside = Aside::default();
    for folder in folders.iter() {
        let ready = ahead.as_mut().and_then(Iterator::next);
        let known = before.entry(&folder.name);
        if let Some(known) = known
            && !is_due(known, &Marks::of(&folder.path), &env, scope, &next)
        {
            next.entries.push(known.clone());
            continue;
        }
        let ready = ready.unwrap_or_else(|| Seen::of(folder, &env, host).open(folder, &env, host));
        let (entry, what) = attempt(host, &mut aside, known, folder, ready, &mut next);
        changes.push(Change {
            folder: entry.folder.clone(),
            what,
        });
        next.entries.push(entry);
    }
    let next = Arc::new(next);
    host.registry.store(next.clone());
    let is_kept = |old: &Arc<Extension>| next.loaded().any(|kept| Arc::ptr_eq(kept, old));
    for old in before.loaded().filter(|old| !is_kept(old)) {
        host.retire(old.clone());
    }
    Ok(changes)
}

/// An extension whose files have been looked at.
struct Seen {
    /// The files as they were before.
    marks: Marks,
    found: Result<Found, Reason>,
}

/// What the files say.
enum Found {
    /// This variable does not switch it on.
    Off(String),
    /// It is to be loaded; its library is copied and checked.
    On(Box<Manifest>, Result<Checked, Reason>),
}

impl Seen {
    fn of(folder: &Folder, env: &Env, host: &Host) -> Self {
        let marks = Marks::of(&folder.path);
        let found = discovery::examine(&folder.path).map(|Discovered { manifest, library }| {
            let switch = manifest.enabled_by.clone();
            match switch.filter(|_| !manifest.is_enabled(env)) {
                Some(switch) => Found::Off(switch),
                None => {
                    let allow_panic_abort = host.config.allow_panic_abort;
                    let checked = Checked::of(&library, &host.copies, allow_panic_abort);
                    Found::On(Box::new(manifest), checked)
                }
            }
        });
        Self { marks, found }
    }

    fn open(self, folder: &Folder, env: &Env, host: &Arc<Host>) -> Ready {
        let open = |found| match found {
            Found::Off(switch) => Ok(Turn::Off(switch)),
            Found::On(manifest, checked) => {
                let (name, path) = (&folder.name, &folder.path);
                let opened = Opened::of(name, path, *manifest, checked, env, host)?;
                Ok(Turn::Create(Box::new(opened)))
            }
        };
        Ready {
            marks: self.marks,
            turn: self.found.and_then(open),
        }
    }
}

/// An extension of which all is done that needs no other's turn to be over.
struct Ready {
    marks: Marks,
    turn: Result<Turn, Reason>,
}

/// What is to be done when an extension's turn comes.
enum Turn {
    /// Nothing: see [`Found::Off`].
    Off(String),
    /// To make the instance.
    Create(Box<Opened>),
}

/// Has all that can be done before an extension's turn done by other threads: with many extensions, a start then takes what
/// the busiest of them takes. One for each core looks and copies; another opens, one after the other, for the system's loader
/// has one lock. What they leave undone, for there could be no thread, is done when the turn comes.
fn ahead(
    host: &Arc<Host>,
    env: &Arc<Env>,
    folders: &Arc<Vec<Folder>>,
) -> impl Iterator<Item = Ready> + use<> {
    /// More would only get into each other's way at the disk.
    const LANES_MAX: usize = 8;
    /// How many a thread may be ahead of the next.
    const WAITING_MAX: usize = 32;
    // That of an extension's `create` will do for what runs while its library is opened.
    let patience = Duration::from_millis(host.config.limits.create_timeout_ms.max(1));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let count = cores.min(LANES_MAX).min(folders.len());
    // The first lane has the first folder of each round, the second the second.
    let lane = |number: usize| {
        let (give, take) = sync_channel(WAITING_MAX);
        let (host, env, folders) = (host.clone(), env.clone(), folders.clone());
        spawn("copy", move || {
            for folder in folders.iter().skip(number).step_by(count) {
                // An error says that nobody waits any more.
                if give.send(Seen::of(folder, &env, &host)).is_err() {
                    return;
                }
            }
        });
        take
    };
    let lanes: Vec<Receiver<Seen>> = (0..count).map(lane).collect();
    let (give, take) = sync_channel(WAITING_MAX);
    let (host, env, folders) = (host.clone(), env.clone(), folders.clone());
    spawn("open", move || {
        for (folder, lane) in folders.iter().zip(lanes.iter().cycle()) {
            let seen = lane.recv();
            let seen = seen.unwrap_or_else(|_| Seen::of(folder, &env, &host));
            // As above.
            if give.send(seen.open(folder, &env, &host)).is_err() {
                return;
            }
        }
    });
    std::iter::from_fn(move || {
        loop {
            match take.recv_timeout(patience) {
                Ok(ready) => return Some(ready),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => _ = library::is_opening(patience),
            }
        }
    })
}

/// Starts a thread, where there can be one: who waits for it finds its channel closed otherwise.
fn spawn(name: &str, work: impl FnOnce() + Send + 'static) {
    let _ = std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work);
}

/// Reads the environment anew, brings the snapshot in line, and writes what has changed.
///
/// # Errors
/// Where the extensions folder cannot be read, which has been logged.
pub fn refresh(host: &Arc<Host>, scope: &Scope<'_>) -> io::Result<Vec<Change>> {
    match host.env.load().reread() {
        Ok(Some(env)) => host.env.store(Arc::new(env)),
        Ok(None) => {}
        Err(error) => log::event(
            Level::Error,
            &error_chain(&error),
            &[("serving_with", &"the variables as they were")],
        ),
    }
    let changes = update(host, scope).inspect_err(|cause| {
        let fields: [log::Field<'_>; 2] = [
            ("path", &host.config.extensions_path.display()),
            ("cause", cause),
        ];
        log::event(
            Level::Error,
            "cannot read the extensions folder; what is mounted stays",
            &fields,
        );
    })?;
    report(&changes);
    Ok(changes)
}

/// Whether an extension has to be looked at again.
fn is_due(known: &Entry, marks: &Marks, env: &Env, scope: &Scope<'_>, next: &Registry) -> bool {
    let is_meant = match scope {
        Scope::Changed => false,
        Scope::Id(id) => known.extension().map_or(known.folder == *id, |known| {
            known.endpoints.iter().any(|endpoint| endpoint.id == *id)
        }),
    };
    if is_meant || known.marks != *marks {
        return true;
    }
    match &known.state {
        State::Mounted(extension) | State::Disabled(extension) => {
            !extension.context.is_current(env, &extension.manifest)
        }
        State::Off(switch) => env.get(switch).is_some_and(manifest::is_on),
        State::Refused(error) => match &error.reason {
            Reason::DuplicateId { id, first } => next
                .find(id)
                .is_none_or(|holder| holder.extension.name() != first),
            Reason::MissingVariable { name } => env.get(name).is_some(),
            _ => false,
        },
    }
}

/// Makes and mounts the extension of a folder; where that fails, what was served before stays.
fn attempt(
    host: &Arc<Host>,
    aside: &mut Aside,
    known: Option<&Entry>,
    folder: &Folder,
    Ready { marks, turn }: Ready,
    next: &mut Registry,
) -> (Entry, What) {
    let before = known.and_then(Entry::extension);
    let entry = |state, rejected| Entry {
        folder: folder.name.clone(),
        state,
        marks,
        rejected,
    };
    let generation = before.map_or(1, |before| before.generation + 1);
    let created = match turn {
        Ok(Turn::Off(switch)) => {
            next.unmount(&folder.name);
            return (entry(State::Off(switch), None), What::Off);
        }
        Ok(Turn::Create(opened)) => opened.create(generation, host, aside),
        Err(reason) => Err(reason),
    };
    let mounted = created.and_then(|extension| {
        let state = next
            .mount(&extension, &host.config)
            .inspect_err(|_| host.retire(extension.clone()))?;
        Ok((extension, state))
    });
    let loaded = mounted.map_err(|reason| Arc::new(reason.of(&folder.name)));
    match (loaded, known, before) {
        (Ok((extension, state)), _, before) => {
            let what = match (&state, before) {
                (State::Disabled(_), _) => What::Off,
                (_, Some(_)) => What::Reloaded(extension),
                (_, None) => What::Mounted(extension),
            };
            (entry(state, None), what)
        }
        (Err(error), Some(known), Some(before)) => (
            entry(known.state.clone(), Some(error.clone())),
            What::Kept(before.clone(), error),
        ),
        (Err(error), _, _) => (
            entry(State::Refused(error.clone()), None),
            What::Refused(error),
        ),
    }
}

/// Writes what has changed: one line each.
pub fn report(changes: &[Change]) {
    for Change { folder, what } in changes {
        match what {
            What::Mounted(extension) => {
                let fields: [log::Field<'_>; 3] = [
                    ("id", &ids(extension)),
                    ("version", &extension.manifest.version),
                    ("folder", folder),
                ];
                log::event(Level::Info, "mounted an extension", &fields);
            }
            What::Reloaded(extension) => {
                let fields: [log::Field<'_>; 4] = [
                    ("id", &ids(extension)),
                    ("version", &extension.manifest.version),
                    ("generation", &extension.generation),
                    ("folder", folder),
                ];
                log::event(Level::Info, "reloaded an extension", &fields);
            }
            What::Kept(extension, error) => {
                let fields: [log::Field<'_>; 3] = [
                    ("code", &error.code()),
                    ("folder", folder),
                    ("serving_generation", &extension.generation),
                ];
                log::event(Level::Error, &error_chain(error.as_ref()), &fields);
            }
            What::Refused(error) => {
                log::event(
                    Level::Error,
                    &error_chain(error.as_ref()),
                    &[("code", &error.code()), ("folder", folder)],
                );
            }
            What::Unmounted => {
                log::event(Level::Info, "unmounted an extension", &[("folder", folder)])
            }
            What::Off => log::event(
                Level::Info,
                "an extension is switched off",
                &[("folder", folder)],
            ),
        }
    }
}

/// Writes which folders look like an extension's and are none.
pub fn report_passed_over(registry: &Registry) {
    for passed in &registry.passed_over {
        log::event(
            Level::Warn,
            "a folder was passed over",
            &[("folder", &passed.folder), ("why", &passed.why)],
        );
    }
}

/// Stops and destroys extensions that have been replaced, each when the last request on it is over.
pub fn retire(extension: Arc<Extension>, patience: Duration) {
    let work = move || {
        extension.retire(Instant::now() + patience);
        extension.remove_copy();
    };
    // A thread of its own: it waits, and the hooks may block.
    let started = std::thread::Builder::new()
        .name("retire".to_owned())
        .spawn(work);
    if let Err(cause) = started {
        log::event(
            Level::Error,
            "cannot start a thread to stop an extension; it is kept as it is",
            &[("cause", &cause)],
        );
    }
}
