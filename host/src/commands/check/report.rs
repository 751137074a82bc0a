//! What a check reports, for people and as JSON.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Value, json};

use super::protocol::ServedRoute;
use super::result::Finding;

/// What a check says about an extension.
#[derive(Serialize)]
pub struct Report {
    /// The name of the extension's folder.
    pub folder: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its library.
    pub library: Option<PathBuf>,
    /// The ABI that it was built with, that it needs, and that this host speaks.
    pub abi: Option<Abi>,
    /// The first of its statics that all builds share.
    #[serde(skip)]
    pub unique_symbol: Option<String>,
    /// The variables that it may read.
    pub variables: Vec<Variable>,
    /// The origins that it may call.
    pub calls_to: Vec<String>,
    /// The ids of its endpoints.
    pub ids: Vec<String>,
    /// Its routes.
    pub routes: Vec<Value>,
    /// Why it cannot be loaded.
    pub error: Option<Value>,
    /// How many requests were sent.
    pub requests: usize,
    /// How many outgoing calls it made.
    pub calls: usize,
    /// What was done when it ended the check; nothing after that is checked.
    pub ended_while: Option<String>,
    /// The rules that it broke.
    pub findings: Vec<Value>,
    /// Whether nothing was found.
    pub sound: bool,
}

/// The versions of the ABI.
#[derive(Serialize)]
pub struct Abi {
    /// The version that the library was built with.
    pub built_with: String,
    /// The version that the library needs.
    pub needs: String,
    /// The version that this host speaks.
    pub host: String,
    /// What the library was built with.
    pub sdk: String,
}

/// A variable of the environment.
#[derive(Serialize)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Whether the extension cannot do without it.
    pub required: bool,
    /// Whether it is set.
    pub set: bool,
}

/// A route as JSON.
pub fn route(route: &ServedRoute) -> Value {
    json!({
        "id": route.id,
        "method": route.method.as_deref().unwrap_or("*"),
        "pattern": route.pattern,
        "blocking": route.blocking,
    })
}

/// A finding as JSON.
pub fn finding(finding: &Finding) -> Value {
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
    /// What is known without loading it, for people.
    pub fn head(&self) -> String {
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

/// What was found by driving it, for people.
pub fn inside(report: &Report, routes: &[ServedRoute], findings: &[Finding]) -> String {
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
    let calls = match report.calls {
        0 => "It made no outgoing calls.".to_owned(),
        count => format!(
            "{count} outgoing calls were answered by a stand-in on this machine: nothing that the extension calls was reached."
        ),
    };
    text.push_str(&format!(
        "\n{} requests were made. {calls}\n",
        report.requests
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
    if let Some(during) = &report.ended_while {
        text.push_str(&format!(
            "\nNOT CHECKED  what comes after this: the extension ended the check while {during}\n"
        ));
    }
    text.push_str(&match findings.len() {
        0 => "\nsound: no rule of extension_api.h was seen broken\n".to_owned(),
        1 => "\n1 finding\n".to_owned(),
        count => format!("\n{count} findings\n"),
    });
    text
}
