//! Hosts with users of their own: on SQLite, or on a PostgreSQL where DATABASE_URL names one. Every test runs on both.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use crate::support::host::Plan;
use crate::support::{Answer, Extension, Host, built};

/// A host with a probe and a store of its own.
pub fn plan() -> Plan {
    plan_on(database().as_deref())
}

/// A host with a probe and this store; `None`: SQLite in its folder.
pub fn plan_on(database: Option<&str>) -> Plan {
    let plan = Host::plan().extensions(&[&Extension::probe()]);
    match database {
        Some(url) => plan.dotenv("DATABASE_URL", url),
        None => plan,
    }
}

/// A new, empty database on the PostgreSQL that DATABASE_URL names; `None` where it names none.
pub fn database() -> Option<String> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let server = std::env::var("DATABASE_URL").ok()?;
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("test_{}_{number}", std::process::id());
    execute(&server, &[&format!("CREATE DATABASE {name}")]);
    let (before, _) = server.rsplit_once('/').expect("a URL with a database");
    Some(format!("{before}/{name}"))
}

/// Runs statements, one after the other.
pub fn execute(url: &str, statements: &[&str]) {
    sqlx::any::install_default_drivers();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let pool = sqlx::any::AnyPoolOptions::new().max_connections(1);
        let pool = pool.connect(url).await.expect("a database");
        for statement in statements {
            let query = sqlx::query(sqlx::AssertSqlSafe(*statement));
            let done = query.execute(&pool).await;
            done.unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
        pool.close().await;
    });
}

/// Runs the host's command in a host's folder, with its settings.
pub fn command(folder: &Path, line: &str) -> Command {
    let mut command = Command::new(built::host());
    command
        .args(line.split(' '))
        .arg("--config")
        .arg(folder.join("config.toml"))
        .env_clear()
        .current_dir(folder);
    command
}

/// Runs a command to its end; `stdin` is what it is given to read.
pub fn run(folder: &Path, line: &str, stdin: &str) -> Output {
    let mut child = command(folder, line)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command runs");
    let mut input = child.stdin.take().expect("it is piped");
    // One that wants no input may have ended.
    let _ = input.write_all(stdin.as_bytes());
    drop(input);
    child.wait_with_output().expect("it ends")
}

/// Runs a command that must succeed, and gives what it printed.
#[track_caller]
pub fn done(folder: &Path, line: &str, stdin: &str) -> String {
    let output = run(folder, line, stdin);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {error}");
    String::from_utf8(output.stdout).expect("text")
}

/// Runs a command that must fail, and gives what it said.
#[track_caller]
pub fn failed(folder: &Path, line: &str, stdin: &str) -> String {
    let output = run(folder, line, stdin);
    assert!(!output.status.success(), "{line} succeeded");
    String::from_utf8(output.stderr).expect("text")
}

/// Adds a user with the password "secret" and perhaps a role.
#[track_caller]
pub fn add_user(folder: &Path, email: &str, more: &str) {
    done(folder, &format!("user add {email}{more}"), "secret\n");
}

/// Makes a token for a user: its id, and itself.
#[track_caller]
pub fn new_token(folder: &Path, email: &str, more: &str) -> (String, String) {
    let line = format!("token create {email} --name test --json{more}");
    let made: Value = serde_json::from_str(&done(folder, &line, "")).expect("JSON");
    let text = |name: &str| made[name].as_str().expect("a text").to_owned();
    (text("id"), text("token"))
}

/// Asks who one is, with a bearer token.
#[track_caller]
pub fn me(host: &Host, token: &str) -> Answer {
    host.get(&format!("/users/me\nAuthorization: Bearer {token}"))
}

/// Sends JSON.
#[track_caller]
pub fn post(host: &Host, path: &str, more: &str, body: &Value) -> Answer {
    let head = format!("POST {path}\nContent-Type: application/json{more}");
    host.ask(&head, body.to_string())
}
