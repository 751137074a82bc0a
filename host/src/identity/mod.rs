//! Who asks: from the credentials of a request to [`Accountability`]. The only module that knows where identity comes from.
//!
//! A request is read once ([`credential`]), the token that it holds is looked up in the [`cache`] or shown to each [`source`]
//! in turn (ADMIN_TOKEN, the host's [`own`] users, a Directus's database, a [`directus`], what is [`signed`]), and what
//! remains of it is taken out of sight ([`redact`]) before an extension sees the request. Each answer is the one that a
//! Directus gives, so that clients and their tools need not change.

pub mod attempts;
pub mod cache;
pub mod credential;
pub mod directus;
pub mod directus_database;
pub mod first_start;
pub mod forwarded;
pub mod jwt;
pub mod local_users;
pub mod redact;
pub mod signed;
pub mod source;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

use actix_http::header::HeaderMap;
use ring::hmac;
use tokio::sync::{Semaphore, oneshot};

use crate::config;
use crate::config::values::TrustProxy;
use crate::http::facts::Noted;
use crate::store::{DatabaseUrl, Store, StoreError};
use crate::upstream::Upstream;
use attempts::Attempts;
use cache::{Cache, Outcome};
use credential::Credential;
use directus::Directus;
use directus_database::DirectusDatabase;
use jwt::Signed;
use local_users::Own;
use signed::BySecret;
use source::{Answering, Asked, Digest, KEEP, Known, Source, Unavailable, Verdict};

pub use redact::{redact_headers, redact_url};

/// The user that ADMIN_TOKEN stands for. Directus makes random ids (version 4), which this cannot be: it never meets a
/// real user's, and reads the same in every log and upstream.
pub const ADMIN_TOKEN_USER: &str = "00000000-0000-0000-0000-000000000001";
/// The role of that user, for extensions that look for one.
pub const ADMIN_TOKEN_ROLE: &str = "00000000-0000-0000-0000-000000000002";

/// Who asks. Without a user: anonymous. Shared by all requests with the same token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accountability {
    /// The user's id.
    pub user: Option<Arc<str>>,
    /// The id of the user's role.
    pub role: Option<Arc<str>>,
    /// The role and those above it.
    pub roles: Vec<Arc<str>>,
    /// The names of those roles that are known by name.
    pub role_names: Vec<Arc<str>>,
    /// Whether the user may do everything.
    pub admin: bool,
    /// Whether the user may use Directus's app.
    pub app: bool,
    /// The session that the user's token belongs to.
    pub session: Option<Arc<str>>,
}

/// Whoever shows no credential.
pub static ANONYMOUS: Accountability = Accountability {
    user: None,
    role: None,
    roles: Vec::new(),
    role_names: Vec::new(),
    admin: false,
    app: false,
    session: None,
};

/// Who is believed: the sources of identity, made once from the configuration. Clones share them.
#[derive(Clone)]
pub struct Authority(Arc<Sources>);

struct Sources {
    jwt: jwt::Verifier,
    in_order: Vec<Box<dyn Source>>,
    /// A Directus that is asked over HTTP, also for tokens that are signed with a secret which is not ours.
    directus: Option<Arc<Directus>>,
    trust_proxy: TrustProxy,
    cache: Arc<Cache>,
    /// Whoever shows no credential.
    anonymous: Arc<Accountability>,
    store: Option<Store>,
    attempts: Attempts,
    /// How many passwords are checked at once: each takes a core and 46 MiB for some 30 ms.
    turns: Semaphore,
    /// Look-ups under way, and who else waits for each: one token is looked up once, however many ask at the same time.
    waiting: Mutex<HashMap<Asking, Vec<oneshot::Sender<Outcome>>>>,
}

/// What a look-up is about: a token, and the address that it comes from.
type Asking = (Digest, Option<IpAddr>);

/// How many tokens are looked up at once; more are answered with 503, so that a flood of them does not pile up.
const LOOKUPS_MAX: usize = 1_024;

