//! A model's files to a coordinator, which offers them to workers that cannot have the model elsewhere.

use std::fmt;
use std::path::PathBuf;

use influence_proto::PushedFile;

use crate::artifacts::Transfer;
use crate::client::{Client, ClientOptions, ConnectError, Credentials};
use crate::models::{FetchProgress, ModelCache, SourceError};
use crate::outbox::Backoff;
use crate::session::OnDownload;

/// So often an upload that does not move is tried.
const TRIES: u32 = 8;

/// What to push, and where.
#[derive(Clone)]
pub struct Push {
    /// The coordinator's address, as in `http://127.0.0.1:50051`.
    pub coordinator: String,
    /// The admin's, where the coordinator asks for any.
    pub credentials: Credentials,
    /// The name that the run has for the model.
    pub model: String,
    /// A `.gguf` file, or a folder of safetensors.
    pub path: PathBuf,
    /// Where digests of files are remembered, so that a large one is hashed once.
    pub cache: ModelCache,
    /// Hears how far each file is.
    pub on_upload: OnDownload,
}

impl fmt::Debug for Push {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { coordinator, model, path, .. } = self;
        write!(f, "Push({model} at {} to {coordinator})", path.display())
    }
}

/// A model that could not be pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The address is none.
    #[error(transparent)]
    Address(#[from] ConnectError),
    /// The model's files cannot be read.
    #[error("the files of the model `{model}` cannot be read: {source}")]
    Files {
        /// The model's name.
        model: String,
        /// Why.
        source: SourceError,
    },
    /// The coordinator did not take them. What it has of them it keeps for a day.
    #[error(
        "the model `{model}` could not be pushed to {coordinator}: {reason}; the same command goes on where it stopped"
    )]
    Upload {
        /// The model's name.
        model: String,
        /// The coordinator's address.
        coordinator: String,
        /// Why.
        reason: String,
    },
    /// The coordinator has the files and does not offer them.
    #[error("the coordinator at {coordinator} does not offer the model `{model}`: {reason}")]
    Refused {
        /// The model's name.
        model: String,
        /// The coordinator's address.
        coordinator: String,
        /// Why.
        reason: String,
    },
}

/// Uploads what the coordinator lacks of the model's files, and has them offered to workers. Returns the files.
///
/// # Errors
/// [`PushError`]: the files are no model, the coordinator does not answer, or its run uses no such model.
pub async fn push_model(push: Push) -> Result<Vec<PushedFile>, PushError> {
    let (addresses, credentials) = (vec![push.coordinator.clone()], push.credentials.clone());
    let client = Client::new(ClientOptions { addresses, credentials })?;
    let (cache, path) = (push.cache.clone(), push.path.clone());
    let listed = tokio::task::spawn_blocking(move || cache.files(&path)).await;
    let listed = listed.unwrap_or_else(|e| Err(SourceError::Pushed(format!("reading them broke off: {e}"))));
    let files = listed.map_err(|source| PushError::Files { model: push.model.clone(), source })?;
    let transfer = Transfer::new(client.clone(), std::process::id().into(), TRIES);
    for (file, path) in &files {
        let moved = |bytes| {
            (push.on_upload)(FetchProgress {
                model: push.model.clone(),
                source: push.path.display().to_string(),
                file: file.name.clone(),
                bytes,
                total: Some(file.bytes),
            });
        };
        let uploaded = transfer.upload(path, file.sha256, &moved).await;
        uploaded.map_err(|e| PushError::Upload {
            model: push.model.clone(),
            coordinator: push.coordinator.clone(),
            reason: e.to_string(),
        })?;
        moved(file.bytes);
    }
    let files: Vec<PushedFile> = files.into_iter().map(|(file, _)| file).collect();
    let mut backoff = Backoff::new(std::process::id().into());
    loop {
        match client.push_model(&push.model, &files).await {
            Ok(()) => return Ok(files),
            Err(error) if error.retryable() && backoff.tries() < TRIES => tokio::time::sleep(backoff.next()).await,
            Err(error) => {
                let (Push { model, coordinator, .. }, reason) = (push, error.to_string());
                return Err(PushError::Refused { model, coordinator, reason });
            }
        }
    }
}
