//! What a training gets and what it tells.

use serde::{Deserialize, Serialize};

use super::TrainError;
use super::objective::Measures;
use crate::lora::LoraConfig;

/// What an adapter is trained on, and so by which loss.
#[derive(Debug, Clone, PartialEq)]
pub enum TrainingData {
    /// Supervised fine-tuning: a step's loss is the mean negative log-likelihood of all targets of its rows, each counted
    /// with its row's weight.
    Supervised(Vec<TrainRow>),
    /// Kahneman-Tversky optimisation (arXiv 2402.01306) against the adapter that training starts from.
    Kto(Vec<KtoRow>, KtoOptions),
    /// Direct preference optimisation (arXiv 2305.18290) against the adapter that training starts from.
    Dpo(Vec<PreferenceRow>, DpoOptions),
}

/// One training text: its tokens, and which of them the model is to learn.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainRow {
    /// The tokens, from the first of the sequence on.
    pub ids: Vec<u32>,
    /// Of the same length: whether the token is a target. The first token has nothing before it to be
    /// predicted from and cannot be one.
    pub mask: Vec<bool>,
    /// How much the row counts, above 0: as if it stood so many times in its batch.
    pub weight: f32,
}

/// A reply that is to be favoured, or not.
#[derive(Debug, Clone, PartialEq)]
pub struct KtoRow {
    /// The tokens before the reply.
    pub prompt: Vec<u32>,
    /// Those of the reply, its end of turn included.
    pub completion: Vec<u32>,
    /// Whether it is to become more probable.
    pub desirable: bool,
    /// How much the row counts, above 0.
    pub weight: f32,
}

/// Two ways on from one beginning: replies to a prompt, or whole conversations.
#[derive(Debug, Clone, PartialEq)]
pub struct PreferenceRow {
    /// The one to favour.
    pub chosen: Sequence,
    /// The other one.
    pub rejected: Sequence,
}

/// Tokens, and which of them the model wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct Sequence {
    /// The tokens, from the first of the sequence on.
    pub ids: Vec<u32>,
    /// Of the same length, and not true for the first token.
    pub mask: Vec<bool>,
}

/// Settings of KTO.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KtoOptions {
    /// How hard the adapter is held to the reference, above 0.
    pub beta: f64,
    /// By which the losses of desirable rows are multiplied.
    pub desirable_weight: f64,
    /// Desirable rows that an undesirable one is to count for: the losses of undesirable rows are multiplied by
    /// `desirable * desirable_weight / (undesirable * target_ratio)`, counting the rows that fit.
    pub target_ratio: f64,
}

impl Default for KtoOptions {
    fn default() -> Self {
        Self { beta: 0.1, desirable_weight: 1.0, target_ratio: 1.0 }
    }
}

/// Settings of DPO.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DpoOptions {
    /// How hard the adapter is held to the reference, above 0.
    pub beta: f64,
}

impl Default for DpoOptions {
    fn default() -> Self {
        Self { beta: 0.1 }
    }
}

/// What happens to a row with more tokens than `max_length`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LongRows {
    /// It is left out and counted.
    #[default]
    Drop,
    /// Its end is cut off; if no target is left, it is left out. Both are counted.
    Cut,
}

/// How the learning rate goes over the steps, after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Schedule {
    /// It stays.
    #[default]
    Constant,
    /// Down to 0 in a straight line.
    Linear,
    /// Down to 0 along half a cosine.
    Cosine,
}

/// Settings of every training.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainOptions {
    /// The adapter's settings. Those of an adapter that training continues from must agree, dropout apart.
    pub lora: LoraConfig,
    /// Step size of AdamW.
    pub learning_rate: f64,
    /// How it goes over the steps.
    pub schedule: Schedule,
    /// Share of the steps, from the first on, in which the learning rate grows from 0 in a straight line.
    pub warmup: f64,
    /// Decoupled weight decay of AdamW (arXiv 1711.05101), per step times the learning rate.
    pub weight_decay: f64,
    /// The gradient's global norm is scaled down to this; infinity leaves it alone.
    pub max_grad_norm: f64,
    /// Rows per optimiser step. They go through the model one by one, on a device several at once, and their gradients are added
    /// up.
    pub batch_size: usize,
    /// Passes over the rows, each in its own order.
    pub epochs: usize,
    /// Tokens that a row may have; at most the model's context.
    pub max_length: usize,
    /// What happens to longer rows.
    pub long_rows: LongRows,
    /// The seed of the initial adapter, the order of the rows and the dropout.
    pub seed: u64,
    /// What the adapter's configuration names as its base model.
    pub base_model: Option<String>,
    /// Bytes that layers' graphs may take, from a row's forward pass to its backward pass; the layers that do not fit are run
    /// again. None: a quarter of what is free when training begins, on a device half. It changes the time, and no result.
    pub graph_memory: Option<usize>,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self {
            lora: LoraConfig::default(),
            learning_rate: 2e-4,
            schedule: Schedule::default(),
            warmup: 0.0,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            batch_size: 4,
            epochs: 1,
            max_length: 2048,
            long_rows: LongRows::default(),
            seed: 0,
            base_model: None,
            graph_memory: None,
        }
    }
}

