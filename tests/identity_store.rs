//! The store's file: how it begins, what it holds when the host has ended, how it is copied, and what is not taken for one.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use crate::identity_support::{
    add_user, command, database, done, execute, failed, me, new_token, plan_on, post,
};
use crate::support::{Host, eventually};

/// Who is not root, and has nothing.
const NOBODY: u32 = 65_534;

fn store_of(folder: &Path) -> PathBuf {
    folder.join("data/extension-host.db")
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

/// How much of the store is not in its file.
fn in_the_log(path: &Path) -> u64 {
    beside(path, "-wal").metadata().map_or(0, |log| log.len())
}

fn signs_in(host: &Host, email: &str, password: &str) -> bool {
    let body = json!({"email": email, "password": password});
    post(host, "/auth/login", "", &body).status == 200
}

/// A host whose store is this file, and nothing beside it.
fn host_on_a_copy(store: &[u8]) -> Host {
    let plan = plan_on(None);
    fs::create_dir(plan.folder().join("data")).unwrap();
    fs::write(store_of(plan.folder()), store).unwrap();
    let host = plan.start();
    let began_anew = "first start: an administrator was created";
    assert!(host.log().iter().all(|line| line["message"] != began_anew));
    host
}

#[test]
fn a_host_that_has_stopped_leaves_a_store_that_is_one_file() {
    let host = plan_on(None).start();
    add_user(host.folder(), "ada@example.com", "");
    let (_, token) = new_token(host.folder(), "ada@example.com", "");
    assert!(signs_in(&host, "ada@example.com", "secret"));
    let path = store_of(host.folder());
    assert!(
        in_the_log(&path) > 0,
        "this test is about what is in the log"
    );
    // The folder goes with the host: whether the file is whole has to be seen by another process before that.
    host.signal("TERM");
    let kept = beside(&path, ".kept");
    let pid = host.pid();
    let folder = host.folder().to_owned();
    eventually("it has ended", || {
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        state.is_empty() || state.contains(") Z ")
    });
    assert_eq!(in_the_log(&path), 0);
    fs::copy(&path, &kept).unwrap();
    let copied = host_on_a_copy(&fs::read(&kept).unwrap());
    assert_eq!(me(&copied, &token).status, 200);
    assert!(signs_in(&copied, "ada@example.com", "secret"));
    // The commands, too.
    done(&folder, "role add editors", "");
    assert_eq!(in_the_log(&path), 0);
    drop(host);
}

#[test]
fn a_backup_is_whole_and_taken_while_the_host_runs() {
    use std::os::unix::fs::PermissionsExt as _;
    let host = plan_on(None).start();
    add_user(host.folder(), "ada@example.com", "");
    let (_, token) = new_token(host.folder(), "ada@example.com", "");
    let printed = done(host.folder(), "backup users.db", "");
    let copy = host.folder().join("users.db");
    let bytes = copy.metadata().unwrap().len();
    assert!(
        printed.contains("users.db") && printed.contains(&format!("{bytes} bytes")),
        "{printed}"
    );
    assert_eq!(
        copy.metadata().unwrap().permissions().mode() & 0o077,
        0,
        "for its owner alone"
    );
    let whole = fs::read(&copy).unwrap();
    // What is there is never written over.
    assert!(
        failed(host.folder(), "backup users.db", "")
            .contains("there is a file \"users.db\" already")
    );
    assert_eq!(fs::read(&copy).unwrap(), whole);
    let printed = done(host.folder(), "backup again.db --json", "");
    let printed: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(
        printed["bytes"],
        host.folder().join("again.db").metadata().unwrap().len()
    );
    assert!(printed["file"].as_str().unwrap().ends_with("/again.db"));
    assert!(
        printed["store"]
            .as_str()
            .unwrap()
            .ends_with("extension-host.db")
    );
    // Nothing else is left beside it.
    let names = fs::read_dir(host.folder()).unwrap().flatten();
    let names: Vec<_> = names.map(|entry| entry.file_name()).collect();
    assert!(
        names
            .iter()
            .all(|name| !name.to_string_lossy().contains("unfinished")),
        "{names:?}"
    );
    let copied = host_on_a_copy(&whole);
    assert_eq!(me(&copied, &token).status, 200);
    assert!(signs_in(&copied, "ada@example.com", "secret"));
}

#[test]
fn a_backup_into_no_folder_says_what_to_make() {
    let host = plan_on(None).start();
    let said = failed(host.folder(), "backup nowhere/users.db", "");
    assert!(
        said.contains("nowhere/users.db.unfinished; make its folder first"),
        "{said}"
    );
}

#[test]
fn a_store_that_another_user_has_made_names_that_user() {
    // Only root can be somebody else.
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return;
    }
    let plan = plan_on(None).run_by(NOBODY);
    fs::write(plan.folder().join("config.toml"), "").unwrap();
    add_user(plan.folder(), "ada@example.com", "");
    let ended = plan.fail();
    let said = format!("{:?}", ended.log);
    assert!(
        said.contains("belongs to the user root: run this as that user"),
        "{said}"
    );
}

