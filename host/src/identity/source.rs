//! What a source of identity is asked, and what it may answer.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::jwt::Signed;
use super::{Accountability, Refusal};
use crate::config::values::Network;
use crate::upstream::Upstream;

/// Knows some tokens. Sources are asked in order until one does.
pub trait Source: Send + Sync {
    /// Says whose token it is. A source that cannot tell says so, and nobody else is asked: a caller is never let through
    /// because of a failure.
    fn ask<'a>(&'a self, asked: &'a Asked) -> Answering<'a>;
}

/// An answer under way; a source that knows at once gives one that is ready.
pub type Answering<'a> = Pin<Box<dyn Future<Output = Result<Verdict, Unavailable>> + 'a>>;

/// A token and what is known about the request that it came with.
pub struct Asked {
    /// The token as it was sent.
    pub token: Vec<u8>,
    /// Its SHA-256.
    pub digest: Digest,
    /// What it says itself, where it is a JWT.
    pub signed: Signed,
    /// Where the request comes from.
    pub ip: Option<IpAddr>,
    /// When.
    pub now: SystemTime,
    /// The way to other servers, on a worker.
    pub upstream: Option<Rc<Upstream>>,
}

/// SHA-256 of a token.
pub type Digest = [u8; 32];

/// What a source says.
#[derive(Debug)]
pub enum Verdict {
    /// It is this user's.
    Known(Known),
    /// It is no good, whatever others say.
    Refused(Refusal),
    /// Ask another.
    Unknown,
}

/// The source cannot tell. Why stands in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unavailable;

/// Whom a token stands for.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The user, without what belongs to a single request.
    pub who: Arc<Accountability>,
    /// From where the user may ask; empty: from everywhere.
    pub from: Vec<Network>,
    /// More rights, from some addresses.
    pub grants: Vec<Grant>,
    /// The answer counts for this address alone.
    pub only: Option<IpAddr>,
    /// When the token ends, in seconds since 1970.
    pub expires: Option<f64>,
    /// How long the answer counts where nothing else ends it.
    pub keep: Duration,
}

/// Rights that count from some addresses.
#[derive(Debug, Clone)]
pub struct Grant {
    /// Everything.
    pub admin: bool,
    /// Directus's app.
    pub app: bool,
    /// Those addresses.
    pub from: Vec<Network>,
}

/// How long an answer is kept whose source says when it changes. Also how precisely the last use of a token is known.
pub const KEEP: Duration = Duration::from_secs(60);

impl Known {
    /// Who asks, for a request from this address.
    pub fn at(&self, ip: Option<IpAddr>) -> Result<Arc<Accountability>, Refusal> {
        let is_in = |networks: &[Network]| {
            ip.is_some_and(|ip| networks.iter().any(|network| network.contains(ip)))
        };
        if !self.from.is_empty() && !is_in(&self.from) {
            return Err(Refusal::InvalidIp);
        }
        let mut who = self.who.clone();
        for grant in self.grants.iter().filter(|grant| is_in(&grant.from)) {
            let who = Arc::make_mut(&mut who);
            who.admin |= grant.admin;
            who.app |= grant.app;
        }
        Ok(who)
    }
}