impl TrainOptions {
    /// Checks the bounds of every setting against a model with a context of `context` tokens.
    pub(super) fn check(&self, context: usize) -> Result<(), TrainError> {
        self.lora.check()?;
        positive("learning_rate", self.learning_rate)?;
        if !(0.0..1.0).contains(&self.warmup) {
            return refuse("warmup", self.warmup.to_string(), "a share of the steps, 0 or more and below 1");
        }
        let decay = self.weight_decay;
        if !(decay.is_finite() && decay >= 0.0) {
            return refuse("weight_decay", decay.to_string(), "0 or more");
        }
        if self.max_grad_norm.is_nan() || self.max_grad_norm <= 0.0 {
            return refuse("max_grad_norm", self.max_grad_norm.to_string(), "above 0");
        }
        for (setting, value) in [("batch_size", self.batch_size), ("epochs", self.epochs)] {
            if value == 0 {
                return refuse(setting, "0".to_owned(), "1 or more");
            }
        }
        if self.max_length < 2 || self.max_length > context {
            let expected = format!("2 to {context}, the model's context");
            return refuse("max_length", self.max_length.to_string(), &expected);
        }
        Ok(())
    }
}

impl KtoOptions {
    pub(super) fn check(&self) -> Result<(), TrainError> {
        positive("beta", self.beta)?;
        positive("desirable_weight", self.desirable_weight)?;
        positive("target_ratio", self.target_ratio)
    }
}

impl DpoOptions {
    pub(super) fn check(&self) -> Result<(), TrainError> {
        positive("beta", self.beta)
    }
}

fn positive(setting: &'static str, value: f64) -> Result<(), TrainError> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    refuse(setting, value.to_string(), "above 0")
}

fn refuse(setting: &'static str, value: String, expected: &str) -> Result<(), TrainError> {
    Err(TrainError::Setting { setting, value, expected: expected.to_owned() })
}

/// What a training tells while it runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Progress {
    /// Before the first step: how many log-probabilities by the reference are known.
    Reference {
        /// So many.
        done: usize,
        /// Of so many.
        total: usize,
    },
    /// A step was taken.
    Step(Step),
}

/// Progress after an optimiser step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Step {
    /// The step that was just taken, from 1.
    pub step: usize,
    /// All steps of this training.
    pub total: usize,
    /// Of the step's batch, before the step.
    #[serde(flatten)]
    pub measures: Measures,
    /// The gradient's global norm before it was clipped.
    pub grad_norm: f64,
    /// That the step was taken with.
    pub learning_rate: f64,
    /// Tokens of the rows seen so far.
    pub tokens: u64,
    /// Seconds since the start, or since this process took the training up again.
    pub seconds: f64,
    /// Of the rows seen in that time.
    pub tokens_per_second: f64,
}

/// What a finished training did.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TrainReport {
    /// Optimiser steps taken.
    pub steps: usize,
    /// Rows trained on, each once per epoch.
    pub rows: usize,
    /// Rows left out for their length.
    pub dropped: usize,
    /// Rows whose end was cut off.
    pub cut: usize,
    /// Loss of the first step.
    pub first_loss: f64,
    /// Loss of the last step.
    pub last_loss: f64,
    /// Tokens of all rows seen, over all epochs.
    pub tokens: u64,
    /// Target tokens among them.
    pub target_tokens: u64,
    /// Wall time of this process.
    pub seconds: f64,
    /// Losses by step; of many, an even share.
    #[serde(default)]
    pub losses: Vec<(usize, f64)>,
}

/// The most points of a curve of losses.
const CURVE: usize = 512;

impl TrainReport {
    /// Notes the loss of a step. What is kept depends on the steps alone, so a training that was taken up has the curve of
    /// one that was not.
    pub(super) fn add_loss(&mut self, step: usize, loss: f64) {
        let stride = step.div_ceil(CURVE).next_power_of_two();
        self.losses.retain(|(step, _)| step.is_multiple_of(stride));
        if step.is_multiple_of(stride) {
            self.losses.push((step, loss));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_trainings_curve_is_thinned_evenly() {
        let mut report = TrainReport::default();
        (1..=10_000).for_each(|step| report.add_loss(step, step as f64));
        assert!((CURVE / 2..=CURVE).contains(&report.losses.len()), "{}", report.losses.len());
        assert!(report.losses.windows(2).all(|two| two[1].0 - two[0].0 == 32));
        assert!(report.losses.iter().all(|(step, loss)| *loss == *step as f64));
    }
}
