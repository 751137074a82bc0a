//! Who is believed: from a request's credential to [`Accountability`], by the cache or by asking the sources in order.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

use actix_http::header::HeaderMap;
use tokio::sync::{Semaphore, oneshot};

use super::admin_token::AdminToken;
use super::answers::{AuthError, Denial};
use super::attempts::Attempts;
use super::cache::{Cache, Outcome};
use super::credential::{self, Credential};
use super::digest::digest;
use super::directus::Directus;
use super::directus_database::DirectusDatabase;
use super::error::IdentityError;
use super::first_start;
use super::forwarded;
use super::jwt::{self, Signed};
use super::known::Known;
use super::local_users::LocalUsers;
use super::lookups::{Begin, IdentityLookup, LookupKey, Lookups};
use super::signed::SignedTokens;
use super::source::{IdentityQuery, Source, Unavailable, Verdict};
use super::who::Accountability;
use crate::config;
use crate::config::values::TrustProxy;
use crate::http::facts::RequestFacts;
use crate::store::{DatabaseUrl, Store};
use crate::upstream::Upstream;

/// The sources of identity, made once from the configuration. Clones share them.
#[derive(Clone)]
pub struct Authority(Arc<Sources>);

struct Sources {
    jwt: jwt::Verifier,
    in_order: Vec<Box<dyn Source>>,
    /// A Directus that is asked over HTTP, also for tokens that are signed with a secret which is not ours.
    directus: Option<Arc<Directus>>,
    directus_database: Option<Arc<DirectusDatabase>>,
    trust_proxy: TrustProxy,
    cache: Arc<Cache>,
    /// A caller without a credential.
    anonymous: Arc<Accountability>,
    store: Option<Store>,
    attempts: Attempts,
    /// How many passwords are checked at once: each takes a core and 46 MiB for some 30 ms.
    password_permits: Semaphore,
    lookups: Lookups,
}

/// See [`Authority::password_permits`].
const PASSWORDS_AT_ONCE: usize = 2;

impl Authority {
    /// Prepares the sources that need no store.
    ///
    /// # Errors
    /// Where the URL of the Directus is none.
    pub fn without_store(auth: &config::Auth) -> Result<Authority, IdentityError> {
        Self::of(auth, None, auth.secret.reveal(), None)
    }

    /// Opens the store, fills it where it is empty, and prepares all sources that are configured.
    ///
    /// # Errors
    /// Where the store or the Directus's database cannot be opened: a host that knows fewer users than it should must not
    /// start.
    pub fn open(config: &config::Config, is_first: bool) -> Result<Authority, IdentityError> {
        let Some(url) = DatabaseUrl::of(&config.database)? else {
            return Self::without_store(&config.auth);
        };
        let store = match is_first {
            true => Store::open(&url)?,
            false => Store::open_again(&url)?,
        };
        let opened = first_start::prepare(&store, &config.auth, &url)?;
        Self::of(
            &config.auth,
            Some(store),
            Some(&opened.secret),
            opened.administrator.as_ref(),
        )
    }

    fn of(
        auth: &config::Auth,
        store: Option<Store>,
        secret: Option<&str>,
        administrator: Option<&Known>,
    ) -> Result<Authority, IdentityError> {
        let cache = Arc::new(Cache::default());
        let mut in_order: Vec<Box<dyn Source>> = Vec::new();
        if let Some(token) = auth.admin_token.reveal() {
            in_order.push(Box::new(AdminToken::new(token, administrator)));
        }
        if let Some(store) = &store {
            in_order.push(Box::new(LocalUsers::new(store.clone(), &cache)?));
        }
        let directus_database = match auth.directus.database_url.reveal() {
            None => None,
            Some(url) => Some(Arc::new(DirectusDatabase::open(url, &auth.directus)?)),
        };
        if let Some(database) = &directus_database {
            in_order.push(Box::new(database.clone()));
        }
        let directus = match auth.directus.url.as_str() {
            "" => None,
            url => Some(Arc::new(Directus::new(url, &auth.directus)?)),
        };
        if let Some(directus) = &directus {
            in_order.push(Box::new(directus.clone()));
        }
        in_order.push(Box::new(SignedTokens {
            has_store: store.is_some(),
        }));
        Ok(Authority(Arc::new(Sources {
            jwt: jwt::Verifier::new(secret),
            in_order,
            directus,
            directus_database,
            trust_proxy: auth.trust_proxy.clone(),
            cache,
            anonymous: Arc::default(),
            store,
            attempts: Attempts::new(auth.login_failures_max),
            password_permits: Semaphore::new(PASSWORDS_AT_ONCE),
            lookups: Lookups::default(),
        })))
    }

    /// The host's own users, where it has a store.
    pub fn store(&self) -> Option<&Store> {
        self.0.store.as_ref()
    }

    /// The databases without which callers with tokens cannot be served, by name.
    pub fn databases(&self) -> Vec<(&'static str, &Store)> {
        let sources = &self.0;
        let directus = sources.directus_database.as_ref();
        let store = sources.store.iter().map(|store| ("store", store));
        let directus = directus.map(|database| ("directus-database", database.store()));
        store.chain(directus).collect()
    }

    /// Closes the store, when nobody asks any more.
    pub fn close(&self) {
        if let Some(store) = &self.0.store {
            store.close();
        }
    }

    /// Signs and checks tokens.
    pub fn jwt(&self) -> &jwt::Verifier {
        &self.0.jwt
    }

    /// Counts sign-ins that fail.
    pub fn attempts(&self) -> &Attempts {
        &self.0.attempts
    }

