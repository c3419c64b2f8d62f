//! A training's state, from one attempt to the next, wherever that is.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::Duration;

use influence_engine::train::steps_done;
use influence_proto::{Digest, WorkId};

use crate::artifacts::{ArtifactCache, ArtifactError};
use crate::client::Client;
use crate::session::Identity;

/// Whose state it is, and where it goes.
#[derive(Debug)]
pub(crate) struct Handover {
    pub(crate) client: Client,
    pub(crate) identity: Identity,
    pub(crate) work: WorkId,
    pub(crate) attempt: u32,
    /// What an earlier attempt has left.
    pub(crate) earlier: Option<Digest>,
    /// Between two looks for a new state. It is three times as large as the adapter, and replaces the one before.
    pub(crate) every: Duration,
}

impl Handover {
    /// Puts the state of the earlier attempt where the training looks for its own, unless that has come further. Without
    /// it the training begins anew, which costs time and changes nothing.
    pub(super) async fn take_up(&self, artifacts: &ArtifactCache, state: &Path) {
        let Some(earlier) = self.earlier else { return };
        let taken = async {
            let file = artifacts.get(earlier).await?;
            let (here, there) = (steps_done(state), steps_done(&file));
            if there > here {
                let partial = beside(state, "partial");
                let copied = std::fs::copy(&*file, &partial).and_then(|_| std::fs::rename(&partial, state));
                copied.map_err(ArtifactError::disk(state))?;
            }
            Ok::<_, ArtifactError>((here, there))
        };
        match taken.await {
            Ok((here, there)) => tracing::info!(work = %self.work, ?here, ?there, "a training is taken up"),
            Err(error) => tracing::warn!(work = %self.work, %error, "an earlier attempt's state cannot be had"),
        }
    }

    /// What an earlier attempt has left, if it can be had.
    pub(super) async fn left(&self, artifacts: &ArtifactCache) -> Option<Vec<u8>> {
        let file = artifacts.get(self.earlier?).await;
        let read = file.and_then(|file| std::fs::read(&*file).map_err(ArtifactError::disk(&*file)));
        read.inspect_err(|error| tracing::warn!(work = %self.work, %error, "an earlier attempt's state cannot be had"))
            .ok()
    }

    /// Uploads the state whenever it has changed, for as long as this is polled.
    pub(super) async fn share(&self, artifacts: &ArtifactCache, state: &Path) -> Infallible {
        let mut shared = None;
        loop {
            tokio::time::sleep(self.every).await;
            let changed = std::fs::metadata(state).and_then(|found| found.modified()).ok();
            if changed.is_none() || changed == shared {
                continue;
            }
            match self.upload(artifacts, state).await {
                Ok(()) => shared = changed,
                Err(error) => tracing::warn!(work = %self.work, %error, "a training's state was not uploaded"),
            }
        }
    }

    pub(super) async fn upload(&self, artifacts: &ArtifactCache, state: &Path) -> Result<(), ArtifactError> {
        // The training puts the next state in the place of this one; the link keeps it for as long as it is read.
        let link = beside(state, "shared");
        let _ = std::fs::remove_file(&link);
        std::fs::hard_link(state, &link).map_err(ArtifactError::disk(&link))?;
        let uploaded = artifacts.put(&link).await;
        let _ = std::fs::remove_file(&link);
        let digest = uploaded?;
        let recorded = self.client.record_checkpoint(&self.identity.id(), &self.work, self.attempt, digest).await;
        recorded.map_err(|source| ArtifactError::Store { path: state.to_owned(), source })?;
        tracing::debug!(work = %self.work, attempt = self.attempt, %digest, "a training's state is shared");
        Ok(())
    }
}

/// A file of this process's, beside the state.
fn beside(state: &Path, kind: &str) -> PathBuf {
    state.with_extension(format!("{}.{kind}", std::process::id()))
}
