//! The host's own users, roles, tokens and sessions, kept in SQLite or PostgreSQL.
//!
//! [`Db`] holds the connections; each file of a subject adds its queries to it, written once for both databases. [`Store`] runs
//! them on a thread of its own. Passwords are kept as argon2id, tokens as SHA-256: neither can be read back.
//!
//! A database may fail at any time: [`opening`] refuses a file that is no store, [`change`] throws away a connection that was
//! left in the middle, [`probe`] bounds what anybody waits and tries again, and [`condition`] tells the log.

mod backup;
mod change;
mod condition;
mod database_url;
mod db;
mod error;
mod file;
mod migrations;
mod opening;
pub mod password;
mod probe;
pub mod roles;
pub mod sessions;
pub mod start;
mod thread;
pub mod tokens;
pub mod users;
mod values;

pub use self::backup::{Backup, back_up};
pub use self::condition::Use;
pub use self::database_url::DatabaseUrl;
pub use self::db::Db;
pub use self::error::StoreError;
pub use self::probe::Health;
pub use self::thread::Store;
pub use self::values::{digest_of, hex, random_text, seconds, seconds_now};
