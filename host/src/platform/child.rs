//! A process that this one starts from its own program: to load an extension apart, where a crash is an answer.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The program that runs here, also where its file has been replaced since.
///
/// # Errors
/// Where the system does not tell.
pub fn this_program() -> io::Result<PathBuf> {
    let running = Path::new("/proc/self/exe");
    if running.exists() {
        Ok(running.to_owned())
    } else {
        std::env::current_exe()
    }
}

/// What is said of a process where one that it has forked goes on in its place.
pub const GOES_ON_FORKED: &str = "another process went on in the place of the one that was started: it forks, and its child returns to the host";

/// Waits for the end of a process; `None`: it lives on.
pub fn wait(child: &mut Child, timeout: Duration) -> Option<ExitStatus> {
    let until = Instant::now() + timeout;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < until => thread::sleep(Duration::from_millis(5)),
            _ => return None,
        }
    }
}

/// A line by which a process says that what it has written before has nothing to do with what comes: it has told of that otherwise.
pub const FORGET: &str = "\u{1e}";

/// The last lines that a process writes to stderr.
pub struct StderrTail(Arc<Mutex<VecDeque<String>>>);

impl StderrTail {
    /// Reads what the process writes, as long as it does, and prints it if `is_shown`. What stands before the line [`FORGET`] is
    /// forgotten.
    pub fn of(stderr: Option<impl Read + Send + 'static>, is_shown: bool) -> Self {
        const LINES_KEPT: usize = 8;
        /// A process that writes without an end or a line break must not fill this one's memory.
        const LINE_BYTES_MAX: u64 = 4096;
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let kept = tail.clone();
        if let Some(stderr) = stderr {
            thread::spawn(move || {
                let mut stderr = BufReader::new(stderr);
                loop {
                    let mut line = Vec::new();
                    match (&mut stderr)
                        .take(LINE_BYTES_MAX)
                        .read_until(b'\n', &mut line)
                    {
                        Ok(0) | Err(_) => return,
                        Ok(_) => {}
                    }
                    let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                    if line == FORGET {
                        kept.clear();
                        continue;
                    }
                    if is_shown {
                        eprintln!("{line}");
                    }
                    if kept.len() == LINES_KEPT {
                        kept.pop_front();
                    }
                    kept.push_back(line);
                }
            });
        }
        Self(tail)
    }

    /// The last line that is not empty, of a process that has ended.
    pub fn last(&self) -> Option<String> {
        // What it wrote last may still be on its way through the pipe.
        thread::sleep(Duration::from_millis(50));
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().rfind(|line| !line.is_empty()).cloned()
    }

    /// How the process ended, with the last line that it wrote.
    pub fn last_words(&self, how: &str) -> String {
        match self.last() {
            Some(line) => format!("{how}; the last line on stderr: {line}"),
            None => how.to_owned(),
        }
    }
}

/// The name of a signal that ends a process.
pub fn signal_name(signal: i32) -> &'static str {
    match signal {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGILL => "SIGILL",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGALRM => "SIGALRM",
        libc::SIGTERM => "SIGTERM",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGXFSZ => "SIGXFSZ",
        libc::SIGSYS => "SIGSYS",
        _ => "a signal",
    }
}

/// How a process ended, for people: "the process was ended by SIGSEGV (11)".
pub fn how(status: ExitStatus) -> String {
    match status.signal() {
        Some(signal) => {
            let name = signal_name(signal);
            format!("the process was ended by {name} ({signal})")
        }
        None => format!(
            "the process ended itself with exit code {}",
            status.code().unwrap_or_default()
        ),
    }
}
