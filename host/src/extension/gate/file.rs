//! Where the bytes of the entry are in a library's file, be it ELF, Mach-O or PE.
//!
//! Only the parts that are needed are read, so that a folder of a thousand large libraries opens quickly.

use std::path::Path;

use object::elf::{FileHeader32, FileHeader64, STT_NOTYPE, STT_OBJECT, STV_DEFAULT, STV_PROTECTED};
use object::read::elf::{FileHeader, Sym as _};
use object::read::macho::{FatArch, MachOFatFile32, MachOFatFile64};
use object::read::{Error as ParseError, ExportTarget, FileKind, NameOrOrdinal, ReadRef};
use object::{Architecture, BinaryFormat, Endianness, Object as _, ObjectSegment as _};

use super::dynamic::Dynamic;
use super::entry::{ENTRY_BYTES_MIN, LibraryFacts};
use super::system::System;
use crate::extension::error::Reason;

/// The name of the exported entry.
const ENTRY_SYMBOL: &str = "extension_entry_v1";

/// What the gate looks for in a file.
#[derive(Debug, PartialEq, Eq)]
pub struct Found<'data> {
    /// The bytes of the entry: at most as many as version 1.0 knows, fewer where the file holds fewer.
    pub entry: &'data [u8],
    /// What else of it matters; of a format that this host does not load, nothing is known.
    pub facts: LibraryFacts,
}

impl<'data> Found<'data> {
    fn without_facts(entry: &'data [u8]) -> Self {
        let facts = LibraryFacts::default();
        Self { entry, facts }
    }
}

/// Finds the bytes of the entry, and what else of the library matters.
pub fn find_entry<'data, R: ReadRef<'data>>(data: R, host: System) -> Result<Found<'data>, Fault> {
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

/// ELF by hand, as the system's loader reads it: the general parser would also read the symbol table for debuggers, which is much
/// the larger one.
fn find_in_elf<'data, Elf, R>(data: R, host: System) -> Result<Found<'data>, Fault>
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
    // They are not used; where they are said to be there and are not, the file is not whole.
    header.section_headers(endian, data)?;
    let dynamic = Dynamic::parse(header, data)?;
    let symbols = dynamic.symbols()?;
    let is_entry = |symbol: &&Elf::Sym| {
        dynamic.name(symbol.st_name(endian).into()) == ENTRY_SYMBOL.as_bytes()
            && matches!(symbol.st_type(), STT_OBJECT | STT_NOTYPE)
            && !symbol.is_undefined(endian)
            && !symbol.is_local()
            && matches!(symbol.st_visibility(), STV_DEFAULT | STV_PROTECTED)
    };
    let entry = symbols.iter().find(is_entry).ok_or(Fault::NoEntry)?;
    let entry = match dynamic.offset(entry.st_value(endian).into()) {
        Some((offset, available)) => read_entry(data, Some(offset), available)?,
        // An entry of zeros alone has an address and no bytes in the file.
        None => &[],
    };
    let facts = dynamic.facts(symbols);
    Ok(Found { entry, facts })
}

/// Where in a library's file the names stand that it has, and that it needs; none in what is no ELF library.
pub fn library_names(data: &[u8]) -> Vec<(u64, String)> {
    fn in_elf<Elf: FileHeader<Endian = Endianness>>(data: &[u8]) -> Vec<(u64, String)> {
        // Err: it is for the loader to say what is wrong with it.
        let header = Elf::parse(data).ok();
        let dynamic = header.and_then(|header| Dynamic::parse(header, data).ok());
        dynamic.map_or(Vec::new(), |dynamic| dynamic.library_names())
    }
    match FileKind::parse(data) {
        Ok(FileKind::Elf32) => in_elf::<FileHeader32<Endianness>>(data),
        Ok(FileKind::Elf64) => in_elf::<FileHeader64<Endianness>>(data),
        _ => Vec::new(),
    }
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
pub(super) fn find_in_image<'data, R: ReadRef<'data>>(
    data: R,
    host: System,
) -> Result<Found<'data>, Fault> {
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
                let entry = read_entry(data, start.checked_add(within), size - within)?;
                return Ok(Found::without_facts(entry));
            }
        }
    }
    Ok(Found::without_facts(&[]))
}

/// A universal library of macOS: the slice for this processor.
fn find_in_slices<'data, R: ReadRef<'data>, F: FatArch>(
    slices: &[F],
    data: R,
    host: System,
) -> Result<Found<'data>, Fault> {
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

/// Why there is no entry to look at.
pub enum Fault {
    /// The file is something else, or damaged.
    NotALibrary(String),
    /// It is for another system.
    WrongSystem {
        /// Which.
        built_for: System,
        /// This one.
        host: System,
    },
    /// It exports no entry.
    NoEntry,
}

impl Fault {
    /// Names the library that it is about.
    pub fn about(self, library: &Path) -> Reason {
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

/// The file is something else than a library.
pub fn not_a_library(library: &Path, found: &str) -> Reason {
    Reason::NotALibrary {
        library: library.to_owned(),
        found: found.to_owned(),
    }
}
