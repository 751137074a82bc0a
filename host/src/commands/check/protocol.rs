//! What the process that checks and the process that serves the extension say to each other.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::runtime::contract_checks::Violation;

/// What the parent orders; each is a line of JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Wait until no request is open, and send the observations.
    Settle,
    /// Take the extension out while the server serves on, as a reload does, then end.
    Replace,
    /// End the server, as SIGTERM does.
    Stop,
}

/// What the child sends, and its process id: a library that forks can have another process go on in its place. Each is a line of
/// JSON.
#[derive(Debug, Serialize, Deserialize)]
pub struct Sent<M> {
    /// Which process sends it.
    pub process: u32,
    /// What it sends.
    pub message: M,
}

/// What the child sends.
#[derive(Debug, Serialize, Deserialize)]
pub enum SubjectMessage {
    /// The library is loaded next; until here, nothing is the extension's fault.
    Loading,
    /// The library is loaded, its initialisers have run, and `create` is next.
    Opened,
    /// The extension cannot be loaded.
    Refused {
        /// A stable name of the reason.
        code: String,
        /// The sentence.
        message: String,
    },
    /// The extension is served.
    Serving(Serving),
    /// What was observed.
    Observed(Observations),
}

/// How to reach what is served.
#[derive(Debug, Serialize, Deserialize)]
pub struct Serving {
    /// The server's address.
    pub address: SocketAddr,
    /// The administrator's token.
    pub token: String,
    /// The routes of all endpoints.
    pub routes: Vec<ServedRoute>,
    /// The largest body.
    pub body_bytes_max: u64,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedRoute {
    /// The endpoint's id.
    pub id: String,
    /// The method; none: every one.
    pub method: Option<String>,
    /// The pattern.
    pub pattern: String,
    /// Whether it may block.
    pub blocking: bool,
}

/// What was observed since the last message.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Observations {
    /// Requests that should have been finished by now, and are still open.
    pub requests: usize,
    /// Whether every worker is inside the extension and does not come back: then nothing more is served.
    pub is_stuck: bool,
    /// The rules that were broken.
    pub violations: Vec<Violation>,
}
