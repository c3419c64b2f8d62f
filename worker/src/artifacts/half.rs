//! A file of which a part is here.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use influence_proto::Digest;

use super::{ArtifactError, digest_of_file};

/// Between two looks at a file that somebody else fetches.
const POLL: Duration = Duration::from_millis(50);

/// A file that is being fetched. Nobody else on this machine fetches it meanwhile; dropped, or with the end of the
/// process, what came of it stays.
#[derive(Debug)]
pub(super) struct Half {
    file: File,
    path: PathBuf,
    bytes: u64,
}

impl Half {
    /// The unfinished file at `path`, empty if there is none. None when somebody else made `target` of it meanwhile.
    pub(super) async fn claim(path: &Path, target: &Path) -> Result<Option<Self>, ArtifactError> {
        let failed = || ArtifactError::disk(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed())?;
        }
        while !target.exists() {
            let file = OpenOptions::new().create(true).append(true).open(path).map_err(failed())?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    tokio::time::sleep(POLL).await;
                    continue;
                }
                Err(TryLockError::Error(source)) => return Err(failed()(source)),
            }
            let opened = file.metadata().map_err(failed())?;
            // Between opening and locking it may have got its final name.
            if path.metadata().is_ok_and(|named| same_file(&opened, &named)) {
                return Ok(Some(Self { file, path: path.to_owned(), bytes: opened.len() }));
            }
        }
        Ok(None)
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn append(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.file.write_all(chunk)?;
        self.bytes += chunk.len() as u64;
        Ok(())
    }

    /// Begins anew.
    pub(super) fn clear(&mut self) -> Result<(), ArtifactError> {
        self.file.set_len(0).map_err(ArtifactError::disk(&self.path))?;
        self.bytes = 0;
        Ok(())
    }

    /// The digest of what is here, which is then safely on the disk.
    pub(super) async fn digest(&self) -> Result<Digest, ArtifactError> {
        let (file, path) = (self.file.try_clone().map_err(ArtifactError::disk(&self.path))?, self.path.clone());
        let digest = super::blocking(move || {
            file.sync_all()?;
            digest_of_file(&path)
        });
        digest.await.map_err(ArtifactError::disk(&self.path))
    }

    /// Gives it its final name.
    pub(super) fn finish(self, target: &Path) -> Result<(), ArtifactError> {
        fs::rename(&self.path, target).map_err(ArtifactError::disk(target))
    }

    /// Takes it away.
    pub(super) fn remove(self) -> Result<(), ArtifactError> {
        fs::remove_file(&self.path).map_err(ArtifactError::disk(&self.path))
    }
}

/// Whether both are one file, as far as the system can tell.
pub(super) fn same_file(one: &Metadata, other: &Metadata) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        one.ino() == other.ino() && one.dev() == other.dev()
    }
    #[cfg(not(unix))]
    {
        one.len() == other.len() && one.modified().ok() == other.modified().ok()
    }
}
