//! The process's open files: which are the host's and stay, and which an extension leaves open.

use std::collections::{BTreeMap, HashSet};
use std::fs;

use crate::platform::sockets::{self, TcpSocket};
use crate::runtime::contract_checks::{self, Rule};

/// What a descriptor stands for, as /proc shows it: `socket:[123]`, "/tmp/file".
#[derive(Clone, PartialEq, Eq)]
struct Open {
    target: String,
    closes_on_exec: bool,
}

type OpenFiles = BTreeMap<u32, Open>;

/// The open files, as they were when they were last looked at.
pub struct Descriptors {
    /// Those that were open before the library was loaded.
    first: OpenFiles,
    /// Those that the extension has open since it was loaded.
    of_extension: OpenFiles,
    /// Those that the host keeps open while it serves.
    of_host: OpenFiles,
    /// Those that a program that is executed would be left: seen once, and told when they are seen again.
    inheritable: HashSet<(u32, String)>,
}

impl Descriptors {
    /// Looks at them before the library is loaded.
    pub fn before_loading() -> Self {
        let first = open_files();
        Self {
            of_host: first.clone(),
            first,
            of_extension: OpenFiles::new(),
            inheritable: HashSet::new(),
        }
    }

    /// When the extension has been loaded, and nothing else has happened: what is new is the extension's.
    pub fn compare_loaded(&mut self) {
        let now = open_files();
        self.note_missing(&now, "`create` or an initialiser");
        self.of_extension = now;
        self.of_extension
            .retain(|number, _| !self.first.contains_key(number));
        self.note_inheritable(&self.of_extension.clone());
        self.note_inheritable(&self.of_extension.clone());
    }

    /// Before the first request: what is new is the host's. Files are left out: a thread that starts reads one for a moment. So are
    /// connections to the port that the host serves on: it makes one to see whether it serves.
    pub fn before_serving(&mut self, port: u16) {
        let before = open_files();
        let mut connections = sockets::tcp_sockets();
        connections.retain(|it| !it.is_listening && (it.port == port || it.peer_port == port));
        let connections: HashSet<String> = connections.iter().map(TcpSocket::link).collect();
        let mut now = open_files();
        now.retain(|number, open| {
            // One that is open before and after has been open when the connections were listed.
            let is_lasting =
                before.get(number) == Some(open) && !connections.contains(&open.target);
            is_lasting && self.of_extension.get(number) != Some(open)
        });
        now.retain(|_, open| {
            ["socket:", "pipe:", "anon_inode:"]
                .iter()
                .any(|kind| open.target.starts_with(kind))
        });
        self.of_host.extend(now);
    }

    /// While the extension is served.
    pub fn compare_serving(&mut self) {
        let now = open_files();
        self.note_missing(&now, "a handler or a thread of the extension's");
        self.note_inheritable(&now);
    }

    /// When the extension was destroyed, and the server has ended. The workers' event loops stay open with the process, and so may
    /// connections of the host's: `ports` are those that it has served on and called.
    pub fn compare_ended(&mut self, ports: &[u16]) {
        let mut connections = sockets::tcp_sockets();
        connections.retain(|it| ports.contains(&it.port) || ports.contains(&it.peer_port));
        let connections: HashSet<String> = connections.iter().map(TcpSocket::link).collect();
        let mut now = open_files();
        now.retain(|number, open| {
            !self.first.contains_key(number)
                && self.of_host.get(number) != Some(open)
                && !connections.contains(&open.target)
        });
        for (number, open) in now {
            contract_checks::note(Rule::ClosesDescriptors, || {
                format!("descriptor {number} is left open: {}", open.target)
            });
        }
    }

    /// Notes what the host had open, and is closed or stands for something else now.
    fn note_missing(&mut self, now: &OpenFiles, by: &str) {
        self.of_host.retain(|number, was| {
            let is = now.get(number);
            if is.is_some_and(|is| is.target == was.target) {
                return true;
            }
            contract_checks::note(Rule::LeavesDescriptors, || {
                let is = is.map_or("closed", |is| is.target.as_str());
                format!(
                    "descriptor {number} of the host's: was {}, is now {is}; changed by {by}",
                    was.target
                )
            });
            false
        });
    }

    /// The host opens everything so that a program that is executed does not have it.
    fn note_inheritable(&mut self, now: &OpenFiles) {
        let inheritable = now
            .iter()
            .filter(|(number, open)| !open.closes_on_exec && !self.first.contains_key(number));
        let seen: HashSet<_> = inheritable
            .map(|(number, open)| (*number, open.target.clone()))
            .collect();
        for (number, target) in seen.intersection(&self.inheritable) {
            contract_checks::note(Rule::ClosesOnExec, || {
                format!("descriptor {number} stays open in programs that are executed: {target}")
            });
        }
        self.inheritable = seen;
    }
}

/// The descriptors that are open now; none where the system has no /proc.
fn open_files() -> OpenFiles {
    const CLOSE_ON_EXEC: u32 = 0o2_000_000;
    let entries = fs::read_dir("/proc/self/fd");
    let numbers = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    // The listing itself is among them, and closed by now.
    let open = |number: u32| {
        let target = fs::read_link(format!("/proc/self/fd/{number}")).ok()?;
        let about = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
        let flags = about
            .lines()
            .find_map(|line| line.strip_prefix("flags:"))
            .and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok())?;
        let open = Open {
            target: target.to_string_lossy().into_owned(),
            closes_on_exec: flags & CLOSE_ON_EXEC != 0,
        };
        Some((number, open))
    };
    let numbers: Vec<u32> = numbers.collect();
    numbers.into_iter().filter_map(open).collect()
}