#[test]
fn a_backup_of_what_is_no_store_in_a_file_is_refused_with_the_remedy() {
    let plan = plan_on(None);
    let folder = plan.folder().to_owned();
    fs::write(folder.join("config.toml"), "").unwrap();
    // Nothing is begun by it, either.
    let said = failed(&folder, "backup copy.db", "");
    assert!(
        said.contains("there is no store of users in")
            && said.contains("extension-host.db: the host has not been started yet"),
        "{said}"
    );
    assert!(!folder.join("data").exists() && !folder.join("copy.db").exists());
    fs::write(
        folder.join(".env"),
        "DATABASE_URL=postgres://u:hunter2@127.0.0.1:1/x\n",
    )
    .unwrap();
    let said = failed(&folder, "backup copy.db", "");
    assert!(
        said.contains("pg_dump") && !said.contains("hunter2"),
        "{said}"
    );
    fs::write(folder.join(".env"), "DATABASE_URL=none\n").unwrap();
    assert!(failed(&folder, "backup copy.db", "").contains("keeps no users"));
    assert!(!folder.join("copy.db").exists());
}

/// A store with one user more than a first start makes, whole in its file.
fn some_store() -> Vec<u8> {
    let host = plan_on(None).start();
    add_user(host.folder(), "ada@example.com", "");
    done(host.folder(), "backup copy.db", "");
    fs::read(host.folder().join("copy.db")).unwrap()
}

#[test]
fn a_file_that_is_no_store_is_refused_and_left_as_it_is() {
    let whole = some_store();
    let plan = plan_on(None);
    let other = plan.folder().join("other.db");
    let url = format!("sqlite:{}?mode=rwc", other.display());
    execute(&url, &["CREATE TABLE things (id INTEGER)"]);
    let mut scrambled = whole.clone();
    for byte in &mut scrambled[4096 + 8..] {
        *byte ^= 0x5a;
    }
    let cases: [(&str, Vec<u8>); 6] = [
        ("an empty file", Vec::new()),
        ("a text", b"# users\nada@example.com\n".repeat(50)),
        ("a first page that is cut off", whole[..10].to_vec()),
        (
            "a store that is cut off",
            whole[..whole.len() / 2 / 4096 * 4096].to_vec(),
        ),
        ("a store that is damaged", scrambled),
        ("another program's", fs::read(&other).unwrap()),
    ];
    for (what, bytes) in cases {
        let plan = plan_on(None);
        fs::create_dir(plan.folder().join("data")).unwrap();
        let path = store_of(plan.folder());
        fs::write(&path, &bytes).unwrap();
        // The commands refuse it like the host.
        fs::write(plan.folder().join("config.toml"), "").unwrap();
        let said = failed(plan.folder(), "user list", "");
        let refused = |said: &str| {
            assert!(said.contains("is no store of users"), "{what}: {said}");
            assert!(said.contains("with a new administrator"), "{what}: {said}");
        };
        refused(&said);
        let said = failed(plan.folder(), "backup copy.db", "");
        assert!(said.contains("is no store of users"), "{what}: {said}");
        assert!(!plan.folder().join("copy.db").exists());
        assert!(fs::read(&path).unwrap() == bytes, "{what} was changed");
        let ended = plan.fail();
        assert_eq!(ended.code, Some(1), "{what}");
        refused(ended.log.last().unwrap()["message"].as_str().unwrap());
    }
}

