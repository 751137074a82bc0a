//! `extension-host check FOLDER`: loads one extension as the host would, says what it is, and drives it as a hostile world
//! would.
//!
//! The extension is loaded by a process of its own ([`subject`]), through the host's own code and served over real sockets;
//! this one is the world around it: the clients ([`drive`]) and what its outgoing calls reach ([`stand_in`]). What the host
//! notices inside is told by [`breach`](crate::runtime::contract_checks).

mod client;
pub mod drive;
pub mod stand_in;
pub mod subject;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{fmt, io};

use extension_api::abi::{EXT_ABI_MAJOR, EXT_ABI_MINOR};
use serde::Serialize;
use serde_json::{Value, json};

use self::drive::Finding;
use self::subject::Served;
use crate::config::Config;
use crate::extension::Reason;
use crate::extension::discovery::{self, Discovered};
use crate::extension::gate;
use crate::extension::manifest::{Allow, Manifest};
use crate::platform::env::Env;
use crate::platform::error_chain::error_chain;

/// How a check is asked for.
pub struct Asked<'a> {
    /// The extension's folder.
    pub folder: &'a Path,
    /// Whether it is told as JSON.
    pub json: bool,
    /// Whether the log of the host that is checked with is shown.
    pub log: bool,
    /// The options of this call that say where settings come from.
    pub files: Vec<std::ffi::OsString>,
}

