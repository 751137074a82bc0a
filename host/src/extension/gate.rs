//! The gate: decides from the library's file alone whether it may be loaded. Not a line of it has run then.
//!
//! The file is parsed as what it is (ELF, Mach-O, PE), the symbol `extension_entry_v1` is followed to its bytes, and their
//! fields are compared. Only the parts that are needed are read, so that a folder of a thousand large libraries opens
//! quickly. Nothing here trusts the file: a damaged one is an answer, never a panic.

use std::fs::{self, File};
use std::path::Path;

use object::elf::{FileHeader32, FileHeader64, SHT_DYNSYM, STT_NOTYPE, STT_OBJECT};
use object::read::elf::{FileHeader, ProgramHeader as _, SectionHeader as _, Sym as _};
use object::read::macho::{FatArch, MachOFatFile32, MachOFatFile64};
use object::read::{
    Error as ParseError, ExportTarget, FileKind, NameOrOrdinal, ReadCache, ReadRef,
};
use object::{Architecture, BinaryFormat, Endianness, Object as _, ObjectSegment as _};

use super::error::Reason;

/// The major version of the ABI that this host speaks.
pub const ABI_MAJOR: u32 = 1;
/// The minor version of the ABI that this host speaks.
pub const ABI_MINOR: u32 = 0;

/// The name of the exported entry.
pub const ENTRY_SYMBOL: &str = "extension_entry_v1";

/// EXT_MAGIC of extension_api.h.
const MAGIC: u64 = 0x3154_534f_4854_5845;
/// EXT_ENTRY_PANIC_ABORT of extension_api.h.
const PANIC_ABORT: u32 = 1;
/// EXT_ENTRY_OWNS_THREADS of extension_api.h.
const OWNS_THREADS: u32 = 2;

/// The bytes of the entry before its hooks.
const HEAD_BYTES: usize = 64;
/// The size of the whole entry of version 1.0, four hooks included: what lies beyond came later.
const ENTRY_BYTES_MIN: usize = HEAD_BYTES + 4 * size_of::<usize>();

/// What a library says about itself in its entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The ABI that it was built for.
    pub abi_major: u32,
    /// The minor version of the header that it was built with; for messages only.
    pub abi_minor: u32,
    /// The least minor version that it cannot do without.
    pub needs_minor: u32,
    /// All its flags, unknown ones included.
    pub flags: u32,
    /// What it was built with; for messages only.
    pub sdk: String,
}

impl Entry {
    /// Whether a panic in it ends the process.
    pub fn panics_abort(&self) -> bool {
        self.flags & PANIC_ABORT != 0
    }

    /// Whether it starts threads of its own.
    pub fn owns_threads(&self) -> bool {
        self.flags & OWNS_THREADS != 0
    }
}

/// Reads the entry from the library's file and decides whether this host can load it.
///
/// # Errors
/// Says what keeps the library from being loaded, both sides of a mismatch and what to do about it.
pub fn check(library: &Path, allow_panic_abort: bool) -> Result<Entry, Reason> {
    check_file(library)?;
    let file = File::open(library).map_err(|error| Reason::unreadable(library, error))?;
    check_copy(file, library, allow_panic_abort)
}

/// Whether it is a file at all. Before it is opened: a named pipe would keep the host waiting.
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
    Ok(())
}

/// Like [`check`], of a copy; messages name the `library` that the operator knows.
///
/// # Errors
/// As [`check`].
pub fn check_copy(copy: File, library: &Path, allow_panic_abort: bool) -> Result<Entry, Reason> {
    let data = ReadCache::new(copy);
    let found = find_entry(&data, HOST).map_err(|fault| fault.about(library))?;
    let entry = decode(found, library)?;
    accept(entry, allow_panic_abort, library)
}

