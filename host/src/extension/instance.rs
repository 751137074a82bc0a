//! UNSAFE: an extension's instance: made, called, stopped and destroyed by its hooks.
#![expect(unsafe_code, reason = "hooks are function pointers of foreign code")]

use std::collections::HashSet;
use std::ffi::c_void;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use extension_api::abi::*;

use super::context::{Context, Declared};
use super::copies;
use super::error::{ID_BYTES_MAX, Reason};
use super::library::{self, Checked, Loaded};
use super::manifest::Manifest;
use super::routes::{Mark, Routes};
use crate::boundary::CALLBACKS;
use crate::boundary::request;
use crate::platform::env::Env;
use crate::platform::log::{self, Level};
use crate::server::Host;

/// Ids that are paths of the host's own.
pub const RESERVED: [&str; 6] = ["server", "extensions", "auth", "users", "metrics", "admin"];

/// One loaded build of an extension.
pub struct Extension {
    /// What its callbacks see.
    pub context: &'static Context,
    /// Its endpoints, each under its id.
    pub endpoints: Vec<Endpoint>,
    /// What its manifest says.
    pub manifest: Manifest,
    /// Where it was found.
    pub path: PathBuf,
    /// What the library was built with, for people.
    pub sdk: String,
    /// Counts the builds of this extension that were loaded, from 1.
    pub generation: u64,
    /// When it was loaded.
    pub loaded_at: SystemTime,
    /// How long a client waits for an answer.
    pub timeout: Option<Duration>,
    /// The most that a request's body may hold.
    pub body_bytes_max: u64,
    /// The most requests at once.
    pub concurrency_max: usize,
    /// The private copy that was loaded.
    copy: PathBuf,
    content_sha256: OnceLock<String>,
    entry: ext_entry,
    instance: Instance,
    is_stopped: AtomicBool,
}

/// A mounted id and what serves it.
pub struct Endpoint {
    /// The id.
    pub id: String,
    /// Its routes.
    pub routes: Routes,
}

struct Instance(*mut c_void);
// SAFETY: the header says that hooks are called on different threads; the pointer is only handed back to them.
unsafe impl Send for Instance {}
// SAFETY: as above: `handle` is called on many workers at once.
unsafe impl Sync for Instance {}

/// An extension whose library is loaded, and of which no instance has been made yet.
pub struct Opened {
    context: Box<Context>,
    manifest: Manifest,
    path: PathBuf,
    loaded: Loaded,
}

