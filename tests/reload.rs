//! Extensions that change while they are served: no request is lost, and what cannot be served changes nothing.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::host::{ADMIN_TOKEN, request};
use crate::support::{Connection, Extension, Host, built, eventually};

const FOLDER: &str = "directus-extension-generation";
const MANIFEST: &str = "[env]\noptional = [\"NEEDED\"]";

/// The library of `generation.c` that tells this number.
pub fn numbered(number: u32) -> Vec<u8> {
    numbered_with(number, &[])
}

pub fn numbered_with(number: u32, defines: &[&str]) -> Vec<u8> {
    let mut library = fs::read(built::c_library("generation.c", defines)).expect("a library");
    let mark = b"MARK:000000";
    let at = library
        .windows(mark.len())
        .position(|window| window == mark);
    let at = at.expect("the library holds its mark") + 5;
    library[at..at + 6].copy_from_slice(format!("{number:06}").as_bytes());
    library
}

fn first() -> Extension {
    Extension::empty(FOLDER)
        .manifest(MANIFEST)
        .file("dist/lib.so", numbered(1))
}

fn reloading(extensions: &[&Extension]) -> Host {
    Host::plan()
        .extensions(extensions)
        .option("--auto-reload")
        .start()
}

impl Host {
    fn dist(&self) -> PathBuf {
        self.folder().join("extensions").join(FOLDER).join("dist")
    }

    /// The number of the build that answers now.
    fn number(&self) -> u32 {
        number_of(self.get("/generation/now").text())
    }

    #[track_caller]
    fn comes_to_serve(&self, number: u32) {
        eventually(&format!("build {number} is served"), || {
            self.number() == number
        });
    }

    /// Lines of the log that speak of a folder and hold a text.
    fn lines(&self, folder: &str, text: &str) -> Vec<Value> {
        let is_it = |line: &Value| {
            line["folder"] == folder
                && line["message"]
                    .as_str()
                    .is_some_and(|message| message.contains(text))
        };
        self.log().into_iter().filter(is_it).collect()
    }
}

pub fn number_of(body: &str) -> u32 {
    body.split(' ')
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("a number, not {body:?}"))
}

/// Puts a file in its place in one step.
fn rename_over(path: &Path, content: &[u8]) {
    let beside = path.with_file_name(".incoming");
    fs::write(&beside, content).expect("a file");
    fs::rename(&beside, path).expect("a file");
}

// ---- Under load ----

/// What a client of the load saw.
#[derive(Default)]
struct Seen {
    answers: u64,
    slowest: Duration,
    /// How many answers each build gave.
    by_number: std::collections::BTreeMap<u32, u64>,
}

/// Asks again and again on one connection. Each answer must be whole, be the answer to its own question, come in time, and
/// never come from a build older than one that has answered before.
fn load(host: &Host, client: usize, is_over: &AtomicBool) -> Seen {
    let mut connection = host.connect();
    let mut seen = Seen::default();
    let mut newest = 0;
    while !is_over.load(Ordering::Relaxed) {
        let route = if seen.answers % 4 == 3 { "soon" } else { "now" };
        let question = format!("client={client}&question={}", seen.answers);
        let asked = Instant::now();
        connection.send(request(&format!("GET /generation/{route}?{question}"), b""));
        let answer = connection.answer();
        seen.slowest = seen.slowest.max(asked.elapsed());
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.is_whole);
        let body = answer.text();
        let number = number_of(body);
        assert_eq!(body, format!("{number:06} {question}"));
        assert!(
            number >= newest,
            "build {number} answered after build {newest}"
        );
        newest = number;
        seen.answers += 1;
        *seen.by_number.entry(number).or_default() += 1;
    }
    seen
}

