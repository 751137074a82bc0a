//! Who asks.

use std::fmt;

use crate::abi::{ext_accountability, ext_slice};
use crate::bridge::Lent;

/// Who asks, as the host has found out. The credential itself is never visible to an extension.
#[derive(Clone, Copy)]
pub struct Accountability<'a>(Lent<'a, ext_accountability>);

impl<'a> Accountability<'a> {
    pub(crate) fn new(raw: Lent<'a, ext_accountability>) -> Self {
        Self(raw)
    }

    /// The user's id; `None` for an anonymous caller.
    pub fn user(self) -> Option<&'a str> {
        self.0.text(|who| &who.user)
    }

    /// The id of the user's role.
    pub fn role(self) -> Option<&'a str> {
        self.0.text(|who| &who.role)
    }

    /// The ids of the user's role and of those above it.
    pub fn roles(self) -> impl Iterator<Item = &'a str> {
        self.0
            .list(|who| (&who.roles, &who.role_count))
            .iter()
            .filter_map(|role| role.text(|slice: &ext_slice| slice))
    }

    /// Whether the user is an administrator.
    pub fn admin(self) -> bool {
        self.0.raw().admin != 0
    }

    /// Whether the user may use the app.
    pub fn app(self) -> bool {
        self.0.raw().app != 0
    }

    /// The client's address. What a proxy forwards counts only where the operator trusts it.
    pub fn ip(self) -> Option<&'a str> {
        self.0.text(|who| &who.ip)
    }

    /// The client's `User-Agent`.
    pub fn user_agent(self) -> Option<&'a str> {
        self.0.text(|who| &who.user_agent)
    }

    /// The client's `Origin`.
    pub fn origin(self) -> Option<&'a str> {
        self.0.text(|who| &who.origin)
    }

    /// The id of the user's session.
    pub fn session(self) -> Option<&'a str> {
        self.0.text(|who| &who.session)
    }
}

impl fmt::Debug for Accountability<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accountability")
            .field("user", &self.user())
            .field("role", &self.role())
            .field("admin", &self.admin())
            .field("app", &self.app())
            .field("ip", &self.ip())
            .finish_non_exhaustive()
    }
}
