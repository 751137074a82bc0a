//! The store fails while the host runs: what its callers are told meanwhile, what the log says, and that all is well when it is over.

use std::collections::BTreeMap;
use std::net::ToSocketAddrs as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fs, thread};

use serde_json::{Value, json};
use sqlx::{AnyConnection, Connection as _};

use crate::identity_support::{add_user, database, execute, me, new_token, plan_on, post};
use crate::support::cut::{Cut, Line};
use crate::support::disk::Disk;
use crate::support::host::request;
use crate::support::{ADMIN_TOKEN, Answer, Connection, End, Host, eventually};

const UNCHANGEABLE: &str = "the store cannot be changed: nobody can sign in";
const CHANGEABLE: &str = "the store can be changed again";
const UNREADABLE: &str = "the store cannot be read: callers with tokens get 503";
const READABLE: &str = "the store can be read again";

/// A host whose store is this file.
fn host_on(path: &Path) -> Host {
    plan_on(Some(&format!("sqlite:{}", path.display()))).start()
}

fn log_in(host: &Host, email: &str) -> Answer {
    let body = json!({"email": email, "password": "secret"});
    post(host, "/auth/login", "", &body)
}

/// What an administrator is told of a check.
fn check(host: &Host, name: &str) -> Value {
    host.get_as_admin("/server/health").json()["checks"][name][0].clone()
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

fn status_of(host: &Host, path: &str) -> (u16, Value) {
    let answer = host.get(path);
    (answer.status, answer.json()["status"].clone())
}

/// Waits until nothing is wrong any more: a look at the store counts for a second.
#[track_caller]
fn is_well(host: &Host) {
    eventually("all is well", || {
        status_of(host, "/server/health") == (200, json!("ok"))
    });
}

fn count_of(host: &Host, sentence: &str) -> usize {
    let log = host.log();
    let lines = log.iter().filter(|line| line["message"] == sentence);
    lines.count()
}

/// Another process's lock on a SQLite store, until it is dropped.
struct Lock {
    runtime: tokio::runtime::Runtime,
    connection: Option<AnyConnection>,
}

impl Lock {
    fn on(path: &Path) -> Self {
        sqlx::any::install_default_drivers();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let connection = runtime.block_on(async {
            let url = format!("sqlite:{}", path.display());
            let mut connection = AnyConnection::connect(&url).await.expect("a database");
            let begin = sqlx::raw_sql("BEGIN EXCLUSIVE").execute(&mut connection);
            begin.await.expect("the lock is free");
            connection
        });
        Self {
            runtime,
            connection: Some(connection),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            let closed = self.runtime.block_on(connection.close());
            closed.expect("SQLite closes what it has opened");
        }
    }
}

#[test]
fn a_full_disk_stops_sign_ins_until_it_is_freed_and_nothing_else() {
    let disk = Disk::of(8 << 20);
    let host = host_on(&disk.path().join("store.db"));
    add_user(host.folder(), "ada@example.com", "");
    let (_, seen) = new_token(host.folder(), "ada@example.com", "");
    let (_, unseen) = new_token(host.folder(), "ada@example.com", "");
    assert_eq!(me(&host, &seen).status, 200);
    assert_eq!(log_in(&host, "ada@example.com").status, 200);
    disk.fill();
    for _ in 0..5 {
        let error = log_in(&host, "ada@example.com").error();
        assert_eq!(error, (503, "SERVICE_UNAVAILABLE".into()));
    }
    // Who has a token is served, one that nobody has looked up before included.
    assert_eq!(me(&host, &seen).status, 200);
    assert_eq!(me(&host, &unseen).status, 200);
    assert_eq!(status_of(&host, "/server/health"), (200, json!("warn")));
    assert_eq!(status_of(&host, "/server/ready"), (200, json!("ok")));
    let told = check(&host, "store:writable");
    assert_eq!(told["status"], "warn");
    assert!(told["output"].as_str().unwrap().contains("full"), "{told}");
    assert_eq!(
        count_of(&host, UNCHANGEABLE),
        1,
        "one line, not one for each"
    );
    disk.free();
    // At once, and not when something has been given up or started again.
    assert_eq!(log_in(&host, "ada@example.com").status, 200);
    host.said(CHANGEABLE);
    is_well(&host);
}

#[test]
fn a_disk_that_is_freed_is_noticed_without_a_sign_in() {
    let disk = Disk::of(8 << 20);
    let host = host_on(&disk.path().join("store.db"));
    add_user(host.folder(), "ada@example.com", "");
    disk.fill();
    // Known from the moment on that a caller has met it, whatever was seen a moment ago.
    is_well(&host);
    assert_eq!(log_in(&host, "ada@example.com").status, 503);
    assert_eq!(status_of(&host, "/server/health"), (200, json!("warn")));
    disk.free();
    host.said(CHANGEABLE);
    is_well(&host);
}

#[test]
fn a_lock_of_another_process_stops_sign_ins_and_no_token() {
    let host = plan_on(None).start();
    let path = host.folder().join("data/extension-host.db");
    add_user(host.folder(), "ada@example.com", "");
    let (_, unseen) = new_token(host.folder(), "ada@example.com", "");
    let lock = Lock::on(&path);
    // Health is told within a second, although SQLite waits for three.
    assert_eq!(status_of(&host, "/server/health"), (200, json!("warn")));
    let error = log_in(&host, "ada@example.com").error();
    assert_eq!(error, (503, "SERVICE_UNAVAILABLE".into()));
    assert_eq!(me(&host, &unseen).status, 200);
    assert_eq!(status_of(&host, "/server/ready"), (200, json!("ok")));
    let line = host.said(UNCHANGEABLE);
    assert!(line["cause"].as_str().unwrap().contains("locked"), "{line}");
    let told = check(&host, "store:writable");
    assert!(
        told["output"].as_str().unwrap().contains("locked"),
        "{told}"
    );
    drop(lock);
    host.said(CHANGEABLE);
    assert_eq!(log_in(&host, "ada@example.com").status, 200);
    is_well(&host);
}

#[test]
fn a_store_that_is_moved_away_or_replaced_is_not_used_until_it_is_back() {
    let host = plan_on(None).start();
    let path = host.folder().join("data/extension-host.db");
    add_user(host.folder(), "ada@example.com", "");
    let (_, token) = new_token(host.folder(), "ada@example.com", "");
    assert_eq!(me(&host, &token).status, 200);
    let away = host.folder().join("away.db");
    let out_of_use = || {
        assert_eq!(log_in(&host, "ada@example.com").status, 503);
        eventually("a cached answer ends", || me(&host, &token).status == 503);
        assert_eq!(status_of(&host, "/server/health"), (503, json!("error")));
        assert_eq!(status_of(&host, "/server/ready"), (503, json!("error")));
        // Nobody is let in for that, and the operator still is.
        let told = check(&host, "store:responseTime");
        let output = told["output"].as_str().unwrap();
        assert!(output.contains("deleted or replaced"), "{told}");
    };
    // Its log, whose changes would be lost without a word.
    let (log, log_away) = (beside(&path, "-wal"), host.folder().join("away.log"));
    fs::rename(&log, &log_away).unwrap();
    out_of_use();
    fs::rename(&log_away, &log).unwrap();
    eventually("it is back", || me(&host, &token).status == 200);
    fs::rename(&path, &away).unwrap();
    out_of_use();
    assert!(!path.exists(), "no store is made in its place");
    host.said(UNREADABLE);
    fs::rename(&away, &path).unwrap();
    host.said(READABLE);
    assert_eq!(me(&host, &token).status, 200);
    assert_eq!(log_in(&host, "ada@example.com").status, 200);
    // Another store, even one that is whole.
    let other = plan_on(None).start();
    let (other_folder, copy) = (other.folder().to_owned(), host.folder().join("copy.db"));
    let backup = format!("backup {}", copy.display());
    crate::identity_support::done(&other_folder, &backup, "");
    fs::rename(&path, &away).unwrap();
    fs::rename(&copy, &path).unwrap();
    out_of_use();
    fs::rename(&away, &path).unwrap();
    eventually("it is back", || me(&host, &token).status == 200);
}

#[test]
fn anonymous_probes_are_no_load_for_a_store_that_does_not_answer() {
    let host = plan_on(None).start();
    let path = host.folder().join("data/extension-host.db");
    let lock = Lock::on(&path);
    let asked = thread::scope(|scope| {
        let ask = |path: &'static str| {
            let host = &host;
            move || (0..4).map(|_| host.get(path).status).collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..16)
            .map(|number| {
                scope.spawn(ask(if number % 2 == 0 {
                    "/server/health"
                } else {
                    "/server/ready"
                }))
            })
            .collect();
        // Workers are not held up by them.
        assert_eq!(host.get("/server/ping").text(), "pong");
        let answers = threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap());
        answers.collect::<Vec<u16>>()
    });
    assert_eq!(asked, vec![200; 64], "it can be read");
    // Each question that SQLite refuses, after 3 s, is one in the log's count: of the 64 that were asked few were passed on.
    host.said(UNCHANGEABLE);
    // So long that each question that waits for its turn would have been refused, too.
    thread::sleep(Duration::from_secs(6));
    drop(lock);
    let count = host.said(CHANGEABLE)["failed_count"].as_u64().unwrap();
    assert!(count < 16, "{count}");
    is_well(&host);
}

