//! Why the store did not do what it was asked for, as sentences for operators.

use std::fmt;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a caller waits for one step of what it asked for; a sign-in takes two.
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
    /// The file cannot be made, read or written: the verb comes first.
    File(&'static str, PathBuf, std::io::Error),
    /// A copy of the store cannot be written there.
    Backup(PathBuf, std::io::Error),
    /// There is no store in the file's place, and none is to be made.
    NoneYet(PathBuf),
    /// The file is there, and holds no store.
    NoStore {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        why: String,
    },
    /// SQLite's log is there without its database.
    LogAlone(PathBuf),
    /// The file was deleted or replaced while it was in use.
    Moved(PathBuf),
    /// What is shown once cannot be shown.
    NotShown(std::io::Error),
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
    /// There is no connection to the database, for this reason.
    NotConnected(String),
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
            StoreError::Open { database, .. } => write!(f, "cannot open the store {database}"),
            StoreError::Url => f.write_str(
                "the database URL is not understood, expected \"postgres://…\", \"sqlite:PATH\" or \"none\"",
            ),
            StoreError::File(verb, path, cause) if cause.kind() == ErrorKind::PermissionDenied => {
                write!(f, "cannot {verb} {}", path.display())?;
                match owner_of(path) {
                    Some((place, owner)) => write!(
                        f,
                        "; {} belongs to the user {owner}: run this as that user, or give it to the one that runs it",
                        place.display()
                    ),
                    None => write!(f, "; let the host's user {verb} it, or set path under [database]"),
                }
            }
            StoreError::File(verb, path, _) => {
                write!(f, "cannot {verb} {}; or set path under [database]", path.display())
            }
            StoreError::Backup(path, cause) if cause.kind() == ErrorKind::NotFound => {
                write!(f, "cannot write {}; make its folder first", path.display())
            }
            StoreError::Backup(path, _) => write!(f, "cannot write {}", path.display()),
            StoreError::NoneYet(path) => write!(
                f,
                "there is no store of users in {}: the host has not been started yet, or --config names the settings of another",
                path.display()
            ),
            StoreError::NoStore { path, why } => write!(
                f,
                "{} is no store of users: {why}. Put a backup in its place; or move it away, and the host begins anew, with a new administrator",
                path.display()
            ),
            StoreError::LogAlone(log) => write!(
                f,
                "{} is there, but not the database that it belongs to. Put the database back; or move the log away, too, and the host begins anew, with a new administrator",
                log.display()
            ),
            StoreError::Moved(path) => write!(
                f,
                "{} was deleted or replaced while the host runs. Move it back; or start the host again, to use what is there now",
                path.display()
            ),
            StoreError::NotShown(_) => f.write_str(
                "the password and token of the first administrator cannot be shown on stdout, so there is no administrator yet; set ADMIN_PASSWORD and ADMIN_TOKEN, or give the host a stdout",
            ),
            StoreError::Thread(_) => f.write_str("cannot start the store's thread"),
            StoreError::TooNew { theirs, ours } => write!(
                f,
                "its tables are at version {theirs}, this host knows up to {ours}; run the newer extension-host"
            ),
            StoreError::Query(_) => f.write_str("the database did not answer as expected"),
            StoreError::NotConnected(cause) => {
                write!(f, "there is no connection to the database: {cause}")
            }
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

impl StoreError {
    /// Whether the database failed, and not what it was asked for. One that is being closed has not.
    pub fn is_fault(&self) -> bool {
        match self {
            StoreError::Query(sqlx::Error::PoolClosed) => false,
            StoreError::Query(_)
            | StoreError::NotConnected(_)
            | StoreError::TimedOut
            | StoreError::Moved(_) => true,
            _ => false,
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StoreError::Open { cause, .. } => Some(cause.as_ref()),
            StoreError::File(_, _, cause)
            | StoreError::Backup(_, cause)
            | StoreError::Thread(cause)
            | StoreError::NotShown(cause) => Some(cause),
            // Its own sentence repeats its cause.
            StoreError::Query(cause) => cause.source().or(Some(cause)),
            _ => None,
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(cause: sqlx::Error) -> StoreError {
        StoreError::Query(cause)
    }
}

/// Who has the file, or the folder above it that this user may look at; by the name in /etc/passwd, where it has one.
fn owner_of(path: &Path) -> Option<(&Path, String)> {
    let (place, found) = path
        .ancestors()
        .find_map(|place| Some((place, place.metadata().ok()?)))?;
    if found.uid() == rustix::process::geteuid().as_raw() {
        return None;
    }
    let id = found.uid().to_string();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let fields = users
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>());
    let name = fields
        .filter(|fields| fields.get(2) == Some(&id.as_str()))
        .find_map(|fields| fields.first().map(|name| (*name).to_owned()));
    Some((place, name.unwrap_or(id)))
}

/// Turns a violated unique constraint into a sentence.
pub(super) fn taken(cause: sqlx::Error, what: &'static str, name: &str) -> StoreError {
    match cause.as_database_error() {
        Some(error) if error.is_unique_violation() => StoreError::Taken(what, name.to_owned()),
        _ => StoreError::Query(cause),
    }
}
