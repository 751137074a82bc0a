//! Why an extension is not served: each reason with its own sentence, which holds the cause, the place and the remedy.

use std::path::{Path, PathBuf};
use std::{fmt, io};

use serde::{Deserialize, Serialize};

use super::open_fault::OpenFault;
use crate::config::document::DocumentError;
use crate::platform::error_chain::error_chain;

/// An extension that is not served, and why.
#[derive(Debug)]
pub struct LoadError {
    /// The name of its folder.
    pub folder: String,
    /// Why.
    pub reason: Reason,
}

impl LoadError {
    /// A stable name of the reason, for programs.
    pub fn code(&self) -> &'static str {
        self.reason.code()
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Reason::DuplicateId { id, first } if *first == self.folder => write!(
                f,
                "extension id {id:?} is declared twice by {first}; it was not mounted: give one of its endpoints another id"
            ),
            Reason::DuplicateId { id, first } => write!(
                f,
                "extension id {id:?} is declared by both {first} and {}; the second was not mounted: give one of them another id",
                self.folder
            ),
            reason => write!(
                f,
                "cannot {} extension {:?}: {reason}",
                reason.stage(),
                self.folder
            ),
        }
    }
}

impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.reason)
    }
}

/// A step of a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// The library is loaded: its initialisers run.
    Load,
    /// An instance is made.
    Create,
    /// The instance is stopped and destroyed.
    Destroy,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::Load => "the initialisers of its library",
            Step::Create => "its `new` (`create`)",
            Step::Destroy => "its `stop` or `destroy`",
        })
    }
}

