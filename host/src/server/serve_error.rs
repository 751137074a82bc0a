//! Why the server does not run.

use std::path::PathBuf;
use std::{fmt, io};

use crate::extension::catalog::CopiesError;
use crate::platform::sockets;

/// Why the server does not run.
#[derive(Debug)]
pub enum ServeError {
    /// The extensions folder cannot be read.
    Extensions(PathBuf, io::Error),
    /// An extension was refused, and the operator wants all of them.
    MustLoad(usize),
    /// The address cannot be bound.
    Bind(String, io::Error),
    /// Other processes listen there: "nginx (process 12)".
    InUse(String, Vec<String>, io::Error),
    /// The folder for private copies cannot be made.
    Copies(CopiesError),
    /// The event loop failed.
    Run(io::Error),
}

impl ServeError {
    /// An address cannot be bound. Where other processes listen there, they are named: one may be a child that an extension of the
    /// host before this one has left.
    pub fn bind(host: &str, port: u16, cause: io::Error) -> Self {
        let address = format!("{host}:{port}");
        let holders = match cause.kind() {
            io::ErrorKind::AddrInUse => sockets::listening_on(port),
            _ => Vec::new(),
        };
        match holders.is_empty() {
            true => Self::Bind(address, cause),
            false => Self::InUse(address, holders, cause),
        }
    }
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
            Self::Bind(address, cause) if cause.kind() == io::ErrorKind::AddrInUse => {
                write!(
                    f,
                    "cannot listen on {address}; stop what uses it, or choose another with --port"
                )
            }
            Self::InUse(address, holders, _) => write!(
                f,
                "cannot listen on {address}, where {} listens; end it, or choose another with --port",
                holders.join(" and ")
            ),
            Self::Bind(address, _) => write!(f, "cannot listen on {address}"),
            Self::Copies(error) => error.fmt(f),
            Self::Run(_) => f.write_str("the server ended"),
        }
    }
}

impl std::error::Error for ServeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Extensions(_, cause)
            | Self::Bind(_, cause)
            | Self::InUse(.., cause)
            | Self::Run(cause) => Some(cause),
            Self::Copies(error) => error.source(),
            Self::MustLoad(_) => None,
        }
    }
}
