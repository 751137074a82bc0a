//! The process that loads the extension and serves it while it is checked: one of its own, so that a crash is a finding.

use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use extension_api::abi::EXT_ROUTE_BLOCKING;
use serde::{Deserialize, Serialize};

use crate::config::values::Secret;
use crate::config::{self, Config};
use crate::extension::copies::Copies;
use crate::extension::discovery::{self, Discovered};
use crate::extension::instance::{Aside, Opened};
use crate::extension::library::Checked;
use crate::extension::registry::Registry;
use crate::extension::{Extension, Reason};
use crate::identity::Authority;
use crate::platform::env::Env;
use crate::platform::error_chain::error_chain;
use crate::platform::log::{self, Level};
use crate::runtime::contract_checks::{self, Breach, Rule};
use crate::server::{self, Host};

/// How long a request may wait for its answer here: nobody wants to wait a minute for what does not come.
const TIMEOUT_MS: u64 = 1_000;
/// How long what is open may take to be finished when its client has left.
const SETTLED_WITHIN: Duration = Duration::from_secs(3);
/// How long a worker may be inside an extension at a stretch. By far longer than good code takes, so that a busy machine
/// accuses nobody.
const BLOCKED: Duration = Duration::from_millis(400);

/// What the parent asks for, a line each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Wait until no request is open, and tell what was noted.
    Settle,
    /// Take the extension out while the server serves on, as a reload does, then end.
    Replace,
    /// End the server, as SIGTERM does.
    Stop,
}

/// What the child tells, a line each.
#[derive(Debug, Serialize, Deserialize)]
pub enum Told {
    /// It cannot be loaded.
    Refused {
        /// A stable name of the reason.
        code: String,
        /// The sentence.
        message: String,
    },
    /// It is served.
    Serving(Serving),
    /// What was noted.
    Noted(Noted),
}

/// What is served.
#[derive(Debug, Serialize, Deserialize)]
pub struct Serving {
    /// Where.
    pub address: SocketAddr,
    /// The administrator's token.
    pub token: String,
    /// The routes of all endpoints.
    pub routes: Vec<Served>,
    /// The largest body.
    pub body_bytes_max: u64,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// The endpoint's id.
    pub id: String,
    /// The method; none: every one.
    pub method: Option<String>,
    /// The pattern.
    pub pattern: String,
    /// Whether it may block.
    pub blocking: bool,
}

/// What was noted since the last time.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Noted {
    /// Requests that should have been finished meanwhile, and are open.
    pub requests: usize,
    /// The rules that were broken.
    pub breaches: Vec<Breach>,
}

/// Loads and serves one extension, does what it is told, and tells what came of it.
///
/// # Errors
/// Where the parent has gone, or the host itself fails.
pub fn run(
    mut config: Config,
    env: Env,
    folder: &Path,
    control: &Path,
    stand_in: SocketAddr,
) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let parent = UnixStream::connect(control)?;
    let orders = BufReader::new(parent.try_clone()?);
    let parent = Parent(Arc::new(Mutex::new(parent)));
    contract_checks::watch();
    let token = crate::commands::demo::token()?;
    config.host = "127.0.0.1".to_owned();
    config.port = 0;
    config.workers = 2;
    config.auto_reload = false;
    config.extensions.clear();
    // Nobody but this check signs in here.
    config.auth = config::Auth {
        admin_token: Secret::new(token.clone()),
        ..config::Auth::default()
    };
    config.fetch.stand_in = Some(stand_in);
    config.limits.shutdown_timeout_ms = 1_000;
    config.log.access = false;
    let authority = Authority::without_store(&config.auth)?;
    let host = Host::new(config, env, authority, Copies::temporary)?;
    let extension = match load(&host, folder).map_err(|reason| reason.of(name_of(folder))) {
        Ok(extension) => extension,
        Err(error) => {
            let code = error.code().to_owned();
            let message = error_chain(&error);
            host.copies.end();
            parent.tell(&Told::Refused { code, message })?;
            return Ok(ExitCode::from(2));
        }
    };
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let serving = |addresses: &[SocketAddr]| {
        let Some(address) = addresses.first() else {
            return;
        };
        let serving = Serving {
            address: *address,
            token,
            routes: routes(&extension),
            body_bytes_max: extension.body_bytes_max,
        };
        // Where the parent has gone the orders end, and with them the server.
        let _ = parent.tell(&Told::Serving(serving));
    };
    let obeying = {
        let (host, extension, parent) = (host.clone(), extension.clone(), parent.clone());
        thread::spawn(move || {
            let held = obey(orders, &parent, &host, &extension);
            // An error says that the server has ended.
            let _ = stop.send(());
            held
        })
    };
    let watch = Watch::start(host.clone());
    let told_to_stop = async move {
        // An error says the same: nobody gives orders any more.
        let _ = stopped.await;
    };
    actix_rt::System::new().block_on(server::run_until(host.clone(), serving, told_to_stop))?;
    host.end();
    watch.end();
    // It has told the server to end, and does nothing that could panic.
    let held = obeying.join().unwrap_or_default();
    let requests = extension.context.requests();
    if extension.is_stopped() {
        note_threads();
        let kept = contract_checks::unreleased();
        if kept > 0 {
            contract_checks::note(Rule::ReleasesBuffers, || {
                format!("{kept} buffers were given and never released")
            });
        }
    } else if requests == 0 {
        let kept = extension.context.flights();
        contract_checks::note(Rule::EndsFetched, || {
            format!("{kept} answers to fetches were neither relayed nor dropped")
        });
    }
    parent.tell(&Told::Noted(Noted {
        requests: requests.saturating_sub(held),
        breaches: contract_checks::take(),
    }))?;
    Ok(ExitCode::SUCCESS)
}

