//! From the extensions folder to the next snapshot: at the start, and each time that something there has changed.
//!
//! Only what has changed is loaded, and what was refused for a cause that may have passed. A build that cannot be served leaves
//! the one before it serving, and is told once.

use std::io;
use std::sync::{Arc, PoisonError};

use super::catalog::Catalog;
use super::changes::{Change, What, report};
use super::discovery::{self, Discovery, Folder};
use super::error::Reason;
use super::hook_thread::HookThread;
use super::loaded::Extension;
use super::manifest;
use super::marks::FileMarks;
use super::pipeline::{NextStep, Ready, Seen, ahead};
use super::registry::{FolderEntry, Registry, State};
use crate::platform::env::Env;
use crate::platform::error_chain::error_chain;
use crate::platform::log::{self, Level};

/// What is to be looked at.
pub enum Scope<'a> {
    /// What has changed.
    Changed,
    /// As [`Changed`](Self::Changed), among the folders of these names: the others are passed over.
    Named(&'a [String]),
    /// What has changed, and what was refused for a cause that may have passed.
    Refused,
    /// As [`Refused`](Self::Refused), where nobody has asked for it. What is refused once more by a process of its own is not
    /// loaded, because each library that the host loads stays mapped.
    RefusedStill,
    /// What has changed, and this id, or the folder of that name where it is not mounted, whether it has or not.
    Id(&'a str),
}

/// Brings the host's snapshot in line with the extensions folder and the environment.
///
/// May block for a while: not for a worker. One caller at a time gets through.
///
/// # Errors
/// Where the folder itself cannot be read; the snapshot then stays.
pub fn update(catalog: &Arc<Catalog>, scope: &Scope<'_>) -> io::Result<Vec<Change>> {
    let _one_at_a_time = catalog
        .updating
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let before = catalog.registry.load_full();
    let Discovery {
        mut folders,
        passed_over,
    } = discovery::discover(&catalog.config.extensions_path)?;
    if let Scope::Named(names) = scope {
        folders.retain(|folder| names.contains(&folder.name));
    }
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
    let env = catalog.env.load_full();
    // Afterwards, when the host serves, what has changed is little, and the workers need the cores.
    let is_start = before.entries.is_empty() && !folders.is_empty();
    let mut ahead = is_start.then(|| ahead(catalog, &env, &folders));
    let mut hooks = HookThread::default();
    for folder in folders.iter() {
        let ready = ahead.as_mut().and_then(Iterator::next);
        let known = before.entry(&folder.name);
        if let Some(known) = known
            && !must_reload(known, &FileMarks::of(&folder.path), &env, scope, &next)
        {
            next.entries.push(known.clone());
            continue;
        }
        if known.is_some_and(|known| is_wanted(known, scope)) {
            catalog.quarantine.release(&folder.name);
        }
        let failed_in_create = known
            .and_then(FolderEntry::failure)
            .is_some_and(|error| error.reason.is_of_create());
        let has_to_pass = failed_in_create && matches!(scope, Scope::RefusedStill);
        let look = || Seen::of(folder, &env, catalog, has_to_pass).open(folder, &env, catalog);
        let ready = ready.unwrap_or_else(look);
        let (entry, what) = attempt(catalog, &mut hooks, known, folder, ready, &mut next);
        if let Some(what) = what {
            changes.push(Change {
                folder: entry.folder.clone(),
                what,
            });
        }
        next.entries.push(entry);
    }
    let next = Arc::new(next);
    catalog.registry.store(next.clone());
    let served = next.mounted().map(|served| served.name().to_string());
    catalog.quarantine.tell_served(served);
    let is_kept = |old: &Arc<Extension>| next.loaded().any(|kept| Arc::ptr_eq(kept, old));
    for old in before.loaded().filter(|old| !is_kept(old)) {
        catalog.retire(old.clone());
    }
    Ok(changes)
}

/// Reads the environment anew, brings the snapshot in line, and writes what has changed.
///
/// # Errors
/// Where the extensions folder cannot be read, which has been logged.
pub fn refresh(catalog: &Arc<Catalog>, scope: &Scope<'_>) -> io::Result<Vec<Change>> {
    match catalog.env.load().reread() {
        Ok(Some(env)) => catalog.env.store(Arc::new(env)),
        Ok(None) => {}
        Err(error) => log::event(
            Level::Error,
            &error_chain(&error),
            &[("serving_with", &"the variables as they were")],
        ),
    }
    let changes = update(catalog, scope).inspect_err(|cause| {
        let fields: [log::Field<'_>; 2] = [
            ("path", &catalog.config.extensions_path.display()),
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
fn must_reload(
    known: &FolderEntry,
    marks: &FileMarks,
    env: &Env,
    scope: &Scope<'_>,
    next: &Registry,
) -> bool {
    let may_have_passed =
        matches!(scope, Scope::Refused | Scope::RefusedStill) && known.may_have_passed();
    if is_wanted(known, scope) || may_have_passed || known.marks != *marks {
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

/// Whether somebody wants it loaded anew.
fn is_wanted(known: &FolderEntry, scope: &Scope<'_>) -> bool {
    match scope {
        Scope::Changed | Scope::Named(_) | Scope::Refused | Scope::RefusedStill => false,
        Scope::Id(id) => known.extension().map_or(known.folder == *id, |known| {
            known.endpoints.iter().any(|endpoint| endpoint.id == *id)
        }),
    }
}

/// Makes and mounts the extension of a folder; where that fails, what was served before stays. No change: it fails as before.
fn attempt(
    catalog: &Arc<Catalog>,
    hooks: &mut HookThread,
    known: Option<&FolderEntry>,
    folder: &Folder,
    Ready { marks, next: step }: Ready,
    next: &mut Registry,
) -> (FolderEntry, Option<What>) {
    let before = known.and_then(FolderEntry::extension);
    let entry = |state, rejected| FolderEntry {
        folder: folder.name.clone(),
        state,
        marks,
        rejected,
    };
    let generation = before.map_or(1, |before| before.generation + 1);
    let created = match step {
        Ok(NextStep::Off(switch)) => {
            next.unmount(&folder.name);
            return (entry(State::Off(switch), None), Some(What::Off));
        }
        Ok(NextStep::StillRefused) => match known {
            Some(known) => {
                let FolderEntry {
                    state, rejected, ..
                } = known.clone();
                return (entry(state, rejected), None);
            }
            None => Err(Reason::NoEndpoint),
        },
        Ok(NextStep::Create(opened)) => {
            opened.create(generation, &catalog.config.limits, catalog.callbacks, hooks)
        }
        Err(reason) => Err(reason),
    };
    let mounted = created.and_then(|extension| {
        let state = next
            .mount(&extension, &catalog.config)
            .inspect_err(|_| catalog.retire(extension.clone()))?;
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
            (entry(state, None), Some(what))
        }
        (Err(error), known, before) => {
            let is_told = known
                .and_then(FolderEntry::failure)
                .is_some_and(|told| told.reason.is_same(&error.reason));
            let (entry, what) = match (known, before) {
                (Some(known), Some(before)) => (
                    entry(known.state.clone(), Some(error.clone())),
                    What::Kept(before.clone(), error),
                ),
                _ => (
                    entry(State::Refused(error.clone()), None),
                    What::Refused(error),
                ),
            };
            (entry, (!is_told).then_some(what))
        }
    }
}
