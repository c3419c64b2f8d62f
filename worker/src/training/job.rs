//! One training job, from its spec to the uploaded adapter.

use std::fs::File;
use std::io::BufReader;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use influence_engine::lora::{LoraConfig, Projection};
use influence_engine::model::Model;
use influence_engine::train::{
    self, Checkpoints, LongRows, Progress, Schedule, TrainError, TrainOptions, TrainReport, TrainingFiles,
};
use influence_proto::{
    self as proto, AdapterRef, Algorithm, Digest, LoraSpec, OptimiserSpec, StepLoss, TrainedAgent, TrainingBackend,
    TrainingReport, TrainingSpec,
};

use super::{Handover, TrainingError, training_data};
use crate::artifacts::{ADAPTER_CONFIG, ADAPTER_WEIGHTS, ArtifactCache};

/// Between two checkpoints. They are small beside what a step computes.
const CHECKPOINT_STEPS: usize = 5;

/// How long a state waits for its job to come back.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a job needs besides its spec.
#[derive(Debug)]
pub(crate) struct Job {
    /// The model to train.
    pub(crate) model: Arc<Model>,
    /// What the adapter's configuration names as its base.
    pub(crate) base_name: String,
    pub(crate) artifacts: ArtifactCache,
    /// For the adapter until it is uploaded.
    pub(crate) scratch: PathBuf,
}

/// Trains, and uploads the adapter. `progress` hears how it goes on and may stop the training. `handover` is what comes from
/// other attempts, and goes to them.
pub(crate) async fn run(
    job: Job,
    spec: &TrainingSpec,
    handover: Handover,
    mut progress: impl FnMut(Progress) -> ControlFlow<()> + Send + 'static,
) -> Result<TrainingReport, TrainingError> {
    let TrainingBackend::Local { start, lora, optimiser } = &spec.backend else {
        return Err(TrainingError::Setting("the job is a server's, not a worker's".to_owned()));
    };
    let options = train_options(&job.model, &job.base_name, lora, optimiser, spec.seed)?;
    let dataset = job.artifacts.get(spec.dataset).await?;
    let start = match start {
        Some(adapter) => Some(job.artifacts.adapter(*adapter).await?),
        None => None,
    };
    let disk = |e: std::io::Error| TrainingError::Local(format!("{}: {e}", job.scratch.display()));
    std::fs::create_dir_all(&job.scratch).map_err(disk)?;
    let scratch = tempfile::tempdir_in(&job.scratch).map_err(disk)?;
    remove_old_states(&job.scratch);
    let output = scratch.path().join("adapter");
    let state = checkpoint(&job, spec);
    handover.take_up(&job.artifacts, &state).await;
    let checkpoints = Some(Checkpoints { file: state.clone(), every: CHECKPOINT_STEPS });
    let algorithm = spec.algorithm;
    let model = job.model.clone();
    let written = output.clone();
    // With the files, which stay in the cache for as long as they are read.
    let trained = tokio::task::spawn_blocking(move || {
        let files = TrainingFiles { start: start.as_deref(), output: &written, checkpoints };
        train(&model, algorithm, &dataset, &options, &files, &mut progress)
    });
    let trained = tokio::select! {
        trained = trained => trained,
        never = handover.share(&job.artifacts, &state) => match never {},
    };
    let report = trained.map_err(|e| TrainingError::Local(format!("the training's thread ended: {e}")))??;
    let agent = TrainedAgent::Adapter(AdapterRef {
        config: job.artifacts.put(&output.join(ADAPTER_CONFIG)).await?,
        weights: job.artifacts.put(&output.join(ADAPTER_WEIGHTS)).await?,
    });
    Ok(TrainingReport {
        agent,
        steps: count(report.steps),
        rows: count(report.rows),
        dropped_rows: count(report.dropped),
        tokens: report.target_tokens,
        first_loss: Some(report.first_loss),
        last_loss: Some(report.last_loss),
        losses: report.losses.iter().map(|(step, loss)| StepLoss { step: count(*step), loss: *loss }).collect(),
        nanodollars: 0,
    })
}

