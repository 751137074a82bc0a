//! How a host begins and ends.

use std::fs;
use std::time::Duration;

use crate::support::built::scratch;
use crate::support::host::{FORCED, request};
use crate::support::{Connection, Extension, Host, eventually};

/// A host with the probe, which notes its hooks in a file: those of the host alone, without a trial.
fn host() -> Host {
    let plan = Host::plan().extensions(&[&Extension::probe(), &Extension::good()]);
    let hooks = plan.folder().join("hooks").display().to_string();
    plan.config("trial_load = false")
        .dotenv("HOOKS_FILE", hooks)
        .start()
}

/// A request that is answered when the file `go` in the host's folder exists, and is in flight already.
fn held(host: &Host) -> Connection {
    let mut client = host.connect();
    let gate = host.folder().join("go");
    client.send(request(
        &format!("GET /probe/hold\nX-Gate: {}", gate.display()),
        b"",
    ));
    host.said("has it");
    client
}

#[track_caller]
fn hooks(host: &Host) -> std::path::PathBuf {
    host.folder().join("hooks")
}

#[test]
fn a_signal_ends_the_host_and_its_extensions_in_order() {
    for signal in ["TERM", "INT"] {
        let outside = scratch();
        let hooks = outside.path().join("hooks");
        let host = Host::plan()
            .config("trial_load = false")
            .extensions(&[&Extension::probe(), &Extension::good()])
            .dotenv("HOOKS_FILE", hooks.display().to_string())
            .start();
        assert_eq!(host.get("/probe/now").text(), "now");
        host.signal(signal);
        let ended = host.ended();
        assert_eq!(ended.code, Some(0), "{signal}");
        assert_eq!(
            fs::read_to_string(hooks).expect("a file"),
            "stop\ndestroy\n"
        );
        assert!(ended.said("stopping: requests in flight are finished first"));
    }
}

#[test]
fn a_request_in_flight_is_finished_before_the_host_ends() {
    let host = host();
    let mut client = held(&host);
    host.signal("TERM");
    host.said("stopping: requests in flight are finished first");
    assert!(!hooks(&host).exists(), "stopped under a request");
    fs::write(host.folder().join("go"), "").expect("a file");
    let answer = client.answer();
    assert_eq!((answer.status, answer.text()), (200, "held"));
    assert_eq!(host.ended().code, Some(0));
}

#[test]
fn a_stopping_host_takes_no_new_connections() {
    let host = host();
    let mut client = held(&host);
    host.signal("TERM");
    host.said("stopping: requests in flight are finished first");
    let address = host.address();
    eventually("nobody listens", || {
        std::net::TcpStream::connect(address).is_err()
    });
    fs::write(host.folder().join("go"), "").expect("a file");
    assert_eq!(client.answer().text(), "held");
    assert_eq!(host.ended().code, Some(0));
}

#[test]
fn a_second_signal_ends_the_host_at_once() {
    // Longer than any test waits.
    let host = Host::plan()
        .config("[limits]\nshutdown_timeout_ms = 600_000")
        .extensions(&[&Extension::probe()])
        .start();
    let mut client = held(&host);
    host.signal("TERM");
    host.said("stopping: requests in flight are finished first");
    host.signal("TERM");
    host.said("stopping now");
    assert_eq!(host.ended().code, Some(0));
    assert!(client.ends());
}

#[test]
fn a_request_that_does_not_end_is_cancelled_at_the_deadline() {
    let host = Host::plan()
        .config("[limits]\nshutdown_timeout_ms = 1000")
        .extensions(&[&Extension::probe()])
        .start();
    let mut client = held(&host);
    let ended = host.stop();
    assert_eq!(ended.code, Some(0));
    assert!(client.ends());
    assert!(
        ended.said("held in vain"),
        "the extension was told: {:#?}",
        ended.log
    );
}

#[test]
fn a_library_may_be_overwritten_while_it_is_served() {
    let host = host();
    let dist = host
        .folder()
        .join("extensions/directus-extension-probe/dist");
    let library = fs::read_dir(dist)
        .expect("a folder")
        .next()
        .expect("a library");
    let library = library.expect("a library").path();
    // In place, as a compiler or `cp` does it: the same file with other bytes.
    let length = fs::metadata(&library).expect("a library").len() as usize;
    fs::write(&library, vec![0; length]).expect("a file");
    for _ in 0..10 {
        assert_eq!(host.get("/probe/now").text(), "now");
        assert_eq!(host.get("/probe/seen").status, 200);
    }
    assert_eq!(host.stop().code, Some(0));
}

#[test]
fn a_port_that_is_taken_is_said_with_the_remedy() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("a bound socket").port();
    let ended = Host::plan().port(port).fail();
    assert_eq!(ended.code, Some(1));
    let line = ended.log.last().expect("a line");
    let sentence = line["message"].as_str().expect("a sentence");
    assert!(
        sentence.contains(&format!("cannot listen on 127.0.0.1:{port}")),
        "{sentence}"
    );
    assert!(
        sentence.contains("choose another with --port"),
        "{sentence}"
    );
}

