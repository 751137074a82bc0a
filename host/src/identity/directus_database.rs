//! The source of identity that is the database of a Directus, SQLite or PostgreSQL, read-only: static tokens, sessions,
//! roles and, since Directus 11, policies.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Row as _;

use super::answers::Denial;
use super::error::IdentityError;
use super::jwt::{Claimed, Signed};
use super::known::{Grant, Known};
use super::source::{IdentityQuery, Source, Unavailable, Verdict, VerdictFuture};
use super::who::Accountability;
use crate::config;
use crate::config::values::Network;
use crate::store::users::can_be_kept;
use crate::store::{DatabaseUrl, Db, Store, StoreError};

/// How far up a tree of roles is followed; a ring in it ends there.
const ROLES_MAX: usize = 32;

/// A Directus's database.
pub struct DirectusDatabase {
    store: Store,
    keep: Duration,
}

impl DirectusDatabase {
    /// Connects, and looks whether the tables are those of a Directus 11 or later.
    ///
    /// # Errors
    /// Where it cannot be opened, or they are not.
    pub fn open(url: &str, settings: &config::Directus) -> Result<Self, IdentityError> {
        let url = DatabaseUrl::parse(url)?;
        let store = Store::open_to_read(&url)?;
        store
            .block_on(|db| async move { look(&db).await })
            .map_err(|cause| {
                IdentityError::Store(StoreError::Open {
                    database: format!("{url} of a Directus 11 or later"),
                    cause: Box::new(cause),
                })
            })?;
        Ok(DirectusDatabase {
            store,
            keep: Duration::from_millis(settings.cache_ms),
        })
    }

    /// The database, for those who look whether it answers.
    pub fn store(&self) -> &Store {
        &self.store
    }

    async fn verdict(&self, query: &IdentityQuery) -> Result<Verdict, StoreError> {
        let (user, claimed) = match &query.signed {
            Signed::No => {
                let Ok(token) = String::from_utf8(query.token.clone()) else {
                    return Ok(Verdict::Unknown);
                };
                let owner = self
                    .store
                    .read(|db| async move { of_token(&db, token).await });
                (owner.await?, None)
            }
            Signed::Good(claimed) if claimed.who.user.is_some() => {
                let (user, session) = (claimed.who.user.clone(), claimed.who.session.clone());
                let found = self.store.read(|db| async move {
                    of_claims(&db, user.unwrap_or_default(), session).await
                });
                match found.await? {
                    Some(user) => (Some(user), Some(claimed)),
                    // Signed, but the user is gone, or the session has ended.
                    None => return Ok(Verdict::Denied(Denial::InvalidCredentials)),
                }
            }
            Signed::Good(_) | Signed::Bad { .. } => (None, None),
        };
        Ok(match user {
            Some(user) => Verdict::Known(self.known(user, claimed)),
            None => Verdict::Unknown,
        })
    }

    fn known(&self, user: User, claimed: Option<&Claimed>) -> Known {
        let ids: Vec<Arc<str>> = user
            .roles
            .iter()
            .map(|(id, _)| id.as_str().into())
            .collect();
        let mut who = Accountability {
            user: Some(user.id.into()),
            role: ids.first().cloned(),
            roles: ids,
            role_names: user
                .roles
                .iter()
                .map(|(_, name)| name.as_str().into())
                .collect(),
            session: claimed.and_then(|claimed| claimed.who.session.clone()),
            ..Accountability::default()
        };
        let mut known = Known {
            expires: claimed.map(|claimed| claimed.expires),
            keep: self.keep,
            ..Known::default()
        };
        for policy in user.policies {
            match policy.from {
                None => {
                    who.admin |= policy.admin;
                    who.app |= policy.app;
                }
                Some(from) => known.grants.push(Grant {
                    admin: policy.admin,
                    app: policy.app,
                    from,
                }),
            }
        }
        known.who = who.into();
        known
    }
}

impl Source for Arc<DirectusDatabase> {
    fn ask<'a>(&'a self, query: &'a IdentityQuery) -> VerdictFuture<'a> {
        Box::pin(async move {
            // The database's own thread has logged it, once for all who ask.
            self.verdict(query).await.map_err(|_| Unavailable)
        })
    }
}

struct User {
    id: String,
    /// Ids and names: the user's role, then those above it.
    roles: Vec<(String, String)>,
    policies: Vec<Policy>,
}

struct Policy {
    admin: bool,
    app: bool,
    /// From where it counts; `None`: from everywhere.
    from: Option<Vec<Network>>,
}

async fn look(db: &Db) -> Result<(), StoreError> {
    sqlx::query(
        "SELECT 1 FROM directus_users u, directus_sessions s, directus_roles r, directus_access a, directus_policies p \
         WHERE u.id = s.\"user\" AND u.role = r.id AND r.parent = a.role AND a.policy = p.id \
         AND u.token = s.token AND p.ip_access = u.status AND 1 = 0",
    )
    .fetch_optional(db.reads()?)
    .await?;
    Ok(())
}

