//! Extensions that cannot be served: each is refused with a sentence of its own, and all others are served.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::process::Command;

use serde_json::Value;

use crate::identity_support::{add_user, plan, post};
use crate::support::host::{FORCED, request};
use crate::support::{ADMIN_TOKEN, Extension, Host, Upstream, built, eventually};

/// A host with a good extension and a bad one serves the good one, and says everywhere why it refuses the bad one. One that
/// must have all of them ends.
#[track_caller]
fn refused(bad: &Extension, code: &str, parts: &[&str]) {
    refused_by(|| Host::plan().extensions(&[bad]), bad.name(), code, parts);
}

#[track_caller]
fn refused_by(
    plan: impl Fn() -> crate::support::host::Plan,
    folder: &str,
    code: &str,
    parts: &[&str],
) {
    let host = plan().extensions(&[&Extension::good()]).start();
    assert_eq!(host.get("/c-sample/now").text(), "hello from C");
    let sentence = said(&host.log(), folder, code, parts);

    let entries = host.said_of(folder);
    assert_eq!(entries.len(), 1, "{entries:#?}");
    assert_eq!(entries[0]["state"], "refused");
    assert_eq!(entries[0]["error"]["code"], code);
    assert_eq!(entries[0]["error"]["message"], sentence.as_str());
    assert_eq!(
        host.get("/server/health").text(),
        r#"{"status":"warn"}"#,
        "monitoring shall see it"
    );
    assert_eq!(host.stop().code, Some(0));

    let ended = plan()
        .extensions(&[&Extension::good()])
        .option("--must-load")
        .fail();
    assert_eq!(ended.code, Some(1));
    said(&ended.log, folder, code, parts);
    assert!(ended.said("an extension was refused, and must_load is set"));
}

/// The sentence that the log has for a refusal.
#[track_caller]
fn said(log: &[Value], folder: &str, code: &str, parts: &[&str]) -> String {
    let line = log
        .iter()
        .find(|line| line["level"] == "error" && line["folder"] == folder)
        .unwrap_or_else(|| panic!("no line names {folder}: {log:#?}"));
    assert_eq!(line["code"], code, "{line}");
    let sentence = line["message"].as_str().expect("a sentence");
    for part in [&[folder], parts].concat() {
        assert!(
            sentence.contains(part),
            "{part:?} is missing in {sentence:?}"
        );
    }
    sentence.to_owned()
}

fn broken(defines: &[&str]) -> Extension {
    Extension::c("directus-extension-broken", "broken.c", defines)
}

fn bytes_of(library: &std::path::Path) -> Vec<u8> {
    fs::read(library).expect("a library")
}