/// Loads the extension, and mounts it open to everybody.
fn load(host: &Arc<Host>, folder: &Path) -> Result<Arc<Extension>, Reason> {
    let Discovered {
        mut manifest,
        library,
    } = discovery::examine(folder)?;
    let timeout = manifest.limits.timeout_ms;
    manifest.limits.timeout_ms = Some(
        timeout
            .unwrap_or(host.config.limits.timeout_ms)
            .clamp(1, TIMEOUT_MS),
    );
    let name = name_of(folder);
    let checked = Checked::of(&library, &host.copies, host.config.allow_panic_abort);
    let opened = Opened::of(&name, folder, manifest, checked, &host.env.load(), host)?;
    let extension = opened.create(1, host, &mut Aside::default())?;
    let mut registry = Registry::default();
    let state = registry.mount(&extension, &host.config)?;
    registry.entries.push(crate::extension::registry::Entry {
        folder: name,
        state,
        marks: crate::extension::loader::Marks::default(),
        rejected: None,
    });
    host.registry.store(Arc::new(registry));
    Ok(extension)
}

/// The name of an extension's folder, also where it is given as "." or with a slash behind.
pub fn name_of(folder: &Path) -> String {
    let whole: PathBuf = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    whole
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn routes(extension: &Extension) -> Vec<Served> {
    let of_endpoint = |endpoint: &crate::extension::instance::Endpoint| {
        let served = |route: &crate::extension::routes::Route| Served {
            id: endpoint.id.clone(),
            method: route.method.as_ref().map(ToString::to_string),
            pattern: route.pattern.clone(),
            blocking: route.flags & EXT_ROUTE_BLOCKING != 0,
        };
        endpoint.routes.iter().map(served).collect::<Vec<_>>()
    };
    extension.endpoints.iter().flat_map(of_endpoint).collect()
}

/// The way to the parent.
#[derive(Clone)]
struct Parent(Arc<Mutex<UnixStream>>);

impl Parent {
    fn tell(&self, told: &Told) -> io::Result<()> {
        let mut line = serde_json::to_vec(told)?;
        line.push(b'\n');
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stream.write_all(&line)
    }
}

/// Does what the parent says, until it says to end or has gone. Gives how many requests will never be finished.
fn obey(orders: impl BufRead, parent: &Parent, host: &Host, extension: &Arc<Extension>) -> usize {
    let mut held = 0;
    for line in orders.lines().map_while(Result::ok) {
        match serde_json::from_str(&line) {
            Ok(Order::Settle) => {
                let until = Instant::now() + SETTLED_WITHIN;
                while extension.context.requests() > held && Instant::now() < until {
                    thread::sleep(Duration::from_millis(2));
                }
                let open = extension.context.requests();
                let noted = Noted {
                    requests: open.saturating_sub(held),
                    breaches: contract_checks::take(),
                };
                held = open;
                if parent.tell(&Told::Noted(noted)).is_err() {
                    break;
                }
            }
            Ok(Order::Replace) => {
                host.registry.store(Arc::default());
                let patience = SETTLED_WITHIN + Duration::from_millis(TIMEOUT_MS);
                extension.retire(Instant::now() + patience);
                break;
            }
            Ok(Order::Stop) | Err(_) => break,
        }
    }
    held
}

/// Notes when an extension keeps a worker.
struct Watch {
    thread: thread::JoinHandle<()>,
    is_over: Arc<AtomicBool>,
}

impl Watch {
    fn start(host: Arc<Host>) -> Self {
        const EVERY: Duration = Duration::from_millis(20);
        let is_over = Arc::new(AtomicBool::new(false));
        let end = is_over.clone();
        let thread = thread::spawn(move || {
            // Of each worker: the turn that it is in, since when, and whether that has been noted.
            let mut turns: Vec<((u64, u64), Instant, bool)> = Vec::new();
            while !end.load(Ordering::Relaxed) {
                let now = Instant::now();
                for (number, beat) in host.beats().into_iter().enumerate() {
                    if turns.len() <= number {
                        turns.push((beat, now, false));
                    }
                    let (turn, since, is_noted) = &mut turns[number];
                    if *turn != beat {
                        (*turn, *since, *is_noted) = (beat, now, false);
                    } else if beat.0 != 0 && now - *since >= BLOCKED && !*is_noted {
                        *is_noted = true;
                        contract_checks::note(Rule::DoesNotBlock, || {
                            format!("a worker was kept for more than {} ms", BLOCKED.as_millis())
                        });
                    }
                }
                thread::sleep(EVERY);
            }
        });
        Self { thread, is_over }
    }

    fn end(self) {
        self.is_over.store(true, Ordering::Relaxed);
        // It does nothing that could panic.
        let _ = self.thread.join();
    }
}

/// Notes threads that are left when the extension has been stopped and the host's own have ended.
fn note_threads() {
    const PATIENCE: Duration = Duration::from_secs(2);
    let until = Instant::now() + PATIENCE;
    loop {
        let Ok(tasks) = std::fs::read_dir("/proc/self/task") else {
            // Elsewhere than on Linux nobody says.
            return;
        };
        let own = std::process::id().to_string();
        let names: Vec<String> = tasks
            .flatten()
            .filter(|task| task.file_name().to_str() != Some(&own))
            .map(|task| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default())
            .map(|name| name.trim().to_owned())
            .collect();
        if names.is_empty() {
            return;
        }
        if Instant::now() >= until {
            log::event(
                Level::Warn,
                "threads are left",
                &[("names", &names.join(", "))],
            );
            contract_checks::note(Rule::EndsThreads, || {
                format!(
                    "threads left after `stop`: {} ({})",
                    names.len(),
                    names.join(", ")
                )
            });
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
}
