//! Having an iteration's adapter trained.

use influence_proto::{AdapterRef, Digest, InvalidMessage, TrainingSpec, WorkId, stream};

use super::active::ActiveTime;
use super::error::RunError;
use super::run::Run;
use crate::dispatch::{Kind, Task};
use crate::store::TrainingRecord;

impl Run {
    /// The adapter of an iteration that was trained already.
    pub(super) async fn trained(&self, iteration: u32) -> Result<Option<AdapterRef>, RunError> {
        let record = self.training(iteration).await?;
        Ok(record.and_then(|r| r.report).map(|report| report.adapter))
    }

    async fn training(&self, iteration: u32) -> Result<Option<TrainingRecord>, RunError> {
        let all = self.store.trainings(&self.run).await?;
        Ok(all.into_iter().find(|t| t.iteration == iteration))
    }

    /// Has an adapter trained that continues from `start`.
    pub(super) async fn train(
        &self,
        iteration: u32,
        start: Option<AdapterRef>,
        dataset: Digest,
        active: &mut ActiveTime,
    ) -> Result<AdapterRef, RunError> {
        let settings = &self.experiment.training;
        let spec = TrainingSpec {
            model: self.experiment.roles.agent.model.clone(),
            dataset,
            start,
            algorithm: settings.algorithm,
            lora: settings.lora.clone(),
            optimiser: settings.optimiser(iteration),
            seed: stream::derive(self.experiment.seed, &["training", &iteration.to_string()]),
        };
        let failed = |error: String| RunError::Training { iteration, error };
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
        tracing::info!(
            run = %self.run, iteration, rows = report.rows, steps = report.steps, loss = report.last_loss, "trained"
        );
        Ok(report.adapter)
    }

    /// Lays an adapter down as a plain PEFT folder.
    pub(super) async fn keep_adapter(&self, iteration: u32, adapter: AdapterRef) -> Result<(), RunError> {
        if self.folder.has_adapter(iteration, adapter).await {
            return Ok(());
        }
        let config = self.artifacts.get(adapter.config).await?;
        let weights = self.artifacts.get(adapter.weights).await?;
        self.folder.write_adapter(iteration, config, weights).await
    }
}
