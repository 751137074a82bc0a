//! How a check is asked for.

use std::ffi::OsString;
use std::path::Path;

/// The options of a check.
pub struct CheckOptions<'a> {
    /// The extension's folder.
    pub folder: &'a Path,
    /// Whether the report is JSON.
    pub json: bool,
    /// Whether the log of the process that serves the extension is shown.
    pub log: bool,
    /// The command line's options that say where settings come from, for the process that serves the extension.
    pub files: Vec<OsString>,
}
