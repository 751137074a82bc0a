//! `extension-host user`, `role` and `token`: the operator decides who may sign in. The commands work on the store, whether a host
//! runs or not; running hosts follow within seconds.

use std::io::{BufRead as _, IsTerminal as _};
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::commands::table::table;
use crate::config::Config;
use crate::identity::first_start;
use crate::store::roles::Role;
use crate::store::tokens::Token;
use crate::store::users::{Status, User};
use crate::store::{DatabaseUrl, Store, StoreError, password, seconds_now};

/// What can be done with users.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum UserCommand {
    /// Adds a user; the password is asked for, or read from stdin where that is no terminal
    Add {
        /// The address that the user signs in with
        email: String,
        /// The user's role, by its name or id
        #[arg(long, value_name = "ROLE")]
        role: Option<String>,
        /// No password: the user can only use static tokens
        #[arg(long)]
        no_password: bool,
        /// Prints JSON for programs
        #[arg(long)]
        json: bool,
    },
    /// Shows all users
    List {
        /// Prints JSON for programs instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Suspends a user: no sign-in and no token counts until `activate`
    Suspend {
        /// The user's address or id
        user: String,
    },
    /// Lets a suspended user in again
    Activate {
        /// The user's address or id
        user: String,
    },
    /// Removes a user, with all tokens
    Remove {
        /// The user's address or id
        user: String,
    },
    /// Gives a user another password, and ends all sessions; it is asked for, or read from stdin where that is no terminal
    Passwd {
        /// The user's address or id
        user: String,
    },
    /// Gives a user another role
    Role {
        /// The user's address or id
        user: String,
        /// The role, by its name or id; without it, the user has none
        role: Option<String>,
    },
}

/// What can be done with roles.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum RoleCommand {
    /// Adds a role
    Add {
        /// Its name
        name: String,
        /// Its users may do everything
        #[arg(long)]
        admin: bool,
        /// Its users may use Directus's app
        #[arg(long)]
        app: bool,
        /// From where its users may ask: addresses and CIDR blocks, separated by commas [default: from everywhere]
        #[arg(long, value_name = "RANGES", value_delimiter = ',')]
        ip: Vec<String>,
        /// Prints JSON for programs
        #[arg(long)]
        json: bool,
    },
    /// Shows all roles
    List {
        /// Prints JSON for programs instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Removes a role; its users stay, without one
    Remove {
        /// The role's name or id
        role: String,
    },
}

/// What can be done with static tokens.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum TokenCommand {
    /// Makes a token for a user, and prints it: it is not shown again
    Create {
        /// The user's address or id
        user: String,
        /// What it is for
        #[arg(long)]
        name: String,
        /// How long it is good: a number with s, m, h or d, as in 90d [default: for ever]
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        expires: Option<i64>,
        /// Prints JSON for programs
        #[arg(long)]
        json: bool,
    },
    /// Shows all tokens, or those of one user, but never a token itself
    List {
        /// The user's address or id
        user: Option<String>,
        /// Prints JSON for programs instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Ends a token for ever
    Revoke {
        /// The token's id, as `token list` shows it
        id: String,
    },
}

