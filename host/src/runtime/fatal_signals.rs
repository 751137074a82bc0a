//! UNSAFE: notes in whose code the process was when a signal ends it, or when somebody else than the host calls `exit` or one of its
//! siblings. Where no supervisor reads what is noted, it says so itself, in a line of the log.
//!
//! The handler runs on the thread that the fault happened to, on a stack of its own, between any two instructions: it takes no
//! lock and allocates nothing. What it cannot find out, it leaves out. Then the process ends as it would have without it: the
//! signal keeps its number, and a core dump shows the place.
#![expect(
    unsafe_code,
    reason = "handlers of signals are functions of C, called at any time"
)]

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::fmt::{self, Display};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::{io, process, ptr};

use super::crash_page::{CrashPage, ThreadMark, page, page_if_made};
use crate::platform::child::signal_name;
use crate::platform::log;
use crate::platform::process::end_at_once;

/// What a process ends by that has made a mistake.
const FATAL: [c_int; 7] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGABRT,
    libc::SIGTRAP,
    libc::SIGSYS,
];

/// A fault that near to the end of the stack is the stack's: where a function makes room, it first touches that.
const NEAR_STACK_BYTES: usize = 64 << 10;

/// What stands in a line that the host writes of its own end, and in no longer one: each of its two texts has at most 250 bytes, and
/// what is escaped has at most five times as many.
const LINE_BYTES_MAX: usize = 4_096;

/// The host ends, and has meant to.
static IS_MEANT: AtomicBool = AtomicBool::new(false);
/// The process whose faults are noted; 0: nobody's. What an extension forks has the handlers and the page, too.
static PROCESS: AtomicU32 = AtomicU32::new(0);
/// Room for the line; none where a supervisor writes it.
static LINE: Mutex<String> = Mutex::new(String::new());

/// Has faults noted from now on, and told where there is no supervisor that does.
///
/// # Errors
/// Where the system does not take the handler.
pub fn install(is_supervised: bool) -> io::Result<()> {
    // Made now: not when it is needed.
    let _ = page();
    if let Ok(mut line) = LINE.lock()
        && !is_supervised
    {
        line.reserve(LINE_BYTES_MAX);
    }
    PROCESS.store(process::id(), Ordering::Relaxed);
    // SAFETY: all zero is a value; the handler keeps the rules of handlers, see above.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_signal as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
    for signal in FATAL {
        // SAFETY: `action` is initialised; the old one is not asked for.
        if unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: `on_exit` has the signature, and calls nothing of what may be gone by then.
    if unsafe { libc::atexit(on_exit) | at_quick_exit(on_exit) } != 0 {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    Ok(())
}

unsafe extern "C" {
    fn at_quick_exit(handler: extern "C" fn()) -> c_int;
}

/// Says that the host ends by its own will.
pub fn mean_to_end() {
    IS_MEANT.store(true, Ordering::Relaxed);
}

extern "C" fn on_signal(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the system gives the registers as they were; they stay valid for as long as the handler runs.
    let (code, stack) = unsafe { registers(context) };
    // SAFETY: as above; the address is one of these signals'.
    let address = unsafe { (*info).si_addr() }.addr();
    let overflows = signal == libc::SIGSEGV && address.abs_diff(stack) < NEAR_STACK_BYTES;
    note(signal, overflows, code, stack);
    // SAFETY: both may be called in a handler. With the default restored, the instruction that failed fails again and ends the
    // process; what was sent by somebody, as `abort` does, is sent once more.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

extern "C" fn on_exit() {
    if IS_MEANT.load(Ordering::Relaxed) {
        return;
    }
    let here = 0_u8;
    note(0, false, 0, (&raw const here).expose_provenance());
}

/// What libraries find under this name: what the program itself has comes before what the C library has, and the linker exports it
/// because that has it, too. Other ways past `exit` are closed to them, but for the system call by its number.
#[cfg(target_os = "linux")]
#[unsafe(no_mangle)]
extern "C" fn _exit(code: c_int) -> ! {
    on_exit();
    end_at_once(code)
}

/// The same in C99.
#[cfg(target_os = "linux")]
#[unsafe(no_mangle)]
extern "C" fn _Exit(code: c_int) -> ! {
    on_exit();
    end_at_once(code)
}

/// Notes the thread's own mark, or else the library in whose code it is.
fn note(signal: c_int, overflows: bool, code: usize, stack: usize) {
    let Some(page) = page_if_made().filter(|_| PROCESS.load(Ordering::Relaxed) == process::id())
    else {
        return;
    };
    let mark = ThreadMark::if_taken();
    let marked = mark.map_or(0, ThreadMark::build);
    let build = if marked == 0 {
        by_address(code, stack)
    } else {
        marked
    };
    if page.fault.note(signal, overflows, mark, build) {
        tell(page, &Cause { signal, overflows });
    }
}

/// Writes the line of a host that has no supervisor. Takes no lock that anybody waits with, and allocates nothing.
fn tell(page: &CrashPage, cause: &Cause) {
    let Some(mut line) = LINE.try_lock().ok().filter(|line| line.capacity() > 0) else {
        return;
    };
    let sentence = "the host has crashed; it has no supervisor that would start it anew";
    page.tell_fault(cause, |fields| {
        log::error_at_once(&mut line, sentence, fields, write);
    });
}

/// Writes to stderr, where that takes it soon: a process whose log nobody reads ends all the same.
fn write(line: &[u8]) {
    const WITHIN_MS: c_int = 100;
    let mut stderr = libc::pollfd {
        fd: libc::STDERR_FILENO,
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: one entry, as it says; the line is readable. A pipe that can be written to takes a line of this length without waiting.
    unsafe {
        if libc::poll(&raw mut stderr, 1, WITHIN_MS) > 0 {
            libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), line.len());
        }
    }
}

/// What has ended the process: "SIGSEGV (stack overflow)".
struct Cause {
    signal: c_int,
    overflows: bool,
}

impl Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.signal {
            0 => "exit",
            signal => signal_name(signal),
        })?;
        f.write_str(if self.overflows {
            " (stack overflow)"
        } else {
            ""
        })
    }
}

