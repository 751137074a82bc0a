//! The process that loads and serves the extension while it is checked: a separate one, so that a crash is a finding.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use extension_api::abi::EXT_ROUTE_BLOCKING;
use tokio::signal::unix::{SignalKind, signal};

use super::processes;
use super::protocol::{Observations, Order, Sent, ServedRoute, Serving, SubjectMessage};
use super::shared::{self, Shared};
use crate::config::values::Secret;
use crate::config::{self, Config};
use crate::extension::copies::Copies;
use crate::extension::discovery::{self, Discovered};
use crate::extension::error::Reason;
use crate::extension::hook_thread::HookThread;
use crate::extension::library::Checked;
use crate::extension::loaded::{Endpoint, Extension};
use crate::extension::opened::OpenedExtension;
use crate::extension::registry::Registry;
use crate::identity::Authority;
use crate::platform::child::FORGET;
use crate::platform::env::Env;
use crate::platform::error_chain::error_chain;
use crate::platform::listen;
use crate::platform::log::{self, Level};
use crate::platform::process;
use crate::runtime::contract_checks::{self, Rule};
use crate::runtime::crash_page::ThreadMark;
use crate::server::{self, Host, Supervision};
use crate::store::random_text;

/// How long a request may wait for its answer here: a check must not wait a minute for each answer that never comes.
const TIMEOUT_MS: u64 = 1_000;
/// How long a request may take to be finished when its client has left.
const SETTLED_WITHIN: Duration = Duration::from_secs(5);
/// How long a worker may be inside an extension without a break: far longer than good code takes, so that a busy machine
/// causes no finding.
const BLOCKED: Duration = Duration::from_millis(400);

/// Every worker is inside the extension for this long: then it is not waited for any more.
const STUCK: Duration = Duration::from_secs(5);
/// The thread that reads the parent's orders. It stays to the end, when all others are gone.
const READER: &str = "check-orders";

/// Loads and serves one extension, follows the parent's orders, and sends what it observes.
///
/// # Errors
/// Where the parent has gone, or the host itself fails.
pub fn run(
    mut config: Config,
    env: Env,
    folder: &Path,
    stand_in: SocketAddr,
) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let parent = take_control()?;
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
    let orders = read_orders(orders, host.clone())?;
    take_signals();
    shared::compare_thread("nobody");
    let shared = Arc::new(Mutex::new(Shared::before_loading()));
    parent.send(&SubjectMessage::Loading)?;
    let loaded = load(&host, folder, &parent, &mut lock(&shared));
    let extension = match loaded.map_err(|reason| reason.of(discovery::folder_name(folder))) {
        Ok(extension) => extension,
        Err(error) => {
            let code = error.code().to_owned();
            let message = error_chain(&error);
            host.catalog.copies.end();
            parent.send(&SubjectMessage::Refused { code, message })?;
            return Ok(ExitCode::from(2));
        }
    };
    let served_on = AtomicU16::new(0);
    let (announce, announced) = mpsc::channel();
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
        served_on.store(address.port(), Ordering::Relaxed);
        // Err: the thread that obeys has ended, and with it this process.
        let _ = announce.send(serving);
    };
    let watch = Watch::start(host.clone());
    let obeying = {
        let (host, extension, parent) = (host.clone(), extension.clone(), parent.clone());
        let (shared, is_stuck) = (shared.clone(), watch.is_stuck.clone());
        thread::spawn(move || {
            if let Ok(serving) = announced.recv() {
                wait_for_workers(&host);
                compare_workers(&host, Instant::now() + SETTLED_WITHIN);
                lock(&shared).before_serving(serving.address.port());
                // Err: the parent is gone, and with it this process.
                let _ = parent.send(&SubjectMessage::Serving(serving));
            }
            let held = obey(&orders, &parent, &host, &extension, &shared, &is_stuck);
            // Err: the server has ended.
            let _ = stop.send(());
            held
        })
    };
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
        let served_on = served_on.load(Ordering::Relaxed);
        lock(&shared).compare_ended(&[served_on, stand_in.port()]);
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
        is_stuck: false,
        violations: contract_checks::take(),
    }))?;
    // From here the process ends as any other does: what a library has registered for its end is called.
    Ok(ExitCode::SUCCESS)
}

/// The connection to the parent, which is this process's standard input at first: nothing to read remains there.
fn take_control() -> io::Result<UnixStream> {
    let control = io::stdin().as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    Ok(UnixStream::from(control))
}

/// Reads orders on a thread, until the parent is gone: then this process ends at once, whatever the extension does, and leaves
/// nothing behind.
fn read_orders(
    orders: BufReader<UnixStream>,
    host: Arc<Host>,
) -> io::Result<mpsc::Receiver<Order>> {
    let (order, next) = mpsc::channel();
    let (started, wait) = mpsc::channel();
    let read = move || {
        // Err: nobody waits any more.
        let _ = started.send(());
        for line in orders.lines().map_while(Result::ok) {
            if let Ok(read) = serde_json::from_str(&line) {
                // Err: the orders are over, and it is the parent's end that is waited for.
                let _ = order.send(read);
            }
        }
        host.catalog.copies.end();
        processes::end_children();
        process::force_end(process::FAILED);
    };
    thread::Builder::new().name(READER.to_owned()).spawn(read)?;
    // While the system's loader is inside an initialiser that hangs, no thread gets as far as its first line.
    let _ = wait.recv();
    Ok(next)
}

