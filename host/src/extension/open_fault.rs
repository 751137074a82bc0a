//! Why the system's loader refuses a library: its words, read for the cause that can be cured, and the cure.

use std::fmt;
use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, statvfs};

/// Why the system's loader refuses a library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenFault {
    /// Nothing can be executed from where the private copies are.
    NoExec(PathBuf),
    /// It was built for another C library than the host.
    OtherLibc,
    /// A library that it needs is there, and too old: the version that it needs.
    TooNew(String),
    /// There is no space for initial-exec thread-locals any more.
    StaticTls,
    /// A library that it needs is not there.
    Missing(String),
    /// Something that it needs is in none of the libraries that it names.
    Undefined(String),
    /// A library that it needs is for another processor, or damaged.
    Foreign,
    /// Something else.
    Other,
}

impl OpenFault {
    /// Reads what the loader said of a private copy that needs these libraries.
    pub fn of(text: &str, copy: &Path, needed: &[String]) -> Self {
        let is_noexec = |folder: &Path| {
            statvfs(folder).is_ok_and(|about| about.f_flag.contains(StatVfsMountFlags::NOEXEC))
        };
        if let Some(folder) = copy.parent().filter(|folder| is_noexec(folder)) {
            return Self::NoExec(folder.parent().unwrap_or(folder).to_owned());
        }
        if text.contains("static TLS block") {
            return Self::StaticTls;
        }
        if needed.iter().any(|name| is_of_other_libc(name)) {
            return Self::OtherLibc;
        }
        if let Some(version) = between(text, "version `", "' not found") {
            return Self::TooNew(version);
        }
        if text.contains("cannot open shared object file: No such file") {
            // "libx.so.1: cannot open shared object file: No such file or directory"
            let missing = text.split(':').next().unwrap_or_default().trim();
            return Self::Missing(missing.to_owned());
        }
        if let Some((_, symbol)) = text.rsplit_once("undefined symbol: ") {
            let symbol = symbol.split([',', ' ']).next().unwrap_or_default();
            return Self::Undefined(symbol.to_owned());
        }
        let is_foreign = [
            "wrong ELF class",
            "invalid ELF header",
            "file too short",
            "ELF file",
        ];
        if is_foreign.iter().any(|words| text.contains(words)) {
            return Self::Foreign;
        }
        Self::Other
    }
}

/// Whether a library that needs this one was built for another C library than the host.
fn is_of_other_libc(name: &str) -> bool {
    if cfg!(target_env = "musl") {
        name == "libc.so.6"
    } else {
        // What Alpine links, and what the wrapper musl-gcc links.
        name.starts_with("libc.musl-") || (cfg!(target_env = "gnu") && name == "libc.so")
    }
}

fn between(text: &str, before: &str, after: &str) -> Option<String> {
    let (_, rest) = text.split_once(before)?;
    Some(rest.split_once(after)?.0.to_owned())
}

/// The cause, and what can be done about it.
impl fmt::Display for OpenFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoExec(folder) => write!(
                f,
                "{} is mounted noexec, and the host loads private copies from there; set TMPDIR to a folder from which code may be loaded",
                folder.display()
            ),
            Self::OtherLibc if cfg!(target_env = "musl") => f.write_str(
                "it was built for glibc, and this host for musl; build it for the target of this host, ending in -musl",
            ),
            Self::OtherLibc => f.write_str(
                "it was built for musl, and this host for glibc; build it for the target of this host, ending in -gnu",
            ),
            Self::TooNew(version) if version.starts_with("GLIBC_") => write!(
                f,
                "it was built on a system with a newer glibc, and needs its {version}; build it on this system or an older one"
            ),
            Self::TooNew(version) => write!(
                f,
                "it needs {version} of a library that is older here; build it on this system or an older one, or update that library"
            ),
            Self::StaticTls => f.write_str(
                "the process has no space left for thread-locals of the initial-exec model, of which each build that was loaded keeps its part; restart the host, and build the library without -ftls-model=initial-exec",
            ),
            Self::Missing(library) => write!(
                f,
                "it needs {library}, which is not there; install what it misses, or put it into dist and link with -Wl,-rpath,'$ORIGIN'"
            ),
            Self::Undefined(symbol) => write!(
                f,
                "no library that it names has {symbol}; link it with the one that does, and install what it misses"
            ),
            Self::Foreign => f.write_str(
                "a library that it needs is damaged, or for another processor; install the one for this system",
            ),
            Self::Other => {
                f.write_str("build it on this system, or install what it misses")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loaders_words_are_read_for_their_cause() {
        let copy = Path::new("/nowhere/1-new-lib.so");
        let of = |text: &str, needed: &[&str]| {
            let needed: Vec<String> = needed.iter().map(|name| (*name).to_owned()).collect();
            OpenFault::of(text, copy, &needed)
        };
        let missing = "libx.so.1: cannot open shared object file: No such file or directory";
        assert_eq!(of(missing, &[]), OpenFault::Missing("libx.so.1".to_owned()));
        let tls = "/a/lib.so: cannot allocate memory in static TLS block";
        assert_eq!(of(tls, &[]), OpenFault::StaticTls);
        let newer = "/lib/libc.so.6: version `GLIBC_2.99' not found (required by /a/lib.so)";
        assert_eq!(
            of(newer, &["libc.so.6"]),
            OpenFault::TooNew("GLIBC_2.99".to_owned())
        );
        let undefined = "/a/lib.so: undefined symbol: f, version V";
        assert_eq!(of(undefined, &[]), OpenFault::Undefined("f".to_owned()));
        assert_eq!(of("/a/libx.so: file too short", &[]), OpenFault::Foreign);
        assert_eq!(of("something else", &[]), OpenFault::Other);
    }
}
