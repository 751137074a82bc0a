//! A build is loaded, created and destroyed by a process of its own first: what ends or hangs that one is refused, and the host and
//! all others serve on.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::copies::Place;
use crate::reload::{number_of, numbered};
use crate::support::host::{ADMIN_TOKEN, Plan};
use crate::support::{Extension, Host, built, eventually};

const FOLDER: &str = "directus-extension-broken";
/// Where an extension may end the process, and how a refusal calls that.
const PLACES: [(&str, &str); 3] = [
    ("IN_INITIALISER", "the initialisers of its library"),
    ("IN_CREATE", "its `new` (`create`)"),
    ("IN_DESTROY", "its `stop` or `destroy`"),
];

fn broken(defines: &[&str]) -> Extension {
    Extension::c(FOLDER, "broken.c", defines)
}

/// The host serves the good one, and says of the other what it would have done.
#[track_caller]
fn refused(bad: &Extension, code: &str, parts: &[&str]) {
    let plan = Host::plan().config("[limits]\ncreate_timeout_ms = 3000");
    let host = plan.extensions(&[bad, &Extension::good()]).start();
    assert_eq!(host.get("/c-sample/now").text(), "hello from C");
    let error = &host.said_of(FOLDER)[0]["error"];
    assert_eq!(error["code"], code, "{error}");
    let sentence = error["message"].as_str().expect("a sentence");
    for part in parts {
        assert!(
            sentence.contains(part),
            "{part:?} is missing in {sentence:?}"
        );
    }
    assert_eq!(host.stop().code, Some(0));
}

/// One that ends the process by this statement is refused, wherever that stands.
#[track_caller]
fn refused_everywhere(statement: &str, how: &str) {
    for (place, step) in PLACES {
        let bad = broken(&[&format!("{place}={statement}")]);
        refused(
            &bad,
            "TRIAL_CRASHED",
            &[step, how, "would have ended the host"],
        );
    }
}

#[test]
fn one_that_crashes_in_its_trial_is_refused() {
    refused_everywhere("crash()", "SIGSEGV (11)");
}

#[test]
fn one_that_crashes_by_overflowing_its_stack_in_its_trial_is_refused() {
    let bad = broken(&["IN_CREATE=deeper(0)"]);
    refused(
        &bad,
        "TRIAL_CRASHED",
        &["its `new` (`create`)", "stack overflow"],
    );
}

#[test]
fn one_that_aborts_in_its_trial_is_refused() {
    refused_everywhere("abort()", "SIGABRT (6)");
}

#[test]
fn one_that_ends_the_process_in_its_trial_is_refused() {
    refused_everywhere("exit(0)", "ended itself with exit code 0");
    refused_everywhere("_exit(3)", "ended itself with exit code 3");
}

/// What goes on would do so in the host, too: once more, or in place of it.
#[test]
fn one_that_forks_and_has_the_child_go_on_in_its_trial_is_refused() {
    for statement in ["if(fork())_exit(0)", "if(fork())for(;;)wait(NULL)"] {
        let bad = broken(&[&format!("IN_INITIALISER={statement}")]);
        let step = "the initialisers of its library";
        refused(
            &bad,
            "TRIAL_CRASHED",
            &[step, "it forks, and its child returns to the host"],
        );
    }
}

#[test]
fn one_that_closes_what_is_not_its_own_in_its_trial_is_refused() {
    let bad = broken(&["IN_CREATE=close_all()"]);
    refused(&bad, "TRIAL_CRASHED", &["its `new` (`create`)"]);
}

#[test]
fn what_it_wrote_last_is_told() {
    let last = "IN_CREATE=fputs(\"the lid is off\\n\",stderr);abort()";
    refused(
        &broken(&[last]),
        "TRIAL_CRASHED",
        &["the last line on stderr: the lid is off"],
    );
}

