//! How a run stands while it is carried on, for whoever asks.

use std::time::Instant;

use influence_proto::{ClusterStatus, ModelAnswer, ModelCall, RunId};
use tokio::sync::watch;

use crate::dispatch::{DispatchError, DispatchHandle};
use crate::progress::{Progress, RunPhase};

/// A run being carried on, to be asked; cheap to clone.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Which run.
    pub run: RunId,
    dispatch: DispatchHandle,
    /// To read it only: who waits for its end must not wait for readers.
    progress: watch::Receiver<Progress>,
    since: Instant,
}

impl Cluster {
    pub(crate) fn new(run: RunId, dispatch: DispatchHandle, progress: watch::Receiver<Progress>) -> Self {
        Self { run, dispatch, progress, since: Instant::now() }
    }

    /// How it stands now.
    ///
    /// # Errors
    /// When it is carried on no more.
    pub async fn status(&self) -> Result<ClusterStatus, DispatchError> {
        let standing = self.dispatch.standing().await?;
        let progress = self.progress.borrow().clone();
        Ok(ClusterStatus {
            run: self.run.clone(),
            phase: phase(progress.phase),
            episodes_total: progress.episodes_total,
            episodes_done: progress.episodes_done,
            episodes_failed: progress.episodes_failed,
            turns: progress.turns,
            uptime_ms: self.since.elapsed().as_millis() as u64,
            store_problem: progress.store_problem.map(|(_, problem)| problem),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            standing,
        })
    }

    /// Has one of its workers make calls, all at once. Without a worker it waits for one; dropped, it takes them back.
    ///
    /// # Errors
    /// When the models give no answer, or the run is carried on no more.
    pub async fn call(&self, calls: Vec<ModelCall>) -> Result<Vec<ModelAnswer>, DispatchError> {
        self.dispatch.call(calls).await
    }
}

fn phase(phase: RunPhase) -> String {
    match phase {
        RunPhase::Starting => "starting".to_owned(),
        RunPhase::Rollout(k) => format!("rollout {k}"),
        RunPhase::Evaluation(k) => format!("evaluation {k}"),
        RunPhase::Training(k) => format!("training {k}"),
        RunPhase::Answering => "answering calls".to_owned(),
        RunPhase::Done => "done".to_owned(),
    }
}
