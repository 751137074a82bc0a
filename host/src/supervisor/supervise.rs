//! The supervisor's life: it starts a server, starts another when that ends or is to be replaced, and ends with it.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use super::blame::Blame;
use super::ending::Ending;
use super::error::SupervisorError;
use super::server_process::{Event, Launch, ServerProcess};
use super::standing::{Standing, StandingFile};
use super::systemd;
use crate::config::Config;
use crate::platform::handover::{Notice, Order};
use crate::platform::listen;
use crate::platform::log::{self, Level};

/// How much longer than it may take a server has to end before it is killed.
const GRACE: Duration = Duration::from_secs(2);
/// How long servers that are told to stop may take to accept what has come before.
const ACCEPTED_WITHIN: Duration = Duration::from_millis(200);
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
pub fn run(config: &Config, arguments: Vec<OsString>) -> Result<ExitCode, SupervisorError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(SupervisorError::Run)?;
    let program = program().map_err(SupervisorError::Start)?;
    let listeners = listen::open(&config.host, config.port).map_err(SupervisorError::Listen)?;
    let launch = Launch {
        program,
        arguments,
        listeners,
    };
    let supervisor = Supervisor::new(config, launch);
    tokio::task::LocalSet::new().block_on(&runtime, supervisor.supervise())
}

/// The binary, by a path that stays when another is put there.
fn program() -> io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    Ok(if program.exists() {
        program
    } else {
        Path::new("/proc/self/exe").to_owned()
    })
}

/// Why a server is started beside the one that serves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    /// Somebody has asked for it.
    Upgrade,
    /// The one that serves has a worker that does not come back.
    Stuck,
}

struct Supervisor {
    launch: Launch,
    blame: Blame,
    shutdown: Duration,
    standing: Standing,
    standing_file: Option<StandingFile>,
    events: UnboundedSender<Event>,
    next_event: UnboundedReceiver<Event>,
    started: u64,
    /// The server that serves, or is about to.
    current: Option<ServerProcess>,
    /// The one that will take its place.
    next: Option<(ServerProcess, Why)>,
    /// Those that finish what they have begun.
    old: Vec<ServerProcess>,
    /// When the next server is started.
    restart_at: Option<Instant>,
    /// When nobody is to listen any more.
    closes_at: Option<Instant>,
    has_served: bool,
    /// Somebody wants another server, as soon as there is one to be replaced.
    is_upgrade_wanted: bool,
    /// How many have ended one after the other that had not served.
    failures: u32,
    is_stopping: bool,
    code: Option<ExitCode>,
}

impl Supervisor {
    fn new(config: &Config, launch: Launch) -> Self {
        let (events, next_event) = unbounded_channel();
        Self {
            launch,
            blame: Blame::new(config.quarantine.clone()),
            shutdown: config.shutdown_timeout(),
            standing: Standing {
                supervisor: std::process::id(),
                ..Standing::default()
            },
            standing_file: StandingFile::take(&config.extensions_path),
            events,
            next_event,
            started: 0,
            current: None,
            next: None,
            old: Vec::new(),
            restart_at: None,
            closes_at: None,
            has_served: false,
            is_upgrade_wanted: false,
            failures: 0,
            is_stopping: false,
            code: None,
        }
    }