#[test]
fn one_that_throws_across_the_boundary_in_its_trial_is_refused() {
    let scratch = built::scratch();
    let library = scratch.path().join("libthrows.so");
    let done = Command::new("c++")
        .args(["-std=c++17", "-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg("-I")
        .arg(built::checkout().join("extension-api/include"))
        .arg(built::fixtures().join("throws.cc"))
        .status();
    assert!(
        done.expect("the tests need a C++ compiler called c++")
            .success()
    );
    let bad = Extension::of(FOLDER, library);
    refused(
        &bad,
        "TRIAL_CRASHED",
        &["its `new` (`create`)", "SIGABRT (6)"],
    );
}

#[test]
fn one_that_hangs_in_its_trial_is_refused() {
    for (place, step) in PLACES {
        let bad = broken(&[&format!("{place}=hang()")]);
        let (code, words) = match place {
            "IN_CREATE" => ("CREATE_TIMEOUT", "its `new` has not returned"),
            _ => ("TRIAL_TIMEOUT", step),
        };
        refused(&bad, code, &[words, "create_timeout_ms"]);
    }
}

/// The system's loader has one lock: a running host would never load anything again, and hang when a thread ends.
#[test]
fn an_initialiser_that_never_returns_leaves_the_running_host_as_it_is() {
    let plan = Host::plan().config("[limits]\ncreate_timeout_ms = 2000");
    let host = plan.extensions(&[&Extension::good()]).start();
    broken(&["IN_INITIALISER=hang()"]).put(&host.folder().join("extensions"));
    host.signal("HUP");
    host.logged("it is refused", |line| line["code"] == "TRIAL_TIMEOUT");
    Extension::c("directus-extension-generation", "generation.c", &[])
        .put(&host.folder().join("extensions"));
    host.signal("HUP");
    eventually("the next one is loaded", || {
        host.get("/generation/now").status == 200
    });
    assert_eq!(host.stop().code, Some(0));
}

#[test]
fn a_bad_build_leaves_the_one_before_it_serving() {
    let first = Extension::c(FOLDER, "broken.c", &[]);
    let host = Host::plan().extensions(&[&first]).start();
    let dist = host.folder().join("extensions").join(FOLDER).join("dist");
    let library = fs::read_dir(&dist)
        .expect("dist")
        .flatten()
        .next()
        .expect("a library")
        .path();
    let beside = dist.join(".incoming");
    fs::copy(
        built::c_library("broken.c", &["IN_CREATE=abort()"]),
        &beside,
    )
    .expect("a library");
    fs::rename(&beside, &library).expect("a library");
    host.signal("HUP");
    let line = host.logged("it is refused", |line| line["code"] == "TRIAL_CRASHED");
    assert_eq!(line["serving_generation"], "1");
    assert_eq!(host.get("/broken/now").text(), "not broken");
}

/// As a slow copy does: the file keeps its place and its size, its first page is new, and the rest comes later.
#[test]
fn a_library_that_is_written_over_with_a_pause_is_served_when_it_is_whole() {
    let folder = "directus-extension-generation";
    let first = Extension::empty(folder)
        .manifest("")
        .file("dist/lib.so", numbered(1));
    let host = Host::plan()
        .extensions(&[&first])
        .option("--auto-reload")
        .start();
    let library = host
        .folder()
        .join("extensions")
        .join(folder)
        .join("dist/lib.so");
    for number in 2..5 {
        let next = numbered(number);
        let file = fs::File::options()
            .write(true)
            .open(&library)
            .expect("a library");
        let write = |at: usize, bytes: &[u8]| {
            std::os::unix::fs::FileExt::write_all_at(&file, bytes, at as u64).expect("a library");
        };
        write(0, &vec![0; next.len()]);
        write(0, &next[..4096]);
        thread::sleep(Duration::from_millis(300));
        write(4096, &next[4096..]);
        eventually("the whole build is served", || {
            number_of(host.get("/generation/now").text()) == number
        });
    }
    let half = host.log().into_iter().find(|line| line["level"] == "error");
    assert_eq!(half, None, "half a file was never looked at");
    assert_eq!(host.stop().code, Some(0));
}

#[test]
fn without_a_trial_it_is_the_host_that_ends() {
    let ended = Host::plan()
        .config("trial_load = false")
        .extensions(&[&broken(&["IN_CREATE=abort()"])])
        .fail();
    assert_eq!(ended.code, None, "a signal ended it");
}

/// How often `create` of a build was called that notes it here.
fn noting(path: &Path, more: &[&str]) -> Extension {
    let note = format!("IN_CREATE=note(\"{}\",\"created\\n\")", path.display());
    broken(&[&[note.as_str()], more].concat())
}

fn times(path: &Path) -> usize {
    fs::read_to_string(path).unwrap_or_default().lines().count()
}

#[test]
fn a_copy_that_has_passed_is_not_tried_by_the_next_host() {
    let place = Place::new();
    let notes = place.folder().join("notes");
    let start = |plan: Plan| assert_eq!(plan.start().stop().code, Some(0));
    let extension = noting(&notes, &[]).manifest("[env]\noptional = [\"GIVEN\"]");
    extension.put(&place.extensions());
    start(place.plan());
    assert_eq!(times(&notes), 2, "in the trial, and in the host");
    start(place.plan());
    assert_eq!(times(&notes), 3, "in the host alone");
    // What `create` is given is another thing.
    start(place.plan().dotenv("GIVEN", "something"));
    assert_eq!(times(&notes), 5);
    start(place.plan().dotenv("GIVEN", "something"));
    assert_eq!(times(&notes), 6);
    // And so is another build.
    noting(&notes, &["PATTERN=\"/other\""]).put_alone(&place.extensions());
    start(place.plan().dotenv("GIVEN", "something"));
    assert_eq!(times(&notes), 8);
}

#[test]
fn what_a_trial_holds_is_free_when_the_host_creates() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|free| free.local_addr())
        .expect("a port")
        .port();
    let create = format!("IN_CREATE=if(listen_on({port})!=0)return(EXT_FAILED)");
    let host = Host::with(&[&broken(&[&create])]);
    assert_eq!(host.get("/broken/now").text(), "not broken");
}

