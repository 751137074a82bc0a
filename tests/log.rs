//! What becomes of the log where nobody reads it, and that nothing of it is lost where somebody does.

use serde_json::Value;

use crate::support::host::request;
use crate::support::{Extension, Host};

/// More than a pipe and the host's queue take together.
const UNREAD_BYTES: usize = 3 << 20;
/// Of a path, which stands in the line of its request.
const PATH_BYTES: usize = 6_000;

fn host() -> Host {
    Host::with(&[&Extension::good()])
}

/// Asks for so much that the lines about it cannot all be kept. Returns how many requests that were; each is answered.
fn flood(host: &Host) -> usize {
    let count = UNREAD_BYTES / PATH_BYTES;
    let mut client = host.connect();
    for number in 0..count {
        let path = format!("/c-sample/{number}/{}", "x".repeat(PATH_BYTES));
        client.send(request(&format!("GET {path}"), b""));
        assert_eq!(client.answer().status, 404, "request {number}");
    }
    count
}

/// The numbers of the requests that the log speaks of, in its order.
fn logged(log: &[Value]) -> Vec<usize> {
    let number = |line: &Value| {
        let path = line["path"].as_str()?.strip_prefix("/c-sample/")?;
        path.split('/').next()?.parse().ok()
    };
    log.iter().filter_map(number).collect()
}

const DROPPED: &str = "lines of the log were dropped: nobody read stderr for a while";

#[test]
fn requests_are_answered_where_nobody_reads_the_log_and_what_was_dropped_is_counted() {
    let host = host();
    host.leave_log_unread();
    let count = flood(&host);
    assert_eq!(host.get("/server/ping").text(), "pong");
    host.read_log();
    let told = host.said(DROPPED);
    let dropped = told["dropped_count"].as_u64().expect("a number") as usize;
    // What is logged from now on is written again.
    assert_eq!(host.get("/c-sample/999999/x").status, 404);
    host.logged("a line that is written again", |line| {
        line["path"] == "/c-sample/999999/x"
    });
    let log = host.stop().log;
    let numbers = logged(&log);
    assert!(numbers.is_sorted(), "{numbers:?}");
    // One line for each request of the flood, one for the ping, and the one from above.
    assert_eq!(numbers.len() - 1 + dropped, count + 1);
    assert_eq!(
        log.iter().filter(|line| line["message"] == DROPPED).count(),
        1
    );
    assert!(log.iter().all(Value::is_object), "a line that is not whole");
}

#[test]
fn a_host_whose_log_nobody_reads_ends_when_it_is_told_to() {
    let host = host();
    host.leave_log_unread();
    flood(&host);
    host.signal("TERM");
    assert_eq!(host.ended_unread().code, Some(0));
}

#[test]
fn the_last_lines_reach_a_log_that_is_read() {
    for _ in 0..10 {
        let host = host();
        assert_eq!(host.get("/c-sample/now").status, 200);
        let ended = host.stop();
        assert!(ended.said("stopping: requests in flight are finished first"));
        assert!(ended.said("answered"));
    }
    // What is said last is said immediately before the process ends.
    for _ in 0..10 {
        let ended = Host::plan()
            .config("must_load = true")
            .extensions(&[&Extension::empty("directus-extension-a").manifest("")])
            .fail();
        let last = ended.log.last().expect("a line")["message"].to_string();
        assert!(last.contains("must_load is set"), "{last}");
    }
}
