//! The connections to the database.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use log::LevelFilter;
use sqlx::any::AnyPoolOptions;
use sqlx::{AnyConnection, AnyPool, ConnectOptions as _, Connection as _};

use super::change::Change;
use super::condition::Condition;
use super::database_url::DatabaseUrl;
use super::error::StoreError;
use super::file::OpenedFile;
use super::probe::Looks;

/// How long a connection may take to be there: after that the store counts as out of reach.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long SQLite waits for another process's change to end.
const BUSY_TIMEOUT_MS: u32 = 3_000;
/// How long a change of SQLite waits for those before it: longer than the first of them for another process, so that the log
/// is told what they all wait for.
const TURN_TIMEOUT: Duration = Duration::from_secs(4);
/// How long a connection for changes is kept when there are none.
const CHANGES_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Look-ups are short and cached; this many at once keep up with any number of workers.
const POSTGRES_CONNECTIONS: u32 = 8;
/// How long a PostgreSQL's connection may take to say that it is in order.
const POSTGRES_PING_TIMEOUT: Duration = Duration::from_secs(1);
/// SQLite's cache for each connection, in KiB: the store is small, and the host's memory is counted.
const SQLITE_CACHE_KIB: u32 = 256;

/// The connections, and through them the queries.
#[derive(Clone)]
pub struct Db {
    /// For look-ups. SQLite: one connection, a thread with a cache, which nothing ever takes from those who look something up.
    reads: AnyPool,
    /// For changes. SQLite takes one at a time, so that one connection is enough; it may be stuck behind another process's
    /// lock or be thrown away. PostgreSQL: the same as for look-ups.
    changes: AnyPool,
    is_postgres: bool,
    is_writable: bool,
    refused: Arc<Refused>,
    /// The files that were opened, where they are SQLite's.
    files: Arc<[OpenedFile]>,
    pub(super) condition: Arc<Condition>,
    pub(super) looks: Arc<Looks>,
}

impl Db {
    /// Connects; with `writable` false nothing can be changed.
    pub(super) async fn connect(url: &DatabaseUrl, writable: bool) -> Result<Db, StoreError> {
        sqlx::any::install_default_drivers();
        let connect_with = url.options(writable)?.disable_statement_logging();
        let refused = Arc::<Refused>::default();
        let explain = |cause| refused.explain(cause);
        let (reads, changes, files) = match url {
            DatabaseUrl::Postgres(_) => {
                let pool = postgres(writable, &refused).connect_with(connect_with);
                let pool = pool.await.map_err(explain)?;
                (pool.clone(), pool, Vec::new())
            }
            DatabaseUrl::File(path) => {
                // The one for changes first: it brings the file into the mode in which readers and a writer do not wait for each other.
                let changes = sqlite(writable, &refused)
                    .acquire_timeout(TURN_TIMEOUT)
                    .idle_timeout(CHANGES_IDLE_TIMEOUT);
                let changes = match writable {
                    true => {
                        let connected = changes.connect_with(connect_with.clone());
                        connected.await.map_err(explain)?
                    }
                    false => changes.connect_lazy_with(connect_with.clone()),
                };
                let reads = sqlite(writable, &refused).connect_with(connect_with);
                let reads = reads.await.map_err(explain)?;
                (reads, changes, vec![OpenedFile::of(path)?])
            }
        };
        let condition = if writable {
            Condition::of_the_store()
        } else {
            Condition::of_a_directus()
        };
        Ok(Db {
            reads,
            changes,
            is_postgres: matches!(url, DatabaseUrl::Postgres(_)),
            is_writable: writable,
            refused,
            files: files.into(),
            condition: condition.into(),
            looks: Arc::default(),
        })
    }

    /// The connections for look-ups.
    ///
    /// # Errors
    /// Where a file has been deleted or replaced.
    pub fn reads(&self) -> Result<&AnyPool, StoreError> {
        self.check_files()?;
        Ok(&self.reads)
    }

    /// Begins a change.
    pub(super) async fn begin(&self) -> Result<Change, StoreError> {
        self.check_files()?;
        Change::begin(&self.changes, self.is_postgres).await
    }

    /// Why there is no connection, where the database itself has said it.
    pub(super) fn explain(&self, cause: StoreError) -> StoreError {
        match cause {
            StoreError::Query(cause) => self.refused.explain(cause),
            cause => cause,
        }
    }

    /// Takes care that this file, too, is still the one that was opened.
    pub(super) fn watch(mut self, path: &Path) -> Result<Db, StoreError> {
        let files = self.files.iter().cloned().map(Ok);
        let files = files.chain([OpenedFile::of(path)]);
        self.files = files.collect::<Result<_, _>>()?;
        Ok(self)
    }

