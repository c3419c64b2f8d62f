//! The cache of artifacts on this machine.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use influence_proto::Digest;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;
use tokio::sync::Mutex;

use super::digest_of_file;
use crate::client::{CallError, Client};
use crate::outbox::Backoff;

/// How often a transfer is tried before its work fails for now.
const TRIES: u32 = 8;

/// A file that cannot be fetched or stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArtifactError {
    /// The coordinator does not answer, or refuses.
    #[error("artifact {digest}: {source}")]
    Fetch { digest: Digest, source: CallError },
    /// What arrived is not what was asked for.
    #[error("artifact {digest} arrived with the digest {found}: the coordinator's copy, or the way here, is damaged")]
    Damaged { digest: Digest, found: Digest },
    /// The upload did not get through.
    #[error("{} cannot be uploaded: {source}", path.display())]
    Store { path: PathBuf, source: CallError },
    /// This machine's disk.
    #[error("the cache at {} cannot be used: {source}", path.display())]
    Disk { path: PathBuf, source: io::Error },
}

impl ArtifactError {
    pub(super) fn disk(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Disk { path, source }
    }
}

/// Artifacts under a folder, each named by its digest. A file under its final name is complete. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct ArtifactCache {
    client: Client,
    folder: PathBuf,
    seed: u64,
    /// Held while an adapter's folder is put together.
    assembling: Arc<Mutex<()>>,
}

impl ArtifactCache {
    /// Artifacts below the worker's `cache` folder. `seed` spreads the retries of many workers.
    pub(crate) fn new(client: Client, cache: &Path, seed: u64) -> Self {
        Self { client, folder: cache.join("artifacts"), seed, assembling: Arc::default() }
    }

    pub(super) fn assembling(&self) -> &Mutex<()> {
        &self.assembling
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file with this digest, fetched unless it is cached. A cached file is verified again: disks forget.
    pub(crate) async fn get(&self, digest: Digest) -> Result<PathBuf, ArtifactError> {
        let path = self.folder.join(digest.to_string());
        if path.exists() {
            let cached = path.clone();
            let found = blocking(move || digest_of_file(&cached)).await.map_err(ArtifactError::disk(&path))?;
            if found == digest {
                return Ok(path);
            }
            tracing::warn!(%digest, %found, "a cached artifact is damaged; it is fetched again");
        }
        let mut backoff = Backoff::new(self.seed);
        loop {
            match self.fetch(digest, &path).await {
                Ok(()) => return Ok(path),
                Err(ArtifactError::Fetch { source, .. }) if source.retryable() && backoff.tries() < TRIES => {
                    tracing::debug!(%digest, reason = %source, "an artifact is asked for again");
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }

    async fn fetch(&self, digest: Digest, path: &Path) -> Result<(), ArtifactError> {
        std::fs::create_dir_all(&self.folder).map_err(ArtifactError::disk(&self.folder))?;
        let mut file = NamedTempFile::new_in(&self.folder).map_err(ArtifactError::disk(&self.folder))?;
        let mut hash = Sha256::new();
        let fetched = self.client.get_artifact(digest, |chunk| {
            hash.update(chunk);
            file.write_all(chunk)
        });
        let fetched = fetched.await;
        fetched.map_err(|source| ArtifactError::Fetch { digest, source })?;
        file.as_file().sync_all().map_err(ArtifactError::disk(path))?;
        let found = Digest::from_bytes(hash.finalize().into());
        if found != digest {
            return Err(ArtifactError::Damaged { digest, found });
        }
        file.persist(path).map_err(|e| ArtifactError::Disk { path: path.to_owned(), source: e.error })?;
        tracing::debug!(%digest, "artifact fetched");
        Ok(())
    }

    /// Uploads a file. What the coordinator stored must be what is here.
    pub(crate) async fn put(&self, path: &Path) -> Result<Digest, ArtifactError> {
        let here = path.to_owned();
        let digest = blocking(move || digest_of_file(&here)).await.map_err(ArtifactError::disk(path))?;
        let mut backoff = Backoff::new(self.seed);
        loop {
            match self.client.put_artifact(path).await {
                Ok(stored) if stored == digest => return Ok(digest),
                Ok(stored) => return Err(ArtifactError::Damaged { digest, found: stored }),
                Err(source) if source.retryable() && backoff.tries() < TRIES => {
                    tracing::debug!(%digest, reason = %source, "an upload is tried again");
                }
                Err(source) => return Err(ArtifactError::Store { path: path.to_owned(), source }),
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }
}

/// Runs file work aside of the runtime's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(io::Error::other(e)))
}
