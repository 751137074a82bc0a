//! A server that is ended by an extension, by somebody else, or to make room for another: who did it is named, and what comes
//! meanwhile waits.

use std::fs;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::support::host::request;
use crate::support::{ADMIN_TOKEN, Connection, End, Extension, Host, built, eventually};

const CRASHED: &str = "the server has crashed, and is started anew";
const STOPPING: &str = "stopping: requests in flight are finished first";
const STUCK: &str = "an extension keeps a worker; a new server takes over";

fn crasher() -> Extension {
    Extension::c("directus-extension-crasher", "crasher.c", &[])
}

/// A host of two processes, with one that crashes and one that does not.
fn host() -> Host {
    Host::plan()
        .supervised()
        .config("[quarantine]\ncrashes = 100")
        .extensions(&[&crasher(), &Extension::good()])
        .start()
}

/// A host with a request in flight, which is answered when the file is there.
fn with_a_request_that_waits() -> (Host, Connection, PathBuf) {
    let host = Host::plan()
        .supervised()
        .extensions(&[&Extension::probe()])
        .start();
    let gate = host.folder().join("gate");
    let mut client = host.connect();
    client.send(request(
        &format!("GET /probe/hold\nX-Gate: {}", gate.display()),
        b"",
    ));
    host.said("has it");
    (host, client, gate)
}

