//! UNSAFE: the end of the process, which nothing that an extension has left behind can delay or spoil.
#![expect(unsafe_code, reason = "a function of the C library")]

use std::io::Write as _;
use std::time::Duration;

use super::log;
use super::log_writer;

/// The exit code where everything was done.
pub const DONE: u8 = 0;
/// The exit code where something failed that the host was asked for.
pub const FAILED: u8 = 1;
/// The exit code where the host was told to stop, and an extension had to be left as it was.
pub const FORCED: u8 = 3;
/// The exit code where the host has lost a thread or a descriptor that it cannot serve without.
pub const BROKEN: u8 = 4;

/// Ends the process when the host's own work is done. The log is written to its end, where it is read.
pub fn end(code: u8) -> ! {
    // Err: nobody reads it.
    let _ = std::io::stdout().flush();
    exit(code, Duration::from_millis(800))
}

/// Ends the process because it was told to and something does not come to its end; or at once.
pub fn force_end(code: u8) -> ! {
    exit(code, Duration::from_millis(100))
}

/// Ends the process because the host cannot serve any more, and says why.
pub fn end_broken(what: &str, fields: &[log::Field<'_>]) -> ! {
    log::error(what, fields);
    exit(BROKEN, Duration::from_secs(1))
}

/// While this lives, a panic of its thread ends the process: what the thread does would never be done again.
pub struct EndsWithThread;

impl Drop for EndsWithThread {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let thread = std::thread::current();
            let name = thread.name().unwrap_or_default();
            end_broken(
                "a thread of the host has died; the process ends",
                &[("thread", &name)],
            );
        }
    }
}

fn exit(code: u8, log_within: Duration) -> ! {
    // Handlers of `atexit` and destructors of libraries are skipped: those of an extension may hang or crash, and the host has
    // none that matters.
    // SAFETY: it takes no pointer, may be called at any time on any thread, and does not return.
    unsafe extern "C" {
        safe fn _exit(status: std::ffi::c_int) -> !;
    }
    log_writer::flush(log_within);
    _exit(code.into())
}
