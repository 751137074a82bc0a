//! `extension-host list`: what the extensions folder holds, mounted or refused with the reason.

use std::process::ExitCode;
use std::sync::Arc;

use serde_json::Value;

use crate::extension::loader::{self, Scope};
use crate::server::admin;
use crate::server::{Host, ServeError};

/// Loads every extension as the host would, prints what became of it, and lets it go again.
///
/// # Errors
/// Where the extensions folder cannot be read.
pub fn run(host: &Arc<Host>, json: bool) -> Result<ExitCode, Box<dyn std::error::Error>> {
    loader::update(&host.catalog, &Scope::Changed)
        .map_err(|cause| ServeError::Extensions(host.config.extensions_path.clone(), cause))?;
    let loaded = host.catalog.registry.load_full();
    let rows: Vec<Value> = loaded
        .entries
        .iter()
        .flat_map(|entry| admin::entry(host, entry))
        .collect();
    if json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        print!("{}", table(&rows));
        for passed in &loaded.passed_over {
            println!("passed over: {} {}", passed.folder, passed.why);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn table(rows: &[Value]) -> String {
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or("-").to_owned();
    let mut cells = vec![["ID", "STATE", "VERSION", "FOLDER", "ROUTES"].map(str::to_owned)];
    for row in rows {
        let routes = row["routes"].as_array().map_or(0, Vec::len).to_string();
        cells.push([
            text(row, "id"),
            text(row, "state"),
            text(row, "version"),
            text(row, "folder"),
            routes,
        ]);
    }
    let width = |column: usize| {
        cells
            .iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: [usize; 5] = std::array::from_fn(width);
    let mut table = String::new();
    for (line, row) in cells.iter().enumerate() {
        let padded: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        table.push_str(padded.join("  ").trim_end());
        table.push('\n');
        if let Some(message) = line
            .checked_sub(1)
            .and_then(|line| rows[line]["error"]["message"].as_str())
        {
            table.push_str(&format!("    {message}\n"));
        }
    }
    table
}