#[test]
fn two_hundred_reloads_under_load_lose_delay_or_mix_up_nothing() {
    const RELOADS: u32 = 200;
    const CLIENTS: usize = 8;
    // By far below the host's own limit for an answer; by far above what a reload takes.
    const DEADLINE: Duration = Duration::from_secs(5);
    let host = reloading(&[&first()]);
    let library = host.dist().join("lib.so");
    let is_over = AtomicBool::new(false);
    let seen: Vec<Seen> = thread::scope(|scope| {
        let (host, is_over) = (&host, &is_over);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| scope.spawn(move || load(host, client, is_over)))
            .collect();
        for number in 2..=RELOADS + 1 {
            rename_over(&library, &numbered(number));
            host.comes_to_serve(number);
        }
        is_over.store(true, Ordering::Relaxed);
        clients
            .into_iter()
            .map(|client| client.join().expect("a client loses nothing"))
            .collect()
    });

    let slowest = seen
        .iter()
        .map(|seen| seen.slowest)
        .max()
        .unwrap_or_default();
    let answers: u64 = seen.iter().map(|seen| seen.answers).sum();
    assert!(slowest < DEADLINE, "an answer took {slowest:?}");
    let mut by_number = std::collections::BTreeMap::<u32, u64>::new();
    for (number, count) in seen.iter().flat_map(|seen| &seen.by_number) {
        *by_number.entry(*number).or_default() += count;
    }
    assert_eq!(by_number.values().sum::<u64>(), answers);
    // Each build was served for as long as the next one took to come, so the load has met nearly all of them.
    assert!(by_number.len() > RELOADS as usize * 9 / 10, "{by_number:?}");
    eprintln!(
        "{answers} answers of {} builds, the slowest after {slowest:?}",
        by_number.len()
    );

    assert_eq!(
        host.lines(FOLDER, "reloaded an extension").len(),
        RELOADS as usize
    );
    let said = &host.said_of(FOLDER)[0];
    assert_eq!(said["generation"], RELOADS + 1);
    assert_eq!(said["libraries_mapped"], RELOADS + 1);
    assert_eq!(said["error"], Value::Null);
    eventually("every build but the last is stopped", || {
        let stopped = host
            .log()
            .iter()
            .filter(|line| line["message"] == "stopped")
            .count();
        stopped == RELOADS as usize
    });
    assert_eq!(host.said_of(FOLDER)[0]["requests_on_older_generations"], 0);
}

#[test]
fn a_request_in_flight_is_finished_by_the_build_that_began_it() {
    let host = reloading(&[&first()]);
    let mut connection = host.connect();
    connection.send(request("GET /generation/late?a", b""));
    eventually("the request is in flight", || {
        host.said_of(FOLDER)[0]["requests"]["in_flight"] == 1
    });
    rename_over(&host.dist().join("lib.so"), &numbered(2));
    host.comes_to_serve(2);
    assert_eq!(host.said_of(FOLDER)[0]["requests_on_older_generations"], 1);
    assert!(
        !host.log().iter().any(|line| line["message"] == "stopped"),
        "it is in use"
    );
    assert_eq!(connection.answer().text(), "000001 a");
    let stopped = host.said("stopped");
    assert_eq!(stopped["mark"], "000001");
    assert_eq!(host.said_of(FOLDER)[0]["requests_on_older_generations"], 0);
}

// ---- Ways to replace a file ----

#[test]
fn a_library_is_replaced_by_a_rename_by_a_copy_over_it_and_as_rsync_does() {
    let host = reloading(&[&first()]);
    let library = host.dist().join("lib.so");
    rename_over(&library, &numbered(2));
    host.comes_to_serve(2);
    // As `cp` does: the same file is cut off and written again.
    fs::write(&library, numbered(3)).expect("a file");
    host.comes_to_serve(3);
    // As rsync does: a hidden file beside it, bit by bit, with its time set, then renamed.
    let incoming = library.with_file_name(".lib.so.Xa81bZ");
    for part in numbered(4).chunks(4096).scan(Vec::new(), |so_far, part| {
        so_far.extend_from_slice(part);
        Some(so_far.clone())
    }) {
        fs::write(&incoming, part).expect("a file");
    }
    let file = fs::File::options()
        .write(true)
        .open(&incoming)
        .expect("a file");
    file.set_modified(std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000))
        .expect("a time");
    fs::rename(&incoming, &library).expect("a file");
    host.comes_to_serve(4);
    // Deleted, and there again.
    fs::remove_file(&library).expect("a file");
    host.logged("that the library is missing is said", |line| {
        line["code"] == "LIBRARY_MISSING"
    });
    assert_eq!(host.number(), 4);
    fs::write(&library, numbered(5)).expect("a file");
    host.comes_to_serve(5);
}

#[test]
fn a_release_is_switched_by_a_link() {
    let host = reloading(&[]);
    let releases = host.folder().join("releases");
    for number in [1, 2] {
        let folder = Extension::empty(&number.to_string())
            .manifest(MANIFEST)
            .file("dist/lib.so", numbered(number));
        folder.put(&releases);
    }
    let link = host.folder().join("extensions").join(FOLDER);
    symlink(releases.join("1"), &link).expect("a link");
    host.comes_to_serve_after_nothing(1);
    let beside = host.folder().join("extensions/.next");
    symlink(releases.join("2"), &beside).expect("a link");
    fs::rename(&beside, &link).expect("a link");
    host.comes_to_serve(2);
    // The release behind the link is written over.
    rename_over(&releases.join("2/dist/lib.so"), &numbered(3));
    host.comes_to_serve(3);
}

impl Host {
    /// [`comes_to_serve`](Self::comes_to_serve), where at first nothing is served.
    #[track_caller]
    fn comes_to_serve_after_nothing(&self, number: u32) {
        eventually(&format!("build {number} is served"), || {
            self.get("/generation/now").status == 200
        });
        assert_eq!(self.number(), number);
    }
}