/// One of many clients that keep their connections: asks again and again, and counts the answers.
struct Client {
    statuses: BTreeMap<u16, usize>,
    /// The status of the last answer.
    last: u16,
}

impl Client {
    fn run(host: &Host, is_over: &AtomicBool, ask: impl Fn(&mut Connection) -> Answer) -> Self {
        let mut client = Self {
            statuses: BTreeMap::new(),
            last: 0,
        };
        let mut connection = host.connect();
        while !is_over.load(Ordering::Relaxed) {
            let answer = ask(&mut connection);
            client.last = answer.status;
            *client.statuses.entry(answer.status).or_default() += 1;
        }
        client.last = ask(&mut connection).status;
        client
    }
}

/// Has 64 clients sign in and show tokens while something happens to the store, and counts each of their answers: 200, or 503, and
/// never anybody else's name. When `happen` returns, all is well again.
fn under_load(host: &Host, happen: impl FnOnce()) -> [BTreeMap<u16, usize>; 2] {
    let names: Vec<String> = (0..8).map(|n| format!("user{n}@example.com")).collect();
    let tokens: Vec<String> = names
        .iter()
        .map(|name| {
            add_user(host.folder(), name, "");
            new_token(host.folder(), name, "").1
        })
        .collect();
    let is_over = AtomicBool::new(false);
    let clients: Vec<(bool, Client)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..64)
            .map(|number| {
                let (name, token) = (&names[number % 8], &tokens[number % 8]);
                let is_over = &is_over;
                // An eighth of them: a password takes a core for a while.
                let signs_in = number % 8 == number / 8;
                scope.spawn(move || {
                    let client = if signs_in {
                        Client::run(host, is_over, |connection| {
                            let body = json!({"email": name, "password": "secret"}).to_string();
                            let head = "POST /auth/login\nContent-Type: application/json";
                            connection.send(request(head, body.as_bytes()));
                            let answer = connection.answer();
                            thread::sleep(Duration::from_millis(20));
                            answer
                        })
                    } else {
                        Client::run(host, is_over, |connection| {
                            let head = format!("GET /users/me\nAuthorization: Bearer {token}");
                            connection.send(request(&head, b""));
                            let answer = connection.answer();
                            if answer.status == 200 {
                                assert_eq!(answer.json()["data"]["email"], name.as_str());
                            }
                            thread::sleep(Duration::from_millis(5));
                            answer
                        })
                    };
                    (signs_in, client)
                })
            })
            .collect();
        let end = End(&is_over);
        happen();
        drop(end);
        let clients = threads.into_iter().map(|thread| thread.join().unwrap());
        clients.collect()
    });
    let mut counts = [BTreeMap::new(), BTreeMap::new()];
    for (signs_in, client) in clients {
        assert_eq!(client.last, 200, "each is served again");
        for (status, count) in client.statuses {
            assert!(matches!(status, 200 | 503), "{count} times {status}");
            *counts[usize::from(signs_in)].entry(status).or_default() += count;
        }
    }
    eprintln!("tokens {:?}, sign-ins {:?}", counts[0], counts[1]);
    counts
}

