//! A server as its supervisor sees it: a process, what it says, and how it ends.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, Command};
use tokio::sync::mpsc::UnboundedSender;

use crate::platform::handover::{Handover, Notice, Opening, Order};
use crate::platform::listen::Listeners;
use crate::runtime::crash_page::{self, Mapping};

/// How servers are started.
pub struct Launch {
    /// Their arguments.
    pub arguments: Vec<OsString>,
    /// What it listens on.
    pub listeners: Listeners,
}

/// What happens to a server, by its number.
pub enum Event {
    /// It says something.
    Said(u64, Notice),
    /// It has ended.
    Ended(u64, io::Result<ExitStatus>),
}

/// See the module's text.
pub struct ServerProcess {
    /// Which of the supervisor's servers it is.
    pub number: u64,
    /// Its process.
    pub pid: u32,
    /// When it took requests for the first time.
    pub ready: Option<Instant>,
    /// When it is to serve at the latest; `None`: the operator waits for it.
    pub ready_by: Option<Instant>,
    /// When it is to be killed: it was told to end before.
    pub kill_at: Option<Instant>,
    /// What it serves, by the names of folders.
    pub serves: Vec<String>,
    /// How often it had given a sign of life, and when that was seen to have changed.
    alive: (u64, Instant),
    /// It is to look at its extensions again as soon as it can be told.
    must_reload: bool,
    page: File,
    orders: UnixStream,
}

impl ServerProcess {
    /// Starts one; what happens to it goes to `events`.
    ///
    /// # Errors
    /// Where the system does not start the process.
    pub fn start(
        number: u64,
        launch: &Launch,
        program: PathBuf,
        opening: Opening,
        events: UnboundedSender<Event>,
    ) -> io::Result<Self> {
        let (here, there) = UnixStream::pair()?;
        let page = crash_page::anonymous()?;
        let handover = Handover {
            page: page.try_clone()?,
            listeners: launch.listeners.try_clone()?,
            opening,
        };
        handover.send(&here)?;
        drop(handover);
        let child = Command::new(program)
            .arg("--supervised")
            .args(&launch.arguments)
            .stdin(Stdio::from(OwnedFd::from(there)))
            // What a terminal sends to the group comes to the supervisor alone, which passes it on, once.
            .process_group(0)
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_PID")
            .env_remove("WATCHDOG_USEC")
            .spawn()?;
        let pid = child.id().unwrap_or_default();
        here.set_nonblocking(true)?;
        let orders = here.try_clone()?;
        let lines = BufReader::new(tokio::net::UnixStream::from_std(here)?).lines();
        tokio::task::spawn_local(follow(number, child, lines, events));
        Ok(Self {
            number,
            pid,
            ready: None,
            ready_by: None,
            serves: Vec::new(),
            alive: (0, Instant::now()),
            kill_at: None,
            must_reload: false,
            page,
            orders,
        })
    }

    /// Since when the process has got no time to run, as it was seen by looking now and then.
    pub fn frozen_since(&mut self) -> Option<Instant> {
        let count = self.page().filter(|page| page.is_readable())?.heartbeats();
        if count != self.alive.0 {
            self.alive = (count, Instant::now());
        }
        self.ready.map(|ready| ready.max(self.alive.1))
    }

    /// What it has left behind; `None`: it cannot be read.
    pub fn page(&self) -> Option<Mapping> {
        Mapping::of(&self.page).ok()
    }

    /// When it is killed, if nothing changes.
    pub fn ends_at(&self) -> Option<Instant> {
        let late = self.ready_by.filter(|_| self.ready.is_none());
        self.kill_at.into_iter().chain(late).min()
    }

    /// Tells it to end, and notes when it is to be killed if it does not.
    pub fn tell_to_end(&mut self, signal: Signal, within: Duration) {
        self.signal(signal);
        self.kill_at.get_or_insert(Instant::now() + within);
    }

    /// Tells it something.
    pub fn order(&self, order: Order) {
        order.give(&self.orders);
    }

    /// Has it look at its extensions again: at once, or when it serves. Before, the signal would end it.
    pub fn reload(&mut self) {
        match self.ready {
            Some(_) => self.signal(Signal::HUP),
            None => self.must_reload = true,
        }
    }

    /// Notes that it takes requests.
    pub fn begin_to_serve(&mut self, now: Instant) {
        self.ready = Some(now);
        if std::mem::take(&mut self.must_reload) {
            self.signal(Signal::HUP);
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            // Err: it has ended, which is about to be told.
            let _ = kill_process(pid, signal);
        }
    }
}

/// Tells what happens to a server, until it has ended.
async fn follow(
    number: u64,
    mut child: Child,
    mut lines: Lines<BufReader<tokio::net::UnixStream>>,
    events: UnboundedSender<Event>,
) {
    /// For what it has said last, and is not read yet.
    const LAST_WORDS: Duration = Duration::from_millis(20);
    let say = |line: &str| {
        // A newer server may know more to say.
        if let Ok(notice) = serde_json::from_str(line) {
            // Err: the supervisor ends.
            let _ = events.send(Event::Said(number, notice));
        }
    };
    let mut is_open = true;
    let status = loop {
        tokio::select! {
            biased;
            line = lines.next_line(), if is_open => match line {
                Ok(Some(line)) => say(&line),
                // Processes that an extension has left behind may outlive it, so that this is not its end.
                Ok(None) | Err(_) => is_open = false,
            },
            status = child.wait() => break status,
        }
    };
    while is_open {
        match tokio::time::timeout(LAST_WORDS, lines.next_line()).await {
            Ok(Ok(Some(line))) => say(&line),
            _ => is_open = false,
        }
    }
    // As above.
    let _ = events.send(Event::Ended(number, status));
}