/// Has the extension do something that no answer comes of.
fn ask_for_the_end(host: &Host, path: &str) {
    let mut client = host.connect();
    client.send(format!("GET /crasher/{path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert!(client.ends(), "{path} is not answered");
}

fn crashes(host: &Host) -> Vec<Value> {
    let log = host.log().into_iter();
    log.filter(|line| line["message"] == CRASHED).collect()
}

#[test]
fn whatever_ends_the_server_is_named_with_its_extension_and_the_others_are_served() {
    let host = host();
    let ends = [
        ("segv", "SIGSEGV", true),
        ("abort", "SIGABRT", true),
        ("exit", "exit with code 0", true),
        ("exit-at-once", "exit with code 3", true),
        ("overflow", "SIGSEGV (stack overflow)", true),
        ("kill", "SIGKILL", true),
        ("thread", "SIGSEGV", false),
        ("library", "SIGSEGV", false),
        ("later", "SIGSEGV", true),
        ("blocking", "SIGSEGV", true),
        ("exit-thread", "SIGABRT", true),
    ];
    let is_seen = |path: &str| path != "exit-at-once" || !Host::is_sanitized();
    let ends = ends.into_iter().filter(|(path, ..)| is_seen(path));
    for (number, (path, cause, has_route)) in ends.enumerate() {
        ask_for_the_end(&host, path);
        // A request on a connection of the server that is ending goes with it.
        eventually("the crash is told", || crashes(&host).len() == number + 1);
        assert_eq!(
            host.get("/c-sample/now").text(),
            "hello from C",
            "after {path}"
        );
        let line = &crashes(&host)[number];
        let who = if path == "kill" {
            "inside"
        } else {
            "extension"
        };
        assert_eq!(line[who], "directus-extension-crasher", "{line}");
        assert_eq!(line["cause"], cause, "{line}");
        assert_eq!(line["build"], "1", "{line}");
        if has_route {
            assert_eq!(line["route"], format!("GET /crasher/{path}"), "{line}");
            assert_eq!(line["request"].as_str().expect("an id").len(), 16, "{line}");
        }
    }
}

#[test]
fn who_ends_the_process_past_its_handlers_is_named_alone_among_all_who_are_inside() {
    if Host::is_sanitized() {
        return;
    }
    let other = Extension::c("directus-extension-other", "crasher.c", &["ID=\"other\""]);
    let host = Host::plan()
        .supervised()
        .config("[quarantine]\ncrashes = 100")
        .extensions(&[&crasher(), &other])
        .start();
    let ends = [
        ("exit-at-once", true),
        ("exit-of-c99", true),
        ("quick-exit", true),
        ("exit-of-thread", true),
        // By the number of the system call, which nothing sees.
        ("exit-by-call", false),
    ];
    for (number, (path, is_certain)) in ends.into_iter().enumerate() {
        let mut inside = host.connect();
        inside.send("GET /other/hang-aside HTTP/1.1\r\nHost: a\r\n\r\n");
        eventually("another is inside", || {
            let log = host.log().into_iter();
            log.filter(|line| line["message"] == "inside").count() == number + 1
        });
        ask_for_the_end(&host, path);
        eventually("the crash is told", || crashes(&host).len() == number + 1);
        let line = &crashes(&host)[number];
        assert_eq!(line["cause"], "exit with code 3", "{line}");
        if is_certain {
            assert_eq!(line["extension"], "directus-extension-crasher", "{line}");
        } else {
            let inside = line["inside"].as_str().unwrap_or_default();
            assert!(
                inside.contains("crasher") && inside.contains("other"),
                "{line}"
            );
        }
    }
}

#[test]
fn a_stack_overflow_on_a_thread_of_an_extensions_own_is_told_as_what_it_seems_to_be() {
    if Host::is_sanitized() {
        return;
    }
    let host = host();
    ask_for_the_end(&host, "overflow-of-thread");
    let line = host.said(CRASHED);
    let cause = line["cause"].as_str().expect("a cause");
    assert!(cause.starts_with("SIGSEGV (stack overflow"), "{line}");
    assert_eq!(line["inside"], "directus-extension-crasher", "{line}");
}

#[test]
fn what_a_forked_process_does_is_not_taken_for_what_ends_the_server() {
    let host = host();
    assert_eq!(host.get("/crasher/fork").text(), "alive");
    kill(host.server_pid(), "KILL");
    let line = host.said(CRASHED);
    assert_eq!(
        line["extension"], "unknown: none was being called",
        "{line}"
    );
}

#[test]
fn without_a_supervisor_a_crash_is_named_by_the_host_itself() {
    let ends = [
        ("segv", Some(11), "SIGSEGV", true),
        ("abort", Some(6), "SIGABRT", true),
        ("overflow", Some(11), "SIGSEGV (stack overflow)", true),
        ("thread", Some(11), "SIGSEGV", false),
        ("exit", None, "exit", true),
        ("exit-at-once", None, "exit", true),
    ];
    for (path, signal, cause, has_route) in ends {
        let host = Host::with(&[&crasher(), &Extension::good()]);
        ask_for_the_end(&host, path);
        let ended = host.ended();
        assert_eq!(ended.signal, signal, "{path}");
        let sentence = "the host has crashed; it has no supervisor that would start it anew";
        let told = ended.log.iter().filter(|line| line["message"] == sentence);
        let [line] = &told.collect::<Vec<_>>()[..] else {
            panic!("{path} is told once");
        };
        assert_eq!(line["level"], "error", "{line}");
        assert_eq!(line["cause"], cause, "{line}");
        assert_eq!(line["extension"], "directus-extension-crasher", "{line}");
        assert_eq!(line["build"], "1", "{line}");
        if has_route {
            assert_eq!(line["route"], format!("GET /crasher/{path}"), "{line}");
            assert_eq!(line["request"].as_str().expect("an id").len(), 16, "{line}");
        }
    }
}

#[test]
fn a_host_that_crashes_ends_although_nobody_reads_its_log() {
    let host = Host::with(&[&crasher()]);
    host.leave_log_unread();
    // More than the pipe takes, in lines that are shorter than the last one, so that there is no room left for that.
    let mut client = host.connect();
    for _ in 0..1_000 {
        client.send("GET /x HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.answer().status, 404);
    }
    ask_for_the_end(&host, "segv");
    assert_eq!(host.ended_unread().signal, Some(11));
}

#[test]
fn an_extension_that_uses_up_the_memory_ends_its_server_and_is_named() {
    // A sanitizer takes more addresses than there may be.
    if !Host::gives_memory_back() {
        return;
    }
    let host = Host::plan()
        .supervised()
        .through("prlimit", &["--as=8589934592"])
        .extensions(&[&crasher(), &Extension::good()])
        .start();
    ask_for_the_end(&host, "leak");
    assert_eq!(host.get("/c-sample/now").text(), "hello from C");
    let line = host.said(CRASHED);
    assert_eq!(line["extension"], "directus-extension-crasher", "{line}");
    assert_eq!(line["route"], "GET /crasher/leak", "{line}");
}

#[test]
fn a_worker_that_does_not_come_back_has_a_new_server_take_over() {
    let host = Host::plan()
        .supervised()
        .config(
            "[limits]\nstuck_ms = 1_500\nshutdown_timeout_ms = 2_000\n[quarantine]\ncrashes = 2",
        )
        .extensions(&[&crasher(), &Extension::good()])
        .start();
    let first = host.server_pid();
    let hang = "GET /crasher/hang HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut client = host.connect();
    client.send(hang);
    let line = host.said(STUCK);
    assert_eq!(line["extension"], "directus-extension-crasher", "{line}");
    assert_eq!(line["route"], "GET /crasher/hang", "{line}");
    host.said("a new server serves; the old one finishes what it has begun");
    assert!(client.ends(), "the server that is stuck is ended");
    assert_ne!(host.server_pid(), first);
    for _ in 0..4 {
        assert_eq!(host.get("/c-sample/now").text(), "hello from C");
    }
    // It counts as a crash.
    let second = host.server_pid();
    client = host.connect();
    client.send(hang);
    host.logged("it is quarantined", |line| {
        let sentence = line["message"].as_str().unwrap_or_default();
        sentence.starts_with("an extension is quarantined")
    });
    // Until the server that is stuck has ended, it may take a connection that its worker never looks at.
    eventually("the third server is alone", || {
        let servers = host.servers();
        servers.len() == 1 && servers[0] != second
    });
    assert_eq!(host.get("/crasher/alive").status, 404);
}

/// A host of which one worker never comes back, and the other serves. The next server takes a while to start.
fn with_a_stuck_worker() -> (Host, Connection) {
    let slow = Extension::c("directus-extension-crasher", "crasher.c", &["SLOW_CREATE"]);
    let host = Host::plan()
        .supervised()
        .config("trial_load = false\n[limits]\nstuck_ms = 5_000\nshutdown_timeout_ms = 2_000")
        .extensions(&[&slow, &Extension::good()])
        .start();
    let mut client = host.connect();
    client.send("GET /crasher/hang HTTP/1.1\r\nHost: a\r\n\r\n");
    host.said(STUCK);
    (host, client)
}

#[test]
fn no_connection_is_lost_from_the_moment_on_that_a_new_server_is_to_take_over() {
    let (host, mut stuck) = with_a_stuck_worker();
    let (is_over, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let clients: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        assert!(ask_on_a_new_connection(&host), "a connection is lost");
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let end = End(&is_over);
        assert!(stuck.ends(), "the server that is stuck is ended");
        eventually("the new server is alone", || host.servers().len() == 1);
        drop(end);
        for client in clients {
            client.join().expect("each is answered");
        }
    });
    assert!(answered.into_inner() > 16);
}

#[test]
fn a_server_that_nobody_takes_over_from_accepts_connections_again() {
    let (host, _stuck) = with_a_stuck_worker();
    let server = host.servers()[0];
    // In the middle of its start.
    eventually("the next server starts", || host.servers().len() == 2);
    kill(host.server_pid(), "KILL");
    host.said("the new server did not start; the old one serves on");
    // One of two goes to the worker that is well.
    let (answers, answered) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..2 {
            let answers = answers.clone();
            let host = &host;
            scope.spawn(move || answers.send(ask_on_a_new_connection(host)));
        }
        assert!(answered.recv().expect("an answer"));
        assert_eq!(host.servers(), [server], "no other has given it");
        kill(host.pid(), "KILL");
        kill(server, "KILL");
    });
}