/// See [`Authority::turns`].
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
    pub fn open(config: &config::Config) -> Result<Authority, IdentityError> {
        let Some(place) = DatabaseUrl::of(&config.database)? else {
            return Self::without_store(&config.auth);
        };
        let store = Store::open(&place)?;
        let opened = first_start::prepare(&store, &config.auth, &place)?;
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
            in_order.push(Box::new(Own::new(store.clone(), &cache)?));
        }
        if let Some(url) = auth.directus.database_url.reveal() {
            in_order.push(Box::new(DirectusDatabase::open(url, &auth.directus)?));
        }
        let directus = match auth.directus.url.as_str() {
            "" => None,
            url => Some(Arc::new(Directus::new(url, &auth.directus)?)),
        };
        if let Some(directus) = &directus {
            in_order.push(Box::new(directus.clone()));
        }
        in_order.push(Box::new(BySecret {
            has_store: store.is_some(),
        }));
        Ok(Authority(Arc::new(Sources {
            jwt: jwt::Verifier::new(secret),
            in_order,
            directus,
            trust_proxy: auth.trust_proxy.clone(),
            cache,
            anonymous: Arc::default(),
            store,
            attempts: Attempts::new(auth.login_failures_max),
            turns: Semaphore::new(PASSWORDS_AT_ONCE),
            waiting: Mutex::default(),
        })))
    }

    /// The host's own users, where it has a store.
    pub fn store(&self) -> Option<&Store> {
        self.0.store.as_ref()
    }

    /// Signs and checks tokens.
    pub fn jwt(&self) -> &jwt::Verifier {
        &self.0.jwt
    }

    /// Counts sign-ins that fail.
    pub fn attempts(&self) -> &Attempts {
        &self.0.attempts
    }

    /// Who checks a password takes one of these turns first.
    pub fn turns(&self) -> &Semaphore {
        &self.0.turns
    }

    /// Forgets all answers: to be called after a change that takes something away.
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

    /// Says who asks: at once where the token is known, or where no source has to be waited for. `query` is the request's as
    /// sent, `ip` where it comes from, `upstream` the worker's way to other servers.
    ///
    /// # Errors
    /// Where there is a credential and it is not good: such a request is answered with the error, on every route.
    pub fn identify(
        &self,
        headers: &HeaderMap,
        noted: &Noted,
        query: Option<&str>,
        ip: Option<IpAddr>,
        now: impl FnOnce() -> SystemTime,
        upstream: Option<&Rc<Upstream>>,
    ) -> Identified {
        let credential = match credential::presented(headers, noted, query) {
            Ok(None) => return Identified::Now(Ok(self.0.anonymous.clone())),
            Ok(Some(credential)) => credential,
            Err(error) => return Identified::Now(Err(error)),
        };
        let place = credential.place;
        match self.look_up(&credential, ip, now(), upstream) {
            LookUp::Now(found) => Identified::Now(found.map_err(|refusal| at(place, refusal))),
            LookUp::Later(answer) => Identified::Later(Answer { answer, ip, place }),
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
        let asking = (digest, ip);
        let mut waiting = self.waiting();
        if let Some(others) = waiting.get_mut(&asking) {
            let (tell, answer) = oneshot::channel();
            others.push(tell);
            return LookUp::Later(answer);
        }
        if waiting.len() >= LOOKUPS_MAX {
            return LookUp::Now(Err(Refusal::Unavailable));
        }
        waiting.insert(asking, Vec::new());
        drop(waiting);
        let asked = Asked {
            token: token.to_vec(),
            digest,
            signed: self.0.jwt.read(token, now),
            ip,
            now,
            upstream: upstream.cloned(),
        };
        let mut work = Box::pin(self.clone().ask_in_order(asked, asking));
        // Most tokens that are not in the cache are no business of a source that has to be waited for.
        match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => LookUp::Now(outcome.and_then(|known| known.at(ip))),
            Poll::Pending => {
                // A task of its own: others may wait for the answer when this caller has left.
                let (tell, answer) = oneshot::channel();
                actix_rt::spawn(async move {
                    let _ = tell.send(work.await);
                });
                LookUp::Later(answer)
            }
        }
    }

    /// Asks source after source, keeps the answer, and tells it to those who wait for it.
    async fn ask_in_order(self, asked: Asked, asking: Asking) -> Outcome {
        // However this ends, nobody waits for ever.
        let mut done = Done(&self, Some(asking));
        let before = self.0.cache.before();
        let outcome = match self.verdict(&asked).await {
            Ok(Verdict::Known(known)) => {
                let keep = known.keep;
                self.0
                    .cache
                    .keep(asked.digest, Ok(known.clone()), keep, before);
                Ok(known)
            }
            Ok(Verdict::Refused(refusal)) => Err(refusal),
            Ok(Verdict::Unknown) => Err(Refusal::InvalidCredentials),
            Err(Unavailable) => Err(Refusal::Unavailable),
        };
        done.tell(&outcome);
        outcome
    }

    async fn verdict(&self, asked: &Asked) -> Result<Verdict, Unavailable> {
        match (&asked.signed, &self.0.directus) {
            // Signed with another secret: only the Directus itself could know it.
            (
                Signed::Bad {
                    may_be_anothers: true,
                    ..
                },
                Some(directus),
            ) => return directus.ask(asked).await,
            (Signed::Bad { refusal, .. }, _) => return Ok(Verdict::Refused(*refusal)),
            _ => {}
        }
        for source in &self.0.in_order {
            match source.ask(asked).await? {
                Verdict::Unknown => {}
                answer => return Ok(answer),
            }
        }
        Ok(Verdict::Unknown)
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Asking, Vec<oneshot::Sender<Outcome>>>> {
        self.0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority")
    }
}

