//! The rules of the header that an extension can break, and where the host notes that one did.
//!
//! A host that serves answers a violation with a status and a log line and goes on; nothing is noted then. Under
//! `extension-host check` each violation is kept until it is asked for.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// A rule of `extension_api.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// The process lives on.
    DoesNotCrash,
    /// No panic leaves a handler or a hook.
    DoesNotPanic,
    /// A worker is left soon.
    DoesNotBlock,
    /// One answer for a request.
    AnswersOnce,
    /// An answer for each request.
    AnswersRequests,
    /// Each request is given back.
    FinishesRequests,
    /// A finished request is not used.
    LetsFinishedGo,
    /// Answers are as answers may be.
    ValidAnswers,
    /// A declared length is true.
    TrueLength,
    /// Arguments are as they may be.
    ValidArguments,
    /// Structs say their size.
    StructSize,
    /// A completion has a function.
    CompletionFunction,
    /// One operation of a kind at a time.
    OneAtATime,
    /// Calls are made at their stage.
    AtItsStage,
    /// Variables are declared.
    DeclaresVariables,
    /// Origins are declared.
    DeclaresOrigins,
    /// Given bytes are released.
    ReleasesBuffers,
    /// Given bytes are released once.
    ReleasesOnce,
    /// Answers to fetches are ended.
    EndsFetched,
    /// Threads end with `stop`.
    EndsThreads,
    /// Builds share no statics.
    OwnStatics,
    /// What was served once is served later.
    ServesOn,
    /// How signals are taken stays as it was.
    LeavesSignals,
    /// No timer sends the process signals.
    LeavesTimers,
    /// The working directory stays.
    LeavesDirectories,
    /// The umask stays.
    LeavesUmask,
    /// The environment stays.
    LeavesEnvironment,
    /// Limits of resources stay.
    LeavesLimits,
    /// The host's descriptors stay.
    LeavesDescriptors,
    /// The locale stays.
    LeavesLocale,
    /// Arithmetic of the host's threads stays as it was.
    LeavesFloatingPoint,
    /// Priorities and processors stay.
    LeavesScheduling,
    /// What the process is stays.
    LeavesAttributes,
    /// Opened descriptors are closed.
    ClosesDescriptors,
    /// Descriptors are not inherited.
    ClosesOnExec,
    /// Child processes end with the extension.
    EndsProcesses,
    /// Nothing is printed.
    DoesNotPrint,
    /// The process can end.
    LetsTheProcessEnd,
}

impl Rule {
    /// All of them, in the order in which they are listed.
    pub const ALL: [Self; 38] = [
        Self::DoesNotCrash,
        Self::DoesNotPanic,
        Self::DoesNotBlock,
        Self::AnswersOnce,
        Self::AnswersRequests,
        Self::FinishesRequests,
        Self::LetsFinishedGo,
        Self::ValidAnswers,
        Self::TrueLength,
        Self::ValidArguments,
        Self::StructSize,
        Self::CompletionFunction,
        Self::OneAtATime,
        Self::AtItsStage,
        Self::DeclaresVariables,
        Self::DeclaresOrigins,
        Self::ReleasesBuffers,
        Self::ReleasesOnce,
        Self::EndsFetched,
        Self::EndsThreads,
        Self::OwnStatics,
        Self::ServesOn,
        Self::LeavesSignals,
        Self::LeavesTimers,
        Self::LeavesDirectories,
        Self::LeavesUmask,
        Self::LeavesEnvironment,
        Self::LeavesLimits,
        Self::LeavesDescriptors,
        Self::LeavesLocale,
        Self::LeavesFloatingPoint,
        Self::LeavesScheduling,
        Self::LeavesAttributes,
        Self::ClosesDescriptors,
        Self::ClosesOnExec,
        Self::EndsProcesses,
        Self::DoesNotPrint,
        Self::LetsTheProcessEnd,
    ];