#[test]
fn the_fixture_that_others_spoil_is_good_when_it_is_not_spoiled() {
    let host = Host::with(&[&broken(&[])]);
    assert_eq!(host.get("/broken/now").text(), "not broken");
    assert_eq!(host.get("/server/health").text(), r#"{"status":"ok"}"#);
}

// ---- The library's file ----

#[test]
fn a_missing_library() {
    let bad = Extension::empty("directus-extension-missing-library").manifest("");
    refused(
        &bad,
        "LIBRARY_MISSING",
        &["there is no library in", "/dist; build the extension"],
    );
}

#[test]
fn a_library_that_only_the_manifest_knows() {
    let bad = broken(&[]).manifest("library = \"libother.so\"");
    refused(
        &bad,
        "LIBRARY_MISSING",
        &[
            "libother.so does not exist",
            "correct `library` in its extension.toml",
        ],
    );
}

#[test]
fn several_libraries_of_which_none_is_named() {
    let bad = Extension::empty("directus-extension-several")
        .manifest("")
        .file("dist/liba.so", "")
        .file("dist/libb.so", "");
    refused(
        &bad,
        "LIBRARY_AMBIGUOUS",
        &[
            "(liba.so, libb.so)",
            "name one in extension.toml: library = \"liba.so\"",
        ],
    );
}

#[test]
fn of_several_libraries_the_named_one_is_loaded() {
    let library = built::c_library("broken.c", &[]);
    let extension = Extension::empty("directus-extension-named")
        .manifest("library = \"libgood.so\"")
        .file("dist/libbad.so", "")
        .file("dist/libgood.so", bytes_of(&library));
    let host = Host::with(&[&extension]);
    assert_eq!(host.get("/broken/now").text(), "not broken");
}

#[test]
fn a_text_in_place_of_a_library() {
    let bad = Extension::empty("directus-extension-text")
        .manifest("")
        .file("dist/libtext.so", "I am no library.\n");
    refused(
        &bad,
        "LIBRARY_INVALID",
        &[
            "libtext.so is not a shared library",
            "build the extension again",
        ],
    );
}

#[test]
fn an_empty_file_in_place_of_a_library() {
    let bad = Extension::empty("directus-extension-empty")
        .manifest("")
        .file("dist/libempty.so", "");
    refused(
        &bad,
        "LIBRARY_INVALID",
        &["libempty.so is not a shared library but an empty file"],
    );
}

#[test]
fn half_a_library() {
    let whole = bytes_of(&built::c_library("broken.c", &[]));
    for part in [20, 100, whole.len() / 4, whole.len() / 2, whole.len() - 100] {
        let bad = Extension::empty("directus-extension-half")
            .manifest("")
            .file("dist/libhalf.so", &whole[..part]);
        refused(
            &bad,
            "LIBRARY_INVALID",
            &["libhalf.so", "build the extension again"],
        );
    }
}

#[test]
fn a_library_for_another_processor() {
    // The field e_machine of the ELF header: AArch64, or x86-64 where that is what this is.
    let (machine, name) = if cfg!(target_arch = "aarch64") {
        (62_u16, "x86")
    } else {
        (183, "aarch64")
    };
    let mut library = bytes_of(&built::c_library("broken.c", &[]));
    library[18..20].copy_from_slice(&machine.to_le_bytes());
    let bad = Extension::empty("directus-extension-foreign")
        .manifest("")
        .file("dist/libforeign.so", library);
    refused(
        &bad,
        "LIBRARY_ARCHITECTURE",
        &[
            "libforeign.so was built for",
            name,
            "this host runs on",
            "build it for",
        ],
    );
}

#[test]
fn a_library_of_100_gb() {
    let bad = Extension::empty("directus-extension-large").manifest("");
    let plan = || {
        let plan = Host::plan();
        let library = bad.put(&plan.extensions_path()).join("dist/liblarge.so");
        fs::create_dir_all(library.parent().expect("dist")).expect("a folder");
        let file = fs::File::create(&library).expect("a file");
        file.set_len(100 << 30).expect("a sparse file");
        plan
    };
    let parts = ["liblarge.so has 107374182400 bytes, at most 2147483648 are taken"];
    refused_by(plan, bad.name(), "LIBRARY_TOO_LARGE", &parts);
}

/// Compiles the good fixture once more, linked by these flags.
fn linked(folder: &std::path::Path, flags: &[&str]) -> Extension {
    let library = folder.join("liblinked.so");
    let done = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg("-I")
        .arg(built::checkout().join("extension-api/include"))
        .arg(built::fixtures().join("broken.c"))
        .args(flags)
        .status();
    assert!(done.expect("cc runs").success());
    Extension::of("directus-extension-linked", library)
}

/// A library of this name that has nothing in it.
fn empty_library(folder: &std::path::Path, name: &str, more: &[&str]) -> String {
    let library = folder.join(name);
    let source = folder.join("empty.c");
    fs::write(&source, "int in_the_other_library;").expect("a source");
    let done = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&source)
        .arg(format!("-Wl,-soname,{name}"))
        .args(more)
        .status();
    assert!(done.expect("cc runs").success());
    library.to_string_lossy().into_owned()
}

#[test]
fn a_library_that_needs_another_one_that_is_not_there() {
    let scratch = built::scratch();
    let other = empty_library(scratch.path(), "libnot-installed.so.4", &[]);
    let bad = linked(scratch.path(), &["-Wl,--no-as-needed", &other]);
    let parts = [
        "it needs libnot-installed.so.4, which is not there",
        "install",
    ];
    refused(&bad, "LIBRARY_OPEN", &parts);
}

#[test]
fn a_library_for_musl() {
    let scratch = built::scratch();
    let musl = empty_library(scratch.path(), "libc.musl-x86_64.so.1", &[]);
    let bad = linked(scratch.path(), &["-Wl,--no-as-needed", &musl]);
    let parts = [
        "it was built for musl, and this host for glibc",
        "ending in -gnu",
    ];
    refused(&bad, "LIBRARY_OPEN", &parts);
}

