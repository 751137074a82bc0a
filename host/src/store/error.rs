//! Why the store did not do what it was asked for, as sentences for operators.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// How long one step may take.
pub(super) const STEP_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the store did not do what it was asked for.
#[derive(Debug)]
pub enum StoreError {
    /// It cannot be opened.
    Open {
        /// Where it is.
        database: String,
        /// What went wrong.
        cause: Box<StoreError>,
    },
    /// The URL is not understood. It may hold a password, and is not shown.
    Url,
    /// The file cannot be made.
    File(PathBuf, std::io::Error),
    /// Its thread cannot be started.
    Thread(std::io::Error),
    /// A later version of the host made its tables.
    TooNew {
        /// The last migration that was run on them.
        theirs: usize,
        /// The last migration that this host knows.
        ours: usize,
    },
    /// The database returned an error, or the connection failed.
    Query(sqlx::Error),
    /// It took too long.
    TimedOut,
    /// Its thread has ended.
    Gone,
    /// The system gives no random numbers.
    NoRandomness,
    /// A password cannot be hashed, or what is kept is not a hash.
    Password,
    /// Something of this kind and name exists already.
    Taken(&'static str, String),
    /// Nothing of this kind and name exists.
    Missing(&'static str, String),
    /// A value that was given breaks a rule.
    Invalid(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Open { database, .. } => {
write!(f, "cannot open the store {database}")},
            StoreError::Url => f.write_str(
                "the database URL is not understood, expected \"postgres://…\", \"sqlite:PATH\" or \"none\"",
            ),
            StoreError::File(path, _) => write!(
                f,
                "cannot make {}; make its folder writable, or set path under [database]",
                path.display()
            ),
            StoreError::Thread(_) => f.write_str("cannot start the store's thread"),
            StoreError::TooNew { theirs, ours } => write!(
                f,
                "its tables are at version {theirs}, this host knows up to {ours}; run the newer extension-host"
            ),
            StoreError::Query(_) => f.write_str("the database did not answer as expected"),
            StoreError::TimedOut => write!(
                f,
                "the database did not answer within {} s",
                STEP_TIMEOUT.as_secs()
            ),
            StoreError::Gone => f.write_str("the store has been closed"),
            StoreError::NoRandomness => f.write_str("the system gives no random numbers"),
            StoreError::Password => f.write_str("the password cannot be hashed or its hash read"),
            StoreError::Taken(what, name) => write!(f, "there is a {what} {name:?} already"),
            StoreError::Missing(what, name) => write!(f, "there is no {what} {name:?}"),
            StoreError::Invalid(problem) => f.write_str(problem),
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StoreError::Open { cause, .. } => Some(cause.as_ref()),
            StoreError::File(_, cause) | StoreError::Thread(cause) => Some(cause),
            StoreError::Query(cause) => Some(cause),
            _ => None,
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(cause: sqlx::Error) -> StoreError {
        StoreError::Query(cause)
    }
}

/// Turns a violated unique constraint into a sentence.
pub(super) fn taken(cause: sqlx::Error, what: &'static str, name: &str) -> StoreError {
    match cause.as_database_error() {
        Some(error) if error.is_unique_violation() => StoreError::Taken(what, name.to_owned()),
        _ => StoreError::Query(cause),
    }
}