    /// Its stable name.
    pub fn id(self) -> &'static str {
        self.texts().0
    }

    /// What the header says.
    pub fn header(self) -> &'static str {
        self.texts().1
    }

    /// What its author can do.
    pub fn remedy(self) -> &'static str {
        self.texts().2
    }

    fn texts(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::DoesNotCrash => (
                "does-not-crash",
                "The process is the host's, and every other extension's.",
                "run it under gdb or valgrind: extension-host check ends where it does; in C++, catch what is thrown",
            ),
            Self::DoesNotPanic => (
                "does-not-panic",
                "the handler panicked (threw, aborted its work): logged as a fault of the extension",
                "return an error instead: what comes from outside is never a reason to panic",
            ),
            Self::DoesNotBlock => (
                "does-not-block",
                "on its worker, many at a time on different workers, and must not block",
                "use sleep, fetch and the other calls with a completion, or declare the route EXT_ROUTE_BLOCKING (in Rust: router.blocking)",
            ),
            Self::AnswersOnce => (
                "answers-once",
                "A request is finished by exactly one of `respond`, `fail`, `relay`, `drop`, or by `stream` and then `end`.",
                "return right after the first answer",
            ),
            Self::AnswersRequests => (
                "answers-requests",
                "Gives the request up, unanswered: the caller gets a 500.",
                "answer on each way through the handler, by `fail` where nothing else is to be said",
            ),
            Self::FinishesRequests => (
                "finishes-requests",
                "finish it soon, best by `drop`",
                "finish the request when a completion says EXT_CANCELLED; without one in flight, let `watch` tell that the client has left",
            ),
            Self::LetsFinishedGo => (
                "lets-finished-go",
                "A handle whose time is over is recognised, and gives EXT_GONE.",
                "forget the handle when the request is finished",
            ),
            Self::ValidAnswers => (
                "valid-answers",
                "A status from 200 to 599.",
                "make the answer's status and headers ones that HTTP knows; check what comes from outside before it becomes a header",
            ),
            Self::TrueLength => (
                "true-length",
                "A `Content-Length` among the headers is kept here, and must then be true.",
                "leave Content-Length away, or write exactly as much",
            ),
            Self::ValidArguments => (
                "valid-arguments",
                "an argument breaks the rules of the function; the host's log says which",
                "correct the argument that is named",
            ),
            Self::StructSize => (
                "struct-size",
                "Set it with sizeof.",
                "set struct_size of each struct to its sizeof before it is handed over",
            ),
            Self::CompletionFunction => (
                "completion-function",
                "never NULL; `result` is lent until it returns",
                "give the completion a function",
            ),
            Self::OneAtATime => (
                "one-at-a-time",
                "an operation of this kind is under way on this handle; await its completion first",
                "begin the next one in the completion of the one before",
            ),
            Self::AtItsStage => (
                "at-its-stage",
                "not possible at this stage: for example `route` after `create` has returned",
                "declare endpoints and routes in `create`, and call `write` and `end` after `stream`",
            ),
            Self::DeclaresVariables => (
                "declares-variables",
                "the variable is not declared under [env] in extension.toml",
                "add its name to required or optional under [env] in extension.toml",
            ),
            Self::DeclaresOrigins => (
                "declares-origins",
                "the target is not allowed under [fetch] in extension.toml",
                "add the origin to allow under [fetch] in extension.toml",
            ),
            Self::ReleasesBuffers => (
                "releases-buffers",
                "The receiver calls `release(owner, ptr, len)` exactly once",
                "release result->data when you are done with it, or hand it on to a callback that takes it",
            ),
            Self::ReleasesOnce => (
                "releases-once",
                "the memory becomes the receiver's, who releases it exactly once.",
                "what was handed to a callback has been given away, also where the callback returned an error: do not release it again",
            ),
            Self::EndsFetched => (
                "ends-fetched",
                "the answer, to be ended by `relay` or `fetched_drop`",
                "call fetched_drop where the answer is not relayed",
            ),
            Self::EndsThreads => (
                "ends-threads",
                "starts threads of its own; all have ended when `stop` returns",
                "tell each thread to end in `stop`, and join it there",
            ),
            Self::OwnStatics => (
                "own-statics",
                "Each build that is loaded has its own statics.",
                "build it with -fno-gnu-unique (GCC), so that a new build does not work on the statics of the one before it",
            ),
            Self::ServesOn => (
                "serves-on",
                "Handles a request: on its worker, many at a time on different workers",
                "look for what a request leaves behind for those after it: a lock that is held, a table that is full",
            ),
            Self::LeavesSignals => (
                "leaves-signals",
                "how a signal is taken, which signals a thread of the host's blocks, and its alternate stack;",
                "leave signals to the host, and block them in threads of your own alone; a library that installs handlers has mostly an option not to",
            ),
            Self::LeavesTimers => (
                "leaves-timers",
                "timers that send signals (`setitimer`, `alarm`, `timer_create`);",
                "use the callback sleep, or timerfd_create in a thread of your own",
            ),
            Self::LeavesDirectories => (
                "leaves-directories",
                "the working directory and the root directory;",
                "open files by absolute paths, or by openat with a descriptor of the folder",
            ),
            Self::LeavesUmask => (
                "leaves-umask",
                "the umask;",
                "pass the mode that a file is to have to open, and use fchmod where the umask is in the way",
            ),
            Self::LeavesEnvironment => (
                "leaves-environment",
                "the environment: `setenv` frees what another thread's `getenv` has just found;",
                "read variables by the callback env, and give a child process its own by execve or posix_spawn",
            ),
            Self::LeavesLimits => (
                "leaves-limits",
                "limits of resources (`setrlimit`);",
                "let the operator set limits; a child process may be given others between fork and exec",
            ),
            Self::LeavesDescriptors => (
                "leaves-descriptors",
                "descriptors that it has not opened, 0, 1 and 2 among them;",
                "close each descriptor that you opened once, and set it to -1 then: one that is closed twice is somebody else's the second time",
            ),
            Self::LeavesLocale => (
                "leaves-locale",
                "the locale (`setlocale`);",
                "use newlocale and the functions that take a locale_t, such as strtod_l; set it for your own thread by uselocale",
            ),
            Self::LeavesFloatingPoint => (
                "leaves-floating-point",
                "how the host's threads compute: rounding, and numbers near zero, which a library that is linked with `-ffast-math` changes;",
                "link without -ffast-math and -Ofast (-mdaz-ftz), or with -fno-fast-math or a GCC from 13 on with -shared; set back what you change before you return",
            ),
            Self::LeavesScheduling => (
                "leaves-scheduling",
                "the priority of the host's threads, and which processors they run on;",
                "change the priority of your own threads alone",
            ),
            Self::LeavesAttributes => (
                "leaves-attributes",
                "who the process is: its users, groups, capabilities, session, namespaces and name, and what `prctl` sets;",
                "do it in a child process",
            ),
            Self::ClosesDescriptors => (
                "closes-descriptors",
                "descriptors that it has opened are closed when `destroy` returns,",
                "close in stop or destroy, and on each way out of a function, what was opened",
            ),
            Self::ClosesOnExec => (
                "closes-on-exec",
                "and each is opened with `O_CLOEXEC`;",
                "add O_CLOEXEC, SOCK_CLOEXEC or EFD_CLOEXEC where it is opened; fopen takes an e in its mode",
            ),
            Self::EndsProcesses => (
                "ends-processes",
                "child processes have ended and been waited for;",
                "end each child in stop and wait for it by waitpid; start a service outside of the host",
            ),
            Self::DoesNotPrint => (
                "does-not-print",
                "nothing is printed to the standard output;",
                "use the callback log (in Rust: ctx.info and its like)",
            ),
            Self::LetsTheProcessEnd => (
                "lets-the-process-end",
                "functions that run at the end of the process (`atexit`, destructors) return soon.",
                "do what is to be done at the end in destroy, and leave atexit alone",
            ),
        }
    }
}