#[test]
fn a_server_that_is_killed_from_outside_is_started_anew_and_nobody_is_to_blame() {
    let host = Host::plan()
        .supervised()
        .config("[quarantine]\ncrashes = 1")
        .extensions(&[&crasher(), &Extension::good()])
        .start();
    for number in 1..=3 {
        kill(host.server_pid(), "KILL");
        eventually("the crash is told", || crashes(&host).len() == number);
        assert_eq!(host.get("/crasher/alive").text(), "alive");
    }
    assert_eq!(
        crashes(&host)[0]["extension"],
        "unknown: none was being called"
    );
}

#[test]
fn what_comes_while_the_server_is_started_anew_waits_and_is_answered() {
    let host = host();
    let (is_over, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    // A connection of its own each time; one that was open may have been lost with the server.
                    if ask_on_a_new_connection(&host) {
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let _end = End(&is_over);
        for number in 1..=10 {
            ask_for_the_end(&host, "segv");
            eventually("the crash is told", || crashes(&host).len() == number);
        }
    });
    assert!(answered.into_inner() > 10);
}

/// Whether it was answered; a connection that is refused fails the test.
fn ask_on_a_new_connection(host: &Host) -> bool {
    let mut client = Connection::open(host.address());
    let sent =
        client.try_send("GET /c-sample/now HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    sent.is_ok() && client.rest().starts_with(b"HTTP/1.1 200")
}

// ---- Quarantine ----

#[test]
fn an_extension_that_ends_the_server_three_times_is_left_out_until_somebody_wants_it_again() {
    let host = Host::plan()
        .supervised()
        .extensions(&[&crasher(), &Extension::good()])
        .start();
    let quarantine = |times: usize| {
        for _ in 0..3 {
            ask_for_the_end(&host, "segv");
        }
        let sentence = "an extension is quarantined";
        eventually("it is quarantined", || {
            let log = host.log().into_iter();
            let told =
                log.filter(|line| line["message"].as_str().unwrap_or("").starts_with(sentence));
            told.count() == times
        });
        assert_eq!(host.get("/crasher/alive").status, 404);
        assert_eq!(host.get("/c-sample/now").status, 200);
    };
    quarantine(1);
    let [said] = &host.said_of("directus-extension-crasher")[..] else {
        panic!("one entry");
    };
    assert_eq!(
        (said["state"].as_str(), said["id"].as_str()),
        (Some("quarantined"), Some("crasher"))
    );
    assert_eq!(said["error"]["code"], "QUARANTINED");
    let why = said["error"]["message"].as_str().expect("a sentence");
    assert!(
        why.contains("it has ended the server 3 times within 600 s, last by SIGSEGV"),
        "{why}"
    );
    assert!(
        said["since"].as_str().expect("a time").starts_with("20"),
        "{said}"
    );
    let listed = host.command(&["list", "--json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    assert!(
        listed
            .as_array()
            .expect("a list")
            .iter()
            .any(|row| row["state"] == "quarantined"),
        "{listed}"
    );

    // An administrator wants it again, by its id.
    let reload = format!("POST /extensions/crasher/reload\nAuthorization: Bearer {ADMIN_TOKEN}");
    assert_eq!(host.ask(&reload, "").status, 200);
    assert_eq!(host.get("/crasher/alive").text(), "alive");

    // It may fail as often as before.
    quarantine(2);
    // Another build of it is another thing.
    let library = built::c_library("crasher.c", &["BUILD=2"]);
    let dist = host
        .folder()
        .join("extensions/directus-extension-crasher/dist");
    let [file] = &fs::read_dir(&dist)
        .expect("dist")
        .flatten()
        .collect::<Vec<_>>()[..]
    else {
        panic!("one library");
    };
    fs::copy(library, dist.join("new")).expect("a copy");
    fs::rename(dist.join("new"), file.path()).expect("a new library");
    host.signal("HUP");
    eventually("it is tried again", || {
        host.get("/crasher/alive").status == 200
    });
}

#[test]
fn two_that_crash_by_turns_do_not_blame_each_other() {
    let other = Extension::c("directus-extension-other", "crasher.c", &["ID=\"other\""]);
    let host = Host::plan()
        .supervised()
        .extensions(&[&crasher(), &other])
        .start();
    for _ in 0..2 {
        ask_for_the_end(&host, "segv");
        let mut client = host.connect();
        client.send("GET /other/abort HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(client.ends());
    }
    assert_eq!(host.get("/crasher/alive").text(), "alive");
    assert_eq!(host.get("/other/alive").text(), "alive");
    ask_for_the_end(&host, "segv");
    eventually("one is left out", || {
        host.get("/crasher/alive").status == 404
    });
    assert_eq!(host.get("/other/alive").text(), "alive");
}

// ---- Another server ----

#[test]
fn a_server_is_replaced_and_no_request_of_a_connection_that_is_kept_is_lost() {
    let host = host();
    let (is_over, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let mut client = host.connect();
                while !is_over.load(Ordering::Relaxed) {
                    client.send("GET /c-sample/now HTTP/1.1\r\nHost: a\r\n\r\n");
                    let answer = client.answer();
                    assert_eq!((answer.status, answer.text()), (200, "hello from C"));
                    answered.fetch_add(1, Ordering::Relaxed);
                    if answer.header("connection") == Some("close") {
                        client = host.connect();
                    }
                }
            });
        }
        let _end = End(&is_over);
        for _ in 0..5 {
            let before = host.server_pid();
            let done = host.command(&["upgrade", "--json"]);
            assert!(
                done.status.success(),
                "{}",
                String::from_utf8_lossy(&done.stderr)
            );
            let said: Value = serde_json::from_slice(&done.stdout).expect("JSON");
            assert_eq!(said["replaced"], before);
            assert_ne!(said["server"], before);
        }
    });
    assert!(answered.into_inner() > 100);
    eventually("the old ones have ended", || host.servers().len() == 1);
    assert_eq!(crashes(&host).len(), 0);
    assert_eq!(host.stop().code, Some(0));
}

