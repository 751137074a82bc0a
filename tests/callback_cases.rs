//! What each callback answers at each stage, in the real host. The same cases run in the testing kit's.

#[path = "fixtures/callback_cases.rs"]
mod cases;

use std::fs;
use std::path::Path;

use self::cases::{
    Body, CASES, Client, IS_DONE, MAY_LEAVE, REFUSED_CASES, REFUSES, REPORT, SET, SET_VALUE, STEPS,
    Step, UPSTREAM, assert_complete, assert_report,
};
use crate::support::built::scratch;
use crate::support::host::{Plan, request};
use crate::support::upstream::{Call, Line, Then, Upstream};
use crate::support::{Extension, Host, eventually};

const FOLDER: &str = "directus-extension-cases";

fn plan(report: &Path, upstream: &Upstream) -> Plan {
    let cases = Extension::rust(FOLDER, "callback_cases").manifest(
        "[env]\noptional = [\"REPORT\", \"SET\", \"UNSET\", \"UPSTREAM\", \"REFUSES\"]\n[fetch]\nallow = [\"$UPSTREAM\"]",
    );
    Host::plan()
        .extensions(&[&cases])
        .dotenv(REPORT, report.display().to_string())
        .dotenv(SET, SET_VALUE)
        .dotenv(UPSTREAM, upstream.url())
}

fn upstream() -> Upstream {
    Upstream::start(|call: &Call, line: &mut Line| {
        let ok = "HTTP/1.1 200 OK\r\nx-made: here\r\n";
        match call.target.as_str() {
            "/whole" => line.send(format!("{ok}content-length: 3\r\n\r\nabc")),
            "/unfinished" => {
                line.send(format!("{ok}content-length: 100\r\n\r\nabc"));
                return Then::Watch;
            }
            _ => line.send("HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n"),
        };
        Then::Keep
    })
}

/// Asks what a step says, and checks what the client gets.
fn take(step: &Step, host: &Host) {
    let (length, body) = match step.body {
        Body::None => ("", ""),
        Body::Whole => ("\nContent-Length: 3", "abc"),
        Body::Unfinished => ("\nContent-Length: 100", "abc"),
    };
    let head = format!("POST /cases{}\nX-A: 1\nX-A: 2{length}", step.path);
    let before = may_leave(host);
    let mut client = host.connect();
    client.send(request(&head, body.as_bytes()));
    match step.client {
        Client::Gets(status) => assert_eq!(client.answer().status, status, "{}", step.path),
        Client::GetsPart(status) => {
            let mut answer = client.head();
            assert_eq!(answer.status, status, "{}", step.path);
            assert!(!client.body(&mut answer), "{} is whole", step.path);
        }
        Client::Leaves => {
            eventually("the client may leave", || may_leave(host) > before);
        }
    }
}

/// How many clients were told so far that they may leave.
fn may_leave(host: &Host) -> usize {
    let log = host.log();
    log.iter()
        .filter(|line| line["message"] == MAY_LEAVE)
        .count()
}

#[test]
fn every_callback_answers_at_every_stage_as_in_the_testing_kit() {
    let (outside, upstream) = (scratch(), upstream());
    let path = outside.path().join("report");
    let host = plan(&path, &upstream).start();
    for step in STEPS {
        take(step, &host);
    }
    let is_done = || host.get(&format!("/cases{IS_DONE}")).status == 200;
    eventually("every completion is called", is_done);
    assert_eq!(host.stop().code, Some(0));
    let report = fs::read_to_string(path).expect("a report");
    assert_report(&report, CASES);
    assert_complete(&report);
}

#[test]
fn what_keeps_an_extension_from_being_served_is_answered_as_in_the_testing_kit() {
    let (outside, upstream) = (scratch(), upstream());
    let path = outside.path().join("report");
    let host = plan(&path, &upstream).dotenv(REFUSES, "yes").start();
    let said = host.said_of(FOLDER);
    assert_eq!(said[0]["error"]["code"], "ROUTE_INVALID", "{said:?}");
    assert_report(&fs::read_to_string(path).expect("a report"), REFUSED_CASES);
}