/// Why nothing was checked.
#[derive(Debug)]
pub enum CheckError {
    /// There is no such folder.
    NoFolder(PathBuf),
    /// The process that loads the extension cannot be run.
    Process(io::Error),
    /// It did something else than it was asked for.
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

/// What there is to say of an extension.
#[derive(Serialize)]
struct Report {
    folder: String,
    name: String,
    version: String,
    library: Option<PathBuf>,
    /// The ABI that it was built with, that it needs, and that this host speaks.
    abi: Option<Abi>,
    variables: Vec<Variable>,
    calls_to: Vec<String>,
    ids: Vec<String>,
    routes: Vec<Value>,
    /// Why it cannot be loaded.
    error: Option<Value>,
    requests: usize,
    calls: usize,
    findings: Vec<Value>,
    sound: bool,
}

#[derive(Serialize)]
struct Abi {
    built_with: String,
    needs: String,
    host: String,
    sdk: String,
}

#[derive(Serialize)]
struct Variable {
    name: String,
    required: bool,
    set: bool,
}

/// Checks an extension and prints what was found: 0 where it is sound, 1 where there are findings, 2 where it cannot be loaded.
///
/// # Errors
/// Where the check itself cannot be made.
pub fn run(
    asked: &Asked<'_>,
    config: &Config,
    env: &Env,
) -> Result<ExitCode, Box<dyn std::error::Error>> {
    if !asked.folder.is_dir() {
        return Err(CheckError::NoFolder(asked.folder.to_owned()).into());
    }
    let mut report = outside(asked.folder, config, env);
    if !asked.json {
        print!("{}", report.head());
    }
    if report.error.is_none() {
        let driven = drive::run(asked)?;
        report.routes = driven.routes.iter().map(route).collect();
        report.ids = driven.routes.iter().map(|route| route.id.clone()).collect();
        report.ids.dedup();
        report.requests = driven.requests;
        report.calls = driven.calls;
        report.error = driven
            .refused
            .map(|(code, message)| json!({"code": code, "message": message}));
        report.findings = driven.findings.iter().map(finding).collect();
        if !asked.json {
            print!("{}", inside(&report, &driven.routes, &driven.findings));
        }
    }
    report.sound = report.error.is_none() && report.findings.is_empty();
    if asked.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else if let Some(error) = &report.error {
        println!(
            "\nNOT LOADED  {}",
            error["message"].as_str().unwrap_or_default()
        );
    }
    Ok(ExitCode::from(match (&report.error, report.sound) {
        (Some(_), _) => 2,
        (None, false) => 1,
        (None, true) => 0,
    }))
}

/// What is seen of an extension without loading it.
fn outside(folder: &Path, config: &Config, env: &Env) -> Report {
    let mut report = Report {
        folder: subject::name_of(folder),
        name: String::new(),
        version: String::new(),
        library: None,
        abi: None,
        variables: Vec::new(),
        calls_to: Vec::new(),
        ids: Vec::new(),
        routes: Vec::new(),
        error: None,
        requests: 0,
        calls: 0,
        findings: Vec::new(),
        sound: false,
    };
    let name = report.folder.clone();
    let said = |reason: Reason| {
        let error = reason.of(&name);
        json!({"code": error.code(), "message": error_chain(&error)})
    };
    let Discovered { manifest, library } = match discovery::examine(folder) {
        Ok(discovered) => discovered,
        Err(reason) => {
            report.error = Some(said(reason));
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
            report.abi = Some(Abi {
                built_with: format!("{}.{}", entry.abi_major, entry.abi_minor),
                needs: format!("{}.{}", entry.abi_major, entry.needs_minor),
                host: format!("{EXT_ABI_MAJOR}.{EXT_ABI_MINOR}"),
                sdk: entry.sdk,
            })
        }
        Err(reason) => report.error = Some(said(reason)),
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
        // The value may hold more than an origin; no more than that is shown.
        Allow::Variable(name) => {
            let origin = env
                .get(name)
                .and_then(crate::upstream::origin::Origin::of_url);
            match origin {
                Some(origin) => format!("${name} ({origin})"),
                None => format!("${name} (not set)"),
            }
        }
    }
}

fn route(route: &Served) -> Value {
    json!({
        "id": route.id,
        "method": route.method.as_deref().unwrap_or("*"),
        "pattern": route.pattern,
        "blocking": route.blocking,
    })
}

fn finding(finding: &Finding) -> Value {
    json!({
        "rule": finding.rule.id(),
        "header": finding.rule.header(),
        "seen": finding.seen,
        "count": finding.count,
        "during": finding.during,
        "remedy": finding.rule.remedy(),
    })
}

impl Report {
    fn head(&self) -> String {
        let mut text = self.folder.clone();
        if !self.version.is_empty() {
            text.push_str(&format!(" {}", self.version));
        }
        text.push('\n');
        let mut line = |name: &str, value: &str| text.push_str(&format!("  {name:<10}{value}\n"));
        if let Some(library) = &self.library {
            line("library", &library.display().to_string());
        }
        if let Some(abi) = &self.abi {
            let sdk = if abi.sdk.is_empty() {
                "an unnamed SDK"
            } else {
                &abi.sdk
            };
            let said = format!(
                "built with {} ({sdk}), needs {}; this host speaks {}",
                abi.built_with, abi.needs, abi.host
            );
            line("ABI", &said);
        }
        for (number, variable) in self.variables.iter().enumerate() {
            let name = if number == 0 { "variables" } else { "" };
            let kind = if variable.required {
                "required"
            } else {
                "optional"
            };
            let state = match (variable.set, variable.required) {
                (true, _) => "set",
                (false, true) => "NOT SET",
                (false, false) => "not set",
            };
            line(name, &format!("{} ({kind}): {state}", variable.name));
        }
        if !self.calls_to.is_empty() {
            line("calls to", &self.calls_to.join(", "));
        }
        text
    }
}

fn inside(report: &Report, routes: &[Served], findings: &[Finding]) -> String {
    let mut text = String::new();
    for (number, route) in routes.iter().enumerate() {
        let name = if number == 0 { "routes" } else { "" };
        let method = route.method.as_deref().unwrap_or("*");
        let blocking = if route.blocking { " (blocking)" } else { "" };
        let line = format!("{method:<7} /{}{}{blocking}", route.id, route.pattern);
        text.push_str(&format!("  {name:<10}{line}\n"));
    }
    if report.error.is_some() {
        return text;
    }
    text.push_str(&format!(
        "\n{} requests were made. {} outgoing calls were answered by a stand-in on this machine: nothing that the extension calls was reached.\n",
        report.requests, report.calls
    ));
    for finding in findings {
        text.push_str(&format!(
            "\nFINDING   {}\n  the header  {:?}\n  seen        {}{}\n  first while {}\n  what to do  {}\n",
            finding.rule.id(),
            finding.rule.header(),
            finding.seen.join("\n              "),
            if finding.count > 1 { format!(" ({} times)", finding.count) } else { String::new() },
            finding.during,
            finding.rule.remedy(),
        ));
    }
    text.push_str(&match findings.len() {
        0 => "\nsound: no rule of extension_api.h was seen broken\n".to_owned(),
        1 => "\n1 finding\n".to_owned(),
        count => format!("\n{count} findings\n"),
    });
    text
}
