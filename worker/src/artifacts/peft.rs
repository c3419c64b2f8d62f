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
        if !is_made_of(&folder, &config, &weights) {
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
    match fs::rename(work.path(), folder) {
        // Another worker of this machine was faster, and may be reading it.
        Err(_) if is_made_of(folder, config, weights) => Ok(()),
        Err(_) if folder.exists() => {
            // Damaged. It leaves its name in one step, so that whoever comes meanwhile finds a whole folder or none.
            let old = tempfile::tempdir_in(parent).map_err(ArtifactError::disk(parent))?;
            fs::rename(folder, old.path().join("old")).map_err(ArtifactError::disk(folder))?;
            fs::rename(work.path(), folder).map_err(ArtifactError::disk(folder))
        }
        renamed => renamed.map_err(ArtifactError::disk(folder)),
    }
}

/// Whether the folder has an adapter's files, and these ones.
fn is_made_of(folder: &Path, config: &Path, weights: &Path) -> bool {
    same(&folder.join(ADAPTER_CONFIG), config) && same(&folder.join(ADAPTER_WEIGHTS), weights)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Protects: workers of one machine share the cache; one that comes late must not pull the folder away from under
    /// another that is loading it.
    #[test]
    fn a_folder_that_another_worker_has_made_stays_and_a_damaged_one_does_not() {
        let cache = tempfile::tempdir().unwrap();
        let (config, weights) = (cache.path().join("config"), cache.path().join("weights"));
        fs::write(&config, "{}").unwrap();
        fs::write(&weights, "tensors").unwrap();
        let (parent, folder) = (cache.path().join("adapters"), cache.path().join("adapters/a-b"));
        assemble(&parent, &folder, &config, &weights).unwrap();
        let reader = fs::File::open(&folder).unwrap();
        let is_still_there = || {
            same_file(&reader.metadata().unwrap(), &fs::metadata(&folder).unwrap())
                && folder.join(ADAPTER_WEIGHTS).exists()
        };
        assemble(&parent, &folder, &config, &weights).unwrap();
        assert!(is_still_there(), "the late one replaced it");
        fs::remove_file(folder.join(ADAPTER_WEIGHTS)).unwrap();
        assemble(&parent, &folder, &config, &weights).unwrap();
        assert!(!is_still_there());
        assert_eq!(fs::read(folder.join(ADAPTER_WEIGHTS)).unwrap(), b"tensors");
        assert_eq!(fs::read_dir(&parent).unwrap().count(), 1, "nothing is left behind");
    }
}
