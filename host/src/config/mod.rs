//! What the operator decides: `config.toml`, over it the environment, over that the command line.
//!
//! `settings` says what can be set, `layers` puts the settings over each other. What a value means is the business of its
//! user.

pub mod document;
mod error;
mod layers;
mod settings;
pub mod values;

pub use self::error::ConfigError;
pub use self::layers::{FILE_NAME, Overrides, read_settings};
pub use self::settings::{
    Auth, Config, Database, Directus, ExtensionRules, Fetch, Limits, Log, Quarantine,
};