#[test]
fn what_it_prints_in_its_trial_is_not_in_the_hosts_log() {
    let host = Host::with(&[&broken(&[
        "IN_CREATE=fputs(\"a line of its own\\n\",stderr)",
    ])]);
    assert_eq!(host.get("/broken/now").text(), "not broken");
    let said = host
        .stop()
        .log
        .into_iter()
        .filter(|line| line == "a line of its own")
        .count();
    assert_eq!(said, 1, "by the host's own `create`");
}

// ---- What may have passed is tried again ----

#[test]
fn what_was_refused_for_a_cause_that_passes_is_tried_again_on_a_signal_and_told_once() {
    let scratch = built::scratch();
    let needed = scratch.path().join("needed");
    let needs = format!("NEEDS_FILE=\"{}\"", needed.display());
    let host = Host::with(&[&broken(&[&needs])]);
    for _ in 0..3 {
        host.signal("HUP");
        // Each signal is served after the one before it; an administrator's reload of another one is after them all.
        let other = host.ask(
            &format!("POST /extensions/none/reload\nAuthorization: Bearer {ADMIN_TOKEN}"),
            "",
        );
        assert_eq!(other.status, 404);
    }
    fs::write(&needed, "").expect("a file");
    eventually("it is served", || {
        host.signal("HUP");
        host.get("/broken/now").status == 200
    });
    let told = host
        .log()
        .into_iter()
        .filter(|line| line["code"] == "CREATE_FAILED")
        .count();
    assert_eq!(told, 1);
}

