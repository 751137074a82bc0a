//! `extension-host check FOLDER`: inspects an extension, drives it, prints the report.

use std::process::ExitCode;

use serde_json::json;

use super::error::CheckError;
use super::options::CheckOptions;
use super::{drive, inspect, report};
use crate::config::Config;
use crate::platform::env::Env;
use crate::runtime::contract_checks::Rule;

/// Checks an extension and prints what was found: 0 where it is sound, 1 where there are findings, 2 where it cannot be loaded.
///
/// # Errors
/// Where the check itself cannot be made.
pub fn run(
    options: &CheckOptions<'_>,
    config: &Config,
    env: &Env,
) -> Result<ExitCode, Box<dyn std::error::Error>> {
    if !options.folder.is_dir() {
        return Err(CheckError::NoFolder(options.folder.to_owned()).into());
    }
    let mut report = inspect::outside(options.folder, config, env);
    if !options.json {
        print!("{}", report.head());
    }
    if report.error.is_none() {
        let mut result = drive::run(options)?;
        if let Some(symbol) = &report.unique_symbol {
            let seen = format!("the symbol {symbol} is STB_GNU_UNIQUE");
            result.find(Rule::OwnStatics, seen, "its file was read");
        }
        report.routes = result.routes.iter().map(report::route).collect();
        report.ids = result.routes.iter().map(|route| route.id.clone()).collect();
        report.ids.dedup();
        report.requests = result.requests;
        report.calls = result.calls;
        report.ended_while = result.ended_while;
        report.error = result
            .refused
            .map(|(code, message)| json!({"code": code, "message": message}));
        report.findings = result.findings.iter().map(report::finding).collect();
        if !options.json {
            print!(
                "{}",
                report::inside(&report, &result.routes, &result.findings)
            );
        }
    }
    report.sound = report.error.is_none() && report.findings.is_empty();
    if options.json {
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