#[test]
fn connections_that_a_busy_worker_has_not_begun_are_served_when_the_server_is_replaced() {
    let host = Host::plan()
        .supervised()
        .option("--workers=1")
        .extensions(&[&Extension::probe(), &Extension::good()])
        .start();
    let gate = host.folder().join("gate");
    let mut busy = host.connect();
    busy.send(request(
        &format!("GET /probe/block\nX-Gate: {}", gate.display()),
        b"",
    ));
    host.said("an extension blocks a worker; its route should be declared blocking");
    let descriptors = format!("/proc/{}/fd", host.server_pid());
    let descriptors = || fs::read_dir(&descriptors).expect("the server runs").count();
    let before = descriptors();
    let mut waiting: [Connection; 8] = std::array::from_fn(|_| {
        let mut client = host.connect();
        client.send(request("GET /c-sample/now", b""));
        client
    });
    eventually("all are accepted", || descriptors() >= before + 8);
    let upgraded = host.command(&["upgrade"]);
    assert!(upgraded.status.success(), "{upgraded:?}");
    host.said(STOPPING);
    fs::write(gate, "").expect("a file");
    assert_eq!(busy.answer().text(), "at last");
    for client in &mut waiting {
        assert_eq!(client.answer().text(), "hello from C");
    }
}

