//! Files that wait to become artifacts.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::ArtifactError;

/// How long what was left unfinished is kept: no upload pauses for this long.
pub(super) const STALE: Duration = Duration::from_secs(24 * 3600);

/// Removes the files of `folder` that `which` names and that nobody has written to for a day.
pub(super) fn sweep(folder: &Path, which: impl Fn(&str) -> bool) -> Result<(), ArtifactError> {
    let failed = |source| ArtifactError::Spool { path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !which(&entry.file_name().to_string_lossy()) {
            continue;
        }
        // Another process may sweep too: what is gone is gone.
        let Ok(written) = entry.metadata().and_then(|metadata| metadata.modified()) else { continue };
        if SystemTime::now().duration_since(written).unwrap_or_default() > STALE {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}