/// Removes what jobs left behind that nobody took up again on this machine.
pub(super) fn remove_old_states(scratch: &Path) {
    let is_old = |file: &Path| {
        let kinds = ["checkpoint", "partial", "shared"];
        let is_state = file.extension().is_some_and(|e| kinds.iter().any(|kind| e == *kind));
        let age = || file.metadata().and_then(|found| found.modified()).ok().and_then(|time| time.elapsed().ok());
        is_state && age().is_some_and(|age| age > KEPT)
    };
    for file in std::fs::read_dir(scratch).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if is_old(&file) && std::fs::remove_file(&file).is_ok() {
            tracing::info!(file = %file.display(), "an old training's state is removed");
        }
    }
}

/// A file for this job's state, the same for whoever takes it up on this machine.
fn checkpoint(job: &Job, spec: &TrainingSpec) -> PathBuf {
    let name = Digest::of(format!("{} {spec:?}", job.base_name));
    job.scratch.join(format!("{name}.checkpoint"))
}

fn train(
    model: &Model,
    algorithm: Algorithm,
    dataset: &Path,
    options: &TrainOptions,
    files: &TrainingFiles<'_>,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<TrainReport, TrainingError> {
    let file = File::open(dataset).map_err(|e| TrainingError::Local(format!("{}: {e}", dataset.display())))?;
    let data = training_data(model, algorithm, BufReader::new(file))?;
    match (train::train(model, &data, options, files, progress), &files.checkpoints) {
        (Err(error @ (TrainError::Damaged { .. } | TrainError::OtherTraining { .. })), Some(checkpoints)) => {
            tracing::warn!(%error, "the training starts afresh");
            std::fs::remove_file(&checkpoints.file).map_err(|e| TrainingError::Local(e.to_string()))?;
            Ok(train::train(model, &data, options, files, progress)?)
        }
        (trained, _) => Ok(trained?),
    }
}

/// The engine's settings for these.
///
/// # Errors
/// A LoRA target that does not exist.
pub fn train_options(
    model: &Model,
    base_name: &str,
    shape: &LoraSpec,
    o: &OptimiserSpec,
    seed: u64,
) -> Result<TrainOptions, TrainingError> {
    // A row that is longer than the context is too long whatever the spec allows.
    let max_length = (o.max_length as usize).min(model.config.context_length);
    Ok(TrainOptions {
        lora: lora(shape)?,
        learning_rate: o.learning_rate,
        schedule: match o.schedule {
            proto::Schedule::Constant => Schedule::Constant,
            proto::Schedule::Linear => Schedule::Linear,
            proto::Schedule::Cosine => Schedule::Cosine,
        },
        warmup: o.warmup,
        weight_decay: o.weight_decay,
        max_grad_norm: o.max_grad_norm,
        batch_size: o.batch_size as usize,
        epochs: o.epochs as usize,
        max_length,
        long_rows: if o.cut_long_rows { LongRows::Cut } else { LongRows::Drop },
        seed,
        base_model: Some(base_name.to_owned()),
        graph_memory: None,
    })
}

fn lora(spec: &LoraSpec) -> Result<LoraConfig, TrainingError> {
    let projection = |name: &String| {
        Projection::from_name(name).ok_or_else(|| {
            let known: Vec<_> = Projection::ALL.iter().map(|p| p.name()).collect();
            TrainingError::Setting(format!("LoRA target `{name}` does not exist; there are {}", known.join(", ")))
        })
    };
    Ok(LoraConfig {
        rank: spec.rank as usize,
        alpha: spec.alpha,
        dropout: spec.dropout,
        rank_stabilized: spec.rank_stabilised,
        targets: spec.targets.iter().map(projection).collect::<Result<_, _>>()?,
    })
}

fn count(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::SystemTime;

    use super::*;

    /// Protects: what trainings left behind goes in the end, and nothing else does.
    #[test]
    fn old_states_are_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, age: Duration| {
            let file = File::create(folder.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        };
        let week = KEPT + Duration::from_secs(60);
        for (name, age) in
            [("a.checkpoint", week), ("b.1-0.partial", week), ("c.checkpoint", KEPT / 2), ("d.gguf", week)]
        {
            write(name, age);
        }
        remove_old_states(folder.path());
        let mut left: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["c.checkpoint", "d.gguf"]);
    }
}
