//! Extensions that fail while they run: the caller gets an answer, the log names the extension, all others serve on.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::support::host::{BROKEN, request};
use crate::support::upstream::Then;
use crate::support::{ADMIN_TOKEN, Extension, Host, Upstream, eventually};

/// A host with the probe and a good extension.
fn host() -> Host {
    Host::with(&[&Extension::probe(), &Extension::good()])
}

/// A host with the Rust extension whose handlers fail.
fn failing() -> Host {
    let failing = Extension::rust("directus-extension-failing", "handlers_that_fail");
    Host::with(&[&failing, &Extension::good()])
}

/// Whatever has happened, both extensions serve.
#[track_caller]
fn serves_on(host: &Host, id: &str) {
    assert_eq!(host.get(&format!("/{id}/now")).status, 200);
    assert_eq!(host.get("/c-sample/now").text(), "hello from C");
}

/// Waits for what the probe notes, and gives its number.
#[track_caller]
fn noted(host: &Host, sentence: &str) -> i64 {
    let number = host.said(sentence)["number"].clone();
    let number = number.as_str().expect("a number").parse();
    number.expect("a number")
}

fn count_of(log: &[Value], sentence: &str) -> usize {
    log.iter()
        .filter(|line| line["message"] == sentence)
        .count()
}

// ---- Answers ----

