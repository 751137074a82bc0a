//! How a store is opened. A SQLite file that is missing is a first start; it is made whole before it gets its name, so that a
//! host that is killed meanwhile leaves nothing that looks like a store. A file that is there must hold a store: one that was
//! emptied, cut off or copied without its log must not become a host that knows nobody, with a new administrator.

use std::fs::File;
use std::path::Path;

use sqlx::AnyConnection;
use sqlx::Connection as _;

use super::database_url::DatabaseUrl;
use super::db::Db;
use super::error::StoreError;
use super::file::{self, beside, no_store};
use super::migrations;

/// Up to this size a file is read whole before it is used, to find damage: some 50 ms. Tables of the host are far smaller.
const CHECKED_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Opens the host's own store, and makes or migrates its tables.
pub(super) async fn open(url: &DatabaseUrl) -> Result<Db, StoreError> {
    if let DatabaseUrl::File(path) = url {
        make_where_missing(path).await?;
        // Err: nothing was changed that could be lost.
        let _ = inspect(path).await?.close().await;
    }
    let db = Db::connect(url, true).await?;
    migrations::run(&db).await?;
    db.epoch().await?;
    match url {
        // It stays as long as there is a connection. Changes to one that was deleted would be gone at the next start.
        DatabaseUrl::File(path) => db.watch(&beside(path, "-wal")),
        DatabaseUrl::Postgres(_) => Ok(db),
    }
}

/// Refuses a store that has vanished: for a host that continues one which had it. A first start would make a new administrator.
pub(super) fn check_there(url: &DatabaseUrl) -> Result<(), StoreError> {
    match url {
        DatabaseUrl::File(path) if !path.exists() => Err(no_store(
            path,
            "it has vanished while the host was running; put it back, or restart the host to begin anew",
        )),
        _ => Ok(()),
    }
}

/// Refuses a file that holds no store, without changing it: a log that is not its own must not be written into it. Returns a
/// connection that only reads.
pub(super) async fn inspect(path: &Path) -> Result<AnyConnection, StoreError> {
    file::check_head(path)?;
    sqlx::any::install_default_drivers();
    let options = DatabaseUrl::File(path.to_owned()).options(false)?;
    let looked = async {
        let mut connection = AnyConnection::connect_with(&options).await?;
        look(&mut connection, path).await?;
        Ok::<_, StoreError>(connection)
    };
    looked.await.map_err(|cause| match &cause {
        StoreError::Query(query) if is_damage(query) => {
            no_store(path, &format!("it is damaged ({query})"))
        }
        _ => cause,
    })
}

async fn look(connection: &mut AnyConnection, path: &Path) -> Result<(), StoreError> {
    let query =
        "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = 'host_migrations'";
    let (tables,): (i64,) = sqlx::query_as(query).fetch_one(&mut *connection).await?;
    if tables == 0 {
        let why = "it holds no users and no tables for them; if it was copied from elsewhere, its -wal was left behind";
        return Err(no_store(path, why));
    }
    if path
        .metadata()
        .is_ok_and(|file| file.len() <= CHECKED_BYTES_MAX)
    {
        let (result,): (String,) = sqlx::query_as("PRAGMA quick_check(1)")
            .fetch_one(connection)
            .await?;
        if result != "ok" {
            return Err(no_store(path, &format!("it is damaged ({result})")));
        }
    }
    Ok(())
}

/// SQLITE_CORRUPT, as of a file that was cut off, and SQLITE_NOTADB.
fn is_damage(cause: &sqlx::Error) -> bool {
    const SQLITE_CORRUPT: u32 = 11;
    const SQLITE_NOTADB: u32 = 26;
    let code = cause.as_database_error().and_then(|error| error.code());
    code.and_then(|code| code.parse::<u32>().ok())
        .is_some_and(|code| matches!(code & 0xff, SQLITE_CORRUPT | SQLITE_NOTADB))
}

/// The first start: makes a store without a user, if there is none.
async fn make_where_missing(path: &Path) -> Result<(), StoreError> {
    let failed = |cause| StoreError::File("make", path.to_owned(), cause);
    let looked = path.try_exists();
    if looked.map_err(|cause| StoreError::File("read", path.to_owned(), cause))? {
        return Ok(());
    }
    file::make_folder(path).map_err(failed)?;
    // Others that start at the same time wait here. The lock ends with the process, however that ends. Err: this file system
    // has no locks, and who starts two hosts at once has to know.
    let folder = File::open(file::folder_of(path)).map_err(failed)?;
    let _ = folder.lock();
    if path.try_exists().map_err(failed)? {
        return Ok(());
    }
    let left = beside(path, "-wal");
    if left.metadata().is_ok_and(|log| log.len() > 0) {
        return Err(StoreError::LogAlone(left));
    }
    let unfinished = beside(path, ".new");
    let remove = || {
        let files = ["", "-wal", "-shm", "-journal"].map(|suffix| beside(&unfinished, suffix));
        files.iter().try_for_each(|file| file::remove(file))
    };
    // Left by a first start that was killed.
    remove().map_err(failed)?;
    let made = async {
        file::make_empty(&unfinished).map_err(failed)?;
        let db = Db::connect(&DatabaseUrl::File(unfinished.clone()), true).await?;
        let made = migrations::run(&db).await;
        db.close().await;
        made?;
        file::finish(&unfinished, path).map_err(failed)
    };
    let made = made.await;
    if made.is_err() {
        // Err: the cause is being told, and the next start tries again.
        let _ = remove();
    }
    made
}
