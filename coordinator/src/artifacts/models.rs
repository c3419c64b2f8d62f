//! What is remembered of models beside the artifacts: files that were pushed for workers that cannot have a model
//! elsewhere, and which files each run's models are.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use influence_proto::{Digest, ModelSource, ModelSpec, PushedFile, RunId};
use object_store::path::Path;
use object_store::{ObjectStore as _, ObjectStoreExt as _, PutMode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{ArtifactError, Artifacts, OtherModel};

/// `models/NAME.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Pushed {
    files: Vec<PushedFile>,
}

/// `runs/RUN/models/NAME.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Pin {
    sha256: Digest,
}

/// Whether a worker that has loaded files of the digest `found` may serve the model that the run pinned.
///
/// # Errors
/// [`OtherModel`] when it may not.
pub fn check_pin(run: &RunId, model: &str, pinned: Digest, found: Digest) -> Result<(), OtherModel> {
    if pinned == found {
        return Ok(());
    }
    Err(OtherModel { run: run.clone(), model: model.to_owned(), pinned, found })
}

impl Artifacts {
    /// Offers files that were uploaded to workers that cannot have the model elsewhere. `models` are the run's. Replaces
    /// what was offered under that name before.
    ///
    /// # Errors
    /// When the run has no such model, a file is not here or is not as large as it says, or this cannot be written down.
    pub async fn push_model(
        &self,
        models: &[ModelSpec],
        model: &str,
        files: Vec<PushedFile>,
    ) -> Result<(), ArtifactError> {
        if !models.iter().any(|spec| spec.name == model) {
            let known = models.iter().map(|spec| format!("`{}`", spec.name)).collect();
            return Err(ArtifactError::UnknownModel { model: model.to_owned(), known });
        }
        let refuse = |problem: String| ArtifactError::PushedFiles { model: model.to_owned(), problem };
        if files.is_empty() {
            return Err(refuse("there are none".to_owned()));
        }
        let mut names = BTreeSet::new();
        for file in &files {
            if !names.insert(&file.name) {
                return Err(refuse(format!("`{}` is named twice", file.name)));
            }
            match self.size(file.sha256).await? {
                Some(bytes) if bytes == file.bytes => {}
                Some(bytes) => {
                    return Err(refuse(format!("`{}` has {bytes} bytes, not {}", file.name, file.bytes)));
                }
                None => {
                    return Err(refuse(format!("`{}` ({}) was not uploaded; upload it first", file.name, file.sha256)));
                }
            }
        }
        self.write(&pushed_at(model), as_json(&Pushed { files })).await?;
        tracing::info!(%model, "files of a model were pushed");
        Ok(())
    }

    /// The models with those that were pushed as their last source.
    ///
    /// # Errors
    /// When this cannot be read.
    pub async fn with_pushed(&self, models: &[ModelSpec]) -> Result<Vec<ModelSpec>, ArtifactError> {
        let mut models = models.to_vec();
        for model in &mut models {
            if let Some(Pushed { files }) = self.note(&pushed_at(&model.name)).await? {
                model.sources.push(ModelSource::Pushed { files });
            }
        }
        Ok(models)
    }

    /// Pins a run's model to files of this digest, unless it is pinned already; returns the digest that holds.
    ///
    /// # Errors
    /// When this cannot be read or written down.
    pub async fn pin_model(&self, run: &RunId, model: &str, digest: Digest) -> Result<Digest, ArtifactError> {
        let key = (run.clone(), model.to_owned());
        if let Some(pinned) = self.shared.pins.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(*pinned);
        }
        let at = pinned_at(run, model);
        let pin = as_json(&Pin { sha256: digest });
        // Of several at once, the store lets one win.
        let pinned = match self.shared.store.put_opts(&at, pin.into(), PutMode::Create.into()).await {
            Ok(_) => digest,
            Err(object_store::Error::AlreadyExists { .. }) => match self.note::<Pin>(&at).await? {
                Some(pin) => pin.sha256,
                None => {
                    let problem = "it vanished while it was read".to_owned();
                    return Err(ArtifactError::Note { object: at.to_string(), place: self.place(), problem });
                }
            },
            Err(source) => return Err(self.io(source)),
        };
        self.shared.pins.lock().unwrap_or_else(PoisonError::into_inner).insert(key, pinned);
        Ok(pinned)
    }

    /// What a run's model is pinned to, if it is.
    ///
    /// # Errors
    /// When this cannot be read.
    pub async fn pinned(&self, run: &RunId, model: &str) -> Result<Option<Digest>, ArtifactError> {
        Ok(self.note::<Pin>(&pinned_at(run, model)).await?.map(|pin| pin.sha256))
    }

    async fn note<T: DeserializeOwned>(&self, at: &Path) -> Result<Option<T>, ArtifactError> {
        let bytes = match self.shared.store.get(at).await {
            Ok(got) => got.bytes().await.map_err(|e| self.io(e))?,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(source) => return Err(self.io(source)),
        };
        let read = serde_json::from_slice(&bytes);
        let unreadable = |e: serde_json::Error| ArtifactError::Note {
            object: at.to_string(),
            place: self.place(),
            problem: e.to_string(),
        };
        read.map(Some).map_err(unreadable)
    }
}

fn pinned_at(run: &RunId, model: &str) -> Path {
    Path::from_iter(["runs", run.as_str(), "models", &format!("{model}.json")])
}

fn pushed_at(model: &str) -> Path {
    Path::from_iter(["models", &format!("{model}.json")])
}

fn as_json(note: &impl Serialize) -> Vec<u8> {
    // These types have no value that JSON cannot hold.
    serde_json::to_vec(note).unwrap_or_default()
}
