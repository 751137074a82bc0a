//! The interface of a source of identity: what it is asked, and what it may answer.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::SystemTime;

use super::answers::Denial;
use super::digest::Digest;
use super::jwt::Signed;
use super::known::Known;
use crate::upstream::Upstream;

/// Knows some tokens. Sources are asked in order until one does.
pub trait Source: Send + Sync {
    /// Says whose token it is. If a source cannot tell, no other source is asked: a failure never lets a caller through.
    fn ask<'a>(&'a self, query: &'a IdentityQuery) -> VerdictFuture<'a>;
}

/// A verdict to wait for; a source that knows at once returns one that is ready.
pub type VerdictFuture<'a> = Pin<Box<dyn Future<Output = Result<Verdict, Unavailable>> + 'a>>;

/// A token and what is known about the request that it came with.
pub struct IdentityQuery {
    /// The token as it was sent.
    pub token: Vec<u8>,
    /// Its digest.
    pub digest: Digest,
    /// What it says about itself, where it is a JWT.
    pub signed: Signed,
    /// Where the request comes from.
    pub ip: Option<IpAddr>,
    /// When the request came.
    pub now: SystemTime,
    /// The worker's outgoing connections; `None` outside of a worker.
    pub upstream: Option<Rc<Upstream>>,
}

/// What a source says about a token.
#[derive(Debug)]
pub enum Verdict {
    /// It belongs to this user.
    Known(Known),
    /// It is not good, whatever other sources say.
    Denied(Denial),
    /// This source does not know it; ask the next one.
    Unknown,
}

/// The source cannot tell. The cause is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unavailable;
