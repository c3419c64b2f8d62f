//! Adapters and datasets as immutable bytes, addressed by their sha256 and checked against it
//! whenever they are read.
//!
//! An artifact is written under a name of its own in `incoming/`, and renamed to its digest once all
//! of it is on disk: there is never half an artifact under a final name.

mod put;
#[cfg(test)]
mod tests;

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use influence_proto::Digest;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use sha2::{Digest as _, Sha256};

pub use put::Incoming;

/// How long an unfinished upload is kept: no upload takes this long.
const STALE_HOURS: i64 = 24;

/// The artifacts of a data folder.
#[derive(Debug, Clone)]
pub struct Artifacts {
    store: Arc<dyn ObjectStore>,
    root: Arc<FilePath>,
}

/// Why an artifact could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// There is none of this digest.
    #[error("there is no artifact {digest} in {root}")]
    Missing {
        /// The address.
        digest: Digest,
        /// The artifacts' folder.
        root: PathBuf,
    },
    /// What is stored is not what was put there.
    #[error(
        "artifact {digest} in {root} is damaged: its content has the digest {found}; delete it and repeat what made it"
    )]
    Damaged {
        /// The address.
        digest: Digest,
        /// What the content gives.
        found: Digest,
        /// The artifacts' folder.
        root: PathBuf,
    },
    /// Reading or writing failed.
    #[error(
        "an artifact in {root} cannot be read or written: {source}; check the disk's space and the folder's permissions"
    )]
    Io {
        /// The artifacts' folder.
        root: PathBuf,
        /// Why.
        source: Box<object_store::Error>,
    },
}

/// An artifact's content, piece by piece; its last item is an error if the content as a whole is
/// not what its address says.
pub type Content = BoxStream<'static, Result<Vec<u8>, ArtifactError>>;

impl Artifacts {
    /// The artifacts in a local folder, which is made if it does not exist. Uploads that were never
    /// finished are swept away after a day.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub async fn open(root: &FilePath) -> Result<Self, ArtifactError> {
        let io = |source| ArtifactError::Io { root: root.to_owned(), source: Box::new(source) };
        std::fs::create_dir_all(root)
            .map_err(|e| io(object_store::Error::Generic { store: "artifacts", source: Box::new(e) }))?;
        let store = LocalFileSystem::new_with_prefix(root).map_err(io)?.with_fsync(true);
        let artifacts = Self { store: Arc::new(store), root: root.into() };
        artifacts.sweep().await?;
        Ok(artifacts)
    }

    async fn sweep(&self) -> Result<(), ArtifactError> {
        let incoming = Path::from("incoming");
        let old: Vec<_> = self.store.list(Some(&incoming)).try_collect().await.map_err(|e| self.io(e))?;
        for upload in old {
            let age = std::time::SystemTime::now().duration_since(upload.last_modified.into()).unwrap_or_default();
            if age.as_secs() > STALE_HOURS as u64 * 3600 {
                self.store.delete(&upload.location).await.map_err(|e| self.io(e))?;
            }
        }
        Ok(())
    }

    fn io(&self, source: object_store::Error) -> ArtifactError {
        ArtifactError::Io { root: self.root.to_path_buf(), source: Box::new(source) }
    }

    fn lookup_error(&self, digest: Digest, source: object_store::Error) -> ArtifactError {
        match source {
            object_store::Error::NotFound { .. } => ArtifactError::Missing { digest, root: self.root.to_path_buf() },
            source => self.io(source),
        }
    }

    /// Stores `bytes` and returns their address. What is there already is left as it is, unless it
    /// is damaged.
    ///
    /// # Errors
    /// When they cannot be written.
    pub async fn put(&self, bytes: Vec<u8>) -> Result<Digest, ArtifactError> {
        let mut incoming = self.incoming().await?;
        incoming.write(bytes).await?;
        incoming.finish().await
    }

    /// Whether there is an artifact of this digest. Its content is not read.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub async fn contains(&self, digest: Digest) -> Result<bool, ArtifactError> {
        match self.store.head(&address(digest)).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(source) => Err(self.io(source)),
        }
    }

    /// An artifact's content.
    ///
    /// # Errors
    /// When it is missing, cannot be read, or is damaged.
    pub async fn get(&self, digest: Digest) -> Result<Vec<u8>, ArtifactError> {
        let mut content = self.stream(digest).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = content.try_next().await? {
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    /// An artifact's content as a stream. What arrived counts only if the stream ends without an
    /// error.
    ///
    /// # Errors
    /// When it is missing or cannot be read.
    pub async fn stream(&self, digest: Digest) -> Result<Content, ArtifactError> {
        let got = self.store.get(&address(digest)).await.map_err(|e| self.lookup_error(digest, e))?;
        let this = self.clone();
        let pieces = got.into_stream();
        let checked = futures::stream::unfold(Some((pieces, Sha256::new(), this)), move |state| async move {
            let (mut pieces, mut hash, this) = state?;
            match pieces.next().await {
                Some(Ok(piece)) => {
                    hash.update(&piece);
                    Some((Ok(piece.to_vec()), Some((pieces, hash, this))))
                }
                Some(Err(source)) => Some((Err(this.io(source)), None)),
                None => {
                    let found = Digest::from_bytes(hash.finalize().into());
                    let root = this.root.to_path_buf();
                    (found != digest).then(|| (Err(ArtifactError::Damaged { digest, found, root }), None))
                }
            }
        });
        Ok(checked.boxed())
    }
}

/// Where an artifact lies: `sha256/ab/abcd...`.
fn address(digest: Digest) -> Path {
    let text = digest.to_string();
    Path::from(format!("sha256/{}/{text}", &text[..2]))
}
