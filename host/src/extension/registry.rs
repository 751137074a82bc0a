//! What is mounted: id to extension. An immutable snapshot, swapped whole.

use std::sync::Arc;

use super::discovery::PassedOver;
use super::error::{LoadError, Reason};
use super::loaded::{Endpoint, Extension};
use super::marks::FileMarks;
use crate::config::Config;
use crate::config::values::Require;
use crate::platform::fnv::FnvMap;

/// A snapshot of all extensions.
#[derive(Clone, Default)]
pub struct Registry {
    mounts: FnvMap<Mount>,
    /// Every extension folder, by name, and what became of it.
    pub entries: Vec<FolderEntry>,
    /// Folders that look like an extension's and are none.
    pub passed_over: Vec<PassedOver>,
}

/// What serves an id.
#[derive(Clone)]
pub struct Mount {
    /// The extension.
    pub extension: Arc<Extension>,
    /// Which of its endpoints.
    endpoint: usize,
    /// Whom the operator lets in.
    pub require: Require,
}

impl Mount {
    /// The endpoint.
    pub fn endpoint(&self) -> &Endpoint {
        &self.extension.endpoints[self.endpoint]
    }
}

/// An extension folder and what became of it.
#[derive(Clone)]
pub struct FolderEntry {
    /// The folder's name.
    pub folder: String,
    /// Served, switched off, or refused.
    pub state: State,
    /// The files as they were when that was decided.
    pub marks: FileMarks,
    /// Why those files are not what is served: the generation before them still is.
    pub rejected: Option<Arc<LoadError>>,
}

/// What became of an extension folder.
#[derive(Clone)]
pub enum State {
    /// It is served.
    Mounted(Arc<Extension>),
    /// The operator has switched all of its ids off.
    Disabled(Arc<Extension>),
    /// It waits for a variable to switch it on, and is not loaded.
    Off(String),
    /// It is not served, and why.
    Refused(Arc<LoadError>),
}

impl FolderEntry {
    /// The loaded extension, switched off or not.
    pub fn extension(&self) -> Option<&Arc<Extension>> {
        match &self.state {
            State::Mounted(extension) | State::Disabled(extension) => Some(extension),
            State::Off(_) | State::Refused(_) => None,
        }
    }

    /// Why its files, as they are, are not served.
    pub fn failure(&self) -> Option<&Arc<LoadError>> {
        match &self.state {
            State::Refused(error) => Some(error),
            _ => self.rejected.as_ref(),
        }
    }

    /// Whether that may be over although they have not changed.
    pub fn may_have_passed(&self) -> bool {
        self.failure().is_some_and(|error| error.reason.may_pass())
    }
}

impl Registry {
    /// What serves an id.
    pub fn find(&self, id: &str) -> Option<&Mount> {
        self.mounts.get(id)
    }

    /// What became of a folder.
    pub fn entry(&self, folder: &str) -> Option<&FolderEntry> {
        self.entries.iter().find(|entry| entry.folder == folder)
    }

    /// All extensions that are loaded, switched off or not.
    pub fn loaded(&self) -> impl Iterator<Item = &Arc<Extension>> {
        self.entries.iter().filter_map(FolderEntry::extension)
    }

    /// The extensions that are served.
    pub fn mounted(&self) -> impl Iterator<Item = &Arc<Extension>> {
        self.entries.iter().filter_map(|entry| match &entry.state {
            State::Mounted(extension) => Some(extension),
            _ => None,
        })
    }

    /// Why extensions are not served.
    pub fn refused(&self) -> impl Iterator<Item = &Arc<LoadError>> {
        self.entries.iter().filter_map(|entry| match &entry.state {
            State::Refused(error) => Some(error),
            _ => None,
        })
    }

    /// Mounts an extension in place of an earlier build of it.
    ///
    /// # Errors
    /// Where another extension has one of its ids; nothing is changed then.
    pub fn mount(&mut self, extension: &Arc<Extension>, config: &Config) -> Result<State, Reason> {
        let of_others = |endpoint: &&Endpoint| {
            self.find(&endpoint.id)
                .is_some_and(|holder| holder.extension.name() != extension.name())
        };
        if let Some(endpoint) = extension.endpoints.iter().find(of_others) {
            let first = self
                .find(&endpoint.id)
                .map_or("", |holder| holder.extension.name())
                .to_owned();
            return Err(Reason::DuplicateId {
                id: endpoint.id.clone(),
                first,
            });
        }
        // Looks at every mount: not for the first build, of which nothing is mounted.
        if extension.generation > 1 {
            self.unmount(extension.name());
        }
        let mut is_served = false;
        for (number, endpoint) in extension.endpoints.iter().enumerate() {
            let rules = config
                .extensions
                .get(&endpoint.id)
                .cloned()
                .unwrap_or_default();
            if rules.enabled {
                is_served = true;
                let mount = Mount {
                    extension: extension.clone(),
                    endpoint: number,
                    require: rules.require,
                };
                self.mounts.insert(endpoint.id.as_str().into(), mount);
            }
        }
        let extension = extension.clone();
        Ok(if is_served {
            State::Mounted(extension)
        } else {
            State::Disabled(extension)
        })
    }

    /// Takes an extension's ids away.
    pub fn unmount(&mut self, folder: &str) {
        self.mounts
            .retain(|_, mount| mount.extension.name() != folder);
    }
}

/// An extension's ids, for people.
pub fn ids(extension: &Extension) -> String {
    extension
        .endpoints
        .iter()
        .map(|endpoint| endpoint.id.as_str())
        .collect::<Vec<_>>()
        .join(",")
}
