//! The loop: batches, gradients, steps.

use super::checkpoint::{self, Checkpoint, Fingerprint};
use super::draws;
use super::gradients::Gradients;
use super::layer::Base;
use super::objective::{Dpo, Kto, KtoWeights, Measures, Objective, Supervised, Trained};
use super::optimizer::{self, AdamW};
use super::parameters::Parameters;
use super::rows::{Check, Ready};
use super::{Progress, Step, TrainError, TrainOptions, TrainReport, TrainingData};
use crate::batch::graph_budget;
use crate::model::Model;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Tokens that keep a large device busy.
const PACK_TOKENS: usize = 8192;

/// Where a training reads and writes.
#[derive(Debug, Clone)]
pub struct TrainingFiles<'a> {
    /// An adapter folder to continue from. The optimiser starts afresh.
    pub start: Option<&'a Path>,
    /// The folder of the trained adapter.
    pub output: &'a Path,
    /// Where the training's state is kept while it runs.
    pub checkpoints: Option<Checkpoints>,
}

/// A file with everything that is needed to go on.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    /// The file. If it is there, the training goes on from it; at the end it is removed.
    pub file: PathBuf,
    /// Steps between writing it, 1 or more.
    pub every: usize,
}

/// Trains a LoRA adapter on `data` and writes it.
///
/// `progress` may end the training, which then writes a last checkpoint, if it keeps any, and no adapter. On the CPU, a training
/// that goes on from a checkpoint ends with the adapter that it would have had without the break, bit for bit.
///
/// # Errors
/// [`TrainError`]: a setting or a row out of bounds, an adapter or a checkpoint that does not fit, a loss or gradient that
/// is not finite, a disk that refuses. The output then holds what it held before.
pub fn train(
    model: &Model,
    data: &TrainingData,
    options: &TrainOptions,
    files: &TrainingFiles<'_>,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<TrainReport, TrainError> {
    options.check(model.config.context_length)?;
    let (mut objective, mut report) = objective(model, data, options)?;
    let parameters = Parameters::new(&model.config, options, files.start, model.training_device())?;
    let batches = batches(options, objective.examples(), objective.least_batch())?;
    let mut training = Training {
        model,
        options,
        optimizer: AdamW::new(&parameters, options.weight_decay),
        batches,
        files,
        fingerprint: checkpoint::fingerprint(model, data, options, &parameters)?,
        reference: Vec::new(),
        parameters,
        started: Instant::now(),
        tokens_before: 0,
        graph_memory: options.graph_memory.unwrap_or_else(|| graph_budget(model.training_device())),
        pack_tokens: pack_tokens(model, options),
    };
    if !training.resume(&mut report)? {
        let heard = &mut |done, total| progress(Progress::Reference { done, total });
        let total = training.batches.len();
        let known = objective.references(training.trained(), &training.batches, heard);
        training.reference = known.map_err(|error| match error {
            TrainError::Stopped { step, .. } => TrainError::Stopped { step, total },
            other => other,
        })?;
    }
    objective.refer(training.reference.clone(), &training.batches);
    training.run(&*objective, &mut report, progress)?;
    training.parameters.weights().write(files.output, options.base_model.as_deref())?;
    if let Some(checkpoints) = &files.checkpoints {
        checkpoint::remove(&checkpoints.file)?;
    }
    report.seconds = training.started.elapsed().as_secs_f64();
    tracing::info!(
        steps = report.steps,
        rows = report.rows,
        tokens = report.tokens,
        first_loss = report.first_loss,
        last_loss = report.last_loss,
        "adapter trained"
    );
    Ok(report)
}

/// Tokens that go through the model at once.
fn pack_tokens(model: &Model, options: &TrainOptions) -> usize {
    // Packing saves a CPU next to nothing, and takes memory (docs/performance.md).
    let Some(weights) = model.placed_weights() else { return 0 };
    let token = Base { config: &model.config, weights }.graph_bytes(options.lora.dropout > 0.0);
    // Beside a layer's graph, there are its gradients and what its operations need while they run.
    (graph_budget(model.training_device()) / 4 / token).min(PACK_TOKENS)
}

/// The loss over the rows that fit.
fn objective(
    model: &Model,
    data: &TrainingData,
    options: &TrainOptions,
) -> Result<(Box<dyn Objective>, TrainReport), TrainError> {
    let check = Check { options, vocabulary: model.config.vocab_size };
    Ok(match data {
        TrainingData::Supervised(rows) => {
            let ready = check.rows(rows)?;
            let report = nothing_done(&ready);
            (Box::new(Supervised::new(ready.rows)), report)
        }
        TrainingData::Kto(rows, settings) => {
            settings.check()?;
            let ready = check.kto(rows)?;
            let report = nothing_done(&ready);
            let weights = KtoWeights::balanced(*settings, &ready.rows)?;
            (Box::new(Kto::new(ready.rows, weights, options.max_length)), report)
        }
        TrainingData::Dpo(rows, settings) => {
            settings.check()?;
            let ready = check.pairs(rows)?;
            let report = nothing_done(&ready);
            (Box::new(Dpo::new(ready.rows, *settings)), report)
        }
    })
}

fn nothing_done<T>(ready: &Ready<T>) -> TrainReport {
    TrainReport {
        steps: 0,
        rows: ready.rows.len(),
        dropped: ready.dropped,
        cut: ready.cut,
        first_loss: f64::NAN,
        last_loss: f64::NAN,
        tokens: 0,
        target_tokens: 0,
        seconds: 0.0,
        losses: Vec::new(),
    }
}

