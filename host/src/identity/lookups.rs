//! Look-ups in flight: a token is looked up once, however many requests with it come at the same time.

use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use super::answers::{AuthError, Denial};
use super::cache::Outcome;
use super::credential::CredentialSource;
use super::digest::Digest;
use super::who::Accountability;

/// How many tokens are looked up at once; more are answered with 503, so that a flood of them does not pile up.
const LOOKUPS_MAX: usize = 1_024;

/// What a look-up is about: a token, and the address that it comes from.
pub type LookupKey = (Digest, Option<IpAddr>);

/// The look-ups in flight, and the requests that wait for each.
#[derive(Default)]
pub struct Lookups {
    waiting: Mutex<HashMap<LookupKey, Vec<oneshot::Sender<Outcome>>>>,
}

/// What to do for a request whose token is not known yet.
pub enum Begin {
    /// Look it up, and [complete](Lookups::completion) the look-up.
    First,
    /// Wait for the look-up of another request.
    Join(oneshot::Receiver<Outcome>),
    /// Give up: too many look-ups are in flight.
    Full,
}

impl Lookups {
    /// Begins a look-up, or joins the one in flight.
    pub fn begin(&self, key: LookupKey) -> Begin {
        let mut waiting = self.waiting();
        if let Some(others) = waiting.get_mut(&key) {
            let (sender, receiver) = oneshot::channel();
            others.push(sender);
            return Begin::Join(receiver);
        }
        if waiting.len() >= LOOKUPS_MAX {
            return Begin::Full;
        }
        waiting.insert(key, Vec::new());
        Begin::First
    }

    /// The end of a look-up that was begun.
    pub fn completion(&self, key: LookupKey) -> LookupCompletion<'_> {
        LookupCompletion {
            lookups: self,
            key: Some(key),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<LookupKey, Vec<oneshot::Sender<Outcome>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a look-up. If it is dropped before it is completed, the waiting requests learn that there is no outcome.
pub struct LookupCompletion<'a> {
    lookups: &'a Lookups,
    key: Option<LookupKey>,
}

impl LookupCompletion<'_> {
    /// Sends the outcome to the requests that wait for it.
    pub fn complete(mut self, outcome: &Outcome) {
        let key = self.key.take();
        let waiting = key.and_then(|key| self.lookups.waiting().remove(&key));
        for sender in waiting.unwrap_or_default() {
            // Err: that request is gone.
            let _ = sender.send(outcome.clone());
        }
    }
}

impl Drop for LookupCompletion<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.lookups.waiting().remove(&key);
        }
    }
}

/// Who asks, as a future: the outcome of a look-up for one request.
pub struct IdentityLookup {
    /// Receives the outcome.
    pub outcome: oneshot::Receiver<Outcome>,
    /// The address that the request comes from.
    pub ip: Option<IpAddr>,
    /// Where the request's token stood.
    pub source: CredentialSource,
}

impl Future for IdentityLookup {
    type Output = Result<Arc<Accountability>, AuthError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let received = std::task::ready!(Pin::new(&mut self.outcome).poll(cx));
        // Err: the look-up was dropped before it was complete.
        let outcome = received.unwrap_or(Err(Denial::Unavailable));
        let found = outcome.and_then(|known| known.at(self.ip));
        Poll::Ready(found.map_err(|denial| self.source.error(denial)))
    }
}
