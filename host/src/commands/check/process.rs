//! The process that serves the extension, as the process that checks sees it: how it is started, given orders, and how it ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::error::CheckError;
use super::options::CheckOptions;
use super::processes;
use super::protocol::{Order, Sent, Serving, SubjectMessage};
use super::stand_in::StandIn;
use crate::platform::child::{self, GOES_ON_FORKED, StderrTail, how};
use crate::platform::scratch;

/// How long the process may take until its next message, before it counts as hung.
pub const MESSAGE_TIMEOUT: Duration = Duration::from_secs(15);

/// How long the process may take to end when it has said its last: much longer than it takes, also on a busy machine.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// The process that serves the extension.
pub struct Subject {
    process: Process,
    orders: UnixStream,
    messages: BufReader<UnixStream>,
    /// How to reach what it serves.
    pub serving: Serving,
}

/// Why the extension is not served.
pub enum NotServed {
    /// Code and sentence.
    Refused(String, String),
    /// How it ended, and when.
    Died(String, &'static str),
    /// It does not go on, and when it stopped to.
    Hung(String, &'static str),
}

impl Subject {
    /// Starts the process, and waits until the extension is served.
    ///
    /// # Errors
    /// Where the process cannot be run.
    pub fn start(
        options: &CheckOptions<'_>,
        stand_in: &StandIn,
    ) -> Result<Result<Self, NotServed>, CheckError> {
        let (orders, theirs) = UnixStream::pair().map_err(CheckError::Process)?;
        let mut process = Process::start(options, stand_in, theirs).map_err(CheckError::Process)?;
        let messages = orders.try_clone().map_err(CheckError::Process)?;
        messages
            .set_read_timeout(Some(MESSAGE_TIMEOUT))
            .map_err(CheckError::Process)?;
        let mut messages = BufReader::new(messages);
        let mut during = None;
        loop {
            match receive(&mut messages, process.child.id()) {
                Ok(SubjectMessage::Loading) => {
                    during = Some("the library was loaded, and its initialisers ran");
                }
                Ok(SubjectMessage::Opened) => during = Some("`create` was called"),
                Ok(SubjectMessage::Serving(serving)) => {
                    return Ok(Ok(Self {
                        process,
                        orders,
                        messages,
                        serving,
                    }));
                }
                Ok(SubjectMessage::Refused { code, message }) => {
                    // It ends by itself, or is killed.
                    process.ended();
                    return Ok(Err(NotServed::Refused(code, message)));
                }
                Err(NoMessage::OfAnother) => {
                    let during = during.unwrap_or("it came up");
                    return Ok(Err(NotServed::Died(GOES_ON_FORKED.to_owned(), during)));
                }
                Ok(SubjectMessage::Observed(_)) | Err(NoMessage::None) => {
                    let ended = process.ended();
                    let Some(during) = during else {
                        // The cause is on stderr.
                        let words = ended.map_or_else(String::new, |it| process.last_words(it));
                        return Err(CheckError::Lost(format!("did not come up: {words}")));
                    };
                    return Ok(Err(match ended {
                        Some(status) => NotServed::Died(process.last_words(status), during),
                        None => NotServed::Hung(
                            format!("nothing moved for {} s", MESSAGE_TIMEOUT.as_secs()),
                            during,
                        ),
                    }));
                }
            }
        }
    }

    /// Sends an order.
    pub fn order(&mut self, order: Order) {
        if let Ok(mut line) = serde_json::to_vec(&order) {
            line.push(b'\n');
            // Err: the process has ended, which shows when no message comes.
            let _ = self.orders.write_all(&line);
        }
    }

    /// Waits for its next message; `None`: it sends none any more.
    pub fn receive(&mut self) -> Option<SubjectMessage> {
        receive(&mut self.messages, self.process.child.id()).ok()
    }

    /// Waits for its end, and how it ended; `None`: it lives on.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.ended()
    }

    /// How it ended, with the last line that it wrote to stderr.
    pub fn last_words(&self, status: ExitStatus) -> String {
        self.process.last_words(status)
    }

    /// Ends what is left of it, and says which processes the extension had left running.
    pub fn end_rest(&mut self) -> Vec<String> {
        self.process.end_rest()
    }

    /// What it has written to the standard output: a part of the first line; empty where that is nothing. To be asked when
    /// nothing is left of it.
    pub fn printed(&mut self) -> String {
        let until = Instant::now() + END_TIMEOUT;
        let reading = self.process.stdout.take();
        // A process that cannot be ended may keep the pipe open: then the thread is left to itself.
        while reading.as_ref().is_some_and(|it| !it.is_finished()) && Instant::now() < until {
            thread::sleep(Duration::from_millis(2));
        }
        // The thread does nothing that could panic.
        let read = reading
            .filter(JoinHandle::is_finished)
            .map(JoinHandle::join);
        read.and_then(Result::ok).unwrap_or_default()
    }
}

/// The process, and what it writes. With a drop it is ended, and so is what the extension has started in it.
struct Process {
    child: Child,
    tail: StderrTail,
    /// Reads what it prints.
    stdout: Option<JoinHandle<String>>,
}

impl Process {
    fn start(
        options: &CheckOptions<'_>,
        stand_in: &StandIn,
        control: UnixStream,
    ) -> std::io::Result<Self> {
        // Processes whose parent ends become this one's children, so that none is left.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let mut child = Command::new(child::this_program()?)
            .args(&options.files)
            .arg("check-subject")
            .arg(options.folder)
            .args(["--stand-in", &stand_in.address.to_string()])
            .stdin(Stdio::from(OwnedFd::from(control)))
            // What the library prints is no part of the report.
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let tail = StderrTail::of(child.stderr.take(), options.log);
        let (stdout, is_shown) = (child.stdout.take(), options.log);
        let stdout = stdout.map(|stdout| thread::spawn(move || first_line(stdout, is_shown)));
        Ok(Self {
            child,
            tail,
            stdout,
        })
    }

    /// See [`Subject::ended`].
    fn ended(&mut self) -> Option<ExitStatus> {
        child::wait(&mut self.child, END_TIMEOUT)
    }

    /// See [`Subject::last_words`].
    fn last_words(&self, status: ExitStatus) -> String {
        self.tail.last_words(&how(status))
    }

    /// See [`Subject::end_rest`].
    fn end_rest(&mut self) -> Vec<String> {
        // Err: it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let rest = processes::end_children();
        rest.iter().map(ToString::to_string).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end_rest();
        scratch::remove_left();
    }
}

/// Reads to the end, and returns a part of the first line.
fn first_line(stdout: impl Read, is_shown: bool) -> String {
    const CHARACTERS_MAX: usize = 200;
    let mut first = None;
    for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        if is_shown {
            eprintln!("{line}");
        }
        first.get_or_insert_with(|| line.chars().take(CHARACTERS_MAX).collect());
    }
    first.unwrap_or_default()
}

/// Why there is no message.
enum NoMessage {
    /// There is none in time, or there will be none any more.
    None,
    /// What came is of another process.
    OfAnother,
}

fn receive(messages: &mut impl BufRead, process: u32) -> Result<SubjectMessage, NoMessage> {
    let mut line = String::new();
    messages.read_line(&mut line).map_err(|_| NoMessage::None)?;
    let sent: Sent<SubjectMessage> = serde_json::from_str(&line).map_err(|_| NoMessage::None)?;
    match sent.process == process {
        true => Ok(sent.message),
        false => Err(NoMessage::OfAnother),
    }
}
