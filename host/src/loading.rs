//! From the extensions folder to the next snapshot: at the start, and each time that something there has changed.
//!
//! Only what has changed is loaded. A build that cannot be served leaves the one before it serving, and is told once.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::env::Env;
use crate::extension::discovery::{self, Discovered, Discovery, Found};
use crate::extension::library::Checked;
use crate::extension::{Extension, LoadError, Making, Reason, manifest};
use crate::log::{self, Level};
use crate::registry::{Entry, Registry, State, ids, whole};
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
    let Discovery { found, passed_over } = discovery::discover(&host.config.extensions_path)?;
    let mut next = Registry::clone(&before);
    next.entries.clear();
    next.passed_over = passed_over;
    let mut changes = Vec::new();
    for gone in before
        .entries
        .iter()
        .filter(|entry| !found.iter().any(|found| found.folder == entry.folder))
    {
        next.unmount(&gone.folder);
        changes.push(Change {
            folder: gone.folder.clone(),
            what: What::Unmounted,
        });
    }
    let env = host.env.load_full();
    let mut making = Making::new(&env, host);
    // Afterwards, when the host serves, what has changed is little, and the workers need the cores.
    let mut ahead = before
        .entries
        .is_empty()
        .then(|| Ahead::of(host, &env, &found));
    for found in found {
        let known = before.entry(&found.folder);
        let prepared = ahead.as_mut().and_then(Ahead::next);
        let (marks, checked) = prepared.unwrap_or_else(|| (Marks::of(&found.path), None));
        match known {
            Some(known) if !is_due(known, &marks, &env, scope, &next) => {
                next.entries.push(known.clone())
            }
            _ => {
                let (entry, what) = attempt(&mut making, known, found, (marks, checked), &mut next);
                changes.push(Change {
                    folder: entry.folder.clone(),
                    what,
                });
                next.entries.push(entry);
            }
        }
    }
    let next = Arc::new(next);
    host.registry.store(next.clone());
    let is_kept = |old: &Arc<Extension>| next.loaded().any(|kept| Arc::ptr_eq(kept, old));
    for old in before.loaded().filter(|old| !is_kept(old)) {
        host.retire(old.clone());
    }
    Ok(changes)
}

/// The files of an extension as they were before its library was copied, and the copy, if it has been taken.
type Prepared = (Marks, Option<Result<Checked, Reason>>);

/// Copies and checks libraries before their turn comes to be opened, on other threads: with many extensions, this is most of
/// what a start takes, and opening them is one after the other in any case, for the system's loader has one lock.
struct Ahead {
    /// The first lane has the first library of each round, the second the second; there is one for each core.
    lanes: Vec<Receiver<Prepared>>,
    turn: usize,
}

impl Ahead {
    fn of(host: &Arc<Host>, env: &Env, found: &[Found]) -> Self {
        /// More would only get into each other's way at the disk.
        const LANES_MAX: usize = 8;
        /// How many copies of a lane may wait.
        const WAITING_MAX: usize = 32;
        let to_prepare = |found: &Found| {
            let discovered = found.outcome.as_ref().ok();
            let loadable = discovered.filter(|discovered| discovered.manifest.is_enabled(env));
            let library = loadable.map(|discovered| discovered.library.clone());
            (found.path.clone(), library)
        };
        let all: Arc<[_]> = found.iter().map(to_prepare).collect();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let count = cores.min(LANES_MAX).min(all.len());
        let lane = |number: usize| {
            let (give, take) = sync_channel(WAITING_MAX);
            let (host, all) = (host.clone(), all.clone());
            let work = move || {
                for (folder, library) in all.iter().skip(number).step_by(count) {
                    let marks = Marks::of(folder);
                    let check = |library: &PathBuf| {
                        Checked::of(library, &host.copies, host.config.allow_panic_abort)
                    };
                    // An error says that nobody waits any more.
                    if give.send((marks, library.as_ref().map(check))).is_err() {
                        return;
                    }
                }
            };
            // Where there can be no thread, the lane is closed, and its libraries are copied when their turn comes.
            let _ = std::thread::Builder::new()
                .name("copy".to_owned())
                .spawn(work);
            take
        };
        Self {
            lanes: (0..count).map(lane).collect(),
            turn: 0,
        }
    }

    /// What has been done for the next extension.
    fn next(&mut self) -> Option<Prepared> {
        let lane = self.lanes.get(self.turn % self.lanes.len().max(1))?;
        self.turn += 1;
        lane.recv().ok()
    }
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
            &whole(&error),
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

/// Loads what is in a folder now; where that fails, what was served before stays.
fn attempt(
    making: &mut Making<'_>,
    known: Option<&Entry>,
    found: Found,
    (marks, checked): Prepared,
    next: &mut Registry,
) -> (Entry, What) {
    let Found {
        folder,
        path,
        outcome,
    } = found;
    let before = known.and_then(Entry::extension);
    let entry = |folder: String, state, rejected| Entry {
        folder,
        state,
        marks,
        rejected,
    };
    if let Ok(Discovered { manifest, .. }) = &outcome
        && let Some(switch) = manifest.enabled_by.clone()
        && !manifest.is_enabled(making.env)
    {
        next.unmount(&folder);
        return (entry(folder, State::Off(switch), None), What::Off);
    }
    let generation = before.map_or(1, |before| before.generation + 1);
    let loaded = outcome.and_then(|discovered| {
        let made = Extension::create(&folder, &path, discovered, checked, generation, making);
        let host = making.host;
        let mounted = made.and_then(|extension| {
            let state = next
                .mount(&extension, &host.config)
                .inspect_err(|_| host.retire(extension.clone()))?;
            Ok((extension, state))
        });
        mounted.map_err(|reason| reason.of(&folder))
    });
    match (loaded, known, before) {
        (Ok((extension, state)), _, before) => {
            let what = match (&state, before) {
                (State::Disabled(_), _) => What::Off,
                (_, Some(_)) => What::Reloaded(extension),
                (_, None) => What::Mounted(extension),
            };
            (entry(folder, state, None), what)
        }
        (Err(error), Some(known), Some(before)) => {
            let error = Arc::new(error);
            (
                entry(folder, known.state.clone(), Some(error.clone())),
                What::Kept(before.clone(), error),
            )
        }
        (Err(error), _, _) => {
            let error = Arc::new(error);
            (
                entry(folder, State::Refused(error.clone()), None),
                What::Refused(error),
            )
        }
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
                log::event(Level::Error, &whole(error.as_ref()), &fields);
            }
            What::Refused(error) => {
                log::event(
                    Level::Error,
                    &whole(error.as_ref()),
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
    let work = move || extension.retire(Instant::now() + patience);
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