#[test]
fn a_library_for_a_newer_glibc() {
    let scratch = built::scratch();
    // Another libc.so.6, of a version to come: the linker notes that the library needs it.
    let map = scratch.path().join("map");
    fs::write(
        &map,
        "GLIBC_2.99 { global: in_the_other_library; local: *; };",
    )
    .expect("a file");
    let map = format!("-Wl,--version-script={}", map.display());
    let newer = empty_library(scratch.path(), "libc.so.6", &[&map, "-nostdlib"]);
    let user = scratch.path().join("user.c");
    fs::write(
        &user,
        "extern int in_the_other_library; int *used(void) { return &in_the_other_library; }",
    )
    .expect("a source");
    let bad = linked(
        scratch.path(),
        &[&user.to_string_lossy(), "-Wl,--no-as-needed", &newer],
    );
    let parts = [
        "newer glibc, and needs its GLIBC_2.99",
        "build it on this system or an older one",
    ];
    refused(&bad, "LIBRARY_OPEN", &parts);
}

/// In a namespace of its own, so that the mount goes with the host.
#[test]
fn a_folder_for_copies_from_which_nothing_may_be_executed() {
    let host = Host::plan()
        .extensions(&[&broken(&[])])
        .through(
            "unshare",
            &[
                "--user",
                "--map-root-user",
                "--mount",
                "sh",
                "-c",
                "mount -t tmpfs -o noexec,mode=700 none \"$TMPDIR\" && exec \"$@\"",
                "sh",
            ],
        )
        .start();
    let error = host.said_of("directus-extension-broken")[0]["error"].clone();
    assert_eq!(error["code"], "LIBRARY_OPEN");
    let sentence = error["message"].as_str().expect("a sentence");
    let tmp = host.folder().join("tmp");
    for part in [&*tmp.to_string_lossy(), "is mounted noexec", "set TMPDIR"] {
        assert!(
            sentence.contains(part),
            "{part:?} is missing in {sentence:?}"
        );
    }
}

/// Each build that is loaded keeps its part of a space that all threads have from their start.
#[test]
fn a_library_for_whose_thread_locals_there_is_no_space() {
    let scratch = built::scratch();
    let source = scratch.path().join("tls.c");
    fs::write(&source, "__thread char large[1 << 16] __attribute__((tls_model(\"initial-exec\"))); char *get(void) { return large; }").expect("a source");
    let bad = linked(scratch.path(), &[&source.to_string_lossy()]);
    let parts = [
        "no space left for thread-locals of the initial-exec model",
        "restart the host",
    ];
    refused(&bad, "LIBRARY_OPEN", &parts);
}

#[test]
fn a_library_that_misses_a_function_of_another_one() {
    refused(
        &broken(&["UNRESOLVED"]),
        "LIBRARY_OPEN",
        &[
            "the system cannot load",
            "a_function_that_nobody_has",
            "install what it misses",
        ],
    );
}

#[test]
fn a_folder_in_place_of_a_library() {
    let bad = Extension::empty("directus-extension-folder")
        .manifest("library = \"libfolder.so\"")
        .file("dist/libfolder.so/a", "");
    refused(
        &bad,
        "LIBRARY_INVALID",
        &["libfolder.so is not a shared library but a folder"],
    );
}

/// Whoever opens a pipe to read waits until somebody writes: here, nobody does.
fn pipe(path: &std::path::Path) {
    fs::create_dir_all(path.parent().expect("it is in a folder")).expect("a folder");
    let made = Command::new("mkfifo").arg(path).status();
    assert!(made.expect("mkfifo runs").success());
}

#[test]
fn a_pipe_in_place_of_a_library() {
    let bad = Extension::empty("directus-extension-pipe").manifest("");
    let plan = || {
        let plan = Host::plan();
        pipe(&bad.put(&plan.extensions_path()).join("dist/libpipe.so"));
        plan
    };
    let parts = ["libpipe.so is not a shared library but a device or pipe"];
    refused_by(plan, bad.name(), "LIBRARY_INVALID", &parts);
}

#[test]
fn a_pipe_in_place_of_a_manifest() {
    let library = built::c_library("broken.c", &[]);
    let bad = Extension::empty("directus-extension-pipe").library(library);
    let plan = || {
        let plan = Host::plan();
        pipe(&bad.put(&plan.extensions_path()).join("extension.toml"));
        plan
    };
    let parts = ["extension.toml", "it is a device or pipe"];
    refused_by(plan, bad.name(), "UNREADABLE", &parts);
}

#[test]
fn a_library_that_the_host_may_not_read() {
    unreadable("dist", |folder| {
        let library = fs::read_dir(folder.join("dist"))
            .expect("dist")
            .next()
            .expect("a library");
        library.expect("a library").path()
    });
}