/// Compares the entry with what this host speaks.
fn accept(entry: Entry, allow_panic_abort: bool, library: &Path) -> Result<Entry, Reason> {
    let library = library.to_owned();
    if entry.abi_major != ABI_MAJOR {
        return Err(Reason::AbiMajor {
            library,
            built_for: entry.abi_major,
            host: ABI_MAJOR,
            sdk: entry.sdk,
        });
    }
    if entry.needs_minor > ABI_MINOR {
        let (needs, host) = ((ABI_MAJOR, entry.needs_minor), (ABI_MAJOR, ABI_MINOR));
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

/// Reads the fields by their offsets in `ext_entry`. The major version is not looked at, but for where it decides whether
/// the rest can be read: the head is the same in every version, the size is that of this one.
fn decode(bytes: &[u8], library: &Path) -> Result<Entry, Reason> {
    let number = |at: usize| {
        bytes
            .get(at..at + 4)
            .and_then(|bytes| Some(u32::from_ne_bytes(bytes.try_into().ok()?)))
    };
    let magic = bytes
        .get(..8)
        .and_then(|bytes| Some(u64::from_ne_bytes(bytes.try_into().ok()?)));
    if magic != Some(MAGIC) {
        return Err(Reason::BadMagic {
            library: library.to_owned(),
        });
    }
    let stated = number(8).unwrap_or(0);
    let too_small = |found| Reason::EntryTooSmall {
        library: library.to_owned(),
        found,
        least: ENTRY_BYTES_MIN as u32,
    };
    let (Some(abi_major), Some(abi_minor), Some(needs_minor), Some(flags), Some(sdk)) = (
        number(12),
        number(16),
        number(20),
        number(24),
        bytes.get(32..HEAD_BYTES),
    ) else {
        return Err(too_small(bytes.len() as u32));
    };
    // What another major version puts behind the head is not for this one to judge.
    let whole = stated.min(bytes.len() as u32);
    if abi_major == ABI_MAJOR && (whole as usize) < ENTRY_BYTES_MIN {
        return Err(too_small(whole));
    }
    let sdk = sdk.split(|byte| *byte == 0).next().unwrap_or_default();
    let sdk = String::from_utf8_lossy(sdk)
        .chars()
        .filter(|char| !char.is_control())
        .collect();
    Ok(Entry {
        abi_major,
        abi_minor,
        needs_minor,
        flags,
        sdk,
    })
}

/// A processor, and how the bytes of a number are ordered on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct System {
    format: BinaryFormat,
    architecture: Architecture,
    little_endian: bool,
}

/// What this host runs on.
const HOST: System = System {
    format: if cfg!(windows) {
        BinaryFormat::Pe
    } else if cfg!(target_vendor = "apple") {
        BinaryFormat::MachO
    } else {
        BinaryFormat::Elf
    },
    architecture: if cfg!(target_arch = "x86_64") {
        Architecture::X86_64
    } else if cfg!(target_arch = "aarch64") {
        Architecture::Aarch64
    } else if cfg!(target_arch = "x86") {
        Architecture::I386
    } else if cfg!(target_arch = "arm") {
        Architecture::Arm
    } else if cfg!(target_arch = "riscv64") {
        Architecture::Riscv64
    } else if cfg!(target_arch = "powerpc64") {
        Architecture::PowerPc64
    } else if cfg!(target_arch = "s390x") {
        Architecture::S390x
    } else if cfg!(target_arch = "loongarch64") {
        Architecture::LoongArch64
    } else {
        Architecture::Unknown
    },
    little_endian: cfg!(target_endian = "little"),
};

impl System {
    /// As people say it: "Linux on aarch64".
    fn name(self) -> String {
        let format = match self.format {
            BinaryFormat::Elf if cfg!(target_os = "linux") => "Linux",
            BinaryFormat::Elf => "Unix (ELF)",
            BinaryFormat::MachO => "macOS",
            BinaryFormat::Pe | BinaryFormat::Coff => "Windows",
            _ => "another system",
        };
        let architecture = match self.architecture {
            Architecture::Unknown => "another processor".to_owned(),
            architecture => format!("{architecture:?}").to_lowercase(),
        };
        let order = if self.little_endian {
            ""
        } else {
            ", big-endian"
        };
        format!("{format} on {architecture}{order}")
    }

    /// Whether a library for the other system runs on this one.
    fn runs(self, other: System) -> bool {
        // A host on a processor that is not in the list cannot name it, and leaves the decision to the loader.
        let architecture =
            self.architecture == other.architecture || self.architecture == Architecture::Unknown;
        self.format == other.format && architecture && self.little_endian == other.little_endian
    }
}

/// Why there is no entry to look at.
enum Fault {
    NotALibrary(String),
    WrongSystem { built_for: System, host: System },
    NoEntry,
}

impl Fault {
    fn about(self, library: &Path) -> Reason {
        match self {
            Fault::NotALibrary(found) => not_a_library(library, &found),
            Fault::WrongSystem { built_for, host } => Reason::WrongArchitecture {
                library: library.to_owned(),
                built_for: built_for.name(),
                host: host.name(),
            },
            Fault::NoEntry => Reason::NoEntry {
                library: library.to_owned(),
            },
        }
    }
}

impl From<ParseError> for Fault {
    fn from(error: ParseError) -> Fault {
        Fault::NotALibrary(format!("damaged ({error})"))
    }
}

fn not_a_library(library: &Path, found: &str) -> Reason {
    Reason::NotALibrary {
        library: library.to_owned(),
        found: found.to_owned(),
    }
}

/// Finds the bytes of the entry: at most as many as version 1.0 knows, fewer where the file holds fewer.
fn find_entry<'data, R: ReadRef<'data>>(data: R, host: System) -> Result<&'data [u8], Fault> {
    let Ok(kind) = FileKind::parse(data) else {
        let empty = data.len().is_ok_and(|length| length == 0);
        return Err(Fault::NotALibrary(
            if empty {
                "an empty file"
            } else {
                "a file of another kind"
            }
            .to_owned(),
        ));
    };
    match kind {
        FileKind::Elf32 => find_in_elf::<FileHeader32<Endianness>, R>(data, host),
        FileKind::Elf64 => find_in_elf::<FileHeader64<Endianness>, R>(data, host),
        FileKind::MachO32 | FileKind::MachO64 | FileKind::Pe32 | FileKind::Pe64 => {
            find_in_image(data, host)
        }
        FileKind::MachOFat32 => find_in_slices(MachOFatFile32::parse(data)?.arches(), data, host),
        FileKind::MachOFat64 => find_in_slices(MachOFatFile64::parse(data)?.arches(), data, host),
        FileKind::Archive => Err(Fault::NotALibrary("a static library".to_owned())),
        _ => Err(Fault::NotALibrary("a file of another kind".to_owned())),
    }
}

