//! Having an iteration's agent trained.

use influence_proto::{Digest, InvalidMessage, TrainedAgent, TrainingBackend, TrainingSpec, WorkId, stream};

use super::active::ActiveTime;
use super::error::RunError;
use super::run::Run;
use crate::dispatch::{Kind, Task};
use crate::store::TrainingRecord;

impl Run {
    /// The agent of an iteration that was trained already.
    pub(super) async fn trained(&self, iteration: u32) -> Result<Option<TrainedAgent>, RunError> {
        let record = self.training(iteration).await?;
        Ok(record.and_then(|r| r.report).map(|report| report.agent))
    }

    async fn training(&self, iteration: u32) -> Result<Option<TrainingRecord>, RunError> {
        let all = self.store.trainings(&self.run).await?;
        Ok(all.into_iter().find(|t| t.iteration == iteration))
    }

    /// Has an agent trained that continues from `start`.
    pub(super) async fn train(
        &self,
        iteration: u32,
        start: Option<TrainedAgent>,
        dataset: Digest,
        active: &mut ActiveTime,
    ) -> Result<TrainedAgent, RunError> {
        let settings = &self.experiment.training;
        let failed = |error: String| RunError::Training { iteration, error };
        let backend = settings.job(&self.run, iteration, start).map_err(|start| {
            let what = match &start {
                TrainedAgent::Adapter(_) => "an adapter".to_owned(),
                TrainedAgent::Served { model } => format!("the model `{model}` of a server"),
            };
            failed(format!("the agent is {what}, which this `training.backend` cannot continue from"))
        })?;
        if matches!(backend, TrainingBackend::Api(_)) {
            self.budget_must_last()?;
        }
        let spec = TrainingSpec {
            model: self.experiment.roles.agent.model.clone(),
            dataset,
            algorithm: settings.algorithm,
            backend,
            seed: stream::derive(self.experiment.seed, &["training", &iteration.to_string()]),
        };
        let work = WorkId::new(format!("{}:training:{iteration}", self.run))
            .map_err(|error: InvalidMessage| failed(error.to_string()))?;
        self.store.plan_training(&self.run, iteration, &work, spec).await?;
        let attempt = self.training(iteration).await?.map_or(0, |record| record.attempt);
        let news = self.dispatch.submit(vec![Task { work, attempt, kind: Kind::Training }]).await?;
        self.wait(news, active, |batch| match &batch.last_error {
            Some(error) if batch.failed > 0 => Err(failed(error.clone())),
            _ => Ok(()),
        })
        .await?;
        let report = self.training(iteration).await?.and_then(|record| record.report);
        let report = report.ok_or_else(|| failed("its report was not stored".into()))?;
        self.progress.training_cost(report.nanodollars);
        tracing::info!(
            run = %self.run, iteration, rows = report.rows, steps = report.steps, loss = report.last_loss,
            model = report.agent.served(), "trained"
        );
        Ok(report.agent)
    }

    /// Lays an adapter down as a plain PEFT folder. Of a model at a server there is nothing to lay down.
    pub(super) async fn keep_adapter(&self, iteration: u32, agent: &TrainedAgent) -> Result<(), RunError> {
        let Some(adapter) = agent.adapter() else { return Ok(()) };
        if self.folder.has_adapter(iteration, adapter).await {
            return Ok(());
        }
        let config = self.artifacts.get(adapter.config).await?;
        let weights = self.artifacts.get(adapter.weights).await?;
        self.folder.write_adapter(iteration, config, weights).await
    }
}
