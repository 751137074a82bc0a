//! Which database to open: a SQLite file or a PostgreSQL, as the settings name it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr as _;

use percent_encoding::{AsciiSet, utf8_percent_encode};
use sqlx::any::AnyConnectOptions;

use super::error::StoreError;
use crate::config;

/// The characters of a path that have a meaning in the URL of a file.
const SPECIAL: &AsciiSet = &AsciiSet::EMPTY.add(b'%').add(b'?').add(b'#');

/// The database to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// A SQLite file.
    File(PathBuf),
    /// A PostgreSQL, by a URL that may hold a password.
    Postgres(String),
}

impl DatabaseUrl {
    /// What the settings say; `None`: the host keeps no users.
    ///
    /// # Errors
    /// Where the URL has an unknown scheme.
    pub fn of(settings: &config::Database) -> Result<Option<DatabaseUrl>, StoreError> {
        match settings.url.reveal() {
            None => Ok(Some(DatabaseUrl::File(settings.path.clone()))),
            Some("none") => Ok(None),
            Some(url) => DatabaseUrl::parse(url).map(Some),
        }
    }

    /// Reads `postgres://…` or `sqlite:PATH`.
    ///
    /// # Errors
    /// Where it is neither.
    pub fn parse(url: &str) -> Result<DatabaseUrl, StoreError> {
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Ok(DatabaseUrl::Postgres(url.to_owned()));
        }
        match url.strip_prefix("sqlite:") {
            Some(path) => {
                let path = path.strip_prefix("//").unwrap_or(path);
                // An extension may change the working directory before the next connection.
                let path = std::path::absolute(path).map_err(|_| StoreError::Url)?;
                Ok(DatabaseUrl::File(path))
            }
            None => Err(StoreError::Url),
        }
    }

    /// The options to connect. A file that is missing is not made.
    pub(super) fn options(&self, writable: bool) -> Result<AnyConnectOptions, StoreError> {
        let url = match self {
            DatabaseUrl::Postgres(url) => url.clone(),
            DatabaseUrl::File(path) => {
                let path = path.to_str().ok_or(StoreError::Url)?;
                let mode = if writable { "rw" } else { "ro" };
                let path = utf8_percent_encode(path, SPECIAL);
                format!("sqlite:{path}?mode={mode}")
            }
        };
        AnyConnectOptions::from_str(&url).map_err(|_| StoreError::Url)
    }
}

/// Shows the database without user and password.
impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DatabaseUrl::File(path) => path.display().fmt(f),
            DatabaseUrl::Postgres(url) => {
                let after = url.rsplit_once('@').map_or_else(
                    || url.split_once("://").map_or("", |(_, rest)| rest),
                    |(_, rest)| rest,
                );
                write!(
                    f,
                    "postgres://{}",
                    after.split('?').next().unwrap_or_default()
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_found_whatever_its_name_holds() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a b.db", "100%25.db", "what?.db", "#1.db", "\u{e9}.db"] {
            let path = folder.path().join(name);
            crate::store::Store::open(&DatabaseUrl::File(path.clone())).unwrap();
            assert!(path.is_file(), "{name}");
        }
        let files = std::fs::read_dir(folder.path()).unwrap().flatten();
        let databases = files.filter(|file| file.path().extension().is_some_and(|e| e == "db"));
        assert_eq!(databases.count(), 5);
    }

    #[test]
    fn no_password_is_shown() {
        let url = DatabaseUrl::parse("postgres://ada:hunter2@db.example:5432/host?x=y").unwrap();
        assert_eq!(url.to_string(), "postgres://db.example:5432/host");
    }
}
