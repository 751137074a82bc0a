//! Builds an extension from its source and puts the library in its `dist`, so that a running host never sees half a file.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use std::{fmt, fs, io};

use serde_json::{Value, json};

use crate::extension::gate;
use crate::platform::error_chain::error_chain;

/// A library that was built and put in place.
pub struct Built {
    /// Where it is now.
    pub library: PathBuf,
    /// Its size.
    pub size_bytes: u64,
    /// What it says about itself.
    pub entry: gate::LibraryEntry,
}

/// Why an extension was not built.
#[derive(Debug)]
pub enum BuildError {
    /// The extensions folder cannot be read.
    Unreadable(PathBuf, io::Error),
    /// The folder holds nothing that can be built here.
    NoSource(PathBuf),
    /// The tool cannot be started.
    NoTool(String, io::Error),
    /// The tool failed; it has printed why.
    Failed(PathBuf),
    /// The package makes no shared library.
    NoLibrary(PathBuf),
    /// The library cannot be put in place.
    Install(PathBuf, io::Error),
    /// What was built cannot be loaded by this host.
    Gate(crate::extension::error::Reason),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(path, _) => write!(
                f,
                "cannot read the extensions folder {}; name the folder of an extension",
                path.display()
            ),
            Self::NoSource(folder) => write!(
                f,
                "cannot build {}: it has neither a Cargo.toml nor a Makefile",
                folder.display()
            ),
            Self::NoTool(tool, _) => {
                write!(f, "cannot start {tool}; install it, or put it in PATH")
            }
            Self::Failed(folder) => write!(
                f,
                "cannot build {}; the compiler's messages stand above",
                folder.display()
            ),
            Self::NoLibrary(folder) => {
                write!(
                    f,
                    "{} builds no shared library; add crate-type = [\"cdylib\"] under [lib] in its Cargo.toml",
                    folder.display()
                )
            }
            Self::Install(to, _) => write!(f, "cannot put the library at {}", to.display()),
            Self::Gate(_) => f.write_str("what was built is no extension for this host"),
        }
    }
}

impl std::error::Error for BuildError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable(_, cause) | Self::NoTool(_, cause) | Self::Install(_, cause) => {
                Some(cause)
            }
            Self::Gate(reason) => Some(reason),
            Self::NoSource(_) | Self::Failed(_) | Self::NoLibrary(_) => None,
        }
    }
}

/// Whether a folder holds source that [`build`] can build.
pub fn has_source(folder: &Path) -> bool {
    folder.join("Cargo.toml").is_file() || folder.join("Makefile").is_file()
}

/// Whether a folder is that of an extension, with its source.
pub fn is_extension(folder: &Path) -> bool {
    has_source(folder) && folder.join(crate::extension::manifest::FILE_NAME).is_file()
}