/// Ends a look-up: dropped before its answer is told, those who wait learn that there is none.
struct Done<'a>(&'a Authority, Option<Asking>);

impl Done<'_> {
    fn tell(&mut self, outcome: &Outcome) {
        let asking = self.1.take();
        let waiting = asking.and_then(|asking| self.0.waiting().remove(&asking));
        for waiting in waiting.unwrap_or_default() {
            // One who has left does not listen.
            let _ = waiting.send(outcome.clone());
        }
    }
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        if let Some(asking) = self.1.take() {
            self.0.waiting().remove(&asking);
        }
    }
}

enum LookUp {
    Now(Result<Arc<Accountability>, Refusal>),
    Later(oneshot::Receiver<Outcome>),
}

/// Who asks, or who will tell.
pub enum Identified {
    /// It is known.
    Now(Result<Arc<Accountability>, AuthError>),
    /// A source has been asked.
    Later(Answer),
}

/// Who asks, as a future.
pub struct Answer {
    answer: oneshot::Receiver<Outcome>,
    ip: Option<IpAddr>,
    place: credential::Place,
}

impl Future for Answer {
    type Output = Result<Arc<Accountability>, AuthError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answered = std::task::ready!(Pin::new(&mut self.answer).poll(cx));
        // Dropped without an answer: the look-up failed in a way that it could not tell.
        let outcome = answered.unwrap_or(Err(Refusal::Unavailable));
        let found = outcome.and_then(|known| known.at(self.ip));
        Poll::Ready(found.map_err(|refusal| at(self.place, refusal)))
    }
}

/// What a credential that is refused is answered with, by where it stood.
fn at(place: credential::Place, refusal: Refusal) -> AuthError {
    AuthError {
        refusal,
        clear_cookie: place == credential::Place::Cookie && refusal.is_final(),
    }
}

fn digest(token: &[u8]) -> Digest {
    let digest = ring::digest::digest(&ring::digest::SHA256, token);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Why the host cannot know its users.
#[derive(Debug)]
pub enum IdentityError {
    /// The store, or the Directus's database.
    Store(StoreError),
    /// The URL of the Directus is none.
    DirectusUrl(String),
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IdentityError::Store(cause) => cause.fmt(f),
            IdentityError::DirectusUrl(problem) => {
                write!(f, "cannot use url under [auth.directus]: {problem}")
            }
        }
    }
}

impl std::error::Error for IdentityError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            IdentityError::Store(cause) => cause.source(),
            IdentityError::DirectusUrl(_) => None,
        }
    }
}

impl From<StoreError> for IdentityError {
    fn from(cause: StoreError) -> IdentityError {
        IdentityError::Store(cause)
    }
}

/// The static token of an administrator, kept as a digest.
struct AdminToken {
    key: hmac::Key,
    tag: hmac::Tag,
    who: Arc<Accountability>,
}

