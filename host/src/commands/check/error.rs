//! Why nothing was checked.

use std::path::PathBuf;
use std::{fmt, io};

/// Why nothing was checked.
#[derive(Debug)]
pub enum CheckError {
    /// There is no such folder.
    NoFolder(PathBuf),
    /// The process that loads the extension cannot be run.
    Process(io::Error),
    /// It did not do what it was ordered to.
    Lost(String),
}

impl fmt::Display for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFolder(folder) => write!(
                f,
                "there is no folder {}; name the one that holds the extension.toml",
                folder.display()
            ),
            Self::Process(_) => f.write_str("cannot start the process that loads the extension"),
            Self::Lost(what) => write!(f, "the process that loads the extension {what}"),
        }
    }
}

impl std::error::Error for CheckError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Process(cause) => Some(cause),
            Self::NoFolder(_) | Self::Lost(_) => None,
        }
    }
}
