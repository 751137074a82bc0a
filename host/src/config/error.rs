//! Why there is no configuration, as sentences for operators.

use std::path::PathBuf;
use std::{fmt, io};

use super::document::DocumentError;
use crate::platform::env::EnvError;

/// Why there is no configuration.
#[derive(Debug)]
pub enum ConfigError {
    /// A file that must be there cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The configuration file is not understood.
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and where.
        source: DocumentError,
    },
    /// The `.env` file is of no use.
    Env(EnvError),
    /// The value of a variable is not understood.
    Variable {
        /// Its name.
        variable: &'static str,
        /// What is wrong with its value.
        problem: String,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::Unreadable { path, .. } | ConfigError::Malformed { path, .. } => {
                write!(f, "cannot read {}", path.display())
            }
            ConfigError::Env(error) => error.fmt(f),
            ConfigError::Variable { variable, problem } => {
                write!(f, "cannot use environment variable {variable}: {problem}")
            }
        }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ConfigError::Unreadable { source, .. } => Some(source),
            ConfigError::Malformed { source, .. } => Some(source),
            ConfigError::Env(error) => error.source(),
            ConfigError::Variable { .. } => None,
        }
    }
}
