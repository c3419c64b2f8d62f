//! Models whose files were pushed to the coordinator.

use std::fs;
use std::path::{Path, PathBuf};

use influence_proto::PushedFile;

use super::{SourceError, files, lock, record};

/// Begins the names of folders that are not complete, so that they can be told from models.
const PARTIAL: &str = ".partial-pushed-";

/// Fetches single files that were pushed to the coordinator. Called on a thread that may block.
pub(crate) trait PushedFiles: Sync {
    /// Fetches a file to `target`, where it is complete and verified. Until then it is `partial`, from whose end it goes
    /// on. `moved` hears how many bytes there are.
    fn fetch(
        &self,
        file: &PushedFile,
        partial: &Path,
        target: &Path,
        moved: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), String>;
}

/// The model, if all of it is in the cache and intact.
pub(super) fn cached(models: &Path, files: &[PushedFile], records: &Path) -> Option<PathBuf> {
    let folder = destination(models, files);
    if !folder.is_dir() {
        return None;
    }
    for file in files {
        if let Err(reason) = record::verify(&folder.join(&file.name), file.sha256, records) {
            tracing::warn!(%reason, "a cached model is not used");
            return None;
        }
    }
    Some(model_in(folder, files))
}

/// Fetches all files; the folder gets its name when they are complete. What an earlier process fetched is kept.
pub(super) fn fetch(
    files: &[PushedFile],
    models: &Path,
    records: &Path,
    pushed: &dyn PushedFiles,
    report: &(dyn Fn(&str, u64, Option<u64>) + Sync),
) -> Result<PathBuf, SourceError> {
    let digest = files::digest_of(files.iter());
    let folder = destination(models, files);
    // Two names may stand for these files, and the caller holds the lock of one name only.
    let guard = models.join(format!(".pushed-{digest}.lock"));
    let _held = lock::hold(&guard).map_err(SourceError::io(&guard))?;
    if let Some(path) = cached(models, files, records) {
        return Ok(path);
    }
    let work = models.join(format!("{PARTIAL}{digest}"));
    fs::create_dir_all(&work).map_err(SourceError::io(&work))?;
    for file in files {
        // No file's name begins with a dot.
        let (partial, target) = (work.join(format!(".{}", file.sha256)), work.join(&file.name));
        let moved = |bytes| report(&file.name, bytes, Some(file.bytes));
        pushed.fetch(file, &partial, &target, &moved).map_err(SourceError::Pushed)?;
    }
    if folder.exists() {
        // Not intact, or it would have been used.
        fs::remove_dir_all(&folder).map_err(SourceError::io(&folder))?;
    }
    fs::rename(&work, &folder).map_err(SourceError::io(&folder))?;
    for file in files {
        record::remember(&folder.join(&file.name), file.sha256, records)?;
    }
    Ok(model_in(folder, files))
}

/// Where these files are kept: by content.
fn destination(models: &Path, files: &[PushedFile]) -> PathBuf {
    models.join(format!("pushed-{}", files::digest_of(files.iter())))
}

/// A lone GGUF file is the model, otherwise the folder is.
fn model_in(folder: PathBuf, files: &[PushedFile]) -> PathBuf {
    match files {
        [file] if file.name.ends_with(".gguf") => folder.join(&file.name),
        _ => folder,
    }
}
