//! The source of identity that is a Directus over HTTP: it receives a token that it may have issued, in the `Authorization`
//! header, and no other server does.
//!
//! Three questions: `/users/me` says who, `/roles/me` which roles, `/policies/me/globals` what these allow (since Directus 11
//! a right belongs to a policy and is on no user or role).

use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_http::Method;
use actix_http::header::{self, HeaderValue};
use serde_json::Value;

use super::answers::Denial;
use super::error::IdentityError;
use super::jwt::Signed;
use super::known::Known;
use super::source::{IdentityQuery, Source, Unavailable, Verdict, VerdictFuture};
use super::who::Accountability;
use crate::config;
use crate::platform::log::Level;
use crate::platform::log_limit;
use crate::upstream::{Base, Call, Limits, OutgoingBody, Upstream};

/// The largest answer. The answers to these calls are below 1 KiB, except for users with very many roles.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// A Directus, asked over HTTP.
pub struct Directus {
    base: Arc<Base>,
    keep: Duration,
    timeout: Duration,
}

impl Directus {
    /// Prepares the calls.
    ///
    /// # Errors
    /// Where the URL is none.
    pub fn new(url: &str, settings: &config::Directus) -> Result<Directus, IdentityError> {
        let base = Base::parse(url.trim_end_matches('/')).map_err(IdentityError::DirectusUrl)?;
        Ok(Directus {
            base: Arc::new(base),
            keep: Duration::from_millis(settings.cache_ms),
            timeout: Duration::from_millis(settings.timeout_ms.max(1)),
        })
    }

    async fn who(
        &self,
        query: &IdentityQuery,
        upstream: &Rc<Upstream>,
    ) -> Result<Verdict, Problem> {
        let Some(bearer) = bearer(&query.token) else {
            return Ok(Verdict::Unknown);
        };
        let get = |target| self.get(upstream, target, &bearer, query.ip);
        let user = match get("/users/me?fields=id,role.id,role.name").await? {
            (200, user) => user,
            (401 | 403, error) => return Ok(Verdict::Denied(denial(&error))),
            (status, _) => return Err(Problem::Status("/users/me", status)),
        };
        let Some(id) = text(&user["data"]["id"]) else {
            return Err(Problem::Content("/users/me"));
        };
        let roles = match get("/roles/me?fields=id,name&limit=-1").await? {
            (200, roles) => roles,
            // Says nothing that the user's own role does not.
            (401 | 403 | 404, _) => Value::Null,
            (status, _) => return Err(Problem::Status("/roles/me", status)),
        };
        let globals = match get("/policies/me/globals").await? {
            (200, globals) => globals,
            (status, _) => return Err(Problem::Status("/policies/me/globals", status)),
        };
        let mut who = Accountability {
            user: Some(id),
            admin: globals["data"]["admin_access"] == true,
            app: globals["data"]["app_access"] == true,
            ..Accountability::default()
        };
        read_roles(&mut who, &user["data"]["role"], &roles["data"]);
        if let Signed::Good(claimed) = &query.signed {
            who.session.clone_from(&claimed.who.session);
        }
        let expires = match &query.signed {
            Signed::Good(claimed) => Some(claimed.expires),
            _ => None,
        };
        Ok(Verdict::Known(Known {
            who: who.into(),
            expires,
            // A policy there may count for some addresses alone.
            only: query.ip,
            keep: self.keep,
            ..Known::default()
        }))
    }

