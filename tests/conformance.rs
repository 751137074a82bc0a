//! `extension-host check`: what is sound passes, and each rule has an extension that breaks it and is caught.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{Extension, built};

/// What a check came to.
struct Checked {
    code: Option<i32>,
    report: Value,
    stderr: String,
}

fn check(extension: &Extension, variables: &[(&str, &str)]) -> Checked {
    let scratch = built::scratch();
    let folder = extension.put(scratch.path());
    let output = Command::new(built::host())
        .args(["check", "--json"])
        .arg(&folder)
        .current_dir(scratch.path())
        .env_clear()
        .env("TMPDIR", scratch.path())
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("the host runs");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Checked {
        code: output.status.code(),
        report: serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("JSON, not {stderr}")),
        stderr,
    }
}

impl Checked {
    fn rules(&self) -> Vec<&str> {
        let findings = self.report["findings"].as_array().expect("a list");
        findings
            .iter()
            .map(|finding| finding["rule"].as_str().expect("a name"))
            .collect()
    }

    #[track_caller]
    fn is_sound(&self) {
        assert_eq!(self.rules(), [""; 0], "{:#}", self.report);
        assert_eq!(
            (self.code, &self.report["sound"]),
            (Some(0), &Value::Bool(true))
        );
        assert!(self.report["requests"].as_u64() > Some(200));
    }
}

/// The fixture breaks this rule, and no other.
#[track_caller]
fn caught(source: &str, rule: &str) -> Value {
    let bad = Extension::c(
        "directus-extension-bad",
        &format!("conformance/{source}.c"),
        &[],
    )
    .manifest("[fetch]\nallow = [\"http://upstream.example\"]");
    let checked = check(&bad, &[]);
    assert_eq!(
        checked.rules(),
        [rule],
        "{:#}\n{}",
        checked.report,
        checked.stderr
    );
    assert_eq!(
        (checked.code, &checked.report["sound"]),
        (Some(1), &Value::Bool(false))
    );
    let finding = checked.report["findings"][0].clone();
    for part in ["header", "seen", "during", "remedy"] {
        assert!(!finding[part].is_null(), "{finding}");
    }
    finding
}

macro_rules! caught {
    ($($test:ident: $rule:literal)*) => {$(
        #[test]
        fn $test() {
            caught($rule, $rule);
        }
    )*};
}

caught! {
    one_that_says_it_panicked_is_caught: "does-not-panic"
    one_that_blocks_a_worker_is_caught: "does-not-block"
    one_that_answers_twice_is_caught: "answers-once"
    one_that_gives_requests_up_is_caught: "answers-requests"
    one_that_keeps_requests_is_caught: "finishes-requests"
    one_that_uses_what_is_finished_is_caught: "lets-finished-go"
    one_that_answers_what_is_no_http_is_caught: "valid-answers"
    one_that_lies_about_its_length_is_caught: "true-length"
    one_that_calls_wrongly_is_caught: "valid-arguments"
    one_without_a_size_in_its_structs_is_caught: "struct-size"
    one_whose_completion_is_null_is_caught: "completion-function"
    one_that_reads_twice_at_once_is_caught: "one-at-a-time"
    one_that_declares_too_late_is_caught: "at-its-stage"
    one_that_reads_what_it_has_not_declared_is_caught: "declares-variables"
    one_that_wants_to_call_elsewhere_is_caught: "declares-origins"
    one_that_keeps_buffers_is_caught: "releases-buffers"
    one_that_releases_twice_is_caught: "releases-once"
    one_that_forgets_a_fetch_is_caught: "ends-fetched"
    one_that_leaves_a_thread_is_caught: "ends-threads"
    one_whose_builds_share_statics_is_caught: "own-statics"
    one_that_wears_out_is_caught: "serves-on"
}

#[test]
fn one_that_crashes_is_a_finding_and_not_the_end_of_the_check() {
    let finding = caught("does-not-crash", "does-not-crash");
    assert!(finding["seen"].to_string().contains("SIGSEGV"), "{finding}");
    assert_eq!(finding["during"], "* /bad/ was asked with a JSON body");
}

#[test]
fn one_that_crashes_when_it_is_stopped_is_caught() {
    let finding = caught("does-not-crash-in-stop", "does-not-crash");
    assert!(finding["seen"].to_string().contains("SIGABRT"), "{finding}");
}

