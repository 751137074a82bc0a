//! What all code of a process shares, and an extension leaves as it found it: read before and after, and compared.
//!
//! The process that loads the extension reads its own state, mostly from /proc. Where a system has no /proc, less is seen.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::descriptors::Descriptors;
use super::processes;
use crate::platform::process::{self, Disposition, SIGNAL_MAX};
use crate::runtime::contract_checks::{self, Rule};

/// Facts by their rule and name.
type Facts = BTreeMap<(Rule, String), String>;

/// The state of the process that an extension is loaded into, as it was when it was last looked at.
pub struct Shared {
    process: Facts,
    /// Compared by name alone: a value may be a secret.
    variables: HashMap<String, String>,
    timers: usize,
    descriptors: Descriptors,
}

impl Shared {
    /// Looks at the process before the library is loaded.
    pub fn before_loading() -> Self {
        Self {
            process: process_facts(),
            variables: variables(),
            timers: posix_timers(),
            descriptors: Descriptors::before_loading(),
        }
    }

    /// Notes what has changed; `by` is what has run since the last time: "`create`".
    pub fn compare(&mut self, by: &str) {
        let now = process_facts();
        note_changes(&self.process, &now, by);
        self.process = now;
        let now = variables();
        note_variables(&self.variables, &now, by);
        self.variables = now;
    }

    /// [`compare`](Self::compare) when the extension has been loaded, and nothing else has happened.
    pub fn compare_loaded(&mut self) {
        self.compare("`create`");
        self.descriptors.compare_loaded();
    }

    /// Looks at what the host has changed and opened to serve on this port, before the first request.
    pub fn before_serving(&mut self, port: u16) {
        self.process = process_facts();
        self.descriptors.before_serving(port);
    }

    /// [`compare`](Self::compare) while the extension is served.
    pub fn compare_serving(&mut self) {
        self.compare("a handler or a thread of the extension's");
        self.descriptors.compare_serving();
    }

    /// Notes what has changed and what is left, when the extension was destroyed and the server has ended, which has served on and
    /// called these ports.
    pub fn compare_ended(&mut self, ports: &[u16]) {
        self.compare("`stop` or `destroy`");
        self.descriptors.compare_ended(ports);
        let timers = posix_timers();
        if timers > self.timers {
            contract_checks::note(Rule::LeavesTimers, || {
                format!("timers of timer_create are left: {}", timers - self.timers)
            });
        }
        let children = processes::children_of(std::process::id());
        if !children.is_empty() {
            contract_checks::note(Rule::EndsProcesses, || {
                let names: Vec<String> = children.iter().map(ToString::to_string).collect();
                format!("child processes are left: {}", names.join(", "))
            });
        }
    }
}

fn note_changes(before: &Facts, now: &Facts, by: &str) {
    const NOTHING: &str = "nothing";
    let gone = before.keys().filter(|key| !now.contains_key(key));
    for key @ (rule, name) in now.keys().chain(gone) {
        let value = |facts: &Facts| facts.get(key).map_or(NOTHING, String::as_str).to_owned();
        let (was, is) = (value(before), value(now));
        if was != is {
            contract_checks::note(*rule, || {
                format!("{name}: was {was}, is now {is}; changed by {by}")
            });
        }
    }
}

fn note_variables(before: &HashMap<String, String>, now: &HashMap<String, String>, by: &str) {
    let note = |name: &str, how: &str| {
        contract_checks::note(Rule::LeavesEnvironment, || {
            format!("the variable {name} was {how} by {by}")
        });
    };
    for (name, value) in now {
        match before.get(name) {
            None => note(name, "set"),
            Some(was) if was != value => note(name, "changed"),
            Some(_) => {}
        }
    }
    for name in before.keys().filter(|name| !now.contains_key(*name)) {
        note(name, "removed");
    }
}

fn variables() -> HashMap<String, String> {
    let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    std::env::vars_os()
        .map(|(name, value)| (text(name), text(value)))
        .collect()
}