#[test]
fn a_manifest_that_the_host_may_not_read() {
    unreadable("extension.toml", |folder| folder.join("extension.toml"));
}

/// Root may read everything: as root, the host is run as nobody.
#[track_caller]
fn unreadable(named: &str, which: impl Fn(&std::path::Path) -> std::path::PathBuf) {
    const NOBODY: u32 = 65534;
    let bad = broken(&[]);
    let is_root = fs::metadata("/proc/self").expect("a process").uid() == 0;
    let plan = || {
        let plan = Host::plan().extensions(&[&bad, &Extension::good()]);
        let path = which(&plan.extensions_path().join(bad.name()));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).expect("a mode");
        if !is_root {
            return plan;
        }
        let chown = Command::new("chown")
            .args(["-R", &NOBODY.to_string()])
            .arg(plan.folder())
            .status();
        assert!(chown.expect("chown runs").success());
        plan.run_by(NOBODY)
    };
    refused_by(
        plan,
        bad.name(),
        "PERMISSION_DENIED",
        &[
            "no permission to read",
            named,
            "let the host's user read it",
        ],
    );
}

// ---- The entry ----

#[test]
fn a_library_without_the_entry() {
    refused(
        &broken(&["ENTRY=extension_entry_v0"]),
        "ENTRY_MISSING",
        &[
            "exports no symbol extension_entry_v1",
            "export_endpoint!",
            "extension_api.h",
        ],
    );
}

#[test]
fn an_entry_with_another_magic() {
    refused(
        &broken(&["MAGIC=7"]),
        "ENTRY_MAGIC",
        &["does not begin with EXT_MAGIC"],
    );
}

#[test]
fn an_entry_for_another_major_version() {
    refused(
        &broken(&["MAJOR=2"]),
        "ABI_MAJOR",
        &[
            "was built for ABI 2 (broken.c), this host speaks ABI 1",
            "rebuild it with this host's extension-api",
        ],
    );
}

#[test]
fn an_entry_that_needs_a_later_minor_version() {
    refused(
        &broken(&["NEEDS_MINOR=7"]),
        "ABI_MINOR",
        &[
            "needs ABI 1.7",
            "this host speaks ABI 1.0",
            "update the host",
        ],
    );
}

#[test]
fn an_entry_that_is_too_small() {
    refused(
        &broken(&["STRUCT_SIZE=40"]),
        "ENTRY_TOO_SMALL",
        &["has 40 bytes", "set its struct_size to sizeof(ext_entry)"],
    );
}

#[test]
fn an_entry_of_a_later_header_is_welcome() {
    let host = Host::with(&[&broken(&["STRUCT_SIZE=(sizeof(ext_entry)+64)"])]);
    assert_eq!(host.get("/broken/now").text(), "not broken");
}

#[test]
fn an_entry_without_create() {
    refused(
        &broken(&["CREATE=NULL"]),
        "ENTRY_HOOK_MISSING",
        &["has no hook `create`"],
    );
}

#[test]
fn an_entry_without_handle() {
    refused(
        &broken(&["HANDLE=NULL"]),
        "ENTRY_HOOK_MISSING",
        &["has no hook `handle`"],
    );
}

#[test]
fn a_rust_extension_built_with_panic_abort() {
    let library = built::with_panic_abort("directus-extension-endpoint-twilio");
    let bad = Extension::of("directus-extension-abort", library);
    refused(
        &bad,
        "PANIC_ABORT",
        &[
            "was built with panic=abort",
            "panic = \"unwind\"",
            "allow_panic_abort = true in config.toml",
        ],
    );
    let manifest = "[env]\nrequired = [\"TWILIO_ACCOUNT_SID\", \"TWILIO_AUTH_TOKEN\"]\n\
        optional = [\"TWILIO_API_BASE\", \"TWILIO_BODY_FORMAT\"]\n[fetch]\nallow = [\"https://api.twilio.com\"]";
    let host = Host::plan()
        .config("allow_panic_abort = true")
        .extensions(&[&bad.manifest(manifest)])
        .dotenv("TWILIO_ACCOUNT_SID", "AC1")
        .dotenv("TWILIO_AUTH_TOKEN", "token")
        .start();
    let answer = host.get("/twilio/x");
    assert_eq!(answer.status, 403, "it serves");
}

// ---- What `create` does ----

#[test]
fn a_new_that_fails() {
    let bad = Extension::rust("directus-extension-new-fails", "new_fails");
    refused(
        &bad,
        "CREATE_FAILED",
        &["cannot start", "its `new` failed: the weather is bad"],
    );
}

