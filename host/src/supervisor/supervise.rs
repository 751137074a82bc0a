//! The supervisor's life: it starts a server, starts another when that ends or is to be replaced, and ends with it.

use std::ffi::OsString;
use std::io;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use super::blame::Blame;
use super::ending::Ending;
use super::error::SupervisorError;
use super::server_process::{Event, Launch, ServerProcess};
use super::standing::{Standing, StandingSocket};
use super::systemd;
use super::version::Version;
use crate::config::{Config, Overrides};
use crate::platform::error_chain::error_chain;
use crate::platform::handover::{Notice, Occasion, Opening, Order, SettingsText};
use crate::platform::listen;
use crate::platform::log::{self, Level};
use crate::platform::process;

/// How much longer than it may take a server has to end before it is killed: everything is over within a second.
const GRACE: Duration = Duration::from_millis(950);
/// A server gives a sign of life each second: so much may it be late where the machine is busy.
const FROZEN_AFTER_MIN: Duration = Duration::from_secs(5);
/// A server that ends sooner than this has not served.
const SERVED_AFTER: Duration = Duration::from_secs(1);
/// So many that have not served are replaced at once.
const QUICK_RESTARTS: u32 = 3;
/// The pause before the next one, doubled each time, and the longest.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Serves by another process, until a signal says to stop.
///
/// # Errors
/// Where it cannot listen, or no server can be started.
pub fn run(
    config: &Config,
    settings: SettingsText,
    overrides: Overrides,
    arguments: Vec<OsString>,
) -> Result<u8, SupervisorError> {
    // Where nobody reads stderr, the supervisor must go on.
    log::write_in_background();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(SupervisorError::Run)?;
    let version = Version::own(config, settings).map_err(SupervisorError::Start)?;
    let listeners = listen::open(&config.host, config.port).map_err(SupervisorError::Listen)?;
    let launch = Launch {
        arguments,
        listeners,
    };
    let socket = {
        let _entered = runtime.enter();
        StandingSocket::bind(config)
    };
    if let Err(cause) = &socket {
        let sentence = "`upgrade` and `list` do not find this host: another one may have the same extensions folder and config.toml";
        log::event(Level::Warn, sentence, &[("cause", cause)]);
    }
    let supervisor = Supervisor::new(config, overrides, version, launch);
    let supervising = supervisor.supervise(socket.ok());
    tokio::task::LocalSet::new().block_on(&runtime, supervising)
}

/// How long a server that follows another may take until it serves.
pub fn ready_within(config: &Config) -> Duration {
    /// For everything but one extension that hangs.
    const MARGIN: Duration = Duration::from_secs(30);
    Duration::from_millis(config.limits.create_timeout_ms) + MARGIN
}

/// Why a server is started beside the one that serves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    /// Somebody has asked for it.
    Upgrade,
    /// The one that serves has a worker that does not come back, or does not run at all.
    Stuck,
}

/// The next one that asks how things stand.
async fn asked(socket: Option<&StandingSocket>) -> tokio::net::UnixStream {
    match socket {
        Some(socket) => socket.asker().await,
        None => std::future::pending().await,
    }
}

struct Supervisor {
    launch: Launch,
    overrides: Overrides,
    /// What servers are made of.
    version: Version,
    /// What the one is made of that is to replace them.
    next_version: Option<Version>,
    blame: Blame,
    /// How long a server may take to serve.
    ready_within: Duration,
    /// How long a server may give no sign of life, where that is looked at.
    frozen_after: Duration,
    notices_frozen: bool,
    shutdown: Duration,
    standing: Standing,
    events: UnboundedSender<Event>,
    next_event: UnboundedReceiver<Event>,
    started: u64,
    /// The server that serves, or is about to.
    current: Option<ServerProcess>,
    /// The one that will take its place.
    next: Option<(ServerProcess, Why)>,
    /// What the last one served that is not there any more.
    served: Vec<String>,
    /// Those that finish what they have begun.
    old: Vec<ServerProcess>,
    /// When the next server is started.
    restart_at: Option<Instant>,
    has_served: bool,
    /// Somebody wants another server, as soon as there is one to be replaced.
    is_upgrade_wanted: bool,
    /// How many have ended one after the other that had not served.
    failures: u32,
    is_stopping: bool,
    code: Option<u8>,
}