#[test]
fn a_disk_that_fills_under_load_costs_sign_ins_alone() {
    let disk = Disk::of(8 << 20);
    let host = host_on(&disk.path().join("store.db"));
    let [tokens, sign_ins] = under_load(&host, || {
        for _ in 0..3 {
            disk.fill();
            eventually("sign-ins fail", || {
                log_in(&host, "user0@example.com").status == 503
            });
            disk.free();
            eventually("sign-ins are well", || {
                log_in(&host, "user0@example.com").status == 200
            });
        }
    });
    assert!(sign_ins[&503] > 0 && sign_ins[&200] > 0, "{sign_ins:?}");
    assert_eq!(tokens.keys().collect::<Vec<_>>(), [&200], "{tokens:?}");
    // Far fewer lines than answers.
    let lines = count_of(&host, UNCHANGEABLE);
    assert!((1..=6).contains(&lines), "{lines}");
}

#[test]
fn a_lock_for_ten_seconds_under_load_costs_sign_ins_alone() {
    let host = plan_on(None).start();
    let path = host.folder().join("data/extension-host.db");
    let [tokens, sign_ins] = under_load(&host, || {
        let lock = Lock::on(&path);
        thread::sleep(Duration::from_secs(10));
        drop(lock);
        host.said(CHANGEABLE);
    });
    assert!(sign_ins[&503] > 0, "{sign_ins:?}");
    assert_eq!(tokens.keys().collect::<Vec<_>>(), [&200], "{tokens:?}");
    assert_eq!(count_of(&host, UNCHANGEABLE), 1);
}