/// The extensions in a folder of extensions that have their source with them, sorted.
///
/// # Errors
/// Where the folder cannot be read.
pub fn sources(extensions: &Path) -> Result<Vec<PathBuf>, BuildError> {
    let unreadable = |cause| BuildError::Unreadable(extensions.to_owned(), cause);
    let mut folders = Vec::new();
    for entry in fs::read_dir(extensions).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if has_source(&path) {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}

/// `extension-host build`: builds the folders that are named, or the working directory where it is an extension's, or each
/// extension in the extensions folder that has its source. All are tried, and errors are printed.
///
/// # Errors
/// Where there is nothing to build.
pub fn run(folders: &[PathBuf], extensions: &Path, json: bool) -> Result<ExitCode, BuildError> {
    let folders = match folders {
        [] if is_extension(Path::new(".")) => vec![PathBuf::from(".")],
        [] => sources(extensions)?,
        named => named.to_vec(),
    };
    if folders.is_empty() {
        return Err(BuildError::NoSource(extensions.to_owned()));
    }
    let mut rows = Vec::new();
    for (number, folder) in folders.iter().enumerate() {
        eprintln!(
            "building {} ({} of {})",
            folder.display(),
            number + 1,
            folders.len()
        );
        let began = Instant::now();
        let row = match build(folder) {
            Ok(built) => {
                if !json {
                    println!("{}", built.sentence(began.elapsed()));
                }
                json!({
                    "folder": folder,
                    "library": built.library,
                    "size_bytes": built.size_bytes,
                    "abi": format!("{}.{}", built.entry.abi_major, built.entry.abi_minor),
                    "sdk": built.entry.sdk,
                    "seconds": began.elapsed().as_secs_f64(),
                    "error": null,
                })
            }
            Err(error) => {
                eprintln!("{}", error_chain(&error));
                json!({"folder": folder, "error": error_chain(&error)})
            }
        };
        rows.push(row);
    }
    let all_built = rows.iter().all(|row| row["error"].is_null());
    if json {
        println!("{:#}", Value::Array(rows));
    }
    Ok(if all_built {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Built {
    fn sentence(&self, took: Duration) -> String {
        let gate::LibraryEntry {
            abi_major,
            abi_minor,
            sdk,
            ..
        } = &self.entry;
        let kb = self.size_bytes.div_ceil(1024);
        format!(
            "built {} ({kb} kB, ABI {abi_major}.{abi_minor}, {sdk}) in {:.1} s",
            self.library.display(),
            took.as_secs_f64()
        )
    }
}

/// Builds the extension in `folder`, in release mode. What the tool prints goes to stderr, as it comes.
///
/// # Errors
/// Where there is nothing to build, the tool fails, or the library cannot be put in place.
pub fn build(folder: &Path) -> Result<Built, BuildError> {
    let library = if folder.join("Cargo.toml").is_file() {
        let made = cargo(folder)?;
        let library = folder
            .join("dist")
            .join(made.file_name().unwrap_or_default());
        install(&made, &library).map_err(|cause| BuildError::Install(library.clone(), cause))?;
        library
    } else if folder.join("Makefile").is_file() {
        make(folder)?
    } else {
        return Err(BuildError::NoSource(folder.to_owned()));
    };
    let entry = gate::check(&library, true).map_err(BuildError::Gate)?;
    let size_bytes = fs::metadata(&library)
        .map_err(|cause| BuildError::Install(library.clone(), cause))?
        .len();
    Ok(Built {
        library,
        size_bytes,
        entry,
    })
}

/// Lets cargo build the package, and finds the library among what it says it made.
fn cargo(folder: &Path) -> Result<PathBuf, BuildError> {
    // Under `cargo run` this names the same cargo.
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(&cargo)
        .args([
            "rustc",
            "--release",
            "--lib",
            "--message-format=json-render-diagnostics",
            // Symbols of the code behind the ABI are of no use at run time, and are most of the file. Only the compiler of the
            // library itself is told: by a setting of the profile, cargo would compile every crate below it once more.
            "--",
            "-Cstrip=symbols",
        ])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|cause| BuildError::NoTool(cargo, cause))?;
    if !output.status.success() {
        return Err(BuildError::Failed(folder.to_owned()));
    }
    let is_this_package =
        |manifest: &str| same_file(Path::new(manifest), &folder.join("Cargo.toml"));
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| {
            message["reason"] == "compiler-artifact"
                && message["manifest_path"]
                    .as_str()
                    .is_some_and(is_this_package)
        })
        .filter(|message| {
            message["target"]["kind"]
                .as_array()
                .is_some_and(|kinds| kinds.iter().any(|kind| kind == "cdylib"))
        })
        .flat_map(|message| message["filenames"].as_array().cloned().unwrap_or_default())
        .filter_map(|name| name.as_str().map(PathBuf::from))
        .find(|name| {
            name.extension()
                .is_some_and(|suffix| suffix == std::env::consts::DLL_EXTENSION)
        })
        .ok_or_else(|| BuildError::NoLibrary(folder.to_owned()))
}

/// Lets make build the library, which the Makefile's rule puts into `dist/`.
fn make(folder: &Path) -> Result<PathBuf, BuildError> {
    let status = Command::new("make")
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(io::stderr())
        .status();
    if !status
        .map_err(|cause| BuildError::NoTool("make".to_owned(), cause))?
        .success()
    {
        return Err(BuildError::Failed(folder.to_owned()));
    }
    let found = crate::extension::discovery::examine(folder).map_err(BuildError::Gate)?;
    Ok(found.library)
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// Copies a file next to its destination and renames it: a reader sees the old file or the new one, never a part of it. An
/// equal file is left alone, so that no host reloads it.
fn install(from: &Path, to: &Path) -> io::Result<()> {
    if fs::read(to).is_ok_and(|there| fs::read(from).is_ok_and(|made| made == there)) {
        return Ok(());
    }
    let folder = to.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(to.file_name().unwrap_or_default());
    hidden.push(format!(".{}", std::process::id()));
    let beside = folder.join(hidden);
    let copied = fs::copy(from, &beside).and_then(|_| fs::rename(&beside, to));
    if copied.is_err() {
        // The copy's own error is the one to report.
        let _ = fs::remove_file(&beside);
    }
    copied
}
