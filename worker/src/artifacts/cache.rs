//! The cache of artifacts on this machine.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use influence_proto::Digest;
use tokio::sync::Mutex;

use super::shrink::{shrink, touch};
use super::uses::{Held, Uses};
use super::{ArtifactError, Transfer, blocking, digest_of_file};
use crate::client::Client;

/// How often a transfer that does not move is tried before its work fails for now.
const TRIES: u32 = 8;

/// Artifacts under a folder, each named by its digest. A file under its final name is complete. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct ArtifactCache {
    transfer: Transfer,
    folder: PathBuf,
    /// In bytes.
    limit: u64,
    uses: Uses,
    /// Held while an adapter's folder is put together.
    assembling: Arc<Mutex<()>>,
}

impl ArtifactCache {
    /// Artifacts below the worker's `cache` folder, of `limit` bytes together. `seed` spreads the retries of many workers.
    pub(crate) fn new(client: Client, cache: &Path, seed: u64, limit: u64) -> Self {
        let transfer = Transfer::new(client, seed, TRIES);
        Self { transfer, folder: cache.join("artifacts"), limit, uses: Uses::default(), assembling: Arc::default() }
    }

    pub(super) fn assembling(&self) -> &Mutex<()> {
        &self.assembling
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// How files come here.
    pub(crate) const fn transfer(&self) -> &Transfer {
        &self.transfer
    }

    /// The file with this digest, fetched unless it is cached. A cached file is verified again: disks forget.
    pub(crate) async fn get(&self, digest: Digest) -> Result<Held, ArtifactError> {
        let held = Held::new(self.folder.join(digest.to_string()), vec![self.uses.begin(digest)]);
        if held.exists() {
            let cached = held.to_owned();
            let found = blocking(move || digest_of_file(&cached)).await.map_err(ArtifactError::disk(&*held))?;
            if found == digest {
                touch(&held);
                return Ok(held);
            }
            tracing::warn!(%digest, %found, "a cached artifact is damaged; it is fetched again");
            std::fs::remove_file(&*held).map_err(ArtifactError::disk(&*held))?;
        }
        let partial = self.folder.join("partial").join(digest.to_string());
        self.transfer.download(digest, &partial, &held, &|_| ()).await?;
        tracing::debug!(%digest, "artifact fetched");
        touch(&held);
        self.shrink().await?;
        Ok(held)
    }

    /// Deletes what is too much.
    async fn shrink(&self) -> Result<(), ArtifactError> {
        let (folder, limit, uses) = (self.folder.clone(), self.limit, self.uses.clone());
        let left = blocking(move || shrink(&folder, limit, &uses.lock()));
        let left = left.await.map_err(ArtifactError::disk(&self.folder))?;
        if left > self.limit {
            let limit = self.limit;
            tracing::warn!(bytes = left, limit, "artifacts in use take more than the cache may have");
        }
        Ok(())
    }

    /// Uploads a file, unless the coordinator has it.
    pub(crate) async fn put(&self, path: &Path) -> Result<Digest, ArtifactError> {
        let here = path.to_owned();
        let digest = blocking(move || digest_of_file(&here)).await.map_err(ArtifactError::disk(path))?;
        self.transfer.upload(path, digest, &|_| ()).await?;
        Ok(digest)
    }
}