#[test]
fn a_new_that_panics() {
    let bad = Extension::rust("directus-extension-new-panics", "new_panics");
    refused(
        &bad,
        "CREATE_PANICKED",
        &[
            "cannot start",
            "its `new` panicked: ",
            "new_panics.rs:11:9: the sky has fallen",
            "fault in the extension's code",
        ],
    );
}

#[test]
fn a_create_that_says_why_it_fails() {
    refused(
        &broken(&["REFUSES=\"it is monday\""]),
        "CREATE_FAILED",
        &["its `new` failed: it is monday"],
    );
}

#[test]
fn a_create_that_fails_without_a_word() {
    refused(
        &broken(&["FAILS_SILENTLY"]),
        "CREATE_FAILED",
        &["it gave no reason (status -13)"],
    );
}

#[test]
fn a_create_that_hangs() {
    refused_by(
        || {
            Host::plan()
                .config("[limits]\ncreate_timeout_ms = 200\n")
                .extensions(&[&broken(&["HANGS"])])
        },
        "directus-extension-broken",
        "CREATE_TIMEOUT",
        &["its `new` has not returned for 200 ms", "create_timeout_ms"],
    );
}

/// Without a trial, it is the host that waits: the system loads nothing else meanwhile; the next one's `create` may have to wait, too, and must not be blamed for that.
#[test]
fn an_initialiser_that_takes_long_is_named_and_waited_for() {
    let before = Extension::c("directus-extension-a", "generation.c", &[]);
    let slow = broken(&["INITIALISER_TAKES_S=2"]);
    let host = Host::plan()
        .config("trial_load = false\n[limits]\ncreate_timeout_ms = 200\n")
        .extensions(&[&before, &slow, &Extension::good()])
        .start();
    let told = host.logged("its library is named", |line| {
        let message = line["message"].as_str().unwrap_or_default();
        message.starts_with("the initialisers of a library do not return")
    });
    let library = told["library"].as_str().expect("a path");
    assert!(library.contains(slow.name()), "{library}");
    for path in ["/generation/now", "/broken/now", "/c-sample/now"] {
        assert_eq!(host.get(path).status, 200, "{path}");
    }
    assert_eq!(host.stop().code, Some(0));
}

#[test]
fn a_stop_that_hangs_does_not_keep_the_host_from_ending() {
    let host = Host::plan()
        .config("trial_load = false\n[limits]\nshutdown_timeout_ms = 300")
        .extensions(&[&broken(&["STOP_HANGS"])])
        .start();
    assert_eq!(host.get("/broken/now").text(), "not broken");
    let ended = host.stop();
    assert_eq!(ended.code, Some(FORCED));
    assert!(ended.said("an extension did not stop in time; it was left running and not destroyed"));
}

#[test]
fn an_extension_without_an_endpoint() {
    refused(
        &broken(&["NO_ENDPOINT"]),
        "ENDPOINT_MISSING",
        &["it declared no endpoint"],
    );
}

#[test]
fn an_id_that_is_not_well_formed() {
    for id in ["Twilio", "a b", "-a", "a/b", "\u{e9}"] {
        refused(
            &broken(&[&format!("ID=\"{id}\"")]),
            "ID_INVALID",
            &[&format!("{id:?}"), "begins with a letter or digit"],
        );
    }
    let long = "a".repeat(65);
    refused(
        &broken(&[&format!("ID=\"{long}\"")]),
        "ID_INVALID",
        &["up to 64"],
    );
}

#[test]
fn an_id_of_the_hosts_own() {
    for id in ["server", "extensions", "auth", "users", "metrics", "admin"] {
        refused(
            &broken(&[&format!("ID=\"{id}\"")]),
            "ID_RESERVED",
            &[&format!("{id:?}"), "choose another one"],
        );
    }
}

#[test]
fn an_id_that_another_extension_has() {
    let first = Extension::c("directus-extension-a", "broken.c", &["PATTERN=\"/first\""]);
    let second = Extension::c("directus-extension-b", "broken.c", &["PATTERN=\"/second\""]);
    refused_by(
        || Host::plan().extensions(&[&second, &first]),
        "directus-extension-b",
        "ID_DUPLICATE",
        &[
            "extension id \"broken\" is declared by both directus-extension-a and directus-extension-b",
            "the second was not mounted: give one of them another id",
        ],
    );
    let host = Host::with(&[&second, &first]);
    assert_eq!(host.get("/broken/first").status, 200);
    assert_eq!(host.get("/broken/second").status, 404);
}