#[test]
fn a_log_without_its_database_is_not_given_to_a_new_one() {
    let plan = plan_on(None);
    fs::create_dir(plan.folder().join("data")).unwrap();
    fs::write(beside(&store_of(plan.folder()), "-wal"), "what is left").unwrap();
    let path = store_of(plan.folder());
    let ended = plan.fail();
    assert_eq!(ended.code, Some(1));
    let said = ended.log.last().unwrap()["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        said.contains("-wal") && said.contains("with a new administrator"),
        "{said}"
    );
    assert!(!path.exists());
}

#[test]
fn a_store_whose_log_is_lost_or_anothers_is_an_older_one_or_refused_and_never_a_new_one() {
    let plan = plan_on(None)
        .dotenv("ADMIN_EMAIL", "boss@example.com")
        .dotenv("ADMIN_PASSWORD", "of my own");
    let host = plan.start();
    assert!(signs_in(&host, "boss@example.com", "of my own"));
    assert!(in_the_log(&store_of(host.folder())) > 0);
    // Copied under the running host, without its log.
    let lost = fs::read(store_of(host.folder())).unwrap();
    let older = host_on_a_copy(&lost);
    assert!(signs_in(&older, "boss@example.com", "of my own"));
    let users: Value = serde_json::from_str(&done(older.folder(), "user list --json", "")).unwrap();
    assert_eq!(users.as_array().unwrap().len(), 1);
    // Another store's log beside it.
    let log = fs::read(beside(&store_of(host.folder()), "-wal")).unwrap();
    let other = some_store();
    let plan = plan_on(None);
    fs::create_dir(plan.folder().join("data")).unwrap();
    let path = store_of(plan.folder());
    fs::write(&path, &other).unwrap();
    fs::write(beside(&path, "-wal"), log).unwrap();
    fs::write(plan.folder().join("config.toml"), "").unwrap();
    let output = crate::identity_support::run(plan.folder(), "user list --json", "");
    if output.status.success() {
        let users: Value = serde_json::from_slice(&output.stdout).unwrap();
        let names = users
            .as_array()
            .unwrap()
            .iter()
            .map(|user| user["email"].clone());
        let names: Vec<Value> = names.collect();
        assert!(names.contains(&json!("ada@example.com")), "{names:?}");
        let url = format!("sqlite:{}", path.display());
        execute(&url, &["PRAGMA foreign_key_check"]);
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("is no store of users"), "{said}");
        assert!(fs::read(&path).unwrap() == other, "the file was changed");
    }
}

/// Starts a host in a folder, kills it after a while or when it listens, and gives what it printed.
fn start_and_kill(folder: &Path, after: Option<Duration>, round: &str) -> String {
    let (out, log) = (
        folder.join(format!("out-{round}")),
        folder.join(format!("log-{round}")),
    );
    let mut child = command(folder, "--host 127.0.0.1 --log-style json")
        .stdout(fs::File::create(&out).unwrap())
        .stderr(fs::File::create(&log).unwrap())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    match after {
        Some(after) => std::thread::sleep(after),
        None => eventually("the host listens", || {
            fs::read_to_string(&log).unwrap().contains("\"listening\"")
        }),
    }
    child.kill().unwrap();
    child.wait().unwrap();
    fs::read_to_string(&out).unwrap()
}