/// Has the host's signals handled from now on, as they are anyway when it serves, so that only an extension changes that.
fn take_signals() {
    actix_rt::System::new().block_on(async {
        for kind in [
            SignalKind::terminate(),
            SignalKind::interrupt(),
            SignalKind::hangup(),
        ] {
            // Err: the server says so, too.
            let _ = signal(kind);
        }
    });
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is done under these locks leaves them half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Loads the extension, and mounts it open to everybody.
fn load(
    host: &Arc<Host>,
    folder: &Path,
    parent: &Parent,
    shared: &mut Shared,
) -> Result<Arc<Extension>, Reason> {
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
    let opened = OpenedExtension::of(
        &name,
        folder,
        manifest,
        checked,
        &host.catalog.env.load(),
        &host.catalog.workers,
        0,
    )?;
    shared::compare_thread("an initialiser of the library");
    shared::is_inherited();
    shared.compare("an initialiser of the library");
    // Err: the parent is gone. Then the orders end, and with them the process.
    let _ = parent.send(&SubjectMessage::Opened);
    let mut hooks = HookThread::default();
    let look = |hooks: &mut HookThread| {
        // Err: nothing is compared; what keeps the thread from it keeps `create` from its work, too, which says so.
        let _ = hooks.run(SETTLED_WITHIN, || shared::compare_thread("`create`"));
    };
    look(&mut hooks);
    let limits = &host.config.limits;
    let extension = opened.create(1, limits, host.catalog.callbacks, &mut hooks)?;
    look(&mut hooks);
    drop(hooks);
    shared.compare_loaded();
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
        // Asked for each time: the library may have forked in between.
        let process = std::process::id();
        let mut line = serde_json::to_vec(&Sent { process, message })?;
        line.push(b'\n');
        lock(&self.0).write_all(&line)
    }
}

/// Waits until the workers have started: what they open is the host's.
fn wait_for_workers(host: &Host) {
    let until = Instant::now() + SETTLED_WITHIN;
    while host.catalog.workers.count() < host.config.worker_count() && Instant::now() < until {
        thread::sleep(Duration::from_millis(2));
    }
}

/// Follows the parent's orders until it orders the end. Returns how many requests will never be finished.
fn obey(
    orders: &mpsc::Receiver<Order>,
    parent: &Parent,
    host: &Host,
    extension: &Arc<Extension>,
    shared: &Mutex<Shared>,
    is_stuck: &AtomicBool,
) -> usize {
    let mut held = 0;
    for order in orders {
        match order {
            Order::Settle => {
                let until = Instant::now() + SETTLED_WITHIN;
                while extension.context.in_flight.requests() > held && Instant::now() < until {
                    thread::sleep(Duration::from_millis(2));
                }
                compare_workers(host, until);
                lock(shared).compare_serving();
                let open = extension.context.in_flight.requests();
                let observations = Observations {
                    requests: open.saturating_sub(held),
                    is_stuck: is_stuck.load(Ordering::Relaxed),
                    violations: contract_checks::take(),
                };
                held = open;
                // Should the process end later, this was not its last word.
                eprintln!("{FORGET}");
                if parent
                    .send(&SubjectMessage::Observed(observations))
                    .is_err()
                {
                    break;
                }
            }
            Order::Replace => {
                host.catalog.registry.store(Arc::default());
                let timeout = SETTLED_WITHIN + Duration::from_millis(TIMEOUT_MS);
                extension.retire(Instant::now() + timeout);
                break;
            }
            Order::Stop => break,
        }
    }
    held
}

/// Has each worker look at itself, and waits for those that are free.
fn compare_workers(host: &Host, until: Instant) {
    static LOOKED: AtomicUsize = AtomicUsize::new(0);
    LOOKED.store(0, Ordering::Relaxed);
    host.catalog.workers.on_each(|_| {
        shared::compare_thread("a handler");
        LOOKED.fetch_add(1, Ordering::Relaxed);
    });
    while LOOKED.load(Ordering::Relaxed) < host.catalog.workers.count() && Instant::now() < until {
        thread::sleep(Duration::from_millis(2));
    }
}

/// Notes when an extension keeps a worker.
struct Watch {
    thread: thread::JoinHandle<()>,
    is_over: Arc<AtomicBool>,
    /// See [`Observations::is_stuck`].
    is_stuck: Arc<AtomicBool>,
}

impl Watch {
    fn start(host: Arc<Host>) -> Self {
        const EVERY: Duration = Duration::from_millis(20);
        let is_over = Arc::new(AtomicBool::new(false));
        let is_stuck = Arc::new(AtomicBool::new(false));
        let (end, stuck) = (is_over.clone(), is_stuck.clone());
        let thread = thread::spawn(move || {
            // Of each worker: the turn that it is in, since when, and whether that has been facts.
            let mut turns: Vec<((u64, u64), Instant, bool)> = Vec::new();
            while !end.load(Ordering::Relaxed) {
                let now = Instant::now();
                let mut are_stuck = true;
                let marks = host.catalog.workers.marks();
                for (number, beat) in marks.into_iter().map(ThreadMark::read).enumerate() {
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
                    are_stuck &= beat.0 != 0 && now - *since >= STUCK;
                }
                stuck.store(are_stuck && !turns.is_empty(), Ordering::Relaxed);
                thread::sleep(EVERY);
            }
        });
        Self {
            thread,
            is_over,
            is_stuck,
        }
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
            .filter(|name| name != READER)
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
