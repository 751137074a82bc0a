//! From nothing to a running extension: `new`, `build`, `list`, `dev`.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use serde_json::Value;

use crate::support::{Connection, DEADLINE, Extension, built};

/// The host's program, in a folder, with nobody at the terminal.
fn program(folder: &Path) -> Command {
    let mut command = Command::new(built::host());
    command.current_dir(folder).stdin(Stdio::null());
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    program(folder)
        .args(arguments)
        .output()
        .expect("the host runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn done(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}\n{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// Where cargo builds what the tests scaffold: kept, so that the next run is quick.
fn target() -> PathBuf {
    built::host()
        .parent()
        .and_then(Path::parent)
        .expect("target/<profile>/extension-host")
        .join("scaffold")
}

// ---- new ----

#[test]
fn what_new_makes_in_rust_builds_without_a_warning_passes_its_test_and_is_sound() {
    let scratch = built::scratch();
    done(&run(scratch.path(), &["new", "weather-now", "--dir", "."]));
    let folder = scratch.path().join("directus-extension-weather-now");
    for file in [
        "Cargo.toml",
        "src/lib.rs",
        "extension.toml",
        "README.md",
        ".gitignore",
    ] {
        let content =
            fs::read_to_string(folder.join(file)).unwrap_or_else(|_| panic!("there is no {file}"));
        assert!(!content.contains("{{"), "{file}: {content}");
    }
    let format = Command::new("rustfmt")
        .args(["--edition", "2024", "--check", "src/lib.rs"])
        .current_dir(&folder)
        .output();
    done(&format.expect("rustfmt runs"));
    // What the checkout has locked is what is there without a network.
    fs::copy(
        built::checkout().join("Cargo.lock"),
        folder.join("Cargo.lock"),
    )
    .expect("a file");
    let test = Command::new(env!("CARGO"))
        .arg("test")
        .current_dir(&folder)
        .env("CARGO_TARGET_DIR", target())
        .output()
        .expect("cargo runs");
    assert!(done(&test).contains("3 passed"), "{test:?}");
    let mut build = program(&folder);
    let build = build
        .args(["build", "--json"])
        .env("CARGO", env!("CARGO"))
        .env("CARGO_TARGET_DIR", target())
        .output()
        .expect("it runs");
    let built: Value = serde_json::from_str(&done(&build)).expect("JSON");
    assert_eq!(built[0]["abi"], "1.0");
    assert!(
        built[0]["size_bytes"].as_u64() < Some(2 << 20),
        "it is stripped: {built}"
    );
    for output in [&test, &build] {
        assert!(
            !text(&output.stderr).contains("warning"),
            "{}",
            text(&output.stderr)
        );
    }
    assert_eq!(run(&folder, &["check"]).status.code(), Some(0));
}

#[test]
fn what_new_makes_in_c_is_short_compiles_as_c_and_as_cpp_and_is_sound() {
    let scratch = built::scratch();
    done(&run(
        scratch.path(),
        &["new", "hello-c", "--lang", "c", "--dir", "."],
    ));
    let folder = scratch.path().join("directus-extension-hello-c");
    let source = fs::read_to_string(folder.join("hello_c.c")).expect("a source");
    assert!(source.lines().count() < 60);
    assert!(
        fs::read_to_string(folder.join("Makefile"))
            .expect("a Makefile")
            .lines()
            .count()
            < 10
    );
    let header = built::checkout().join("extension-api/include/extension_api.h");
    assert_eq!(
        fs::read(folder.join("extension_api.h")).expect("a header"),
        fs::read(header).expect("a header")
    );
    for (compiler, flags) in [("cc", "-std=c11"), ("c++", "-std=c++17 -x c++")] {
        let mut command = Command::new(compiler);
        command.args(flags.split(' ')).args([
            "-Wall",
            "-Wextra",
            "-pedantic",
            "-Werror",
            "-fsyntax-only",
            "hello_c.c",
        ]);
        done(&command.current_dir(&folder).output().expect("a compiler"));
    }
    let build = run(&folder, &["build"]);
    assert!(done(&build).contains("ABI 1.0"), "{build:?}");
    assert!(!text(&build.stderr).contains("warning"));
    assert_eq!(run(&folder, &["check"]).status.code(), Some(0));
    // Made as C++, it is the same extension.
    let done_cpp = Command::new("c++")
        .args("-std=c++17 -x c++ -O2 -fPIC -shared -o dist/libhello_c.so hello_c.c".split(' '))
        .current_dir(&folder)
        .status();
    assert!(done_cpp.expect("a compiler").success());
    assert_eq!(run(&folder, &["check"]).status.code(), Some(0));
}

#[test]
fn the_page_for_authors_in_c_holds_code_that_compiles_as_c_and_as_cpp() {
    let page =
        fs::read_to_string(built::checkout().join("extension-api/README.md")).expect("the page");
    assert!(page.lines().count() < 130, "it is one page");
    let blocks: Vec<&str> = page
        .split("```c\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert_eq!(blocks.len(), 2);
    let scratch = built::scratch();
    for block in blocks {
        fs::write(scratch.path().join("block.c"), block).expect("a file");
        for (compiler, flags) in [("cc", "-std=c11"), ("c++", "-std=c++17 -x c++")] {
            let mut command = Command::new(compiler);
            command
                .args(flags.split(' '))
                .args("-Wall -Wextra -Werror -fsyntax-only block.c -I".split(' '));
            command.arg(built::checkout().join("extension-api/include"));
            done(
                &command
                    .current_dir(scratch.path())
                    .output()
                    .expect("a compiler"),
            );
        }
    }
}

#[test]
fn in_a_checkout_the_crate_is_found_by_a_way_that_moves_with_it() {
    let scratch = built::scratch();
    let api = scratch.path().join("checkout/extension-api");
    fs::create_dir_all(api.join("include")).expect("a folder");
    fs::write(api.join("include/extension_api.h"), "").expect("a file");
    fs::write(api.join("Cargo.toml"), "").expect("a file");
    fs::create_dir(scratch.path().join("checkout/extensions")).expect("a folder");
    done(&run(&scratch.path().join("checkout"), &["new", "weather"]));
    let cargo = fs::read_to_string(
        scratch
            .path()
            .join("checkout/extensions/directus-extension-weather/Cargo.toml"),
    );
    assert!(
        cargo
            .expect("a file")
            .contains("path = \"../../extension-api\"")
    );
}

#[test]
fn new_never_asks_where_nobody_can_answer_and_changes_nothing_that_is_there() {
    let scratch = built::scratch();
    for (arguments, part) in [
        (&["new"][..], "give it one: extension-host new NAME"),
        (&["new", "Not A Name"], "cannot name an extension"),
        (
            &["new", "server"],
            "the host has routes of its own under /server",
        ),
        (
            &["new", "request"],
            "the crate extension-api has a type of that name",
        ),
        (
            &["new", "x", "--api", "nowhere"],
            "the crate extension-api is not in nowhere",
        ),
    ] {
        let output = run(scratch.path(), arguments);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains(part), "{output:?}");
    }
    assert_eq!(fs::read_dir(scratch.path()).expect("a folder").count(), 0);
    done(&run(
        scratch.path(),
        &["new", "x", "--lang", "c", "--dir", "."],
    ));
    let source = scratch.path().join("directus-extension-x/x.c");
    fs::write(&source, "mine").expect("a file");
    let again = run(scratch.path(), &["new", "x", "--lang", "c", "--dir", "."]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("is there already"));
    assert_eq!(fs::read_to_string(source).expect("a file"), "mine");
}

// ---- build and list ----

#[test]
fn a_build_that_fails_leaves_the_library_that_was_there() {
    let scratch = built::scratch();
    done(&run(
        scratch.path(),
        &["new", "x", "--lang", "c", "--dir", "."],
    ));
    let folder = scratch.path().join("directus-extension-x");
    done(&run(&folder, &["build"]));
    let library = folder.join("dist/libx.so");
    let before = (
        fs::metadata(&library).expect("a library").ino(),
        fs::read(&library).expect("a library"),
    );
    done(&run(&folder, &["build"]));
    assert_eq!(
        fs::metadata(&library).expect("a library").ino(),
        before.0,
        "nothing has changed"
    );
    fs::write(
        folder.join("x.c"),
        "int broken(void) { return ; }\n#error not yet\n",
    )
    .expect("a file");
    let failed = run(
        scratch.path(),
        &["build", "directus-extension-x", "nowhere"],
    );
    assert_eq!(failed.status.code(), Some(1));
    let stderr = text(&failed.stderr);
    for part in [
        "#error not yet",
        "cannot build directus-extension-x",
        "cannot build nowhere",
        "(2 of 2)",
    ] {
        assert!(stderr.contains(part), "{part:?} is missing in {stderr}");
    }
    assert_eq!(fs::read(&library).expect("a library"), before.1);
    assert!(fs::read_dir(folder.join("dist")).expect("a folder").count() == 1);
}

#[test]
fn list_shows_what_is_mounted_and_why_the_rest_is_not() {
    let scratch = built::scratch();
    let extensions = scratch.path().join("extensions");
    Extension::good().put(&extensions);
    Extension::empty("directus-extension-empty")
        .manifest("")
        .put(&extensions);
    let table = done(&run(scratch.path(), &["list"]));
    let line = |part: &str| {
        table
            .lines()
            .find(|line| line.contains(part))
            .unwrap_or_else(|| panic!("no {part:?} in {table}"))
            .to_owned()
    };
    assert!(line("c-sample ").contains("mounted"));
    assert!(line("directus-extension-empty").contains("refused"));
    assert!(table.contains("there is no library in"));
    let rows: Value =
        serde_json::from_str(&done(&run(scratch.path(), &["list", "--json"]))).expect("JSON");
    assert_eq!(rows[0]["state"], "mounted");
    assert_eq!(rows[1]["error"]["code"], "LIBRARY_MISSING");
}

// ---- dev ----

/// What a process prints, line by line.
#[derive(Default)]
struct Printed {
    lines: Mutex<Vec<String>>,
    changed: Condvar,
}

impl Printed {
    fn listen(self: &Arc<Self>, stream: impl Read + Send + 'static) {
        let printed = self.clone();
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                printed
                    .lines
                    .lock()
                    .expect("no test panics here")
                    .push(line);
                printed.changed.notify_all();
            }
        });
    }

    /// Waits for a line that holds a text, after the first `skip` lines, and gives its place and text.
    #[track_caller]
    fn wait(&self, skip: usize, part: &str) -> (usize, String) {
        let found = |lines: &Vec<String>| {
            lines
                .iter()
                .skip(skip)
                .position(|line| line.contains(part))
                .map(|at| at + skip)
        };
        let lines = self.lines.lock().expect("no test panics here");
        let (lines, _) = self
            .changed
            .wait_timeout_while(lines, DEADLINE, |lines| found(lines).is_none())
            .expect("no test panics here");
        let at = found(&lines).unwrap_or_else(|| panic!("waited in vain for {part:?}: {lines:#?}"));
        (at + 1, lines[at].clone())
    }
}