#[test]
fn a_server_that_was_replaced_finishes_what_it_has_begun_although_all_are_told_to_stop() {
    let (host, mut client, gate) = with_a_request_that_waits();
    let upgraded = host.command(&["upgrade"]);
    assert!(upgraded.status.success(), "{upgraded:?}");
    host.said(STOPPING);
    host.signal("TERM");
    eventually("both stop, or the first has gone", || {
        let log = host.log().into_iter();
        log.filter(|line| line["message"] == STOPPING).count() == 2 && host.servers().len() == 1
    });
    fs::write(gate, "").expect("a file");
    assert_eq!(client.answer().text(), "held");
    assert_eq!(host.ended().code, Some(0));
}

#[test]
fn an_upgrade_follows_when_another_server_is_about_to_take_over() {
    let slow = Extension::c(
        "directus-extension-slow",
        "broken.c",
        &["IN_CREATE=sleep(2)"],
    );
    let host = Host::plan()
        .supervised()
        .config("[limits]\nstuck_ms = 1_000\nshutdown_timeout_ms = 1_000")
        .extensions(&[&crasher(), &slow])
        .start();
    let mut client = host.connect();
    client.send("GET /crasher/hang HTTP/1.1\r\nHost: a\r\n\r\n");
    host.said("an extension keeps a worker; a new server takes over");
    let upgraded = host.command(&["upgrade", "--json"]);
    assert!(upgraded.status.success(), "{upgraded:?}");
    let said: Value = serde_json::from_slice(&upgraded.stdout).expect("JSON");
    assert_eq!(said["server"], host.server_pid());
    let took_over = "a new server serves; the old one finishes what it has begun";
    let log = host.log().into_iter();
    assert_eq!(log.filter(|line| line["message"] == took_over).count(), 2);
}