#[test]
fn what_was_refused_for_a_cause_that_passes_is_tried_again_now_and_then() {
    let scratch = built::scratch();
    let needed = scratch.path().join("needed");
    let needs = format!("NEEDS_FILE=\"{}\"", needed.display());
    let host = Host::plan()
        .extensions(&[&broken(&[&needs])])
        .option("--auto-reload")
        .start();
    host.logged("it is refused", |line| line["code"] == "CREATE_FAILED");
    fs::write(&needed, "").expect("a file");
    eventually("it is served", || host.get("/broken/now").status == 200);
    let told = host
        .log()
        .into_iter()
        .filter(|line| line["code"] == "CREATE_FAILED")
        .count();
    assert_eq!(told, 1);
}

#[test]
fn a_folder_of_copies_that_has_vanished_is_made_anew() {
    let folder = "directus-extension-generation";
    let first = Extension::empty(folder)
        .manifest("")
        .file("dist/lib.so", numbered(1));
    let host = Host::with(&[&first]);
    for entry in fs::read_dir(host.folder().join("tmp"))
        .expect("a folder")
        .flatten()
    {
        fs::remove_dir_all(entry.path()).expect("a folder");
    }
    let dist = host.folder().join("extensions").join(folder).join("dist");
    fs::write(dist.join(".incoming"), numbered(2)).expect("a file");
    fs::rename(dist.join(".incoming"), dist.join("lib.so")).expect("a file");
    host.signal("HUP");
    eventually("the next build is served", || {
        number_of(host.get("/generation/now").text()) == 2
    });
    let made = fs::read_dir(host.folder().join("tmp"))
        .expect("a folder")
        .flatten()
        .next()
        .expect("it");
    assert_eq!(made.metadata().expect("a folder").mode() & 0o777, 0o700);
}

#[test]
fn a_build_of_the_same_size_and_time_is_seen_by_the_time_of_its_change() {
    let folder = "directus-extension-generation";
    let first = Extension::empty(folder)
        .manifest("")
        .file("dist/lib.so", numbered(1));
    let host = Host::with(&[&first]);
    let library = host
        .folder()
        .join("extensions")
        .join(folder)
        .join("dist/lib.so");
    let before = fs::metadata(&library).expect("a library");
    fs::write(&library, numbered(2)).expect("a library");
    let file = fs::File::options()
        .write(true)
        .open(&library)
        .expect("a library");
    file.set_modified(before.modified().expect("a time"))
        .expect("a time");
    let after = fs::metadata(&library).expect("a library");
    assert_eq!(
        (before.len(), before.mtime_nsec(), before.ino()),
        (after.len(), after.mtime_nsec(), after.ino())
    );
    host.signal("HUP");
    eventually("the next build is served", || {
        number_of(host.get("/generation/now").text()) == 2
    });
}

#[test]
fn statics_that_all_builds_share_are_told_when_it_is_loaded() {
    let library = built::c_library("conformance/own-statics.c", &[]);
    let bad = Extension::of("directus-extension-bad", library)
        .manifest("[fetch]\nallow = [\"http://upstream.example\"]");
    let host = Host::with(&[&bad]);
    let line = host.logged("it is told", |line| {
        line["level"] == "warn" && line["folder"] == bad.name()
    });
    for part in ["STB_GNU_UNIQUE", "shared_by_all", "-fno-gnu-unique"] {
        assert!(
            line["message"]
                .as_str()
                .is_some_and(|said| said.contains(part)),
            "{line}"
        );
    }
    assert_eq!(host.said_of(bad.name())[0]["warnings"][0], line["message"]);
}

// ---- Libraries beside the library ----

/// Makes the library that the extension needs, under this name, by which it is known to the linker as well.
fn helper(folder: &Path, name: &str, body: &str) {
    let source = folder.join("helper.c");
    fs::write(
        &source,
        format!("const char *body_of_helper(void) {{ return \"{body}\"; }}"),
    )
    .expect("a source");
    let done = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(folder.join(".incoming"))
        .arg(&source)
        .arg(format!("-Wl,-soname,{name}"))
        .status();
    assert!(done.expect("cc runs").success());
    fs::rename(folder.join(".incoming"), folder.join(name)).expect("a library");
    fs::remove_file(source).expect("a source");
}

