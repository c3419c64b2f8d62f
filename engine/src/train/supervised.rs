//! Supervised fine-tuning.

use super::draws::{self, DropoutDraw};
use super::gradients::{Gradients, add_row_gradients};
use super::layer::Pass;
use super::optimizer::{self, AdamW};
use super::parameters::Parameters;
use super::rows::{ReadyRow, ReadyRows};
use super::{SftOptions, Step, TrainError, TrainReport, TrainRow};
use crate::model::Model;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

/// Trains a LoRA adapter to predict the targets of `rows` and writes it to the folder `output`.
///
/// A step's loss is the mean negative log-likelihood over all targets of its rows, each counted with its
/// row's weight. `start` is an adapter folder to continue from; the optimiser always starts afresh.
/// `progress` hears of every step and may end the training, which then writes nothing.
///
/// # Errors
/// [`TrainError`]: a setting or a row out of bounds, an adapter that does not fit, a loss or gradient that is
/// not finite, a disk that refuses. `output` then holds what it held before.
pub fn sft(
    model: &Model,
    start: Option<&Path>,
    rows: &[TrainRow],
    options: &SftOptions,
    output: &Path,
    progress: &mut dyn FnMut(Step) -> ControlFlow<()>,
) -> Result<TrainReport, TrainError> {
    if let Some(family) = model.config.gemma.as_ref().map(|_| model.config.architecture) {
        return Err(TrainError::Family(family));
    }
    options.check(model.config.context_length)?;
    let ready = ReadyRows::check(rows, options, model.config.vocab_size)?;
    let parameters = Parameters::new(&model.config, options, start)?;
    let mut training = Training {
        model,
        options,
        optimizer: AdamW::new(&parameters, options.weight_decay),
        parameters,
        report: TrainReport {
            steps: 0,
            rows: ready.rows.len(),
            dropped: ready.dropped,
            cut: ready.cut,
            first_loss: f64::NAN,
            last_loss: f64::NAN,
            tokens: 0,
            target_tokens: 0,
            seconds: 0.0,
        },
        started: Instant::now(),
    };
    training.run(&ready.rows, progress)?;
    let Training { parameters, mut report, started, .. } = training;
    parameters.weights().write(output, options.base_model.as_deref())?;
    report.seconds = started.elapsed().as_secs_f64();
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

struct Training<'a> {
    model: &'a Model,
    options: &'a SftOptions,
    parameters: Parameters,
    optimizer: AdamW,
    report: TrainReport,
    started: Instant,
}

impl Training<'_> {
    fn run(&mut self, rows: &[ReadyRow], progress: &mut dyn FnMut(Step) -> ControlFlow<()>) -> Result<(), TrainError> {
        let total = self.options.epochs * rows.len().div_ceil(self.options.batch_size);
        for epoch in 0..self.options.epochs {
            let order = draws::order(self.options.seed, epoch, rows.len());
            for batch in order.chunks(self.options.batch_size) {
                let batch: Vec<&ReadyRow> = batch.iter().map(|row| &rows[*row]).collect();
                let step = self.step(&batch, total)?;
                if progress(step).is_break() && step.step < total {
                    return Err(TrainError::Stopped { step: step.step, total });
                }
            }
        }
        Ok(())
    }

    fn step(&mut self, batch: &[&ReadyRow], total: usize) -> Result<Step, TrainError> {
        let step = self.report.steps + 1;
        let diverged = |what, value| TrainError::NotFinite {
            step,
            what,
            value,
            rows: batch.iter().map(|row| row.index).collect(),
        };
        let (gradients, loss) = self.batch_gradients(batch, step)?;
        if !loss.is_finite() {
            return Err(diverged("loss", loss));
        }
        let mut gradients = gradients.into_values(&self.parameters)?;
        let norm = optimizer::global_norm(&gradients);
        if !norm.is_finite() {
            return Err(diverged("gradient's norm", norm));
        }
        optimizer::clip(&mut gradients, norm, self.options.max_grad_norm);
        let rate = self.options.learning_rate * optimizer::schedule(step, total);
        self.optimizer.step(&self.parameters, &gradients, rate)?;
        Ok(self.record(batch, loss, norm, total))
    }

    /// The gradients of the batch's loss, and that loss.
    fn batch_gradients(&self, batch: &[&ReadyRow], step: usize) -> Result<(Gradients, f64), TrainError> {
        let weigh = |row: &&ReadyRow| row.weight * row.targets.len() as f64;
        let targets: f64 = batch.iter().map(weigh).sum();
        let mut gradients = Gradients::new(&self.parameters);
        let mut loss = 0.0;
        for row in batch {
            let rate = self.options.lora.dropout;
            let dropout = (rate > 0.0).then_some(DropoutDraw { seed: self.options.seed, rate, step, row: row.index });
            let pass = Pass::new(self.model, &self.parameters, dropout, row.ids.len() - 1)?;
            let weight = row.weight / targets;
            loss += weight * add_row_gradients(self.model, &self.parameters, &pass, row, weight, &mut gradients)?;
        }
        Ok((gradients, loss))
    }

    fn record(&mut self, batch: &[&ReadyRow], loss: f64, grad_norm: f64, total: usize) -> Step {
        let report = &mut self.report;
        report.steps += 1;
        if report.steps == 1 {
            report.first_loss = loss;
        }
        report.last_loss = loss;
        for row in batch {
            report.tokens += row.tokens as u64;
            report.target_tokens += row.targets.len() as u64;
        }
        Step {
            step: report.steps,
            total,
            loss,
            grad_norm,
            tokens: report.tokens,
            seconds: self.started.elapsed().as_secs_f64(),
        }
    }
}