/// That a rule was broken.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// How.
    pub how: String,
}

static WATCHING: AtomicBool = AtomicBool::new(false);
static KEPT: Mutex<Vec<Violation>> = Mutex::new(Vec::new());
/// Where buffers are that the extension was given and has not released.
static UNRELEASED: Mutex<Option<HashSet<usize>>> = Mutex::new(None);

/// From now on violations are kept.
pub fn watch() {
    *lock(&UNRELEASED) = Some(HashSet::new());
    WATCHING.store(true, Ordering::Release);
}

/// Whether violations are kept.
pub fn is_watched() -> bool {
    WATCHING.load(Ordering::Relaxed)
}

/// Keeps a violation, where violations are kept. Costs one relaxed load elsewhere.
pub fn note(rule: Rule, how: impl FnOnce() -> String) {
    if is_watched() {
        keep(rule, how());
    }
}

#[cold]
fn keep(rule: Rule, how: String) {
    /// A violation in a loop says nothing new.
    const KEPT_MAX: usize = 10_000;
    let mut kept = lock(&KEPT);
    if kept.len() < KEPT_MAX {
        kept.push(Violation { rule, how });
    }
}

/// What was noted since the last time.
pub fn take() -> Vec<Violation> {
    std::mem::take(&mut lock(&KEPT))
}

