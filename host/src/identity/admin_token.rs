//! The source of identity that is ADMIN_TOKEN: the static token of an administrator, kept as a digest.

use std::sync::Arc;

use ring::hmac;

use super::known::{KEEP, Known};
use super::source::{IdentityQuery, Source, Verdict, VerdictFuture};
use super::who::Accountability;

/// The user that ADMIN_TOKEN stands for. Directus makes random ids (version 4), which this cannot be: it never meets a
/// real user's, and reads the same in every log and upstream.
pub const ADMIN_TOKEN_USER: &str = "00000000-0000-0000-0000-000000000001";
/// The role of that user, for extensions that look for one.
pub const ADMIN_TOKEN_ROLE: &str = "00000000-0000-0000-0000-000000000002";

/// The static token of an administrator, kept as a digest.
pub struct AdminToken {
    key: hmac::Key,
    tag: hmac::Tag,
    who: Arc<Accountability>,
}

impl AdminToken {
    /// `administrator`: the user of the store that the token stands for; otherwise it stands for [`ADMIN_TOKEN_USER`].
    pub fn new(token: &str, administrator: Option<&Known>) -> AdminToken {
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
    fn ask<'a>(&'a self, query: &'a IdentityQuery) -> VerdictFuture<'a> {
        let verdict = if self.is(&query.token) {
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
