//! Sessions: a sign-in and the refresh tokens that follow from it, of which only the newest counts. A token that is used
//! again is in the wrong hands, and ends the whole session.

use sqlx::Row as _;

use super::db::Db;
use super::error::StoreError;
use super::users::User;
use super::values::{new_id, seconds_now};

/// How long a session's cookie is still understood after it was exchanged: for requests that were in flight, in seconds.
const GRACE: i64 = 10;

/// What became of a refresh token.
#[derive(Debug)]
pub enum Refreshed {
    /// It was exchanged for the new one.
    Renewed(User),
    /// It had been exchanged before: its session has been ended.
    Reused,
    /// There is no such token, or its session has ended.
    Unknown,
}

impl Db {
    /// Begins a session with a refresh token, of which the digest is given, and clears away what has expired.
    pub async fn begin_session(
        &self,
        user: &str,
        digest: String,
        expires: i64,
    ) -> Result<(), StoreError> {
        let (session, now) = (new_id()?, seconds_now());
        let mut change = self.begin().await?;
        sqlx::query("DELETE FROM host_sessions WHERE expires < $1")
            .bind(now)
            .execute(&mut *change)
            .await?;
        sqlx::query(
            "INSERT INTO host_sessions (id, user_id, created, expires) VALUES ($1, $2, $3, $4)",
        )
        .bind(session.clone())
        .bind(user.to_owned())
        .bind(now)
        .bind(expires)
        .execute(&mut *change)
        .await?;
        keep(digest, session, now).execute(&mut *change).await?;
        change.commit().await
    }

    /// Exchanges a refresh token for a new one; both are given by their digests.
    pub async fn refresh_session(
        &self,
        old: String,
        new: String,
        expires: i64,
    ) -> Result<Refreshed, StoreError> {
        let now = seconds_now();
        let mut change = self.begin().await?;
        // First the step that only one of several can win; PostgreSQL lets the others wait here for what becomes of it.
        let won = sqlx::query(
            "UPDATE host_refresh_tokens SET used = $1 WHERE digest = $2 AND used IS NULL",
        )
        .bind(now)
        .bind(old.clone())
        .execute(&mut *change)
        .await?
        .rows_affected()
            == 1;
        let row = sqlx::query(
            "SELECT s.id, s.user_id, s.expires FROM host_refresh_tokens t \
             JOIN host_sessions s ON s.id = t.session_id WHERE t.digest = $1",
        )
        .bind(old)
        .fetch_optional(&mut *change)
        .await?;
        let Some(row) = row else {
            change.undo().await?;
            return Ok(Refreshed::Unknown);
        };
        let (session, user): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let is_over = row.try_get::<i64, _>(2)? <= now;
        if !won || is_over {
            sqlx::query("DELETE FROM host_sessions WHERE id = $1")
                .bind(session)
                .execute(&mut *change)
                .await?;
            change.count().await?;
            change.commit().await?;
            return Ok(if is_over {
                Refreshed::Unknown
            } else {
                Refreshed::Reused
            });
        }
        keep(new, session.clone(), now)
            .execute(&mut *change)
            .await?;
        sqlx::query("UPDATE host_sessions SET expires = $1 WHERE id = $2")
            .bind(expires)
            .bind(session)
            .execute(&mut *change)
            .await?;
        let row = sqlx::query(super::users::users!(
            "",
            "host_users u LEFT JOIN host_roles r ON r.id = u.role WHERE u.id = $1"
        ))
        .bind(user)
        .fetch_optional(&mut *change)
        .await?;
        match row.as_ref().map(User::of).transpose()? {
            Some(user) if user.is_active() => {
                change.commit().await?;
                Ok(Refreshed::Renewed(user))
            }
            _ => {
                change.undo().await?;
                Ok(Refreshed::Unknown)
            }
        }
    }

    /// Ends the session of a refresh token, whichever of the session's it is; returns whether there was one.
    pub async fn end_session(&self, digest: String) -> Result<bool, StoreError> {
        let mut change = self.begin().await?;
        let done = sqlx::query(
            "DELETE FROM host_sessions WHERE id = \
             (SELECT session_id FROM host_refresh_tokens WHERE digest = $1)",
        )
        .bind(digest)
        .execute(&mut *change)
        .await?;
        change.count().await?;
        change.commit().await?;
        Ok(done.rows_affected() > 0)
    }

    /// Whether a session's cookie, given by the digest of what it names, is still that of the user. One that was exchanged
    /// a while ago is in wrong hands, and ends the session.
    pub async fn has_session(&self, digest: String, user: &str) -> Result<bool, StoreError> {
        let now = seconds_now();
        let row = sqlx::query(
            "SELECT t.used FROM host_refresh_tokens t JOIN host_sessions s ON s.id = t.session_id \
             WHERE t.digest = $1 AND s.user_id = $2 AND s.expires > $3",
        )
        .bind(digest.clone())
        .bind(user.to_owned())
        .bind(now)
        .fetch_optional(self.reads()?)
        .await?;
        let Some(row) = row else { return Ok(false) };
        let used: Option<i64> = row.try_get(0)?;
        let is_good = used.is_none_or(|used| used + GRACE > now);
        if !is_good {
            self.end_session(digest).await?;
        }
        Ok(is_good)
    }
}

/// The step that keeps a refresh token.
fn keep(
    digest: String,
    session: String,
    now: i64,
) -> sqlx::query::Query<'static, sqlx::Any, sqlx::any::AnyArguments> {
    sqlx::query("INSERT INTO host_refresh_tokens (digest, session_id, created) VALUES ($1, $2, $3)")
        .bind(digest)
        .bind(session)
        .bind(now)
}
