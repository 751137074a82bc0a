//! What cargo and the C compiler make for the tests, each thing once for a run.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};

use tempfile::TempDir;

/// The packages whose binary or library the tests run. Those that are not in the checkout are left out.
const PACKAGES: [&str; 9] = [
    "extension-host",
    "extension-host-tests",
    "directus-extension-endpoint-twilio",
    "directus-extension-endpoint-twilio-standin",
    "directus-extension-endpoint-city",
    "directus-extension-endpoint-events",
    "directus-extension-endpoint-signup",
    "directus-extension-endpoint-upload",
    "directus-extension-endpoint-webhook",
];

/// The host's binary.
pub fn host() -> PathBuf {
    folder().join("extension-host")
}

/// The library of an extension in this checkout, or of an example of this package.
pub fn library(name: &str) -> PathBuf {
    let file = format!(
        "{}{name}{}",
        std::env::consts::DLL_PREFIX,
        std::env::consts::DLL_SUFFIX
    );
    let example = folder().join("examples").join(&file);
    if example.exists() {
        example
    } else {
        folder().join(file)
    }
}

/// Where cargo puts what it builds, with everything built: `target/debug` for a test that was built there.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let (target, profile) = target();
        let name = if profile == "debug" { "dev" } else { &profile };
        cargo(&target, name, &[], &packages()).then(|| built(&target).join(profile))
    });
    // Known to all tests, so that a mistake is compiled once.
    folder.as_deref().expect("cargo builds what the tests run")
}

/// The library of an extension in this checkout, built so that a panic ends the process. Not an example of this package: those
/// would have everything built once more that the tests need.
pub fn with_panic_abort(package: &str) -> PathBuf {
    let (target, _) = target();
    let profile = [
        "--config",
        "profile.panic-abort.inherits='dev'",
        "--config",
        "profile.panic-abort.panic='abort'",
    ];
    let what = ["-p", package, "--lib"].map(str::to_owned);
    assert!(
        cargo(&target, "panic-abort", &profile, &what),
        "cargo builds the extension"
    );
    built(&target).join("panic-abort").join(format!(
        "lib{}{}",
        package.replace('-', "_"),
        std::env::consts::DLL_SUFFIX
    ))
}

/// The target folder that the running test was built in, and the profile's name.
fn target() -> (PathBuf, String) {
    let test = std::env::current_exe().expect("a test has a path");
    let profile = test
        .parent()
        .and_then(Path::parent)
        .expect("target/<profile>/deps/<test>");
    let name = profile.file_name().expect("a profile has a name");
    let mut target = profile.parent().expect("target/<profile>/deps/<test>");
    // With a target that is named, there is one more folder.
    if let Ok(triple) = std::env::var("CARGO_BUILD_TARGET") {
        assert!(target.ends_with(triple), "{target:?}");
        target = target.parent().expect("target/<triple>/<profile>");
    }
    (target.to_owned(), name.to_string_lossy().into_owned())
}

/// Where the profiles' folders are in a target folder.
fn built(target: &Path) -> PathBuf {
    match std::env::var("CARGO_BUILD_TARGET") {
        Ok(triple) => target.join(triple),
        Err(_) => target.to_owned(),
    }
}

fn packages() -> Vec<String> {
    let lock = std::fs::read_to_string(checkout().join("Cargo.lock")).expect("Cargo.lock");
    let is_there = |name: &&&str| lock.contains(&format!("name = \"{name}\"\n"));
    let mut what: Vec<String> = PACKAGES
        .iter()
        .filter(is_there)
        .flat_map(|name| ["-p".to_owned(), (*name).to_owned()])
        .collect();
    what.extend(["--lib", "--bins", "--examples"].map(str::to_owned));
    what
}

fn cargo(target: &Path, profile: &str, options: &[&str], what: &[String]) -> bool {
    let mut command = Command::new(env!("CARGO"));
    // What `cargo test` tells this test of its package would have ring, and all that needs it, built once more: its build script
    // looks at these.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    let done = command
        .args(["build", "--quiet", "--profile", profile])
        .args(options)
        .args(what)
        .arg("--target-dir")
        .arg(target)
        .current_dir(checkout())
        .status();
    done.expect("cargo runs").success()
}

/// A library from a C source of `fixtures/`, with macros: `NAME` or `NAME=value`.
pub fn c_library(source: &str, defines: &[&str]) -> PathBuf {
    compiled_once((source, &defines.join(" ")), |folder, number| {
        let library = folder.join(format!("libfixture{number}.so"));
        compile_library(source, defines, &library);
        library
    })
}

/// A program from a C source of `fixtures/`. No sanitizer watches it.
pub fn c_program(source: &str) -> PathBuf {
    compiled_once((source, "a program"), |folder, number| {
        let program = folder.join(format!("fixture{number}"));
        run(cc(source).arg("-o").arg(&program), source);
        program
    })
}

/// What `compile` makes in a folder, with a number for its name; once for each key.
fn compiled_once(key: (&str, &str), compile: impl FnOnce(&Path, usize) -> PathBuf) -> PathBuf {
    /// Each with its number: who compiles one need not be who asked for it first.
    type Compiled = HashMap<(String, String), (usize, Arc<OnceLock<PathBuf>>)>;
    static COMPILED: OnceLock<(TempDir, Mutex<Compiled>)> = OnceLock::new();
    let (folder, compiled) = COMPILED.get_or_init(|| (scratch(), Mutex::default()));
    let mut compiled = compiled.lock().expect("nothing panics under this lock");
    let next = compiled.len();
    let (number, slot) = compiled
        .entry((key.0.to_owned(), key.1.to_owned()))
        .or_insert_with(|| (next, Arc::default()))
        .clone();
    drop(compiled);
    slot.get_or_init(|| compile(folder.path(), number)).clone()
}

/// A C compiler with a source of `fixtures/`.
fn cc(source: &str) -> Command {
    let flags = "-std=c11 -Wall -Wextra -pedantic -Werror -fPIC -pthread";
    let mut command = Command::new("cc");
    command
        .args(flags.split(' '))
        .arg("-I")
        .arg(checkout().join("extension-api/include"))
        .arg(fixtures().join(source));
    command
}

fn compile_library(source: &str, defines: &[&str], library: &Path) {
    let mut command = cc(source);
    command.args(defines.iter().map(|define| format!("-D{define}")));
    // A host that was built with a sanitizer watches its extensions, too, where they are: see .ci/checks/sanitizer.
    match std::env::var("SANITIZER") {
        Err(_) => run(command.arg("-shared").arg("-o").arg(library), source),
        Ok(sanitizer) => {
            let object = library.with_extension("o");
            let command = command.arg("-g").arg(format!("-fsanitize={sanitizer}"));
            run(command.arg("-c").arg("-o").arg(&object), source);
            // Its functions are the host's: a library with a copy of its own would not be loaded.
            let mut command = Command::new("cc");
            run(
                command
                    .args(["-shared", "-pthread", "-o"])
                    .args([library, &object]),
                source,
            );
        }
    }
}

fn run(command: &mut Command, source: &str) {
    let done = command.output();
    let done = done.expect("the tests need a C compiler called cc");
    assert!(
        done.status.success(),
        "{source} {:?}: {}",
        command.get_args(),
        String::from_utf8_lossy(&done.stderr)
    );
}

/// A temporary folder of the tests' own.
pub fn scratch() -> TempDir {
    tempfile::Builder::new()
        .prefix("extension-tests-")
        .tempdir()
        .expect("a temporary folder")
}

/// The folder of this package's fixtures.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// The checkout.
pub fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this package is a folder of the checkout")
}
