//! The source of identity for the host's own users: their static tokens and the JWTs that they signed in for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::answers::Denial;
use super::cache::Cache;
use super::jwt::{Claimed, Signed};
use super::known::{KEEP, Known};
use super::source::{IdentityQuery, Source, Unavailable, Verdict, VerdictFuture};
use super::who::Accountability;
use crate::config::values::Network;
use crate::platform::log;
use crate::store::users::User;
use crate::store::{Store, StoreError, Use, digest_of, hex, seconds};

/// How often a host with cached answers polls the store for changes.
const POLL: Duration = Duration::from_secs(2);
/// After how many polls the last uses of tokens are written to the store.
const WRITE_USES_EVERY: u32 = 15;
/// How many uses wait to be written to the store; more are dropped.
const USES_MAX: usize = 10_000;
/// Tokens of the store are 32 bytes in base64url: others are not looked up.
const TOKEN_LENGTH: usize = 43;

/// The host's own users.
pub struct LocalUsers {
    store: Store,
    uses: Arc<Mutex<HashMap<String, i64>>>,
}

impl LocalUsers {
    /// Takes the store for a source, and keeps the cache in line with it from now on.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub fn new(store: Store, cache: &Arc<Cache>) -> Result<LocalUsers, StoreError> {
        let uses = Arc::default();
        let epoch = store.block_on(|db| async move { db.epoch().await })?;
        store.keep_running(follow(
            store.db().clone(),
            Arc::downgrade(cache),
            Arc::clone(&uses),
            epoch,
        ));
        Ok(LocalUsers { store, uses })
    }

    async fn by_token(&self, query: &IdentityQuery) -> Result<Verdict, StoreError> {
        let digest = hex(&query.digest);
        let owner = self
            .store
            .read(|db| async move { db.owner_of(&digest).await })
            .await?;
        let Some(owner) = owner else {
            return Ok(Verdict::Unknown);
        };
        let now = seconds(query.now);
        if !owner.user.is_active() || owner.expires.is_some_and(|expires| expires <= now) {
            return Ok(Verdict::Denied(Denial::InvalidCredentials));
        }
        self.note_use(owner.token, now);
        Ok(Verdict::Known(Known {
            expires: owner.expires.map(|expires| expires as f64),
            ..known(&owner.user)
        }))
    }

    async fn by_claims(&self, claimed: &Claimed) -> Result<Verdict, StoreError> {
        let Some(id) = claimed.who.user.clone() else {
            return Ok(Verdict::Unknown);
        };
        let session = claimed.who.session.clone();
        let found = self
            .store
            .read(|db| async move {
                let user = db.user_by_id(&id).await?;
                let is_in_session = match (&user, session) {
                    (Some(_), Some(session)) => {
                        db.has_session(digest_of(session.as_bytes()), &id).await?
                    }
                    _ => true,
                };
                Ok((user, is_in_session))
            })
            .await?;
        let (user, is_in_session) = match found {
            (Some(user), is_in_session) => (user, is_in_session),
            (None, _) => return Ok(Verdict::Unknown),
        };
        let is_outdated = claimed.issued.unwrap_or(0.0) < user.tokens_since as f64;
        if !user.is_active() || !is_in_session || is_outdated {
            return Ok(Verdict::Denied(Denial::InvalidCredentials));
        }
        let mut known = known(&user);
        Arc::make_mut(&mut known.who)
            .session
            .clone_from(&claimed.who.session);
        known.expires = Some(claimed.expires);
        Ok(Verdict::Known(known))
    }

    fn note_use(&self, token: String, at: i64) {
        let mut uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        if uses.len() < USES_MAX {
            uses.insert(token, at);
        }
    }
}

impl Source for LocalUsers {
    fn ask<'a>(&'a self, query: &'a IdentityQuery) -> VerdictFuture<'a> {
        Box::pin(async move {
            let answer = match &query.signed {
                Signed::No if query.token.len() == TOKEN_LENGTH => self.by_token(query).await,
                Signed::Good(claimed) => self.by_claims(claimed).await,
                Signed::No | Signed::Bad { .. } => Ok(Verdict::Unknown),
            };
            // The store has logged it, once for all who ask.
            answer.map_err(|_| Unavailable)
        })
    }
}

/// What a user of the store may do.
pub fn known(user: &User) -> Known {
    let mut who = Accountability {
        user: Some(user.id.as_str().into()),
        ..Accountability::default()
    };
    let mut from = Vec::new();
    if let Some(role) = &user.role {
        let id: Arc<str> = role.id.as_str().into();
        who.role = Some(id.clone());
        who.roles = vec![id];
        who.role_names = vec![role.name.as_str().into()];
        who.admin = role.admin_access;
        who.app = role.app_access;
        let ranges = role.ip_ranges.iter();
        from = ranges.filter_map(|range| Network::parse(range)).collect();
        // If no range can be read, no request is let in: 0.0.0.0/32 is no client's address.
        if from.len() < role.ip_ranges.len() && from.is_empty() {
            from.extend(Network::parse("0.0.0.0/32"));
        }
    }
    Known {
        who: who.into(),
        from,
        keep: KEEP,
        ..Known::default()
    }
}

/// Polls the store's count of changes while the cache holds anything, and writes the last uses of tokens to the store.
async fn follow(
    db: crate::store::Db,
    cache: std::sync::Weak<Cache>,
    uses: Arc<Mutex<HashMap<String, i64>>>,
    mut epoch: i64,
) {
    let mut round = 0_u32;
    loop {
        tokio::time::sleep(POLL).await;
        let Some(cache) = cache.upgrade() else { return };
        round = round.wrapping_add(1);
        if round.is_multiple_of(WRITE_USES_EVERY) {
            let uses: Vec<_> = {
                let mut uses = uses.lock().unwrap_or_else(PoisonError::into_inner);
                uses.drain().collect()
            };
            // Lost if the store does not answer: nothing depends on it.
            let is_lost =
                !uses.is_empty() && db.timed(Use::Change, db.note_uses(uses)).await.is_err();
            if is_lost {
                log::debug("the last uses of tokens were not written down", &[]);
            }
        }
        if cache.is_empty() {
            continue;
        }
        let asked_at = cache.now_ms();
        // Err: cached answers end soon.
        if let Ok(now) = db.timed(Use::Read, db.epoch()).await {
            if now != epoch {
                epoch = now;
                cache.forget();
            }
            cache.verified(asked_at);
        }
    }
}
