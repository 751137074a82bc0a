//! UNSAFE: what the process shares between all code in it and only C functions tell or change: how signals are taken, timers, the
//! locale; and its end, which nothing that an extension has left behind can delay or spoil.
#![expect(unsafe_code, reason = "functions of the C library")]

use std::ffi::CStr;
use std::io::Write as _;
use std::mem::MaybeUninit;
use std::time::Duration;
use std::{fmt, io, ptr};

use super::log;
use super::log_writer;

// ---- Its end ----

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
    log_writer::flush(log_within);
    // Handlers of `atexit` and destructors of libraries are skipped: those of an extension may hang or crash, and the host has
    // none that matters.
    end_at_once(code.into())
}

/// Ends the process by the system call: the function `_exit` of this program notes who calls it
/// ([`fatal_signals`](crate::runtime::fatal_signals)).
pub fn end_at_once(code: i32) -> ! {
    #[cfg(target_os = "linux")]
    loop {
        // SAFETY: it takes no pointer, may be called at any time on any thread, and does not return.
        unsafe { libc::syscall(libc::SYS_exit_group, code) };
    }
    #[cfg(not(target_os = "linux"))]
    // SAFETY: as above.
    unsafe {
        libc::_exit(code)
    }
}

// ---- What all code in it shares ----

/// The highest number of a signal on Linux.
pub const SIGNAL_MAX: i32 = 64;

/// How the process takes a signal.
#[derive(Clone, Copy)]
pub struct Disposition(libc::sigaction);

impl Disposition {
    /// How the process takes it now; `None`: the C library keeps that signal for itself, or there is none of that number.
    pub fn of(signal: i32) -> Option<Self> {
        let mut now = MaybeUninit::uninit();
        // SAFETY: without a new disposition nothing changes, and `now` is large enough to be written.
        let is_read = unsafe { libc::sigaction(signal, ptr::null(), now.as_mut_ptr()) } == 0;
        // SAFETY: the function has written all of it.
        is_read.then(|| Self(unsafe { now.assume_init() }))
    }

    /// Makes the process take the signal so again.
    ///
    /// A disposition comes from [`of`](Self::of) alone: its handler was one of the process's own. Keep only those whose handler is
    /// the host's, which is never unmapped.
    pub fn restore(&self, signal: i32) {
        // SAFETY: the disposition was the process's own before, whole; the old one is not asked for.
        let _ = unsafe { libc::sigaction(signal, &raw const self.0, ptr::null_mut()) };
    }
}

impl PartialEq for Disposition {
    fn eq(&self, other: &Self) -> bool {
        let of = |it: &Self| (it.0.sa_sigaction, it.0.sa_flags);
        of(self) == of(other)
    }
}

/// For people: "the default", "ignored", "handled at 0x55…".
impl fmt::Display for Disposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.sa_sigaction {
            libc::SIG_DFL => f.write_str("the default"),
            libc::SIG_IGN => f.write_str("ignored"),
            handler => write!(f, "handled at {handler:#x} (flags {:#x})", self.0.sa_flags),
        }
    }
}

/// Has the process ignore a signal.
///
/// # Errors
/// Where there is no such signal, or it cannot be ignored.
pub fn ignore(signal: i32) -> io::Result<()> {
    // SAFETY: to ignore a signal runs no code.
    match unsafe { libc::signal(signal, libc::SIG_IGN) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Where this thread's handlers run: the start of its alternate stack; 0: it has none.
pub fn alternate_stack() -> usize {
    let mut now = MaybeUninit::<libc::stack_t>::uninit();
    // SAFETY: without a new stack nothing changes, and `now` is large enough to be written.
    let is_read = unsafe { libc::sigaltstack(ptr::null(), now.as_mut_ptr()) } == 0;
    if !is_read {
        return 0;
    }
    // SAFETY: the function has written all of it.
    let now = unsafe { now.assume_init() };
    if now.ss_flags & libc::SS_DISABLE == 0 {
        now.ss_sp as usize
    } else {
        0
    }
}

/// The name of the process's locale, all of its parts.
pub fn locale() -> String {
    // SAFETY: NULL asks, and changes nothing; the answer is a string that stays until the next call, and is copied at once.
    unsafe {
        let name = libc::setlocale(libc::LC_ALL, ptr::null());
        match name.is_null() {
            true => String::new(),
            false => CStr::from_ptr(name).to_string_lossy().into_owned(),
        }
    }
}

/// Which of the timers of `setitimer` and `alarm` will send a signal.
pub fn interval_timers() -> [(&'static str, bool); 3] {
    [
        ("ITIMER_REAL", libc::ITIMER_REAL),
        ("ITIMER_VIRTUAL", libc::ITIMER_VIRTUAL),
        ("ITIMER_PROF", libc::ITIMER_PROF),
    ]
    .map(|(name, which)| {
        let mut now = MaybeUninit::<libc::itimerval>::uninit();
        // SAFETY: `now` is large enough to be written; the numbers are those of timers.
        let is_read = unsafe { libc::getitimer(which, now.as_mut_ptr()) } == 0;
        // SAFETY: the function has written all of it.
        let left = is_read.then(|| unsafe { now.assume_init() }.it_value);
        let is_on = left.is_some_and(|left| left.tv_sec != 0 || left.tv_usec != 0);
        (name, is_on)
    })
}
