//! The process that serves the extension, as the process that checks sees it: how it is started, given orders, and how it ends.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::error::CheckError;
use super::options::CheckOptions;
use super::protocol::{Order, Serving, SubjectMessage};
use super::stand_in::StandIn;
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
    /// The end of what it wrote to stderr.
    tail: Arc<Mutex<VecDeque<String>>>,
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
        let program = std::env::current_exe().map_err(CheckError::Process)?;
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
        let tail = tail(child.stderr.take(), options.log);
        let Some(orders) = control.accept(&mut child).map_err(CheckError::Process)? else {
            let status = child.wait().map_err(CheckError::Process)?;
            // The cause is on stderr.
            let words = last_words(&tail, &how(status));
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
                let how = match wait(&mut child, Duration::from_secs(2)) {
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
                Ok(Err(NotServed::Died(last_words(&tail, &how))))
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
        wait(&mut self.child, Duration::from_secs(3))
    }

    /// How it ended, with the last line that it wrote to stderr.
    pub fn last_words(&self, how: &str) -> String {
        last_words(&self.tail, how)
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

fn wait(child: &mut Child, timeout: Duration) -> Option<ExitStatus> {
    let until = Instant::now() + timeout;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < until => thread::sleep(Duration::from_millis(5)),
            _ => return None,
        }
    }
}

/// Keeps the last lines that a process writes to stderr, and prints them if `is_shown`.
fn tail(
    stderr: Option<impl Read + Send + 'static>,
    is_shown: bool,
) -> Arc<Mutex<VecDeque<String>>> {
    const LINES_KEPT: usize = 8;
    let tail = Arc::new(Mutex::new(VecDeque::new()));
    let kept = tail.clone();
    if let Some(stderr) = stderr {
        thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                if is_shown {
                    eprintln!("{line}");
                }
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() == LINES_KEPT {
                    kept.pop_front();
                }
                kept.push_back(line);
            }
        });
    }
    tail
}

fn last_words(tail: &Mutex<VecDeque<String>>, how: &str) -> String {
    // What it wrote last may still be on its way through the pipe.
    thread::sleep(Duration::from_millis(50));
    let kept = tail.lock().unwrap_or_else(PoisonError::into_inner);
    match kept.back() {
        Some(line) => format!("{how}; the last line on stderr: {line}"),
        None => how.to_owned(),
    }
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

/// How a process ended, for people.
pub fn how(status: ExitStatus) -> String {
    match status.signal() {
        Some(signal) => {
            let name = match signal {
                4 => "SIGILL",
                6 => "SIGABRT",
                7 => "SIGBUS",
                8 => "SIGFPE",
                9 => "SIGKILL",
                11 => "SIGSEGV",
                _ => "a signal",
            };
            format!("the process was ended by {name} ({signal})")
        }
        None => format!(
            "the process ended itself with exit code {}",
            status.code().unwrap_or_default()
        ),
    }
}