impl AdminToken {
    /// `administrator`: the user of the store that the token stands for; otherwise it stands for nobody but itself.
    fn new(token: &str, administrator: Option<&Known>) -> AdminToken {
        // The key is no secret: it only makes of each token a digest of one length, which is compared in constant time.
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"extension-host admin token");
        let tag = hmac::sign(&key, token.as_bytes());
        let role: Arc<str> = ADMIN_TOKEN_ROLE.into();
        let who = match administrator {
            Some(administrator) => (*administrator.who).clone(),
            None => Accountability {
                user: Some(ADMIN_TOKEN_USER.into()),
                role: Some(role.clone()),
                roles: vec![role],
                ..Accountability::default()
            },
        };
        let who = Arc::new(Accountability {
            admin: true,
            app: true,
            ..who
        });
        AdminToken { key, tag, who }
    }

    fn is(&self, token: &[u8]) -> bool {
        hmac::verify(&self.key, token, self.tag.as_ref()).is_ok()
    }
}

impl Source for AdminToken {
    fn ask<'a>(&'a self, asked: &'a Asked) -> Answering<'a> {
        let verdict = if self.is(&asked.token) {
            Verdict::Known(Known {
                who: self.who.clone(),
                keep: KEEP,
                ..Known::default()
            })
        } else {
            Verdict::Unknown
        };
        Box::pin(std::future::ready(Ok(verdict)))
    }
}

/// A credential that is not good, as the caller is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthError {
    /// What is wrong.
    pub refusal: Refusal,
    /// Whether the answer also takes the session cookie away; see [`CLEAR_SESSION_COOKIE`].
    pub clear_cookie: bool,
}

/// The value of the `Set-Cookie` header that takes a bad session cookie away.
pub const CLEAR_SESSION_COOKIE: &str = "directus_session_token=; Path=/; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; HttpOnly; SameSite=Lax";

/// What is wrong with a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody has this token.
    InvalidCredentials,
    /// It was good.
    TokenExpired,
    /// It is a JWT that was not made with our secret, or says what it must not.
    InvalidToken,
    /// There is one in the query and another one in the header.
    SeveralTokens,
    /// The user may not ask from this address.
    InvalidIp,
    /// Nobody can tell just now.
    Unavailable,
}

impl Refusal {
    /// The status of the answer.
    pub fn status(self) -> u16 {
        match self {
            Refusal::InvalidCredentials | Refusal::TokenExpired | Refusal::InvalidIp => 401,
            Refusal::InvalidToken => 403,
            Refusal::SeveralTokens => 400,
            Refusal::Unavailable => 503,
        }
    }

    /// The code in the answer, for programs.
    pub fn code(self) -> &'static str {
        match self {
            Refusal::InvalidCredentials => "INVALID_CREDENTIALS",
            Refusal::TokenExpired => "TOKEN_EXPIRED",
            Refusal::InvalidToken => "INVALID_TOKEN",
            Refusal::SeveralTokens => "INVALID_PAYLOAD",
            Refusal::InvalidIp => "INVALID_IP",
            Refusal::Unavailable => "SERVICE_UNAVAILABLE",
        }
    }

    /// The message in the answer.
    pub fn message(self) -> &'static str {
        match self {
            Refusal::InvalidCredentials => "Invalid user credentials.",
            Refusal::TokenExpired => "Token expired.",
            Refusal::InvalidToken => "Invalid token.",
            Refusal::SeveralTokens => {
                "Invalid payload. The request uses more than one method for including an access token."
            }
            Refusal::InvalidIp => "Invalid IP address.",
            Refusal::Unavailable => "It cannot be checked who asks; try again soon.",
        }
    }

    /// The body of the answer, JSON.
    pub fn body(self) -> &'static str {
        match self {
            Refusal::InvalidCredentials => {
                r#"{"errors":[{"message":"Invalid user credentials.","extensions":{"code":"INVALID_CREDENTIALS"}}]}"#
            }
            Refusal::TokenExpired => {
                r#"{"errors":[{"message":"Token expired.","extensions":{"code":"TOKEN_EXPIRED"}}]}"#
            }
            Refusal::InvalidToken => {
                r#"{"errors":[{"message":"Invalid token.","extensions":{"code":"INVALID_TOKEN"}}]}"#
            }
            Refusal::SeveralTokens => {
                r#"{"errors":[{"message":"Invalid payload. The request uses more than one method for including an access token.","extensions":{"reason":"The request uses more than one method for including an access token","code":"INVALID_PAYLOAD"}}]}"#
            }
            Refusal::InvalidIp => {
                r#"{"errors":[{"message":"Invalid IP address.","extensions":{"code":"INVALID_IP"}}]}"#
            }
            Refusal::Unavailable => {
                r#"{"errors":[{"message":"It cannot be checked who asks; try again soon.","extensions":{"code":"SERVICE_UNAVAILABLE"}}]}"#
            }
        }
    }

    /// Whether the token can never become good: an expired one still tells a browser which session to refresh.
    fn is_final(self) -> bool {
        matches!(self, Refusal::InvalidCredentials | Refusal::InvalidToken)
    }
}