// ---- In Rust ----

#[test]
fn panics_in_handlers_streams_and_drops_are_found_with_their_places() {
    let checked = check(
        &Extension::rust("directus-extension-failing", "handlers_that_fail"),
        &[],
    );
    assert_eq!(checked.rules(), ["does-not-panic"], "{:#}", checked.report);
    let seen = checked.report["findings"][0]["seen"].to_string();
    for panic in [
        "a handler fell over",
        "a handler fell over later",
        "a drop fell over",
        "a producer fell over",
        "a blocking handler fell over",
    ] {
        assert!(seen.contains(panic), "{panic} is missing in {seen}");
    }
}

#[test]
fn a_panic_in_stop_is_found() {
    let checked = check(
        &Extension::rust("directus-extension-stop-panics", "stop_panics"),
        &[],
    );
    assert_eq!(checked.rules(), ["does-not-panic"], "{:#}", checked.report);
    assert!(
        checked.report["findings"][0]["seen"]
            .to_string()
            .contains("the end is near")
    );
}

#[test]
fn a_panic_in_new_keeps_it_from_being_loaded() {
    let checked = check(
        &Extension::rust("directus-extension-new-panics", "new_panics"),
        &[],
    );
    assert_eq!(checked.code, Some(2));
    assert_eq!(checked.report["error"]["code"], "CREATE_PANICKED");
}

// ---- What is sound ----

#[test]
fn the_sample_in_c_is_sound_and_its_calls_reach_a_stand_in_alone() {
    let sample = Extension::good().more_manifest("[fetch]\nallow = [\"$C_SAMPLE_UPSTREAM\"]");
    // A name that cannot be resolved: a call that went there would fail, and be seen as one.
    let checked = check(
        &sample,
        &[("C_SAMPLE_UPSTREAM", "https://upstream.invalid")],
    );
    checked.is_sound();
    assert!(
        checked.report["calls"].as_u64() > Some(200),
        "{:#}",
        checked.report
    );
    assert_eq!(checked.report["ids"], serde_json::json!(["c-sample"]));
    assert_eq!(checked.report["routes"].as_array().map(Vec::len), Some(5));
}

#[test]
fn the_shipped_extensions_are_sound() {
    let variables = [
        ("TWILIO_ACCOUNT_SID", "AC1"),
        ("TWILIO_AUTH_TOKEN", "token"),
        ("TWILIO_STANDIN", "on"),
    ];
    for name in [
        "directus-extension-endpoint-twilio",
        "directus-extension-endpoint-twilio-standin",
    ] {
        let manifest = std::fs::read_to_string(
            built::checkout()
                .join("extensions")
                .join(name)
                .join("extension.toml"),
        );
        let library = built::library(&name.replace('-', "_"));
        let shipped = Extension::of(name, library).manifest(&manifest.expect("a manifest"));
        check(&shipped, &variables).is_sound();
    }
}

// ---- What cannot be loaded ----

#[test]
fn a_variable_that_is_missing_is_shown_and_named() {
    let needs = Extension::good()
        .manifest("[env]\nrequired = [\"A_KEY\", \"ANOTHER\"]\noptional = [\"C_SAMPLE_UPSTREAM\"]");
    let checked = check(&needs, &[("ANOTHER", "value")]);
    assert_eq!(checked.code, Some(2));
    assert_eq!(checked.report["error"]["code"], "VARIABLE_MISSING");
    assert!(
        checked.report["error"]["message"]
            .to_string()
            .contains("not set: A_KEY;")
    );
    let variables = checked.report["variables"].to_string();
    assert!(
        variables.contains(r#"{"name":"A_KEY","required":true,"set":false}"#),
        "{variables}"
    );
    assert!(
        variables.contains(r#"{"name":"ANOTHER","required":true,"set":true}"#),
        "{variables}"
    );
    assert!(!variables.contains("value"), "no value is shown");
}

#[test]
fn a_library_for_another_abi_is_refused_with_both_versions() {
    let other = Extension::c("directus-extension-broken", "broken.c", &["MAJOR=2"]);
    let checked = check(&other, &[]);
    assert_eq!(checked.code, Some(2));
    assert_eq!(checked.report["error"]["code"], "ABI_MAJOR");
}
