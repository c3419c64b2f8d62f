//! Adapters, datasets and models as immutable bytes, addressed by their sha256, in a local folder or in a bucket.
//!
//! An upload is spooled to a local file that is named by its digest, so that a broken one goes on where it stopped; all
//! of it is verified before it gets its address: there is never half an artifact under a final name. Beside them lie the
//! lists of [pushed models](Artifacts::push_model) and each run's [pins](Artifacts::pin_model).

mod error;
mod models;
mod place;
mod spool;
#[cfg(test)]
mod tests;
mod upload;

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use influence_proto::{Digest, RunId};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use sha2::{Digest as _, Sha256};

pub use error::{ArtifactError, OtherModel};
pub use models::check_pin;
pub use upload::{MAX_ARTIFACT, Upload};

/// Bytes that are read at once.
const PIECE: u64 = 8 << 20;

/// The artifacts of a coordinator. Clones share them.
#[derive(Clone)]
pub struct Artifacts {
    shared: Arc<Shared>,
}

struct Shared {
    store: Box<dyn ObjectStore>,
    /// What people call it.
    place: String,
    incoming: PathBuf,
    /// Each artifact has one upload at a time.
    uploading: Mutex<HashSet<Digest>>,
    /// A pin never changes: one that was read is known.
    pins: Mutex<BTreeMap<(RunId, String), Digest>>,
}

/// Without the store, which knows credentials.
impl fmt::Debug for Artifacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Artifacts").field("place", &self.shared.place).finish_non_exhaustive()
    }
}

/// An artifact's content, piece by piece; of a whole one, the last item is an error if the content is not what its
/// address says.
pub type Content = BoxStream<'static, Result<Vec<u8>, ArtifactError>>;

impl Artifacts {
    /// The artifacts in a local folder, which is made if it does not exist, or in `s3://BUCKET/PREFIX`, for which the
    /// usual `AWS_*` environment variables are read. Uploads are kept in the folder `incoming` of `spool` until all of
    /// them is here; those that were never finished are swept away after a day.
    ///
    /// # Errors
    /// When there is no such place, or it cannot be read.
    pub async fn open(place: impl AsRef<OsStr>, spool: &FilePath) -> Result<Self, ArtifactError> {
        Self::over(place::open(place.as_ref())?, spool).await
    }

    async fn over((store, place): place::Place, spool: &FilePath) -> Result<Self, ArtifactError> {
        let incoming = spool.join("incoming");
        let failed = |source| ArtifactError::Spool { path: incoming.clone(), source };
        std::fs::create_dir_all(&incoming).map_err(failed)?;
        spool::sweep(&incoming, |_| true)?;
        let (uploading, pins) = (Mutex::default(), Mutex::default());
        let artifacts = Self { shared: Arc::new(Shared { store, place, incoming, uploading, pins }) };
        // A service that does not let us in says so now, not when the first training has ended.
        artifacts.contains(Digest::of("")).await?;
        Ok(artifacts)
    }

    fn io(&self, source: object_store::Error) -> ArtifactError {
        ArtifactError::Io { place: self.place(), source: Box::new(source) }
    }

    fn place(&self) -> String {
        self.shared.place.clone()
    }

    fn incoming(&self) -> &FilePath {
        &self.shared.incoming
    }

    fn uploading(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.shared.uploading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The size of an artifact in bytes, if there is one of this digest. Its content is not read.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn size(&self, digest: Digest) -> Result<Option<u64>, ArtifactError> {
        match self.shared.store.head(&address(digest)).await {
            Ok(object) => Ok(Some(object.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(self.io(source)),
        }
    }

    /// Removes an artifact that nothing refers to. One that is not there is no error.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn remove(&self, digest: Digest) -> Result<(), ArtifactError> {
        match self.shared.store.delete(&address(digest)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(self.io(source)),
        }
    }

    /// Whether there is an artifact of this digest. Its content is not read.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn contains(&self, digest: Digest) -> Result<bool, ArtifactError> {
        Ok(self.size(digest).await?.is_some())
    }

    /// An artifact's content.
    ///
    /// # Errors
    /// When it is missing, cannot be read, or is damaged.
    pub async fn get(&self, digest: Digest) -> Result<Vec<u8>, ArtifactError> {
        let mut content = self.stream(digest, 0).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = content.try_next().await? {
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    /// An artifact's content as a stream, from a byte on. From the first byte on, what arrived counts only if the stream
    /// ends without an error; of less than the whole nothing can be verified here.
    ///
    /// # Errors
    /// When it is missing, has fewer bytes, or cannot be read.
    pub async fn stream(&self, digest: Digest, offset: u64) -> Result<Content, ArtifactError> {
        let Some(bytes) = self.size(digest).await? else {
            return Err(ArtifactError::Missing { digest, place: self.place() });
        };
        if offset > bytes {
            return Err(ArtifactError::Beyond { digest, offset, bytes });
        }
        let hash = (offset == 0).then(Sha256::new);
        let reading = Reading { artifacts: self.clone(), digest, at: offset, bytes, hash };
        // Piece by piece: each request is short, and is asked again when it fails.
        Ok(futures::stream::try_unfold(reading, Reading::next).boxed())
    }
}

/// An artifact that is being read.
struct Reading {
    artifacts: Artifacts,
    digest: Digest,
    at: u64,
    bytes: u64,
    /// Of a whole read.
    hash: Option<Sha256>,
}

impl Reading {
    async fn next(mut self) -> Result<Option<(Vec<u8>, Self)>, ArtifactError> {
        let (artifacts, digest) = (&self.artifacts, self.digest);
        if self.at == self.bytes {
            let found = self.hash.take().map(|hash| Digest::from_bytes(hash.finalize().into()));
            return match found {
                Some(found) if found != digest => {
                    Err(ArtifactError::Damaged { digest, found, place: artifacts.place() })
                }
                _ => Ok(None),
            };
        }
        let end = self.bytes.min(self.at + PIECE);
        let piece = artifacts.shared.store.get_range(&address(digest), self.at..end).await;
        let piece = piece.map_err(|source| match source {
            object_store::Error::NotFound { .. } => ArtifactError::Missing { digest, place: artifacts.place() },
            source => artifacts.io(source),
        })?;
        if let Some(hash) = &mut self.hash {
            hash.update(&piece);
        }
        self.at = end;
        Ok(Some((piece.to_vec(), self)))
    }
}

/// Where an artifact lies: `sha256/ab/abcd...`.
fn address(digest: Digest) -> Path {
    let text = digest.to_string();
    Path::from(format!("sha256/{}/{text}", &text[..2]))
}
