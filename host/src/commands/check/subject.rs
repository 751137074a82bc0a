//! The process that loads and serves the extension while it is checked: a separate one, so that a crash is a finding.

use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use extension_api::abi::EXT_ROUTE_BLOCKING;

use super::protocol::{Observations, Order, ServedRoute, Serving, SubjectMessage};
use crate::config::values::Secret;
use crate::config::{self, Config};
use crate::extension::copies::Copies;
use crate::extension::discovery::{self, Discovered};
use crate::extension::error::Reason;
use crate::extension::hook_thread::HookThread;
use crate::extension::library::Checked;
use crate::extension::loaded::{Endpoint, Extension};
use crate::extension::opened::Opened;
use crate::extension::registry::Registry;
use crate::identity::Authority;
use crate::platform::env::Env;
use crate::platform::error_chain::error_chain;
use crate::platform::listen;
use crate::platform::log::{self, Level};
use crate::runtime::contract_checks::{self, Rule};
use crate::runtime::crash_page::ThreadMark;
use crate::server::{self, Host, Supervision};
use crate::store::random_text;

/// How long a request may wait for its answer here: a check must not wait a minute for each answer that never comes.
const TIMEOUT_MS: u64 = 1_000;
/// How long a request may take to be finished when its client has left.
const SETTLED_WITHIN: Duration = Duration::from_secs(3);
/// How long a worker may be inside an extension without a break: far longer than good code takes, so that a busy machine
/// causes no finding.
const BLOCKED: Duration = Duration::from_millis(400);

