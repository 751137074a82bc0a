//! Processes that an extension leaves behind.

use std::{fmt, fs};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// A process.
pub struct Process {
    id: i32,
    name: String,
    /// It has ended, and nobody has waited for it.
    is_zombie: bool,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.is_zombie {
            "ended, and not waited for"
        } else {
            "running"
        };
        write!(f, "{} ({}, {state})", self.name, self.id)
    }
}

/// The children of a process.
pub fn children_of(parent: u32) -> Vec<Process> {
    let entries = fs::read_dir("/proc");
    let ids = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let child = |id: i32| {
        // "12 (name) S 1 …": the name may hold anything.
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        let mut fields = rest.split_whitespace();
        let is_zombie = fields.next()? == "Z";
        let is_child = fields.next()?.parse() == Ok(parent);
        is_child.then(|| Process {
            id,
            name: name.to_owned(),
            is_zombie,
        })
    };
    ids.filter_map(child).collect()
}

/// Ends all children of this process, and those that become its children by that, and says which of them were still running.
pub fn end_children() -> Vec<Process> {
    /// Each round ends a generation.
    const GENERATIONS_MAX: usize = 100;
    let mut were_running = Vec::new();
    for _ in 0..GENERATIONS_MAX {
        let children = children_of(std::process::id());
        if children.is_empty() {
            break;
        }
        for child in children {
            let Some(id) = Pid::from_raw(child.id) else {
                continue;
            };
            // Err: it has become another user's, and would be waited for in vain.
            if kill_process(id, Signal::KILL).is_ok() {
                let _ = waitpid(Some(id), WaitOptions::empty());
            }
            if !child.is_zombie {
                were_running.push(child);
            }
        }
    }
    were_running
}