// ---- The process ----

fn process_facts() -> Facts {
    let mut facts = Facts::new();
    let mut fact = |rule, name: &str, value: String| {
        facts.insert((rule, name.to_owned()), value);
    };
    for signal in 1..=SIGNAL_MAX {
        if let Some(disposition) = Disposition::of(signal) {
            fact(
                Rule::LeavesSignals,
                &signal_name(signal),
                disposition.to_string(),
            );
        }
    }
    for (name, is_on) in process::interval_timers() {
        let state = if is_on { "running" } else { "off" };
        fact(Rule::LeavesTimers, name, state.to_owned());
    }
    for (name, link) in [
        ("the working directory", "cwd"),
        ("the root directory", "root"),
    ] {
        fact(Rule::LeavesDirectories, name, link_of(link));
    }
    for line in read("limits").lines().skip(1) {
        // The columns stand 26 and 21 characters apart.
        if let Some((name, values)) = line.split_at_checked(26) {
            let values: Vec<&str> = values.split_whitespace().collect();
            fact(Rule::LeavesLimits, name.trim(), values.join(" "));
        }
    }
    fact(Rule::LeavesLocale, "the locale", process::locale());
    let status = read("status");
    let mut of_status = |rule, field: &str, name: &str| {
        if let Some(value) = field_of(&status, field) {
            fact(rule, name, value);
        }
    };
    of_status(Rule::LeavesUmask, "Umask", "the umask");
    for (field, name) in [
        ("Uid", "the users"),
        ("Gid", "the groups"),
        ("Groups", "the further groups"),
        ("CapEff", "the capabilities"),
        ("CapBnd", "the capabilities' bounding set"),
        ("NSpgid", "the process group"),
        ("NSsid", "the session"),
        ("Name", "the process's name"),
    ] {
        of_status(Rule::LeavesAttributes, field, name);
    }
    for (file, rule, name) in [
        ("oom_score_adj", Rule::LeavesScheduling, "oom_score_adj"),
        (
            "coredump_filter",
            Rule::LeavesAttributes,
            "the filter of core dumps",
        ),
        ("personality", Rule::LeavesAttributes, "the personality"),
    ] {
        fact(rule, name, read(file).trim().to_owned());
    }
    for namespace in ["mnt", "net", "pid", "user", "uts", "ipc"] {
        let name = format!("the namespace {namespace}");
        let link = link_of(&format!("ns/{namespace}"));
        fact(Rule::LeavesAttributes, &name, link);
    }
    for (name, value) in [
        (
            "whether it may be dumped (PR_SET_DUMPABLE)",
            format!("{:?}", rustix::process::dumpable_behavior()),
        ),
        (
            "whether orphans become its children (PR_SET_CHILD_SUBREAPER)",
            format!("{:?}", rustix::process::child_subreaper()),
        ),
    ] {
        fact(Rule::LeavesAttributes, name, value);
    }
    facts
}

/// How many timers of `timer_create` there are.
fn posix_timers() -> usize {
    read("timers").matches("ID:").count()
}

fn signal_name(signal: i32) -> String {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let index = usize::try_from(signal - 1).unwrap_or(usize::MAX);
    match NAMES.get(index) {
        Some(name) => format!("SIG{name}"),
        None => format!("signal {signal}"),
    }
}

// ---- A thread ----

thread_local! {
    /// What this thread was when it was last looked at.
    static THREAD: RefCell<Option<Facts>> = const { RefCell::new(None) };
}
/// What threads that are started now inherit.
static INHERITED: Mutex<Option<Facts>> = Mutex::new(None);

/// Notes what has changed of this thread; of one that is looked at for the first time, what differs from the thread that loaded
/// the library, which it descends from.
pub fn compare_thread(by: &str) {
    let now = thread_facts();
    THREAD.with_borrow_mut(|before| {
        match before {
            Some(before) => note_changes(before, &now, by),
            None => {
                let inherited = INHERITED.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(inherited) = &*inherited {
                    note_changes(inherited, &without_own(now.clone()), by);
                }
            }
        }
        *before = Some(now);
    });
}