    async fn get(
        &self,
        upstream: &Upstream,
        target: &'static str,
        bearer: &HeaderValue,
        ip: Option<IpAddr>,
    ) -> Result<(u16, Value), Problem> {
        let mut call = Call::new(self.base.clone(), &Method::GET, target)
            .ok_or(Problem::Content(target))?
            .limit(Limits {
                connect: Some(self.timeout),
                first_byte: Some(self.timeout),
                total: Some(self.timeout),
            });
        call.add(&header::AUTHORIZATION, bearer.as_bytes());
        call.add(&header::ACCEPT, b"application/json");
        if let Some(ip) = ip {
            let ip = ip.to_canonical().to_string();
            call.add(&header::X_FORWARDED_FOR, ip.as_bytes());
        }
        let answer = upstream.call(call, OutgoingBody::Empty).await;
        let mut answer = answer.map_err(|failed| Problem::Failed(failed.message))?;
        let mut body = Vec::new();
        while let Some(chunk) =
            std::future::poll_fn(|cx| Pin::new(&mut answer.body).get_mut().poll_chunk(cx)).await
        {
            let chunk = chunk.map_err(|_| Problem::Content(target))?;
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(Problem::Content(target));
            }
            body.extend_from_slice(&chunk);
        }
        let status = answer.status.as_u16();
        match serde_json::from_slice(&body) {
            Ok(value) => Ok((status, value)),
            // A page of a proxy between here and there, perhaps: its status may still say enough.
            Err(_) if status != 200 && status != 401 && status != 403 => Ok((status, Value::Null)),
            Err(_) => Err(Problem::Content(target)),
        }
    }
}

impl Source for Arc<Directus> {
    fn ask<'a>(&'a self, query: &'a IdentityQuery) -> VerdictFuture<'a> {
        Box::pin(async move {
            // What another host signed is no token of a Directus, whichever secret they share.
            let Some(upstream) = query.upstream.clone() else {
                return Err(Unavailable);
            };
            let answer = actix_rt::time::timeout(self.timeout, self.who(query, &upstream));
            let problem = match answer.await {
                Ok(Ok(verdict)) => return Ok(verdict),
                Ok(Err(problem)) => problem.to_string(),
                Err(_) => format!("no answer within {} ms", self.timeout.as_millis()),
            };
            log_limit::event(
                ("the Directus cannot tell who asks", ""),
                Level::Warn,
                "the Directus cannot tell who asks",
                &[("url", &self.base.origin()), ("cause", &problem)],
            );
            Err(Unavailable)
        })
    }
}

/// Why a Directus cannot tell.
enum Problem {
    Failed(String),
    Status(&'static str, u16),
    Content(&'static str),
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Problem::Failed(message) => f.write_str(message),
            Problem::Status("/policies/me/globals", 404) => {
                f.write_str("/policies/me/globals is not there; a Directus 11 or later is needed")
            }
            Problem::Status(target, status) => write!(f, "{target} was answered with {status}"),
            Problem::Content(target) => write!(f, "the answer to {target} is none of a Directus"),
        }
    }
}

/// The header for a token; `None`: it cannot stand in one, and no Directus has issued it.
fn bearer(token: &[u8]) -> Option<HeaderValue> {
    if token.is_empty() || !token.iter().all(u8::is_ascii_graphic) {
        return None;
    }
    let mut value = Vec::with_capacity(7 + token.len());
    value.extend_from_slice(b"Bearer ");
    value.extend_from_slice(token);
    HeaderValue::from_bytes(&value).ok()
}

/// What a Directus says is wrong with a token.
fn denial(error: &Value) -> Denial {
    match error["errors"][0]["extensions"]["code"].as_str() {
        Some("TOKEN_EXPIRED") => Denial::TokenExpired,
        Some("INVALID_TOKEN") => Denial::InvalidToken,
        Some("INVALID_IP") => Denial::InvalidIp,
        _ => Denial::InvalidCredentials,
    }
}

/// Reads the role (an object, an id, or nothing where the user may not read it) and the roles above it.
fn read_roles(who: &mut Accountability, role: &Value, roles: &Value) {
    let mut add = |role: &Value| {
        let Some(id) = text(&role["id"]).or_else(|| text(role)) else {
            return;
        };
        if !who.roles.contains(&id) {
            who.roles.push(id);
        }
        if let Some(name) = text(&role["name"])
            && !who.role_names.contains(&name)
        {
            who.role_names.push(name);
        }
    };
    add(role);
    roles.as_array().into_iter().flatten().for_each(&mut add);
    let role_of_user = text(&role["id"]).or_else(|| text(role));
    // The one role that a user who cannot read it has must be it.
    let only = || (who.roles.len() == 1).then(|| who.roles[0].clone());
    who.role = role_of_user.or_else(only);
}

fn text(value: &Value) -> Option<Arc<str>> {
    value
        .as_str()
        .filter(|text| !text.is_empty())
        .map(Arc::from)
}
