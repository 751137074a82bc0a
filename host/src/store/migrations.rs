//! The tables of the store, made and changed in numbered steps. A step is taken whole or not at all, and once, whoever
//! else opens the same database at the same time.

use sqlx::AssertSqlSafe;

use super::db::Db;
use super::error::StoreError;
use super::values::seconds_now;

/// Every step there ever was, in order. One that has been released is never changed: a new one is added.
const STEPS: [&str; 1] = [include_str!("migrations/0001_identity.sql")];

/// Takes the steps that the database has not seen yet.
pub async fn run(db: &Db) -> Result<(), StoreError> {
    let mut change = db.begin().await?;
    if db.is_postgres() {
        // Two hosts that start at once: the second one waits here, and then finds nothing left to do.
        sqlx::query("SELECT 1 FROM (SELECT pg_advisory_xact_lock(7268105731)) AS locked")
            .execute(&mut *change)
            .await?;
    }
    sqlx::query("CREATE TABLE IF NOT EXISTS host_migrations (version BIGINT NOT NULL PRIMARY KEY, applied BIGINT NOT NULL)")
        .execute(&mut *change)
        .await?;
    let (seen,): (i64,) = sqlx::query_as("SELECT COALESCE(MAX(version), 0) FROM host_migrations")
        .fetch_one(&mut *change)
        .await?;
    let seen = usize::try_from(seen).unwrap_or(usize::MAX);
    if seen > STEPS.len() {
        return Err(StoreError::TooNew {
            theirs: seen,
            ours: STEPS.len(),
        });
    }
    for (number, step) in STEPS.iter().enumerate().skip(seen) {
        for statement in statements(step) {
            sqlx::query(AssertSqlSafe(statement))
                .execute(&mut *change)
                .await?;
        }
        sqlx::query("INSERT INTO host_migrations (version, applied) VALUES ($1, $2)")
            .bind(number as i64 + 1)
            .bind(seconds_now())
            .execute(&mut *change)
            .await?;
    }
    change.commit().await
}

/// The statements of a step, without its comments. No step has a semicolon inside a statement.
fn statements(step: &str) -> Vec<String> {
    let code: Vec<&str> = step
        .lines()
        .filter(|line| !line.trim_start().starts_with("--"))
        .collect();
    code.join("\n")
        .split(';')
        .map(str::trim)
        .filter(|statement| !statement.is_empty())
        .map(str::to_owned)
        .collect()
}