#[test]
fn a_reload_that_is_wanted_while_a_server_starts_does_not_end_it_and_is_done_when_it_serves() {
    let folder = built::scratch();
    let created = folder.path().join("created");
    let create = format!("note(\"{}\",\"created\\n\");sleep(2)", created.display());
    let slow = Extension::c(
        "directus-extension-a-slow",
        "broken.c",
        &[&format!("IN_CREATE={create}")],
    );
    let host = Host::plan()
        .supervised()
        .extensions(&[&slow, &crasher()])
        .start();
    ask_for_the_end(&host, "segv");
    eventually("the next server is about to create it", || {
        // By the trial, the first server, and the second.
        fs::read_to_string(&created).is_ok_and(|lines| lines.lines().count() == 3)
    });
    let starting = host.server_pid();
    // It has seen by now which extensions there are.
    Extension::good().put(&host.folder().join("extensions"));
    host.signal("HUP");
    eventually("it has looked again", || {
        host.get("/c-sample/now").status == 200
    });
    assert_eq!(host.server_pid(), starting);
    assert_eq!(crashes(&host).len(), 1);
}

#[test]
fn an_old_server_that_an_extension_ends_by_exit_0_is_told() {
    let host = Host::plan()
        .supervised()
        .extensions(&[&crasher(), &Extension::probe()])
        .start();
    let gate = host.folder().join("gate");
    let mut client = host.connect();
    let mut held = host.connect();
    held.send(request(
        &format!("GET /probe/hold\nX-Gate: {}", gate.display()),
        b"",
    ));
    host.said("has it");
    client.send(request("GET /crasher/alive", b""));
    assert_eq!(client.answer().text(), "alive");
    let upgraded = host.command(&["upgrade"]);
    assert!(upgraded.status.success(), "{upgraded:?}");
    client.send(request("GET /crasher/exit", b""));
    let line = host.said("the old server did not end well");
    assert_eq!(line["cause"], "exit with code 0", "{line}");
    assert_eq!(line["extension"], "directus-extension-crasher", "{line}");
}

#[test]
fn a_new_server_that_does_not_start_leaves_the_old_one_serving() {
    let host = host();
    let server = host.server_pid();
    // What was served is refused now.
    let manifest = host
        .folder()
        .join("extensions/directus-extension-c-sample/extension.toml");
    fs::write(&manifest, "[env]\nrequired = [\"NOBODY_HAS_IT\"]").expect("a manifest");
    let done = host.command(&["upgrade"]);
    assert_eq!(done.status.code(), Some(1));
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(said.contains("the new server did not start"), "{said}");
    let line = host.logged("why", |line| {
        let message = line["message"].as_str().unwrap_or_default();
        message.contains("serves directus-extension-c-sample, refused here")
    });
    assert_eq!(line["level"], "error");
    // Nor are settings that are not understood.
    fs::write(host.folder().join("config.toml"), "prot = 1").expect("config.toml");
    kill(host.pid(), "USR2");
    let line = host.said("cannot upgrade; the server serves on as it is");
    assert!(
        line["cause"].as_str().unwrap_or_default().contains("prot"),
        "{line}"
    );
    assert_eq!(host.server_pid(), server);
    assert_eq!(host.get("/c-sample/now").status, 200);
}

#[test]
fn what_lies_on_the_disk_half_done_is_not_taken_when_a_server_has_crashed() {
    let host = host();
    fs::write(host.folder().join("config.toml"), "nonsense = [").expect("config.toml");
    fs::write(host.folder().join(".env"), "HALF=\"a li").expect(".env");
    ask_for_the_end(&host, "segv");
    assert_eq!(host.get("/c-sample/now").status, 200);
    host.said("the variables are not understood; the next server has those of before");
}

#[test]
fn a_server_that_has_crashed_is_followed_by_the_same_binary_until_somebody_wants_another() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("extension-host");
    fs::copy(built::host(), &program).expect("a copy");
    let as_copy = format!("shift; exec {} \"$@\"", program.display());
    let host = Host::plan()
        .supervised()
        .through("sh", &["-c", &as_copy, "sh"])
        .extensions(&[&crasher(), &Extension::good()])
        .start();
    let other = program.with_extension("new");
    fs::write(&other, "no program").expect("a file");
    fs::rename(&other, &program).expect("put in its place");
    ask_for_the_end(&host, "segv");
    assert_eq!(host.get("/c-sample/now").status, 200);
    let name = fs::read_to_string(format!("/proc/{}/comm", host.server_pid()));
    assert_eq!(name.expect("its name"), "extension-host\n");
    kill(host.pid(), "USR2");
    host.said("cannot start a new server; the old one serves on");
    assert_eq!(host.get("/c-sample/now").status, 200);
}

