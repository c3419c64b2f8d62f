use std::path::Path;
use std::sync::Arc;

use influence_proto::{AdapterRef, TrainingReport, TrainingSpec, WorkId, stream};

use super::RunError;
use super::run::Run;
use crate::dataset;
use crate::dispatch::{Kind, Payload, Submission, Task};
use crate::planning::Phase;
use crate::progress::RunPhase;
use crate::store::{Selected, TrainingRecord};

impl Run {
    /// Trains the adapter that ends an iteration, unless that is done, and returns it.
    pub(super) async fn train(&self, iteration: u32, start: Option<AdapterRef>) -> Result<AdapterRef, RunError> {
        let stored = self.store.trainings(&self.id).await?;
        let report = match stored.into_iter().find(|t| t.iteration == iteration) {
            Some(TrainingRecord { report: Some(report), .. }) => report,
            Some(TrainingRecord { work, spec, .. }) => self.await_training(iteration, work, spec).await?,
            None => {
                let spec = self.training_spec(iteration, start).await?;
                let work = WorkId::new(format!("train-{}-{iteration}", self.id));
                let work = work.map_err(|e| RunError::Name { name: self.id.to_string(), problem: e.problem })?;
                self.store.plan_training(&self.id, iteration, &work, spec.clone()).await?;
                self.await_training(iteration, work, spec).await?
            }
        };
        self.write_adapter(iteration, &report.adapter).await?;
        Ok(report.adapter)
    }

    async fn training_spec(&self, iteration: u32, start: Option<AdapterRef>) -> Result<TrainingSpec, RunError> {
        let refuse = |problem: String| RunError::Dataset { iteration, problem };
        let training = &self.experiment.training;
        let mut rows = Vec::new();
        for record in self.store.episodes(&self.id, Phase::Train, iteration).await? {
            if record.verdict.as_ref().and_then(|v| v.selected) == Some(Selected::Best) {
                let turns = self.store.journal(&self.id, &record.spec.id).await?;
                rows.extend(dataset::rows(&record.spec, &turns, training.rows));
            }
        }
        let mut lines = Vec::new();
        dataset::write_rows(&mut lines, &rows).map_err(|e| refuse(e.to_string()))?;
        Ok(TrainingSpec {
            model: self.experiment.roles.agent.model.clone(),
            dataset: self.artifacts.put(lines).await?,
            start,
            algorithm: training.algorithm,
            lora: training.lora.clone(),
            optimiser: training.optimiser(iteration),
            seed: stream::derive(self.experiment.seed, &["training", &iteration.to_string()]),
        })
    }

    async fn await_training(
        &self,
        iteration: u32,
        work: WorkId,
        spec: TrainingSpec,
    ) -> Result<TrainingReport, RunError> {
        self.progress.change(|p| {
            p.phase = RunPhase::Training(iteration);
            p.training = None;
        });
        // A job that was given up is tried again; its attempts count on.
        let task = Task { work: work.clone(), attempt: self.stored_training(iteration).await?.attempt, kind: Kind::Training };
        let payload = Payload::Training(Arc::new(spec));
        let mut batch = self.dispatch.submit(vec![Submission { task, payload }]).await?;
        self.complete(&mut batch).await?;
        let stored = self.stored_training(iteration).await?;
        stored.report.ok_or_else(|| RunError::Training { iteration, message: stored.error.unwrap_or_default() })
    }

    async fn stored_training(&self, iteration: u32) -> Result<TrainingRecord, RunError> {
        let stored = self.store.trainings(&self.id).await?.into_iter().find(|t| t.iteration == iteration);
        stored.ok_or_else(|| RunError::Training { iteration, message: "the store has lost the job".to_owned() })
    }

    /// Puts the adapter where people look for it: a PEFT directory that any tool loads. It appears
    /// whole, by a rename.
    async fn write_adapter(&self, iteration: u32, adapter: &AdapterRef) -> Result<(), RunError> {
        let adapters = self.folder.join("adapters");
        let folder = adapters.join(format!("iteration-{iteration}"));
        if folder.exists() {
            return Ok(());
        }
        let partial = adapters.join(format!(".iteration-{iteration}.partial"));
        let config = self.artifacts.get(adapter.config).await?;
        let weights = self.artifacts.get(adapter.weights).await?;
        write_folder(&partial, &folder, &[("adapter_config.json", config), ("adapter_model.safetensors", weights)])
            .map_err(|source| RunError::File { path: folder, source })
    }
}

fn write_folder(partial: &Path, folder: &Path, files: &[(&str, Vec<u8>)]) -> std::io::Result<()> {
    if partial.exists() {
        std::fs::remove_dir_all(partial)?;
    }
    std::fs::create_dir_all(partial)?;
    for (name, bytes) in files {
        let path = partial.join(name);
        std::fs::write(&path, bytes)?;
        std::fs::File::open(&path)?.sync_all()?;
    }
    std::fs::rename(partial, folder)
}
