//! Users: who may sign in.

use serde::Serialize;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::db::Db;
use super::error::{StoreError, taken};
use super::roles::Role;
use super::values::{new_id, seconds_now};

/// A user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct User {
    /// The id, a UUID.
    pub id: String,
    /// The address that the user signs in with, in small letters.
    pub email: String,
    /// Whether the user is let in.
    pub status: Status,
    /// What the user may do.
    pub role: Option<Role>,
    /// Older access tokens are no longer valid; seconds since 1970.
    #[serde(skip)]
    pub tokens_since: i64,
    /// Seconds since 1970.
    pub created: i64,
}

/// Whether a user is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Yes.
    Active,
    /// Not for now.
    Suspended,
}

impl Status {
    /// As it is kept and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Active => "active",
            Status::Suspended => "suspended",
        }
    }
}

/// A query for users with their roles, and more columns and conditions after them: [`User::of`] reads the first ten.
macro_rules! users {
    ($columns:literal, $from:literal) => {
        concat!(
            "SELECT u.id, u.email, u.status, u.tokens_since, u.created, \
             r.id, r.name, r.admin_access, r.app_access, r.ip_ranges ",
            $columns,
            " FROM ",
            $from
        )
    };
}
pub(super) use users;

impl User {
    pub(super) fn of(row: &AnyRow) -> Result<User, sqlx::Error> {
        let status: String = row.try_get(2)?;
        Ok(User {
            id: row.try_get(0)?,
            email: row.try_get(1)?,
            // Whatever else may stand there one day: it does not let anybody in.
            status: match status.as_str() {
                "active" => Status::Active,
                _ => Status::Suspended,
            },
            tokens_since: row.try_get(3)?,
            created: row.try_get(4)?,
            role: Role::of(row, 5)?,
        })
    }

    /// Whether the user is let in.
    pub fn is_active(&self) -> bool {
        self.status == Status::Active
    }
}

/// Checks an address and normalises it. Which addresses a mail system really accepts cannot be known here.
fn email(text: &str) -> Result<String, StoreError> {
    let email = text.trim().to_lowercase();
    let parts = email.split_once('@');
    let is_one = parts.is_some_and(|(name, place)| !name.is_empty() && !place.is_empty())
        && email.len() <= 255
        && !email
            .chars()
            .any(|char| char.is_whitespace() || char.is_control());
    if is_one {
        Ok(email)
    } else {
        Err(StoreError::Invalid(format!(
            "{text:?} is no email address, expected one as in ada@example.com"
        )))
    }
}

/// Whether a text can be in a database at all: PostgreSQL has none with a zero in it, and says so with an error.
pub fn can_be_kept(text: &str) -> bool {
    !text.contains('\0')
}

impl Db {
    /// Adds a user. `password` is a hash; without one the user can only use tokens.
    ///
    /// # Errors
    /// Where the address is taken or is none.
    pub async fn add_user(
        &self,
        address: &str,
        password: Option<String>,
        role: Option<Role>,
    ) -> Result<User, StoreError> {
        let user = new_user(address, role)?;
        let mut change = self.begin().await?;
        insert(&user, password)
            .execute(&mut *change)
            .await
            .map_err(|cause| taken(cause, "user", &user.email))?;
        change.commit().await?;
        Ok(user)
    }

    /// All users, by address.
    pub async fn users(&self) -> Result<Vec<User>, StoreError> {
        let rows = sqlx::query(users!(
            "",
            "host_users u LEFT JOIN host_roles r ON r.id = u.role ORDER BY u.email"
        ))
        .fetch_all(self.reads()?)
        .await?;
        Ok(rows.iter().map(User::of).collect::<Result<_, _>>()?)
    }

    /// The user with this id.
    pub async fn user_by_id(&self, id: &str) -> Result<Option<User>, StoreError> {
        if !can_be_kept(id) {
            return Ok(None);
        }
        let row = sqlx::query(users!(
            "",
            "host_users u LEFT JOIN host_roles r ON r.id = u.role WHERE u.id = $1"
        ))
        .bind(id.to_owned())
        .fetch_optional(self.reads()?)
        .await?;
        Ok(row.as_ref().map(User::of).transpose()?)
    }

