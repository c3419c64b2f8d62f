//! The cache within its bound: what was not used for longest goes first.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use influence_proto::Digest;

/// A part of a file that nobody has added to for this long is not going to be finished.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// An artifact's file.
struct Artifact {
    digest: Digest,
    path: PathBuf,
    used: SystemTime,
}

/// An adapter's folder: links to two artifacts, or copies of them.
struct Adapter {
    path: PathBuf,
    of: [Digest; 2],
}

/// Deletes artifacts, and the adapters made of them, until they take `limit` bytes at most or all that are left are in
/// use. Returns the bytes that are left. The caller sees to it that nothing comes into use meanwhile; another process on
/// this machine may, and then finds a file gone and fetches it again.
pub(super) fn shrink(folder: &Path, limit: u64, in_use: &BTreeMap<Digest, usize>) -> io::Result<u64> {
    sweep(folder);
    let mut left = bytes_of(folder)?;
    if left <= limit {
        return Ok(left);
    }
    let used = |digest: &Digest| in_use.contains_key(digest);
    let (mut artifacts, adapters) = (artifacts(folder)?, adapters(folder)?);
    artifacts.sort_by_key(|artifact| (artifact.used, artifact.digest));
    let known: HashSet<Digest> = artifacts.iter().map(|artifact| artifact.digest).collect();
    for orphan in adapters.iter().filter(|adapter| !adapter.of.iter().all(|digest| known.contains(digest))) {
        if !orphan.of.iter().any(used) {
            fs::remove_dir_all(&orphan.path)?;
        }
    }
    for artifact in artifacts.iter().filter(|artifact| !used(&artifact.digest)) {
        left = bytes_of(folder)?;
        if left <= limit {
            return Ok(left);
        }
        // First the links: the space is free when the last one is gone.
        for adapter in adapters.iter().filter(|adapter| adapter.of.contains(&artifact.digest)) {
            if adapter.path.exists() {
                fs::remove_dir_all(&adapter.path)?;
            }
        }
        fs::remove_file(&artifact.path)?;
        tracing::debug!(digest = %artifact.digest, "an artifact was deleted from the cache");
    }
    bytes_of(folder)
}

/// Marks an artifact as used now.
pub(super) fn touch(path: &Path) {
    let touched = File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
    if let Err(reason) = touched {
        tracing::debug!(file = %path.display(), %reason, "a cached file's use cannot be marked");
    }
}

fn artifacts(folder: &Path) -> io::Result<Vec<Artifact>> {
    let mut found = Vec::new();
    for (name, path, metadata) in entries(folder)? {
        if let Ok(digest) = Digest::parse(&name) {
            found.push(Artifact { digest, path, used: metadata.modified()? });
        }
    }
    Ok(found)
}

fn adapters(folder: &Path) -> io::Result<Vec<Adapter>> {
    let mut found = Vec::new();
    for (name, path, _) in entries(&folder.join("adapters"))? {
        let Some((config, weights)) = name.split_once('-') else { continue };
        if let (Ok(config), Ok(weights)) = (Digest::parse(config), Digest::parse(weights)) {
            found.push(Adapter { path, of: [config, weights] });
        }
    }
    Ok(found)
}

/// Bytes of all artifacts and adapters. A file with several names counts once.
fn bytes_of(folder: &Path) -> io::Result<u64> {
    let mut seen = HashSet::new();
    let mut bytes = 0;
    let mut count = |path: &Path, metadata: &Metadata| {
        if metadata.is_file() && seen.insert(identity(path, metadata)) {
            bytes += metadata.len();
        }
    };
    for (_, path, metadata) in entries(folder)? {
        count(&path, &metadata);
    }
    for (_, adapter, _) in entries(&folder.join("adapters"))? {
        for (_, path, metadata) in entries(&adapter)? {
            count(&path, &metadata);
        }
    }
    Ok(bytes)
}

#[cfg(unix)]
fn identity(_: &Path, metadata: &Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt as _;
    (metadata.dev(), metadata.ino())
}

#[cfg(not(unix))]
fn identity(path: &Path, _: &Metadata) -> PathBuf {
    path.to_owned()
}

/// What is in a folder; what vanishes meanwhile is not.
fn entries(folder: &Path) -> io::Result<Vec<(String, PathBuf, Metadata)>> {
    let read = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.kind() == io::ErrorKind::NotADirectory => {
            return Ok(Vec::new());
        }
        read => read?,
    };
    let mut found = Vec::new();
    for entry in read {
        let entry = entry?;
        if let Ok(metadata) = entry.metadata() {
            found.push((entry.file_name().to_string_lossy().into_owned(), entry.path(), metadata));
        }
    }
    Ok(found)
}

/// Removes what a process that was killed left behind: parts that nobody fetches any more, and half adapters.
fn sweep(folder: &Path) {
    let stale = |metadata: &Metadata| {
        let age = metadata.modified().ok().and_then(|then| SystemTime::now().duration_since(then).ok());
        age.is_some_and(|age| age > STALE)
    };
    // Should something fail here, the next sweep tries again.
    for (_, path, metadata) in entries(&folder.join("partial")).unwrap_or_default() {
        if stale(&metadata) && File::open(&path).is_ok_and(|file| file.try_lock().is_ok()) {
            let _ = fs::remove_file(&path);
        }
    }
    for (name, path, metadata) in entries(&folder.join("adapters")).unwrap_or_default() {
        if name.starts_with('.') && stale(&metadata) {
            let _ = fs::remove_dir_all(&path);
        }
    }
}
