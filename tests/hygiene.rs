//! What all code of the process shares, and an extension changes: the host goes on as before.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::{fs, io};

use serde_json::json;

use crate::identity_support::post;
use crate::support::{Extension, Host, eventually};

const RESTORED: &str = "an extension changed how the process takes a signal, which has been set back; `extension-host check` tells which extension does";

/// One that changes the working directory, the umask, the environment, limits, and how signals are taken.
fn changing() -> Extension {
    Extension::c("directus-extension-changes", "changes_process.c", &[])
}

/// A host that was told relative paths alone, with that extension.
fn changed() -> Host {
    Host::plan()
        .extensions(&[&changing()])
        .variable("EXTENSIONS_PATH", "extensions")
        .variable("DATABASE_URL", "sqlite:own.db")
        .variable("TMPDIR", "tmp")
        .option("--env-file")
        .option(".env")
        .dotenv("ADMIN_EMAIL", "admin@example.com")
        .dotenv("ADMIN_PASSWORD", "the-administrators-password")
        .start()
}

#[track_caller]
fn signals_are_set_back(host: &Host) {
    for signal in ["SIGTERM", "SIGINT", "SIGHUP", "SIGPIPE"] {
        host.logged(signal, |line| {
            line["message"] == RESTORED && line["signal"] == signal
        });
    }
}

#[test]
fn an_extension_that_changes_the_process_keeps_nobody_from_signing_in_reloading_and_stopping() {
    let host = changed();
    assert_eq!(host.get("/changes/").status, 200);
    let process = Path::new("/proc").join(host.pid().to_string());
    let now_in = fs::read_link(process.join("cwd")).expect("the host runs");
    assert_eq!(now_in, Path::new("/"), "the extension has changed it");
    signals_are_set_back(&host);

    let credentials =
        json!({"email": "admin@example.com", "password": "the-administrators-password"});
    assert_eq!(post(&host, "/auth/login", "", &credentials).status, 200);

    // The environment file and the extensions folder are found again.
    Extension::c("directus-extension-new", "c_sample.c", &[])
        .manifest("[env]\nrequired = [\"ADDED\"]")
        .put(&host.folder().join("extensions"));
    let dotenv = host.folder().join(".env");
    let before = fs::read_to_string(&dotenv).expect("a file");
    fs::write(&dotenv, format!("{before}ADDED=value\n")).expect("a file");
    host.signal("HUP");
    eventually("what was added is served", || {
        host.said_of("directus-extension-new")
            .first()
            .is_some_and(|entry| entry["state"] == "mounted")
    });
    assert!(host.folder().join("own.db").is_file());
    assert_eq!(copies_modes(host.folder()), [0o600; 2]);

    // It has registered something for the end that would hang.
    assert_eq!(host.stop().code, Some(0));
}

#[test]
fn a_log_whose_reader_has_gone_ends_no_host_whose_extension_has_let_a_broken_pipe_do_so() {
    // The extension does as it is created, before the host listens; who reads the log leaves then.
    let host = Host::plan()
        .extensions(&[&changing()])
        .through(
            "bash",
            &["-c", r#"exec "$0" "$@" 2> >(exec sed -u /listening/q >&2)"#],
        )
        .start();
    for _ in 0..100 {
        // A line of the log each.
        assert_eq!(host.get("/server/ping").text(), "pong");
    }
}

/// The modes of all copies of libraries.
fn copies_modes(folder: &Path) -> Vec<u32> {
    let entries = |path: &Path| {
        let entries: io::Result<Vec<_>> = fs::read_dir(path).expect("a folder").collect();
        entries.expect("its entries")
    };
    let copies = entries(&folder.join("tmp"))
        .into_iter()
        .flat_map(|folder| entries(&folder.path()));
    let mode = |copy: fs::DirEntry| copy.metadata().expect("a file").permissions().mode();
    copies.map(|copy| mode(copy) & 0o777).collect()
}

#[test]
fn a_variable_that_an_extension_sets_is_nobody_elses() {
    let host = changed();
    Extension::c("directus-extension-new", "c_sample.c", &[])
        .manifest("[env]\nrequired = [\"DECLARED\"]")
        .put(&host.folder().join("extensions"));
    signals_are_set_back_after_a_request(&host);
    host.signal("HUP");
    eventually("what was added is refused", || {
        host.said_of("directus-extension-new")
            .first()
            .is_some_and(|entry| entry["state"] == "refused")
    });
    let entry = host.said_of("directus-extension-new")[0].to_string();
    assert!(entry.contains("DECLARED"), "{entry}");
}

#[track_caller]
fn signals_are_set_back_after_a_request(host: &Host) {
    assert_eq!(host.get("/changes/").status, 200);
    signals_are_set_back(host);
}

/// A process that an extension has forked; a drop ends it.
struct Forked(String);

impl Drop for Forked {
    fn drop(&mut self) {
        let kill = format!("kill -KILL {}", self.0);
        // Err: it has ended.
        let _ = Command::new("sh").args(["-c", &kill]).status();
    }
}

#[test]
fn a_host_that_cannot_listen_because_of_a_fork_names_the_process() {
    let forks = Extension::c("directus-extension-forks", "leaves_fork.c", &[]);
    let host = Host::with(&[&forks]);
    let mut connection = host.connect();
    connection.send("GET /forks/ HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let forked = Forked(connection.answer().text().to_owned());
    let port = host.address().port();
    // Killed: its log is not at its end before the forked process, which holds it, too.
    drop(host);

    let ended = Host::plan().port(port).fail();
    assert_ne!(ended.code, Some(0));
    let said = ended
        .log
        .iter()
        .map(ToString::to_string)
        .collect::<String>();
    let holder = format!("(process {}); end it", forked.0);
    assert!(said.contains(&holder), "{holder} is missing in {said}");

    // As it says.
    drop(forked);
    let next = Host::plan().extensions(&[&forks]).port(port).start();
    assert_eq!(next.get("/server/ping").status, 200);
}

#[test]
fn a_host_that_ends_in_order_leaves_its_port_to_the_next_whatever_has_been_forked() {
    let forks = Extension::c("directus-extension-forks", "leaves_fork.c", &[]);
    let plan = |is_supervised| match is_supervised {
        true => Host::plan().supervised().extensions(&[&forks]),
        false => Host::plan().extensions(&[&forks]),
    };
    for is_supervised in [true, false] {
        // The first port is the system's choice; the ones after it are asked for.
        let (mut port, mut forked) = (0, Vec::new());
        for _ in 0..3 {
            let mut host = plan(is_supervised).port(port).start();
            forked.push(Forked(host.get("/forks/").text().to_owned()));
            port = host.address().port();
            host.signal("TERM");
            eventually("the host ends", || host.has_ended());
        }
        let is_alive = |child: &Forked| Path::new("/proc").join(&child.0).exists();
        assert!(forked.iter().all(is_alive), "all the while");
    }
}

#[test]
fn a_server_without_its_supervisor_leaves_the_port_to_the_next_whatever_has_been_forked() {
    let forks = Extension::c("directus-extension-forks", "leaves_fork.c", &[]);
    let host = Host::plan().supervised().extensions(&[&forks]).start();
    let _forked = Forked(host.get("/forks/").text().to_owned());
    let (port, server) = (host.address().port(), host.server_pid());
    host.signal("KILL");
    eventually("the server has ended", || {
        !Path::new(&format!("/proc/{server}")).exists()
    });
    let next = Host::plan().extensions(&[&forks]).port(port).start();
    assert_eq!(next.get("/server/ping").text(), "pong");
}