#[test]
fn a_mistake_in_config_toml_is_said_with_its_place() {
    let ended = Host::plan().config("prot = 1").fail();
    assert_eq!(ended.code, Some(1));
    let said = format!("{:?}", ended.log);
    assert!(said.contains("unknown field"), "{said}");
    assert!(said.contains("did you mean"), "{said}");
    assert!(said.contains("(line 2, column 1)"), "{said}");
}

#[test]
fn a_mistake_in_dotenv_is_said_without_its_value() {
    let ended = Host::plan()
        .raw_dotenv("a line with a-secret and no sign\n")
        .fail();
    assert_eq!(ended.code, Some(1));
    let said = format!("{:?}", ended.log);
    assert!(said.contains("expected NAME=value (line 3)"), "{said}");
    assert!(!said.contains("a-secret"), "{said}");
}

// ---- What does not come to its end ----

#[test]
fn a_worker_that_is_stuck_does_not_keep_the_host_from_ending() {
    let host = Host::plan()
        .config("[limits]\nshutdown_timeout_ms = 300")
        .extensions(&[&Extension::probe(), &Extension::good()])
        .start();
    let mut client = host.connect();
    client.send(request("GET /probe/block\nX-Gate: /nowhere/never", b""));
    host.said("an extension blocks a worker; its route should be declared blocking");
    let ended = host.stop();
    assert_eq!(ended.code, Some(FORCED));
    let lines = ended.log.iter();
    let lines: Vec<_> = lines
        .filter(|line| {
            line["extension"] == "directus-extension-probe" && line["blocked_ms"].is_null()
        })
        .map(|line| (line["message"].as_str(), line["workers"].as_str()))
        .collect();
    assert_eq!(
        lines,
        [
            (
                Some(
                    "requests did not finish before shutdown_timeout_ms was over; they are cancelled"
                ),
                None
            ),
            (
                Some("an extension did not stop in time; it was left running and not destroyed"),
                Some("1")
            ),
        ]
    );
}

#[test]
fn what_an_extension_leaves_for_the_end_of_the_process_is_not_run() {
    for define in ["DESTRUCTOR_HANGS", "ATEXIT_HANGS"] {
        let broken = Extension::c("directus-extension-broken", "broken.c", &[define]);
        let host = Host::with(&[&broken]);
        assert_eq!(host.get("/broken/now").text(), "not broken");
        assert_eq!(host.stop().code, Some(0), "{define}");
        // Where the host fails after it has loaded the extension, too.
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = taken.local_addr().expect("a bound socket").port();
        let ended = Host::plan().extensions(&[&broken]).port(port).fail();
        assert_eq!(ended.code, Some(1), "{define}");
        assert!(format!("{:?}", ended.log).contains("cannot listen on"));
    }
}

#[test]
fn the_milliseconds_of_the_shutdown_timeout_count() {
    let host = Host::plan()
        .config("[limits]\nshutdown_timeout_ms = 1_900")
        .extensions(&[&Extension::probe()])
        .start();
    let _client = held(&host);
    let began = std::time::Instant::now();
    host.signal("TERM");
    host.said("held in vain");
    assert!(
        began.elapsed().as_millis() >= 1_900,
        "{:?}",
        began.elapsed()
    );
    assert_eq!(host.ended().code, Some(0));
}

/// How often each worker of a host has gone to sleep.
fn sleeps(host: &Host) -> Vec<u64> {
    let tasks = fs::read_dir(format!("/proc/{}/task", host.pid())).expect("it runs");
    let of_worker = |task: fs::DirEntry| {
        let name = fs::read_to_string(task.path().join("comm")).ok()?;
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        name.starts_with("actix-rt")
            .then(|| line.trim().parse().ok())?
    };
    tasks.flatten().filter_map(of_worker).collect()
}

#[test]
fn the_workers_of_an_idle_host_sleep() {
    const SECONDS: u64 = 8;
    // The clock of actix-http is put forward twice a second, for which tokio's timers wake a worker twice, and now and then once
    // more. Whatever else came each second would be one too many.
    const WAKES_MAX: u64 = 5 * SECONDS - 1;
    let host = Host::with(&[&Extension::good()]);
    assert_eq!(host.get("/c-sample/now").status, 200);
    // Until connections that have ended are forgotten.
    std::thread::sleep(Duration::from_secs(2));
    let before = sleeps(&host);
    std::thread::sleep(Duration::from_secs(SECONDS));
    let after = sleeps(&host);
    assert_eq!(after.len(), 2, "as many as there are workers");
    for (before, after) in before.into_iter().zip(after) {
        assert!(after - before <= WAKES_MAX, "{}", after - before);
    }
}