#[test]
fn an_id_that_stands_twice_in_one_extension() {
    refused(
        &broken(&["SECOND_ID=\"broken\""]),
        "ID_DUPLICATE",
        &[
            "\"broken\" is declared twice by directus-extension-broken",
            "another id",
        ],
    );
}

#[test]
fn a_bundle_is_mounted_under_each_of_its_ids() {
    let host = Host::with(&[&broken(&["SECOND_ID=\"other\""])]);
    assert_eq!(host.get("/broken/now").status, 200);
    assert_eq!(host.get("/other/second").status, 200);
    assert_eq!(host.get("/other/now").status, 404);
    let entries = host.said_of("directus-extension-broken");
    let ids: Vec<&Value> = entries.iter().map(|entry| &entry["id"]).collect();
    assert_eq!(ids, ["broken", "other"]);
    assert!(entries.iter().all(|entry| entry["state"] == "mounted"));
}

#[test]
fn a_bundle_is_refused_whole_where_one_of_its_ids_is_taken() {
    let first = Extension::c("directus-extension-a", "broken.c", &["ID=\"taken\""]);
    let bundle = Extension::c("directus-extension-b", "broken.c", &["SECOND_ID=\"taken\""]);
    let host = Host::with(&[&first, &bundle]);
    assert_eq!(host.get("/taken/now").status, 200);
    assert_eq!(host.get("/broken/now").status, 404);
    assert_eq!(
        host.said_of("directus-extension-b")[0]["error"]["code"],
        "ID_DUPLICATE"
    );
}

#[test]
fn an_extension_without_an_id_is_mounted_under_its_folders_name() {
    let extension = Extension::c("directus-extension-nameless", "broken.c", &["ID=\"\""]);
    let host = Host::with(&[&extension]);
    let answer = host.get("/directus-extension-nameless/now");
    assert_eq!(answer.text(), "not broken");
}

#[test]
fn a_folders_name_that_cannot_be_an_id() {
    let bad = Extension::c("directus-extension-With.Dot", "broken.c", &["ID=\"\""]);
    refused(&bad, "ID_INVALID", &["\"directus-extension-With.Dot\""]);
}

#[test]
fn a_route_whose_pattern_is_not_well_formed() {
    for pattern in ["now", "/a*", "/*/a", "/:"] {
        refused(
            &broken(&[&format!("PATTERN=\"{pattern}\"")]),
            "ROUTE_INVALID",
            &[
                &format!("{pattern:?}"),
                "a pattern is like /a, /:name or /*",
            ],
        );
    }
}

#[test]
fn a_route_that_is_declared_twice() {
    for (first, second) in [("/a", "/a"), ("/:a", "/:b"), ("/*", "/*")] {
        refused(
            &broken(&[
                &format!("PATTERN=\"{first}\""),
                &format!("SECOND_PATTERN=\"{second}\""),
            ]),
            "ROUTE_DUPLICATE",
            &["\"broken\"", "GET", "twice; remove one of them"],
        );
    }
}

// ---- The manifest ----

#[test]
fn a_manifest_with_an_unknown_key() {
    refused(
        &broken(&[]).manifest("name = \"x\"\n\n[fetch]\nalow = []\n"),
        "MANIFEST_INVALID",
        &[
            "extension.toml",
            "unknown field \"alow\", did you mean \"allow\"? (line 4, column 1)",
        ],
    );
}

#[test]
fn a_manifest_that_is_not_toml() {
    refused(
        &broken(&[]).manifest("name: x"),
        "MANIFEST_INVALID",
        &["extension.toml", "(line 1, column "],
    );
}

#[test]
fn a_manifest_that_is_not_text() {
    refused(
        &broken(&[]).file("extension.toml", [0xff, 0xfe]),
        "MANIFEST_INVALID",
        &["extension.toml: not UTF-8"],
    );
}

#[test]
fn a_manifest_that_allows_an_undeclared_variable() {
    refused(
        &broken(&[]).manifest("[fetch]\nallow = [\"$TARGET\"]"),
        "MANIFEST_INVALID",
        &[
            "\"$TARGET\" under [fetch] is not declared",
            "add \"TARGET\" to required or optional",
        ],
    );
}

#[test]
fn a_manifest_whose_library_leads_out_of_dist() {
    refused(
        &broken(&[]).manifest("library = \"../../libc.so\""),
        "MANIFEST_INVALID",
        &["\"../../libc.so\" is not the name of a file in dist"],
    );
}