/// The examples of every step: each epoch in its own order. A rest that is too small for a batch joins the one before it.
fn batches(options: &TrainOptions, examples: usize, least: usize) -> Result<Vec<Vec<usize>>, TrainError> {
    if examples.min(options.batch_size) < least {
        return Err(TrainError::SmallBatch { examples, batch_size: options.batch_size, least });
    }
    let mut batches: Vec<Vec<usize>> = Vec::new();
    for epoch in 0..options.epochs {
        let order = draws::order(options.seed, epoch, examples);
        for batch in order.chunks(options.batch_size) {
            match batches.last_mut() {
                Some(last) if batch.len() < least => last.extend(batch),
                _ => batches.push(batch.to_vec()),
            }
        }
    }
    Ok(batches)
}

struct Training<'a> {
    model: &'a Model,
    options: &'a TrainOptions,
    parameters: Parameters,
    optimizer: AdamW,
    /// Of every step.
    batches: Vec<Vec<usize>>,
    files: &'a TrainingFiles<'a>,
    fingerprint: Fingerprint,
    /// Log-probabilities by the adapter that training started from.
    reference: Vec<f64>,
    started: Instant,
    /// Tokens of rows that an earlier process saw.
    tokens_before: u64,
    /// Bytes.
    graph_memory: usize,
    /// That go through the model at once.
    pack_tokens: usize,
}

impl Training<'_> {
    fn trained(&self) -> Trained<'_> {
        let Self { model, parameters, options, graph_memory, pack_tokens, .. } = self;
        Trained { model, parameters, options, graph_memory: *graph_memory, pack_tokens: *pack_tokens }
    }

    /// Goes back to the checkpoint, if there is one.
    fn resume(&mut self, report: &mut TrainReport) -> Result<bool, TrainError> {
        let Some(checkpoints) = &self.files.checkpoints else { return Ok(false) };
        if checkpoints.every == 0 {
            let expected = "1 or more".to_owned();
            return Err(TrainError::Setting { setting: "checkpoint_steps", value: "0".to_owned(), expected });
        }
        let Some(mut checkpoint) = Checkpoint::read(&checkpoints.file, &self.fingerprint)? else { return Ok(false) };
        tracing::info!(step = checkpoint.report.steps, file = %checkpoints.file.display(), "training goes on");
        self.reference = std::mem::take(&mut checkpoint.reference);
        *report = checkpoint.restore(&self.parameters, &mut self.optimizer)?;
        self.tokens_before = report.tokens;
        Ok(true)
    }

    fn run(
        &mut self,
        objective: &dyn Objective,
        report: &mut TrainReport,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<(), TrainError> {
        let total = self.batches.len();
        while report.steps < total {
            let step = self.step(objective, report)?;
            // Told before it is kept: who writes steps down has those before the one that a checkpoint goes on with.
            let stopped = progress(Progress::Step(step)).is_break();
            if step.step == total {
                break;
            }
            if let Some(Checkpoints { file, every }) = &self.files.checkpoints
                && (stopped || step.step % every == 0)
            {
                let (parameters, optimizer) = (&self.parameters, &self.optimizer);
                checkpoint::write(file, &self.fingerprint, parameters, optimizer, report, &self.reference)?;
            }
            if stopped {
                return Err(TrainError::Stopped { step: step.step, total });
            }
        }
        Ok(())
    }

    fn step(&mut self, objective: &dyn Objective, report: &mut TrainReport) -> Result<Step, TrainError> {
        let (step, total) = (report.steps + 1, self.batches.len());
        let batch = &self.batches[step - 1];
        let rows = || batch.iter().flat_map(|example| objective.rows(*example));
        let diverged = |what, value| {
            let mut rows: Vec<usize> = rows().map(|row| row.index).collect();
            rows.dedup();
            TrainError::NotFinite { step, what, value, rows }
        };
        let mut gradients = Gradients::new(&self.parameters);
        let measures = objective.batch(self.trained(), step, batch, &mut gradients)?;
        if !measures.loss.is_finite() {
            return Err(diverged("loss", measures.loss));
        }
        let mut gradients = gradients.into_values(&self.parameters)?;
        let grad_norm = optimizer::global_norm(&gradients);
        if !grad_norm.is_finite() {
            return Err(diverged("gradient's norm", grad_norm));
        }
        optimizer::clip(&mut gradients, grad_norm, self.options.max_grad_norm);
        let learning_rate = self.options.learning_rate * optimizer::share_of_rate(self.options, step, total);
        record(report, &measures, rows().map(|row| (row.tokens, row.targets.len())));
        self.optimizer.step(&self.parameters, &gradients, learning_rate)?;
        let seconds = self.started.elapsed().as_secs_f64();
        let tokens_per_second = (report.tokens - self.tokens_before) as f64 / seconds.max(1e-9);
        Ok(Step { step, total, measures, grad_norm, learning_rate, tokens: report.tokens, seconds, tokens_per_second })
    }
}

fn record(report: &mut TrainReport, measures: &Measures, rows: impl Iterator<Item = (usize, usize)>) {
    report.steps += 1;
    if report.steps == 1 {
        report.first_loss = measures.loss;
    }
    report.last_loss = measures.loss;
    report.add_loss(report.steps, measures.loss);
    for (tokens, targets) in rows {
        report.tokens += tokens as u64;
        report.target_tokens += targets as u64;
    }
}