/// Where the thread was, and where its stack ends.
///
/// # Safety
/// `context` is what the system has given to the handler.
unsafe fn registers(context: *mut c_void) -> (usize, usize) {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    {
        // SAFETY: said above.
        let registers = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
        (
            registers[libc::REG_RIP as usize] as usize,
            registers[libc::REG_RSP as usize] as usize,
        )
    }
    #[cfg(all(target_os = "linux", target_arch = "aarch64"))]
    {
        // SAFETY: said above.
        let machine = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext };
        (machine.pc as usize, machine.sp as usize)
    }
    #[cfg(not(all(
        target_os = "linux",
        any(target_arch = "x86_64", target_arch = "aarch64")
    )))]
    {
        let _ = context;
        (0, 0)
    }
}

/// The extension that calls the host on this thread, for a line of the log.
pub fn extension_here() -> Option<String> {
    thread_local! {
        /// The build whose thread it is, once that was looked for; the extension's threads are its own.
        static OF_THREAD: Cell<Option<u64>> = const { Cell::new(None) };
    }
    let marked = ThreadMark::if_taken().map_or(0, ThreadMark::build);
    let by_stack = || {
        let here = 0_u8;
        let found = by_address(0, (&raw const here).expose_provenance());
        OF_THREAD.set(Some(found));
        found
    };
    let build = match marked {
        0 => OF_THREAD.get().unwrap_or_else(by_stack),
        marked => marked,
    };
    page().name_of(build)
}

/// The build in whose library an address lies: that of the code, or else the first on the stack, which is the function that
/// called. For threads that an extension has started itself.
fn by_address(code: usize, stack: usize) -> u64 {
    /// How far up the stack is looked.
    const WORDS_MAX: usize = 16 << 10;
    const WORDS: usize = 64;
    let mut libraries = Libraries::default();
    libraries.read();
    let found = libraries.build_at(code);
    if found != 0 {
        return found;
    }
    let mut from = stack & !(size_of::<usize>() - 1);
    for _ in 0..WORDS_MAX / WORDS {
        let mut words = [0_usize; WORDS];
        let count = read_memory(from, &mut words);
        for word in &words[..count] {
            let found = libraries.build_at(*word);
            if found != 0 {
                return found;
            }
        }
        if count < WORDS {
            break;
        }
        from += size_of_val(&words);
    }
    0
}

