//! What is known about a token's user, for every request with that token: rights, and the addresses that they depend on.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::answers::Denial;
use super::who::Accountability;
use crate::config::values::Network;

/// A user that a token stands for.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The user, without what belongs to a single request.
    pub who: Arc<Accountability>,
    /// From where the user may ask; empty: from everywhere.
    pub from: Vec<Network>,
    /// More rights, from some addresses.
    pub grants: Vec<Grant>,
    /// The answer is only valid for this address.
    pub only: Option<IpAddr>,
    /// When the token ends, in seconds since 1970.
    pub expires: Option<f64>,
    /// How long the answer is valid where nothing else ends it.
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

/// How long an answer is kept if its source tells when it changes. Also the precision of a token's last use.
pub const KEEP: Duration = Duration::from_secs(60);

impl Known {
    /// Who asks, for a request from this address.
    pub fn at(&self, ip: Option<IpAddr>) -> Result<Arc<Accountability>, Denial> {
        let is_in = |networks: &[Network]| {
            ip.is_some_and(|ip| networks.iter().any(|network| network.contains(ip)))
        };
        if !self.from.is_empty() && !is_in(&self.from) {
            return Err(Denial::InvalidIp);
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
