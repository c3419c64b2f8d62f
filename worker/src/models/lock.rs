//! One process at a time.

use std::fs::{File, OpenOptions};
use std::path::Path;

use super::FetchError;

/// Waits until no other process holds the lock; the lock ends with the returned file, or with the process.
pub(super) fn hold(path: &Path) -> Result<File, FetchError> {
    let failed = |source| FetchError::Cache { path: path.to_owned(), source };
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(failed)?;
    if file.try_lock().is_err() {
        tracing::info!(lock = %path.display(), "another process is fetching this model; waiting for it");
        file.lock().map_err(failed)?;
    }
    Ok(file)
}
