use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use influence_proto::Digest;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStoreExt as _, PutPayload};
use sha2::{Digest as _, Sha256};

use super::{ArtifactError, Artifacts, address};

/// Bytes that are gathered before they are written.
const PART: usize = 8 << 20;

/// An artifact that is being written. Dropped before [`Incoming::finish`], it never was.
#[derive(Debug)]
pub struct Incoming {
    artifacts: Artifacts,
    upload: Box<dyn MultipartUpload>,
    at: Path,
    hash: Sha256,
    gathered: Vec<u8>,
}

impl Artifacts {
    /// Begins a new artifact of unknown digest.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn incoming(&self) -> Result<Incoming, ArtifactError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let at = Path::from(format!("incoming/{}-{since}-{count}", std::process::id()));
        let upload = self.store.put_multipart(&at).await.map_err(|e| self.io(e))?;
        Ok(Incoming { artifacts: self.clone(), upload, at, hash: Sha256::new(), gathered: Vec::new() })
    }
}

impl Incoming {
    /// Appends a piece.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn write(&mut self, piece: Vec<u8>) -> Result<(), ArtifactError> {
        self.hash.update(&piece);
        if self.gathered.is_empty() {
            self.gathered = piece;
        } else {
            self.gathered.extend_from_slice(&piece);
        }
        if self.gathered.len() >= PART {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), ArtifactError> {
        let part = std::mem::take(&mut self.gathered);
        self.upload.put_part(PutPayload::from(part)).await.map_err(|e| self.artifacts.io(e))
    }

    /// Makes it an artifact and returns its address.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn finish(mut self) -> Result<Digest, ArtifactError> {
        self.flush().await?;
        self.upload.complete().await.map_err(|e| self.artifacts.io(e))?;
        let digest = Digest::from_bytes(std::mem::take(&mut self.hash).finalize().into());
        let store = &self.artifacts.store;
        // Replaces what is there: the same bytes, or a damaged copy.
        store.rename(&self.at, &address(digest)).await.map_err(|e| self.artifacts.io(e))?;
        Ok(digest)
    }

    /// Takes back what was written so far.
    pub async fn abandon(mut self) {
        if let Err(error) = self.upload.abort().await {
            tracing::debug!(%error, "an unfinished upload stays until it is swept away");
        }
    }
}
