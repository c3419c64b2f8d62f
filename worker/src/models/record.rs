//! What was verified, so that it is hashed once.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use influence_proto::Digest;
use serde::{Deserialize, Serialize};

use super::SourceError;
use crate::artifacts::digest_of_file;

/// A file as it was when its digest was computed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    path: PathBuf,
    bytes: u64,
    /// Nanoseconds since 1970.
    modified: u64,
    sha256: Digest,
}

/// A file's digest. A file of the same size and time of change as when it was last hashed is not hashed again.
pub(super) fn digest(path: &Path, records: &Path) -> Result<Digest, SourceError> {
    let path = path.canonicalize().map_err(SourceError::io(path))?;
    if let Some(record) = read(&place(&path, records))
        && record == observe(&path, record.sha256)?
    {
        return Ok(record.sha256);
    }
    let found = digest_of_file(&path).map_err(SourceError::io(&path))?;
    remember(&path, found, records)?;
    Ok(found)
}

/// Checks a file's digest.
pub(super) fn verify(path: &Path, expected: Digest, records: &Path) -> Result<(), SourceError> {
    let found = digest(path, records)?;
    if found == expected {
        return Ok(());
    }
    let path = path.canonicalize().map_err(SourceError::io(path))?;
    Err(SourceError::Digest { path, found, expected })
}

/// Remembers that a file, whose content was just hashed, has this digest.
pub(super) fn remember(path: &Path, sha256: Digest, records: &Path) -> Result<(), SourceError> {
    let path = path.canonicalize().map_err(SourceError::io(path))?;
    // The record only saves time: a full disk here must not make a good file unusable.
    if let Err(reason) = write(&place(&path, records), &observe(&path, sha256)?) {
        tracing::warn!(%reason, file = %path.display(), "cannot remember the file's digest");
    }
    Ok(())
}

fn place(path: &Path, records: &Path) -> PathBuf {
    records.join(format!("{}.json", Digest::of(path.as_os_str().as_encoded_bytes())))
}

fn observe(path: &Path, sha256: Digest) -> Result<Record, SourceError> {
    let metadata = path.metadata().map_err(SourceError::io(path))?;
    let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let modified = modified.and_then(|since| u64::try_from(since.as_nanos()).ok()).unwrap_or(0);
    Ok(Record { path: path.to_owned(), bytes: metadata.len(), modified, sha256 })
}

fn read(place: &Path) -> Option<Record> {
    serde_json::from_slice(&fs::read(place).ok()?).ok()
}

fn write(place: &Path, record: &Record) -> Result<(), std::io::Error> {
    if let Some(folder) = place.parent() {
        fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        serde_json::to_writer(&mut file, record)?;
        file.persist(place)?;
    }
    Ok(())
}
