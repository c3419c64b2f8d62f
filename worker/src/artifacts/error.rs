use std::io;
use std::path::PathBuf;

use influence_proto::Digest;

use crate::client::CallError;

/// A file that cannot be fetched or stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArtifactError {
    /// The coordinator does not answer, or refuses.
    #[error("artifact {digest}: {source}")]
    Fetch { digest: Digest, source: CallError },
    /// What arrived is not what was asked for, twice.
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
    pub(crate) fn disk(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Disk { path, source }
    }
}
