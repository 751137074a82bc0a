//! What is read from the store, or put into an empty one, before the host serves: the secret, the first administrator, and the
//! user that ADMIN_TOKEN stands for.

use std::io::{self, Write};

use super::known::Known;
use super::local_users;
use crate::config;
use crate::platform::log;
use crate::store::start::{Created, Wanted};
use crate::store::{DatabaseUrl, Store, StoreError};

/// What was found or made.
pub struct PreparedStore {
    /// What tokens are signed with.
    pub secret: String,
    /// The administrator that was made at the first start, if that is still one.
    pub administrator: Option<Known>,
}

/// Fills an empty store, and prints what was generated: once, on stdout, and never in the log.
///
/// # Errors
/// Where the store does not answer, or ADMIN_EMAIL or ADMIN_PASSWORD is none.
pub fn prepare(
    store: &Store,
    auth: &config::Auth,
    url: &DatabaseUrl,
) -> Result<PreparedStore, StoreError> {
    make_administrator(store, auth, url, io::stdout)?;
    let secret = match auth.secret.reveal() {
        Some(secret) => secret.to_owned(),
        None => {
            let (secret, is_new) = store.block_on(|db| async move { db.secret().await })?;
            if is_new {
                log::warn(
                    "SECRET is not set: one was generated and is kept in the store; several hosts, or a host beside a Directus, need a shared one",
                    &[("store", url)],
                );
            }
            secret
        }
    };
    let administrator = store.block_on(|db| async move {
        match db.first_administrator_id().await? {
            Some(id) => db.user_by_id(&id).await,
            None => Ok(None),
        }
    })?;
    let administrator = administrator
        .filter(|user| user.is_active())
        .map(|user| local_users::known(&user))
        .filter(|known| known.who.admin);
    Ok(PreparedStore {
        secret,
        administrator,
    })
}

/// Makes the administrator of an empty store, and writes to `out` what was generated.
///
/// # Errors
/// Where the store does not answer, or ADMIN_EMAIL or ADMIN_PASSWORD is none.
pub fn make_administrator<W: Write + 'static>(
    store: &Store,
    auth: &config::Auth,
    url: &DatabaseUrl,
    out: fn() -> W,
) -> Result<(), StoreError> {
    let wanted = Wanted {
        email: Some(auth.admin_email.clone()).filter(|email| !email.is_empty()),
        password: auth.admin_password.reveal().map(str::to_owned),
        has_token: auth.admin_token.reveal().is_some(),
    };
    let created = store.block_on(|db| async move {
        db.first_administrator(wanted, move |created| print(created, out()))
            .await
    })?;
    if let Some(created) = created {
        log::info(
            "first start: an administrator was created",
            &[("email", &created.email), ("store", url)],
        );
    }
    Ok(())
}

fn print(created: &Created, mut out: impl Write) -> io::Result<()> {
    if created.password.is_none() && created.token.is_none() {
        return Ok(());
    }
    writeln!(out, "First start. This is shown once:")?;
    writeln!(out, "  administrator  {}", created.email)?;
    if let Some(password) = &created.password {
        writeln!(out, "  password       {password}")?;
    }
    if let Some(token) = &created.token {
        writeln!(out, "  static token   {token}")?;
    }
    out.flush()
}
