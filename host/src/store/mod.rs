//! The host's own users, roles, tokens and sessions, kept in SQLite or PostgreSQL.
//!
//! [`Db`] holds the queries, written once for both. [`Store`] runs them on a thread of their own, because connections
//! belong to the event loop that opened them and workers come and go; its answers can be awaited from every worker.
//! Passwords are kept as argon2id, tokens as SHA-256: neither can be read back.

mod migrations;
pub mod password;
pub mod roles;
pub mod sessions;
pub mod start;
pub mod tokens;
pub mod users;

use std::fmt;
use std::fs::File;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;
use ring::rand::{SecureRandom as _, SystemRandom};
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::{Any, AnyPool, Transaction};

use crate::config;

/// How long a connection may take to be there: after that the store counts as out of reach.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long one step may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long SQLite waits for another process's change to end.
const BUSY_TIMEOUT_MS: u32 = 3_000;
/// Each connection to SQLite is a thread with a cache: two are enough for one reader and one writer.
const SQLITE_CONNECTIONS: u32 = 2;
/// Look-ups are short and cached; this many at once keep up with any number of workers.
const POSTGRES_CONNECTIONS: u32 = 8;
/// SQLite's cache for each connection, in KiB: the store is small, and the host's memory is counted.
const SQLITE_CACHE_KIB: u32 = 256;

/// Where the store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A SQLite file.
    File(PathBuf),
    /// A PostgreSQL, by a URL that may hold a password.
    Postgres(String),
}

impl Place {
    /// What the settings say; `None`: the host shall have no store.
    ///
    /// # Errors
    /// Where the URL is none of those that are understood.
    pub fn of(settings: &config::Database) -> Result<Option<Place>, StoreError> {
        match settings.url.reveal() {
            None => Ok(Some(Place::File(settings.path.clone()))),
            Some("none") => Ok(None),
            Some(url) => Place::parse(url).map(Some),
        }
    }

    /// Reads `postgres://…` or `sqlite:PATH`.
    ///
    /// # Errors
    /// Where it is neither.
    pub fn parse(url: &str) -> Result<Place, StoreError> {
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Ok(Place::Postgres(url.to_owned()));
        }
        match url.strip_prefix("sqlite:") {
            Some(path) => Ok(Place::File(path.strip_prefix("//").unwrap_or(path).into())),
            None => Err(StoreError::Url),
        }
    }

    /// Options to connect; `writable` makes a file that is missing.
    fn options(&self, writable: bool) -> Result<AnyConnectOptions, StoreError> {
        let url = match self {
            Place::Postgres(url) => url.clone(),
            Place::File(path) => {
                let path = path.to_str().ok_or(StoreError::Url)?;
                let mode = if writable { "rwc" } else { "ro" };
                // The three characters that mean something in such a URL.
                let path = path
                    .replace('%', "%25")
                    .replace('?', "%3F")
                    .replace('#', "%23");
                format!("sqlite:{path}?mode={mode}")
            }
        };
        AnyConnectOptions::from_str(&url).map_err(|_| StoreError::Url)
    }
}

/// Says where, without a password.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File(path) => path.display().fmt(f),
            Place::Postgres(url) => {
                let behind = url.rsplit_once('@').map_or_else(
                    || url.split_once("://").map_or("", |(_, rest)| rest),
                    |(_, rest)| rest,
                );
                write!(
                    f,
                    "postgres://{}",
                    behind.split('?').next().unwrap_or_default()
                )
            }
        }
    }
}

/// The queries, and the connections to run them on.
#[derive(Clone)]
pub struct Db {
    pool: AnyPool,
    is_postgres: bool,
}

impl Db {
    /// Connects; with `writable` false nothing can be changed.
    async fn connect(place: &Place, writable: bool) -> Result<Db, StoreError> {
        sqlx::any::install_default_drivers();
        let is_postgres = matches!(place, Place::Postgres(_));
        let options = AnyPoolOptions::new().acquire_timeout(CONNECT_TIMEOUT);
        let options = if is_postgres {
            options
                .max_connections(POSTGRES_CONNECTIONS)
                .after_connect(move |connection, _| {
                    Box::pin(async move {
                        if !writable {
                            sqlx::query("SET default_transaction_read_only = on")
                                .execute(&mut *connection)
                                .await?;
                        }
                        let limit = "SET statement_timeout = 5000";
                        sqlx::query(limit).execute(&mut *connection).await.map(drop)
                    })
                })
        } else {
            options
                .max_connections(SQLITE_CONNECTIONS)
                .idle_timeout(None)
                .max_lifetime(None)
                // No network lies between: what a test would find, the query finds.
                .test_before_acquire(false)
                .after_connect(move |connection, _| {
                    Box::pin(async move {
                        // All at once: each statement on its own would be a way to the connection's thread and back.
                        let pragmas = sqlx::AssertSqlSafe(sqlite_pragmas(writable));
                        sqlx::raw_sql(pragmas)
                            .execute(&mut *connection)
                            .await
                            .map(drop)
                    })
                })
        };
        let pool = options.connect_with(place.options(writable)?).await?;
        Ok(Db { pool, is_postgres })
    }

