//! Threads: those of blocking routes are bounded, those of the host's own work are its own, and a system that gives none is no
//! disaster.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::identity_support::{add_user, plan, post};
use crate::support::host::{Plan, request};
use crate::support::{Connection, End, Extension, Host, Upstream, eventually};

/// A Rust extension, of which every call of this blocking route is answered with 500 by the thread that runs it.
const OF_ANOTHER: &str = "/failing/panic-blocking";

fn another() -> Extension {
    Extension::rust("directus-extension-failing", "handlers_that_fail")
}

/// A request to a blocking route that is answered when the file `go` exists.
fn blocked(host: &Host) -> Connection {
    let mut client = host.connect();
    let gate = host.folder().join("go");
    let head = format!("GET /probe/blocking\nX-Gate: {}", gate.display());
    client.send(request(&head, b""));
    client
}

/// Answers of all, when they may come; how many were served, and how many refused.
fn counted(host: &Host, clients: Vec<Connection>) -> (usize, usize) {
    fs::write(host.folder().join("go"), "").expect("a file");
    let (mut served, mut refused) = (0, 0);
    for mut client in clients {
        let answer = client.answer();
        match answer.status {
            200 => served += 1,
            503 => {
                assert!(answer.header("retry-after").is_some());
                refused += 1;
            }
            other => panic!("{other}"),
        }
    }
    (served, refused)
}

/// How many threads of this name the host has.
fn threads(host: &Host, name: &str) -> usize {
    let tasks = fs::read_dir(format!("/proc/{}/task", host.pid())).expect("it runs");
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("comm")).ok())
        .filter(|comm| comm.trim() == name)
        .count()
}

// ---- Blocking routes ----

#[test]
fn one_extension_has_no_more_than_its_share_of_the_threads() {
    let host = Host::plan()
        .config("[limits]\nblocking_threads = 8")
        .extensions(&[&Extension::probe(), &another()])
        .start();
    let clients: Vec<_> = (0..12).map(|_| blocked(&host)).collect();
    let line = host.logged("refusals are told", |line| {
        line["refused_count"].as_u64().is_some()
    });
    assert_eq!(line["extension"], "directus-extension-probe");
    assert_eq!(line["blocking_threads_each"], "4", "half of them");
    assert_eq!(host.get(OF_ANOTHER).status, 500, "the others have theirs");
    assert_eq!(threads(&host, "blocking"), 5);
    eventually("all but four are refused", || {
        let lines = host.log();
        let refused = lines
            .iter()
            .filter_map(|line| line["refused_count"].as_u64());
        refused.sum::<u64>() == 8
    });
    assert_eq!(counted(&host, clients), (4, 8));
    assert_eq!(host.get("/probe/now").text(), "now");
}

#[test]
fn an_extension_may_ask_for_fewer_threads_and_the_operator_may_give_more() {
    for (each, wanted, threads_max) in [(0, 1, 1), (6, 8, 6), (100, 100, 8)] {
        let probe =
            Extension::probe().more_manifest(&format!("[limits]\nblocking_threads = {wanted}"));
        let host = Host::plan()
            .config(&format!(
                "[limits]\nblocking_threads = 8\nblocking_threads_each = {each}"
            ))
            .extensions(&[&probe])
            .start();
        let clients: Vec<_> = (0..threads_max).map(|_| blocked(&host)).collect();
        eventually("they have their threads", || {
            threads(&host, "blocking") == threads_max
        });
        let refused = host.get(&format!(
            "/probe/blocking\nX-Gate: {}",
            host.folder().join("go").display()
        ));
        assert_eq!(refused.error(), (503, "SERVICE_UNAVAILABLE".into()));
        assert_eq!(counted(&host, clients), (threads_max, 0));
    }
}

#[test]
fn threads_that_an_older_build_holds_count_for_the_extension() {
    let host = Host::plan()
        .config("[limits]\nblocking_threads = 4")
        .extensions(&[&Extension::probe(), &another()])
        .start();
    let clients: Vec<_> = (0..2).map(|_| blocked(&host)).collect();
    eventually("they have their threads", || {
        threads(&host, "blocking") == 2
    });
    assert_eq!(reload(&host, "probe"), 200);
    let gate = host.folder().join("go");
    let answer = host.get(&format!("/probe/blocking\nX-Gate: {}", gate.display()));
    assert_eq!(answer.status, 503, "the new build's calls have no thread");
    assert_eq!(host.get(OF_ANOTHER).status, 500);
    assert_eq!(counted(&host, clients), (2, 0));
}