#[test]
fn a_first_start_that_is_killed_at_any_moment_is_made_up_for_by_the_next() {
    let mut was_cut = 0;
    for round in 0..24_u32 {
        let shared = database();
        let plan = plan_on(shared.as_deref());
        let folder = plan.folder().to_owned();
        let env = shared.map(|url| format!("DATABASE_URL={url}\n"));
        fs::write(folder.join("config.toml"), "port = 0\n").unwrap();
        fs::write(folder.join(".env"), env.unwrap_or_default()).unwrap();
        // From before it has read its settings to after it has shown what it made.
        let killed = start_and_kill(&folder, Some(Duration::from_millis(6) * round), "first");
        let next = start_and_kill(&folder, None, "next");
        was_cut += u32::from(!next.is_empty());
        // What was shown last counts, whoever of the two has shown it.
        let shown = if next.is_empty() { killed } else { next };
        let line = shown
            .lines()
            .find(|line| line.trim().starts_with("password"));
        let password = line.and_then(|line| line.split_whitespace().last());
        let password = password.unwrap_or_else(|| panic!("round {round}: {shown:?}"));
        let host = plan.start();
        assert!(
            signs_in(&host, "admin@example.com", password),
            "round {round}"
        );
        let users = done(host.folder(), "user list --json", "");
        let users: Value = serde_json::from_str(&users).unwrap();
        assert_eq!(users.as_array().unwrap().len(), 1, "round {round}: {users}");
    }
    assert!(was_cut > 0, "no first start was killed before its end");
}

#[test]
fn an_administrator_whom_nobody_was_shown_is_not_made() {
    let plan = plan_on(None);
    let folder = plan.folder().to_owned();
    fs::write(folder.join("config.toml"), "port = 0\n").unwrap();
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let ended = command(&folder, "--host 127.0.0.1")
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(said.contains("cannot be shown on stdout"), "{said}");
    let shown = start_and_kill(&folder, None, "next");
    assert!(shown.contains("admin@example.com"), "{shown}");
}

#[test]
fn a_first_start_on_a_full_disk_is_refused_and_leaves_nothing() {
    let disk = crate::support::disk::Disk::of(1 << 20);
    let path = disk.path().join("store.db");
    let url = format!("sqlite:{}", path.display());
    disk.fill();
    let ended = plan_on(Some(&url)).fail();
    assert_eq!(ended.code, Some(1));
    let said = ended.log.last().unwrap()["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(said.contains("cannot open the store"), "{said}");
    assert!(!path.exists());
    disk.free();
    let host = plan_on(Some(&url)).start();
    add_user(host.folder(), "ada@example.com", "");
    assert!(signs_in(&host, "ada@example.com", "secret"));
}

#[test]
fn a_store_that_may_not_be_written_is_refused_with_its_name() {
    use std::os::unix::fs::{PermissionsExt as _, chown};
    // Root may write everything.
    let plan = plan_on(None);
    let data = plan.folder().join("data");
    fs::create_dir(&data).unwrap();
    let mut file = fs::File::create(store_of(plan.folder())).unwrap();
    file.write_all(&some_store()).unwrap();
    drop(file);
    let lock =
        |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    lock(&store_of(plan.folder()), 0o400);
    for path in [plan.folder(), &data, &store_of(plan.folder())] {
        if chown(path, Some(NOBODY), Some(NOBODY)).is_err() {
            // Not root: the file's mode alone keeps the host from it.
            break;
        }
    }
    let is_root = fs::metadata(store_of(plan.folder())).is_ok_and(|file| file.uid() == NOBODY);
    let plan = if is_root { plan.run_by(NOBODY) } else { plan };
    let ended = plan.fail();
    assert_eq!(ended.code, Some(1));
    let said = ended.log.last().unwrap()["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(said.contains("cannot open the store"), "{said}");
    assert!(
        said.contains("readonly") || said.contains("read-only"),
        "{said}"
    );
}