    fn check_files(&self) -> Result<(), StoreError> {
        self.files.iter().try_for_each(OpenedFile::check)
    }

    /// Moves what SQLite's log holds into the file; false: other processes use it at this moment.
    pub(super) async fn checkpoint(&self) -> Result<bool, StoreError> {
        if self.is_postgres || !self.is_writable {
            return Ok(true);
        }
        let query = "PRAGMA wal_checkpoint(TRUNCATE)";
        let (is_busy, _, _): (i64, i64, i64) =
            sqlx::query_as(query).fetch_one(&self.changes).await?;
        Ok(is_busy == 0)
    }

    /// Closes the connections. SQLite's file is complete without its log then, unless other processes use it.
    pub(super) async fn close(&self) {
        // Err: the log keeps what it holds, for whoever opens the store next.
        let _ = self.checkpoint().await;
        self.changes.close().await;
        self.reads.close().await;
    }

    /// The count of changes that take something away.
    pub async fn epoch(&self) -> Result<i64, StoreError> {
        let (epoch,): (i64,) = sqlx::query_as("SELECT epoch FROM host_changes WHERE id = 1")
            .fetch_one(self.reads()?)
            .await?;
        Ok(epoch)
    }

    /// Whether this is PostgreSQL; else it is SQLite.
    pub fn is_postgres(&self) -> bool {
        self.is_postgres
    }

    /// Whether this is the host's own, and not a database that it only reads.
    pub(super) fn is_writable(&self) -> bool {
        self.is_writable
    }
}

/// Why the newest connection was not taken into use; sqlx only says that none came in time.
#[derive(Default)]
struct Refused(Mutex<Option<String>>);

impl Refused {
    fn note(&self, prepared: &sqlx::Result<()>) {
        let mut cause = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *cause = prepared.as_ref().err().map(sqlx::Error::to_string);
    }

    fn explain(&self, cause: sqlx::Error) -> StoreError {
        let refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (cause, &*refused) {
            (sqlx::Error::PoolTimedOut, Some(cause)) => StoreError::NotConnected(cause.clone()),
            (cause, _) => StoreError::Query(cause),
        }
    }
}

fn postgres(writable: bool, refused: &Arc<Refused>) -> AnyPoolOptions {
    let refused = refused.clone();
    AnyPoolOptions::new()
        .acquire_timeout(CONNECT_TIMEOUT)
        .acquire_slow_level(LevelFilter::Off)
        .max_connections(POSTGRES_CONNECTIONS)
        .after_connect(move |connection, _| {
            let refused = refused.clone();
            Box::pin(async move {
                let mut settings = "SET statement_timeout = 5000;".to_owned();
                if !writable {
                    settings.push_str("SET default_transaction_read_only = on;");
                }
                prepare(connection, settings, &refused).await
            })
        })
        // A server that is gone without a word would keep a connection, and its place among the few, for a quarter of an hour:
        // one on which a query was given up, and one that has been idle since.
        .test_before_acquire(false)
        .before_acquire(|connection, _| Box::pin(answers(connection)))
        .after_release(|connection, _| Box::pin(answers(connection)))
}

/// Whether a connection is still one; soon enough to leave time for another.
async fn answers(connection: &mut AnyConnection) -> sqlx::Result<bool> {
    let ping = tokio::time::timeout(POSTGRES_PING_TIMEOUT, connection.ping());
    Ok(matches!(ping.await, Ok(Ok(()))))
}

fn sqlite(writable: bool, refused: &Arc<Refused>) -> AnyPoolOptions {
    let refused = refused.clone();
    AnyPoolOptions::new()
        .acquire_timeout(CONNECT_TIMEOUT)
        .acquire_slow_level(LevelFilter::Off)
        .max_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        // No network lies between: what a test would find, the query finds.
        .test_before_acquire(false)
        .after_connect(move |connection, _| {
            let refused = refused.clone();
            Box::pin(async move { prepare(connection, sqlite_pragmas(writable), &refused).await })
        })
}

/// Runs statements on a new connection, all at once: each would be a round trip.
async fn prepare(
    connection: &mut AnyConnection,
    statements: String,
    refused: &Refused,
) -> sqlx::Result<()> {
    let run = sqlx::raw_sql(sqlx::AssertSqlSafe(statements)).execute(connection);
    let prepared = run.await.map(drop);
    refused.note(&prepared);
    prepared
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
