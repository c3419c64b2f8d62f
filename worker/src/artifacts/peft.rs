//! Adapters: two artifacts as the PEFT folder that a backend loads.

use std::fs;
use std::path::Path;

use influence_proto::AdapterRef;

use super::half::same_file;
use super::{ArtifactCache, ArtifactError, Held};

/// Name of an adapter's configuration in its folder.
pub(crate) const ADAPTER_CONFIG: &str = "adapter_config.json";
/// Name of an adapter's weights in its folder.
pub(crate) const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";

impl ArtifactCache {
    /// The adapter's PEFT folder. It appears under its name only when both files are in it.
    pub(crate) async fn adapter(&self, adapter: AdapterRef) -> Result<Held, ArtifactError> {
        // Episodes that start together ask for the same folder: one makes it, the others find it.
        let _alone = self.assembling().lock().await;
        let config = self.get(adapter.config).await?;
        let weights = self.get(adapter.weights).await?;
        let parent = self.folder().join("adapters");
        let folder = parent.join(format!("{}-{}", adapter.config, adapter.weights));
        if !(same(&folder.join(ADAPTER_CONFIG), &config) && same(&folder.join(ADAPTER_WEIGHTS), &weights)) {
            assemble(&parent, &folder, &config, &weights)?;
        }
        let uses = config.into_uses().into_iter().chain(weights.into_uses()).collect();
        Ok(Held::new(folder, uses))
    }
}

fn assemble(parent: &Path, folder: &Path, config: &Path, weights: &Path) -> Result<(), ArtifactError> {
    fs::create_dir_all(parent).map_err(ArtifactError::disk(parent))?;
    let work = tempfile::tempdir_in(parent).map_err(ArtifactError::disk(parent))?;
    place(config, &work.path().join(ADAPTER_CONFIG))?;
    place(weights, &work.path().join(ADAPTER_WEIGHTS))?;
    if folder.exists() {
        // An older folder whose files are not the verified ones.
        fs::remove_dir_all(folder).map_err(ArtifactError::disk(folder))?;
    }
    match fs::rename(work.path(), folder) {
        // Another worker of this machine was faster, with the same files.
        Err(_) if folder.exists() => Ok(()),
        renamed => renamed.map_err(ArtifactError::disk(folder)),
    }
}

/// Links a verified file into place, or copies it where the file system has no links.
fn place(from: &Path, to: &Path) -> Result<(), ArtifactError> {
    if fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    fs::copy(from, to).map(|_| ()).map_err(ArtifactError::disk(to))
}

/// Whether both are the same file, or as long as each other: the digest of `verified` was just checked, and folders are
/// made from verified files alone.
fn same(placed: &Path, verified: &Path) -> bool {
    let (Ok(placed), Ok(verified)) = (placed.metadata(), verified.metadata()) else { return false };
    same_file(&placed, &verified) || placed.len() == verified.len()
}
