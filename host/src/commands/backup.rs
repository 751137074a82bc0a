//! `extension-host backup`: a copy of the store that is whole, whether a host runs or not.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use crate::config::Config;
use crate::store::{DatabaseUrl, StoreError, back_up};

/// Copies the store into a new file, and says what was written.
///
/// # Errors
/// Where there is no store in a file, the file is there already, or it cannot be written.
pub fn run(config: &Config, file: &Path, json: bool) -> Result<ExitCode, StoreError> {
    let store = match DatabaseUrl::of(&config.database)? {
        Some(DatabaseUrl::File(path)) => path,
        Some(url @ DatabaseUrl::Postgres(_)) => {
            return Err(StoreError::Invalid(format!(
                "the store is in {url}; back it up with PostgreSQL's own pg_dump --table='host_*'"
            )));
        }
        None => {
            return Err(StoreError::Invalid(
                "this host keeps no users: url under [database] is \"none\"".to_owned(),
            ));
        }
    };
    let written = back_up(&store, file)?;
    let (file, store) = (written.file.display(), store.display());
    if json {
        let row =
            json!({"store": store.to_string(), "file": file.to_string(), "bytes": written.bytes});
        println!("{row:#}");
    } else {
        println!("wrote {file}, {} bytes, a copy of {store}", written.bytes);
    }
    Ok(ExitCode::SUCCESS)
}