/// Why an extension is not served.
#[derive(Debug)]
pub enum Reason {
    /// It has ended the server too often.
    Quarantined {
        /// The ids under which it was served.
        ids: Vec<String>,
        /// Since when, in seconds since 1970.
        since: u64,
        /// What it has done.
        why: String,
    },
    /// `dist` holds no library.
    MissingLibrary {
        /// Where it was looked for.
        dist: PathBuf,
    },
    /// The library that the manifest names is not there.
    NamedLibraryMissing {
        /// Where it should be.
        library: PathBuf,
    },
    /// `dist` holds more than one library, and the manifest names none.
    SeveralLibraries {
        /// Where they are.
        dist: PathBuf,
        /// Their file names.
        names: Vec<String>,
    },
    /// The file is no shared library, or a damaged one.
    NotALibrary {
        /// The file.
        library: PathBuf,
        /// What it looks like instead.
        found: String,
    },
    /// The library is for another system or processor.
    WrongArchitecture {
        /// The file.
        library: PathBuf,
        /// What it was built for.
        built_for: String,
        /// What this host runs on.
        host: String,
    },
    /// The library does not export the entry.
    NoEntry {
        /// The file.
        library: PathBuf,
    },
    /// What it exports under the entry's name is something else.
    BadMagic {
        /// The file.
        library: PathBuf,
    },
    /// It speaks another major version of the ABI.
    AbiMajor {
        /// The file.
        library: PathBuf,
        /// Its version.
        built_for: u32,
        /// This host's version.
        host: u32,
        /// What it was built with.
        sdk: String,
    },
    /// It cannot do without a later minor version of the ABI.
    AbiMinor {
        /// The file.
        library: PathBuf,
        /// The version that it needs: major and minor.
        needs: (u32, u32),
        /// This host's version: major and minor.
        host: (u32, u32),
        /// What it was built with.
        sdk: String,
    },
    /// Its entry ends before the last hook of version 1.0.
    EntryTooSmall {
        /// The file.
        library: PathBuf,
        /// The size that it states, in bytes.
        found: u32,
        /// The least size, in bytes.
        least: u32,
    },
    /// Its entry does not hold the hooks that every extension must have.
    MissingHook {
        /// The file.
        library: PathBuf,
        /// The hook's name.
        hook: &'static str,
    },
    /// It was built so that a panic would end the host.
    PanicAbort {
        /// The file.
        library: PathBuf,
    },
    /// The private copy that would be loaded cannot be made.
    CannotCopy {
        /// The file.
        library: PathBuf,
        /// Where it should go.
        to: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system's loader refused it.
    OpenFailed {
        /// The file.
        library: PathBuf,
        /// What the loader said.
        text: String,
        /// What that means.
        fault: OpenFault,
    },
    /// The file is larger than any library should be.
    TooLarge {
        /// The file.
        library: PathBuf,
        /// Its size.
        bytes: u64,
        /// The largest size.
        bytes_max: u64,
    },
    /// What lies beside the library that needs it is more than can be taken along.
    DistTooLarge {
        /// The folder.
        dist: PathBuf,
        /// The most files.
        files_max: usize,
        /// The most bytes.
        bytes_max: u64,
    },
    /// There can be no process that tries it before the host loads it.
    TrialImpossible {
        /// What the system said.
        source: io::Error,
    },
    /// It ended the process that tried it.
    TrialCrashed {
        /// The file.
        library: PathBuf,
        /// What was tried.
        step: Step,
        /// How the process ended.
        how: String,
        /// What it wrote last.
        last_line: Option<String>,
    },
    /// What was tried does not return.
    TrialTimeout {
        /// The file.
        library: PathBuf,
        /// What was tried.
        step: Step,
        /// How long it was waited for.
        waited_ms: u64,
    },
    /// Its `new` (or `create`) returned an error.
    CreateFailed {
        /// What it said.
        message: String,
    },
    /// Its `new` panicked.
    CreatePanicked {
        /// What the panic said.
        message: String,
    },
    /// Its `new` does not return.
    CreateTimeout {
        /// How long it was waited for.
        waited_ms: u64,
    },
    /// There is no thread to call its `new` on.
    NoThread {
        /// What the system says.
        source: io::Error,
    },
    /// It declared no endpoint, so that it could never be called.
    NoEndpoint,
    /// Its id breaks the rules.
    BadId {
        /// The id.
        id: String,
    },
    /// Its id is one of the host's own names.
    ReservedId {
        /// The id.
        id: String,
    },
    /// Another extension has the id.
    DuplicateId {
        /// The id.
        id: String,
        /// The folder of the one that has it.
        first: String,
    },
    /// The pattern of a route breaks the rules.
    BadRoute {
        /// The endpoint's id.
        id: String,
        /// The pattern.
        pattern: String,
        /// Which rule.
        problem: String,
    },
    /// One method and pattern is declared twice.
    DuplicateRoute {
        /// The endpoint's id.
        id: String,
        /// The method.
        method: String,
        /// The pattern.
        pattern: String,
    },
    /// The manifest is not understood.
    BadManifest {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// A variable that it requires is not set.
    MissingVariable {
        /// Its name.
        name: String,
    },
    /// A variable that names an allowed origin holds none.
    BadOrigin {
        /// Its name.
        name: String,
    },
    /// The host may not read a file or folder.
    NoPermission {
        /// Which.
        path: PathBuf,
    },
    /// A file or folder cannot be read for another cause.
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Reason {
    /// Names the extension that it is about.
    pub fn of(self, folder: impl Into<String>) -> LoadError {
        LoadError {
            folder: folder.into(),
            reason: self,
        }
    }

    /// Tells a missing permission from other causes for which a path cannot be read.
    pub fn unreadable(path: &Path, source: io::Error) -> Reason {
        match source.kind() {
            io::ErrorKind::PermissionDenied => Reason::NoPermission {
                path: path.to_owned(),
            },
            _ => Reason::Unreadable {
                path: path.to_owned(),
                source,
            },
        }
    }

    /// A stable name, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Reason::MissingLibrary { .. } | Reason::NamedLibraryMissing { .. } => "LIBRARY_MISSING",
            Reason::SeveralLibraries { .. } => "LIBRARY_AMBIGUOUS",
            Reason::NotALibrary { .. } => "LIBRARY_INVALID",
            Reason::WrongArchitecture { .. } => "LIBRARY_ARCHITECTURE",
            Reason::NoEntry { .. } => "ENTRY_MISSING",
            Reason::BadMagic { .. } => "ENTRY_MAGIC",
            Reason::EntryTooSmall { .. } => "ENTRY_TOO_SMALL",
            Reason::MissingHook { .. } => "ENTRY_HOOK_MISSING",
            Reason::AbiMajor { .. } => "ABI_MAJOR",
            Reason::AbiMinor { .. } => "ABI_MINOR",
            Reason::PanicAbort { .. } => "PANIC_ABORT",
            Reason::CannotCopy { .. } => "LIBRARY_COPY",
            Reason::OpenFailed { .. } => "LIBRARY_OPEN",
            Reason::TooLarge { .. } => "LIBRARY_TOO_LARGE",
            Reason::DistTooLarge { .. } => "DIST_TOO_LARGE",
            Reason::TrialImpossible { .. } => "TRIAL_IMPOSSIBLE",
            Reason::TrialCrashed { .. } => "TRIAL_CRASHED",
            Reason::TrialTimeout { .. } => "TRIAL_TIMEOUT",
            Reason::CreateFailed { .. } => "CREATE_FAILED",
            Reason::CreatePanicked { .. } => "CREATE_PANICKED",
            Reason::CreateTimeout { .. } => "CREATE_TIMEOUT",
            Reason::NoThread { .. } => "NO_THREAD",
            Reason::NoEndpoint => "ENDPOINT_MISSING",
            Reason::BadId { .. } => "ID_INVALID",
            Reason::ReservedId { .. } => "ID_RESERVED",
            Reason::DuplicateId { .. } => "ID_DUPLICATE",
            Reason::BadRoute { .. } => "ROUTE_INVALID",
            Reason::DuplicateRoute { .. } => "ROUTE_DUPLICATE",
            Reason::Quarantined { .. } => "QUARANTINED",
            Reason::BadManifest { .. } => "MANIFEST_INVALID",
            Reason::MissingVariable { .. } => "VARIABLE_MISSING",
            Reason::BadOrigin { .. } => "VARIABLE_INVALID",
            Reason::NoPermission { .. } => "PERMISSION_DENIED",
            Reason::Unreadable { .. } => "UNREADABLE",
        }
    }

    /// Whether it may be over although no file of the extension has changed: whatever lies in the system, or in what the
    /// extension itself asks of the world. What only another file, variable or extension can cure is seen to change.
    pub fn may_pass(&self) -> bool {
        match self {
            Reason::CannotCopy { .. }
            | Reason::OpenFailed { .. }
            // Files that are no libraries are not looked at.
            | Reason::DistTooLarge { .. }
            | Reason::TrialImpossible { .. }
            | Reason::TrialCrashed { .. }
            | Reason::TrialTimeout { .. }
            | Reason::CreateFailed { .. }
            | Reason::CreatePanicked { .. }
            | Reason::CreateTimeout { .. }
            | Reason::NoThread { .. }
            | Reason::NoPermission { .. }
            | Reason::Unreadable { .. } => true,
            // What lifts a quarantine is other files, or somebody's word.
            Reason::Quarantined { .. }
            | Reason::MissingLibrary { .. }
            | Reason::NamedLibraryMissing { .. }
            | Reason::SeveralLibraries { .. }
            | Reason::NotALibrary { .. }
            | Reason::WrongArchitecture { .. }
            | Reason::NoEntry { .. }
            | Reason::BadMagic { .. }
            | Reason::AbiMajor { .. }
            | Reason::AbiMinor { .. }
            | Reason::EntryTooSmall { .. }
            | Reason::MissingHook { .. }
            | Reason::PanicAbort { .. }
            | Reason::TooLarge { .. }
            | Reason::NoEndpoint
            | Reason::BadId { .. }
            | Reason::ReservedId { .. }
            | Reason::DuplicateId { .. }
            | Reason::BadRoute { .. }
            | Reason::DuplicateRoute { .. }
            | Reason::BadManifest { .. }
            | Reason::MissingVariable { .. }
            | Reason::BadOrigin { .. } => false,
        }
    }

    /// Whether the extension's own code said so, or was seen to, in `create`.
    pub fn is_of_create(&self) -> bool {
        matches!(
            self,
            Reason::CreateFailed { .. } | Reason::CreatePanicked { .. }
        )
    }

    /// Whether it says nothing new to who has read the other.
    pub fn is_same(&self, other: &Self) -> bool {
        let words = |reason: &Self| match reason {
            // What it wrote last may hold numbers of threads, and addresses.
            Reason::TrialCrashed { step, how, .. } => format!("{step}: {how}"),
            reason => error_chain(reason),
        };
        self.code() == other.code() && words(self) == words(other)
    }

    fn stage(&self) -> &'static str {
        match self {
            Reason::CreateFailed { .. }
            | Reason::CreatePanicked { .. }
            | Reason::CreateTimeout { .. }
            | Reason::NoThread { .. }
            | Reason::MissingVariable { .. }
            | Reason::BadOrigin { .. } => "start",
            Reason::NoEndpoint
            | Reason::BadId { .. }
            | Reason::ReservedId { .. }
            | Reason::DuplicateId { .. }
            | Reason::BadRoute { .. }
            | Reason::DuplicateRoute { .. } => "mount",
            _ => "load",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Quarantined { why, .. } => write!(
                f,
                "it is quarantined: {why}; change its library, or POST /extensions/ID/reload, to try it again"
            ),
            Reason::MissingLibrary { dist } => {
                write!(
                    f,
                    "there is no library in {}; build the extension, and put its library there",
                    dist.display()
                )
            }
            Reason::NamedLibraryMissing { library } => {
                write!(
                    f,
                    "{} does not exist; build the extension, or correct `library` in its extension.toml",
                    library.display()
                )
            }
            Reason::SeveralLibraries { dist, names } => {
                let (list, first) = (names.join(", "), names.first().map_or("", String::as_str));
                write!(
                    f,
                    "there are several libraries in {} ({list}); name one in extension.toml: library = {first:?}",
                    dist.display()
                )
            }
            Reason::NotALibrary { library, found } => {
                write!(
                    f,
                    "{} is not a shared library but {found}; build the extension again",
                    library.display()
                )
            }
            Reason::WrongArchitecture {
                library,
                built_for,
                host,
            } => {
                write!(
                    f,
                    "{} was built for {built_for}, this host runs on {host}; build it for {host}",
                    library.display()
                )
            }
            Reason::NoEntry { library } => write!(
                f,
                "{} exports no symbol extension_entry_v1; a Rust extension ends with export_endpoint!, a C extension defines it as extension_api.h says",
                library.display()
            ),
            Reason::BadMagic { library } => write!(
                f,
                "{} exports an extension_entry_v1 that does not begin with EXT_MAGIC; initialise it as extension_api.h says",
                library.display()
            ),
            Reason::AbiMajor {
                library,
                built_for,
                host,
                sdk,
            } => write!(
                f,
                "{} was built for ABI {built_for}{}, this host speaks ABI {host}; rebuild it with this host's extension-api",
                library.display(),
                With(sdk)
            ),
            Reason::AbiMinor {
                library,
                needs,
                host,
                sdk,
            } => write!(
                f,
                "{} needs ABI {}.{}{}, this host speaks ABI {}.{}; update the host, or rebuild it with this host's extension-api",
                library.display(),
                needs.0,
                needs.1,
                With(sdk),
                host.0,
                host.1
            ),
            Reason::EntryTooSmall {
                library,
                found,
                least,
            } => write!(
                f,
                "the extension_entry_v1 of {} has {found} bytes, at least {least} are needed; set its struct_size to sizeof(ext_entry)",
                library.display()
            ),
            Reason::MissingHook { library, hook } => {
                write!(
                    f,
                    "the extension_entry_v1 of {} has no hook `{hook}`; every extension needs one",
                    library.display()
                )
            }
            Reason::PanicAbort { library } => write!(
                f,
                "{} was built with panic=abort, so that its panic would end the host; build it with panic = \"unwind\", or set allow_panic_abort = true in config.toml",
                library.display()
            ),
            Reason::CannotCopy { library, to, .. } => {
                write!(
                    f,
                    "cannot copy {} to {}; free some space there, or let the host write there",
                    library.display(),
                    to.display()
                )
            }
            Reason::OpenFailed {
                library,
                text,
                fault,
            } => {
                write!(
                    f,
                    "the system cannot load {}: {text}; {fault}",
                    library.display()
                )
            }
            Reason::TooLarge {
                library,
                bytes,
                bytes_max,
            } => write!(
                f,
                "{} has {bytes} bytes, at most {bytes_max} are taken; link only what the extension needs, and strip it",
                library.display()
            ),
            Reason::DistTooLarge {
                dist,
                files_max,
                bytes_max,
            } => write!(
                f,
                "{} holds more than {files_max} files or {bytes_max} bytes, which have to be taken along because the library looks for others beside itself; leave there only what it needs",
                dist.display()
            ),
            Reason::TrialImpossible { .. } => f.write_str(
                "there can be no process that tries it before the host loads it; let the host start processes of its own program, or set trial_load = false in config.toml",
            ),
            Reason::TrialCrashed {
                library,
                step,
                how,
                last_line,
            } => {
                write!(
                    f,
                    "{step} would have ended the host: {} was loaded by a process of its own first, and {how}",
                    library.display()
                )?;
                if let Some(line) = last_line {
                    write!(f, "; the last line on stderr: {line}")?;
                }
                f.write_str("; this is a fault in the extension's code, or in what it links")
            }
            Reason::TrialTimeout {
                library,
                step,
                waited_ms,
            } => write!(
                f,
                "{step} did not return within {waited_ms} ms when {} was loaded by a process of its own first; let it do less, or raise create_timeout_ms",
                library.display()
            ),
            Reason::CreateFailed { message } => write!(f, "its `new` failed: {message}"),
            Reason::CreatePanicked { message } => write!(
                f,
                "its `new` panicked: {message}; this is a fault in the extension's code"
            ),
            Reason::CreateTimeout { waited_ms } => write!(
                f,
                "its `new` has not returned for {waited_ms} ms; let it do less, or raise create_timeout_ms"
            ),
            Reason::NoThread { .. } => f.write_str(
                "the system gives no thread for its `new`; raise the limit of threads (ulimit -u, TasksMax)",
            ),
            Reason::NoEndpoint => f.write_str(
                "it declared no endpoint, so that nothing could call it; declare one in its `new`",
            ),
            Reason::BadId { id } => write!(
                f,
                "its id {id:?} is not well-formed; an id is up to {ID_BYTES_MAX} of a-z, 0-9, _ and -, and begins with a letter or digit"
            ),
            Reason::ReservedId { id } => write!(
                f,
                "its id {id:?} is a path of the host's own; choose another one"
            ),
            Reason::DuplicateId { id, first } => write!(
                f,
                "its id {id:?} is already declared by {first}; give one of them another id"
            ),
            Reason::BadRoute {
                id,
                pattern,
                problem,
            } => {
                write!(
                    f,
                    "endpoint {id:?} declares the route {pattern:?}: {problem}; a pattern is like /a, /:name or /*"
                )
            }
            Reason::DuplicateRoute {
                id,
                method,
                pattern,
            } => {
                write!(
                    f,
                    "endpoint {id:?} declares the route {method} {pattern:?} twice; remove one of them"
                )
            }
            Reason::BadManifest { path, .. } => write!(f, "cannot read {}", path.display()),
            Reason::MissingVariable { name } => {
                write!(
                    f,
                    "environment variable {name} is not set; set it in .env or in the environment of the host"
                )
            }
            Reason::BadOrigin { name } => write!(
                f,
                "environment variable {name} is not the URL of an allowed origin; set it to one like https://api.example.com"
            ),
            Reason::NoPermission { path } => write!(
                f,
                "no permission to read {}; let the host's user read it",
                path.display()
            ),
            Reason::Unreadable { path, .. } => write!(f, "cannot read {}", path.display()),
        }
    }
}

