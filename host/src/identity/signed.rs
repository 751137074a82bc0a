//! The source of identity for users that nobody here knows, but whose token was signed with SECRET: those of a Directus
//! beside the host. What the token says is believed until it expires.

use super::Refusal;
use super::jwt::Signed;
use super::source::{Answering, Asked, KEEP, Known, Source, Verdict};

/// Believes what is signed.
pub struct BySecret {
    /// Whether there is a store, which knows every user for whom a host has signed.
    pub has_store: bool,
}

impl Source for BySecret {
    fn ask<'a>(&'a self, asked: &'a Asked) -> Answering<'a> {
        let verdict = match &asked.signed {
            // The store would know this user, if there still were one.
            Signed::Good(claimed) if claimed.is_by_host && self.has_store => {
                Verdict::Refused(Refusal::InvalidCredentials)
            }
            Signed::Good(claimed) => Verdict::Known(Known {
                who: claimed.who.clone().into(),
                expires: Some(claimed.expires),
                keep: KEEP,
                ..Known::default()
            }),
            Signed::Bad { refusal, .. } => Verdict::Refused(*refusal),
            Signed::No => Verdict::Unknown,
        };
        Box::pin(std::future::ready(Ok(verdict)))
    }
}
