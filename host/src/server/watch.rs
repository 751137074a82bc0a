//! A thread beside the workers that sees what they cannot: that one is blocked, that one has died, that what the host listens with
//! is gone, that signals are taken otherwise than the host does, and that the host does not come to its end.

use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use actix_web::dev::ServerHandle;

use super::host::Host;
use super::kept_signals::KeptSignals;
use super::shutdown;
use crate::extension::library;
use crate::platform::handover::Notice;
use crate::platform::log::{self, Level};
use crate::platform::process::EndsWithThread;
use crate::platform::thread_locals::touch_thread_locals;
use crate::runtime::crash_page::{ThreadMark, end_broken, page};

/// How often it looks.
const EVERY: Duration = Duration::from_secs(1);
/// So many looks at which a worker has done nothing, and it is asked whether it still can: seldom, so that an idle host sleeps.
const QUIET_LOOKS: u32 = 5;
/// So many looks without an answer, and it is taken for dead. It is in no extension's code meanwhile, and the host's own takes
/// milliseconds.
const UNANSWERED_LOOKS_MAX: u32 = 10;

/// See the module's text. Ends with the drop.
pub struct Watch(Arc<Orders>);

#[derive(Default)]
struct Orders {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The host is stopping: workers and listeners go.
    is_stopping: bool,
    /// By when it has to be over.
    end_by: Option<Instant>,
    /// Nobody needs this thread any more.
    is_over: bool,
}

impl Watch {
    /// Starts to watch.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn start(
        host: Arc<Host>,
        server: ServerHandle,
        listeners: Vec<Descriptor>,
        signals: KeptSignals,
    ) -> io::Result<Self> {
        let orders = Arc::new(Orders::default());
        let mut watched = Watched {
            stuck_after: Duration::from_millis(host.config.limits.stuck_ms),
            create_timeout: Duration::from_millis(host.config.limits.create_timeout_ms.max(1)),
            host,
            server,
            listeners,
            signals,
            workers: Vec::new(),
        };
        let given = orders.clone();
        thread::Builder::new()
            .name("watch".to_owned())
            .spawn(move || watched.look_on(&given))?;
        Ok(Self(orders))
    }

    /// Notes that the host is stopping.
    pub fn stop(&self) {
        self.0.change(|state| state.is_stopping = true);
    }

    /// Ends the process by force at `deadline`, unless it has ended by then.
    pub fn end_by(&self, deadline: Instant) {
        self.0.change(|state| state.end_by = Some(deadline));
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.change(|state| state.is_over = true);
    }
}

