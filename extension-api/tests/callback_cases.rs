//! What each callback answers at each stage, in the testing kit's host. The same cases run in the real one.

#[path = "../../tests/fixtures/callback_cases.rs"]
mod callback_cases;

use std::path::Path;

use callback_cases::{
    Body, CASES, Client, IS_DONE, REFUSAL, REFUSED_CASES, REFUSES, REPORT, SET, SET_VALUE, STEPS,
    UNSET, UPSTREAM, assert_complete, assert_report, extension_entry_v1,
};
use extension_api::testing::{Call, Canned, Host};

const ORIGIN: &str = "https://upstream.example";

fn host(report: &Path) -> Host {
    let report = report.to_str().expect("the path of a test's file is text");
    Host::new()
        .grant(&[REPORT, SET, UNSET, UPSTREAM, REFUSES], &[ORIGIN])
        .env(REPORT, report)
        .env(SET, SET_VALUE)
        .env(UPSTREAM, ORIGIN)
        .upstream(upstream)
}

fn upstream(call: &Call) -> Canned {
    let answer = Canned::new(200).header("x-made", "here");
    match call.url.strip_prefix(ORIGIN) {
        Some("/whole") => answer.header("content-length", "3").chunk("abc"),
        Some("/unfinished") => answer.chunk("abc").unfinished(),
        _ => Canned::new(201),
    }
}

/// A file of this test's own, which is not there.
fn report(name: &str) -> std::path::PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    // Err: it has not been there.
    let _ = std::fs::remove_file(&path);
    path
}

#[test]
fn every_callback_answers_at_every_stage_as_in_the_real_host() {
    let path = report("callback_cases");
    let app = host(&path)
        .mount_entry(extension_entry_v1)
        .expect("it is mounted");
    for step in STEPS {
        let request = app
            .request("POST", step.path)
            .header("x-a", "1")
            .header("x-a", "2");
        let request = match step.body {
            Body::None => request,
            Body::Whole => request.body("abc"),
            Body::Unfinished => request.chunks(["abc"]).unfinished(),
        };
        let (status, is_part) = match step.client {
            Client::Leaves => {
                request.leave();
                continue;
            }
            Client::Gets(status) => (status, false),
            Client::GetsPart(status) => (status, true),
        };
        let answer = request.send();
        assert_eq!(
            (answer.status, answer.broken_off),
            (status, is_part),
            "{}",
            step.path
        );
    }
    while app.request("GET", IS_DONE).send().status != 200 {}
    drop(app);
    let report = std::fs::read_to_string(path).expect("a report");
    assert_report(&report, CASES);
    assert_complete(&report);
}

#[test]
fn what_keeps_an_extension_from_being_served_is_answered_as_in_the_real_host() {
    let path = report("callback_cases_refused");
    let refused = host(&path)
        .env(REFUSES, "yes")
        .mount_entry(extension_entry_v1);
    assert_eq!(refused.err().as_deref(), Some(REFUSAL));
    assert_report(
        &std::fs::read_to_string(path).expect("a report"),
        REFUSED_CASES,
    );
}
