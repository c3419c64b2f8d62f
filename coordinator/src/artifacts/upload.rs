//! Uploads: spooled to a local file, verified, and only then put under their address.

use std::path::PathBuf;

use influence_proto::Digest;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStoreExt as _, PutPayload};
use sha2::{Digest as _, Sha256};
use tokio::fs::{self, File, OpenOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{ArtifactError, Artifacts, address};

/// Bytes that are sent to the store at once. Services take at most 10,000 parts of an object.
const PART: usize = 8 << 20;

/// The largest artifact, in bytes.
pub const MAX_ARTIFACT: u64 = 64 << 30;

/// An artifact that is being uploaded. Dropped before [`Upload::finish`], what came of it stays, and another upload goes
/// on from there.
#[derive(Debug)]
pub struct Upload {
    artifacts: Artifacts,
    digest: Digest,
    path: PathBuf,
    file: File,
    bytes: u64,
    limit: u64,
    _claim: Claim,
}

/// The right to upload one artifact, given back when it is dropped.
#[derive(Debug)]
struct Claim {
    artifacts: Artifacts,
    digest: Digest,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.artifacts.uploading().remove(&self.digest);
    }
}

impl Artifacts {
    /// How many bytes of an unfinished upload are here.
    ///
    /// # Errors
    /// When the spool cannot be read.
    pub async fn spooled(&self, digest: Digest) -> Result<u64, ArtifactError> {
        let path = self.spool_file(digest);
        match fs::metadata(&path).await {
            Ok(metadata) => Ok(metadata.len()),
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(0),
            Err(source) => Err(ArtifactError::Spool { path, source }),
        }
    }

    /// Begins an upload, or goes on with one: `offset` bytes of it are here.
    ///
    /// # Errors
    /// When somebody else uploads it, when another number of bytes is here, or when the spool cannot be written.
    pub async fn upload(&self, digest: Digest, offset: u64) -> Result<Upload, ArtifactError> {
        if !self.uploading().insert(digest) {
            return Err(ArtifactError::Busy { digest });
        }
        let claim = Claim { artifacts: self.clone(), digest };
        let spooled = self.spooled(digest).await?;
        if spooled != offset {
            return Err(ArtifactError::Offset { digest, offset, spooled });
        }
        let path = self.spool_file(digest);
        let file = OpenOptions::new().create(true).append(true).open(&path).await;
        let file = file.map_err(|source| ArtifactError::Spool { path: path.clone(), source })?;
        let (artifacts, limit) = (self.clone(), MAX_ARTIFACT);
        Ok(Upload { artifacts, digest, path, file, bytes: offset, limit, _claim: claim })
    }

    fn spool_file(&self, digest: Digest) -> PathBuf {
        self.incoming().join(digest.to_string())
    }
}

impl Upload {
    /// Appends a piece.
    ///
    /// # Errors
    /// When it cannot be written, or is more than an artifact may have: then nothing of it is kept.
    pub async fn write(&mut self, piece: &[u8]) -> Result<(), ArtifactError> {
        let (digest, limit) = (self.digest, self.limit);
        self.bytes += piece.len() as u64;
        if self.bytes > limit {
            self.forget().await?;
            return Err(ArtifactError::TooLarge { digest, limit });
        }
        let written = async {
            self.file.write_all(piece).await?;
            // Without it the file would go on writing after this returns, and hide a full disk until later.
            self.file.flush().await
        };
        written.await.map_err(|source| ArtifactError::Spool { path: self.path.clone(), source })
    }

    /// Makes it an artifact, if it is what it said it would be. Otherwise nothing of it is kept.
    ///
    /// # Errors
    /// When its digest is another one, or it cannot be written: then it can be finished later.
    pub async fn finish(self) -> Result<Digest, ArtifactError> {
        let result = self.publish().await;
        if matches!(result, Ok(()) | Err(ArtifactError::Mismatch { .. })) {
            self.forget().await?;
        }
        result.map(|()| self.digest)
    }

    async fn forget(&self) -> Result<(), ArtifactError> {
        let removed = fs::remove_file(&self.path).await;
        removed.map_err(|source| ArtifactError::Spool { path: self.path.clone(), source })
    }

    async fn publish(&self) -> Result<(), ArtifactError> {
        let mut source = Source::open(&self.path).await?;
        let (store, at) = (&self.artifacts.shared.store, address(self.digest));
        let first = source.piece().await?;
        if first.len() < PART {
            source.verify(self.digest)?;
            // Replaces what is there: the same bytes, or a damaged copy.
            return store.put(&at, first.into()).await.map(|_| ()).map_err(|e| self.artifacts.io(e));
        }
        let mut parts = store.put_multipart(&at).await.map_err(|e| self.artifacts.io(e))?;
        let sent = self.send(&mut *parts, first, &mut source).await;
        if sent.is_err()
            && let Err(error) = parts.abort().await
        {
            tracing::debug!(%error, %at, "parts of an upload stay until the store drops them");
        }
        sent
    }

    async fn send(
        &self,
        parts: &mut dyn MultipartUpload,
        first: Vec<u8>,
        source: &mut Source,
    ) -> Result<(), ArtifactError> {
        let mut piece = first;
        while !piece.is_empty() {
            parts.put_part(PutPayload::from(piece)).await.map_err(|e| self.artifacts.io(e))?;
            piece = source.piece().await?;
        }
        source.verify(self.digest)?;
        parts.complete().await.map(|_| ()).map_err(|e| self.artifacts.io(e))
    }
}

/// A spooled file, read once: what is hashed is what is sent.
struct Source {
    file: File,
    path: PathBuf,
    hash: Sha256,
}

impl Source {
    async fn open(path: &std::path::Path) -> Result<Self, ArtifactError> {
        let file = File::open(path).await;
        let file = file.map_err(|source| ArtifactError::Spool { path: path.to_owned(), source })?;
        Ok(Self { file, path: path.to_owned(), hash: Sha256::new() })
    }

    /// The next bytes; fewer than a part only at the end.
    async fn piece(&mut self) -> Result<Vec<u8>, ArtifactError> {
        let mut piece = Vec::with_capacity(PART);
        let read = (&mut self.file).take(PART as u64).read_to_end(&mut piece).await;
        read.map_err(|source| ArtifactError::Spool { path: self.path.clone(), source })?;
        self.hash.update(&piece);
        Ok(piece)
    }

    /// Whether what was read so far is the artifact.
    fn verify(&mut self, digest: Digest) -> Result<(), ArtifactError> {
        let found = Digest::from_bytes(std::mem::take(&mut self.hash).finalize().into());
        if found == digest { Ok(()) } else { Err(ArtifactError::Mismatch { digest, found }) }
    }
}

impl Artifacts {
    /// Stores what is in memory and returns its address. What is there already is written again: it may be damaged.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn put(&self, bytes: Vec<u8>) -> Result<Digest, ArtifactError> {
        let digest = Digest::of(&bytes);
        self.write(&address(digest), bytes).await?;
        Ok(digest)
    }

    pub(super) async fn write(&self, at: &Path, bytes: Vec<u8>) -> Result<(), ArtifactError> {
        self.shared.store.put(at, bytes.into()).await.map(|_| ()).map_err(|e| self.io(e))
    }
}

#[cfg(test)]
impl Upload {
    pub(super) const fn limited_to(mut self, limit: u64) -> Self {
        self.limit = limit;
        self
    }
}
