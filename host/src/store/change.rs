//! A change of the database: whole or not at all, on a connection that is used again only where its state is known.

use std::ops::{Deref, DerefMut};

use sqlx::pool::PoolConnection;
use sqlx::{Any, AnyConnection, AnyPool};

use super::error::StoreError;

/// A change that has begun. Dropped before it is committed or undone, it never happened, and its connection is thrown away:
/// whether a database that failed in the middle still has the transaction cannot be told (SQLite itself takes one back
/// whose disk is full), and a connection that believes in one that is gone refuses every later change.
pub struct Change {
    connection: PoolConnection<Any>,
    is_over: bool,
}

impl Change {
    /// Begins a change. SQLite takes the write lock at once: a later step of the change then cannot fail for the lack of it.
    pub(super) async fn begin(pool: &AnyPool, is_postgres: bool) -> Result<Change, StoreError> {
        let begin = if is_postgres {
            "BEGIN"
        } else {
            "BEGIN IMMEDIATE"
        };
        let mut change = Change {
            connection: pool.acquire().await?,
            is_over: false,
        };
        let begun = sqlx::raw_sql(begin).execute(&mut *change).await;
        if let Err(cause) = begun {
            // Another process has the lock: nothing has begun, and the connection is as good as it was.
            change.is_over = is_busy(&cause);
            return Err(cause.into());
        }
        Ok(change)
    }

    /// Makes the change true.
    ///
    /// # Errors
    /// Where the database does not confirm it.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        sqlx::raw_sql("COMMIT").execute(&mut *self).await?;
        self.is_over = true;
        Ok(())
    }

    /// Takes the change back, where that is an ordinary end.
    ///
    /// # Errors
    /// Where the database does not confirm it; it is taken back all the same.
    pub async fn undo(mut self) -> Result<(), StoreError> {
        sqlx::raw_sql("ROLLBACK").execute(&mut *self).await?;
        self.is_over = true;
        Ok(())
    }

    /// Counts a change that takes something away, as part of it.
    pub(super) async fn count(&mut self) -> Result<(), StoreError> {
        sqlx::query("UPDATE host_changes SET epoch = epoch + 1 WHERE id = 1")
            .execute(&mut **self)
            .await?;
        Ok(())
    }
}

impl Deref for Change {
    type Target = AnyConnection;

    fn deref(&self) -> &AnyConnection {
        &self.connection
    }
}

impl DerefMut for Change {
    fn deref_mut(&mut self) -> &mut AnyConnection {
        &mut self.connection
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        if !self.is_over {
            self.connection.close_on_drop();
        }
    }
}

/// Whether SQLite waited in vain for another connection's lock: the first byte of its code is SQLITE_BUSY.
fn is_busy(cause: &sqlx::Error) -> bool {
    const SQLITE_BUSY: u32 = 5;
    let code = cause.as_database_error().and_then(|error| error.code());
    code.and_then(|code| code.parse::<u32>().ok())
        .is_some_and(|code| code & 0xff == SQLITE_BUSY)
}

#[cfg(test)]
mod tests {
    use crate::store::{DatabaseUrl, Store};

    #[test]
    fn a_change_that_was_given_up_leaves_no_connection_in_the_middle() {
        let folder = tempfile::tempdir().unwrap();
        let url = DatabaseUrl::File(folder.path().join("store.db"));
        let store = Store::open(&url).unwrap();
        let epoch = store.block_on(|db| async move {
            for round in 0..3 {
                let mut change = db.begin().await?;
                change.count().await?;
                match round {
                    0 => change.undo().await?,
                    1 => drop(change),
                    _ => change.commit().await?,
                }
            }
            db.epoch().await
        });
        assert_eq!(epoch.unwrap(), 1);
    }
}
