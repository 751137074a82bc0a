//! A trial: a process of its own loads a build, makes an instance and destroys it, before the host loads the same copy. What ends
//! or hangs that process is a refusal, and not the host's end.
//!
//! Only that is judged. A build that the process cannot load, or whose `create` says no, is left to the host: another process
//! need not be able to do what the host can, for example where a file is locked.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fs, thread};

use extension_api::abi::ext_callbacks;
use rustix::process::{Pid, Resource, Rlimit, Signal};
use serde::{Deserialize, Serialize};

use super::copies::{Copies, TrialMark, has_passed};
use super::error::{Reason, Step};
use super::hook_thread::HookThread;
use super::library::Checked;
use super::manifest::{self, Allow, Manifest};
use super::opened::OpenedExtension;
use crate::config::Limits;
use crate::platform::child::{self, StderrTail, how};
use crate::platform::env::Env;
use crate::runtime::workers::Workers;

/// The command by which the host's program becomes the process that tries a build.
pub const COMMAND: &str = "trial";

/// How long the process may take to come up: it is no fault of the extension's where the machine is busy.
const STARTED_WITHIN: Duration = Duration::from_secs(60);

/// What is tried: as much of an extension as its `create` can see.
#[derive(Serialize, Deserialize)]
struct Order {
    name: String,
    folder: PathBuf,
    library: PathBuf,
    copy: PathBuf,
    variables: Vec<(String, Option<String>)>,
    allow: Vec<Allow>,
    basic_auth: bool,
    allow_panic_abort: bool,
}

/// What is said, and which process says it; each is a line of JSON. A library that forks can have another go on in its place.
#[derive(Serialize, Deserialize)]
struct Said {
    process: u32,
    report: Report,
}

/// What the process says.
#[derive(Serialize, Deserialize)]
enum Report {
    /// A step begins.
    Begins(Step),
    /// All steps are done.
    Passed,
    /// The library could not be loaded, or `create` has said no.
    Refused,
}

/// How a trial went that has not ended or hung its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done.
    Passed,
    /// The library could not be loaded, or `create` has said no.
    Refused,
}

/// An extension that may be tried.
pub struct Subject<'a> {
    /// Its folder's name.
    pub name: &'a str,
    /// Its folder.
    pub folder: &'a Path,
    /// What it declares.
    pub manifest: &'a Manifest,
    /// The variables that it may be given.
    pub env: &'a Env,
    /// How long each step may take.
    pub timeout: Duration,
    /// Whether a library is accepted whose panic ends the process.
    pub allow_panic_abort: bool,
}

impl Subject<'_> {
    /// Tries a library, unless its copy has passed this trial before.
    ///
    /// # Errors
    /// Where it ends or hangs the process that tries it, or there can be no such process.
    pub fn try_out(&self, checked: &mut Checked, copies: &Copies) -> Result<Outcome, Reason> {
        let mark = self.mark();
        if mark.is_some_and(|mark| has_passed(checked.copy(), mark)) {
            return Ok(Outcome::Passed);
        }
        let outcome = self.run(checked)?;
        if let (Outcome::Passed, Some(mark)) = (outcome, mark) {
            checked.mark_passed(copies, mark);
        }
        Ok(outcome)
    }

    /// Stands for all that a trial depends on beside the library: this build of the host, and what `create` is given.
    fn mark(&self) -> Option<TrialMark> {
        let program = fs::metadata(child::this_program().ok()?).ok()?;
        let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
        let program = [
            program.dev(),
            program.ino(),
            program.size(),
            program.mtime() as u64,
            program.mtime_nsec() as u64,
        ];
        program
            .iter()
            .for_each(|number| digest.update(&number.to_le_bytes()));
        let order = self.order(Path::new(""), Path::new(""));
        digest.update(&serde_json::to_vec(&order).ok()?);
        let first = *digest.finish().as_ref().first_chunk()?;
        Some(TrialMark(u64::from_le_bytes(first)))
    }

    fn order(&self, library: &Path, copy: &Path) -> Order {
        let value = |name: &str| (name.to_owned(), self.env.get(name).map(str::to_owned));
        Order {
            name: self.name.to_owned(),
            folder: self.folder.to_owned(),
            library: library.to_owned(),
            copy: copy.to_owned(),
            variables: self.manifest.env.all().map(value).collect(),
            allow: self.manifest.fetch.allow.clone(),
            basic_auth: self.manifest.request.basic_auth,
            allow_panic_abort: self.allow_panic_abort,
        }
    }

    fn run(&self, checked: &Checked) -> Result<Outcome, Reason> {
        let order = self.order(checked.library(), checked.copy());
        let no_process = |source| Reason::TrialImpossible { source };
        let mut process = Process::start().map_err(no_process)?;
        process.order(&order).map_err(no_process)?;
        let mut step = None;
        loop {
            let timeout = step.map_or(STARTED_WITHIN, |_| self.timeout);
            match process.report(timeout) {
                Heard::Report(Report::Begins(next)) => step = Some(next),
                Heard::Report(Report::Passed) => return Ok(Outcome::Passed),
                Heard::Report(Report::Refused) => return Ok(Outcome::Refused),
                Heard::Another => return Err(process.replaced(step, checked.library())),
                Heard::Nothing => return Err(process.hung(step, timeout, checked.library())),
                Heard::End => return Err(process.ended(step, checked.library())),
            }
        }
    }
}

