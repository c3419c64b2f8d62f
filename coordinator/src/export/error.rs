use std::io;
use std::path::{Path, PathBuf};

use crate::artifacts::ArtifactError;
use crate::experiment::RunError;
use crate::store::StoreError;

/// Why a run cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Something of that name is there.
    #[error("{} is there already; --overwrite replaces it, --out writes elsewhere", .0.display())]
    Exists(PathBuf),
    /// A file cannot be written.
    #[error("{} cannot be written", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A server has the agent, and gives no weights away.
    #[error(
        "the agent of iteration {iteration} is the model `{model}` of its server: there are no files of it; leave `adapters` out"
    )]
    NoFiles {
        /// Whose agent.
        iteration: u32,
        /// What its server calls it.
        model: String,
    },
    /// The run cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An adapter cannot be had.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// An adapter cannot be written.
    #[error(transparent)]
    Folder(#[from] RunError),
}

impl ExportError {
    pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        |source| Self::Io { path, source }
    }
}