struct Dev(Child);

impl Drop for Dev {
    fn drop(&mut self) {
        // Politely, so that it tidies up.
        let kill = format!("kill -TERM {}", self.0.id());
        let _ = Command::new("sh").args(["-c", &kill]).status();
        let _ = self.0.wait();
    }
}

#[test]
fn dev_builds_on_save_and_serves_the_old_build_while_the_new_one_does_not_compile() {
    let scratch = built::scratch();
    done(&run(
        scratch.path(),
        &["new", "x", "--lang", "c", "--dir", "."],
    ));
    let folder = scratch.path().join("directus-extension-x");
    let mut child = program(&folder)
        .args(["dev", "--port", "0", "--host", "127.0.0.1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the host runs");
    let printed = Arc::new(Printed::default());
    printed.listen(child.stdout.take().expect("it is piped"));
    printed.listen(child.stderr.take().expect("it is piped"));
    let _dev = Dev(child);
    let (_, line) = printed.wait(0, "listening");
    let address = line
        .split("address=")
        .nth(1)
        .expect("an address")
        .trim()
        .parse()
        .expect("an address");
    let ask = || {
        let mut connection = Connection::open(address);
        connection.send("GET /x/ HTTP/1.1\r\nHost: x\r\n\r\n");
        connection.answer().text().to_owned()
    };
    let (at, _) = printed.wait(0, "serving directus-extension-x (/x), generation 1");
    assert_eq!(ask(), "Hello!");

    let path = folder.join("x.c");
    let source = fs::read_to_string(&path).expect("a source");
    fs::write(&path, source.replace("\"Hello\"", "\"Hello\" oops")).expect("a file");
    let (at, _) = printed.wait(at, "error:");
    let still =
        "still serving directus-extension-x (/x), generation 1: the new source does not compile";
    let (at, _) = printed.wait(at, still);
    assert_eq!(ask(), "Hello!");

    fs::write(&path, source.replace("\"Hello\"", "\"Good evening\"")).expect("a file");
    let (at, line) = printed.wait(at, "serving directus-extension-x (/x), generation 2");
    assert!(line.ends_with("s after it was saved"), "{line}");
    assert_eq!(ask(), "Good evening!");

    // A save that changes nothing in the library changes nothing in what is served.
    fs::write(folder.join("README.md"), "more").expect("a file");
    fs::write(&path, source.replace("\"Hello\"", "\"Good night\"")).expect("a file");
    printed.wait(at, "generation 3");
    assert_eq!(ask(), "Good night!");
}

#[test]
fn dev_explains_what_it_cannot_serve() {
    let scratch = built::scratch();
    fs::create_dir(scratch.path().join("extensions")).expect("a folder");
    for (arguments, part) in [
        (&["dev"][..], "make one with: extension-host new NAME"),
        (
            &["dev", "nowhere"],
            "there is no source of an extension in nowhere",
        ),
    ] {
        let output = run(scratch.path(), arguments);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains(part), "{output:?}");
    }
}