/// A host on a PostgreSQL behind a line that can be cut; `None` where there is no PostgreSQL.
fn behind_a_line() -> Option<(Host, Cut, String)> {
    let url = database()?;
    let (scheme_and_user, place) = url.rsplit_once('@').expect("a URL with a user");
    let (server, name) = place.split_once('/').expect("a URL with a database");
    let server = server.to_socket_addrs().expect("an address").next();
    let cut = Cut::before(server.expect("an address"));
    let through = format!("{scheme_and_user}@{}/{name}?sslmode=disable", cut.address());
    Some((plan_on(Some(&through)).start(), cut, url.clone()))
}

#[test]
fn connections_to_postgresql_that_are_ended_are_made_anew() {
    let Some((host, _cut, url)) = behind_a_line() else {
        return;
    };
    add_user(host.folder(), "ada@example.com", "");
    for _ in 0..3 {
        assert_eq!(log_in(&host, "ada@example.com").status, 200);
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE datname = current_database() AND pid <> pg_backend_pid()";
        execute(&url, &[end]);
        let (_, token) = new_token(host.folder(), "ada@example.com", "");
        assert_eq!(me(&host, &token).status, 200, "no request pays for it");
    }
}

#[test]
fn a_postgresql_that_is_gone_or_silent_is_503_until_it_is_back() {
    for line in [Line::Closed, Line::Silent] {
        let Some((host, cut, _)) = behind_a_line() else {
            return;
        };
        add_user(host.folder(), "ada@example.com", "");
        let (_, token) = new_token(host.folder(), "ada@example.com", "");
        let (_, unseen) = new_token(host.folder(), "ada@example.com", "");
        assert_eq!(me(&host, &token).status, 200);
        cut.set(line);
        assert_eq!(me(&host, &unseen).status, 503);
        assert_eq!(log_in(&host, "ada@example.com").status, 503);
        assert_eq!(status_of(&host, "/server/ready"), (503, json!("error")));
        assert_eq!(host.get_as_admin("/server/health").status, 503);
        host.said(UNREADABLE);
        cut.set(Line::Open);
        host.said(READABLE);
        eventually("tokens count", || me(&host, &unseen).status == 200);
        eventually("sign-ins are well", || {
            log_in(&host, "ada@example.com").status == 200
        });
        is_well(&host);
    }
}

