//! What a look at the extensions folder has changed, and how that is told: one log line each.

use std::sync::Arc;

use super::error::LoadError;
use super::loaded::Extension;
use super::registry::{Registry, ids};
use crate::platform::error_chain::error_chain;
use crate::platform::log::{self, Level};

/// What a look at the folder has changed.
pub struct Change {
    /// The extension's folder.
    pub folder: String,
    /// What happened.
    pub what: What,
}

/// What happened to an extension.
pub enum What {
    /// A new folder is served.
    Mounted(Arc<Extension>),
    /// A new build has taken the place of another.
    Reloaded(Arc<Extension>),
    /// A new build was refused; the one before it serves on.
    Kept(Arc<Extension>, Arc<LoadError>),
    /// It is not served.
    Refused(Arc<LoadError>),
    /// Its folder has gone, or it was switched off.
    Unmounted,
    /// It waits to be switched on, or the operator has switched it off.
    Off,
}

/// Writes what has changed: one line each.
pub fn report(changes: &[Change]) {
    for Change { folder, what } in changes {
        match what {
            What::Mounted(extension) => {
                let fields: [log::Field<'_>; 3] = [
                    ("id", &ids(extension)),
                    ("version", &extension.manifest.version),
                    ("folder", folder),
                ];
                log::event(Level::Info, "mounted an extension", &fields);
                warn(extension, folder);
            }
            What::Reloaded(extension) => {
                let fields: [log::Field<'_>; 4] = [
                    ("id", &ids(extension)),
                    ("version", &extension.manifest.version),
                    ("generation", &extension.generation),
                    ("folder", folder),
                ];
                log::event(Level::Info, "reloaded an extension", &fields);
                warn(extension, folder);
            }
            What::Kept(extension, error) => {
                let fields: [log::Field<'_>; 3] = [
                    ("code", &error.code()),
                    ("folder", folder),
                    ("serving_generation", &extension.generation),
                ];
                log::event(Level::Error, &error_chain(error.as_ref()), &fields);
            }
            What::Refused(error) => {
                log::event(
                    Level::Error,
                    &error_chain(error.as_ref()),
                    &[("code", &error.code()), ("folder", folder)],
                );
            }
            What::Unmounted => {
                log::event(Level::Info, "unmounted an extension", &[("folder", folder)])
            }
            What::Off => log::event(
                Level::Info,
                "an extension is switched off",
                &[("folder", folder)],
            ),
        }
    }
}

fn warn(extension: &Extension, folder: &str) {
    for warning in &extension.warnings {
        log::event(Level::Warn, warning, &[("folder", &folder)]);
    }
}

/// Writes which folders look like an extension's and are none.
pub fn report_passed_over(registry: &Registry) {
    for passed in &registry.passed_over {
        log::event(
            Level::Warn,
            "a folder was passed over",
            &[("folder", &passed.folder), ("why", &passed.why)],
        );
    }
}
