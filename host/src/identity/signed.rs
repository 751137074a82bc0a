//! The source of identity for users that no other source knows, but whose token was signed with SECRET: those of a Directus
//! beside the host. The token's claims are believed until it expires.

use super::answers::Denial;
use super::jwt::Signed;
use super::known::{KEEP, Known};
use super::source::{IdentityQuery, Source, Verdict, VerdictFuture};

/// Believes signed tokens.
pub struct SignedTokens {
    /// Whether there is a store: it knows every user for whom a host has signed a token.
    pub has_store: bool,
}

impl Source for SignedTokens {
    fn ask<'a>(&'a self, query: &'a IdentityQuery) -> VerdictFuture<'a> {
        let verdict = match &query.signed {
            // The store would know this user, if there still were one.
            Signed::Good(claimed) if claimed.is_by_host && self.has_store => {
                Verdict::Denied(Denial::InvalidCredentials)
            }
            Signed::Good(claimed) => Verdict::Known(Known {
                who: claimed.who.clone().into(),
                expires: Some(claimed.expires),
                keep: KEEP,
                ..Known::default()
            }),
            Signed::Bad { denial, .. } => Verdict::Denied(*denial),
            Signed::No => Verdict::Unknown,
        };
        Box::pin(std::future::ready(Ok(verdict)))
    }
}