/// Another session's lock on a table of a PostgreSQL, until it is dropped.
struct TableLock {
    runtime: tokio::runtime::Runtime,
    session: AnyConnection,
}

impl TableLock {
    fn on(url: &str, table: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let session = runtime.block_on(async {
            let mut session = AnyConnection::connect(url).await.expect("a database");
            let lock = format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
            let lock = sqlx::raw_sql(sqlx::AssertSqlSafe(lock)).execute(&mut session);
            lock.await.expect("the lock is free");
            session
        });
        Self { runtime, session }
    }

    /// How many sessions wait for a lock.
    fn waiting(&mut self) -> i64 {
        let query = "SELECT COUNT(*) FROM pg_stat_activity \
                     WHERE datname = current_database() AND wait_event_type = 'Lock'";
        self.runtime.block_on(async {
            // Within a transaction it would be the count of the first time for ever.
            let anew = sqlx::raw_sql("SELECT pg_stat_clear_snapshot()");
            anew.execute(&mut self.session).await.expect("a session");
            let count = sqlx::query_scalar(query).fetch_one(&mut self.session);
            count.await.expect("a count")
        })
    }
}

#[test]
fn a_table_of_postgresql_that_is_locked_for_long_stops_sign_ins_and_no_token() {
    let Some((host, _cut, url)) = behind_a_line() else {
        return;
    };
    add_user(host.folder(), "ada@example.com", "");
    let (_, token) = new_token(host.folder(), "ada@example.com", "");
    let lock = TableLock::on(&url, "host_sessions");
    assert_eq!(log_in(&host, "ada@example.com").status, 503);
    assert_eq!(me(&host, &token).status, 200);
    drop(lock);
    host.said(UNCHANGEABLE);
    eventually("sign-ins are well", || {
        log_in(&host, "ada@example.com").status == 200
    });
    host.said(CHANGEABLE);
}

#[test]
fn a_postgresql_that_falls_silent_in_the_middle_of_queries_keeps_no_connection() {
    let Some((host, cut, url)) = behind_a_line() else {
        return;
    };
    add_user(host.folder(), "ada@example.com", "");
    let (_, token) = new_token(host.folder(), "ada@example.com", "");
    let mut lock = TableLock::on(&url, "host_tokens");
    let is_silent = AtomicBool::new(false);
    thread::scope(|scope| {
        // Each is looked up, whether it is anybody's or not: more than there are connections, again and again.
        for number in 0..16 {
            let (host, unknown, is_silent) = (&host, format!("{number:043}"), &is_silent);
            scope.spawn(move || {
                while !is_silent.load(Ordering::Relaxed) {
                    assert_eq!(me(host, &unknown).status, 503);
                }
            });
        }
        let end = End(&is_silent);
        eventually("every connection waits", || lock.waiting() >= 8);
        cut.set(Line::Silent);
        drop(end);
    });
    drop(lock);
    cut.set(Line::Open);
    eventually("tokens count", || me(&host, &token).status == 200);
    is_well(&host);
}

#[test]
fn an_administrators_token_counts_whatever_the_store_does() {
    let host = plan_on(None).start();
    let path = host.folder().join("data/extension-host.db");
    fs::remove_file(path).unwrap();
    let head = format!("/extensions\nAuthorization: Bearer {ADMIN_TOKEN}");
    assert_eq!(host.get(&head).status, 200);
}