impl Orders {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

struct Watched {
    host: Arc<Host>,
    /// Takes connections.
    server: ServerHandle,
    /// How long the initialisers of a library may take.
    create_timeout: Duration,
    /// How long an extension may keep a worker before the supervisor is told; zero: for ever.
    stuck_after: Duration,
    listeners: Vec<Descriptor>,
    signals: KeptSignals,
    workers: Vec<Seen>,
}

/// A worker as it was at the last look.
#[derive(Default)]
struct Seen {
    /// The build that it was in, and how many times it has entered one.
    inside: (u64, u64),
    /// Since when it is there, by the first look that found it there.
    stuck_since: Option<Instant>,
    /// It is stuck, and nothing is accepted any more.
    is_given_up: bool,
    /// Since when it blocks, and how long it will have when that is written next.
    blocked: Option<(Instant, Duration)>,
    sign_count: u64,
    /// How many looks have found it as it was before, in no extension.
    quiet_looks: u32,
}

impl Watched {
    fn look_on(&mut self, orders: &Orders) {
        let _ends = EndsWithThread;
        touch_thread_locals();
        let mut state = orders.lock();
        let mut next = Instant::now() + EVERY;
        loop {
            let now = Instant::now();
            if state.is_over {
                return;
            }
            if state.end_by.is_some_and(|end_by| now >= end_by) {
                drop(state);
                shutdown::force_end(&self.host);
            }
            if now >= next {
                let is_stopping = state.is_stopping;
                drop(state);
                self.look(is_stopping);
                next = Instant::now() + EVERY;
                state = orders.lock();
                continue;
            }
            let until = state.end_by.map_or(next, |end_by| end_by.min(next));
            let waited = orders.changed.wait_timeout(state, until - now);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn look(&mut self, is_stopping: bool) {
        self.signals.restore();
        let is_opening = library::is_opening(self.create_timeout);
        self.host.blocking.report_refused();
        page().give_heartbeat();
        self.look_at_workers(is_stopping || is_opening);
        let lost = self.listeners.iter().find(|listener| !listener.is_there());
        if let Some(lost) = lost.filter(|_| !is_stopping) {
            let fields: [log::Field<'_>; 1] = [("descriptor", &lost.link.display())];
            let sentence = "a socket that the host listens on was closed or replaced, by the code of an extension or because the thread that accepts connections has died; the process ends";
            end_broken(sentence, &fields);
        }
    }

    /// Tells when an extension keeps a worker from its other requests: nothing can be done about it from outside, but the author
    /// should know. A worker that is in no extension and gives no sign of life has lost what it waits with.
    fn look_at_workers(&mut self, may_be_silent: bool) {
        let workers = &self.host.catalog.workers;
        let mut blocked = 0;
        for (number, mark) in workers.marks().into_iter().enumerate() {
            let (inside, sign_count) = (mark.read(), mark.signs_of_life());
            if self.workers.len() <= number {
                self.workers.push(Seen::default());
            }
            let seen = &mut self.workers[number];
            let is_same = seen.inside == inside;
            seen.inside = inside;
            let stuck = seen.stuck_since.filter(|_| is_same && inside.0 != 0);
            seen.stuck_since = (inside.0 != 0).then(|| stuck.unwrap_or_else(Instant::now));
            if let Some(since) = stuck
                && let Some(link) = &self.host.link
                && !self.stuck_after.is_zero()
                && since.elapsed() >= self.stuck_after
            {
                // A connection that came to this worker would be lost. They wait for the next server, or until there is none.
                drop(self.server.pause());
                // Told a look later, when that has come to pass.
                if std::mem::replace(&mut seen.is_given_up, true)
                    && let Some(place) = page().place_of(mark)
                {
                    let stuck_ms = self.stuck_after.as_millis() as u64;
                    link.tell(&Notice::Stuck { place, stuck_ms });
                    // Told again after as long, where nothing came of it.
                    seen.stuck_since = None;
                    seen.is_given_up = false;
                }
            } else if std::mem::take(&mut seen.is_given_up) {
                drop(self.server.resume());
            }
            if is_same && inside.0 != 0 {
                blocked += 1;
                let since = stuck.unwrap_or_else(Instant::now);
                let (since, next) = seen.blocked.get_or_insert((since, Duration::ZERO));
                let time = since.elapsed();
                if time >= *next {
                    // Each time twice as late: one that never comes back must not fill the log.
                    *next = 2 * time;
                    let name = workers.name_of(inside.0);
                    report_blocked(number, mark, name.as_deref(), time);
                }
            } else {
                seen.blocked = None;
            }
            let is_quiet = is_same && inside.0 == 0 && seen.sign_count == sign_count;
            seen.sign_count = sign_count;
            seen.quiet_looks = match is_quiet && !may_be_silent {
                true => seen.quiet_looks + 1,
                false => 0,
            };
            if seen.quiet_looks == QUIET_LOOKS {
                workers.ask_for_sign_of_life(number);
            }
            if seen.quiet_looks > QUIET_LOOKS + UNANSWERED_LOOKS_MAX {
                let sentence = "a worker does not answer although it is in no extension: its descriptors were closed or replaced, perhaps; the process ends";
                end_broken(sentence, &[("worker", &number)]);
            }
        }
        workers.set_blocked(blocked);
        workers.look_for_jobs_left();
    }
}

fn report_blocked(number: usize, mark: &ThreadMark, extension: Option<&str>, time: Duration) {
    let (extension, blocked_ms) = (extension.unwrap_or("unknown"), time.as_millis());
    let place = page().place_of(mark);
    let (route, request) = place.map_or((None, None), |place| (place.route, place.request));
    let mut fields: Vec<log::Field<'_>> = vec![
        ("extension", &extension),
        ("worker", &number),
        ("blocked_ms", &blocked_ms),
    ];
    fields.extend(route.as_ref().map(|route| ("route", route as _)));
    fields.extend(request.as_ref().map(|request| ("request", request as _)));
    let sentence = "an extension blocks a worker; its route should be declared blocking";
    log::event(Level::Warn, sentence, &fields);
}

/// A descriptor that the host cannot serve without, and what it was when it was opened.
pub struct Descriptor {
    link: PathBuf,
    target: PathBuf,
}

impl Descriptor {
    /// The descriptor as it is now; `None`: the system does not tell.
    pub fn of(descriptor: &impl AsRawFd) -> Option<Self> {
        let link = PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()));
        let target = fs::read_link(&link).ok()?;
        Some(Self { link, target })
    }

    fn is_there(&self) -> bool {
        fs::read_link(&self.link).is_ok_and(|target| target == self.target)
    }
}
