use std::path::PathBuf;
use std::sync::Arc;

use influence_proto::{AdapterRef, RunId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::RunError;
use crate::artifacts::Artifacts;
use crate::config::Experiment;
use crate::dispatch::{Batch, DispatchError, DispatchHandle};
use crate::planning::Phase;
use crate::progress::{ProgressHandle, RunPhase};
use crate::store::{NewRun, RunRecord, RunStatus, Store};

/// Which run an experiment means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// A run that did not exist before.
    New(RunId),
    /// One that was interrupted.
    Resumed(RunId),
    /// One that is complete.
    Finished(RunId),
}

impl Opened {
    /// The run, however it stands.
    pub const fn run(&self) -> &RunId {
        match self {
            Self::New(run) | Self::Resumed(run) | Self::Finished(run) => run,
        }
    }
}

/// The run that an experiment means: the latest of its name if it was started from exactly this
/// experiment, these environments and these models; a new one if there is none or `fresh` asks for
/// it. Later runs of a name are called `NAME-2`, `NAME-3` and so on.
///
/// # Errors
/// [`RunError::Changed`] when the latest run was started from something else.
pub async fn open_run(store: &dyn Store, experiment: &Experiment, fresh: bool) -> Result<Opened, RunError> {
    let name = &experiment.name;
    let earlier: Vec<RunRecord> = store.runs().await?.into_iter().filter(|run| run.name == *name).collect();
    let digest = experiment.digest().to_string();
    if let (Some(latest), false) = (earlier.last(), fresh) {
        if latest.digest != digest {
            let keys = experiment.changed_keys(&latest.experiment);
            return Err(RunError::Changed { run: latest.id.to_string(), keys });
        }
        return Ok(match latest.status {
            RunStatus::Finished => Opened::Finished(latest.id.clone()),
            RunStatus::Running | RunStatus::Failed(_) => Opened::Resumed(latest.id.clone()),
        });
    }
    let text = if earlier.is_empty() { name.clone() } else { format!("{name}-{}", earlier.len() + 1) };
    let id = RunId::new(text).map_err(|e| RunError::Name { name: name.clone(), problem: e.problem })?;
    let new = NewRun { id: id.clone(), name: name.clone(), digest, experiment: experiment.resolved() };
    store.create_run(new).await?;
    Ok(Opened::New(id))
}

/// A run under way: what its steps need.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) id: RunId,
    pub(crate) experiment: Arc<Experiment>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) artifacts: Artifacts,
    pub(crate) dispatch: DispatchHandle,
    pub(crate) progress: ProgressHandle,
    /// Folder of the run's own files.
    pub(crate) folder: PathBuf,
    pub(crate) cancel: CancellationToken,
}

impl Run {
    /// Does what is left to do, and writes down how it ended.
    pub(crate) async fn run(self) -> Result<(), RunError> {
        let outcome = self.iterations().await;
        let status = match &outcome {
            Ok(()) => RunStatus::Finished,
            // A run that was asked to stop is as it was: unfinished.
            Err(RunError::Cancelled) => RunStatus::Running,
            Err(error) => RunStatus::Failed(error.to_string()),
        };
        let written = self.store.set_run_status(&self.id, status).await;
        let reason = if outcome.is_ok() { "the run is finished" } else { "the run has stopped" };
        self.dispatch.goodbye(reason).await?;
        outcome?;
        self.progress.change(|p| p.phase = RunPhase::Done);
        Ok(written?)
    }

    /// Iteration k rolls out adapter k-1 (the base weights for k = 0) and trains adapter k. The last
    /// adapter is only evaluated.
    async fn iterations(&self) -> Result<(), RunError> {
        self.write_file("experiment.json", &format!("{:#}\n", self.experiment.resolved()))?;
        let iterations = self.experiment.iterations;
        let mut adapter: Option<AdapterRef> = None;
        for k in 0..=iterations {
            if self.experiment.evaluation.after.contains(&k) {
                self.roll_out(Phase::Evaluate, k, adapter).await?;
            }
            if k < iterations {
                self.roll_out(Phase::Train, k, adapter).await?;
                adapter = Some(self.train(k, adapter).await?);
            }
        }
        Ok(())
    }

    /// Waits until all that was submitted is done or given up.
    pub(super) async fn complete(&self, batch: &mut watch::Receiver<Batch>) -> Result<(), RunError> {
        tokio::select! {
            () = self.cancel.cancelled() => Err(RunError::Cancelled),
            changed = batch.wait_for(Batch::complete) => match changed {
                Ok(_) => Ok(()),
                Err(_) => Err(DispatchError::Closed.into()),
            },
        }
    }

    /// Writes a file of the run's folder, whole or not at all.
    pub(super) fn write_file(&self, name: &str, text: &str) -> Result<(), RunError> {
        let path = self.folder.join(name);
        let refuse = |source| RunError::File { path: path.clone(), source };
        std::fs::create_dir_all(&self.folder).map_err(refuse)?;
        let partial = self.folder.join(format!(".{name}.partial"));
        std::fs::write(&partial, text).map_err(refuse)?;
        std::fs::rename(&partial, &path).map_err(refuse)
    }
}
