//! From a loaded library to an extension that can be mounted: its instance is made, and what it declares is checked.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use extension_api::abi::{EXT_OK, ext_callbacks};

use super::backend::Backend;
use super::context::{Context, Declared};
use super::error::{ID_BYTES_MAX, Reason};
use super::hook_thread::{HookThread, NoResult};
use super::in_process::InProcess;
use super::library::{Checked, LoadedLibrary};
use super::loaded::{Endpoint, Extension};
use super::manifest::Manifest;
use super::routes::{Route, Routes};
use crate::config::Limits;
use crate::platform::env::Env;
use crate::runtime::crash_page::{CallMark, ThreadMark, page};
use crate::runtime::workers::Workers;

/// Ids that are paths of the host's own.
pub const RESERVED: [&str; 6] = ["server", "extensions", "auth", "users", "metrics", "admin"];

/// An extension whose library is loaded, and of which no instance has been made yet.
pub struct OpenedExtension {
    context: Box<Context>,
    manifest: Manifest,
    path: PathBuf,
    loaded: LoadedLibrary,
}

impl OpenedExtension {
    /// Loads the library, where its variables are set. May block for a while: not for a worker.
    ///
    /// # Errors
    /// Each reason for which the library cannot be used here.
    pub fn of(
        name: &str,
        path: &Path,
        manifest: Manifest,
        checked: Result<Checked, Reason>,
        env: &Env,
        workers: &Arc<Workers>,
        fingerprint: u64,
    ) -> Result<Self, Reason> {
        let context = Context::new(name, &manifest, env, workers, fingerprint)?;
        let (checked, number) = (checked?, context.in_flight.number);
        page().note_copy(number, checked.inode());
        // Its initialisers run.
        let thread = ThreadMark::of_this_thread();
        let loaded = thread.within(number, CallMark::default(), || checked.open())?;
        Ok(Self {
            context,
            manifest,
            path: path.to_owned(),
            loaded,
        })
    }

    /// Makes the instance: the library's `create` runs on the thread `hooks`. May block for a while: not for a worker.
    ///
    /// # Errors
    /// Each reason for which the extension cannot be served.
    pub fn create(
        self,
        generation: u64,
        defaults: &Limits,
        callbacks: &'static ext_callbacks,
        hooks: &mut HookThread,
    ) -> Result<Arc<Extension>, Reason> {
        let Self {
            context,
            manifest,
            path,
            loaded:
                LoadedLibrary {
                    entry,
                    about,
                    library,
                    copy,
                },
        } = self;
        let backend: Arc<dyn Backend> = Arc::new(InProcess::new(entry, callbacks, &library)?);
        // Never freed: a thread that an extension has left over may call with it after `destroy`, and a wrong answer is better
        // than freed memory. It is small beside the library, which stays mapped as well.
        let context: &'static Context = Box::leak(context);
        let number = context.in_flight.number;
        page().note_generation(number, generation);
        let called = backend.clone();
        let timeout = Duration::from_millis(defaults.create_timeout_ms);
        let status = hooks
            .run(timeout, move || {
                let thread = ThreadMark::of_this_thread();
                thread.within(number, CallMark::default(), || called.create(context))
            })
            .map_err(|cause| match cause {
                NoResult::Timeout => Reason::CreateTimeout {
                    waited_ms: defaults.create_timeout_ms,
                },
                NoResult::NoThread(source) => Reason::NoThread { source },
            })?;
        let Declared {
            endpoints,
            refusal,
            broken,
        } = context.take_declared();
        if status != EXT_OK {
            return Err(match refusal {
                _ if broken.is_some() => broken.unwrap_or(Reason::NoEndpoint),
                // The SDK says so of a panic that it has caught: "panicked at src/lib.rs:7:9: …".
                Some(message) => match message.strip_prefix("panicked") {
                    Some(place) => Reason::CreatePanicked {
                        message: place.trim_start_matches([':', ' ']).to_owned(),
                    },
                    None => Reason::CreateFailed { message },
                },
                None => Reason::CreateFailed {
                    message: format!("it gave no reason (status {status})"),
                },
            });
        }
        let limits = (&manifest.limits, defaults);
        let name = context.name().clone();
        let mut extension = Extension {
            endpoints: Vec::new(),
            timeout: Some(Duration::from_millis(
                limits.0.timeout_ms.unwrap_or(limits.1.timeout_ms),
            ))
            .filter(|limit| !limit.is_zero()),
            body_bytes_max: limits.0.body_bytes_max.unwrap_or(limits.1.body_bytes_max),
            concurrency_max: limits.0.concurrency_max.unwrap_or(limits.1.concurrency_max),
            blocking_threads: limits.1.blocking_share(limits.0.blocking_threads),
            context,
            manifest,
            path,
            warnings: about.facts.warnings(),
            sdk: about.sdk,
            copy,
            content_sha256: OnceLock::new(),
            generation,
            loaded_at: SystemTime::now(),
            backend,
            is_stopped: AtomicBool::new(false),
        };
        // From here on the instance exists, so a refusal has to destroy it.
        match broken.map_or_else(|| mountable(&name, endpoints), Err) {
            Ok(mut endpoints) => {
                for Endpoint { id, routes } in &mut endpoints {
                    let text = |route: &Route| {
                        let method = route.method.as_ref().map_or("*", |method| method.as_str());
                        format!("{method} /{id}{}", route.pattern)
                    };
                    routes.mark(|route| context.intern(&text(route)));
                }
                let ids: Vec<&str> = endpoints
                    .iter()
                    .map(|endpoint| endpoint.id.as_str())
                    .collect();
                page().note_ids(number, context.intern(&ids.join(",")));
                extension.copy.keep();
                extension.endpoints = endpoints;
                Ok(Arc::new(extension))
            }
            Err(reason) => {
                extension.destroy();
                Err(reason)
            }
        }
    }
}

/// Checks ids and routes.
fn mountable(folder: &str, declared: Vec<(String, Vec<Route>)>) -> Result<Vec<Endpoint>, Reason> {
    let mut endpoints: Vec<Endpoint> = Vec::with_capacity(declared.len());
    let mut ids = HashSet::with_capacity(declared.len());
    for (id, routes) in declared {
        let id = if id.is_empty() { folder.to_owned() } else { id };
        let is_well_formed = id.len() <= ID_BYTES_MAX
            && id.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
            && id.bytes().all(|byte| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-'
            });
        if !is_well_formed {
            return Err(Reason::BadId { id });
        }
        if RESERVED.contains(&id.as_str()) {
            return Err(Reason::ReservedId { id });
        }
        if !ids.insert(id.clone()) {
            return Err(Reason::DuplicateId {
                id,
                first: folder.to_owned(),
            });
        }
        let routes = Routes::new(&id, routes)?;
        endpoints.push(Endpoint { id, routes });
    }
    if endpoints.is_empty() {
        Err(Reason::NoEndpoint)
    } else {
        Ok(endpoints)
    }
}