/// ELF by hand: the general parser would also read the symbol table for debuggers, which is much the larger one.
fn find_in_elf<'data, Elf, R>(data: R, host: System) -> Result<&'data [u8], Fault>
where
    Elf: FileHeader<Endian = Endianness>,
    R: ReadRef<'data>,
{
    let header = Elf::parse(data)?;
    let endian = header.endian()?;
    let machine = header.e_machine(endian);
    let built_for = System {
        format: BinaryFormat::Elf,
        architecture: elf_architecture(machine, header.is_class_64()),
        little_endian: header.is_little_endian(),
    };
    if !host.runs(built_for) {
        return Err(Fault::WrongSystem { built_for, host });
    }
    if header.e_type(endian) != object::elf::ET_DYN {
        return Err(Fault::NotALibrary("a program or an object file".to_owned()));
    }
    let sections = header.section_headers(endian, data)?;
    let Some(table) = sections
        .iter()
        .find(|section| section.sh_type(endian) == SHT_DYNSYM)
    else {
        return Err(Fault::NoEntry);
    };
    let symbols: &[Elf::Sym] = table.data_as_array(endian, data)?;
    let names = match sections.get(table.sh_link(endian) as usize) {
        Some(section) => section.data(endian, data)?,
        None => {
            return Err(Fault::NotALibrary(
                "damaged (its symbols have no names)".to_owned(),
            ));
        }
    };
    let is_entry = |symbol: &&Elf::Sym| {
        let name = names
            .get(symbol.st_name(endian) as usize..)
            .and_then(|rest| rest.strip_prefix(ENTRY_SYMBOL.as_bytes()));
        name.is_some_and(|rest| rest.first() == Some(&0))
            && matches!(symbol.st_type(), STT_OBJECT | STT_NOTYPE)
            && !symbol.is_undefined(endian)
            && !symbol.is_local()
    };
    let address: u64 = symbols
        .iter()
        .find(is_entry)
        .ok_or(Fault::NoEntry)?
        .st_value(endian)
        .into();
    for segment in header.program_headers(endian, data)? {
        if segment.p_type(endian) != object::elf::PT_LOAD {
            continue;
        }
        let (start, size): (u64, u64) = (
            segment.p_vaddr(endian).into(),
            segment.p_filesz(endian).into(),
        );
        if let Some(within) = address.checked_sub(start).filter(|within| *within < size) {
            let offset: u64 = segment.p_offset(endian).into();
            return read_entry(data, offset.checked_add(within), size - within);
        }
    }
    // An entry of zeros alone has an address and no bytes in the file.
    Ok(&[])
}

