//! A system that a library can be for: the format of its files, its processor, the order of its bytes.

use object::{Architecture, BinaryFormat};

/// A format of libraries, a processor, and how the bytes of a number are ordered on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct System {
    pub format: BinaryFormat,
    pub architecture: Architecture,
    pub little_endian: bool,
}

/// What this host runs on.
pub const HOST: System = System {
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
    pub fn name(self) -> String {
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
    pub fn runs(self, other: System) -> bool {
        // A host on a processor that is not in the list cannot name it, and leaves the decision to the loader.
        let architecture =
            self.architecture == other.architecture || self.architecture == Architecture::Unknown;
        self.format == other.format && architecture && self.little_endian == other.little_endian
    }
}