    /// Whoever checks a password acquires one of these permits first.
    pub fn password_permits(&self) -> &Semaphore {
        &self.0.password_permits
    }

    /// Empties the cache; call it after a change that takes rights away.
    pub fn forget(&self) {
        self.0.cache.forget();
    }

    /// The address that a request comes from.
    pub fn address(&self, headers: &HeaderMap, peer: IpAddr) -> IpAddr {
        forwarded::address(&self.0.trust_proxy, peer, headers)
    }

    /// The address that a request comes from, where a proxy that is trusted names another than the peer.
    #[inline]
    pub fn forwarded(&self, headers: &HeaderMap, peer: IpAddr) -> Option<IpAddr> {
        if matches!(self.0.trust_proxy, TrustProxy::Nobody) {
            return None;
        }
        self.forwarded_by(headers, peer)
    }

    #[inline(never)]
    fn forwarded_by(&self, headers: &HeaderMap, peer: IpAddr) -> Option<IpAddr> {
        Some(self.address(headers, peer)).filter(|address| *address != peer)
    }

    /// Says who asks: at once where the token is known, or where no source has to be waited for. `facts` are those of the
    /// request's headers, `query` is its query as sent, `ip` is where it comes from, `upstream` the worker's way to other
    /// servers.
    ///
    /// # Errors
    /// Where there is a credential and it is not good: such a request is answered with the error, on every route.
    pub fn identify(
        &self,
        headers: &HeaderMap,
        facts: &RequestFacts,
        query: Option<&str>,
        ip: Option<IpAddr>,
        now: impl FnOnce() -> SystemTime,
        upstream: Option<&Rc<Upstream>>,
    ) -> Identified {
        let credential = match credential::presented(headers, facts, query) {
            Ok(None) => return Identified::Now(Ok(self.0.anonymous.clone())),
            Ok(Some(credential)) => credential,
            Err(error) => return Identified::Now(Err(error)),
        };
        let source = credential.source;
        match self.look_up(&credential, ip, now(), upstream) {
            LookUp::Now(found) => Identified::Now(found.map_err(|denial| source.error(denial))),
            LookUp::Pending(outcome) => Identified::Pending(IdentityLookup {
                outcome,
                ip,
                source,
            }),
        }
    }

    fn look_up(
        &self,
        credential: &Credential<'_>,
        ip: Option<IpAddr>,
        now: SystemTime,
        upstream: Option<&Rc<Upstream>>,
    ) -> LookUp {
        let cache = &self.0.cache;
        let token = credential.token();
        let digest = digest(token);
        if let Some(store) = &self.0.store {
            cache.follow(|| store.mark());
        }
        if let Some(found) = cache.find(&digest, ip, now, self.0.store.is_some()) {
            return LookUp::Now(found);
        }
        let key = (digest, ip);
        match self.0.lookups.begin(key) {
            Begin::First => {}
            Begin::Join(outcome) => return LookUp::Pending(outcome),
            Begin::Full => return LookUp::Now(Err(Denial::Unavailable)),
        }
        let query = IdentityQuery {
            token: token.to_vec(),
            digest,
            signed: self.0.jwt.read(token, now),
            ip,
            now,
            upstream: upstream.cloned(),
        };
        let mut work = Box::pin(self.clone().ask_in_order(query, key));
        // Most tokens that are not in the cache need no source that has to be waited for.
        match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => LookUp::Now(outcome.and_then(|known| known.at(ip))),
            Poll::Pending => {
                // A task of its own: other requests may wait for the outcome when this one is gone.
                let (sender, receiver) = oneshot::channel();
                actix_rt::spawn(async move {
                    // Err: this request is gone.
                    let _ = sender.send(work.await);
                });
                LookUp::Pending(receiver)
            }
        }
    }

    /// Asks one source after the other, keeps the answer, and completes the look-up.
    async fn ask_in_order(self, query: IdentityQuery, key: LookupKey) -> Outcome {
        // Dropped however this ends, so that no request waits for ever.
        let completion = self.0.lookups.completion(key);
        let before = self.0.cache.before();
        let outcome = match self.verdict(&query).await {
            Ok(Verdict::Known(known)) => {
                let keep = known.keep;
                self.0
                    .cache
                    .keep(query.digest, Ok(known.clone()), keep, before);
                Ok(known)
            }
            Ok(Verdict::Denied(denial)) => Err(denial),
            Ok(Verdict::Unknown) => Err(Denial::InvalidCredentials),
            Err(Unavailable) => Err(Denial::Unavailable),
        };
        completion.complete(&outcome);
        outcome
    }

    async fn verdict(&self, query: &IdentityQuery) -> Result<Verdict, Unavailable> {
        match (&query.signed, &self.0.directus) {
            // Signed with another secret: only the Directus itself could know it.
            (
                Signed::Bad {
                    may_be_anothers: true,
                    ..
                },
                Some(directus),
            ) => return directus.ask(query).await,
            (Signed::Bad { denial, .. }, _) => return Ok(Verdict::Denied(*denial)),
            _ => {}
        }
        for source in &self.0.in_order {
            match source.ask(query).await? {
                Verdict::Unknown => {}
                verdict => return Ok(verdict),
            }
        }
        Ok(Verdict::Unknown)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority")
    }
}

enum LookUp {
    Now(Result<Arc<Accountability>, Denial>),
    Pending(oneshot::Receiver<Outcome>),
}

/// Who asks, or the look-up that will tell.
pub enum Identified {
    /// It is known.
    Now(Result<Arc<Accountability>, AuthError>),
    /// A source has been asked.
    Pending(IdentityLookup),
}
