//! What of a load needs no other extension's to be over: at a start, threads do it for many extensions at the same time.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use super::catalog::Catalog;
use super::discovery::{self, Discovered, Folder};
use super::error::Reason;
use super::library::{self, Checked};
use super::manifest::Manifest;
use super::marks::FileMarks;
use super::opened::OpenedExtension;
use super::trial::{Outcome, Subject};
use crate::platform::env::Env;
use crate::platform::handover::Quarantined;

/// An extension whose files have been looked at.
pub struct Seen {
    /// The files as they were before.
    marks: FileMarks,
    found: Result<Found, Reason>,
}

/// What the files say.
enum Found {
    /// This variable does not switch it on.
    Off(String),
    /// It was refused, and would be once more.
    StillRefused,
    /// It is to be loaded; its library is copied, checked, and tried.
    On(Box<(Manifest, Result<Checked, Reason>)>),
}

impl Seen {
    /// Looks at the files of a folder, takes a copy of its library, checks it, and has it tried by a process of its own. One that
    /// has to pass there, and does not, is not loaded.
    pub fn of(folder: &Folder, env: &Env, catalog: &Catalog, has_to_pass: bool) -> Self {
        let marks = FileMarks::of(&folder.path);
        let left_out = catalog.quarantine.find(&folder.name, marks.fingerprint());
        if let Some(Quarantined {
            ids, since, why, ..
        }) = left_out
        {
            let found = Err(Reason::Quarantined { ids, since, why });
            return Self { marks, found };
        }
        let found = discovery::examine(&folder.path).map(|Discovered { manifest, library }| {
            let switch = manifest.enabled_by.clone();
            if let Some(switch) = switch.filter(|_| !manifest.is_enabled(env)) {
                return Found::Off(switch);
            }
            match tried(folder, &manifest, &library, env, catalog) {
                Ok((_, Outcome::Refused)) if has_to_pass => Found::StillRefused,
                tried => Found::On(Box::new((manifest, tried.map(|(checked, _)| checked)))),
            }
        });
        Self { marks, found }
    }

    /// Loads the library, where it is to be loaded.
    pub fn open(self, folder: &Folder, env: &Env, catalog: &Arc<Catalog>) -> Ready {
        let fingerprint = self.marks.fingerprint();
        let open = |found| match found {
            Found::Off(switch) => Ok(NextStep::Off(switch)),
            Found::StillRefused => Ok(NextStep::StillRefused),
            Found::On(found) => {
                let (manifest, checked) = *found;
                let (name, path) = (&folder.name, &folder.path);
                let workers = &catalog.workers;
                let opened =
                    OpenedExtension::of(name, path, manifest, checked, env, workers, fingerprint)?;
                Ok(NextStep::Create(Box::new(opened)))
            }
        };
        Ready {
            marks: self.marks,
            next: self.found.and_then(open),
        }
    }
}

/// Takes a copy of a library, checks it, and has it tried.
fn tried(
    folder: &Folder,
    manifest: &Manifest,
    library: &Path,
    env: &Env,
    catalog: &Catalog,
) -> Result<(Checked, Outcome), Reason> {
    let config = &catalog.config;
    let mut checked = Checked::of(library, &catalog.copies, config.allow_panic_abort)?;
    manifest.check_variables(env)?;
    if !config.trial_load {
        return Ok((checked, Outcome::Passed));
    }
    let subject = Subject {
        name: &folder.name,
        folder: &folder.path,
        manifest,
        env,
        timeout: Duration::from_millis(config.limits.create_timeout_ms),
        allow_panic_abort: config.allow_panic_abort,
    };
    let outcome = subject.try_out(&mut checked, &catalog.copies)?;
    Ok((checked, outcome))
}

/// An extension of which all is done that needs no other's turn to be over.
pub struct Ready {
    /// The files as they were before.
    pub marks: FileMarks,
    /// What is to be done next, or why nothing can be.
    pub next: Result<NextStep, Reason>,
}

/// What is to be done when an extension's turn comes.
pub enum NextStep {
    /// Nothing: see [`Found::Off`].
    Off(String),
    /// Nothing: see [`Found::StillRefused`].
    StillRefused,
    /// To make the instance.
    Create(Box<OpenedExtension>),
}

/// Has all that can be done before an extension's turn done by other threads: with many extensions, a start then takes what
/// the busiest of them takes. One for each core looks, copies and tries; another opens, one after the other, for the system's loader
/// has one lock. What they leave undone, for there could be no thread, is done when the turn comes.
pub fn ahead(
    catalog: &Arc<Catalog>,
    env: &Arc<Env>,
    folders: &Arc<Vec<Folder>>,
) -> impl Iterator<Item = Ready> + use<> {
    /// More would only get into each other's way at the disk.
    const LANES_MAX: usize = 8;
    /// How many a thread may be ahead of the next.
    const WAITING_MAX: usize = 32;
    // That of an extension's `create` will do for what runs while its library is opened.
    let timeout = Duration::from_millis(catalog.config.limits.create_timeout_ms.max(1));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let count = cores.min(LANES_MAX).min(folders.len());
    // The first lane has the first folder of each round, the second the second.
    let lane = |number: usize| {
        let (give, take) = sync_channel(WAITING_MAX);
        let (catalog, env, folders) = (catalog.clone(), env.clone(), folders.clone());
        spawn("copy", move || {
            for folder in folders.iter().skip(number).step_by(count) {
                // Err: nobody waits any more.
                if give.send(Seen::of(folder, &env, &catalog, false)).is_err() {
                    return;
                }
            }
        });
        take
    };
    let lanes: Vec<Receiver<Seen>> = (0..count).map(lane).collect();
    let (give, take) = sync_channel(WAITING_MAX);
    let (catalog, env, folders) = (catalog.clone(), env.clone(), folders.clone());
    spawn("open", move || {
        for (folder, lane) in folders.iter().zip(lanes.iter().cycle()) {
            let seen = lane.recv();
            let seen = seen.unwrap_or_else(|_| Seen::of(folder, &env, &catalog, false));
            // As above.
            if give.send(seen.open(folder, &env, &catalog)).is_err() {
                return;
            }
        }
    });
    std::iter::from_fn(move || {
        loop {
            match take.recv_timeout(timeout) {
                Ok(ready) => return Some(ready),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => _ = library::is_opening(timeout),
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