/// Reads words of this process's memory, as far as there is any: the system looks, so that nothing can fail.
fn read_memory(from: usize, words: &mut [usize]) -> usize {
    #[cfg(target_os = "linux")]
    {
        let local = libc::iovec {
            iov_base: words.as_mut_ptr().cast(),
            iov_len: size_of_val(words),
        };
        let remote = libc::iovec {
            iov_base: ptr::with_exposed_provenance_mut(from),
            iov_len: size_of_val(words),
        };
        // SAFETY: `local` is writable and as long as it says; of the other, the system checks every byte.
        let read = unsafe {
            libc::process_vm_readv(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0)
        };
        usize::try_from(read).unwrap_or(0) / size_of::<usize>()
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (from, words);
        0
    }
}

/// Where the code of extensions is mapped.
struct Libraries {
    ranges: [(usize, usize, u64); Libraries::COUNT_MAX],
    count: usize,
}

impl Default for Libraries {
    fn default() -> Self {
        Self {
            ranges: [(0, 0, 0); Self::COUNT_MAX],
            count: 0,
        }
    }
}

impl Libraries {
    /// Fewer than would use up the handler's stack.
    const COUNT_MAX: usize = 64;

    fn build_at(&self, address: usize) -> u64 {
        let holds = |range: &&(usize, usize, u64)| (range.0..range.1).contains(&address);
        self.ranges[..self.count]
            .iter()
            .find(holds)
            .map_or(0, |range| range.2)
    }

    /// Reads the system's list of what is mapped.
    fn read(&mut self) {
        // SAFETY: a constant path; the descriptor is closed below.
        let file = unsafe {
            libc::open(
                c"/proc/self/maps".as_ptr(),
                libc::O_RDONLY | libc::O_CLOEXEC,
            )
        };
        if file < 0 {
            return;
        }
        let mut line = Line::default();
        let mut bytes = [0_u8; 128];
        loop {
            // SAFETY: `bytes` is as long as it says.
            let read = unsafe { libc::read(file, bytes.as_mut_ptr().cast(), bytes.len()) };
            let Some(read) = usize::try_from(read).ok().filter(|read| *read > 0) else {
                break;
            };
            for byte in &bytes[..read] {
                if *byte != b'\n' {
                    line.take(*byte);
                    continue;
                }
                let mapped = std::mem::take(&mut line);
                // Code alone: a stack is full of what looks like data's addresses.
                let build = page_if_made()
                    .filter(|_| mapped.is_code)
                    .map_or(0, |page| page.build_by_inode(mapped.inode));
                if build != 0 && self.count < Self::COUNT_MAX {
                    self.ranges[self.count] = (mapped.start, mapped.end, build);
                    self.count += 1;
                }
            }
        }
        // SAFETY: opened above.
        unsafe { libc::close(file) };
    }
}

/// A line of `/proc/self/maps`: "start-end perms offset device inode path", numbers in hexadecimal but for the inode.
#[derive(Default)]
struct Line {
    field: u8,
    start: usize,
    end: usize,
    is_code: bool,
    inode: u64,
}

impl Line {
    fn take(&mut self, byte: u8) {
        let hexadecimal = || (byte as char).to_digit(16).unwrap_or(0) as usize;
        match (self.field, byte) {
            (0, b'-') | (1..=5, b' ') => self.field += 1,
            (0, _) => self.start = self.start << 4 | hexadecimal(),
            (1, _) => self.end = self.end << 4 | hexadecimal(),
            (2, b'x') => self.is_code = true,
            (5, b'0'..=b'9') => {
                self.inode = self
                    .inode
                    .wrapping_mul(10)
                    .wrapping_add(u64::from(byte - b'0'))
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_list_is_understood() {
        let mut line = Line::default();
        for byte in b"7f12a0-7f12ff r-xp 00001000 fe:01 1234567  /tmp/a b 99.so" {
            line.take(*byte);
        }
        assert_eq!((line.start, line.end), (0x7f12a0, 0x7f12ff));
        assert!(line.is_code);
        assert_eq!(line.inode, 1_234_567);
    }

    #[test]
    fn memory_that_is_not_there_is_not_read() {
        let words = [1_usize, 2, 3];
        let mut read = [0; 3];
        assert_eq!(
            read_memory((&raw const words).expose_provenance(), &mut read),
            3
        );
        assert_eq!(read, words);
        assert_eq!(read_memory(8, &mut read), 0);
    }
}
