//! The host's own users, roles, tokens and sessions, kept in SQLite or PostgreSQL.
//!
//! [`Db`] holds the connections; each file of a subject adds its queries to it, written once for both databases. [`Store`] runs
//! them on a thread of its own. Passwords are kept as argon2id, tokens as SHA-256: neither can be read back.

mod database_url;
mod db;
mod error;
mod migrations;
pub mod password;
pub mod roles;
pub mod sessions;
pub mod start;
mod thread;
pub mod tokens;
pub mod users;
mod values;

pub use self::database_url::DatabaseUrl;
pub use self::db::Db;
pub use self::error::StoreError;
pub use self::thread::Store;
pub use self::values::{digest_of, hex, random_text, seconds, seconds_now};