#[test]
fn a_burst_of_blocking_calls_is_served_one_after_the_other() {
    let host = Host::plan()
        .config("[limits]\nblocking_threads = 2")
        .extensions(&[&Extension::probe()])
        .start();
    fs::write(host.folder().join("go"), "").expect("a file");
    let clients: Vec<_> = (0..40).map(|_| blocked(&host)).collect();
    assert_eq!(counted(&host, clients), (40, 0));
}

fn reload(host: &Host, id: &str) -> u16 {
    let head = format!(
        "POST /extensions/{id}/reload\nAuthorization: Bearer {}",
        crate::support::ADMIN_TOKEN
    );
    host.ask(&head, "").status
}

/// A host with a user, whose probe has taken every thread for blocking routes, for ever.
fn with_all_threads_stuck(plan: Plan) -> (Host, Vec<Connection>) {
    const THREADS: usize = 64;
    let host = plan
        .config(&format!(
            "[limits]\nblocking_threads = {THREADS}\nblocking_threads_each = {THREADS}"
        ))
        .extensions(&[&Extension::good()])
        .start();
    add_user(host.folder(), "anna@example.com", "");
    let clients: Vec<_> = (0..THREADS).map(|_| blocked(&host)).collect();
    eventually("all threads are stuck", || {
        threads(&host, "blocking") == THREADS
    });
    (host, clients)
}

#[test]
fn the_hosts_own_work_goes_on_while_all_blocking_threads_are_stuck() {
    const ROUNDS: usize = 10;
    let upstream = Upstream::saying("from elsewhere");
    let by_name = format!("http://localhost:{}", upstream.address().port());
    let (host, clients) = with_all_threads_stuck(plan().dotenv("UPSTREAM", by_name));
    let is_over = AtomicBool::new(false);
    let load = AtomicUsize::new(0);
    let credentials = json!({"email": "anna@example.com", "password": "secret"});
    thread::scope(|scope| {
        // Each answer is counted, and each must be right.
        scope.spawn(|| {
            let mut client = host.connect();
            while !is_over.load(Ordering::Relaxed) {
                client.send(request("GET /c-sample/now", b""));
                assert_eq!(client.answer().text(), "hello from C");
                load.fetch_add(1, Ordering::Relaxed);
            }
        });
        let end = End(&is_over);
        for round in 0..ROUNDS {
            let answer = post(&host, "/auth/login", "", &credentials);
            assert_eq!(answer.status, 200, "sign-in {round}");
            assert_eq!(host.get("/probe/fetch").text(), "from elsewhere", "{round}");
            assert_eq!(reload(&host, "c-sample"), 200, "reload {round}");
            assert_eq!(host.get_as_admin("/extensions").status, 200, "{round}");
        }
        drop(end);
    });
    assert_eq!(upstream.calls().len(), ROUNDS);
    assert!(load.into_inner() >= ROUNDS);
    assert_eq!(counted(&host, clients), (64, 0));
}

// ---- Files ----

/// The private copy of an extension's library, which the host hashes when it is first asked.
fn copy_of(host: &Host, library: &str) -> PathBuf {
    let folders = fs::read_dir(host.folder().join("tmp")).expect("a folder");
    let files = folders
        .flatten()
        .filter_map(|folder| fs::read_dir(folder.path()).ok());
    let mut paths = files.flat_map(|files| files.flatten().map(|file| file.path()));
    let is_it = |path: &PathBuf| path.to_string_lossy().contains(library);
    paths.find(is_it).expect("a copy")
}