/// What is heard of the process.
enum Heard {
    /// The next report.
    Report(Report),
    /// A report of another process than the one that was started.
    Another,
    /// Nothing in time.
    Nothing,
    /// There will be no report any more.
    End,
}

/// The process that tries a build. Killed by the drop, with what it has started.
struct Process {
    child: Child,
    control: BufReader<UnixStream>,
    stderr: StderrTail,
}

impl Process {
    fn start() -> io::Result<Self> {
        let (control, other) = UnixStream::pair()?;
        let mut child = Command::new(child::this_program()?)
            .arg0("extension-host")
            .arg(COMMAND)
            .stdin(OwnedFd::from(other))
            // What it prints, it prints once more in the host.
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Ctrl-C in a terminal is for the host.
            .process_group(0)
            .spawn()?;
        let stderr = StderrTail::of(child.stderr.take(), false);
        Ok(Self {
            child,
            control: BufReader::new(control),
            stderr,
        })
    }

    /// Sends the order. Where the process has ended already, that shows when no report comes.
    fn order(&mut self, order: &Order) -> io::Result<()> {
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        let mut control = self.control.get_ref();
        control.set_write_timeout(Some(STARTED_WITHIN))?;
        match control.write_all(&line) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            sent => sent,
        }
    }

    /// Waits for the next report.
    fn report(&mut self, timeout: Duration) -> Heard {
        // Zero would be for ever.
        let timeout = Some(timeout.max(Duration::from_millis(1)));
        let mut line = String::new();
        let read = self.control.get_ref().set_read_timeout(timeout);
        let heard = match read.and_then(|()| self.control.read_line(&mut line)) {
            Ok(_) => match serde_json::from_str::<Said>(&line) {
                Ok(said) if said.process == self.child.id() => Heard::Report(said.report),
                Ok(_) => Heard::Another,
                Err(_) => Heard::End,
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Heard::Nothing,
            Err(_) => Heard::End,
        };
        match heard {
            // What it has started may hold its end of the socket.
            Heard::Nothing | Heard::Report(Report::Passed | Report::Refused)
                if matches!(self.child.try_wait(), Ok(Some(_))) =>
            {
                Heard::End
            }
            heard => heard,
        }
    }

    /// Why it is refused, where a step does not return.
    fn hung(self, step: Option<Step>, waited: Duration, library: &Path) -> Reason {
        let waited_ms = waited.as_millis() as u64;
        match step {
            None => Reason::TrialImpossible {
                source: io::ErrorKind::TimedOut.into(),
            },
            Some(Step::Create) => Reason::CreateTimeout { waited_ms },
            Some(step) => Reason::TrialTimeout {
                library: library.to_owned(),
                step,
                waited_ms,
            },
        }
    }

    /// Why it is refused, where another process goes on in its place.
    fn replaced(self, step: Option<Step>, library: &Path) -> Reason {
        Reason::TrialCrashed {
            library: library.to_owned(),
            step: step.unwrap_or(Step::Load),
            how: child::GOES_ON_FORKED.to_owned(),
            last_line: self.stderr.last(),
        }
    }

    /// Why it is refused, where the process says nothing any more.
    fn ended(mut self, step: Option<Step>, library: &Path) -> Reason {
        /// It is on its way already: no fault of the extension's, where the machine is busy.
        const ENDED_WITHIN: Duration = Duration::from_secs(10);
        let status = child::wait(&mut self.child, ENDED_WITHIN);
        let how = status.map_or_else(
            || "the process lost descriptors that are not the library's to close".to_owned(),
            how,
        );
        match step {
            None => Reason::TrialImpossible {
                source: io::Error::other(self.stderr.last_words(&how)),
            },
            Some(step) => Reason::TrialCrashed {
                library: library.to_owned(),
                step,
                how,
                last_line: self.stderr.last(),
            },
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Errors say that it has ended, and left nothing.
        let _ = rustix::process::kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tries what the parent orders, and waits to be ended by it: what the library would do at the end of a process is no part of the
/// trial.
///
/// # Errors
/// Where there is no parent to take orders from.
pub fn obey(callbacks: &'static ext_callbacks) -> io::Result<()> {
    // The parent's end is this one's.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // A crash here is told by the host; a core for each would fill the disk.
    let no_core = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    rustix::process::setrlimit(Resource::Core, no_core)?;
    // Out of the way of what the library may read.
    let control = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    rustix::stdio::dup2_stdin(fs::File::open("/dev/null")?)?;
    let mut orders = BufReader::new(control.try_clone()?);
    let mut line = String::new();
    orders.read_line(&mut line)?;
    let order = serde_json::from_str::<Order>(&line)?;
    // On a thread, because the host does so, too: its stack is smaller than that of a process's first thread.
    let trial = thread::Builder::new().name("open".to_owned());
    let trial = trial.spawn(move || {
        let report = |report: Report| {
            // Asked for each time: a library may have forked in between.
            let process = std::process::id();
            let said = Said { process, report };
            let line = serde_json::to_string(&said).unwrap_or_default();
            // Err: the parent has gone, and this process with it.
            let _ = writeln!(&control, "{line}");
        };
        let passed = try_here(order, callbacks, |step| report(Report::Begins(step)));
        match passed {
            Ok(()) => report(Report::Passed),
            // There is no limit here: the thread of `create` is being unwound by what was thrown, which ends the process.
            Err(Reason::CreateTimeout { .. }) => loop {
                thread::park();
            },
            Err(_) => report(Report::Refused),
        }
    })?;
    // It reports a panic of its own by ending.
    if trial.join().is_err() {
        return Err(io::Error::other("the trial panicked"));
    }
    line.clear();
    orders.read_line(&mut line)?;
    Ok(())
}

fn try_here(
    order: Order,
    callbacks: &'static ext_callbacks,
    mut begins: impl FnMut(Step),
) -> Result<(), Reason> {
    // The parent knows how long each step may take.
    let limits = Limits {
        create_timeout_ms: u64::MAX,
        ..Limits::default()
    };
    let (names, variables): (Vec<String>, Vec<_>) = order
        .variables
        .into_iter()
        .map(|(name, value)| (name.clone(), value.map(|value| (name, value))))
        .unzip();
    let env = Env::from_pairs(variables.into_iter().flatten());
    let manifest = Manifest {
        env: manifest::Variables {
            required: Vec::new(),
            optional: names,
        },
        fetch: manifest::Fetch { allow: order.allow },
        request: manifest::Request {
            basic_auth: order.basic_auth,
        },
        ..Manifest::default()
    };
    let checked = Checked::again(&order.library, &order.copy, order.allow_panic_abort);
    begins(Step::Load);
    let opened = OpenedExtension::of(
        &order.name,
        &order.folder,
        manifest,
        checked,
        &env,
        // There is no worker yet when the host starts, either: an outgoing call of `create` says so by its status.
        &Arc::<Workers>::default(),
        0,
    )?;
    begins(Step::Create);
    let extension = opened.create(1, &limits, callbacks, &mut HookThread::default())?;
    begins(Step::Destroy);
    extension.retire(Instant::now());
    Ok(())
}
