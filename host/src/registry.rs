//! What is mounted: id to extension. An immutable snapshot, swapped whole.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::values::Require;
use crate::extension::discovery::{self, Discovered, Found, PassedOver};
use crate::extension::instance::Endpoint;
use crate::extension::{Extension, LoadError, Reason};
use crate::log::{self, Level};
use crate::server::Host;

/// A snapshot of all extensions.
#[derive(Default)]
pub struct Registry {
    mounts: HashMap<Box<str>, Mount>,
    /// Every extension folder, by name, and what became of it.
    pub entries: Vec<Entry>,
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
pub struct Entry {
    /// The folder's name.
    pub folder: String,
    /// Served, switched off by the operator, or refused.
    pub state: State,
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

impl Registry {
    /// What serves an id.
    pub fn find(&self, id: &str) -> Option<&Mount> {
        self.mounts.get(id)
    }

    /// All extensions that are loaded, switched off or not.
    pub fn loaded(&self) -> impl Iterator<Item = &Arc<Extension>> {
        self.entries.iter().filter_map(|entry| match &entry.state {
            State::Mounted(extension) | State::Disabled(extension) => Some(extension),
            State::Off(_) | State::Refused(_) => None,
        })
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

    /// Adds what was found in a folder. An id that is taken already refuses the newcomer whole.
    fn add(&mut self, folder: String, loaded: Result<Arc<Extension>, LoadError>, host: &Host) {
        let loaded = loaded.and_then(|extension| {
            let taken = extension
                .endpoints
                .iter()
                .find_map(|endpoint| Some((endpoint, self.mounts.get(endpoint.id.as_str())?)));
            match taken {
                None => Ok(extension),
                Some((endpoint, holder)) => {
                    let reason = Reason::DuplicateId {
                        id: endpoint.id.clone(),
                        first: holder.extension.name().to_owned(),
                    };
                    extension.retire(std::time::Instant::now() + host.config.shutdown_timeout());
                    Err(reason.of(&folder))
                }
            }
        });
        let state = match loaded {
            Err(error) => State::Refused(Arc::new(error)),
            Ok(extension) => {
                let mut is_served = false;
                for (number, endpoint) in extension.endpoints.iter().enumerate() {
                    let rules = host
                        .config
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
                if is_served {
                    State::Mounted(extension)
                } else {
                    State::Disabled(extension)
                }
            }
        };
        self.entries.push(Entry { folder, state });
    }
}

/// Finds and loads all extensions of the configured folder.
///
/// # Errors
/// Where the folder itself cannot be read.
pub fn load(host: &Arc<Host>) -> std::io::Result<Registry> {
    let discovery::Discovery { found, passed_over } =
        discovery::discover(&host.config.extensions_path)?;
    let mut registry = Registry {
        passed_over,
        ..Registry::default()
    };
    for Found {
        folder,
        path,
        outcome,
    } in found
    {
        if let Ok(Discovered { manifest, .. }) = &outcome
            && let Some(switch) = &manifest.enabled_by
            && !manifest.is_enabled(&host.env)
        {
            registry.entries.push(Entry {
                folder,
                state: State::Off(switch.clone()),
            });
            continue;
        }
        let loaded = outcome.and_then(|discovered| {
            Extension::create(&folder, &path, discovered, 1, &host.env, &host.copies, host)
                .map_err(|reason| reason.of(&folder))
        });
        registry.add(folder, loaded, host);
    }
    Ok(registry)
}

/// Writes what became of each folder: one line each.
pub fn report(registry: &Registry) {
    for passed in &registry.passed_over {
        log::event(
            Level::Warn,
            "a folder was passed over",
            &[("folder", &passed.folder), ("why", &passed.why)],
        );
    }
    for Entry { folder, state } in &registry.entries {
        match state {
            State::Mounted(extension) => {
                let ids = ids(extension);
                let fields: [log::Field<'_>; 3] = [
                    ("id", &ids),
                    ("version", &extension.manifest.version),
                    ("folder", folder),
                ];
                log::event(Level::Info, "mounted an extension", &fields);
            }
            State::Disabled(extension) => {
                log::event(
                    Level::Info,
                    "an extension is switched off",
                    &[("id", &ids(extension)), ("folder", folder)],
                );
            }
            State::Off(switch) => {
                log::event(
                    Level::Debug,
                    "an extension waits to be switched on",
                    &[("folder", folder), ("by", switch)],
                );
            }
            State::Refused(error) => {
                log::event(
                    Level::Error,
                    &whole(error.as_ref()),
                    &[("code", &error.code()), ("folder", folder)],
                );
            }
        }
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

/// An error and all of its causes in one sentence.
pub fn whole(error: &dyn std::error::Error) -> String {
    let mut sentence = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        sentence.push_str(": ");
        sentence.push_str(&next.to_string());
        cause = next.source();
    }
    sentence
}