#[test]
fn a_library_is_hashed_once_and_no_worker_waits_for_it() {
    let host = Host::plan()
        .option("--workers=1")
        .extensions(&[&Extension::good()])
        .start();
    // Reading waits until somebody writes, as a disk may.
    let copy = copy_of(&host, "fixture");
    fs::remove_file(&copy).expect("a copy");
    let made = Command::new("mkfifo").arg(&copy).status();
    assert!(made.expect("mkfifo runs").success());
    let ask = || {
        let mut client = host.connect();
        let token = crate::support::ADMIN_TOKEN;
        let head = format!("GET /extensions\nAuthorization: Bearer {token}");
        client.send(request(&head, b""));
        client
    };
    let waiting = [ask(), ask(), ask()];
    for _ in 0..20 {
        assert_eq!(host.get("/c-sample/now").text(), "hello from C");
    }
    // Once: a second reader would have nobody who writes.
    fs::write(&copy, "abc").expect("somebody reads");
    for mut client in waiting {
        let answer = client.answer();
        let list: Value = answer.json();
        let of_abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(list["data"][0]["content_sha256"], of_abc);
    }
}

// ---- A system that gives no threads ----

/// A user that no other process has: the limit counts those of the user. Root has none.
const NOBODY: u32 = 64_123;

/// Lets the user's processes have this many threads.
fn limit_threads(host: &Host, limit: u32) {
    let done = Command::new("setpriv")
        .args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")])
        .args(["--clear-groups", "prlimit"])
        .args(["--pid", &host.pid().to_string()])
        .arg(format!("--nproc={limit}:"))
        .status();
    assert!(done.expect("prlimit runs").success());
}

/// Runs the host as that user; `None`: only root may.
fn by_nobody(plan: Plan) -> Option<Host> {
    let owned = Command::new("chown")
        .args(["-R", &NOBODY.to_string()])
        .arg(plan.folder())
        .status();
    if !owned.is_ok_and(|status| status.success()) {
        println!("only root may run the host as somebody else");
        return None;
    }
    let host = plan.run_by(NOBODY).start();
    // Then all of its own threads are there.
    assert_eq!(host.get("/server/ping").text(), "pong");
    Some(host)
}

#[test]
fn an_extension_that_gets_no_thread_to_start_on_is_not_said_to_be_slow() {
    let plan = Host::plan().config("trial_load = false");
    let Some(host) = by_nobody(plan.extensions(&[&Extension::probe()])) else {
        return;
    };
    limit_threads(&host, 1);
    assert_eq!(reload(&host, "probe"), 422);
    let error = host.said_of("directus-extension-probe")[0]["error"].clone();
    assert_eq!(error["code"], "NO_THREAD", "{error}");
    let message = error["message"].as_str().expect("a sentence");
    assert!(message.contains("raise the limit of threads"), "{message}");
    limit_threads(&host, 1_000);
    assert_eq!(reload(&host, "probe"), 200);
}

#[test]
fn a_system_that_gives_no_thread_is_told_and_answered_503() {
    if Host::is_sanitized() {
        return;
    }
    let upstream = Upstream::saying("from elsewhere");
    let by_name = format!("http://localhost:{}", upstream.address().port());
    let plan = Host::plan()
        .dotenv("UPSTREAM", by_name)
        .extensions(&[&Extension::probe()]);
    let Some(host) = by_nobody(plan) else {
        return;
    };
    fs::write(host.folder().join("go"), "").expect("a file");
    limit_threads(&host, 1);
    let gate = host.folder().join("go");
    let blocking = format!("/probe/blocking\nX-Gate: {}", gate.display());
    for _ in 0..3 {
        let refused = host.get(&blocking);
        assert_eq!(refused.error(), (503, "SERVICE_UNAVAILABLE".into()));
    }
    let told = |line: &Value| {
        let message = line["message"].as_str().unwrap_or_default();
        message.starts_with("the system gives no thread")
    };
    assert_eq!(host.logged("it is told", told)["for"], "blocking");
    // The host's own threads are there already.
    assert_eq!(host.get("/probe/fetch").text(), "from elsewhere");
    assert_eq!(host.get_as_admin("/extensions").status, 200);
    assert_eq!(reload(&host, "probe"), 422, "its `create` has no thread");
    limit_threads(&host, 1_000);
    assert_eq!(host.get(&blocking).text(), "at last");
    assert_eq!(reload(&host, "probe"), 200);
    let log = host.stop().log;
    assert_eq!(log.iter().filter(|line| told(line)).count(), 1, "once");
    assert!(
        !log.iter()
            .any(|line| line["message"] == "the host panicked")
    );
}