/// Loads and serves one extension, follows the parent's orders, and sends what it observes.
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
    let token = random_text()?;
    config.host = "127.0.0.1".to_owned();
    config.port = 0;
    config.workers = 2;
    config.auto_reload = false;
    config.extensions.clear();
    // Only this check signs in here.
    config.auth = config::Auth {
        admin_token: Secret::new(token.clone()),
        ..config::Auth::default()
    };
    config.fetch.stand_in = Some(stand_in);
    config.limits.shutdown_timeout_ms = 1_000;
    config.log.access = false;
    let authority = Authority::without_store(&config.auth)?;
    let host = Host::new(
        config,
        env,
        authority,
        Copies::temporary,
        Supervision::default(),
    )?;
    let extension =
        match load(&host, folder).map_err(|reason| reason.of(discovery::folder_name(folder))) {
            Ok(extension) => extension,
            Err(error) => {
                let code = error.code().to_owned();
                let message = error_chain(&error);
                host.catalog.copies.end();
                parent.send(&SubjectMessage::Refused { code, message })?;
                return Ok(ExitCode::from(2));
            }
        };
    let listeners = listen::open(&host.config.host, host.config.port)?;
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
        // Err: the parent is gone. Then the orders end, and with them the server.
        let _ = parent.send(&SubjectMessage::Serving(serving));
    };
    let obeying = {
        let (host, extension, parent) = (host.clone(), extension.clone(), parent.clone());
        thread::spawn(move || {
            let held = obey(orders, &parent, &host, &extension);
            // Err: the server has ended.
            let _ = stop.send(());
            held
        })
    };
    let watch = Watch::start(host.clone());
    let ordered_to_stop = async move {
        // Err: the thread that reads orders has ended, which means the same.
        let _ = stopped.await;
    };
    actix_rt::System::new().block_on(server::run_until(
        host.clone(),
        listeners,
        serving,
        ordered_to_stop,
    ))?;
    host.end();
    watch.end();
    // The thread does nothing that could panic.
    let held = obeying.join().unwrap_or_default();
    let requests = extension.context.in_flight.requests();
    if extension.is_stopped() {
        note_threads();
        let kept = contract_checks::unreleased();
        if kept > 0 {
            contract_checks::note(Rule::ReleasesBuffers, || {
                format!("{kept} buffers were given and never released")
            });
        }
    } else if requests == 0 {
        let kept = extension.context.in_flight.flights();
        contract_checks::note(Rule::EndsFetched, || {
            format!("{kept} answers to fetches were neither relayed nor dropped")
        });
    }
    parent.send(&SubjectMessage::Observed(Observations {
        requests: requests.saturating_sub(held),
        violations: contract_checks::take(),
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
    let name = discovery::folder_name(folder);
    let checked = Checked::of(
        &library,
        &host.catalog.copies,
        host.config.allow_panic_abort,
    );
    let opened = Opened::of(
        &name,
        folder,
        manifest,
        checked,
        &host.catalog.env.load(),
        &host.catalog.workers,
        0,
    )?;
    let extension = opened.create(
        1,
        &host.config.limits,
        host.catalog.callbacks,
        &mut HookThread::default(),
    )?;
    let mut registry = Registry::default();
    let state = registry.mount(&extension, &host.config)?;
    registry
        .entries
        .push(crate::extension::registry::FolderEntry {
            folder: name,
            state,
            marks: crate::extension::marks::FileMarks::default(),
            rejected: None,
        });
    host.catalog.registry.store(Arc::new(registry));
    Ok(extension)
}

fn routes(extension: &Extension) -> Vec<ServedRoute> {
    let of_endpoint = |endpoint: &Endpoint| {
        let served = |route: &crate::extension::routes::Route| ServedRoute {
            id: endpoint.id.clone(),
            method: route.method.as_ref().map(ToString::to_string),
            pattern: route.pattern.clone(),
            blocking: route.flags & EXT_ROUTE_BLOCKING != 0,
        };
        endpoint.routes.iter().map(served).collect::<Vec<_>>()
    };
    extension.endpoints.iter().flat_map(of_endpoint).collect()
}

/// The connection to the parent.
#[derive(Clone)]
struct Parent(Arc<Mutex<UnixStream>>);

impl Parent {
    fn send(&self, message: &SubjectMessage) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stream.write_all(&line)
    }
}

/// Follows the parent's orders until it orders the end or is gone. Returns how many requests will never be finished.
fn obey(orders: impl BufRead, parent: &Parent, host: &Host, extension: &Arc<Extension>) -> usize {
    let mut held = 0;
    for line in orders.lines().map_while(Result::ok) {
        match serde_json::from_str(&line) {
            Ok(Order::Settle) => {
                let until = Instant::now() + SETTLED_WITHIN;
                while extension.context.in_flight.requests() > held && Instant::now() < until {
                    thread::sleep(Duration::from_millis(2));
                }
                let open = extension.context.in_flight.requests();
                let observations = Observations {
                    requests: open.saturating_sub(held),
                    violations: contract_checks::take(),
                };
                held = open;
                if parent
                    .send(&SubjectMessage::Observed(observations))
                    .is_err()
                {
                    break;
                }
            }
            Ok(Order::Replace) => {
                host.catalog.registry.store(Arc::default());
                let timeout = SETTLED_WITHIN + Duration::from_millis(TIMEOUT_MS);
                extension.retire(Instant::now() + timeout);
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
            // Of each worker: the turn that it is in, since when, and whether that has been facts.
            let mut turns: Vec<((u64, u64), Instant, bool)> = Vec::new();
            while !end.load(Ordering::Relaxed) {
                let now = Instant::now();
                for (number, beat) in host
                    .catalog
                    .workers
                    .marks()
                    .into_iter()
                    .map(ThreadMark::read)
                    .enumerate()
                {
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

/// Notes threads that are left when the extension has been stopped and the host's threads have ended.
fn note_threads() {
    const TIMEOUT: Duration = Duration::from_secs(2);
    let until = Instant::now() + TIMEOUT;
    loop {
        let Ok(tasks) = std::fs::read_dir("/proc/self/task") else {
            // Only Linux tells.
            return;
        };
        let main_thread = std::process::id().to_string();
        let names: Vec<String> = tasks
            .flatten()
            .filter(|task| task.file_name().to_str() != Some(&main_thread))
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