/// Notes that a buffer was given.
pub fn note_buffer_given(owner: usize) {
    if is_watched()
        && let Some(unreleased) = &mut *lock(&UNRELEASED)
    {
        unreleased.insert(owner);
    }
}

/// Notes that a buffer was released; false where it must not be freed again.
pub fn note_buffer_released(owner: usize) -> bool {
    if !is_watched() {
        return true;
    }
    let was_given = lock(&UNRELEASED)
        .as_mut()
        .is_none_or(|unreleased| unreleased.remove(&owner));
    if !was_given {
        note(Rule::ReleasesOnce, || {
            "a buffer was released twice".to_owned()
        });
    }
    was_given
}

/// How many buffers are given and not released.
pub fn unreleased() -> usize {
    lock(&UNRELEASED).as_ref().map_or(0, HashSet::len)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing that is done under these locks leaves them half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header as running text: without the stars and line breaks of its comments.
    fn header() -> String {
        let header = include_str!("../../../extension-api/include/extension_api.h");
        let words = header
            .split_whitespace()
            .filter(|word| !["*", "/*", "*/"].contains(word));
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_rule_is_one_of_the_header() {
        let header = header();
        for rule in Rule::ALL {
            assert!(
                header.contains(rule.header()),
                "{} quotes what the header does not say: {:?}",
                rule.id(),
                rule.header()
            );
        }
    }

    #[test]
    fn each_rule_stands_in_the_guide_and_has_an_extension_that_breaks_it() {
        let guide = include_str!("../../../docs/writing-an-extension.md");
        let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/conformance");
        for rule in Rule::ALL {
            let row = format!("| `{}` | ", rule.id());
            assert!(guide.contains(&row), "{} is not in the guide", rule.id());
            let fixture = format!("{fixtures}/{}.c", rule.id());
            assert!(
                std::path::Path::new(&fixture).is_file(),
                "there is no {fixture}"
            );
        }
        assert_eq!(
            guide.matches("\n| `").count(),
            Rule::ALL.len() + 4,
            "rules, and files"
        );
    }

    #[test]
    fn each_rule_is_told_under_its_own_name() {
        let names: HashSet<_> = Rule::ALL.iter().map(|rule| rule.id()).collect();
        assert_eq!(names.len(), Rule::ALL.len());
        for rule in Rule::ALL {
            assert_eq!(serde_json::to_value(rule).unwrap(), rule.id());
        }
    }
}