#[test]
fn what_must_load_must_load_at_the_start_and_not_after_a_crash() {
    let host = Host::plan()
        .supervised()
        .option("--must-load=true")
        .config("[quarantine]\ncrashes = 1")
        .extensions(&[&crasher(), &Extension::good()])
        .start();
    ask_for_the_end(&host, "segv");
    assert_eq!(host.get("/c-sample/now").status, 200);
    assert_eq!(host.get("/crasher/alive").status, 404);
}

#[test]
fn what_was_not_served_before_a_crash_does_not_keep_others_waiting_after_it() {
    let defines = ["HANG_IN_CREATE", "ID=\"hangs\""];
    let hangs = Extension::c("directus-extension-hangs", "crasher.c", &defines);
    let host = Host::plan()
        .supervised()
        .config("[limits]\ncreate_timeout_ms = 3_000\n[quarantine]\ncrashes = 100")
        .extensions(&[&crasher(), &Extension::good(), &hangs])
        .start();
    let refusals = || {
        let log = host.log().into_iter();
        log.filter(|line| line["folder"] == "directus-extension-hangs")
            .count()
    };
    assert_eq!(refusals(), 1);
    ask_for_the_end(&host, "segv");
    assert_eq!(host.get("/c-sample/now").status, 200);
    assert_eq!(refusals(), 1, "it is tried while others are served");
    eventually("it is tried again", || refusals() == 2);
}

#[test]
fn a_server_that_is_stopped_is_replaced() {
    let host = Host::plan()
        .supervised()
        .config("[limits]\nstuck_ms = 1_000\nshutdown_timeout_ms = 500")
        .extensions(&[&Extension::good()])
        .start();
    let server = host.server_pid();
    kill(server, "STOP");
    let line = host.said("the server does not run: it was stopped (SIGSTOP, a debugger), or the machine gives it no time; a new server takes over");
    assert_eq!(line["pid"], server.to_string());
    assert_eq!(host.get("/c-sample/now").status, 200);
    assert_ne!(host.server_pid(), server);
}

#[test]
fn a_server_that_is_told_to_end_by_others_is_replaced_at_once() {
    let host = host();
    kill(host.server_pid(), "TERM");
    host.said(
        "the server was told to end by another process or an extension; a new server takes over",
    );
    assert_eq!(host.get("/c-sample/now").status, 200);
    eventually("the new one serves alone", || host.servers().len() == 1);
    // It means an upgrade, and that is the supervisor's business.
    let server = host.server_pid();
    kill(server, "USR2");
    assert_eq!(host.get("/c-sample/now").status, 200);
    assert_eq!(host.server_pid(), server);
    assert!(crashes(&host).is_empty());
}

#[test]
fn a_store_that_has_vanished_is_no_first_start_after_a_crash() {
    let host = host();
    let (data, away) = (host.folder().join("data"), host.folder().join("away"));
    fs::rename(&data, &away).expect("moved away");
    let mut client = host.connect();
    client.send("GET /crasher/segv HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.ends());
    host.logged("the store is missed", |line| {
        let message = line["message"].as_str().unwrap_or_default();
        message.contains("it has vanished while the host was running")
    });
    assert!(!data.exists(), "no other was made");
    fs::rename(&away, &data).expect("put back");
    assert_eq!(host.get("/c-sample/now").status, 200);
}

/// With nobody who reads them, the log and systemd's socket.
#[test]
fn a_supervisor_waits_for_nobody_who_reads_what_it_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("notify");
    let notified = UnixDatagram::bind(&path).expect("a socket");
    let filler = UnixDatagram::unbound().expect("a socket");
    filler.set_nonblocking(true).expect("it does not wait");
    while filler.send_to(b"FULL=1", &path).is_ok() {}
    let mut host = Host::plan()
        .supervised()
        .variable("NOTIFY_SOCKET", path.to_str().expect("text"))
        .config("[quarantine]\ncrashes = 100\n[limits]\nshutdown_timeout_ms = 500")
        .extensions(&[&crasher(), &Extension::good()])
        .start();
    host.leave_log_unread();
    for _ in 0..1_000 {
        assert_eq!(host.get("/c-sample/now").status, 200);
    }
    for _ in 0..3 {
        ask_for_the_end(&host, "segv");
        assert_eq!(host.get("/c-sample/now").status, 200);
    }
    kill(host.pid(), "TERM");
    eventually("it has ended", || host.has_ended());
    drop(notified);
}