    async fn supervise(mut self) -> Result<ExitCode, SupervisorError> {
        let on = |kind| signal(kind).map_err(SupervisorError::Run);
        let (mut terminate, mut interrupt) =
            (on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
        let (mut hangup, mut replace) =
            (on(SignalKind::hangup())?, on(SignalKind::user_defined2())?);
        let watchdog = systemd::watchdog();
        let mut tick = interval(watchdog.unwrap_or(Duration::from_secs(3_600)));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.current = Some(self.start().map_err(SupervisorError::Start)?);
        self.write_standing();
        loop {
            let deadline = self.deadline();
            tokio::select! {
                Some(event) = self.next_event.recv() => self.on_event(event),
                _ = terminate.recv() => self.stop(Signal::TERM),
                _ = interrupt.recv() => self.stop(Signal::INT),
                _ = hangup.recv() => self.reload(),
                _ = replace.recv() => self.replace(Why::Upgrade),
                _ = tick.tick(), if watchdog.is_some() => systemd::alive(),
                () = sleep_until(deadline.unwrap_or_else(Instant::now).into()), if deadline.is_some() => self.on_deadline(),
            }
            if let Some(code) = self.code {
                self.launch.listeners.shut_down();
                return Ok(code);
            }
        }
    }

    // ---- Servers ----

    fn start(&mut self) -> io::Result<ServerProcess> {
        self.started += 1;
        let events = self.events.clone();
        ServerProcess::start(self.started, &self.launch, self.blame.quarantined(), events)
    }

    fn servers(&mut self) -> impl Iterator<Item = &mut ServerProcess> {
        let next = self.next.as_mut().map(|(server, _)| server);
        self.current.iter_mut().chain(next).chain(&mut self.old)
    }

    /// Starts the server anew, where there is none.
    fn restart(&mut self) {
        self.restart_at = None;
        match self.start() {
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
        if self
            .current
            .as_ref()
            .is_none_or(|server| server.ready.is_none())
        {
            self.is_upgrade_wanted |= why == Why::Upgrade;
            return;
        }
        match self.start() {
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
        if let Some(server) = self.current.as_ref().filter(|_| !is_done) {
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
        self.write_standing();
    }

    fn write_standing(&mut self) {
        self.standing.server = self.current.as_ref().map_or(0, |server| server.pid);
        self.standing.quarantined = self.blame.quarantined().to_vec();
        if let Some(file) = &self.standing_file
            && let Err(cause) = file.write(&self.standing)
        {
            log::event(
                Level::Warn,
                "cannot write what `upgrade` and `list` read",
                &[("cause", &cause)],
            );
        }
    }

    // ---- What comes from outside ----

    fn stop(&mut self, signal: Signal) {
        let is_first = !std::mem::replace(&mut self.is_stopping, true);
        if is_first {
            systemd::stopping();
            // No server follows: who connects from then on is refused at once, and does not wait in vain.
            self.closes_at = Some(Instant::now() + ACCEPTED_WITHIN);
        }
        self.restart_at = None;
        let within = self.shutdown + GRACE;
        for server in self.servers() {
            // One that was replaced has been told before. To be told again means to end at once, which is for whoever says it twice.
            if !is_first || server.kill_at.is_none() {
                server.tell_to_end(signal, within);
            }
        }
        if self.servers().next().is_none() {
            self.code = Some(ExitCode::SUCCESS);
        }
    }

    fn reload(&mut self) {
        systemd::reloading();
        for server in self.servers() {
            server.reload();
        }
    }

    fn deadline(&mut self) -> Option<Instant> {
        let (restart_at, closes_at) = (self.restart_at, self.closes_at);
        let kills = self.servers().filter_map(|server| server.kill_at);
        kills.chain(restart_at).chain(closes_at).min()
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
            }
        }
        if self.closes_at.take_if(|at| *at <= now).is_some() {
            self.launch.listeners.shut_down();
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
            Event::Said(_, Notice::Released { extension }) => {
                self.blame.release(&extension);
                self.write_standing();
            }
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
            self.write_standing();
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
            self.code = Some(ExitCode::SUCCESS);
        }
    }

    fn on_end_of_current(&mut self, server: &ServerProcess, status: ExitStatus) {
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        if self.is_stopping {
            if !status.success() {
                // It has said why; the others are ended, too.
                self.code = Some(code.map_or(ExitCode::FAILURE, ExitCode::from));
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
            self.code = Some(ExitCode::from(code));
            return;
        }
        ending.log("the server has crashed, and is started anew", server.pid);
        self.blame(&ending);
        if let Some((next, why)) = self.next.take() {
            self.current = Some(next);
            self.note_replaced(why, true);
            return;
        }
        let now = Instant::now();
        let has_served = server.ready.is_some_and(|ready| now - ready > SERVED_AFTER);
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
        self.write_standing();
    }
}