    /// Begins a change. SQLite takes the write lock at once: a later step of the change then cannot fail for the lack of it.
    async fn begin(&self) -> Result<Transaction<'static, Any>, StoreError> {
        let begin = if self.is_postgres {
            "BEGIN"
        } else {
            "BEGIN IMMEDIATE"
        };
        Ok(self.pool.begin_with(begin).await?)
    }

    /// The count of changes that take something away.
    pub async fn epoch(&self) -> Result<i64, StoreError> {
        let (epoch,): (i64,) = sqlx::query_as("SELECT epoch FROM host_changes WHERE id = 1")
            .fetch_one(&self.pool)
            .await?;
        Ok(epoch)
    }

    /// The connections themselves, for a source that reads another program's tables.
    pub fn pool(&self) -> &AnyPool {
        &self.pool
    }

    /// Whether this is PostgreSQL; else it is SQLite.
    pub fn is_postgres(&self) -> bool {
        self.is_postgres
    }
}

/// Counts a change that takes something away, as part of it.
async fn count_change(change: &mut Transaction<'static, Any>) -> Result<(), StoreError> {
    sqlx::query("UPDATE host_changes SET epoch = epoch + 1 WHERE id = 1")
        .execute(&mut **change)
        .await?;
    Ok(())
}

fn sqlite_pragmas(writable: bool) -> String {
    let mut pragmas = format!(
        "PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}; PRAGMA cache_size = -{SQLITE_CACHE_KIB}; PRAGMA mmap_size = 0;"
    );
    if writable {
        // A change that was answered must survive the machine's fall, too: hence FULL.
        pragmas.push_str(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;",
        );
    }
    pragmas
}

/// The store, as workers and commands use it.
#[derive(Clone)]
pub struct Store {
    db: Db,
    runtime: tokio::runtime::Handle,
    /// SQLite's log of changes: a look at it tells whether anybody, in whatever process, has changed something.
    wal: Option<Arc<File>>,
    /// Ends the thread when the last of these goes.
    _alive: Arc<tokio::sync::oneshot::Sender<()>>,
}

impl Store {
    /// Opens the store, makes or changes its tables where need be, and starts its thread.
    ///
    /// # Errors
    /// Where it cannot be opened, or was made by a newer host.
    pub fn open(place: &Place) -> Result<Store, StoreError> {
        if let Place::File(path) = place {
            make_file(path).map_err(|cause| StoreError::File(path.clone(), cause))?;
        }
        let mut store = Self::start(place, true)?;
        let prepared = store.block_on(|db| async move {
            migrations::run(&db).await?;
            db.epoch().await
        });
        prepared.map_err(|cause| opening(place, cause))?;
        if let Place::File(path) = place {
            let mut wal = path.clone().into_os_string();
            wal.push("-wal");
            store.wal = File::open(wal).ok().map(Arc::new);
        }
        Ok(store)
    }

    /// Opens another program's database, to read only.
    ///
    /// # Errors
    /// Where it cannot be opened.
    pub fn open_to_read(place: &Place) -> Result<Store, StoreError> {
        Self::start(place, false)
    }

