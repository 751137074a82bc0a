//! What becomes of a connection between its requests.

use crate::support::host::request;
use crate::support::{Connection, Extension, Host};

const PARKED: &str = "idle connections gave their buffers back";
const ASK: &str = "GET /c-sample/now HTTP/1.1\r\nHost: a\r\n\r\n";

fn host(limits: &str) -> Host {
    Host::plan()
        .config(&format!("[log]\nlevel = \"debug\"\n[limits]\n{limits}"))
        .extensions(&[&Extension::good(), &Extension::probe()])
        .start()
}

#[track_caller]
fn answers(connection: &mut Connection) {
    assert_eq!(connection.answer().text(), "hello from C");
}

#[test]
fn a_connection_that_was_idle_serves_on() {
    let host = host("");
    let mut connection = host.connect();
    connection.send(ASK);
    answers(&mut connection);
    host.said(PARKED);
    for _ in 0..3 {
        connection.send(ASK);
        answers(&mut connection);
    }
}

#[test]
fn half_a_request_behind_a_whole_one_is_not_lost_by_waiting() {
    let host = host("");
    // One that is parked shows that the time for it has come.
    let mut idle = host.connect();
    let mut connection = host.connect();
    let (first, second) = ASK.split_at(ASK.len() - 7);
    connection.send(format!("{ASK}{first}"));
    answers(&mut connection);
    idle.send(ASK);
    answers(&mut idle);
    host.said(PARKED);
    connection.send(second);
    answers(&mut connection);
}

#[test]
fn a_body_behind_an_answer_is_not_taken_for_a_request() {
    let host = host("");
    let mut idle = host.connect();
    let mut connection = host.connect();
    // The route answers without reading the body, of which a part comes when others are parked.
    connection.send("POST /c-sample/now HTTP/1.1\r\nHost: a\r\nContent-Length: 300\r\n\r\n");
    let answer = connection.answer();
    idle.send(ASK);
    answers(&mut idle);
    host.said(PARKED);
    let smuggled = format!("{ASK}{}", "x".repeat(300 - ASK.len()));
    // It may have been closed by now, which is as good.
    if connection.try_send(smuggled).is_ok() && !connection.ends() {
        let second = connection.answer();
        panic!("{} was followed by {}", answer.status, second.status);
    }
}

#[test]
fn an_idle_connection_is_closed_after_its_time() {
    let host = host("keep_alive_ms = 400");
    let mut connection = host.connect();
    connection.send(ASK);
    answers(&mut connection);
    assert!(connection.ends(), "it is still open");
    let mut silent = host.connect();
    assert!(silent.ends(), "it is still open");
}

#[test]
fn a_second_request_that_does_not_come_whole_is_not_waited_for_for_ever() {
    let host = host("client_request_timeout_ms = 500");
    let mut connection = host.connect();
    connection.send(ASK);
    answers(&mut connection);
    connection.send("GET /c-sample/now HTTP/1.1\r\nHo");
    assert!(connection.ends(), "it is still open");
}

#[test]
fn a_request_that_takes_longer_than_a_connection_may_be_idle_is_answered() {
    let host = host("keep_alive_ms = 300\nclient_request_timeout_ms = 300");
    let mut connection = host.connect();
    let gate = host.folder().join("go");
    let head = format!("GET /probe/hold\nX-Gate: {}", gate.display());
    connection.send(request(&head, b""));
    host.said("has it");
    let mut idle = host.connect();
    idle.send(ASK);
    answers(&mut idle);
    assert!(idle.ends(), "it is still open");
    std::fs::write(&gate, "").expect("a file");
    assert_eq!(connection.answer().text(), "held");
}

#[test]
fn idle_connections_do_not_keep_a_stopping_host() {
    let host = host("shutdown_timeout_ms = 60000");
    let mut parked = host.connect();
    parked.send(ASK);
    answers(&mut parked);
    host.said(PARKED);
    let mut fresh = host.connect();
    fresh.send(ASK);
    answers(&mut fresh);
    host.signal("TERM");
    assert!(parked.ends() && fresh.ends());
    assert_eq!(host.ended().code, Some(0));
}