impl std::error::Error for Reason {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Reason::CannotCopy { source, .. }
            | Reason::TrialImpossible { source }
            | Reason::Unreadable { source, .. } => Some(source),
            Reason::BadManifest { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// What is wrong with a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestError {
    /// It is no TOML, or has a field or value that is not understood.
    Document(DocumentError),
    /// `library` is not the name of a file.
    LibraryPath(String),
    /// A variable cannot have this name.
    VariableName(String),
    /// A variable is declared twice.
    VariableTwice(String),
    /// `fetch.allow` names a variable that is not declared.
    AllowUndeclared(String),
    /// A limit of this name is 0.
    ZeroLimit(&'static str),
    /// It is larger than any manifest should be.
    TooLarge {
        /// The largest size, in bytes.
        bytes_max: u64,
    },
    /// It is not UTF-8.
    NotText,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ManifestError::Document(error) => error.fmt(f),
            ManifestError::LibraryPath(name) => {
                write!(f, "library = {name:?} is not the name of a file in dist")
            }
            ManifestError::VariableName(name) => {
                write!(
                    f,
                    "{name:?} under [env] is not the name of a variable; use letters, digits and _"
                )
            }
            ManifestError::VariableTwice(name) => write!(
                f,
                "variable {name} is declared twice under [env]; remove one of them"
            ),
            ManifestError::AllowUndeclared(name) => {
                write!(
                    f,
                    "\"${name}\" under [fetch] is not declared; add {name:?} to required or optional under [env]"
                )
            }
            ManifestError::ZeroLimit(name) => {
                write!(
                    f,
                    "{name} = 0 would refuse every request; set it to 1 or more"
                )
            }
            ManifestError::TooLarge { bytes_max } => write!(f, "larger than {bytes_max} bytes"),
            ManifestError::NotText => f.write_str("not UTF-8"),
        }
    }
}