fn read_entry<'data, R: ReadRef<'data>>(
    data: R,
    offset: Option<u64>,
    available: u64,
) -> Result<&'data [u8], Fault> {
    let bytes = offset.and_then(|offset| {
        data.read_bytes_at(offset, available.min(ENTRY_BYTES_MIN as u64))
            .ok()
    });
    bytes.ok_or_else(|| Fault::NotALibrary("damaged (a part of it is missing)".to_owned()))
}

fn elf_architecture(machine: object::elf::Machine, is_64: bool) -> Architecture {
    use object::elf;
    match (machine, is_64) {
        (elf::EM_X86_64, true) => Architecture::X86_64,
        (elf::EM_X86_64, false) => Architecture::X86_64_X32,
        (elf::EM_AARCH64, true) => Architecture::Aarch64,
        (elf::EM_386, false) => Architecture::I386,
        (elf::EM_ARM, false) => Architecture::Arm,
        (elf::EM_RISCV, true) => Architecture::Riscv64,
        (elf::EM_RISCV, false) => Architecture::Riscv32,
        (elf::EM_PPC64, true) => Architecture::PowerPc64,
        (elf::EM_S390, true) => Architecture::S390x,
        (elf::EM_LOONGARCH, true) => Architecture::LoongArch64,
        _ => Architecture::Unknown,
    }
}

/// Mach-O and PE, with the general parser.
fn find_in_image<'data, R: ReadRef<'data>>(data: R, host: System) -> Result<&'data [u8], Fault> {
    let image = object::File::parse(data)?;
    let built_for = System {
        format: image.format(),
        architecture: image.architecture(),
        little_endian: image.is_little_endian(),
    };
    if !host.runs(built_for) {
        return Err(Fault::WrongSystem { built_for, host });
    }
    let mut address = None;
    for export in image.exports()? {
        let export = export?;
        // Names in C begin with an underscore on macOS.
        let is_entry = matches!(export.name(), NameOrOrdinal::Name(name) if name.strip_prefix(b"_").unwrap_or(name) == ENTRY_SYMBOL.as_bytes());
        if let (true, ExportTarget::Address { address: found }) = (is_entry, export.target()) {
            address = Some(found);
            break;
        }
    }
    let address = address.ok_or(Fault::NoEntry)?;
    for segment in image.segments() {
        if let Some(within) = address.checked_sub(segment.address()) {
            let (start, size) = segment.file_range();
            if within < size {
                return read_entry(data, start.checked_add(within), size - within);
            }
        }
    }
    Ok(&[])
}

/// A universal library of macOS: the slice for this processor.
fn find_in_slices<'data, R: ReadRef<'data>, F: FatArch>(
    slices: &[F],
    data: R,
    host: System,
) -> Result<&'data [u8], Fault> {
    match slices
        .iter()
        .find(|slice| slice.architecture() == host.architecture)
    {
        Some(slice) => find_in_image(slice.data(data)?, host),
        None => {
            let architecture = slices
                .first()
                .map_or(Architecture::Unknown, FatArch::architecture);
            Err(Fault::WrongSystem {
                built_for: System {
                    format: BinaryFormat::MachO,
                    architecture,
                    little_endian: true,
                },
                host,
            })
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::path::PathBuf;
    use std::process::Command;
    use std::sync::LazyLock;
    use std::{env, process};

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
            Entry {
                abi_major: 1,
                abi_minor: 0,
                needs_minor: 0,
                flags: 2,
                sdk: "gate test 1.0".into()
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
        assert_eq!(by_hand, general);
        assert_eq!(by_hand.len(), ENTRY_BYTES_MIN);
    }

    #[test]
    fn damaged_files_are_refused_and_never_panic() {
        let good = fs::read(&*GOOD).unwrap();
        let judge = |bytes: &[u8]| {
            find_entry(bytes, HOST)
                .map_err(|fault| fault.about(&GOOD))
                .and_then(|found| decode(found, &GOOD))
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
