//! Why the server does not run.

use std::path::PathBuf;
use std::{fmt, io};

use crate::extension::catalog::CopiesError;

/// Why the server does not run.
#[derive(Debug)]
pub enum ServeError {
    /// The extensions folder cannot be read.
    Extensions(PathBuf, io::Error),
    /// An extension was refused, and the operator wants all of them.
    MustLoad(usize),
    /// The server before serves extensions that this one refuses.
    Lost(Vec<String>),
    /// The folder for private copies cannot be made.
    Copies(CopiesError),
    /// The event loop failed.
    Run(io::Error),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Extensions(path, _) => {
                write!(
                    f,
                    "cannot read the extensions folder {}; create it, or set extensions_path",
                    path.display()
                )
            }
            Self::MustLoad(1) => f.write_str("an extension was refused, and must_load is set"),
            Self::MustLoad(count) => {
                write!(f, "{count} extensions were refused, and must_load is set")
            }
            Self::Lost(names) => write!(
                f,
                "the server that is to be replaced serves {}, refused here; fix it, or remove its folder, and try again",
                names.join(", ")
            ),
            Self::Copies(error) => error.fmt(f),
            Self::Run(_) => f.write_str("the server ended"),
        }
    }
}

impl std::error::Error for ServeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Extensions(_, cause) | Self::Run(cause) => Some(cause),
            Self::Copies(error) => error.source(),
            Self::MustLoad(_) | Self::Lost(_) => None,
        }
    }
}
