//! One process at a time.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

/// Waits until no other process holds the lock; the lock ends with the returned file, or with the process.
pub(super) fn hold(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    if file.try_lock().is_err() {
        tracing::info!(lock = %path.display(), "another process is fetching this model; waiting for it");
        file.lock()?;
    }
    Ok(file)
}
