//! Whether this host may load a library: its entry compared with what this host speaks.

use std::fs::{self, File};
use std::path::Path;

use extension_api::abi::{EXT_ABI_MAJOR, EXT_ABI_MINOR};
use object::read::ReadCache;

use super::entry::{self, LibraryEntry};
use super::file::{find_entry, not_a_library};
use super::system::HOST;
use crate::extension::error::Reason;

/// A file above this size is no library that somebody made on purpose, and its copy would fill the disk.
const LIBRARY_BYTES_MAX: u64 = 2 << 30;

/// Reads the entry from the library's file and decides whether this host can load it.
///
/// # Errors
/// Says what keeps the library from being loaded, both sides of a mismatch and what to do about it.
pub fn check(library: &Path, allow_panic_abort: bool) -> Result<LibraryEntry, Reason> {
    check_file(library)?;
    let file = File::open(library).map_err(|error| Reason::unreadable(library, error))?;
    check_copy(file, library, allow_panic_abort)
}

/// Whether it is a file at all, and of a size that can be copied. Before it is opened: a named pipe would keep the host waiting.
///
/// # Errors
/// Where it is none, or cannot be looked at.
pub fn check_file(library: &Path) -> Result<(), Reason> {
    let metadata = fs::metadata(library).map_err(|error| Reason::unreadable(library, error))?;
    if !metadata.is_file() {
        return Err(not_a_library(
            library,
            if metadata.is_dir() {
                "a folder"
            } else {
                "a device or pipe"
            },
        ));
    }
    let (bytes, bytes_max) = (metadata.len(), LIBRARY_BYTES_MAX);
    if bytes > bytes_max {
        let library = library.to_owned();
        return Err(Reason::TooLarge {
            library,
            bytes,
            bytes_max,
        });
    }
    Ok(())
}

/// Like [`check`], of a copy; messages name the `library` that the operator knows.
///
/// # Errors
/// As [`check`].
pub fn check_copy(
    copy: File,
    library: &Path,
    allow_panic_abort: bool,
) -> Result<LibraryEntry, Reason> {
    let data = ReadCache::new(copy);
    let found = find_entry(&data, HOST).map_err(|fault| fault.about(library))?;
    let mut entry = entry::decode(found.entry, library)?;
    entry.facts = found.facts;
    accept(entry, allow_panic_abort, library)
}