impl From<Refusal> for AuthError {
    fn from(refusal: Refusal) -> AuthError {
        AuthError {
            refusal,
            clear_cookie: false,
        }
    }
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.refusal.message())
    }
}

impl std::error::Error for AuthError {}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use actix_http::header::{self, HeaderName, HeaderValue};
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;
    use crate::config::values::Secret;
    use crate::http::facts::Said;

    const SECRET: &str = "a-secret-that-both-know";
    const ADMIN: &str = "the-admin-token";
    const USER: &str = "9b3c3a5e-0000-4000-8000-000000000000";
    const ROLE: &str = "1f0d9a52-0000-4000-8000-000000000000";
    const HS256: &str = r#"{"alg":"HS256","typ":"JWT"}"#;
    const NOW: u64 = 1_800_000_000;

    fn authority() -> Authority {
        Authority::without_store(&config::Auth {
            secret: Secret::new(SECRET),
            admin_token: Secret::new(ADMIN),
            ..config::Auth::default()
        })
        .unwrap()
    }

    /// Without a store and a Directus, every answer is there at once.
    fn at_once(identified: Identified) -> Result<Arc<Accountability>, AuthError> {
        match identified {
            Identified::Now(answer) => answer,
            Identified::Later(_) => panic!("there is nobody to wait for"),
        }
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)
    }

    fn sign(header: &str, payload: &str, secret: &str) -> String {
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode(payload)
        );
        let tag = hmac::sign(
            &hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()),
            signed.as_bytes(),
        );
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
    }

    fn claims(more: &str) -> String {
        format!(
            r#"{{"id":"{USER}","role":"{ROLE}","app_access":true,"admin_access":false,"iat":1799999999,"exp":1800000900,"iss":"directus"{more}}}"#
        )
    }

    fn jwt(payload: &str) -> String {
        sign(HS256, payload, SECRET)
    }

    fn ask_with(
        headers: &[(HeaderName, &str)],
        url: &str,
    ) -> Result<Arc<Accountability>, AuthError> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.clone(), HeaderValue::from_str(value).unwrap());
        }
        let peer = Some("127.0.0.1".parse().unwrap());
        let query = url.split_once('?').map(|(_, query)| query);
        let noted = Noted::of(&map, query, false, Rc::new(Said::of(&map)));
        at_once(authority().identify(&map, &noted, query, peer, now, None))
    }

    fn ask(authorization: &str) -> Result<Arc<Accountability>, AuthError> {
        ask_with(&[(header::AUTHORIZATION, authorization)], "/twilio/x")
    }

    fn bearer(token: &str) -> Result<Arc<Accountability>, AuthError> {
        ask(&format!("Bearer {token}"))
    }

    fn query(query: &str) -> Result<Arc<Accountability>, AuthError> {
        ask_with(&[], &format!("/twilio/x?{query}"))
    }

    fn cookie(cookie: &str) -> Result<Arc<Accountability>, AuthError> {
        ask_with(&[(header::COOKIE, cookie)], "/twilio/x")
    }

    fn is_admin(who: Result<Arc<Accountability>, AuthError>) -> bool {
        who.unwrap().admin
    }

    fn is_anonymous(who: Result<Arc<Accountability>, AuthError>) -> bool {
        *who.unwrap() == Accountability::default()
    }

    fn refused(who: Result<Arc<Accountability>, AuthError>) -> Refusal {
        who.unwrap_err().refusal
    }

    #[test]
    fn without_a_token_that_counts_the_caller_is_anonymous() {
        assert!(is_anonymous(ask_with(&[], "/twilio/x")));
        for authorization in [
            "Token the-admin-token",
            "Basic dGhlOmFkbWlu",
            "the-admin-token",
            "Bearer  the-admin-token",
            "Bearer the-admin-token x",
            "Bearer\tthe-admin-token",
            "Bearer",
            "",
        ] {
            assert!(is_anonymous(ask(authorization)), "{authorization:?}");
        }
        assert!(is_anonymous(query("access_token=")));
        assert!(is_anonymous(query("access_token")));
        assert!(is_anonymous(query("access_tokens=x&a[access_token]=x")));
        assert!(is_anonymous(cookie(
            "directus_session_token=; directus_refresh_token=x; other=y"
        )));
    }

    #[test]
    fn a_wrong_token_is_401_wherever_it_stands() {
        assert_eq!(refused(bearer("wrong")), Refusal::InvalidCredentials);
        assert_eq!(
            refused(query("access_token=wrong")),
            Refusal::InvalidCredentials
        );
        assert_eq!(
            refused(cookie("directus_session_token=wrong")),
            Refusal::InvalidCredentials
        );
        let answer = Refusal::InvalidCredentials;
        assert_eq!(answer.status(), 401);
        assert_eq!(
            answer.body(),
            r#"{"errors":[{"message":"Invalid user credentials.","extensions":{"code":"INVALID_CREDENTIALS"}}]}"#
        );
    }

    #[test]
    fn a_list_or_object_in_the_query_is_a_wrong_token() {
        for doubled in [
            "access_token=the-admin-token&access_token=the-admin-token",
            "access_token=&access_token=",
            "access_token[]=the-admin-token",
            "access_token%5B%5D=the-admin-token",
            "access_token[a]=the-admin-token",
            "access_token=the-admin-token&access%5ftoken[0]=x",
        ] {
            assert_eq!(
                refused(query(doubled)),
                Refusal::InvalidCredentials,
                "{doubled}"
            );
        }
    }

    #[test]
    fn a_jwt_of_another_issuer_is_a_wrong_token() {
        for payload in [
            claims("").replace("directus", "other"),
            claims("").replace("\"directus\"", "7"),
            "{}".into(),
            "[]".into(),
            "x".into(),
        ] {
            assert_eq!(
                refused(bearer(&jwt(&payload))),
                Refusal::InvalidCredentials,
                "{payload}"
            );
        }
        assert_eq!(
            refused(bearer(&format!("{}.x", jwt(&claims(""))))),
            Refusal::InvalidCredentials
        );
    }

    #[test]
    fn a_wrong_cookie_is_also_cleared() {
        assert!(
            cookie("directus_session_token=wrong")
                .unwrap_err()
                .clear_cookie
        );
        let forged = sign(HS256, &claims(""), "other secret");
        assert!(
            cookie(&format!("directus_session_token={forged}"))
                .unwrap_err()
                .clear_cookie
        );
        let expired = jwt(&claims("").replace("1800000900", "1"));
        assert!(
            !cookie(&format!("directus_session_token={expired}"))
                .unwrap_err()
                .clear_cookie
        );
        assert!(!bearer("wrong").unwrap_err().clear_cookie);
    }

    #[test]
    fn an_expired_jwt_is_401_of_its_own() {
        for expires in [
            NOW.to_string(),
            "1".into(),
            "-1".into(),
            "1799999999.5".into(),
        ] {
            let who = bearer(&jwt(&claims("").replace("1800000900", &expires)));
            assert_eq!(refused(who), Refusal::TokenExpired, "{expires}");
        }
        assert_eq!(
            (Refusal::TokenExpired.status(), Refusal::TokenExpired.code()),
            (401, "TOKEN_EXPIRED")
        );
    }

    #[test]
    fn a_jwt_that_was_not_signed_with_the_secret_is_403() {
        let good = jwt(&claims(""));
        let (signed, _) = good.rsplit_once('.').unwrap();
        let none = sign(r#"{"alg":"none"}"#, &claims(""), SECRET);
        let (unsigned, _) = none.rsplit_once('.').unwrap();
        for token in [
            sign(HS256, &claims(""), "other secret"),
            format!("{signed}."),
            format!("{signed}.x"),
            format!("{signed}.AAAA"),
            none.clone(),
            format!("{unsigned}."),
            sign(r#"{"alg":"HS512"}"#, &claims(""), SECRET),
            sign(r#"{"alg":"hs256"}"#, &claims(""), SECRET),
            sign(r#"{"typ":"JWT"}"#, &claims(""), SECRET),
            sign(r#"{"alg":"HS256","crit":["x"]}"#, &claims(""), SECRET),
        ] {
            assert_eq!(refused(bearer(&token)), Refusal::InvalidToken, "{token}");
        }
        assert_eq!(
            (
                Refusal::InvalidToken.status(),
                Refusal::InvalidToken.message()
            ),
            (403, "Invalid token.")
        );
    }

    #[test]
    fn a_jwt_without_what_directus_writes_is_403() {
        for payload in [
            claims("").replace(r#","exp":1800000900"#, ""),
            claims("").replace("1800000900", "\"1800000900\""),
            claims("").replace("1800000900", "null"),
            claims("").replace(r#""app_access":true,"#, ""),
            claims("").replace(r#""admin_access":false,"#, ""),
            claims("").replace(&format!(r#""role":"{ROLE}","#), ""),
            claims("").replace(&format!("\"{ROLE}\""), "7"),
            claims(r#","nbf":1800000001"#),
            claims(r#","nbf":"x""#),
        ] {
            assert_eq!(
                refused(bearer(&jwt(&payload))),
                Refusal::InvalidToken,
                "{payload}"
            );
        }
        assert!(bearer(&jwt(&claims(r#","nbf":1800000000"#))).is_ok());
    }

    #[test]
    fn without_a_secret_no_jwt_is_good() {
        let authority = Authority::without_store(&config::Auth::default()).unwrap();
        let mut headers = HeaderMap::new();
        for secret in [SECRET, ""] {
            let value =
                HeaderValue::from_str(&format!("Bearer {}", sign(HS256, &claims(""), secret)))
                    .unwrap();
            headers.insert(header::AUTHORIZATION, value);
            assert_eq!(
                refused(at_once(authority.identify(
                    &headers,
                    &Noted::of(&headers, None, false, Rc::new(Said::of(&headers))),
                    None,
                    None,
                    now,
                    None
                ))),
                Refusal::InvalidToken
            );
        }
    }

    #[test]
    fn a_token_in_query_and_header_is_400() {
        for url in [
            "/x?access_token=the-admin-token",
            "/x?access_token[]=a",
            "/x?access_token=a&access_token=b",
        ] {
            let who = ask_with(&[(header::AUTHORIZATION, "Bearer the-admin-token")], url);
            assert_eq!(refused(who), Refusal::SeveralTokens);
        }
        assert!(is_admin(ask_with(
            &[(header::AUTHORIZATION, "Bearer the-admin-token")],
            "/x?access_token="
        )));
        assert!(is_admin(ask_with(
            &[(header::AUTHORIZATION, "Basic x")],
            "/x?access_token=the-admin-token"
        )));
        assert_eq!(
            (
                Refusal::SeveralTokens.status(),
                Refusal::SeveralTokens.code()
            ),
            (400, "INVALID_PAYLOAD")
        );
    }

    #[test]
    fn header_and_query_win_over_the_cookie() {
        let wrong = (header::COOKIE, "directus_session_token=wrong");
        assert!(is_admin(ask_with(
            &[
                wrong.clone(),
                (header::AUTHORIZATION, "Bearer the-admin-token")
            ],
            "/x"
        )));
        assert!(is_admin(ask_with(
            std::slice::from_ref(&wrong),
            "/x?access_token=the-admin-token"
        )));
        let right = (header::COOKIE, "directus_session_token=the-admin-token");
        let who = ask_with(&[right, (header::AUTHORIZATION, "Bearer wrong")], "/x").unwrap_err();
        assert_eq!(
            (who.refusal, who.clear_cookie),
            (Refusal::InvalidCredentials, false)
        );
    }

    #[test]
    fn bearer_is_read_in_any_case() {
        for scheme in ["Bearer", "bearer", "BEARER"] {
            assert!(is_admin(ask(&format!("{scheme} the-admin-token"))));
        }
    }

    #[test]
    fn cookies_and_queries_are_decoded() {
        assert!(is_admin(query("a=1&access_token=the%2Dadmin-token")));
        assert!(is_admin(cookie(
            "a=1; directus_session_token=\"the%2Dadmin-token\"; directus_session_token=wrong"
        )));
        let lines = [
            (header::COOKIE, "a=1"),
            (header::COOKIE, "directus_session_token=the-admin-token"),
        ];
        assert!(is_admin(ask_with(&lines, "/x")));
    }

    #[test]
    fn a_good_jwt_says_who_asks() {
        let who = bearer(&jwt(&claims(r#","session":"s1""#))).unwrap();
        assert_eq!(who.user.as_deref(), Some(USER));
        assert_eq!(who.role.as_deref(), Some(ROLE));
        assert_eq!(who.roles, [Arc::from(ROLE)]);
        assert_eq!(who.session.as_deref(), Some("s1"));
        assert!(who.app && !who.admin);
        let numbers = claims("").replace(
            r#""app_access":true,"admin_access":false"#,
            r#""app_access":0,"admin_access":1"#,
        );
        let who = bearer(&jwt(&numbers)).unwrap();
        assert!(!who.app && who.admin);
    }

    #[test]
    fn a_user_without_role_has_none() {
        let who = bearer(&jwt(&claims("").replace(&format!("\"{ROLE}\""), "null"))).unwrap();
        assert_eq!(
            (who.user.as_deref(), who.role.clone(), who.roles.len()),
            (Some(USER), None, 0)
        );
    }

    #[test]
    fn a_jwt_without_id_is_anonymous() {
        let admin = claims("").replace("\"admin_access\":false", "\"admin_access\":true");
        assert!(is_anonymous(bearer(&jwt(
            &admin.replace(&format!(r#""id":"{USER}","#), "")
        ))));
        assert!(is_anonymous(bearer(&jwt(
            &admin.replace(&format!("\"{USER}\""), "null")
        ))));
        assert!(is_anonymous(bearer(&jwt(&admin.replace(USER, "")))));
    }

    #[test]
    fn the_admin_token_is_an_administrator() {
        let who = bearer(ADMIN).unwrap();
        assert_eq!(who.user.as_deref(), Some(ADMIN_TOKEN_USER));
        assert_eq!(
            (who.role.as_deref(), who.roles.len()),
            (Some(ADMIN_TOKEN_ROLE), 1)
        );
        assert!(who.admin && who.app);
        for wrong in ["the-admin-toke", "the-admin-tokenx", "THE-ADMIN-TOKEN"] {
            assert_eq!(refused(bearer(wrong)), Refusal::InvalidCredentials);
        }
    }

    #[test]
    fn a_token_that_is_too_long_is_a_wrong_one() {
        let long = "x".repeat(credential::TOKEN_BYTES_MAX + 1);
        assert_eq!(refused(bearer(&long)), Refusal::InvalidCredentials);
        assert_eq!(
            refused(query(&format!("access_token={long}"))),
            Refusal::InvalidCredentials
        );
        assert!(
            cookie(&format!("directus_session_token={long}"))
                .unwrap_err()
                .clear_cookie
        );
        let payload = claims(&format!(r#","pad":"{long}""#));
        assert_eq!(refused(bearer(&jwt(&payload))), Refusal::InvalidCredentials);
    }

    #[test]
    fn nothing_shows_a_secret() {
        let shown = format!("{:?}", authority());
        assert!(!shown.contains(SECRET) && !shown.contains(ADMIN), "{shown}");
    }

    #[test]
    fn bodies_say_what_the_parts_say() {
        for refusal in [
            Refusal::InvalidCredentials,
            Refusal::TokenExpired,
            Refusal::InvalidToken,
            Refusal::SeveralTokens,
        ] {
            let body: serde_json::Value = serde_json::from_str(refusal.body()).unwrap();
            assert_eq!(body["errors"][0]["message"], refusal.message());
            assert_eq!(body["errors"][0]["extensions"]["code"], refusal.code());
        }
    }
}