/// Runs a command about users.
///
/// # Errors
/// Where it cannot be done; nothing has changed then.
pub fn user(config: &Config, command: UserCommand) -> Result<ExitCode, StoreError> {
    let store = match command {
        UserCommand::Add { .. } => open_to_add(config)?,
        _ => open(config)?,
    };
    match command {
        UserCommand::Add {
            email,
            role,
            no_password,
            json,
        } => {
            let password = if no_password {
                None
            } else {
                Some(password::hash(&new_password()?)?)
            };
            let added = store.block_on(|db| async move {
                let role = match role {
                    Some(role) => Some(db.role(&role).await?),
                    None => None,
                };
                db.add_user(&email, password, role).await
            })?;
            show(json, &user_row(&added), &format!("added {}", added.email));
        }
        UserCommand::List { json } => {
            let users = store.block_on(|db| async move { db.users().await })?;
            let rows: Vec<Value> = users.iter().map(user_row).collect();
            list(json, &rows, &["email", "status", "role", "id", "created"]);
        }
        UserCommand::Suspend { user } => {
            let user = store
                .block_on(|db| async move { db.set_status(&user, Status::Suspended).await })?;
            println!("suspended {}", user.email);
        }
        UserCommand::Activate { user } => {
            let user =
                store.block_on(|db| async move { db.set_status(&user, Status::Active).await })?;
            println!("activated {}", user.email);
        }
        UserCommand::Remove { user } => {
            let user = store.block_on(|db| async move { db.remove_user(&user).await })?;
            println!("removed {}", user.email);
        }
        UserCommand::Passwd { user } => {
            // Before anything is asked: whether there is such a user.
            let user = store.block_on(|db| async move { db.user(&user).await })?;
            let password = password::hash(&new_password()?)?;
            let user =
                store.block_on(|db| async move { db.set_password(&user.id, password).await })?;
            println!("changed the password of {}", user.email);
        }
        UserCommand::Role { user, role } => {
            let user = store.block_on(|db| async move {
                let role = match role {
                    Some(role) => Some(db.role(&role).await?),
                    None => None,
                };
                db.set_role(&user, role).await
            })?;
            let role = user.role.map_or("no role".to_owned(), |role| role.name);
            println!("{} now has {role}", user.email);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a command about roles.
///
/// # Errors
/// Where it cannot be done; nothing has changed then.
pub fn role(config: &Config, command: RoleCommand) -> Result<ExitCode, StoreError> {
    let store = match command {
        RoleCommand::Add { .. } => open_to_add(config)?,
        _ => open(config)?,
    };
    match command {
        RoleCommand::Add {
            name,
            admin,
            app,
            ip,
            json,
        } => {
            let added =
                store.block_on(|db| async move { db.add_role(name, admin, app, ip).await })?;
            show(json, &role_row(&added, 0), &format!("added {}", added.name));
        }
        RoleCommand::List { json } => {
            let roles = store.block_on(|db| async move { db.roles().await })?;
            let rows: Vec<Value> = roles
                .iter()
                .map(|(role, users)| role_row(role, *users))
                .collect();
            let columns = [
                "name",
                "admin_access",
                "app_access",
                "ip_ranges",
                "users",
                "id",
            ];
            list(json, &rows, &columns);
        }
        RoleCommand::Remove { role } => {
            let role = store.block_on(|db| async move { db.remove_role(&role).await })?;
            println!("removed {}", role.name);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a command about static tokens.
///
/// # Errors
/// Where it cannot be done; nothing has changed then.
pub fn token(config: &Config, command: TokenCommand) -> Result<ExitCode, StoreError> {
    let store = open(config)?;
    match command {
        TokenCommand::Create {
            user,
            name,
            expires,
            json,
        } => {
            let expires = expires.map(|ttl| seconds_now().saturating_add(ttl));
            let (token, text) =
                store.block_on(|db| async move { db.create_token(&user, &name, expires).await })?;
            if json {
                let mut row = token_row(&token);
                row["token"] = text.into();
                println!("{row:#}");
            } else {
                // The token alone on stdout, so that it can be piped to where it belongs.
                eprintln!(
                    "token {:?} for {}; it is not shown again:",
                    token.name, token.user
                );
                println!("{text}");
            }
        }
        TokenCommand::List { user, json } => {
            let tokens = store.block_on(|db| async move { db.tokens(user.as_deref()).await })?;
            let rows: Vec<Value> = tokens.iter().map(token_row).collect();
            let columns = ["id", "name", "user", "created", "expires", "last_used"];
            list(json, &rows, &columns);
        }
        TokenCommand::Revoke { id } => {
            let revoked = id.clone();
            store.block_on(|db| async move { db.revoke_token(&id).await })?;
            println!("revoked {revoked}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn open(config: &Config) -> Result<Store, StoreError> {
    Store::open(&url(config)?)
}

/// Opens the store to add to it. One that is empty gets its administrator first, as the first start would make it: after that start it
/// could get none.
fn open_to_add(config: &Config) -> Result<Store, StoreError> {
    let url = url(config)?;
    let store = Store::open(&url)?;
    // On stderr: what the command prints may be read by a program.
    first_start::make_administrator(&store, &config.auth, &url, std::io::stderr)?;
    Ok(store)
}

fn url(config: &Config) -> Result<DatabaseUrl, StoreError> {
    DatabaseUrl::of(&config.database)?.ok_or_else(|| {
        StoreError::Invalid("this host keeps no users: url under [database] is \"none\"".to_owned())
    })
}

/// Asks twice on a terminal; otherwise reads one line.
fn new_password() -> Result<String, StoreError> {
    let unreadable =
        |cause: std::io::Error| StoreError::Invalid(format!("cannot read the password: {cause}"));
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        let mut line = String::new();
        stdin.lock().read_line(&mut line).map_err(unreadable)?;
        let line = line.strip_suffix('\n').unwrap_or(&line);
        return Ok(line.strip_suffix('\r').unwrap_or(line).to_owned());
    }
    let first = rpassword::prompt_password("Password: ").map_err(unreadable)?;
    let second = rpassword::prompt_password("Again: ").map_err(unreadable)?;
    if first == second {
        Ok(first)
    } else {
        Err(StoreError::Invalid("the two passwords differ".to_owned()))
    }
}

fn parse_time(text: &str) -> Result<i64, String> {
    let wrong = || format!("{text:?} is no time, expected a number with s, m, h or d, as in 90d");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number: u32 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    if number == 0 {
        return Err(wrong());
    }
    Ok(i64::from(number) * factor)
}

fn user_row(user: &User) -> Value {
    json!({
        "id": user.id,
        "email": user.email,
        "status": user.status,
        "role": user.role.as_ref().map(|role| &role.name),
        "created": at(Some(user.created)),
    })
}

fn role_row(role: &Role, users: i64) -> Value {
    json!({
        "id": role.id,
        "name": role.name,
        "admin_access": role.admin_access,
        "app_access": role.app_access,
        "ip_ranges": role.ip_ranges,
        "users": users,
    })
}

fn token_row(token: &Token) -> Value {
    json!({
        "id": token.id,
        "name": token.name,
        "user": token.user,
        "created": at(Some(token.created)),
        "expires": at(token.expires),
        "last_used": at(token.last_used),
    })
}

fn at(seconds: Option<i64>) -> Option<String> {
    let at = OffsetDateTime::from_unix_timestamp(seconds?).ok()?;
    at.format(&Rfc3339).ok()
}

fn show(json: bool, row: &Value, sentence: &str) {
    if json {
        println!("{row:#}");
    } else {
        println!("{sentence}");
    }
}

fn list(json: bool, rows: &[Value], columns: &[&str]) {
    if json {
        println!("{:#}", Value::from(rows));
    } else {
        let head = columns
            .iter()
            .map(|column| column.to_uppercase().replace('_', " "));
        let cells = rows
            .iter()
            .map(|row| columns.iter().map(|column| cell(&row[*column])).collect());
        let lines = std::iter::once(head.collect()).chain(cells).collect();
        print!("{}", table(lines).join(""));
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) if values.is_empty() => "-".to_owned(),
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_number_and_a_unit() {
        assert_eq!(parse_time("90d"), Ok(7_776_000));
        assert_eq!(parse_time("1s"), Ok(1));
        for wrong in ["", "d", "90", "-1d", "0d", "1w", "1é", "99999999999d"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_value_reads_as_people_write_it() {
        for (value, text) in [
            (json!(null), "-"),
            (json!([]), "-"),
            (json!(true), "yes"),
            (json!(["1", "2"]), "1,2"),
            (json!(7), "7"),
        ] {
            assert_eq!(cell(&value), text);
        }
    }
}
