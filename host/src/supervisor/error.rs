//! Why nothing is supervised.

use std::{fmt, io};

use crate::platform::listen::ListenError;

/// Why nothing is supervised.
#[derive(Debug)]
pub enum SupervisorError {
    /// There is nothing to listen on.
    Listen(ListenError),
    /// The server's process cannot be started.
    Start(io::Error),
    /// Signals cannot be awaited.
    Run(io::Error),
}

impl fmt::Display for SupervisorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(error) => error.fmt(f),
            Self::Start(_) => f.write_str("cannot start the server's process"),
            Self::Run(_) => f.write_str("the supervisor cannot wait for signals"),
        }
    }
}

impl std::error::Error for SupervisorError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Listen(error) => error.source(),
            Self::Start(cause) | Self::Run(cause) => Some(cause),
        }
    }
}
