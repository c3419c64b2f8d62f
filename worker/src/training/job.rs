//! One training job, from its spec to the uploaded adapter.

use std::fs::File;
use std::io::BufReader;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use influence_engine::lora::{LoraConfig, Projection};
use influence_engine::model::Model;
use influence_engine::train::{self, LongRows, SftOptions, Step, TrainReport};
use influence_proto::{AdapterRef, Algorithm, LoraSpec, TrainingReport, TrainingSpec};

use super::{TrainingError, rows_from_jsonl};
use crate::artifacts::{ADAPTER_CONFIG, ADAPTER_WEIGHTS, ArtifactCache};

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

/// Trains, and uploads the adapter. `progress` hears of every step and may stop the training.
pub(crate) async fn run(
    job: Job,
    spec: &TrainingSpec,
    mut progress: impl FnMut(Step) -> ControlFlow<()> + Send + 'static,
) -> Result<TrainingReport, TrainingError> {
    let options = options(&job, spec)?;
    let dataset = job.artifacts.get(spec.dataset).await?;
    let start = match spec.start {
        Some(adapter) => Some(job.artifacts.adapter(adapter).await?),
        None => None,
    };
    let disk = |e: std::io::Error| TrainingError::Local(format!("{}: {e}", job.scratch.display()));
    std::fs::create_dir_all(&job.scratch).map_err(disk)?;
    let scratch = tempfile::tempdir_in(&job.scratch).map_err(disk)?;
    let output = scratch.path().join("adapter");
    let Algorithm::Sft = spec.algorithm;
    let model = job.model.clone();
    let written = output.clone();
    // With the files, which stay in the cache for as long as they are read.
    let trained =
        tokio::task::spawn_blocking(move || sft(&model, start.as_deref(), &dataset, &options, &written, &mut progress));
    let report = trained.await.map_err(|e| TrainingError::Local(format!("the training's thread ended: {e}")))??;
    let adapter = AdapterRef {
        config: job.artifacts.put(&output.join(ADAPTER_CONFIG)).await?,
        weights: job.artifacts.put(&output.join(ADAPTER_WEIGHTS)).await?,
    };
    Ok(TrainingReport {
        adapter,
        steps: count(report.steps),
        rows: count(report.rows),
        dropped_rows: count(report.dropped),
        tokens: report.target_tokens,
        first_loss: report.first_loss,
        last_loss: report.last_loss,
    })
}

fn sft(
    model: &Model,
    start: Option<&Path>,
    dataset: &Path,
    options: &SftOptions,
    output: &Path,
    progress: &mut dyn FnMut(Step) -> ControlFlow<()>,
) -> Result<TrainReport, TrainingError> {
    let file = File::open(dataset).map_err(|e| TrainingError::Local(format!("{}: {e}", dataset.display())))?;
    let rows = rows_from_jsonl(model, BufReader::new(file))?;
    Ok(train::sft(model, start, &rows, options, output, progress)?)
}

fn options(job: &Job, spec: &TrainingSpec) -> Result<SftOptions, TrainingError> {
    let o = &spec.optimiser;
    // A row that is longer than the context is too long whatever the spec allows.
    let max_length = (o.max_length as usize).min(job.model.config.context_length);
    Ok(SftOptions {
        lora: lora(&spec.lora)?,
        learning_rate: o.learning_rate,
        weight_decay: o.weight_decay,
        max_grad_norm: o.max_grad_norm,
        batch_size: o.batch_size as usize,
        epochs: o.epochs as usize,
        max_length,
        long_rows: if o.cut_long_rows { LongRows::Cut } else { LongRows::Drop },
        seed: spec.seed,
        base_model: Some(job.base_name.clone()),
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