impl Supervisor {
    fn new(config: &Config, overrides: Overrides, version: Version, launch: Launch) -> Self {
        let (events, next_event) = unbounded_channel();
        Self {
            launch,
            overrides,
            version,
            next_version: None,
            ready_within: ready_within(config),
            frozen_after: Duration::from_millis(config.limits.stuck_ms).max(FROZEN_AFTER_MIN),
            notices_frozen: config.limits.stuck_ms > 0,
            blame: Blame::new(config.quarantine.clone()),
            shutdown: config.shutdown_timeout(),
            standing: Standing::default(),
            events,
            next_event,
            started: 0,
            current: None,
            next: None,
            served: Vec::new(),
            old: Vec::new(),
            restart_at: None,
            has_served: false,
            is_upgrade_wanted: false,
            failures: 0,
            is_stopping: false,
            code: None,
        }
    }

    async fn supervise(mut self, socket: Option<StandingSocket>) -> Result<u8, SupervisorError> {
        let on = |kind| signal(kind).map_err(SupervisorError::Run);
        let (mut terminate, mut interrupt) =
            (on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
        let (mut hangup, mut replace) =
            (on(SignalKind::hangup())?, on(SignalKind::user_defined2())?);
        let watchdog = systemd::watchdog();
        let mut tick = interval(watchdog.unwrap_or(Duration::from_secs(3_600)));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Often enough to be a quarter late at most.
        let mut look = interval(self.frozen_after / 4);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let first = self.start(Occasion::Start);
        self.current = Some(first.map_err(SupervisorError::Start)?);
        loop {
            let deadline = self.deadline();
            tokio::select! {
                Some(event) = self.next_event.recv() => self.on_event(event),
                _ = terminate.recv() => self.stop(Signal::TERM),
                _ = interrupt.recv() => self.stop(Signal::INT),
                _ = hangup.recv() => self.reload(),
                _ = replace.recv() => self.replace(Why::Upgrade),
                _ = tick.tick(), if watchdog.is_some() => systemd::alive(),
                _ = look.tick(), if self.notices_frozen => self.look(),
                asker = asked(socket.as_ref()) => self.standing().tell(&asker),
                () = sleep_until(deadline.unwrap_or_else(Instant::now).into()), if deadline.is_some() => self.on_deadline(),
            }
            if let Some(code) = self.code {
                // Where no server has.
                self.launch.listeners.shut_down();
                return Ok(code);
            }
        }
    }

    // ---- Servers ----

    fn start(&mut self, occasion: Occasion) -> io::Result<ServerProcess> {
        self.started += 1;
        let events = self.events.clone();
        let version = self.next_version.as_mut().unwrap_or(&mut self.version);
        let opening = Opening {
            quarantined: self.blame.quarantined().to_vec(),
            settings: version.settings(),
            occasion,
        };
        let program = version.program();
        let is_first = opening.occasion == Occasion::Start;
        let mut server =
            ServerProcess::start(self.started, &self.launch, program, opening, events)?;
        server.ready_by = (!is_first).then(|| Instant::now() + self.ready_within);
        Ok(server)
    }

    fn servers(&mut self) -> impl Iterator<Item = &mut ServerProcess> {
        let next = self.next.as_mut().map(|(server, _)| server);
        self.current.iter_mut().chain(next).chain(&mut self.old)
    }

    /// Starts the server anew, where there is none.
    fn restart(&mut self) {
        self.restart_at = None;
        let serves = self.served.clone();
        match self.start(Occasion::Replacement { serves }) {
            Ok(server) => self.current = Some(server),
            Err(cause) => {
                log::event(
                    Level::Error,
                    "cannot start the server's process",
                    &[("cause", &cause)],
                );
                self.restart_at = Some(Instant::now() + PAUSE_MAX);
            }
        }
    }

    /// Starts a server beside the one that serves, to take its place.
    fn replace(&mut self, why: Why) {
        if self.is_stopping {
            return;
        }
        if let Some((_, other)) = &self.next {
            // Where that is no upgrade, it may have been started before the binary was put in place: this one follows it.
            self.is_upgrade_wanted |= why == Why::Upgrade && *other == Why::Stuck;
            return;
        }
        let current = self.current.as_ref();
        let Some(current) = current.filter(|server| server.ready.is_some()) else {
            self.is_upgrade_wanted |= why == Why::Upgrade;
            return;
        };
        let occasion = match why {
            Why::Stuck => Occasion::Replacement {
                serves: current.serves.clone(),
            },
            Why::Upgrade => Occasion::Upgrade {
                serves: current.serves.clone(),
            },
        };
        if why == Why::Upgrade {
            match self.version.on_disk(&self.overrides) {
                Ok(version) => self.next_version = Some(version),
                Err(error) => {
                    let cause = error_chain(error.as_ref());
                    let sentence = "cannot upgrade; the server serves on as it is";
                    log::event(Level::Error, sentence, &[("cause", &cause)]);
                    self.note_replaced(why, false);
                    return;
                }
            }
        }
        match self.start(occasion) {
            Ok(server) => self.next = Some((server, why)),
            Err(cause) => {
                log::event(
                    Level::Error,
                    "cannot start a new server; the old one serves on",
                    &[("cause", &cause)],
                );
                self.note_replaced(why, false);
            }
        }
    }

    /// Notes whether a server has taken the place of the one before. Where none has, that one goes on.
    fn note_replaced(&mut self, why: Why, is_done: bool) {
        let version = self.next_version.take();
        if is_done {
            if let Some(version) = version {
                self.version = version;
            }
        } else if let Some(server) = &self.current {
            server.order(Order::AcceptAgain);
        }
        if why == Why::Upgrade {
            let count = if is_done {
                &mut self.standing.upgrades
            } else {
                &mut self.standing.failed_upgrades
            };
            *count += 1;
        }
    }

    fn standing(&self) -> Standing {
        Standing {
            server: self.current.as_ref().map_or(0, |server| server.pid),
            quarantined: self.blame.quarantined().to_vec(),
            ..self.standing.clone()
        }
    }

    // ---- What comes from outside ----

    fn stop(&mut self, signal: Signal) {
        let is_first = !std::mem::replace(&mut self.is_stopping, true);
        if is_first {
            systemd::stopping();
        }
        self.restart_at = None;
        let within = self.shutdown + GRACE;
        for server in self.servers() {
            // So that it shuts the sockets down: who connects then is refused at once, and does not wait in vain.
            server.order(Order::NobodyFollows);
            // One that was replaced has been told before. To be told again means to end at once, which is for whoever says it twice.
            if !is_first || server.kill_at.is_none() {
                server.tell_to_end(signal, within);
            }
        }
        if self.servers().next().is_none() {
            self.code = Some(process::DONE);
        }
    }

    fn reload(&mut self) {
        systemd::reloading();
        // Err: the server says what is wrong.
        let _ = self.version.keep_env();
        for server in self.servers() {
            server.reload();
        }
    }

    fn deadline(&mut self) -> Option<Instant> {
        let restart_at = self.restart_at;
        let ends = self.servers().filter_map(|server| server.ends_at());
        ends.chain(restart_at).min()
    }

    fn on_deadline(&mut self) {
        let now = Instant::now();
        for server in self.servers() {
            if server.kill_at.is_some_and(|at| at <= now) {
                server.kill_at = None;
                log::event(
                    Level::Error,
                    "the server does not end, and is killed",
                    &[("pid", &server.pid)],
                );
                server.signal(Signal::KILL);
            } else if server.ends_at().is_some_and(|at| at <= now) {
                server.ready_by = None;
                log::event(
                    Level::Error,
                    "the server does not come to serve, and is killed",
                    &[("pid", &server.pid)],
                );
                server.signal(Signal::KILL);
            }
        }
        if self.restart_at.is_some_and(|at| at <= now) {
            self.restart();
        }
    }

    // ---- What comes from servers ----

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Said(number, Notice::Ready) => self.on_ready(number),
            Event::Said(number, Notice::Reloaded) if self.is_current(number) => systemd::ready(),
            Event::Said(number, Notice::Stuck { place, stuck_ms }) if self.is_current(number) => {
                self.on_stuck(Ending::stuck(place, stuck_ms));
            }
            Event::Said(number, Notice::Stopping) if self.is_current(number) => self.on_leaving(),
            Event::Said(number, Notice::Serves { extensions }) => {
                if let Some(server) = self.servers().find(|server| server.number == number) {
                    server.serves = extensions;
                }
            }
            Event::Said(_, Notice::Released { extension }) => self.blame.release(&extension),
            Event::Said(..) => {}
            Event::Ended(number, status) => self.on_end(number, status),
        }
    }

    fn is_current(&self, number: u64) -> bool {
        self.current
            .as_ref()
            .is_some_and(|server| server.number == number)
    }

    fn on_ready(&mut self, number: u64) {
        let now = Instant::now();
        if let Some((mut server, why)) = self.next.take_if(|(server, _)| server.number == number) {
            server.begin_to_serve(now);
            let fields: [log::Field<'_>; 1] = [("pid", &server.pid)];
            log::event(
                Level::Info,
                "a new server serves; the old one finishes what it has begun",
                &fields,
            );
            if let Some(mut old) = self.current.replace(server) {
                old.tell_to_end(Signal::TERM, self.shutdown + GRACE);
                self.old.push(old);
            }
            self.note_replaced(why, true);
        } else if let Some(server) = &mut self.current
            && server.number == number
        {
            server.begin_to_serve(now);
        } else {
            return;
        }
        self.has_served = true;
        if self.is_stopping {
            return;
        }
        systemd::ready();
        if std::mem::take(&mut self.is_upgrade_wanted) {
            self.replace(Why::Upgrade);
        }
    }

    fn on_stuck(&mut self, ending: Ending) {
        if self.is_stopping || self.next.is_some() {
            return;
        }
        let pid = self.current.as_ref().map_or(0, |server| server.pid);
        ending.log("an extension keeps a worker; a new server takes over", pid);
        self.blame(&ending);
        self.replace(Why::Stuck);
    }

    /// A server that gets no time to run serves nobody.
    fn look(&mut self) {
        let Some(server) = &mut self.current else {
            return;
        };
        let since = server.frozen_since().map(|since| since.elapsed());
        let frozen = since.filter(|frozen| *frozen >= self.frozen_after);
        if let Some(frozen) = frozen.filter(|_| !self.is_stopping && self.next.is_none()) {
            let frozen_ms = frozen.as_millis();
            let fields: [log::Field<'_>; 2] = [("pid", &server.pid), ("frozen_ms", &frozen_ms)];
            let sentence = "the server does not run: it was stopped (SIGSTOP, a debugger), or the machine gives it no time; a new server takes over";
            log::event(Level::Error, sentence, &fields);
            self.replace(Why::Stuck);
        }
    }

    /// The server was told to end by somebody else than the supervisor: it takes no connections any more.
    fn on_leaving(&mut self) {
        if self.is_stopping {
            return;
        }
        if let Some(mut server) = self.current.take_if(|server| server.kill_at.is_none()) {
            let sentence = "the server was told to end by another process or an extension; a new server takes over";
            log::event(Level::Warn, sentence, &[("pid", &server.pid)]);
            server.kill_at = Some(Instant::now() + self.shutdown + GRACE);
            self.note_served(&server);
            self.old.push(server);
            self.follow();
        }
    }

    fn note_served(&mut self, server: &ServerProcess) {
        if server.ready.is_some() {
            self.served.clone_from(&server.serves);
        }
    }

    /// Has another server serve in the place of one that has ended, or is about to.
    fn follow(&mut self) {
        match self.next.take() {
            Some((next, Why::Stuck)) => self.current = Some(next),
            // What it is made of has not proved itself yet.
            Some((next, Why::Upgrade)) => {
                next.signal(Signal::KILL);
                self.old.push(next);
                self.next_version = None;
                self.is_upgrade_wanted = true;
                self.restart();
            }
            None => self.restart(),
        }
    }

    fn on_end(&mut self, number: u64, status: io::Result<ExitStatus>) {
        let Ok(status) = status else {
            return;
        };
        if self.is_current(number)
            && let Some(server) = self.current.take()
        {
            self.on_end_of_current(&server, status);
        } else if let Some((server, why)) = self.next.take_if(|(server, _)| server.number == number)
        {
            if !self.is_stopping {
                let ending = Ending::of(status, server.page().as_ref());
                ending.log(
                    "the new server did not start; the old one serves on",
                    server.pid,
                );
                self.blame(&ending);
                self.note_replaced(why, false);
            }
        } else if let Some(index) = self.old.iter().position(|server| server.number == number) {
            let server = self.old.swap_remove(index);
            let ending = Ending::of(status, server.page().as_ref());
            // An extension's exit(0) is no end of its own.
            if !status.success() || ending.culprit().is_some() {
                ending.log("the old server did not end well", server.pid);
            }
        }
        if self.is_stopping && self.servers().next().is_none() && self.code.is_none() {
            self.code = Some(process::DONE);
        }
    }

    fn on_end_of_current(&mut self, server: &ServerProcess, status: ExitStatus) {
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        if self.is_stopping {
            if !status.success() {
                // It has said why; the others are ended, too.
                self.code = Some(code.unwrap_or(process::FAILED));
                self.servers()
                    .for_each(|server| server.signal(Signal::KILL));
            }
            return;
        }
        let ending = Ending::of(status, server.page().as_ref());
        if !self.has_served
            && ending.culprit().is_none()
            && let Some(code) = code
        {
            // It cannot be started like this, and has said why.
            self.code = Some(code);
            return;
        }
        ending.log("the server has crashed, and is started anew", server.pid);
        self.blame(&ending);
        self.note_served(server);
        if self.next.is_some() {
            self.follow();
            return;
        }
        let now = Instant::now();
        // One that an extension has ended is replaced at once, however soon: quarantine sees to it that there is an end to that.
        let has_served = server
            .ready
            .is_some_and(|ready| now - ready > SERVED_AFTER || ending.culprit().is_some());
        self.failures = if has_served { 0 } else { self.failures + 1 };
        let Some(doublings) = self.failures.checked_sub(QUICK_RESTARTS + 1) else {
            self.restart();
            return;
        };
        let pause = PAUSE.saturating_mul(1 << doublings.min(16)).min(PAUSE_MAX);
        let (pause_ms, failures) = (pause.as_millis(), self.failures);
        let fields: [log::Field<'_>; 2] = [("pause_ms", &pause_ms), ("crashes", &failures)];
        log::event(
            Level::Error,
            "the server crashes in its start again and again; the next one waits a moment",
            &fields,
        );
        self.restart_at = Some(now + pause);
    }

    /// Counts a crash against the extension that it names, and leaves that out where it was one too many.
    fn blame(&mut self, ending: &Ending) {
        let Some(place) = ending.culprit() else {
            return;
        };
        if let Some(quarantined) = self.blame.count(place, ending.what(), Instant::now()) {
            let fields: [log::Field<'_>; 2] = [
                ("extension", &quarantined.extension),
                ("why", &quarantined.why),
            ];
            log::event(
                Level::Error,
                "an extension is quarantined: it is not loaded any more, and the others serve; change its library, or POST /extensions/ID/reload, to try it again",
                &fields,
            );
        }
    }
}