/// Has threads that are looked at for the first time from now on compared with this one.
pub fn is_inherited() {
    let facts = without_own(thread_facts());
    *INHERITED.lock().unwrap_or_else(PoisonError::into_inner) = Some(facts);
}

const ALTERNATE_STACK: &str = "the alternate stack of a thread of the host's";

/// Without what each thread has of its own.
fn without_own(mut facts: Facts) -> Facts {
    facts.retain(|(_, name), _| name != ALTERNATE_STACK);
    facts
}

fn thread_facts() -> Facts {
    let mut facts = Facts::new();
    let mut fact = |rule, name: &str, value: String| {
        facts.insert((rule, name.to_owned()), value);
    };
    let of_thread = |file| fs::read_to_string(Path::new("/proc/thread-self").join(file));
    let status = of_thread("status").unwrap_or_default();
    for (rule, field, name) in [
        (
            Rule::LeavesSignals,
            "SigBlk",
            "the signals that a thread of the host's blocks",
        ),
        (
            Rule::LeavesScheduling,
            "Cpus_allowed_list",
            "the CPUs of a thread of the host's",
        ),
        (Rule::LeavesAttributes, "NoNewPrivs", "PR_SET_NO_NEW_PRIVS"),
        (Rule::LeavesAttributes, "Seccomp", "seccomp"),
    ] {
        if let Some(value) = field_of(&status, field) {
            fact(rule, name, value);
        }
    }
    let stat = of_thread("stat").unwrap_or_default();
    // After the name, which may hold spaces; fields 19 and 41 of proc_pid_stat(5), the third being the first here.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or(Vec::new(), |(_, fields)| {
        fields.split_whitespace().collect()
    });
    for (index, name) in [
        (16, "the nice value of a thread of the host's"),
        (38, "the scheduling policy of a thread of the host's"),
    ] {
        if let Some(value) = fields.get(index) {
            fact(Rule::LeavesScheduling, name, (*value).to_owned());
        }
    }
    let stack = format!("{:#x}", process::alternate_stack());
    fact(Rule::LeavesSignals, ALTERNATE_STACK, stack);
    fact(
        Rule::LeavesFloatingPoint,
        "denormal numbers",
        denormals().to_owned(),
    );
    fact(Rule::LeavesFloatingPoint, "rounding", rounding().to_owned());
    facts
}

/// What this thread's arithmetic does with numbers near zero.
fn denormals() -> &'static str {
    let made = black_box(f64::MIN_POSITIVE) * black_box(0.5);
    let taken = black_box(f64::from_bits(1)) * black_box(f64::from_bits(0x7fe0_0000_0000_0000));
    match (made == 0.0, taken == 0.0) {
        (false, false) => "kept",
        (true, false) => "made zero where they arise",
        (false, true) => "taken for zero",
        (true, true) => "made zero, and taken for zero",
    }
}

/// In which direction this thread's arithmetic rounds.
fn rounding() -> &'static str {
    let tiny = black_box(1e-30);
    let up = black_box(1.0) + tiny > 1.0;
    let down = black_box(-1.0) - tiny < -1.0;
    let to_zero = black_box(1.0) - tiny < 1.0;
    match (up, down, to_zero) {
        (true, _, _) => "upwards",
        (_, true, _) => "downwards",
        (_, _, true) => "towards zero",
        _ => "to the nearest",
    }
}

// ---- Reading ----

fn read(file: &str) -> String {
    fs::read_to_string(Path::new("/proc/self").join(file)).unwrap_or_default()
}

fn link_of(link: &str) -> String {
    let target = fs::read_link(Path::new("/proc/self").join(link));
    target.map_or_else(|error| error.to_string(), |path| path.display().to_string())
}

/// A field of /proc/…/status.
fn field_of(status: &str, field: &str) -> Option<String> {
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(value.split_whitespace().collect::<Vec<_>>().join(" "))
}
