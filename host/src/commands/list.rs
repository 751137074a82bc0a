//! `extension-host list`: what the extensions folder holds, mounted or refused with the reason.

use std::sync::Arc;

use serde_json::Value;

use crate::commands::table::table;
use crate::extension::loader::{self, Scope};
use crate::server::admin;
use crate::server::{Host, ServeError};

/// Loads every extension as the host would, prints what became of it, and lets it go again.
///
/// # Errors
/// Where the extensions folder cannot be read.
pub fn run(host: &Arc<Host>, json: bool) -> Result<(), Box<dyn std::error::Error>> {
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
        print!("{}", lines(&rows));
        for passed in &loaded.passed_over {
            println!("passed over: {} {}", passed.folder, passed.why);
        }
    }
    Ok(())
}

/// The table of all endpoints, with the cause below each one that is not served.
fn lines(rows: &[Value]) -> String {
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or("-").to_owned();
    let head = ["ID", "STATE", "VERSION", "FOLDER", "ROUTES"].map(str::to_owned);
    let mut cells = vec![head.to_vec()];
    for row in rows {
        let routes = row["routes"].as_array().map_or(0, Vec::len).to_string();
        cells.push(vec![
            text(row, "id"),
            text(row, "state"),
            text(row, "version"),
            text(row, "folder"),
            routes,
        ]);
    }
    let mut lines = table(cells).into_iter();
    let mut all = lines.next().unwrap_or_default();
    for (line, row) in lines.zip(rows) {
        all.push_str(&line);
        if let Some(message) = row["error"]["message"].as_str() {
            all.push_str(&format!("    {message}\n"));
        }
    }
    all
}