/// An extension whose library finds another one in `dist/lib`; the folder of that is given.
fn with_helper(extensions: &Path) -> std::path::PathBuf {
    let dist = Extension::empty(FOLDER)
        .manifest("library = \"libmain.so\"")
        .put(extensions)
        .join("dist");
    let lib = dist.join("lib");
    fs::create_dir_all(&lib).expect("a folder");
    helper(&lib, "libhelper.so.1", "first");
    let done = Command::new("cc")
        .args(["-shared", "-fPIC", "-DHAS_HELPER", "-o"])
        .arg(dist.join("libmain.so"))
        .arg("-I")
        .arg(built::checkout().join("extension-api/include"))
        .arg(built::fixtures().join("broken.c"))
        .arg(lib.join("libhelper.so.1"))
        .arg("-Wl,-rpath,$ORIGIN/lib")
        .status();
    assert!(done.expect("cc runs").success());
    lib
}

#[test]
fn a_library_is_loaded_with_those_that_it_finds_beside_itself_and_reloaded_with_them() {
    let plan = Host::plan().option("--auto-reload");
    let lib = with_helper(&plan.extensions_path());
    // As packages have it: the name that is asked for is a link.
    fs::rename(lib.join("libhelper.so.1"), lib.join("libhelper.so.1.0")).expect("a library");
    std::os::unix::fs::symlink("libhelper.so.1.0", lib.join("libhelper.so.1")).expect("a link");
    let host = plan.start();
    assert_eq!(host.get("/broken/now").text(), "first");
    for body in ["second", "third"] {
        helper(&lib, "libhelper.so.1", body);
        eventually("the other library is a new one", || {
            host.get("/broken/now").text() == body
        });
    }
    assert_eq!(host.stop().code, Some(0));
}

#[test]
fn one_that_crashes_or_fails_with_half_of_a_library_beside_it_is_refused() {
    let plan = Host::plan().option("--auto-reload");
    let lib = with_helper(&plan.extensions_path());
    let host = plan.start();
    let whole = fs::read(lib.join("libhelper.so.1")).expect("a library");
    fs::write(lib.join("libhelper.so.1"), &whole[..whole.len() / 3]).expect("a library");
    let line = host.logged("it is refused", |line| {
        line["level"] == "error" && line["folder"] == FOLDER
    });
    let code = line["code"].as_str().unwrap_or_default();
    assert!(["TRIAL_CRASHED", "LIBRARY_OPEN"].contains(&code), "{line}");
    assert_eq!(host.get("/broken/now").text(), "first");
    assert_eq!(host.stop().code, Some(0));
}

#[test]
fn two_extensions_with_libraries_of_one_name_have_each_their_own() {
    let plan = Host::plan();
    with_helper(&plan.extensions_path());
    let others = plan.folder().join("others");
    let lib = with_helper(&others);
    helper(&lib, "libhelper.so.1", "of the other");
    let other = plan.extensions_path().join("directus-extension-other");
    fs::rename(others.join(FOLDER), &other).expect("a folder");
    let library = other.join("dist/libmain.so");
    let bytes = fs::read(&library).expect("a library");
    let at = bytes
        .windows(7)
        .position(|part| part == b"broken\0")
        .expect("its id");
    fs::write(
        &library,
        [&bytes[..at], b"others", &bytes[at + 6..]].concat(),
    )
    .expect("a library");
    let host = plan.start();
    assert_eq!(host.get("/broken/now").text(), "first");
    assert_eq!(host.get("/others/now").text(), "of the other");
}

#[test]
fn a_dist_that_is_too_large_to_be_taken_along_is_refused() {
    let plan = Host::plan();
    let lib = with_helper(&plan.extensions_path());
    let large = fs::File::create(lib.join("data")).expect("a file");
    large.set_len(3 << 30).expect("a sparse file");
    let host = plan.start();
    assert_eq!(host.said_of(FOLDER)[0]["error"]["code"], "DIST_TOO_LARGE");
}
