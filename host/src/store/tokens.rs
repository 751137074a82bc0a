//! Static tokens: what programs sign in with. Only a digest is kept; a token is 32 random bytes, which no one can guess
//! from it.

use serde::Serialize;
use sqlx::Row as _;

use super::db::Db;
use super::error::StoreError;
use super::roles;
use super::users::{User, users};
use super::values::{digest_of, new_id, random_text, seconds_now};

/// What is known of a token. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Token {
    /// Its id, a UUID: what it is revoked by.
    pub id: String,
    /// What its owner calls it.
    pub name: String,
    /// The owner's address.
    pub user: String,
    /// When it was made.
    pub created: i64,
    /// When it ends; `None`: never.
    pub expires: Option<i64>,
    /// When it was last seen, to a minute or so.
    pub last_used: Option<i64>,
}

/// Whose token it is.
#[derive(Debug)]
pub struct Owner {
    /// The token's id.
    pub token: String,
    /// The user.
    pub user: User,
    /// When the token ends.
    pub expires: Option<i64>,
}

impl Db {
    /// Makes a token for a user, and returns it with what is kept of it: only now can it be read.
    ///
    /// # Errors
    /// Where there is no such user, or the name is none.
    pub async fn create_token(
        &self,
        user: &str,
        name: &str,
        expires: Option<i64>,
    ) -> Result<(Token, String), StoreError> {
        let user = self.user(user).await?;
        let text = random_text()?;
        let token = new_token(&user, name, expires)?;
        let mut change = self.begin().await?;
        insert(&token, &user, &text).execute(&mut *change).await?;
        change.commit().await?;
        Ok((token, text))
    }

    /// All tokens, or those of one user, the oldest first.
    ///
    /// # Errors
    /// Where there is no such user.
    pub async fn tokens(&self, of: Option<&str>) -> Result<Vec<Token>, StoreError> {
        let of = match of {
            Some(named) => Some(self.user(named).await?.id),
            None => None,
        };
        let rows = sqlx::query(
            "SELECT t.id, t.name, u.email, t.created, t.expires, t.last_used, t.user_id \
             FROM host_tokens t JOIN host_users u ON u.id = t.user_id ORDER BY t.created, t.id",
        )
        .fetch_all(self.reads()?)
        .await?;
        let mut tokens = Vec::with_capacity(rows.len());
        for row in &rows {
            let owner: String = row.try_get(6)?;
            if of.as_ref().is_none_or(|of| *of == owner) {
                tokens.push(Token {
                    id: row.try_get(0)?,
                    name: row.try_get(1)?,
                    user: row.try_get(2)?,
                    created: row.try_get(3)?,
                    expires: row.try_get(4)?,
                    last_used: row.try_get(5)?,
                });
            }
        }
        Ok(tokens)
    }

    /// Ends a token for ever.
    ///
    /// # Errors
    /// Where there is none with this id.
    pub async fn revoke_token(&self, id: &str) -> Result<(), StoreError> {
        let mut change = self.begin().await?;
        let done = sqlx::query("DELETE FROM host_tokens WHERE id = $1")
            .bind(id.to_owned())
            .execute(&mut *change)
            .await?;
        if done.rows_affected() == 0 {
            return Err(StoreError::Missing("token", id.to_owned()));
        }
        change.count().await?;
        change.commit().await
    }

    /// Whose token has this digest, active or not, expired or not.
    pub async fn owner_of(&self, digest: &str) -> Result<Option<Owner>, StoreError> {
        let row = sqlx::query(users!(
            ", t.id, t.expires",
            "host_tokens t JOIN host_users u ON u.id = t.user_id \
             LEFT JOIN host_roles r ON r.id = u.role WHERE t.digest = $1"
        ))
        .bind(digest.to_owned())
        .fetch_optional(self.reads()?)
        .await?;
        match row {
            Some(row) => Ok(Some(Owner {
                user: User::of(&row)?,
                token: row.try_get(10)?,
                expires: row.try_get(11)?,
            })),
            None => Ok(None),
        }
    }

    /// Notes when tokens were last seen. No change that anybody must hear of.
    pub async fn note_uses(&self, uses: Vec<(String, i64)>) -> Result<(), StoreError> {
        let mut change = self.begin().await?;
        for (token, at) in uses {
            sqlx::query("UPDATE host_tokens SET last_used = $1 WHERE id = $2")
                .bind(at)
                .bind(token)
                .execute(&mut *change)
                .await?;
        }
        change.commit().await
    }
}

/// A token that is not kept yet.
pub(super) fn new_token(
    user: &User,
    name: &str,
    expires: Option<i64>,
) -> Result<Token, StoreError> {
    Ok(Token {
        id: new_id()?,
        name: roles::name("token", name)?,
        user: user.email.clone(),
        created: seconds_now(),
        expires,
        last_used: None,
    })
}

/// The step that keeps a new token.
pub(super) fn insert(
    token: &Token,
    user: &User,
    text: &str,
) -> sqlx::query::Query<'static, sqlx::Any, sqlx::any::AnyArguments> {
    sqlx::query(
        "INSERT INTO host_tokens (id, user_id, name, digest, created, expires) VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(token.id.clone())
    .bind(user.id.clone())
    .bind(token.name.clone())
    .bind(digest_of(text.as_bytes()))
    .bind(token.created)
    .bind(token.expires)
}