    fn start(place: &Place, writable: bool) -> Result<Store, StoreError> {
        let (alive, ended) = tokio::sync::oneshot::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let at = place.clone();
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(cause) => {
                    let _ = tell.send(Err(StoreError::Thread(cause)));
                    return;
                }
            };
            runtime.block_on(async move {
                let connected = Db::connect(&at, writable).await;
                let handle = tokio::runtime::Handle::current();
                // Nobody listens any more only where the opener has panicked.
                let _ = tell.send(connected.map(|db| (db, handle)));
                let _ = ended.await;
            });
        };
        std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(run)
            .map_err(StoreError::Thread)?;
        let (db, runtime) = told
            .recv()
            .unwrap_or(Err(StoreError::Gone))
            .map_err(|cause| opening(place, cause))?;
        Ok(Store {
            db,
            runtime,
            wal: None,
            _alive: Arc::new(alive),
        })
    }

    /// Runs queries on the store's thread, within a time; the answer can be awaited anywhere.
    pub async fn run<T, F>(&self, queries: impl FnOnce(Db) -> F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        self.spawn(queries).await.unwrap_or(Err(StoreError::Gone))
    }

    /// The same, for a thread that has nothing else to do.
    ///
    /// # Errors
    /// As the queries.
    pub fn block_on<T, F>(&self, queries: impl FnOnce(Db) -> F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let (tell, told) = std::sync::mpsc::channel();
        let queries = queries(self.db.clone());
        self.runtime.spawn(async move {
            let _ = tell.send(timed(queries).await);
        });
        told.recv().unwrap_or(Err(StoreError::Gone))
    }

    /// Starts queries that nobody waits for, or that are awaited later.
    pub fn spawn<T, F>(
        &self,
        queries: impl FnOnce(Db) -> F,
    ) -> tokio::task::JoinHandle<Result<T, StoreError>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        self.runtime.spawn(timed(queries(self.db.clone())))
    }

    /// Starts what goes on for as long as the store's thread.
    pub fn keep_running(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(work);
    }

    /// The queries, for work on the store's own thread.
    pub fn db(&self) -> &Db {
        &self.db
    }

    /// A mark that differs after a change by anybody; 0 where nothing of the kind is known. Costs one system call.
    pub fn mark(&self) -> u64 {
        use std::os::unix::fs::MetadataExt as _;
        let Some(Ok(log)) = self.wal.as_ref().map(|wal| wal.metadata()) else {
            return 0;
        };
        (log.mtime() as u64)
            .wrapping_mul(1_000_000_000)
            .wrapping_add(log.mtime_nsec() as u64)
            .wrapping_add(log.len())
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store")
    }
}

async fn timed<T>(queries: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    tokio::time::timeout(STEP_TIMEOUT, queries)
        .await
        .unwrap_or(Err(StoreError::Late))
}

fn opening(place: &Place, cause: StoreError) -> StoreError {
    StoreError::Open {
        place: place.to_string(),
        cause: Box::new(cause),
    }
}

/// Makes the file, for its owner alone: it holds what tokens are signed with. SQLite gives its other files the same rights.
fn make_file(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    let mut options = std::fs::OpenOptions::new();
    options.create(true).append(true).mode(0o600);
    options.open(path).map(drop)
}

/// Seconds since 1970.
pub fn seconds_now() -> i64 {
    seconds(SystemTime::now())
}

/// A time as it is kept.
pub fn seconds(at: SystemTime) -> i64 {
    at.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() as i64)
}

/// What is kept of a token.
pub fn digest_of(token: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, token).as_ref())
}

/// The digits of a digest.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// 32 random bytes as text: a token, a password, a secret.
///
/// # Errors
/// Where the system gives none.
pub fn random_text() -> Result<String, StoreError> {
    Ok(URL_SAFE_NO_PAD.encode(random::<32>()?))
}

fn random<const LENGTH: usize>() -> Result<[u8; LENGTH], StoreError> {
    let mut bytes = [0; LENGTH];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| StoreError::NoRandomness)?;
    Ok(bytes)
}

/// A new id, as Directus makes them.
fn new_id() -> Result<String, StoreError> {
    Ok(uuid::Builder::from_random_bytes(random()?)
        .into_uuid()
        .to_string())
}

/// Why the store did not do what it was asked for.
#[derive(Debug)]
pub enum StoreError {
    /// It cannot be opened.
    Open {
        /// Where it is.
        place: String,
        /// What went wrong.
        cause: Box<StoreError>,
    },
    /// The URL is not understood. It may hold a password, and is not shown.
    Url,
    /// The file cannot be made.
    File(PathBuf, std::io::Error),
    /// Its thread cannot be started.
    Thread(std::io::Error),
    /// Its tables are of a later version of the host.
    TooNew {
        /// The last step that they have seen.
        theirs: usize,
        /// The last step that this host knows.
        ours: usize,
    },
    /// The database said no, or nothing.
    Query(sqlx::Error),
    /// It took too long.
    Late,
    /// Its thread has ended.
    Gone,
    /// The system gives no random numbers.
    NoRandomness,
    /// A password cannot be hashed, or a hash is none.
    Password,
    /// There is one already.
    Taken(&'static str, String),
    /// There is none.
    Missing(&'static str, String),
    /// What was given cannot be one.
    Invalid(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Open { place, .. } => write!(f, "cannot open the store {place}"),
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
            StoreError::Late => write!(
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

/// Turns the refusal of a second one of its kind into a sentence.
fn taken(cause: sqlx::Error, what: &'static str, name: &str) -> StoreError {
    match cause.as_database_error() {
        Some(error) if error.is_unique_violation() => StoreError::Taken(what, name.to_owned()),
        _ => StoreError::Query(cause),
    }
}
