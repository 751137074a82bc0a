//! Who may call an extension.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};

/// Who may call an extension, whatever its code decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Require {
    /// Everybody: the extension decides.
    #[default]
    Nothing,
    /// Every signed-in user.
    User,
    /// Administrators.
    Admin,
    /// Users with one of these roles, and administrators.
    Roles(Vec<String>),
}

impl<'de> Deserialize<'de> for Require {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Require, D::Error> {
        struct Rule;
        impl<'de> Visitor<'de> for Rule {
            type Value = Require;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"user\", \"admin\" or a list of roles")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Require, E> {
                match text {
                    "user" => Ok(Require::User),
                    "admin" => Ok(Require::Admin),
                    _ => Err(E::custom(format!(
                        "{text:?} is neither \"user\" nor \"admin\"; a role stands in a list: [{text:?}]"
                    ))),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Require, A::Error> {
                let mut roles = Vec::new();
                while let Some(role) = seq.next_element()? {
                    roles.push(role);
                }
                // An empty list could be read as "everybody" or as "nobody".
                if roles.is_empty() {
                    return Err(de::Error::custom(
                        "the list of roles is empty; name one, or write \"admin\"",
                    ));
                }
                Ok(Require::Roles(roles))
            }
        }
        deserializer.deserialize_any(Rule)
    }
}
