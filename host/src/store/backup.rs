//! A copy of a SQLite store that is whole, taken while hosts use it.

use std::path::{Path, PathBuf};

use sqlx::Connection as _;

use super::error::StoreError;
use super::file::{self, beside};
use super::opening;

/// A copy that was taken.
#[derive(Debug)]
pub struct Backup {
    /// Where it is.
    pub file: PathBuf,
    /// How long it is.
    pub bytes: u64,
}

/// Copies the store at `path` into a new file, as it is at one moment. The file gets its name when it is whole.
///
/// # Errors
/// Where there is no store, the file is there already, or it cannot be written.
pub fn back_up(path: &Path, to: &Path) -> Result<Backup, StoreError> {
    let failed = |cause| StoreError::Backup(to.to_owned(), cause);
    if let Ok(false) = path.try_exists() {
        return Err(StoreError::NoneYet(path.to_owned()));
    }
    // Absolute, since SQLite takes some names for URLs.
    let file = std::path::absolute(to).map_err(failed)?;
    if file.try_exists().map_err(failed)? {
        return Err(StoreError::Taken("file", to.display().to_string()));
    }
    let unfinished = beside(&file, ".unfinished");
    let name = unfinished.to_str().ok_or(StoreError::Url)?.to_owned();
    // Err: another backup into the same file is at work, or was killed. Only the operator can know.
    file::make_empty(&unfinished).map_err(|cause| StoreError::Backup(unfinished.clone(), cause))?;
    let copied = copy(path, name).and_then(|()| {
        file::finish(&unfinished, &file).map_err(failed)?;
        file.metadata().map_err(failed)
    });
    match copied {
        Ok(written) => Ok(Backup {
            bytes: written.len(),
            file,
        }),
        Err(cause) => {
            // Err: what is being told will have prevented this, too.
            let _ = file::remove(&unfinished);
            Err(cause)
        }
    }
}

/// Has SQLite copy what a reader sees now: whoever changes the store goes on meanwhile.
fn copy(path: &Path, to: String) -> Result<(), StoreError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StoreError::Thread)?;
    runtime.block_on(async {
        let mut store = opening::inspect(path).await?;
        let copied = sqlx::query("VACUUM INTO $1")
            .bind(to)
            .execute(&mut store)
            .await;
        // Err: nothing was changed that could be lost.
        let _ = store.close().await;
        Ok(copied.map(drop)?)
    })
}