/// Compares the entry with what this host speaks.
fn accept(
    entry: LibraryEntry,
    allow_panic_abort: bool,
    library: &Path,
) -> Result<LibraryEntry, Reason> {
    let library = library.to_owned();
    if entry.abi_major != EXT_ABI_MAJOR {
        return Err(Reason::AbiMajor {
            library,
            built_for: entry.abi_major,
            host: EXT_ABI_MAJOR,
            sdk: entry.sdk,
        });
    }
    if entry.needs_minor > EXT_ABI_MINOR {
        let (needs, host) = (
            (EXT_ABI_MAJOR, entry.needs_minor),
            (EXT_ABI_MAJOR, EXT_ABI_MINOR),
        );
        return Err(Reason::AbiMinor {
            library,
            needs,
            host,
            sdk: entry.sdk,
        });
    }
    if entry.panics_abort() && !allow_panic_abort {
        return Err(Reason::PanicAbort { library });
    }
    Ok(entry)
}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::process::Command;
    use std::sync::LazyLock;
    use std::{env, process};

    use super::super::entry::{ENTRY_BYTES_MIN, decode};
    use super::super::file::find_in_image;
    use super::*;

    const HEAD: &str = "
        typedef struct { unsigned long long magic; unsigned size, major, minor, needs, flags, reserved; char sdk[32]; void *hooks[4]; } entry;
        static void hook(void) {}
        #define ENTRY(magic, size, major, needs, flags) \\
            const entry extension_entry_v1 = { magic, size, major, 0, needs, flags, 0, \"gate test 1.0\", { (void *)hook, (void *)hook } };
        #define MAGIC 0x3154534f48545845ULL
    ";

    /// Compiles a library whose entry is made by the line.
    fn library(name: &str, line: &str, flags: &[&str]) -> PathBuf {
        let folder = env::temp_dir().join(format!("extension-host-gate-{}", process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (source, library) = (
            folder.join(format!("{name}.c")),
            folder.join(format!("{name}.so")),
        );
        fs::write(&source, format!("{}\n{line}\n", HEAD.replace("\\\\", "\\"))).unwrap();
        let done = Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(&source)
            .args(flags)
            .status()
            .unwrap();
        assert!(done.success());
        library
    }

    static GOOD: LazyLock<PathBuf> =
        LazyLock::new(|| library("good", "ENTRY(MAGIC, sizeof(entry), 1, 0, 2)", &["-g"]));

    fn refused(name: &str, line: &str) -> Reason {
        check(&library(name, line, &[]), false).unwrap_err()
    }

    #[test]
    fn a_good_library_passes() {
        let entry = check(&GOOD, false).unwrap();
        assert_eq!(
            entry,
            LibraryEntry {
                abi_major: 1,
                abi_minor: 0,
                needs_minor: 0,
                flags: 2,
                sdk: "gate test 1.0".into(),
                facts: entry.facts.clone(),
            }
        );
        assert!(entry.owns_threads() && !entry.panics_abort());
        let stripped = library(
            "stripped",
            "ENTRY(MAGIC, sizeof(entry), 1, 0, 0)",
            &["-s", "-Wl,-z,relro,-z,now"],
        );
        check(&stripped, false).unwrap();
        let larger = library("larger", "ENTRY(MAGIC, sizeof(entry) + 64, 1, 0, 0)", &[]);
        check(&larger, false).unwrap();
    }

    #[test]
    fn a_library_without_section_headers_passes() {
        let mut bytes = fs::read(&*GOOD).unwrap();
        // As sstrip does: e_shoff, e_shnum and e_shstrndx are zero.
        bytes[0x28..0x30].fill(0);
        bytes[0x3c..0x40].fill(0);
        let path = GOOD.with_file_name("sstripped.so");
        fs::write(&path, &bytes).unwrap();
        assert_eq!(check(&path, false).unwrap(), check(&GOOD, false).unwrap());
        let sysv = "-Wl,--hash-style=sysv";
        let sysv = library("sysv", "ENTRY(MAGIC, sizeof(entry), 1, 0, 2)", &[sysv]);
        check(&sysv, false).unwrap();
    }

    #[test]
    fn what_hinders_a_reload_is_seen() {
        let facts = |name, line, flags: &[&str]| {
            let line = format!("ENTRY(MAGIC, sizeof(entry), 1, 0, 0)\n{line}");
            check(&library(name, &line, flags), false).unwrap().facts
        };
        let plain = facts("plain", "", &[]);
        assert!(plain.warnings().is_empty() && !plain.looks_beside);
        let unique = facts(
            "unique",
            "__asm__(\".data\\n.globl shared\\n.type shared, @gnu_unique_object\\n.size shared, 4\\nshared: .long 1\\n.text\");",
            &[],
        );
        assert_eq!(unique.unique_symbol.as_deref(), Some("shared"));
        let tls = "__attribute__((tls_model(\"initial-exec\"))) __thread int x; int get(void) { return x; }";
        assert!(facts("tls", tls, &[]).has_static_tls);
        let beside = facts(
            "beside",
            "",
            &["-Wl,-rpath,$ORIGIN/lib", "-Wl,--no-as-needed", "-lm"],
        );
        assert!(beside.looks_beside);
        assert!(
            beside.needed.iter().any(|name| name == "libm.so.6"),
            "{beside:?}"
        );
    }

    #[test]
    fn one_that_is_far_too_large_is_not_read() {
        let path = GOOD.with_file_name("large.so");
        let file = fs::File::create(&path).unwrap();
        file.set_len(100 << 30).unwrap();
        assert!(matches!(check(&path, false), Err(Reason::TooLarge { .. })));
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn each_mismatch_has_its_own_reason() {
        assert!(matches!(refused("none", "int x;"), Reason::NoEntry { .. }));
        assert!(matches!(
            refused(
                "undefined",
                "extern entry extension_entry_v1; void *x = &extension_entry_v1;"
            ),
            Reason::NoEntry { .. }
        ));
        assert!(matches!(
            refused(
                "hidden",
                "__attribute__((visibility(\"hidden\"))) ENTRY(MAGIC, sizeof(entry), 1, 0, 0)"
            ),
            Reason::NoEntry { .. }
        ));
        assert!(matches!(
            refused("magic", "ENTRY(1, sizeof(entry), 1, 0, 0)"),
            Reason::BadMagic { .. }
        ));
        assert!(matches!(
            refused("zeros", "entry extension_entry_v1;"),
            Reason::BadMagic { .. }
        ));
        assert!(matches!(
            refused("major", "ENTRY(MAGIC, 8, 2, 0, 0)"),
            Reason::AbiMajor {
                built_for: 2,
                host: 1,
                ..
            }
        ));
        assert!(matches!(
            refused("minor", "ENTRY(MAGIC, sizeof(entry), 1, 7, 0)"),
            Reason::AbiMinor { needs: (1, 7), .. }
        ));
        assert!(matches!(
            refused("small", "ENTRY(MAGIC, 95, 1, 0, 0)"),
            Reason::EntryTooSmall { found: 95, .. }
        ));
        assert!(matches!(
            refused("abort", "ENTRY(MAGIC, sizeof(entry), 1, 0, 1)"),
            Reason::PanicAbort { .. }
        ));
        let allowed = library("allowed", "ENTRY(MAGIC, sizeof(entry), 1, 0, 1)", &[]);
        assert!(check(&allowed, true).unwrap().panics_abort());
    }

    #[test]
    fn what_is_no_library_is_said_to_be_none() {
        let folder = GOOD.parent().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            fs::write(folder.join(name), bytes).unwrap();
            check(&folder.join(name), false).unwrap_err()
        };
        assert!(
            write("text.so", b"hello, this is not a library")
                .to_string()
                .contains("a file of another kind")
        );
        assert!(write("empty.so", b"").to_string().contains("an empty file"));
        assert!(
            write("archive.so", b"!<arch>\nxxxxxxxxxxxxxxx")
                .to_string()
                .contains("a static library")
        );
        assert!(
            check(folder, false)
                .unwrap_err()
                .to_string()
                .contains("a folder")
        );
        assert!(matches!(
            check(&folder.join("gone.so"), false),
            Err(Reason::Unreadable { .. })
        ));
        let good = fs::read(&*GOOD).unwrap();
        assert!(
            write("half.so", &good[..good.len() / 2])
                .to_string()
                .contains("damaged")
        );
    }

    #[test]
    fn another_system_is_named_beside_this_one() {
        let mut bytes = fs::read(&*GOOD).unwrap();
        let other: u8 = if cfg!(target_arch = "aarch64") {
            62
        } else {
            183
        };
        bytes[18] = other;
        let path = GOOD.with_file_name("other.so");
        fs::write(&path, &bytes).unwrap();
        let sentence = check(&path, false).unwrap_err().to_string();
        assert!(
            sentence.contains(&format!("this host runs on Linux on {}", env::consts::ARCH)),
            "{sentence}"
        );
        assert!(sentence.contains("built for Linux on "), "{sentence}");
    }

    #[test]
    fn both_parsers_find_the_same_entry() {
        let good = fs::read(&*GOOD).unwrap();
        let by_hand = find_entry(good.as_slice(), HOST).ok().unwrap();
        let general = find_in_image(good.as_slice(), HOST).ok().unwrap();
        assert_eq!(by_hand.entry, general.entry);
        assert_eq!(by_hand.entry.len(), ENTRY_BYTES_MIN);
    }

    #[test]
    fn damaged_files_are_refused_and_never_panic() {
        let good = fs::read(&*GOOD).unwrap();
        let judge = |bytes: &[u8]| {
            find_entry(bytes, HOST)
                .map_err(|fault| fault.about(&GOOD))
                .and_then(|found| decode(found.entry, &GOOD))
        };
        for length in (0..good.len()).step_by(7) {
            let _ = judge(&good[..length]);
        }
        // A linear congruential generator: the same damage each time.
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = |below: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        // Damage where the structure is: the headers, the dynamic tables, the section headers.
        let mut bytes = good.clone();
        for _ in 0..20_000 {
            let mut undo = Vec::new();
            for _ in 0..1 + random(8) {
                let at = match random(3) {
                    0 => random(1024),
                    1 => good.len() - 1 - random(2600.min(good.len())),
                    _ => random(good.len()),
                };
                undo.push((at, bytes[at]));
                bytes[at] = if random(2) == 0 {
                    bytes[at] ^ (1 << random(8))
                } else {
                    [0, 0xff, 0x7f, 0x80][random(4)]
                };
            }
            let _ = judge(&bytes);
            let _ = find_in_image(bytes.as_slice(), HOST);
            for (at, byte) in undo.into_iter().rev() {
                bytes[at] = byte;
            }
        }
        assert_eq!(bytes, good);
    }
}
