//! What an empty store is filled with: an administrator, and what tokens are signed with.

use super::db::Db;
use super::error::StoreError;
use super::roles::Role;
use super::values::{new_id, random_text};
use super::{password, roles, tokens, users};
use crate::platform::threads::COMPUTING;

/// The address of the administrator where ADMIN_EMAIL is not set.
const ADMIN_EMAIL: &str = "admin@example.com";
/// The role of that administrator, by the name that Directus gives it.
const ADMIN_ROLE: &str = "Administrator";

/// What is wanted of the first administrator; `None`: whatever comes.
#[derive(Default)]
pub struct Wanted {
    /// The address.
    pub email: Option<String>,
    /// The password.
    pub password: Option<String>,
    /// Whether there is a token already, in the settings.
    pub has_token: bool,
}

/// The first administrator. What was generated is shown here and never again.
pub struct Created {
    /// The address.
    pub email: String,
    /// The password, where it was generated.
    pub password: Option<String>,
    /// A static token, where it was generated.
    pub token: Option<String>,
}

impl Db {
    /// Makes an administrator where there has never been a user; `None`: there has. `show` tells the operator what was
    /// generated, before it counts: a host that is killed in between shows and makes another one at its next start, and never
    /// has one whose password nobody has seen.
    ///
    /// # Errors
    /// Where the wanted address or password is none, or cannot be shown.
    pub async fn first_administrator(
        &self,
        wanted: Wanted,
        show: impl FnOnce(&Created) -> std::io::Result<()>,
    ) -> Result<Option<Created>, StoreError> {
        if !self.is_untouched().await? {
            return Ok(None);
        }
        let generated = match wanted.password {
            Some(_) => None,
            None => Some(random_text()?),
        };
        let text = wanted.password.as_ref().or(generated.as_ref()).cloned();
        let text = text.ok_or(StoreError::Password)?;
        let hash = COMPUTING
            .run(move || password::hash(&text))
            .await
            .unwrap_or(Err(StoreError::Gone))?;
        let role = Role {
            id: new_id()?,
            name: ADMIN_ROLE.to_owned(),
            admin_access: true,
            app_access: true,
            ip_ranges: Vec::new(),
        };
        let email = wanted.email.as_deref().unwrap_or(ADMIN_EMAIL);
        let user = users::new_user(email, Some(role.clone()))?;
        let mut change = self.begin().await?;
        // Of several hosts that start at once, one: the others fail here, or find the name taken.
        let first = sqlx::query(
            "INSERT INTO host_settings (name, value) VALUES ('administrator', $1) ON CONFLICT (name) DO NOTHING",
        )
        .bind(user.id.clone())
        .execute(&mut *change)
        .await?;
        if first.rows_affected() == 0 {
            change.undo().await?;
            return Ok(None);
        }
        roles::insert(&role).execute(&mut *change).await?;
        users::insert(&user, Some(hash))
            .execute(&mut *change)
            .await?;
        let token = if wanted.has_token {
            None
        } else {
            let text = random_text()?;
            let token = tokens::new_token(&user, "first start", None)?;
            tokens::insert(&token, &user, &text)
                .execute(&mut *change)
                .await?;
            Some(text)
        };
        let created = Created {
            email: user.email,
            password: generated,
            token,
        };
        show(&created).map_err(StoreError::NotShown)?;
        change.commit().await?;
        // From now on the file alone says that there was a first start: without its log it is old, and not new.
        self.checkpoint().await?;
        Ok(Some(created))
    }

    async fn is_untouched(&self) -> Result<bool, StoreError> {
        let (count,): (i64,) = sqlx::query_as(
            "SELECT (SELECT COUNT(*) FROM host_users) + (SELECT COUNT(*) FROM host_roles) \
             + (SELECT COUNT(*) FROM host_settings WHERE name = 'administrator')",
        )
        .fetch_one(self.reads()?)
        .await?;
        Ok(count == 0)
    }

    /// The id of the administrator that was made at the first start, where there was one.
    pub async fn first_administrator_id(&self) -> Result<Option<String>, StoreError> {
        self.setting("administrator").await
    }

    /// What tokens are signed with where the settings say nothing; and whether it is new.
    pub async fn secret(&self) -> Result<(String, bool), StoreError> {
        if let Some(secret) = self.setting("secret").await? {
            return Ok((secret, false));
        }
        let mut change = self.begin().await?;
        sqlx::query(
            "INSERT INTO host_settings (name, value) VALUES ('secret', $1) ON CONFLICT (name) DO NOTHING",
        )
        .bind(random_text()?)
        .execute(&mut *change)
        .await?;
        change.commit().await?;
        // Another host may have been first: what is kept counts.
        let secret = self.setting("secret").await?;
        Ok((secret.ok_or(StoreError::Gone)?, true))
    }

    async fn setting(&self, name: &str) -> Result<Option<String>, StoreError> {
        let row: Option<(String,)> =
            sqlx::query_as("SELECT value FROM host_settings WHERE name = $1")
                .bind(name.to_owned())
                .fetch_optional(self.reads()?)
                .await?;
        Ok(row.map(|(value,)| value))
    }
}