    /// The user with this address, and the hash of the password.
    pub async fn user_by_email(
        &self,
        address: &str,
    ) -> Result<Option<(User, Option<String>)>, StoreError> {
        if !can_be_kept(address) {
            return Ok(None);
        }
        let row = sqlx::query(users!(
            ", u.password",
            "host_users u LEFT JOIN host_roles r ON r.id = u.role WHERE u.email = $1"
        ))
        .bind(address.trim().to_lowercase())
        .fetch_optional(self.reads()?)
        .await?;
        match row {
            Some(row) => Ok(Some((User::of(&row)?, row.try_get(10)?))),
            None => Ok(None),
        }
    }

    /// The user with this id or address.
    ///
    /// # Errors
    /// Where there is none.
    pub async fn user(&self, named: &str) -> Result<User, StoreError> {
        if let Some(user) = self.user_by_id(named).await? {
            return Ok(user);
        }
        let found = self.user_by_email(named).await?;
        found
            .map(|(user, _)| user)
            .ok_or_else(|| StoreError::Missing("user", named.to_owned()))
    }

    /// Activates or suspends a user. A suspended user's sessions end; static tokens are invalid until the user is activated.
    ///
    /// # Errors
    /// Where there is no such user.
    pub async fn set_status(&self, named: &str, status: Status) -> Result<User, StoreError> {
        let mut user = self.user(named).await?;
        let mut change = self.begin().await?;
        sqlx::query("UPDATE host_users SET status = $1 WHERE id = $2")
            .bind(status.as_str())
            .bind(user.id.clone())
            .execute(&mut *change)
            .await?;
        if status == Status::Suspended {
            sqlx::query("DELETE FROM host_sessions WHERE user_id = $1")
                .bind(user.id.clone())
                .execute(&mut *change)
                .await?;
        }
        change.count().await?;
        change.commit().await?;
        user.status = status;
        Ok(user)
    }

    /// Gives a user another password, and ends all sessions and access tokens. `password` is a hash.
    ///
    /// # Errors
    /// Where there is no such user.
    pub async fn set_password(&self, named: &str, password: String) -> Result<User, StoreError> {
        let user = self.user(named).await?;
        let mut change = self.begin().await?;
        sqlx::query("UPDATE host_users SET password = $1, tokens_since = $2 WHERE id = $3")
            .bind(password)
            .bind(seconds_now())
            .bind(user.id.clone())
            .execute(&mut *change)
            .await?;
        sqlx::query("DELETE FROM host_sessions WHERE user_id = $1")
            .bind(user.id.clone())
            .execute(&mut *change)
            .await?;
        change.count().await?;
        change.commit().await?;
        Ok(user)
    }

    /// Gives a user another role, or none.
    ///
    /// # Errors
    /// Where there is no such user.
    pub async fn set_role(&self, named: &str, role: Option<Role>) -> Result<User, StoreError> {
        let mut user = self.user(named).await?;
        let mut change = self.begin().await?;
        sqlx::query("UPDATE host_users SET role = $1 WHERE id = $2")
            .bind(role.as_ref().map(|role| role.id.clone()))
            .bind(user.id.clone())
            .execute(&mut *change)
            .await?;
        change.count().await?;
        change.commit().await?;
        user.role = role;
        Ok(user)
    }

    /// Removes a user, with all tokens and sessions.
    ///
    /// # Errors
    /// Where there is no such user.
    pub async fn remove_user(&self, named: &str) -> Result<User, StoreError> {
        let user = self.user(named).await?;
        let mut change = self.begin().await?;
        sqlx::query("DELETE FROM host_users WHERE id = $1")
            .bind(user.id.clone())
            .execute(&mut *change)
            .await?;
        change.count().await?;
        change.commit().await?;
        Ok(user)
    }
}

/// A user that is not kept yet.
pub(super) fn new_user(address: &str, role: Option<Role>) -> Result<User, StoreError> {
    Ok(User {
        id: new_id()?,
        email: email(address)?,
        status: Status::Active,
        role,
        tokens_since: 0,
        created: seconds_now(),
    })
}

/// The step that keeps a new user.
pub(super) fn insert(
    user: &User,
    password: Option<String>,
) -> sqlx::query::Query<'static, sqlx::Any, sqlx::any::AnyArguments> {
    sqlx::query(
        "INSERT INTO host_users (id, email, password, role, status, tokens_since, created) VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(user.id.clone())
    .bind(user.email.clone())
    .bind(password)
    .bind(user.role.as_ref().map(|role| role.id.clone()))
    .bind(user.status.as_str())
    .bind(user.tokens_since)
    .bind(user.created)
}
