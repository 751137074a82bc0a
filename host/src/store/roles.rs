//! Roles: what several users may do.

use serde::Serialize;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::db::Db;
use super::error::{StoreError, taken};
use super::values::{new_id, seconds_now};
use crate::config::values::Network;

/// How long a name may be.
pub(super) const NAME_BYTES_MAX: usize = 255;

/// A role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Role {
    /// Its id, a UUID.
    pub id: String,
    /// Its name, unique.
    pub name: String,
    /// Whether its users may do everything.
    pub admin_access: bool,
    /// Whether its users may use Directus's app.
    pub app_access: bool,
    /// From where its users may ask; empty: from everywhere.
    pub ip_ranges: Vec<String>,
}

impl Role {
    /// Reads the five columns that begin at `first`; `None` where the join found none.
    pub(super) fn of(row: &AnyRow, first: usize) -> Result<Option<Role>, sqlx::Error> {
        let Some(id) = row.try_get::<Option<String>, _>(first)? else {
            return Ok(None);
        };
        let ranges: Option<String> = row.try_get(first + 4)?;
        Ok(Some(Role {
            id,
            name: row.try_get(first + 1)?,
            admin_access: row.try_get::<i64, _>(first + 2)? != 0,
            app_access: row.try_get::<i64, _>(first + 3)? != 0,
            ip_ranges: split(ranges.as_deref().unwrap_or_default()),
        }))
    }
}

fn split(ranges: &str) -> Vec<String> {
    ranges
        .split(',')
        .map(str::trim)
        .filter(|range| !range.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Checks a name: something to read, on one line.
pub(super) fn name(what: &str, name: &str) -> Result<String, StoreError> {
    let name = name.trim();
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(StoreError::Invalid(format!(
            "{name:?} is no name for a {what}, expected 1 to {NAME_BYTES_MAX} bytes on one line"
        )));
    }
    Ok(name.to_owned())
}

impl Db {
    /// Adds a role.
    ///
    /// # Errors
    /// Where the name is taken or is none, or a range of addresses is none.
    pub async fn add_role(
        &self,
        name: String,
        admin_access: bool,
        app_access: bool,
        ip_ranges: Vec<String>,
    ) -> Result<Role, StoreError> {
        let name = self::name("role", &name)?;
        for range in &ip_ranges {
            if Network::parse(range).is_none() {
                return Err(StoreError::Invalid(format!(
                    "{range:?} is no range of addresses, expected an address or a CIDR block as in 10.0.0.0/8"
                )));
            }
        }
        let role = Role {
            id: new_id()?,
            name,
            admin_access,
            app_access,
            ip_ranges,
        };
        let mut change = self.begin().await?;
        insert(&role)
            .execute(&mut *change)
            .await
            .map_err(|cause| taken(cause, "role", &role.name))?;
        change.commit().await?;
        Ok(role)
    }

    /// All roles and how many users each has, by name.
    pub async fn roles(&self) -> Result<Vec<(Role, i64)>, StoreError> {
        let rows = sqlx::query(
            "SELECT r.id, r.name, r.admin_access, r.app_access, r.ip_ranges, \
             (SELECT COUNT(*) FROM host_users u WHERE u.role = r.id) \
             FROM host_roles r ORDER BY r.name",
        )
        .fetch_all(self.reads()?)
        .await?;
        let mut roles = Vec::with_capacity(rows.len());
        for row in &rows {
            if let Some(role) = Role::of(row, 0)? {
                roles.push((role, row.try_get(5)?));
            }
        }
        Ok(roles)
    }

    /// The role with this id or name.
    ///
    /// # Errors
    /// Where there is none.
    pub async fn role(&self, named: &str) -> Result<Role, StoreError> {
        let row = sqlx::query(
            "SELECT id, name, admin_access, app_access, ip_ranges FROM host_roles \
             WHERE id = $1 OR name = $1 ORDER BY CASE WHEN id = $1 THEN 0 ELSE 1 END",
        )
        .bind(named.to_owned())
        .fetch_optional(self.reads()?)
        .await?;
        match row {
            Some(row) => Role::of(&row, 0)?,
            None => None,
        }
        .ok_or_else(|| StoreError::Missing("role", named.to_owned()))
    }

    /// Removes a role. Its users stay, without a role.
    ///
    /// # Errors
    /// Where there is none.
    pub async fn remove_role(&self, named: &str) -> Result<Role, StoreError> {
        let role = self.role(named).await?;
        let mut change = self.begin().await?;
        sqlx::query("DELETE FROM host_roles WHERE id = $1")
            .bind(role.id.clone())
            .execute(&mut *change)
            .await?;
        change.count().await?;
        change.commit().await?;
        Ok(role)
    }
}

/// The step that keeps a new role.
pub(super) fn insert(
    role: &Role,
) -> sqlx::query::Query<'static, sqlx::Any, sqlx::any::AnyArguments> {
    let ranges = (!role.ip_ranges.is_empty()).then(|| role.ip_ranges.join(","));
    sqlx::query(
        "INSERT INTO host_roles (id, name, admin_access, app_access, ip_ranges, created) VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(role.id.clone())
    .bind(role.name.clone())
    .bind(i64::from(role.admin_access))
    .bind(i64::from(role.app_access))
    .bind(ranges)
    .bind(seconds_now())
}
