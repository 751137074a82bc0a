//! The connections to the database, and how a change is made.

use std::time::Duration;

use sqlx::any::AnyPoolOptions;
use sqlx::{Any, AnyPool, Transaction};

use super::database_url::DatabaseUrl;
use super::error::StoreError;

/// How long a connection may take to be there: after that the store counts as out of reach.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long SQLite waits for another process's change to end.
const BUSY_TIMEOUT_MS: u32 = 3_000;
/// Each connection to SQLite is a thread with a cache: two are enough for one reader and one writer.
const SQLITE_CONNECTIONS: u32 = 2;
/// Look-ups are short and cached; this many at once keep up with any number of workers.
const POSTGRES_CONNECTIONS: u32 = 8;
/// SQLite's cache for each connection, in KiB: the store is small, and the host's memory is counted.
const SQLITE_CACHE_KIB: u32 = 256;

/// The connections, and through them the queries.
#[derive(Clone)]
pub struct Db {
    pub(super) pool: AnyPool,
    is_postgres: bool,
}

impl Db {
    /// Connects; with `writable` false nothing can be changed.
    pub(super) async fn connect(url: &DatabaseUrl, writable: bool) -> Result<Db, StoreError> {
        sqlx::any::install_default_drivers();
        let is_postgres = matches!(url, DatabaseUrl::Postgres(_));
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
                        // All at once: each statement would be a round trip to the connection's thread.
                        let pragmas = sqlx::AssertSqlSafe(sqlite_pragmas(writable));
                        sqlx::raw_sql(pragmas)
                            .execute(&mut *connection)
                            .await
                            .map(drop)
                    })
                })
        };
        let pool = options.connect_with(url.options(writable)?).await?;
        Ok(Db { pool, is_postgres })
    }

    /// Begins a change. SQLite takes the write lock at once: a later step of the change then cannot fail for the lack of it.
    pub(super) async fn begin(&self) -> Result<Transaction<'static, Any>, StoreError> {
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
pub(super) async fn count_change(change: &mut Transaction<'static, Any>) -> Result<(), StoreError> {
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