// ---- What cannot be served ----

/// A build that cannot be served leaves the one before it serving, and is told once, however often the folder is looked at.
#[track_caller]
fn kept(code: &str, spoil: impl FnOnce(&Host)) {
    let host = reloading(&[&first(), &Extension::good()]);
    let before = host.said_of(FOLDER)[0].clone();
    spoil(&host);
    let line = host.logged(&format!("{code} is told"), |line| {
        line["code"] == code && line["folder"] == FOLDER
    });
    assert_eq!(line["serving_generation"], "1", "{line}");
    assert_eq!(host.number(), 1);
    // Looks again and again, with nothing new there.
    for _ in 0..3 {
        host.signal("HUP");
    }
    let reloaded = host.ask(
        &format!("POST /extensions/c-sample/reload\nAuthorization: Bearer {ADMIN_TOKEN}"),
        "",
    );
    assert_eq!(reloaded.status, 200, "another one is loaded all the same");
    assert_eq!(
        host.lines(FOLDER, "")
            .iter()
            .filter(|line| line["code"] == code)
            .count(),
        1,
        "{:#?}",
        host.log()
    );
    let said = &host.said_of(FOLDER)[0];
    assert_eq!(said["error"]["code"], code);
    for same in ["state", "generation", "content_sha256", "loaded_at"] {
        assert_eq!(said[same], before[same], "{same}");
    }
    assert_eq!(host.number(), 1);
    // And what is good is served again.
    fs::write(host.dist().join("../extension.toml"), MANIFEST).expect("a file");
    let twin = host.folder().join("extensions/directus-extension-twin");
    let _ = fs::remove_dir_all(twin);
    rename_over(&host.dist().join("lib.so"), &numbered(2));
    host.comes_to_serve(2);
    assert_eq!(host.said_of(FOLDER)[0]["error"], Value::Null);
}

#[test]
fn half_a_file_keeps_the_old_one_serving() {
    kept("LIBRARY_INVALID", |host| {
        let whole = numbered(2);
        fs::write(host.dist().join("lib.so"), &whole[..whole.len() / 2]).expect("a file");
    });
}

#[test]
fn another_abi_keeps_the_old_one_serving() {
    kept("ABI_MAJOR", |host| {
        rename_over(&host.dist().join("lib.so"), &numbered_with(2, &["MAJOR=7"]))
    });
}

#[test]
fn a_variable_that_is_missing_keeps_the_old_one_serving() {
    kept("VARIABLE_MISSING", |host| {
        fs::write(
            host.dist().join("../extension.toml"),
            "[env]\nrequired = [\"NEEDED\"]",
        )
        .expect("a file");
    });
}

#[test]
fn a_panic_in_new_keeps_the_old_one_serving() {
    kept("CREATE_PANICKED", |host| {
        rename_over(&host.dist().join("lib.so"), &numbered_with(2, &["PANICS"]))
    });
}

#[test]
fn a_manifest_that_is_wrong_keeps_the_old_one_serving() {
    kept("MANIFEST_INVALID", |host| {
        fs::write(host.dist().join("../extension.toml"), "nmae = 1").expect("a file");
    });
}

#[test]
fn an_id_that_another_has_keeps_the_old_one_serving() {
    kept("ID_DUPLICATE", |host| {
        rename_over(
            &host.dist().join("lib.so"),
            &numbered_with(2, &["ID=\"c-sample\""]),
        );
    });
}

// ---- Folders ----

#[test]
fn folders_come_go_and_change_their_name_and_only_they_are_touched() {
    let host = reloading(&[&Extension::good()]);
    let untouched = host.said_of("directus-extension-c-sample")[0].clone();
    let extensions = host.folder().join("extensions");
    // New.
    let folder = first().put(&extensions);
    host.comes_to_serve_after_nothing(1);
    assert_eq!(host.lines(FOLDER, "mounted an extension").len(), 1);
    // Renamed: gone, and new.
    let renamed = extensions.join("directus-extension-renamed");
    fs::rename(&folder, &renamed).expect("a folder");
    host.logged("the old name is gone", |line| {
        line["message"] == "unmounted an extension" && line["folder"] == FOLDER
    });
    host.logged("the new name is there", |line| {
        line["message"] == "mounted an extension" && line["folder"] == "directus-extension-renamed"
    });
    assert_eq!(host.number(), 1);
    assert_eq!(host.said_of(FOLDER), Vec::<Value>::new());
    // A change below the new name is seen, too.
    rename_over(&renamed.join("dist/lib.so"), &numbered(2));
    host.comes_to_serve(2);
    // Removed.
    fs::remove_dir_all(&renamed).expect("a folder");
    eventually("it is not served any more", || {
        host.get("/generation/now").status == 404
    });
    assert_eq!(
        host.said_of("directus-extension-c-sample")[0]["loaded_at"],
        untouched["loaded_at"]
    );
    assert_eq!(
        host.said_of("directus-extension-c-sample")[0]["generation"],
        1
    );
    assert_eq!(
        host.lines("directus-extension-c-sample", "").len(),
        1,
        "it was mounted, and nothing else"
    );
}