#[test]
fn the_second_of_two_answers_is_discarded_and_logged() {
    let host = host();
    let mut connection = host.connect();
    for _ in 0..2 {
        connection.send("GET /probe/twice HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = connection.answer();
        assert_eq!((answer.status, answer.text()), (200, "first"));
    }
    let gone_or_answered = noted(&host, "answered twice");
    assert!(matches!(gone_or_answered, -1 | -2), "{gone_or_answered}");
    let line = host.logged("a line about it", |line| {
        let sentence = line["message"].as_str().unwrap_or_default();
        sentence.contains("answered a request twice")
            || sentence.contains("a request that it had finished before")
    });
    assert_eq!(line["level"], "warn");
    assert_eq!(line["extension"], "directus-extension-probe");
    serves_on(&host, "probe");
}

#[test]
fn a_handle_whose_time_is_over_is_recognised_by_every_callback() {
    let host = host();
    assert_eq!(host.get("/probe/stale").text(), "before");
    assert_eq!(noted(&host, "used a stale handle"), 12);
    let line = host.said("an extension used a request that it had finished before");
    assert_eq!(line["extension"], "directus-extension-probe");
    serves_on(&host, "probe");
}

#[test]
fn a_request_that_is_never_answered_gets_504_and_a_late_answer_does_no_harm() {
    let probe = Extension::probe().more_manifest("[limits]\ntimeout_ms = 200");
    let host = Host::with(&[&probe, &Extension::good()]);
    let gate = host.folder().join("go");
    let answer = host.get(&format!("/probe/late\nX-Gate: {}", gate.display()));
    assert_eq!(answer.error(), (504, "GATEWAY_TIMEOUT".into()));
    let line = host.said("the extension did not answer in time");
    assert_eq!(line["extension"], "directus-extension-probe");
    assert_eq!(line["route"], "GET /probe/late", "{line}");
    assert_eq!(line["timeout_ms"], 200, "{line}");
    assert_eq!(
        line["request"],
        answer.header("x-request-id").expect("an id")
    );

    fs::write(gate, "").expect("a file");
    assert_eq!(noted(&host, "answered late"), -1, "EXT_GONE");
    serves_on(&host, "probe");
}

#[test]
fn an_extension_learns_that_its_time_ran_out() {
    let probe = Extension::probe().more_manifest("[limits]\ntimeout_ms = 200");
    let host = Host::with(&[&probe, &Extension::good()]);
    assert_eq!(host.get("/probe/never").status, 504);
    assert_eq!(noted(&host, "watched to the end"), 3, "EXT_CANCELLED");
    assert_eq!(noted(&host, "answered too late"), -1, "EXT_GONE");
}

#[test]
fn an_extension_learns_that_the_client_has_left() {
    let host = host();
    let mut client = host.connect();
    client.send("GET /probe/never HTTP/1.1\r\nHost: a\r\n\r\n");
    noted(&host, "has it");
    drop(client);
    assert_eq!(noted(&host, "watched to the end"), 3, "EXT_CANCELLED");
    assert_eq!(noted(&host, "answered too late"), -1, "EXT_GONE");
    serves_on(&host, "probe");
}

#[test]
fn a_request_that_is_dropped_gets_500() {
    let host = host();
    let answer = host.get("/probe/drop");
    assert_eq!(answer.error(), (500, "INTERNAL_SERVER_ERROR".into()));
    let line = host.said("the extension gave a request up without an answer");
    assert_eq!(line["extension"], "directus-extension-probe");
    assert_eq!(
        line["request"],
        answer.header("x-request-id").expect("an id")
    );
    serves_on(&host, "probe");
}

#[test]
fn a_request_may_be_answered_from_any_thread() {
    let host = host();
    let mut connection = host.connect();
    for _ in 0..50 {
        connection.send("GET /probe/thread HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(connection.answer().text(), "from a thread");
        connection.send("GET /probe/post HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(connection.answer().text(), "posted");
    }
}

#[test]
fn a_cancelled_operation_completes_as_cancelled() {
    assert_eq!(host().get("/probe/cancel").text(), "cancelled");
}

#[test]
fn a_status_that_is_none_becomes_500() {
    let host = host();
    for status in [0, 1, 99, 100, 101, 199, 600, 1000, 65536 + 200] {
        let answer = host.get(&format!("/probe/status\nX-Status: {status}"));
        assert_eq!(answer.error().0, 500, "{status}");
    }
    for status in [200, 204, 299, 304, 418, 499, 599] {
        let answer = host.get(&format!("/probe/status\nX-Status: {status}"));
        assert_eq!(answer.status, status);
    }
    let line = host.logged("a line about it", |line| {
        line["message"]
            .as_str()
            .is_some_and(|sentence| sentence.contains("must be from 200 to 599"))
    });
    assert_eq!(line["extension"], "directus-extension-probe");
}

#[test]
fn no_header_of_an_extension_can_inject_another_one() {
    let host = host();
    // The probe makes a line feed of "|", and a carriage return of the first of "||".
    for (value, in_name) in [
        ("a||Set-Cookie: b=c", 0),
        ("a|Set-Cookie: b=c", 0),
        ("||||<html>", 0),
        ("a||Set-Cookie: b=c", 1),
        ("x y", 1),
    ] {
        let head = format!("/probe/header\nX-Value: {value}\nX-In-Name: {in_name}");
        let answer = host.get(&head);
        assert_eq!(answer.error().0, 500, "{value}");
        assert_eq!(answer.header("set-cookie"), None);
        assert_eq!(answer.header("x-made"), None);
    }
    assert_eq!(noted(&host, "answered with a header"), -4, "EXT_INVALID");
    let good = host.get("/probe/header\nX-Value: caf\u{e9} \u{1f600}");
    assert_eq!(good.status, 200);
}

#[test]
fn what_is_not_possible_at_a_stage_is_said_by_a_status() {
    let answer = host().get("/probe/misuse");
    let row = "write -14 end -14 endpoint -14 env -5 header 2 sleep -4";
    assert_eq!(answer.text(), row);
}

#[test]
fn a_stream_that_begins_with_a_body_is_500() {
    let host = host();
    let answer = host.get("/probe/stream-with-body");
    assert_eq!(answer.error(), (500, "INTERNAL_SERVER_ERROR".into()));
    assert_eq!(noted(&host, "streamed a body"), -4, "EXT_INVALID");
    serves_on(&host, "probe");
}

#[test]
fn an_error_of_500_is_explained_to_administrators_and_to_the_log_only() {
    let host = host();
    let answer = host.get("/probe/fail");
    assert_eq!(answer.error(), (500, "INTERNAL_SERVER_ERROR".into()));
    assert_eq!(answer.message(), "An unexpected error occurred.");
    let answer = host.get_as_admin("/probe/fail");
    assert_eq!(answer.message(), "what the caller may read");
    let line = host.said("the extension failed");
    assert_eq!(line["cause"], "what only the log may say");

    let answer = host.get("/probe/fail\nX-Status: 409");
    assert_eq!(answer.error(), (409, "CONFLICT".into()));
    assert_eq!(answer.message(), "what the caller may read");
}

// ---- Panics ----

#[test]
fn a_panic_becomes_500_and_the_next_request_is_served() {
    let host = failing();
    for path in ["/panic", "/panic-after-sleep", "/panic-blocking"] {
        let answer = host.get(&format!("/failing{path}"));
        assert_eq!(
            answer.error(),
            (500, "INTERNAL_SERVER_ERROR".into()),
            "{path}"
        );
        assert_eq!(answer.message(), "An unexpected error occurred.", "{path}");
        let id = answer.header("x-request-id").expect("an id").to_owned();
        let line = host.logged(path, |line| {
            line["message"] == "the extension panicked" && line["request"] == id.as_str()
        });
        assert_eq!(line["level"], "error");
        assert_eq!(line["extension"], "directus-extension-failing");
        let cause = line["cause"].as_str().expect("a cause");
        assert!(cause.contains("fell over"), "{cause}");
        assert!(cause.contains("handlers_that_fail.rs:"), "{cause}");
        serves_on(&host, "failing");
    }
}

#[test]
fn a_panic_in_a_drop_does_no_harm() {
    let host = failing();
    let mut client = host.connect();
    client.send("GET /failing/panic-when-dropped HTTP/1.1\r\nHost: a\r\n\r\n");
    host.said("has it");
    drop(client);
    host.said("dropped");
    serves_on(&host, "failing");
}

#[test]
fn a_handler_is_dropped_when_the_client_leaves() {
    let host = failing();
    let mut client = host.connect();
    client.send("GET /failing/never HTTP/1.1\r\nHost: a\r\n\r\n");
    host.said("has it");
    drop(client);
    host.said("dropped");
    serves_on(&host, "failing");
}

#[test]
fn a_stream_that_fails_or_panics_is_broken_off() {
    let host = failing();
    for path in ["/panic-in-stream", "/error-in-stream"] {
        let answer = host.get(&format!("/failing{path}"));
        assert_eq!((answer.status, answer.text()), (200, "the beginning"));
        assert!(!answer.is_whole, "{path}: the client took it for whole");
        host.logged(path, |line| {
            let cause = line["cause"].as_str().unwrap_or_default();
            line["extension"] == "directus-extension-failing"
                && (cause.contains("a producer fell over") || cause.contains("a producer gave up"))
        });
        serves_on(&host, "failing");
    }
}

#[test]
fn an_error_from_rust_keeps_its_status_and_its_secret() {
    let host = failing();
    let answer = host.get("/failing/not-found");
    assert_eq!(answer.error(), (404, "NOT_FOUND".into()));
    assert_eq!(answer.message(), "There is no such thing.");
    let answer = host.get("/failing/error");
    assert_eq!(answer.message(), "An unexpected error occurred.");
    let answer = host.get_as_admin("/failing/error");
    assert_eq!(answer.message(), "the database is on fire");
}

#[test]
fn a_header_that_rust_cannot_send_becomes_500() {
    let host = failing();
    let answer = host.get("/failing/header");
    assert_eq!(answer.error().0, 500);
    assert_eq!(answer.header("set-cookie"), None);
    serves_on(&host, "failing");
}

// ---- Streams ----

#[test]
fn a_stream_that_is_ended_with_a_failure_is_broken_off() {
    let host = host();
    let answer = host.get("/probe/stream\nX-Chunks: 3\nX-Size: 10\nX-End: -13");
    assert_eq!(answer.status, 200);
    assert!(!answer.is_whole);
    let answer = host.get("/probe/stream\nX-Chunks: 3\nX-Size: 10");
    assert!(answer.is_whole);
    assert_eq!(answer.body.len(), 30);
}

#[test]
fn a_stream_keeps_to_the_length_that_it_declares_or_is_broken_off() {
    let host = host();
    let exact = host.get("/probe/stream\nX-Chunks: 3\nX-Size: 10\nX-Length: 30");
    assert_eq!(exact.header("content-length"), Some("30"));
    assert_eq!(exact.header("transfer-encoding"), None);
    assert!(exact.is_whole);

    let short = host.get("/probe/stream\nX-Chunks: 2\nX-Size: 10\nX-Length: 30");
    assert!(!short.is_whole, "{short:?}");

    // What is too much must not be taken for the next answer on the connection.
    let mut client = host.connect();
    client.send("GET /probe/stream HTTP/1.1\r\nHost: a\r\nX-Chunks: 4\r\nX-Size: 10\r\nX-Length: 30\r\n\r\n");
    let long = client.answer();
    assert_eq!(long.body.len(), 30);
    let _ = client.try_send("GET /probe/now HTTP/1.1\r\nHost: a\r\n\r\n");
    if !client.ends() {
        assert_eq!(client.answer().text(), "now");
    }
    serves_on(&host, "probe");
}

#[test]
fn a_slow_reader_costs_no_memory() {
    const CHUNKS: usize = 3_000; // of 64 KiB: 187 MiB
    let host = host();
    assert_eq!(
        host.get("/probe/stream\nX-Chunks: 100").body.len(),
        100 << 16
    );
    let before = host.resident();
    let mut client = host.connect();
    client.send(format!(
        "GET /probe/stream HTTP/1.1\r\nHost: a\r\nX-Chunks: {CHUNKS}\r\n\r\n"
    ));
    client.take(1 << 20);
    // Everything that it will ever send unasked has been sent when its memory does not change any more.
    let mut last = 0;
    let mut same = 0;
    eventually("the stream rests", || {
        let now = host.resident();
        same = if now == last { same + 1 } else { 0 };
        last = now;
        same > 40
    });
    let grown = last.saturating_sub(before) >> 20;
    assert!(grown < 32, "it holds {grown} MiB for one client");
    serves_on(&host, "probe");
    drop(client);
    assert_eq!(noted(&host, "the stream was cancelled"), 3);
}

#[test]
fn a_client_that_vanishes_mid_answer_cancels_the_stream() {
    let host = host();
    let mut client = host.connect();
    client.send("GET /probe/stream HTTP/1.1\r\nHost: a\r\nX-Chunks: 1000000\r\n\r\n");
    client.take(100_000);
    drop(client);
    assert_eq!(noted(&host, "the stream was cancelled"), 3, "EXT_CANCELLED");
    serves_on(&host, "probe");
}

// ---- Bodies ----

#[test]
fn a_client_that_sends_everything_before_it_reads_is_heard() {
    const CHUNKS: usize = 500; // of 64 KiB: more than the sockets hold
    let host = Host::plan()
        .config("[limits]\nbody_bytes_max = 50_000_000")
        .extensions(&[&Extension::probe(), &Extension::good()])
        .start();
    let mut client = host.connect();
    let body = vec![b'x'; 32 << 20];
    client.send(format!(
        "POST /probe/talk HTTP/1.1\r\nHost: a\r\nX-Chunks: {CHUNKS}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    ));
    // Until the answer waits for its reader, with nothing of the body there. Too short a time hides a fault, and makes none.
    std::thread::sleep(Duration::from_millis(300));
    client.send(body);
    assert_eq!(noted(&host, "heard all"), 1, "EXT_END");
    let answer = client.answer();
    assert!(answer.is_whole);
    assert_eq!(answer.body.len(), CHUNKS << 16);
    serves_on(&host, "probe");
}

#[test]
fn a_client_that_vanishes_mid_body_cancels_the_read() {
    let host = host();
    let mut client = host.connect();
    client.send("POST /probe/count HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nsome");
    noted(&host, "has it");
    drop(client);
    let status = noted(&host, "the body ended");
    assert!(
        matches!(status, 3 | -8),
        "EXT_CANCELLED or EXT_BROKEN, not {status}"
    );
    serves_on(&host, "probe");
}

#[test]
fn one_body_is_not_read_twice_at_once() {
    let host = host();
    let mut client = host.connect();
    client.send("POST /probe/count HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nX-Twice: 1\r\n\r\n");
    assert_eq!(noted(&host, "read twice at once"), -3, "EXT_BUSY");
    client.send("body");
    assert_eq!(client.answer().text(), "4 bytes");
}

#[test]
fn a_body_over_the_limit_is_answered_413_in_either_framing() {
    let probe = Extension::probe().more_manifest("[limits]\nbody_bytes_max = 1000");
    let host = Host::with(&[&probe, &Extension::good()]);
    let fits = "x".repeat(1000);
    let too_much = "x".repeat(1001);
    for path in ["/probe/count", "/probe/whole"] {
        let head = format!("POST {path}");
        assert_eq!(host.ask(&head, &fits).status, 200, "{path}");
        let answer = host.ask(&head, &too_much);
        assert_eq!(answer.error(), (413, "CONTENT_TOO_LARGE".into()), "{path}");

        let chunked = format!("{head}\nTransfer-Encoding: chunked");
        let answer = host.ask(&chunked, format!("3e8\r\n{fits}\r\n0\r\n\r\n"));
        assert_eq!(answer.status, 200, "{path}");
        let answer = host.ask(&chunked, format!("3e9\r\n{too_much}\r\n0\r\n\r\n"));
        assert_eq!(answer.error(), (413, "CONTENT_TOO_LARGE".into()), "{path}");
        let many = format!("64\r\n{}\r\n", "x".repeat(100)).repeat(11) + "0\r\n\r\n";
        let answer = host.ask(&chunked, many);
        assert_eq!(answer.error(), (413, "CONTENT_TOO_LARGE".into()), "{path}");
    }
    serves_on(&host, "probe");
}

#[test]
fn a_route_may_have_the_whole_body_at_once() {
    let host = host();
    assert_eq!(host.ask("POST /probe/whole", "").text(), "");
    let body: Vec<u8> = (0..300_000_u32).map(|number| number as u8).collect();
    assert_eq!(host.ask("POST /probe/whole", &body).body, body);
    let chunked = host.ask(
        "POST /probe/whole\nTransfer-Encoding: chunked",
        "3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\nTrailer: x\r\n\r\n",
    );
    assert_eq!(chunked.text(), "abcde");
}

// ---- Workers ----

#[test]
fn an_extension_that_blocks_a_worker_is_named_in_the_log() {
    let host = host();
    let gate = host.folder().join("go");
    let mut client = host.connect();
    client.send(format!(
        "GET /probe/block HTTP/1.1\r\nHost: a\r\nX-Gate: {}\r\n\r\n",
        gate.display()
    ));
    let sentence = "an extension blocks a worker; its route should be declared blocking";
    let lines = || -> Vec<Value> {
        let log = host.log().into_iter();
        log.filter(|line| line["message"] == sentence).collect()
    };
    eventually("it is told three times", || lines().len() == 3);
    fs::write(gate, "").expect("a file");
    let answer = client.answer();
    assert_eq!(answer.text(), "at last");
    let mut blocked_ms = 0;
    for line in lines() {
        assert_eq!(line["extension"], "directus-extension-probe");
        assert_eq!(line["route"], "GET /probe/block", "{line}");
        assert_eq!(
            line["request"],
            answer.header("x-request-id").expect("an id")
        );
        // Each time it has been there twice as long.
        let before = blocked_ms;
        blocked_ms = line["blocked_ms"].as_u64().expect("a number");
        assert!(blocked_ms >= 2 * before, "{line}");
    }
}

/// One worker, which a handler that never rests shares with everybody else.
fn one_worker(timeout_ms: u32) -> Host {
    let failing = Extension::rust("directus-extension-failing", "handlers_that_fail")
        .more_manifest(&format!("[limits]\ntimeout_ms = {timeout_ms}"));
    Host::plan()
        .config("[limits]\nshutdown_timeout_ms = 1000")
        .option("--workers=1")
        .extensions(&[&failing, &Extension::good()])
        .start()
}

#[test]
fn a_handler_that_never_rests_lets_others_be_served_meanwhile() {
    let host = one_worker(0);
    for (path, answer) in [
        ("/busy", "rested"),
        ("/busy-stream", "the beginning, the end"),
    ] {
        let mut client = host.connect();
        client.send(format!("GET /failing{path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        serves_on(&host, "failing");
        assert_eq!(host.get("/server/ping").text(), "pong");
        // It rests only when this has been served beside it.
        assert_eq!(host.get("/failing/rest").text(), "good night");
        assert_eq!(client.answer().text(), answer);
    }
}

#[test]
fn a_handler_that_never_rests_is_answered_504_in_time() {
    let host = one_worker(200);
    let answer = host.get("/failing/busy");
    assert_eq!(answer.error(), (504, "GATEWAY_TIMEOUT".into()));
    serves_on(&host, "failing");
}

#[test]
fn a_handler_that_never_rests_does_not_keep_the_host_from_ending() {
    let host = one_worker(0);
    let mut client = host.connect();
    client.send("GET /failing/busy HTTP/1.1\r\nHost: a\r\n\r\n");
    host.said("never rests");
    assert!(
        host.stop()
            .said("stopping: requests in flight are finished first")
    );
}

/// One worker, and two builds that can pile up work for it.
fn piling_up() -> Host {
    let piles_up = Extension::c("directus-extension-piles-up", "piles_up.c", &[]);
    let other = Extension::c("directus-extension-other", "piles_up.c", &["ID=\"other\""]);
    Host::plan()
        .config("[limits]\nshutdown_timeout_ms = 1000")
        .option("--workers=1")
        .extensions(&[&piles_up, &other])
        .start()
}

/// Tells the one that piles work up to rest, as soon as it has begun, and finds that not all was done before.
#[track_caller]
fn rests_before_all_is_done(host: &Host) {
    let mut said = String::new();
    eventually("it has begun", || {
        said = host.get("/piles-up/rest").text().to_owned();
        said.starts_with("begun")
    });
    assert_eq!(said, "begun, others had their turn");
}

#[test]
fn a_streamed_answer_of_which_more_is_always_there_lets_others_be_served_meanwhile() {
    let host = piling_up();
    let mut client = host.connect();
    client.send("GET /piles-up/stream HTTP/1.1\r\nHost: a\r\n\r\n");
    let reading = std::thread::spawn(move || client.answer().status);
    rests_before_all_is_done(&host);
    assert_eq!(reading.join().expect("an answer"), 200);
}

#[test]
fn thousands_of_completions_that_are_due_at_once_let_others_be_served_meanwhile() {
    for path in ["sleeps", "posts"] {
        let host = piling_up();
        assert_eq!(host.get(&format!("/piles-up/{path}")).text(), "piled up");
        rests_before_all_is_done(&host);
    }
}

#[test]
fn thousands_of_sleeps_of_one_request_let_others_be_served_meanwhile() {
    let host = piling_up();
    let mut client = host.connect();
    client.send("GET /piles-up/sleeps-of-request HTTP/1.1\r\nHost: a\r\n\r\n");
    rests_before_all_is_done(&host);
    assert_eq!(client.answer().text(), "rested");
}

#[test]
fn what_one_extension_has_piled_up_keeps_no_completion_of_another_waiting() {
    let host = piling_up();
    assert_eq!(host.get("/piles-up/posts").text(), "piled up");
    assert_eq!(host.get("/other/post").text(), "posted");
    rests_before_all_is_done(&host);
}

#[test]
fn a_blocking_route_keeps_no_worker_from_its_work() {
    let host = Host::plan()
        .config("# One worker, which everything else needs.\n[limits]\nblocking_threads = 4")
        .option("--workers=1")
        .extensions(&[&Extension::probe(), &Extension::good()])
        .start();
    let gate = host.folder().join("go");
    let mut client = host.connect();
    client.send(format!(
        "GET /probe/blocking HTTP/1.1\r\nHost: a\r\nX-Gate: {}\r\n\r\n",
        gate.display()
    ));
    serves_on(&host, "probe");
    fs::write(gate, "").expect("a file");
    assert_eq!(client.answer().text(), "at last");
}

#[test]
fn requests_above_the_limit_at_once_get_503() {
    let probe = Extension::probe().more_manifest("[limits]\nconcurrency_max = 2");
    let host = Host::with(&[&probe, &Extension::good()]);
    let gate = host.folder().join("go");
    let hold = format!(
        "GET /probe/hold HTTP/1.1\r\nHost: a\r\nX-Gate: {}\r\n\r\n",
        gate.display()
    );
    let (mut first, mut second) = (host.connect(), host.connect());
    first.send(&hold);
    second.send(&hold);
    eventually("both are in flight", || {
        count_of(&host.log(), "has it") == 2
    });
    let answer = host.get("/probe/now");
    assert_eq!(answer.error(), (503, "SERVICE_UNAVAILABLE".into()));
    assert!(answer.header("retry-after").is_some());
    assert_eq!(
        host.get("/c-sample/now").status,
        200,
        "others are not concerned"
    );
    fs::write(gate, "").expect("a file");
    assert_eq!(first.answer().text(), "held");
    assert_eq!(second.answer().text(), "held");
    serves_on(&host, "probe");
}

// ---- Variables and the log ----

#[test]
fn an_extension_reads_what_it_declares_and_the_process_exports_nothing() {
    let host = Host::plan()
        .extensions(&[&Extension::probe()])
        .dotenv("DECLARED", "a value")
        .dotenv("UNDECLARED", "a secret")
        .start();
    let variable = |name: &str| host.get(&format!("/probe/variable\nX-Name: {name}"));
    assert_eq!(variable("DECLARED").text(), "0 a value|(not exported)");
    assert_eq!(variable("UNDECLARED").text(), "-5 |(not exported)");
    assert_eq!(variable("SECRET").text(), "-5 |(not exported)");
    assert_eq!(variable("ADMIN_TOKEN").text(), "-5 |(not exported)");
    assert_eq!(variable("HOOKS_FILE").text(), "2 |(not exported)");
}

#[test]
fn no_extension_can_forge_a_line_of_the_log() {
    let host = host();
    let answer = host.get("/probe/forge");
    let line = host.logged("the line", |line| {
        line["extension"] == "directus-extension-probe" && line["level"] == "warn"
    });
    let sentence = line["message"].as_str().expect("a sentence");
    assert!(
        sentence.starts_with("a sentence\n{\"level\""),
        "{sentence:?}"
    );
    assert_eq!(
        line["request"],
        answer.header("x-request-id").expect("an id")
    );
    assert!(
        line["na\nme"]
            .as_str()
            .expect("a field")
            .starts_with("value\n")
    );
    let ended = host.stop();
    assert!(ended.log.iter().all(Value::is_object), "{:#?}", ended.log);
    assert!(!ended.said("forged"));
}

#[test]
fn no_caller_can_forge_a_line_of_the_log() {
    let host = host();
    let evil = "GET /a%0a{\"level\":\"error\"}\u{85} HTTP/1.1\r\nHost: a\r\nUser-Agent: \x01\x1b[2J\r\n\r\n";
    let mut client = host.connect();
    client.send(evil);
    client.answer();
    let ended = host.stop();
    assert!(ended.log.iter().all(Value::is_object), "{:#?}", ended.log);
}

#[test]
fn no_line_of_the_log_holds_a_credential() {
    let host = host();
    host.get_as_admin("/probe/now?access=1");
    host.get(&format!("/probe/now?access_token={ADMIN_TOKEN}"));
    host.get(&format!(
        "/probe/now\nCookie: directus_session_token={ADMIN_TOKEN}"
    ));
    host.get(&format!("/{ADMIN_TOKEN}?access_token={ADMIN_TOKEN}-wrong"));
    let log = host.stop().log;
    let with_token = log
        .iter()
        .filter(|line| line.to_string().contains(ADMIN_TOKEN));
    assert_eq!(with_token.count(), 1, "the path alone: {log:#?}");
}

// ---- Calls at odd times ----

fn odd_times() -> Extension {
    Extension::c("directus-extension-odd", "odd_times.c", &[])
        .manifest("[env]\noptional = [\"UPSTREAM\"]\n[fetch]\nallow = [\"$UPSTREAM\"]")
}

#[test]
fn an_operation_that_was_begun_is_completed_before_its_extension_is_destroyed() {
    let host = Host::plan()
        .option("--workers=1")
        .extensions(&[&odd_times(), &Extension::probe()])
        .start();
    let (begin, unblock) = (host.folder().join("begin"), host.folder().join("unblock"));
    let arm = format!("/odd/arm\nX-Gate: {}", begin.display());
    assert_eq!(host.get(&arm).text(), "armed");
    let mut client = host.connect();
    client.send(format!(
        "GET /probe/block HTTP/1.1\r\nHost: a\r\nX-Gate: {}\r\n\r\n",
        unblock.display()
    ));
    host.said("an extension blocks a worker; its route should be declared blocking");
    // The only worker is blocked: what is begun now waits for it, and so must the end of the extension that began it.
    fs::write(begin, "").expect("a file");
    host.said("sleep returned 0");
    fs::remove_dir_all(host.folder().join("extensions/directus-extension-odd"))
        .expect("it is there");
    host.signal("HUP");
    host.said("unmounted an extension");
    fs::write(unblock, "").expect("a file");
    assert_eq!(client.answer().text(), "at last");
    host.said("destroyed after so many completions: 1");
}

#[test]
fn a_read_that_was_begun_is_completed_before_its_extension_is_destroyed() {
    let upstream = Upstream::start(|_, line| {
        line.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n");
        Then::Watch
    });
    let host = Host::plan()
        .option("--workers=1")
        .dotenv("UPSTREAM", upstream.url())
        .extensions(&[&odd_times(), &Extension::good()])
        .start();
    let unblock = host.folder().join("unblock");
    assert_eq!(host.get("/odd/read").text(), "begun");
    host.said("fetched_read returned 0");
    let mut client = host.connect();
    let head = format!("GET /odd/drop-and-block\nX-Gate: {}", unblock.display());
    client.send(request(&head, b""));
    host.said("fetched_drop returned 0");
    // No request of it is in flight any more, and the worker does not come to call the completion that is due.
    fs::remove_dir_all(host.folder().join("extensions/directus-extension-odd"))
        .expect("it is there");
    host.signal("HUP");
    host.said("unmounted an extension");
    // A moment in which a host that forgets the completion destroys it.
    std::thread::sleep(Duration::from_millis(200));
    fs::write(unblock, "").expect("a file");
    assert_eq!(client.answer().text(), "blocked for a while");
    host.said("destroyed after so many completions: 2");
}

#[test]
fn a_request_that_was_dropped_on_another_thread_is_not_answered_any_more() {
    let host = Host::with(&[&odd_times(), &Extension::good()]);
    for _ in 0..50 {
        assert_eq!(host.get("/odd/drop").status, 500);
    }
    let said = |line: &Value| line["message"] == "respond after drop returned 0";
    assert!(!host.log().iter().any(said));
}

#[test]
fn what_is_released_while_it_is_sent_may_call_the_host() {
    let upstream = Upstream::raw(|line| {
        line.head();
        line.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
        // Reads the 16 MiB and the rest only now, while the answer is being read.
        line.exactly(16 << 20);
        line.send("hello");
        line.close();
    });
    let host = Host::plan()
        .dotenv("UPSTREAM", upstream.url())
        .extensions(&[&odd_times(), &Extension::good()])
        .start();
    let answer = host.get("/odd/upload");
    assert_eq!((answer.status, answer.text()), (200, "read to its end"));
    assert_eq!(host.get("/c-sample/now").text(), "hello from C");
}

// ---- Structs ----

/// What the host makes of structs that end before some of their fields, or do not say where they end.
fn structs_are_read(defines: &[&str], are_whole: bool) {
    let upstream = Upstream::saying("from upstream");
    let short = Extension::c("directus-extension-short", "short_structs.c", defines)
        .manifest("[env]\noptional = [\"UPSTREAM\"]\n[fetch]\nallow = [\"$UPSTREAM\"]");
    let host = Host::plan()
        .dotenv("UPSTREAM", upstream.url())
        .extensions(&[&short, &Extension::good()])
        .start();
    // What stands behind the end of a struct that says it.
    let behind = are_whole.then_some("yes");
    let answer = host.get("/short/respond");
    let body = if are_whole { "a body" } else { "" };
    assert_eq!((answer.status, answer.text()), (202, body));
    assert_eq!(answer.header("x-short"), Some("yes"));
    let answer = host.get("/short/fail");
    assert_eq!(answer.error(), (418, "SHORT".into()));
    assert_eq!(answer.message() == "a message", are_whole);
    let answer = host.get("/short/stream");
    assert_eq!((answer.status, answer.text()), (201, "streamed"));
    assert_eq!(answer.header("x-behind"), behind);
    assert_eq!(host.get("/short/head").status, 200);
    let call = upstream.call();
    assert_eq!(
        (call.method.as_str(), call.target.as_str()),
        ("PUT", "/short")
    );
    assert_eq!(call.header("x-behind"), behind);
    assert!(call.body.is_empty());
    let answer = host.get("/short/relay");
    assert_eq!((answer.status, answer.text()), (203, "from upstream"));
    assert_eq!(answer.header("x-behind"), behind);
    assert_eq!(host.get("/c-sample/now").text(), "hello from C");
}

#[test]
fn nothing_is_read_behind_the_size_that_a_struct_says() {
    structs_are_read(&[], false);
}

#[test]
fn a_struct_that_says_no_size_is_that_of_the_first_version() {
    structs_are_read(&["NO_SIZE"], true);
}

// ---- Two answers at once ----

#[test]
fn two_threads_that_answer_each_request_disturb_nobody() {
    const CLIENTS: usize = 4;
    const REQUESTS: usize = 1_500;
    let both = Extension::c("directus-extension-both", "two_answers.c", &[]);
    let host = Host::plan()
        .config("[log]\naccess = false")
        .extensions(&[&both, &Extension::good()])
        .start();
    let ask = |path: &str, is_right: fn(&str) -> bool| {
        let mut client = host.connect();
        for number in 0..REQUESTS {
            client.send(request(&format!("GET {path}"), b""));
            let answer = client.answer();
            assert_eq!(answer.status, 200, "{path}, {number}");
            assert!(
                is_right(answer.text()),
                "{path}, {number}: {}",
                answer.text()
            );
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| ask("/both/", |text| ["the first", "the second"].contains(&text)));
            scope.spawn(|| ask("/c-sample/now", |text| text == "hello from C"));
        }
    });
    for folder in ["directus-extension-both", "directus-extension-c-sample"] {
        let requests = || host.said_of(folder)[0]["requests"].clone();
        eventually("nothing is in flight", || requests()["in_flight"] == 0);
        assert_eq!(requests()["total"], CLIENTS * REQUESTS, "{folder}");
    }
    let second = host.said("an extension used a request that it had finished before");
    assert_eq!(second["extension"], "directus-extension-both", "{second}");
}

// ---- Lines of the log that callers cause ----

#[test]
fn callers_do_not_fill_the_log_with_the_faults_of_an_extension() {
    const SENTENCE: &str = "the extension gave a request up without an answer";
    let host = host();
    let mut client = host.connect();
    let mut asked = 0;
    let mut ask = || {
        client.send(request("GET /probe/drop", b""));
        assert_eq!(client.answer().status, 500);
        asked += 1;
    };
    let told = |host: &Host| {
        let log = host.log();
        let lines: Vec<Value> = log
            .into_iter()
            .filter(|line| line["message"] == SENTENCE)
            .collect();
        let left_out = |line: &Value| line["left_out_count"].as_u64().unwrap_or_default();
        (lines.len() as u64, lines.iter().map(left_out).sum::<u64>())
    };
    for _ in 0..300 {
        ask();
    }
    // The next second begins, and the next line says what was left out.
    eventually("what was left out is told", || {
        std::thread::sleep(Duration::from_millis(50));
        ask();
        told(&host).1 > 0
    });
    let (lines, left_out) = told(&host);
    assert!(
        lines + left_out <= asked,
        "{lines} lines, {left_out} left out of {asked}"
    );
}

#[test]
fn who_speaks_no_http_writes_no_line_of_the_log() {
    let host = host();
    for bad in [
        "no HTTP\r\n\r\n",
        "GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        "POST /probe/whole HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
    ] {
        let mut client = host.connect();
        client.send(bad);
        client.finish();
        while !client.take(1).is_empty() {}
    }
    assert_eq!(host.get("/probe/now").status, 200);
    let ended = host.stop();
    let is_loud = |line: &&Value| line["level"] == "error" || line["level"] == "warn";
    let loud: Vec<&Value> = ended.log.iter().filter(is_loud).collect();
    assert!(loud.is_empty(), "{loud:#?}");
}

// ---- Descriptors ----

#[test]
fn a_host_whose_descriptors_are_closed_or_replaced_ends_and_says_why() {
    let descriptors = Extension::c("directus-extension-descriptors", "descriptors.c", &[]);
    for path in [
        "close",
        "close-blocking",
        "close-on-a-thread",
        "replace",
        "replace-on-a-thread",
    ] {
        let host = Host::with(&[&descriptors, &Extension::good()]);
        assert_eq!(host.get("/c-sample/now").status, 200);
        let mut client = host.connect();
        client.send(format!(
            "GET /descriptors/{path} HTTP/1.1\r\nHost: a\r\n\r\n"
        ));
        let ended = host.ended();
        // A std with checks of its own, as in these tests, aborts at the first of its descriptors that is gone.
        let is_aborted = |line: &Value| line.to_string().contains("IO Safety violation");
        if ended.code.is_none() && ended.log.iter().any(is_aborted) {
            continue;
        }
        assert_eq!(ended.code, Some(BROKEN), "{path}: {:#?}", ended.log);
        let is_said = |line: &Value| {
            let message = line["message"].as_str().unwrap_or_default();
            line["level"] == "error" && message.contains("the process ends")
        };
        let said = ended.log.iter().find(|line| is_said(line));
        let said = said.unwrap_or_else(|| panic!("{path}: {:#?}", ended.log));
        // Whose code it was is not certain, but who was there.
        if said["thread"].is_null() {
            let last = said["last_inside"].as_str().unwrap_or_default();
            assert!(last.contains("directus-extension-descriptors"), "{said}");
        }
    }
}