#[test]
fn a_folder_in_place_of_the_manifest() {
    let bad = Extension::empty("directus-extension-odd").file("extension.toml/a", "");
    refused(&bad, "UNREADABLE", &["cannot read", "extension.toml"]);
}

#[test]
fn a_required_variable_that_is_not_set() {
    refused(
        &broken(&[]).manifest("[env]\nrequired = [\"NOT_SET\"]"),
        "VARIABLE_MISSING",
        &["environment variable NOT_SET is not set", "set it in .env"],
    );
}

#[test]
fn a_required_variable_may_come_from_the_file_or_from_the_process() {
    let extension = broken(&[]).manifest("[env]\nrequired = [\"FROM_FILE\", \"FROM_PROCESS\"]");
    let host = Host::plan()
        .extensions(&[&extension])
        .dotenv("FROM_FILE", "a")
        .variable("FROM_PROCESS", "b")
        .start();
    assert_eq!(host.get("/broken/now").status, 200);
}

#[test]
fn a_variable_for_an_origin_that_holds_something_else() {
    let bad = broken(&[]).manifest("[env]\nrequired = [\"PATH\"]\n[fetch]\nallow = [\"$PATH\"]");
    refused(
        &bad,
        "VARIABLE_INVALID",
        &["environment variable PATH", "https://api.example.com"],
    );
}

// ---- Folders ----

#[test]
fn folders_that_are_no_extensions_are_passed_over() {
    let source_only = Extension::empty("directus-extension-source").file("src/lib.rs", "");
    let other = Extension::c("another-folder", "broken.c", &[]);
    let plan = Host::plan().extensions(&[&source_only, &other, &Extension::good()]);
    let path = plan.extensions_path();
    fs::write(path.join("directus-extension-file"), "").expect("a file");
    symlink("nowhere", path.join("directus-extension-dangling")).expect("a link");
    let host = plan.option("--must-load").start();
    assert_eq!(host.get("/c-sample/now").status, 200);
    assert_eq!(host.get("/broken/now").status, 404);
    for (folder, why) in [
        ("directus-extension-source", "it holds no extension.toml"),
        ("directus-extension-file", "it is not a folder"),
        (
            "directus-extension-dangling",
            "it is a link that leads nowhere",
        ),
    ] {
        let line = host.logged(folder, |line| line["folder"] == folder);
        assert_eq!(line["level"], "warn");
        assert_eq!(line["why"], why);
    }
    let list = host.get_as_admin("/extensions").json();
    assert_eq!(list["data"].as_array().map(Vec::len), Some(1), "{list:#}");
}

#[test]
fn a_link_to_a_folder_is_an_extension() {
    let plan = Host::plan();
    let elsewhere = plan.folder().join("elsewhere");
    let folder = broken(&[]).put(&elsewhere);
    symlink(
        folder,
        plan.extensions_path().join("directus-extension-linked"),
    )
    .expect("a link");
    let host = plan.start();
    assert_eq!(host.get("/broken/now").text(), "not broken");
    assert_eq!(
        host.said_of("directus-extension-linked")[0]["state"],
        "mounted"
    );
}

#[test]
fn many_bad_extensions_do_not_keep_the_good_one_from_being_served() {
    let bad = [
        Extension::c("directus-extension-0", "broken.c", &["MAGIC=7"]),
        Extension::c("directus-extension-1", "broken.c", &["NO_ENDPOINT"]),
        Extension::empty("directus-extension-2").manifest("?"),
        Extension::empty("directus-extension-z").manifest(""),
    ];
    let plan = Host::plan().extensions(&bad.each_ref());
    let host = plan.extensions(&[&Extension::good()]).start();
    assert_eq!(host.get("/c-sample/now").status, 200);
    let ended = host.stop();
    assert_eq!(
        ended
            .log
            .iter()
            .filter(|line| line["level"] == "error")
            .count(),
        4
    );
    let ended = Host::plan()
        .extensions(&bad.each_ref())
        .option("--must-load")
        .fail();
    assert!(ended.said("4 extensions were refused, and must_load is set"));
}

#[test]
fn the_host_ends_where_the_extensions_folder_is_missing() {
    let ended = Host::plan()
        .option("--extensions-path=/nowhere/at/all")
        .fail();
    assert_eq!(ended.code, Some(1));
    let line = ended.log.last().expect("a line");
    let sentence = line["message"].as_str().expect("a sentence");
    assert!(
        sentence.contains("cannot read the extensions folder /nowhere/at/all"),
        "{sentence}"
    );
    assert!(
        sentence.contains("create it, or set extensions_path"),
        "{sentence}"
    );
}