impl Opened {
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
        host: &Arc<Host>,
    ) -> Result<Self, Reason> {
        let context = Context::new(name, &manifest, env, host)?;
        Ok(Self {
            context,
            manifest,
            path: path.to_owned(),
            loaded: checked?.open()?,
        })
    }

    /// Makes the instance: the library's `create` runs on the thread `aside`. May block for a while: not for a worker.
    ///
    /// # Errors
    /// Each reason for which the extension cannot be served.
    pub fn create(
        self,
        generation: u64,
        host: &Host,
        aside: &mut Aside,
    ) -> Result<Arc<Extension>, Reason> {
        let copy = self.loaded.copy.clone();
        let created = self.try_create(generation, host, aside);
        created.inspect_err(|_| copies::remove(&copy))
    }

    fn try_create(
        self,
        generation: u64,
        host: &Host,
        aside: &mut Aside,
    ) -> Result<Arc<Extension>, Reason> {
        let Self {
            context,
            manifest,
            path,
            loaded:
                Loaded {
                    entry,
                    about,
                    library,
                    copy,
                },
        } = self;
        let create = entry.create.ok_or(Reason::MissingHook {
            library: library.clone(),
            hook: "create",
        })?;
        entry.handle.ok_or(Reason::MissingHook {
            library,
            hook: "handle",
        })?;
        // Never freed: a thread that an extension has left over may call with it after `destroy`, and a wrong answer is better
        // than freed memory. It is small beside the library, which stays mapped as well.
        let context: &'static Context = Box::leak(context);
        let ctx = std::ptr::from_ref(context).cast_mut().cast::<ext_context>();
        let patience = Duration::from_millis(host.config.limits.create_timeout_ms);
        let ctx = Ctx(ctx);
        let run_create = move || {
            // The whole of it goes to the other thread, and not the pointer alone, which must not.
            let ctx = ctx;
            let mut instance = std::ptr::null_mut();
            // SAFETY: the hook is the library's own; the table is constant, and the context is never freed.
            let status = unsafe { create(&raw const CALLBACKS, ctx.0, &raw mut instance) };
            (status, Instance(instance))
        };
        let (status, instance) = aside
            .run(patience, run_create)
            .ok_or(Reason::CreateTimeout {
                waited_ms: host.config.limits.create_timeout_ms,
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
        let limits = (&manifest.limits, &host.config.limits);
        let name = context.name.clone();
        let mut extension = Extension {
            endpoints: Vec::new(),
            timeout: Some(Duration::from_millis(
                limits.0.timeout_ms.unwrap_or(limits.1.timeout_ms),
            ))
            .filter(|limit| !limit.is_zero()),
            body_bytes_max: limits.0.body_bytes_max.unwrap_or(limits.1.body_bytes_max),
            concurrency_max: limits.0.concurrency_max.unwrap_or(limits.1.concurrency_max),
            context,
            manifest,
            path,
            sdk: about.sdk,
            copy,
            content_sha256: OnceLock::new(),
            generation,
            loaded_at: SystemTime::now(),
            entry,
            instance,
            is_stopped: AtomicBool::new(false),
        };
        // From here on the instance exists, so a refusal has to destroy it.
        match broken.map_or_else(|| mountable(&name, endpoints), Err) {
            Ok(endpoints) => {
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

impl Extension {
    /// The folder's name.
    pub fn name(&self) -> &str {
        &self.context.name
    }

    /// The SHA-256 of the library, in hexadecimal digits; empty where its copy cannot be read any more. Computed when first
    /// asked for: not at the start, where nobody waits for it.
    pub fn content_sha256(&self) -> &str {
        self.content_sha256.get_or_init(|| {
            let Ok(content) = std::fs::read(&self.copy) else {
                return String::new();
            };
            let digest = ring::digest::digest(&ring::digest::SHA256, &content);
            digest
                .as_ref()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect()
        })
    }

    /// Lets the extension handle a request. On the request's worker, or on a thread that may block where the route says so.
    pub fn handle(&self, mark: Mark, request: request::Handle) {
        if let Some(handle) = self.entry.handle {
            // SAFETY: `create` made the instance, and it is not destroyed while the request is in flight; `mark` is what the
            // extension gave for the route.
            unsafe { handle(self.instance.0, mark.0, request.to_abi()) };
        }
    }

    /// Waits until nothing is under way, at most until `deadline`, then stops and destroys the instance. Where something
    /// remains, the instance is left as it is: what is still used cannot be freed. Blocks: not for a worker.
    pub fn retire(&self, deadline: Instant) {
        self.context.retire();
        self.wait_until(deadline, || self.context.requests() == 0);
        self.context.cancel_operations();
        let is_idle = self.wait_until(deadline, || self.context.flights() == 0);
        if is_idle {
            self.destroy();
        } else {
            let (requests, flights) = (self.context.requests(), self.context.flights());
            let fields: [log::Field<'_>; 3] = [
                ("extension", &self.context.name),
                ("requests", &requests),
                ("under_way", &flights),
            ];
            log::event(
                Level::Warn,
                "the extension did not finish in time; it is kept as it is",
                &fields,
            );
        }
    }

    /// Removes the private copy: while a developer reloads, there are many.
    pub fn remove_copy(&self) {
        copies::remove(&self.copy);
    }

    /// Whether it has been stopped and destroyed.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire)
    }

    fn wait_until(&self, deadline: Instant, is_so: impl Fn() -> bool) -> bool {
        while !is_so() {
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(Duration::from_millis(2));
        }
        true
    }

    fn destroy(&self) {
        if self.is_stopped.swap(true, Ordering::AcqRel) {
            return;
        }
        // SAFETY: `create` made the instance, nothing is under way, and each of the two is called once, here.
        unsafe {
            if let Some(stop) = self.entry.stop {
                stop(self.instance.0);
            }
            if let Some(destroy) = self.entry.destroy {
                destroy(self.instance.0);
            }
        }
    }
}

/// What `ext_context` points at, on its way to the thread that runs `create`.
struct Ctx(*mut ext_context);
// SAFETY: the header lets `create` be called on any thread that is no worker; the pointer is only handed on.
unsafe impl Send for Ctx {}

/// A thread for hooks that may hang, started with the first of them and ended by the drop. One for all: with each library
/// that has thread-locals, a thread costs more to start.
#[derive(Default)]
pub struct Aside {
    hooks: Option<Sender<Box<dyn FnOnce() + Send>>>,
}

impl Aside {
    /// Runs a hook and waits for it, but not for ever: one that hangs must not keep the others from being served. Its thread
    /// is then left to itself, and the next hook gets another.
    fn run<R: Send + 'static>(
        &mut self,
        patience: Duration,
        hook: impl FnOnce() -> R + Send + 'static,
    ) -> Option<R> {
        let (done, wait) = mpsc::sync_channel(1);
        let hooks = match self.hooks.take() {
            Some(hooks) => hooks,
            None => Self::start()?,
        };
        let run = Box::new(move || {
            // An error says that nobody waits any more.
            let _ = done.send(hook());
        });
        hooks.send(run).ok()?;
        loop {
            match wait.recv_timeout(patience) {
                Ok(result) => {
                    self.hooks = Some(hooks);
                    return Some(result);
                }
                // It may be the loader that it waits for, and then it is not to blame.
                Err(RecvTimeoutError::Timeout) if library::is_opening(patience) => {}
                Err(_) => return None,
            }
        }
    }

    fn start() -> Option<Sender<Box<dyn FnOnce() + Send>>> {
        let (hooks, next) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let run = move || next.into_iter().for_each(|hook| hook());
        let thread = thread::Builder::new().name("create".to_owned());
        thread.spawn(run).ok().map(|_| hooks)
    }
}

/// Checks ids and routes.
fn mountable(
    folder: &str,
    declared: Vec<(String, Vec<super::routes::Route>)>,
) -> Result<Vec<Endpoint>, Reason> {
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
