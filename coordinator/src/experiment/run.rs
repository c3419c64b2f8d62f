//! The order of a run's steps.

use std::sync::Arc;
use std::time::Duration;

use influence_proto::{RunId, TrainedAgent};

use super::RunFolder;
use super::active::ActiveTime;
use super::error::RunError;
use crate::artifacts::Artifacts;
use crate::config::Experiment;
use crate::dispatch::DispatchHandle;
use crate::planning::Phase;
use crate::progress::{ProgressHandle, RunPhase};
use crate::store::Store;

/// A run being carried on.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) run: RunId,
    pub(crate) experiment: Arc<Experiment>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) artifacts: Artifacts,
    pub(crate) dispatch: DispatchHandle,
    pub(crate) progress: ProgressHandle,
    pub(crate) folder: RunFolder,
    /// An earlier process stopped with an error: episodes that failed are tried again.
    pub(crate) retry_failed: bool,
    /// How long the store may refuse every write; none: for as long as it takes.
    pub(crate) store_patience: Option<Duration>,
    /// What may be spent, if that is bounded.
    pub(crate) budget: Option<Budget>,
}

/// A bound on what a run may cost, in nanodollars.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    pub(crate) limit: u64,
    /// By earlier processes.
    pub(crate) spent_before: u64,
}

impl Run {
    /// Goes on from what is stored, to the end.
    pub(crate) async fn carry_on(&self) -> Result<(), RunError> {
        let iterations = self.experiment.iterations;
        let mut agent = self.experiment.start.as_ref().map(|start| start.trained.clone());
        for iteration in 0..iterations {
            self.evaluate(iteration, agent.as_ref()).await?;
            agent = Some(self.iterate(iteration, agent).await?);
        }
        self.evaluate(iterations, agent.as_ref()).await?;
        self.progress.enter(RunPhase::Done);
        Ok(())
    }

    /// Measures the agent that `iteration` starts from, if the experiment says so.
    async fn evaluate(&self, iteration: u32, agent: Option<&TrainedAgent>) -> Result<(), RunError> {
        if !self.experiment.evaluation.after.contains(&iteration) || self.judged(Phase::Evaluate, iteration).await? {
            return Ok(());
        }
        self.progress.enter(RunPhase::Evaluation(iteration));
        let mut active = self.active(Phase::Evaluate, iteration).await?;
        self.roll_out(Phase::Evaluate, iteration, agent, &mut active).await?;
        self.judge(Phase::Evaluate, iteration).await?;
        Ok(active.save().await?)
    }

    /// Rolls out, selects and trains; returns the new agent.
    async fn iterate(&self, iteration: u32, agent: Option<TrainedAgent>) -> Result<TrainedAgent, RunError> {
        if let Some(trained) = self.trained(iteration).await? {
            self.keep_adapter(iteration, &trained).await?;
            return Ok(trained);
        }
        self.progress.enter(RunPhase::Rollout(iteration));
        let mut active = self.active(Phase::Train, iteration).await?;
        if !self.judged(Phase::Train, iteration).await? {
            self.roll_out(Phase::Train, iteration, agent.as_ref(), &mut active).await?;
            self.judge(Phase::Train, iteration).await?;
        }
        let dataset = self.write_dataset(iteration).await?;
        self.progress.enter(RunPhase::Training(iteration));
        let trained = self.train(iteration, agent, dataset, &mut active).await?;
        self.progress.change(|p| p.training = None);
        self.keep_adapter(iteration, &trained).await?;
        active.save().await?;
        Ok(trained)
    }

    async fn judged(&self, phase: Phase, iteration: u32) -> Result<bool, RunError> {
        let known = self.store.iterations(&self.run).await?;
        Ok(known.iter().any(|i| i.phase == phase && i.iteration == iteration && i.judged))
    }

    async fn active(&self, phase: Phase, iteration: u32) -> Result<ActiveTime, RunError> {
        Ok(ActiveTime::resume(self.store.clone(), self.run.clone(), phase, iteration).await?)
    }
}