// ---- Start and end ----

#[test]
fn a_server_that_crashes_in_its_start_again_and_again_is_started_less_often() {
    let crasher = Extension::c("directus-extension-crasher", "crasher.c", &["IN_CREATE"]);
    let plan = Host::plan()
        .supervised()
        .config("trial_load = false\n[quarantine]\ncrashes = 0")
        .extensions(&[&crasher, &Extension::good()]);
    let host = plan.start_without_waiting();
    let line =
        host.said("the server crashes in its start again and again; the next one waits a moment");
    assert_eq!(line["pause_ms"], 50);
    let line = host.said(CRASHED);
    assert_eq!(line["extension"], "directus-extension-crasher");
    host.logged("the pause grows", |line| line["pause_ms"] == 400);
}

#[test]
fn one_that_crashes_when_it_is_loaded_is_left_out_and_the_others_are_served() {
    for define in ["IN_CREATE", "IN_INITIALISER"] {
        let crasher = Extension::c("directus-extension-crasher", "crasher.c", &[define]);
        // With a trial it is refused before; without one it ends the server, until it is left out.
        for trial in [true, false] {
            let host = Host::plan()
                .supervised()
                .config(&format!("trial_load = {trial}"))
                .extensions(&[&crasher, &Extension::good()])
                .start();
            assert_eq!(host.get("/c-sample/now").status, 200);
            let state = &host.said_of("directus-extension-crasher")[0]["state"];
            assert_eq!(state, if trial { "refused" } else { "quarantined" });
        }
    }
}

#[test]
fn what_the_server_cannot_start_with_ends_the_supervisor_with_its_code() {
    let ended = Host::plan()
        .supervised()
        .config("must_load = true")
        .extensions(&[&Extension::empty("directus-extension-a").manifest("")])
        .fail();
    assert_eq!(ended.code, Some(1));
    assert!(ended.log.iter().any(|line| {
        let sentence = line["message"].as_str().unwrap_or_default();
        sentence.contains("must_load is set")
    }));
}

#[test]
fn the_server_ends_with_its_supervisor() {
    let host = host();
    let server = host.server_pid();
    kill(host.pid(), "KILL");
    eventually("the server has ended", || {
        !std::path::Path::new(&format!("/proc/{server}")).exists()
    });
}

#[test]
fn one_signal_ends_both_and_both_end_well() {
    for signal in ["TERM", "INT"] {
        let host = host();
        let server = host.server_pid();
        host.signal(signal);
        assert_eq!(host.ended().code, Some(0));
        assert!(!std::path::Path::new(&format!("/proc/{server}")).exists());
    }
}

#[test]
fn who_connects_while_the_last_requests_are_finished_is_refused() {
    let (host, mut client, gate) = with_a_request_that_waits();
    host.signal("TERM");
    eventually("the port is closed", || {
        let refused = TcpStream::connect(host.address()).err();
        refused.is_some_and(|cause| cause.kind() == ErrorKind::ConnectionRefused)
    });
    fs::write(gate, "").expect("a file");
    assert_eq!(client.answer().text(), "held");
    assert_eq!(host.ended().code, Some(0));
}

#[test]
fn systemd_is_told_how_things_stand() {
    let folder = built::scratch();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket
        .set_read_timeout(Some(Duration::from_secs(60)))
        .expect("a time");
    let host = Host::plan()
        .supervised()
        .variable("NOTIFY_SOCKET", path.to_string_lossy())
        .extensions(&[&Extension::good()])
        .start();
    let mut buffer = [0; 1_000];
    let mut next = || {
        let length = socket.recv(&mut buffer).expect("a message");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    assert!(next().contains("READY=1"));
    host.signal("HUP");
    let reloading = next();
    assert!(
        reloading.contains("RELOADING=1") && reloading.contains("MONOTONIC_USEC="),
        "{reloading}"
    );
    assert!(next().contains("READY=1"));
    host.signal("TERM");
    assert!(next().contains("STOPPING=1"));
    assert_eq!(host.ended().code, Some(0));
}

fn kill(pid: u32, signal: &str) {
    let done = Command::new("kill")
        .args([format!("-{signal}"), pid.to_string()])
        .status();
    assert!(done.expect("kill runs").success());
}
