//! `extension-host check`: what is sound passes, and each rule has an extension that breaks it and is caught.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use serde_json::Value;

use crate::support::{DEADLINE, Extension, built};

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
    assert_eq!(left_in(scratch.path()), [""; 0]);
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
    one_that_starts_timers_is_caught: "leaves-timers"
    one_that_changes_the_umask_is_caught: "leaves-umask"
    one_that_changes_limits_is_caught: "leaves-limits"
    one_that_changes_the_locale_is_caught: "leaves-locale"
    one_that_changes_priorities_is_caught: "leaves-scheduling"
    one_that_forgets_a_file_is_caught: "closes-descriptors"
    one_whose_files_are_inherited_is_caught: "closes-on-exec"
    one_that_keeps_the_process_from_ending_is_caught: "lets-the-process-end"
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

// ---- What all of the process share ----

/// The fixture breaks this rule, and no other, and it shows in these ways.
#[track_caller]
fn caught_by(rule: &str, parts: &[&str]) {
    let finding = caught(rule, rule);
    let seen = finding["seen"].to_string();
    for part in parts {
        assert!(seen.contains(part), "{part:?} is missing in {seen}");
    }
}

#[test]
fn each_change_to_how_signals_are_taken_is_caught_with_who_made_it() {
    caught_by(
        "leaves-signals",
        &[
            "SIGPIPE: was ignored, is now the default; changed by an initialiser of the library",
            "SIGTERM: was handled at ",
            "; changed by `create`",
            "the signals that a thread of the host's blocks: was 0000000000000000, is now 0000000000000200; changed by a handler",
            "the alternate stack of a thread of the host's: was 0x",
        ],
    );
}

#[test]
fn one_that_changes_the_working_directory_is_caught() {
    caught_by(
        "leaves-directories",
        &["is now /; changed by an initialiser of the library"],
    );
}

#[test]
fn one_that_changes_the_environment_is_caught_and_no_value_is_shown() {
    let finding = caught("leaves-environment", "leaves-environment");
    let seen = finding["seen"].to_string();
    assert!(
        seen.contains("LEAVES_ENVIRONMENT was set by `create`"),
        "{seen}"
    );
    assert!(seen.contains("TMPDIR was removed by `create`"), "{seen}");
    assert!(!seen.contains("secret"), "{seen}");
}

#[test]
fn one_that_changes_what_the_process_is_is_caught() {
    caught_by(
        "leaves-attributes",
        &["PR_SET_CHILD_SUBREAPER", "PR_SET_NO_NEW_PRIVS"],
    );
}

#[test]
fn one_that_is_linked_with_fast_math_or_rounds_is_caught() {
    caught_by(
        "leaves-floating-point",
        &[
            "denormal numbers: was kept, is now made zero",
            "changed by an initialiser of the library",
            "rounding: was to the nearest, is now upwards; changed by a handler",
        ],
    );
}

#[test]
fn one_that_closes_and_replaces_descriptors_of_the_hosts_is_caught() {
    caught_by(
        "leaves-descriptors",
        &["descriptor 0 of the host's", "descriptor 1 of the host's"],
    );
}

#[test]
fn one_that_leaves_processes_is_caught_and_they_are_ended() {
    caught_by(
        "ends-processes",
        &[
            "sleep (",
            "running)",
            "sh (",
            "ended, and not waited for)",
            "processes were left",
        ],
    );
}

#[test]
fn one_that_prints_is_caught_with_what_it_said() {
    caught_by("does-not-print", &["loaded, and glad to tell"]);
}

// ---- Those that end or hang the process ----

/// A check of the extension that does that deed at that moment ends, has a finding, and leaves nothing behind.
#[track_caller]
fn survives(moment: &str, deed: &str, rules: &[&str], during: &str) {
    let deed = format!("DEED={deed}");
    let hostile = Extension::c("directus-extension-hostile", "hostile.c", &[moment, &deed]);
    let checked = check(&hostile, &[]);
    let findings = checked.report["findings"].as_array().expect("a list");
    for rule in rules {
        let finding = findings.iter().find(|finding| finding["rule"] == *rule);
        let finding = finding.unwrap_or_else(|| panic!("no {rule}: {:#}", checked.report));
        let first_while = finding["during"].as_str().expect("a text");
        assert!(first_while.contains(during), "{finding:#}");
    }
    assert_eq!(checked.code, Some(1), "{}", checked.stderr);
}

macro_rules! survives {
    ($($test:ident: $moment:literal $deed:literal $rules:expr, $during:literal;)*) => {$(
        #[test]
        fn $test() {
            survives($moment, $deed, &$rules, $during);
        }
    )*};
}

