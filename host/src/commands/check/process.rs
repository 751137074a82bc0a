//! The process that serves the extension, as the process that checks sees it: how it is started, given orders, and how it ends.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use super::error::CheckError;
use super::options::CheckOptions;
use super::protocol::{Order, Serving, SubjectMessage};
use super::stand_in::StandIn;
use crate::platform::child::{self, StderrTail, how};
use crate::platform::scratch::{self, Scratch};

/// How long the process may take until its next message, before it counts as hung.
pub const MESSAGE_TIMEOUT: Duration = Duration::from_secs(15);

/// The process that serves the extension.
pub struct Subject {
    child: Child,
    orders: UnixStream,
    messages: BufReader<UnixStream>,
    /// How to reach what it serves.
    pub serving: Serving,
    tail: StderrTail,
}

/// Why the extension is not served.
pub enum NotServed {
    /// Code and sentence.
    Refused(String, String),
    /// How it ended.
    Died(String),
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
        let control = Control::listen().map_err(CheckError::Process)?;
        let program = child::this_program().map_err(CheckError::Process)?;
        let mut child = Command::new(program)
            .args(&options.files)
            .arg("check-subject")
            .arg(options.folder)
            .arg("--control")
            .arg(&control.path)
            .args(["--stand-in", &stand_in.address.to_string()])
            .stdin(Stdio::null())
            // What the library prints is no part of the report.
            .stdout(Stdio::from(std::io::stderr()))
            .stderr(Stdio::piped())
            .spawn()
            .map_err(CheckError::Process)?;
        let tail = StderrTail::of(child.stderr.take(), options.log);
        let Some(orders) = control.accept(&mut child).map_err(CheckError::Process)? else {
            let status = child.wait().map_err(CheckError::Process)?;
            // The cause is on stderr.
            let words = tail.last_words(&how(status));
            return Err(CheckError::Lost(format!("did not come up: {words}")));
        };
        let messages = orders.try_clone().map_err(CheckError::Process)?;
        messages
            .set_read_timeout(Some(MESSAGE_TIMEOUT))
            .map_err(CheckError::Process)?;
        let mut messages = BufReader::new(messages);
        match receive(&mut messages) {
            Some(SubjectMessage::Serving(serving)) => Ok(Ok(Self {
                child,
                orders,
                messages,
                serving,
                tail,
            })),
            Some(SubjectMessage::Refused { code, message }) => {
                let _ = child.wait();
                Ok(Err(NotServed::Refused(code, message)))
            }
            _ => {
                let how = match child::wait(&mut child, Duration::from_secs(2)) {
                    Some(status) => how(status),
                    None => {
                        let _ = child.kill();
                        let _ = child.wait();
                        format!(
                            "`create` did not return within {} s",
                            MESSAGE_TIMEOUT.as_secs()
                        )
                    }
                };
                Ok(Err(NotServed::Died(tail.last_words(&how))))
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
        receive(&mut self.messages)
    }

    /// Waits a moment for its end; `None`: it lives on.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        child::wait(&mut self.child, Duration::from_secs(3))
    }

    /// How it ended, with the last line that it wrote to stderr.
    pub fn last_words(&self, how: &str) -> String {
        self.tail.last_words(how)
    }

    /// Kills it.
    pub fn kill(&mut self) {
        // Err: it has ended already.
        let _ = self.child.kill();
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}

fn receive(messages: &mut impl BufRead) -> Option<SubjectMessage> {
    let mut line = String::new();
    messages.read_line(&mut line).ok()?;
    serde_json::from_str(&line).ok()
}

/// The socket that the other process connects to.
struct Control {
    scratch: Scratch,
    path: PathBuf,
    listener: UnixListener,
}

impl Control {
    fn listen() -> std::io::Result<Self> {
        let scratch = Scratch::temporary(scratch::CHECK).map_err(|(_, cause)| cause)?;
        let path = scratch.path().join("c");
        let bound = UnixListener::bind(&path);
        let listener = bound.inspect_err(|_| scratch.remove())?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            scratch,
            path,
            listener,
        })
    }

    /// The other process's connection; `None`: it ended before it connected.
    fn accept(&self, child: &mut Child) -> std::io::Result<Option<UnixStream>> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    return Ok(Some(stream));
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    if child.try_wait()?.is_some() {
                        return Ok(None);
                    }
                    thread::sleep(Duration::from_millis(2));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.scratch.remove();
    }
}