// ---- An initialiser that never returns, while the host serves ----

#[test]
fn a_host_serves_on_where_the_initialisers_of_a_reloaded_library_never_return() {
    let upstream = Upstream::saying("from elsewhere");
    let by_name = format!("http://localhost:{}", upstream.address().port());
    let plan = plan().dotenv("UPSTREAM", by_name);
    let flag = plan.folder().join("hang");
    let define = format!("INITIALISER_HANGS_IF=\"{}\"", flag.display());
    let library = broken(&[&define]);
    let failing = Extension::rust("directus-extension-failing", "handlers_that_fail");
    let host = plan
        .config("trial_load = false\n[limits]\ncreate_timeout_ms = 500\nshutdown_timeout_ms = 500")
        .extensions(&[&library, &failing, &Extension::good()])
        .start();
    add_user(host.folder(), "anna@example.com", "");
    // Nothing has been asked yet: what a worker needs it must have without that.
    fs::write(&flag, "").expect("a file");
    let reload = || {
        let mut client = host.connect();
        let head = format!("POST /extensions/broken/reload\nAuthorization: Bearer {ADMIN_TOKEN}");
        client.send(request(&head, b""));
        client
    };
    let refused = |mut client: crate::support::Connection| {
        let answer = client.answer();
        assert_eq!(answer.error(), (503, "SERVICE_UNAVAILABLE".into()));
        let message = answer.message();
        assert!(message.contains(library.name()), "{message}");
    };
    let manifest = host.folder().join("extensions").join(library.name());
    fs::write(manifest.join("extension.toml"), "version = \"2\"").expect("a file");
    host.signal("HUP");
    let named = host.logged("the library is named", |line| {
        let message = line["message"].as_str().unwrap_or_default();
        message.starts_with("the initialisers of a library do not return")
    });
    assert!(
        named["library"]
            .as_str()
            .unwrap_or_default()
            .contains(library.name())
    );
    refused(reload());
    // All that a host does, on each worker, each for the first time.
    let credentials = serde_json::json!({"email": "anna@example.com", "password": "secret"});
    for _ in 0..8 {
        assert_eq!(host.get("/server/ping").text(), "pong");
        assert_eq!(host.get("/c-sample/now").text(), "hello from C");
        assert_eq!(host.get("/broken/now").text(), "not broken");
        assert_eq!(host.get("/probe/thread").text(), "from a thread");
        assert_eq!(host.get("/probe/fetch").text(), "from elsewhere");
        assert_eq!(host.ask("POST /probe/whole", "a body").text(), "a body");
        assert_eq!(
            host.get("/probe/stream\nX-Chunks: 3\nX-Size: 10")
                .body
                .len(),
            30
        );
        assert_eq!(host.get("/failing/now").text(), "still here");
        assert_eq!(host.get("/failing/panic").status, 500);
        assert_eq!(host.get("/nowhere").status, 404);
        assert_eq!(host.get_as_admin("/extensions").status, 200);
        assert_eq!(post(&host, "/auth/login", "", &credentials).status, 200);
    }
    // Later ones are told why they wait, and SIGHUP is, too.
    refused(reload());
    host.signal("HUP");
    host.logged("why nothing is reloaded", |line| {
        let message = line["message"].as_str().unwrap_or_default();
        message.starts_with("nothing is reloaded") && message.contains(library.name())
    });
    let ended = host.stop();
    assert_eq!(ended.code, Some(FORCED));
    assert!(ended.said("a library is still being loaded; its initialisers do not return"));
}

#[test]
fn an_initialiser_that_returns_late_is_reloaded_late() {
    let plan = Host::plan().config("trial_load = false\n[limits]\ncreate_timeout_ms = 200");
    let flag = plan.folder().join("hang");
    let define = format!("INITIALISER_HANGS_IF=\"{}\"", flag.display());
    let host = plan.extensions(&[&broken(&[&define])]).start();
    fs::write(&flag, "").expect("a file");
    let head = format!("POST /extensions/broken/reload\nAuthorization: Bearer {ADMIN_TOKEN}");
    assert_eq!(host.ask(&head, "").status, 503);
    fs::remove_file(&flag).expect("a file");
    host.said("reloaded an extension");
    eventually("it can be reloaded again", || {
        host.ask(&head, "").status == 200
    });
    assert_eq!(host.stop().code, Some(0));
}