survives! {
    an_exit_in_an_initialiser_is_found: "IN_INITIALISER" "exit(0)" ["does-not-crash"], "initialisers ran";
    an_abort_in_an_initialiser_is_found: "IN_INITIALISER" "abort()" ["does-not-crash"], "initialisers ran";
    a_fork_in_an_initialiser_whose_child_goes_on_is_found: "IN_INITIALISER" "if (fork()) _exit(0)" ["does-not-crash"], "initialisers ran";
    an_initialiser_that_hangs_is_found: "IN_INITIALISER" "for (;;) pause()" ["does-not-block"], "initialisers ran";
    an_exit_in_create_is_found: "IN_CREATE" "exit(0)" ["does-not-crash"], "`create` was called";
    an_abort_in_create_is_found: "IN_CREATE" "abort()" ["does-not-crash"], "`create` was called";
    an_exit_in_a_handler_is_found: "IN_HANDLE" "exit(0)" ["does-not-crash"], "/hostile/ was asked";
    an_abort_in_a_handler_is_found: "IN_HANDLE" "abort()" ["does-not-crash"], "/hostile/ was asked";
    a_handler_that_hangs_is_found: "IN_HANDLE" "for (;;) pause()" ["does-not-block", "finishes-requests"], "was asked";
    an_exit_in_stop_is_found: "IN_STOP" "exit(0)" ["does-not-crash"], "was replaced";
    an_abort_in_stop_is_found: "IN_STOP" "abort()" ["does-not-crash"], "was replaced";
    a_stop_that_hangs_is_found: "IN_STOP" "for (;;) pause()" ["does-not-block"], "was replaced";
    an_exit_in_destroy_is_found: "IN_DESTROY" "exit(0)" ["does-not-crash"], "was replaced";
    an_abort_in_destroy_is_found: "IN_DESTROY" "abort()" ["does-not-crash"], "was replaced";
    a_destroy_that_hangs_is_found: "IN_DESTROY" "for (;;) pause()" ["does-not-block"], "was replaced";
    an_abort_at_the_end_is_found: "AT_EXIT" "abort()" ["does-not-crash"], "at the end of the process";
    an_exit_code_of_its_own_at_the_end_is_found: "AT_EXIT" "_exit(3)" ["does-not-crash"], "at the end of the process";
}

#[test]
fn a_crash_is_told_of_its_own_route_and_what_was_found_before_is_kept() {
    let two = Extension::c("directus-extension-two", "two_faults.c", &[]);
    let report = check(&two, &[]).report;
    let finding = |rule: &str| {
        let findings = report["findings"].as_array().expect("a list");
        let found = findings.iter().find(|finding| finding["rule"] == rule);
        found.unwrap_or_else(|| panic!("no {rule}: {report:#}"))
    };
    let during = "GET /two/second was asked";
    assert_eq!(finding("does-not-crash")["during"], during);
    assert_eq!(report["ended_while"], during, "nothing after it is checked");
    // The route that was asked before has panicked, which is a finding of its own, and no last word of this one.
    assert_eq!(
        finding("does-not-panic")["during"],
        "GET /two/first was asked"
    );
    let seen = finding("does-not-crash")["seen"].to_string();
    assert!(
        seen.contains("SIGABRT") && !seen.contains("fell over"),
        "{seen}"
    );
}

/// What is left of a check in a folder: its temporary folders, and processes that were told the folder's name.
fn left_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut left: Vec<String> = names
        .filter(|name| name.starts_with("extension-host"))
        .collect();
    let folder = folder.to_str().expect("a text");
    for process in fs::read_dir("/proc").expect("processes").flatten() {
        let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(folder) {
            left.push(command);
        }
    }
    left
}

/// A check that is ended by a signal while the extension hangs leaves no process and no folder.
#[track_caller]
fn leaves_nothing_when_ended_by(signal: &str, moment: &str) {
    let scratch = built::scratch();
    let hostile = Extension::c(
        "directus-extension-hostile",
        "hostile.c",
        &[moment, "DEED=for (;;) pause()"],
    );
    let folder = hostile.put(scratch.path());
    let mut check = Command::new(built::host())
        .arg("check")
        .arg(&folder)
        .current_dir(scratch.path())
        .env("TMPDIR", scratch.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the host runs");
    let wait = |what: &str, is_so: &dyn Fn(&[String]) -> bool| {
        let end = Instant::now() + DEADLINE;
        loop {
            let left = left_in(scratch.path());
            if is_so(&left) {
                break;
            }
            assert!(Instant::now() < end, "{what}: {left:#?}");
            thread::sleep(Duration::from_millis(10));
        }
    };
    // The two processes, and the folder for copies.
    wait("the extension is loaded", &|left| left.len() == 3);
    let kill = format!("kill -{signal} {}", check.id());
    let killed = Command::new("sh").args(["-c", &kill]).status();
    assert!(killed.expect("sh runs").success());
    check.wait().expect("it has ended");
    wait("nothing is left", &<[String]>::is_empty);
}

#[test]
fn a_check_that_is_told_to_end_leaves_nothing() {
    leaves_nothing_when_ended_by("TERM", "IN_CREATE");
}

#[test]
fn a_check_that_is_killed_leaves_nothing() {
    leaves_nothing_when_ended_by("KILL", "IN_INITIALISER");
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