impl std::error::Error for ManifestError {}

/// How long an id may be: it is part of every URL and log line.
pub const ID_BYTES_MAX: usize = 64;

/// What a library was built with, where it says so.
struct With<'a>(&'a str);

impl fmt::Display for With<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            Ok(())
        } else {
            write!(f, " ({})", self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_name_the_folder_the_cause_and_the_remedy() {
        let library = PathBuf::from("/x/directus-extension-acme/dist/libacme.so");
        let error = Reason::AbiMajor {
            library,
            built_for: 2,
            host: 1,
            sdk: "extension-api 9.9".into(),
        }
        .of("directus-extension-acme");
        assert_eq!(
            error.to_string(),
            "cannot load extension \"directus-extension-acme\": /x/directus-extension-acme/dist/libacme.so was built for ABI 2 (extension-api 9.9), this host speaks ABI 1; rebuild it with this host's extension-api"
        );
        assert_eq!(error.code(), "ABI_MAJOR");
        let error = Reason::DuplicateId {
            id: "twilio".into(),
            first: "directus-extension-a".into(),
        }
        .of("directus-extension-b");
        assert!(error.to_string().starts_with(
            "extension id \"twilio\" is declared by both directus-extension-a and directus-extension-b; the second was not mounted"
        ));
        let error = Reason::MissingVariable {
            name: "TWILIO_AUTH_TOKEN".into(),
        }
        .of("directus-extension-twilio");
        assert!(error.to_string().starts_with("cannot start extension \"directus-extension-twilio\": environment variable TWILIO_AUTH_TOKEN is not set"));
    }
}
