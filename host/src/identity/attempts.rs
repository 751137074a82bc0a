//! How often a sign-in may fail: for each account, so that a password cannot be tried out, and for each address, so that
//! accounts cannot. Each host counts for itself.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::digest::{Digest, digest};

/// How long a failure counts.
const WINDOW: Duration = Duration::from_secs(300);
/// Behind one address there may be an office: it may fail so many times as often as one account.
const ADDRESS_FACTOR: u32 = 4;
/// How many accounts and addresses are counted. Above that the oldest windows go.
const COUNTED_MAX: usize = 20_000;

/// Counts failures.
pub struct Attempts {
    failures_max: u32,
    counts: Mutex<HashMap<Counted, (Instant, u32)>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Counted {
    /// By a digest: whatever is tried as an address takes the same room.
    Account(Digest),
    Address(IpAddr),
}

/// Too many have failed: how long until the next one may be tried.
#[derive(Debug, PartialEq, Eq)]
pub struct Wait(pub Duration);

impl Attempts {
    /// Nothing has failed yet.
    pub fn new(failures_max: u32) -> Attempts {
        Attempts {
            failures_max: failures_max.max(1),
            counts: Mutex::default(),
        }
    }

    /// Counts an attempt as a failure before it is made, so that many at once are not too many.
    ///
    /// # Errors
    /// Where it must not be made.
    pub fn begin(&self, email: &str, address: Option<IpAddr>, now: Instant) -> Result<(), Wait> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() >= COUNTED_MAX {
            counts.retain(|_, (since, _)| now.duration_since(*since) < WINDOW);
            if counts.len() >= COUNTED_MAX {
                counts.clear();
            }
        }
        let keys = self.keys(email, address);
        for (key, max) in keys.iter().flatten() {
            if let Some((since, count)) = counts.get(key) {
                let age = now.duration_since(*since);
                if age < WINDOW && count >= max {
                    return Err(Wait(WINDOW - age));
                }
            }
        }
        for (key, _) in keys.iter().flatten() {
            let (since, count) = counts.entry(*key).or_insert((now, 0));
            if now.duration_since(*since) >= WINDOW {
                (*since, *count) = (now, 0);
            }
            *count += 1;
        }
        Ok(())
    }

    /// Takes an attempt back that did not fail; the account starts anew.
    pub fn succeeded(&self, email: &str, address: Option<IpAddr>) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, _) in self.keys(email, address).iter().flatten() {
            match key {
                Counted::Account(_) => {
                    counts.remove(key);
                }
                Counted::Address(_) => {
                    if let Some((_, count)) = counts.get_mut(key) {
                        *count = count.saturating_sub(1);
                    }
                }
            }
        }
    }

    fn keys(&self, email: &str, address: Option<IpAddr>) -> [Option<(Counted, u32)>; 2] {
        let account = digest(email.trim().to_lowercase().as_bytes());
        let address = address.map(|address| match address.to_canonical() {
            // One customer of a provider has all of a /64.
            IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
            address => address,
        });
        [
            Some((Counted::Account(account), self.failures_max)),
            address.map(|address| {
                let max = self.failures_max.saturating_mul(ADDRESS_FACTOR);
                (Counted::Address(address), max)
            }),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_and_an_address_have_their_limits() {
        let attempts = Attempts::new(2);
        let now = Instant::now();
        let from = |text: &str| Some(text.parse().unwrap());
        assert_eq!(attempts.begin("a@x", from("10.0.0.1"), now), Ok(()));
        assert_eq!(attempts.begin(" A@X", from("10.0.0.2"), now), Ok(()));
        assert!(attempts.begin("a@x", from("10.0.0.3"), now).is_err());
        assert_eq!(attempts.begin("a@x", None, now + WINDOW), Ok(()));
        for number in 0..7 {
            let email = format!("{number}@x");
            assert_eq!(attempts.begin(&email, from("10.0.0.1"), now), Ok(()));
        }
        assert!(
            attempts
                .begin("new@x", from("::ffff:10.0.0.1"), now)
                .is_err()
        );
        for number in 0..8 {
            let (email, ip) = (format!("v6{number}@x"), format!("2001:db8::{number}"));
            assert_eq!(attempts.begin(&email, from(&ip), now), Ok(()));
        }
        assert!(attempts.begin("new@x", from("2001:db8::99"), now).is_err());
    }

    #[test]
    fn a_success_counts_as_none() {
        let attempts = Attempts::new(1);
        for _ in 0..10 {
            let now = Instant::now();
            let from = Some("10.0.0.1".parse().unwrap());
            assert_eq!(attempts.begin("a@x", from, now), Ok(()));
            attempts.succeeded("a@x", from);
        }
    }
}
