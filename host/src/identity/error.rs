//! Why a host that starts cannot know its users.

use std::fmt;

use crate::store::StoreError;

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
