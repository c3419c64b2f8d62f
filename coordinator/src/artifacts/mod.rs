//! Adapters and datasets: immutable files addressed by their sha256, never half there, verified
//! whenever they are read.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use influence_proto::{Digest, RunId};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload, WriteMultipart};
use sha2::{Digest as _, Sha256};

/// Why an artifact cannot be had or kept.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The folder cannot be used.
    #[error("the artifact folder {} cannot be used: {source}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is no such artifact.
    #[error("there is no artifact {0}")]
    Missing(Digest),
    /// Its bytes changed since it was written.
    #[error("the artifact {expected} is damaged: its sha256 is {found}; delete the file and run again")]
    Damaged {
        /// Its address.
        expected: Digest,
        /// What is there.
        found: Digest,
    },
    /// Reading or writing failed.
    #[error("the artifact store failed: {0}; check that its disk is there and has room")]
    Storage(#[from] object_store::Error),
    /// The sender broke off.
    #[error("the upload broke off: {0}")]
    Upload(String),
}

/// A store of artifacts. Cloning it is cheap.
#[derive(Debug, Clone)]
pub struct Artifacts {
    storage: Arc<LocalFileSystem>,
    /// Folder of what is not complete yet.
    uploads: Arc<str>,
    /// Number of the next upload.
    upload: Arc<AtomicU64>,
}

impl Artifacts {
    /// Artifacts in `folder`, which is created if need be. `owner` is the run that this process alone
    /// carries on: other processes may use the same folder for theirs.
    ///
    /// # Errors
    /// When the folder cannot be created or opened.
    pub fn open(folder: &Path, owner: &RunId) -> Result<Self, ArtifactError> {
        let refuse = |source| ArtifactError::Folder { folder: folder.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(refuse)?;
        let uploads = format!("uploads-{owner}");
        // What a killed process was uploading is of no use to anyone.
        match std::fs::remove_dir_all(folder.join(&uploads)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(refuse(error)),
            _ => {}
        }
        let storage = LocalFileSystem::new_with_prefix(folder)?.with_fsync(true);
        Ok(Self { storage: Arc::new(storage), uploads: uploads.into(), upload: Arc::new(AtomicU64::new(0)) })
    }

    /// Keeps `bytes` and returns their address. Keeping the same bytes again changes nothing.
    ///
    /// # Errors
    /// When they cannot be written; then nothing is kept.
    pub async fn put(&self, bytes: Bytes) -> Result<Digest, ArtifactError> {
        let digest = Digest::of(&bytes);
        if !self.has(&digest).await? {
            self.storage.put(&key(&digest), PutPayload::from_bytes(bytes)).await?;
        }
        Ok(digest)
    }

    /// Keeps a stream of chunks and returns the address of the whole.
    ///
    /// # Errors
    /// When a chunk is an error or the bytes cannot be written; then nothing is kept.
    pub async fn put_stream<E: std::fmt::Display>(
        &self,
        mut chunks: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<Digest, ArtifactError> {
        let number = self.upload.fetch_add(1, Ordering::Relaxed);
        let staged = Key::from(format!("{}/{number}", self.uploads));
        let mut writer = WriteMultipart::new(self.storage.put_multipart(&staged).await?);
        let mut hash = Sha256::new();
        while let Some(chunk) = chunks.next().await {
            match chunk {
                Ok(chunk) => {
                    hash.update(&chunk);
                    writer.wait_for_capacity(4).await?;
                    writer.put(chunk);
                }
                Err(error) => {
                    writer.abort().await?;
                    return Err(ArtifactError::Upload(error.to_string()));
                }
            }
        }
        writer.finish().await?;
        let digest = Digest::from_bytes(hash.finalize().into());
        self.storage.rename(&staged, &key(&digest)).await?;
        Ok(digest)
    }

    /// The bytes at an address.
    ///
    /// # Errors
    /// When there are none, or they are not what was kept.
    pub async fn get(&self, digest: &Digest) -> Result<Bytes, ArtifactError> {
        let found = match self.storage.get(&key(digest)).await {
            Err(object_store::Error::NotFound { .. }) => return Err(ArtifactError::Missing(*digest)),
            found => found?,
        };
        let bytes = found.bytes().await?;
        let actual = Digest::of(&bytes);
        if actual == *digest { Ok(bytes) } else { Err(ArtifactError::Damaged { expected: *digest, found: actual }) }
    }

    async fn has(&self, digest: &Digest) -> Result<bool, ArtifactError> {
        match self.storage.head(&key(digest)).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Spread over 256 folders: file systems slow down on folders of very many files.
fn key(digest: &Digest) -> Key {
    let name = digest.to_string();
    Key::from(format!("{}/{name}", &name[..2]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn what_is_kept_comes_back_and_damage_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::open(folder.path(), &RunId::new("r").unwrap()).unwrap();
        let digest = artifacts.put(Bytes::from_static(b"adapter")).await.unwrap();
        assert_eq!(artifacts.put(Bytes::from_static(b"adapter")).await.unwrap(), digest);
        assert_eq!(&artifacts.get(&digest).await.unwrap()[..], b"adapter");
        let name = digest.to_string();
        std::fs::write(folder.path().join(&name[..2]).join(&name), b"adaptor").unwrap();
        assert!(matches!(artifacts.get(&digest).await, Err(ArtifactError::Damaged { .. })));
        let other = Digest::of("other");
        assert!(matches!(artifacts.get(&other).await, Err(ArtifactError::Missing(d)) if d == other));
    }

    #[tokio::test]
    async fn a_stream_is_kept_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::open(folder.path(), &RunId::new("r").unwrap()).unwrap();
        let whole: Vec<Result<Bytes, String>> = (0..40).map(|i| Ok(Bytes::from(vec![i; 100_000]))).collect();
        let expected: Vec<u8> = (0..40).flat_map(|i| vec![i; 100_000]).collect();
        let digest = artifacts.put_stream(futures::stream::iter(whole)).await.unwrap();
        assert_eq!(digest, Digest::of(&expected));
        assert_eq!(artifacts.get(&digest).await.unwrap(), expected);
        let broken = [Ok(Bytes::from_static(b"half")), Err("the worker died")];
        assert!(artifacts.put_stream(futures::stream::iter(broken)).await.is_err());
        assert!(matches!(artifacts.get(&Digest::of("half")).await, Err(ArtifactError::Missing(_))));
    }
}
