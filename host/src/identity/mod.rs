//! Who asks: from the credentials of a request to [`Accountability`]. The only room that knows where identity comes from.
//!
//! A request is read once ([`credential`]). Its token is looked up in the [`cache`] or shown to one [`source`] after the other
//! ([`authority`]): ADMIN_TOKEN ([`admin_token`]), the host's own users ([`local_users`]), a Directus's database
//! ([`directus_database`]), a Directus over HTTP ([`directus`]), what is [`signed`]. Then the credential is taken out of the
//! request ([`redact`]) before an extension sees it. Each answer is the one that a Directus gives ([`answers`]), so that
//! clients and their tools need not change.

pub mod authority;

pub mod admin_token;
pub mod directus;
pub mod directus_database;
pub mod first_start;
pub mod local_users;
pub mod signed;

pub mod attempts;
pub mod cache;
pub mod credential;
pub mod forwarded;
pub mod lookups;
pub mod redact;

pub mod jwt;
pub mod source;

pub mod answers;
mod digest;
mod error;
pub mod known;
pub mod who;

#[cfg(test)]
mod tests;

pub use self::answers::{AuthError, Denial};
pub use self::authority::{Authority, Identified};
pub use self::error::IdentityError;
pub use self::lookups::IdentityLookup;
pub use self::redact::{redact_headers, redact_url};
pub use self::who::{ANONYMOUS, Accountability};
