//! What people find of a run in the data folder: `experiment.json`, and each adapter as a PEFT
//! folder. Copies: the run itself lives in the store and the artifacts.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use influence_proto::{AdapterRef, Digest, RunId};
use serde_json::Value;

use super::error::RunError;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// `<data>/<run>`.
#[derive(Debug, Clone)]
pub(crate) struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    pub(crate) fn new(data: &Path, run: &RunId) -> Self {
        Self { path: data.join(run.as_str()) }
    }

    /// In a folder that people have named.
    pub(crate) fn at(folder: &Path) -> Self {
        Self { path: folder.to_owned() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `experiment.json`.
    pub(crate) async fn write_experiment(&self, resolved: &Value) -> Result<(), RunError> {
        let target = self.path.join("experiment.json");
        let text = format!("{resolved:#}\n");
        self.blocking(target, move |target| {
            let half = sibling(target);
            write_synced(&half, text.as_bytes())?;
            fs::rename(&half, target)
        })
        .await
    }

    pub(crate) fn adapter_path(&self, iteration: u32) -> PathBuf {
        self.path.join("adapters").join(format!("iteration-{iteration}"))
    }

    /// Whether the adapter lies there complete.
    pub(crate) async fn has_adapter(&self, iteration: u32, adapter: AdapterRef) -> bool {
        let folder = self.adapter_path(iteration);
        let same = move || {
            let is = |name: &str, digest| fs::read(folder.join(name)).is_ok_and(|bytes| Digest::of(bytes) == digest);
            is(CONFIG, adapter.config) && is(WEIGHTS, adapter.weights)
        };
        tokio::task::spawn_blocking(same).await.unwrap_or(false)
    }

    /// Writes an adapter's PEFT folder: all of it appears at once.
    pub(crate) async fn write_adapter(
        &self,
        iteration: u32,
        config: Vec<u8>,
        weights: Vec<u8>,
    ) -> Result<(), RunError> {
        self.blocking(self.adapter_path(iteration), move |target| {
            let half = sibling(target);
            remove(&half)?;
            fs::create_dir_all(&half)?;
            write_synced(&half.join(CONFIG), &config)?;
            write_synced(&half.join(WEIGHTS), &weights)?;
            remove(target)?;
            fs::rename(&half, target)
        })
        .await
    }

    async fn blocking(
        &self,
        target: PathBuf,
        write: impl FnOnce(&Path) -> io::Result<()> + Send + 'static,
    ) -> Result<(), RunError> {
        let path = target.clone();
        let written = tokio::task::spawn_blocking(move || {
            if let Some(folder) = target.parent() {
                fs::create_dir_all(folder)?;
            }
            write(&target)
        });
        let result = written.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        result.map_err(|source| RunError::Folder { path, source })
    }
}

/// Where something is made before it is renamed into place. The run's lock lets one process do so.
fn sibling(target: &Path) -> PathBuf {
    let name = target.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    target.with_file_name(format!(".{name}.half"))
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
