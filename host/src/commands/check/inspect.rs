//! What is seen of an extension without loading it: its manifest, its library's entry, the variables that it lacks.

use std::path::Path;

use extension_api::abi::{EXT_ABI_MAJOR, EXT_ABI_MINOR};
use serde_json::json;

use super::report::{Abi, Report, Variable};
use crate::config::Config;
use crate::extension::discovery::{self, Discovered};
use crate::extension::error::Reason;
use crate::extension::gate;
use crate::extension::manifest::{Allow, Manifest};
use crate::platform::env::Env;
use crate::platform::error_chain::error_chain;
use crate::upstream::origin::Origin;

/// What is seen of an extension without loading it.
pub fn outside(folder: &Path, config: &Config, env: &Env) -> Report {
    let mut report = Report {
        folder: discovery::folder_name(folder),
        name: String::new(),
        version: String::new(),
        library: None,
        abi: None,
        unique_symbol: None,
        variables: Vec::new(),
        calls_to: Vec::new(),
        ids: Vec::new(),
        routes: Vec::new(),
        error: None,
        requests: 0,
        calls: 0,
        ended_while: None,
        findings: Vec::new(),
        sound: false,
    };
    let name = report.folder.clone();
    let failure = |reason: Reason| {
        let error = reason.of(&name);
        json!({"code": error.code(), "message": error_chain(&error)})
    };
    let Discovered { manifest, library } = match discovery::examine(folder) {
        Ok(discovered) => discovered,
        Err(reason) => {
            report.error = Some(failure(reason));
            return report;
        }
    };
    report.variables = variables(&manifest, env);
    report.calls_to = manifest
        .fetch
        .allow
        .iter()
        .map(|allow| origin(allow, env))
        .collect();
    report.name = manifest.name;
    report.version = manifest.version;
    match gate::check(&library, config.allow_panic_abort) {
        Ok(entry) => {
            report.unique_symbol = entry.facts.unique_symbol;
            report.abi = Some(Abi {
                built_with: format!("{}.{}", entry.abi_major, entry.abi_minor),
                needs: format!("{}.{}", entry.abi_major, entry.needs_minor),
                host: format!("{EXT_ABI_MAJOR}.{EXT_ABI_MINOR}"),
                sdk: entry.sdk,
            })
        }
        Err(reason) => report.error = Some(failure(reason)),
    }
    report.library = Some(library);
    let missing: Vec<&str> = report
        .variables
        .iter()
        .filter(|variable| variable.required && !variable.set)
        .map(|variable| variable.name.as_str())
        .collect();
    if !missing.is_empty() && report.error.is_none() {
        let message = format!(
            "cannot start extension {:?}: not set: {}; set them in the environment or in {}",
            report.folder,
            missing.join(", "),
            config.env_file.display()
        );
        report.error = Some(json!({"code": "VARIABLE_MISSING", "message": message}));
    }
    report
}

fn variables(manifest: &Manifest, env: &Env) -> Vec<Variable> {
    let variable = |required| {
        move |name: &String| Variable {
            name: name.clone(),
            required,
            set: env.get(name).is_some(),
        }
    };
    let required = manifest.env.required.iter().map(variable(true));
    required
        .chain(manifest.env.optional.iter().map(variable(false)))
        .collect()
}

fn origin(allow: &Allow, env: &Env) -> String {
    match allow {
        Allow::Any => "anywhere".to_owned(),
        Allow::Origin(origin) => origin.to_string(),
        // The value may hold more than an origin, a password perhaps; only the origin is shown.
        Allow::Variable(name) => {
            let origin = env.get(name).and_then(Origin::of_url);
            match origin {
                Some(origin) => format!("${name} ({origin})"),
                None => format!("${name} (not set)"),
            }
        }
    }
}