#[test]
fn a_variable_that_changes_reloads_those_that_declare_it() {
    let host = reloading(&[&first(), &Extension::good()]);
    let dotenv = host.folder().join(".env");
    let mut text = fs::read_to_string(&dotenv).expect(".env");
    text.push_str("NEEDED=something\n");
    fs::write(&dotenv, text).expect(".env");
    eventually("the variable is read", || {
        host.said_of(FOLDER)[0]["generation"] == 2
    });
    assert_eq!(
        host.said_of("directus-extension-c-sample")[0]["generation"],
        1
    );
}

// ---- On demand ----

#[test]
fn without_auto_reload_a_signal_or_an_administrator_reloads() {
    let host = Host::plan().extensions(&[&first()]).start();
    rename_over(&host.dist().join("lib.so"), &numbered(2));
    let reload = "POST /extensions/generation/reload";
    assert_eq!(host.ask(reload, "").status, 403);
    assert_eq!(host.number(), 1);
    let answer = host.ask(
        &format!("{reload}\nAuthorization: Bearer {ADMIN_TOKEN}"),
        "",
    );
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["data"][0]["generation"], 2, "{answer:?}");
    assert_eq!(host.number(), 2);
    rename_over(&host.dist().join("lib.so"), &numbered(3));
    host.signal("HUP");
    host.comes_to_serve(3);
    fs::write(host.dist().join("lib.so"), "no library").expect("a file");
    let answer = host.ask(
        &format!("{reload}\nAuthorization: Bearer {ADMIN_TOKEN}"),
        "",
    );
    assert_eq!(answer.error(), (422, "LIBRARY_INVALID".to_owned()));
    assert_eq!(host.number(), 3);
    let unknown = host.ask(
        &format!("POST /extensions/nobody/reload\nAuthorization: Bearer {ADMIN_TOKEN}"),
        "",
    );
    assert_eq!(unknown.status, 404);
}

#[test]
fn a_connection_outlives_the_build_that_it_began_with() {
    let host = reloading(&[&first()]);
    let mut connection: Connection = host.connect();
    for number in 1..=3 {
        if number > 1 {
            rename_over(&host.dist().join("lib.so"), &numbered(number));
            host.comes_to_serve(number);
        }
        connection.send(request("GET /generation/now?x", b""));
        assert_eq!(connection.answer().text(), format!("{number:06} x"));
    }
}

#[test]
fn extensions_come_into_an_empty_folder() {
    let host = reloading(&[]);
    assert_eq!(host.get("/generation/now").status, 404);
    for extension in [&first(), &Extension::good()] {
        extension.put(&host.folder().join("extensions"));
    }
    eventually("both are served", || {
        let of_path = |path| host.get(path).status;
        of_path("/generation/now") == 200 && of_path("/c-sample/now") == 200
    });
    assert_eq!(host.number(), 1);
}

/// In a namespace of its own, whose limits are its own.
#[test]
fn without_a_watch_of_the_system_files_are_looked_at_all_the_same_and_the_limit_is_named() {
    let limit = "echo 0 >/proc/sys/user/max_inotify_watches && exec \"$@\"";
    let namespace = ["--user", "--map-root-user", "sh", "-c", limit, "sh"];
    let host = Host::plan()
        .extensions(&[&first()])
        .option("--auto-reload")
        .through("unshare", &namespace)
        .start();
    let told = host.logged("the limit is named", |line| {
        let remedy = line["remedy"].as_str().unwrap_or_default();
        remedy.contains("fs.inotify.max_user_watches")
    });
    assert_eq!(told["level"], "warn");
    rename_over(&host.dist().join("lib.so"), &numbered(2));
    host.comes_to_serve(2);
    let times = host
        .log()
        .into_iter()
        .filter(|line| line["remedy"] == told["remedy"]);
    assert_eq!(times.count(), 1, "it is told once");
}

#[test]
fn a_sighup_that_finds_nothing_new_says_so() {
    let host = Host::with(&[&Extension::good()]);
    let sentence = "nothing has changed in the extensions folder or the variables";
    host.signal("HUP");
    host.said(sentence);
    fs::remove_dir_all(host.folder().join("extensions/directus-extension-c-sample"))
        .expect("it is there");
    host.signal("HUP");
    host.said("unmounted an extension");
    let told = host.log().into_iter();
    assert_eq!(told.filter(|line| line["message"] == sentence).count(), 1);
}
