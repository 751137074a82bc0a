//! Who asks: the user behind a request, and what that user may do.

use std::sync::Arc;

/// The user behind a request; without one, the caller is anonymous. Shared by all requests with the same token.
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

/// A caller without a credential.
pub static ANONYMOUS: Accountability = Accountability {
    user: None,
    role: None,
    roles: Vec::new(),
    role_names: Vec::new(),
    admin: false,
    app: false,
    session: None,
};