/// The owner of a static token.
async fn of_token(db: &Db, token: String) -> Result<Option<User>, StoreError> {
    if !can_be_kept(&token) {
        return Ok(None);
    }
    let row = sqlx::query(
        "SELECT CAST(id AS TEXT), CAST(role AS TEXT) FROM directus_users WHERE token = $1 AND status = 'active'",
    )
    .bind(token)
    .fetch_optional(db.reads()?)
    .await?;
    match row {
        Some(row) => with_rights(db, row.try_get(0)?, row.try_get(1)?)
            .await
            .map(Some),
        None => Ok(None),
    }
}

/// The user of a signed token; `None`: gone, suspended, or the session has ended.
async fn of_claims(
    db: &Db,
    user: Arc<str>,
    session: Option<Arc<str>>,
) -> Result<Option<User>, StoreError> {
    let Some(user) = uuid(&user) else {
        return Ok(None);
    };
    let query = if db.is_postgres() {
        "SELECT CAST(id AS TEXT), CAST(role AS TEXT) FROM directus_users WHERE id = CAST($1 AS uuid) AND status = 'active'"
    } else {
        "SELECT id, role FROM directus_users WHERE id = $1 AND status = 'active'"
    };
    let row = sqlx::query(query)
        .bind(user.clone())
        .fetch_optional(db.reads()?)
        .await?;
    let Some(row) = row else { return Ok(None) };
    if let Some(session) = session {
        if !can_be_kept(&session) {
            return Ok(None);
        }
        // Directus on SQLite keeps a time as milliseconds, or as text where it was written by hand.
        let query = if db.is_postgres() {
            "SELECT 1 FROM directus_sessions WHERE token = $1 AND \"user\" = CAST($2 AS uuid) AND expires >= now()"
        } else {
            "SELECT 1 FROM directus_sessions WHERE token = $1 AND \"user\" = $2 AND \
             CASE typeof(expires) WHEN 'text' THEN CAST(strftime('%s', expires) AS INTEGER) * 1000 ELSE expires END \
             >= CAST(strftime('%s', 'now') AS INTEGER) * 1000"
        };
        let found = sqlx::query(query)
            .bind(session.to_string())
            .bind(user)
            .fetch_optional(db.reads()?)
            .await?;
        if found.is_none() {
            return Ok(None);
        }
    }
    with_rights(db, row.try_get(0)?, row.try_get(1)?)
        .await
        .map(Some)
}

/// Follows the roles upwards, and collects the policies of the user and of each role.
async fn with_rights(db: &Db, id: String, role: Option<String>) -> Result<User, StoreError> {
    let (cast, parameter) = if db.is_postgres() {
        ("CAST(parent AS TEXT)", "CAST($1 AS uuid)")
    } else {
        ("parent", "$1")
    };
    let role_query = format!("SELECT name, {cast} FROM directus_roles WHERE id = {parameter}");
    let policy_query = |column: &str| {
        format!(
            "SELECT CASE WHEN p.admin_access THEN 1 ELSE 0 END, CASE WHEN p.app_access THEN 1 ELSE 0 END, p.ip_access \
             FROM directus_access a JOIN directus_policies p ON p.id = a.policy WHERE a.{column} = {parameter}"
        )
    };
    let mut user = User {
        id,
        roles: Vec::new(),
        policies: Vec::new(),
    };
    let mut next = role;
    while let Some(role) = next.filter(|role| {
        user.roles.len() < ROLES_MAX && user.roles.iter().all(|(seen, _)| seen != role)
    }) {
        let row = sqlx::query(sqlx::AssertSqlSafe(role_query.as_str()))
            .bind(role.clone())
            .fetch_optional(db.reads()?)
            .await?;
        let Some(row) = row else { break };
        policies(db, &policy_query("role"), &role, &mut user.policies).await?;
        user.roles.push((role, row.try_get(0)?));
        next = row.try_get(1)?;
    }
    let id = user.id.clone();
    policies(db, &policy_query("\"user\""), &id, &mut user.policies).await?;
    Ok(user)
}

async fn policies(
    db: &Db,
    query: &str,
    of: &str,
    policies: &mut Vec<Policy>,
) -> Result<(), StoreError> {
    let rows = sqlx::query(sqlx::AssertSqlSafe(query))
        .bind(of.to_owned())
        .fetch_all(db.reads()?)
        .await?;
    for row in &rows {
        let from: Option<String> = row.try_get(2)?;
        let from = from.filter(|from| !from.trim().is_empty()).map(|from| {
            let blocks = from.split(',').map(str::trim);
            // What cannot be read grants nothing.
            blocks.filter_map(Network::parse).collect()
        });
        policies.push(Policy {
            admin: row.try_get::<i64, _>(0)? != 0,
            app: row.try_get::<i64, _>(1)? != 0,
            from,
        });
    }
    Ok(())
}

/// An id as Directus writes it: anything else would be an error to PostgreSQL.
fn uuid(text: &str) -> Option<String> {
    uuid::Uuid::parse_str(text).ok().map(|id| id.to_string())
}
