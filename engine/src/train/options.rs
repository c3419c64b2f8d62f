//! What a training gets and what it tells.

use super::TrainError;
use crate::lora::LoraConfig;

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

/// What happens to a row with more tokens than `max_length`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LongRows {
    /// It is left out and counted.
    #[default]
    Drop,
    /// Its end is cut off; if no target is left, it is left out. Both are counted.
    Cut,
}

/// Settings of supervised fine-tuning.
#[derive(Debug, Clone, PartialEq)]
pub struct SftOptions {
    /// The adapter's settings. Those of an adapter that training continues from must agree, dropout apart.
    pub lora: LoraConfig,
    /// Step size of AdamW.
    pub learning_rate: f64,
    /// Decoupled weight decay of AdamW (arXiv 1711.05101), per step times the learning rate.
    pub weight_decay: f64,
    /// The gradient's global norm is scaled down to this; infinity leaves it alone.
    pub max_grad_norm: f64,
    /// Rows per optimiser step.
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
}

impl Default for SftOptions {
    fn default() -> Self {
        Self {
            lora: LoraConfig::default(),
            learning_rate: 2e-4,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            batch_size: 4,
            epochs: 1,
            max_length: 2048,
            long_rows: LongRows::default(),
            seed: 0,
            base_model: None,
        }
    }
}

impl SftOptions {
    /// Checks the bounds of every setting against a model with a context of `context` tokens.
    pub(super) fn check(&self, context: usize) -> Result<(), TrainError> {
        self.lora.check()?;
        let refuse = |setting, value: String, expected: String| Err(TrainError::Setting { setting, value, expected });
        let rate = self.learning_rate;
        if !(rate.is_finite() && rate > 0.0) {
            return refuse("learning_rate", rate.to_string(), "above 0".to_owned());
        }
        let decay = self.weight_decay;
        if !(decay.is_finite() && decay >= 0.0) {
            return refuse("weight_decay", decay.to_string(), "0 or more".to_owned());
        }
        if self.max_grad_norm.is_nan() || self.max_grad_norm <= 0.0 {
            let value = self.max_grad_norm.to_string();
            return refuse("max_grad_norm", value, "above 0".to_owned());
        }
        for (setting, value) in [("batch_size", self.batch_size), ("epochs", self.epochs)] {
            if value == 0 {
                return refuse(setting, "0".to_owned(), "1 or more".to_owned());
            }
        }
        if self.max_length < 2 || self.max_length > context {
            let value = self.max_length.to_string();
            let expected = format!("2 to {context}, the model's context");
            return refuse("max_length", value, expected);
        }
        Ok(())
    }
}

/// Progress after an optimiser step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// The step that was just taken, from 1.
    pub step: usize,
    /// All steps of this training.
    pub total: usize,
    /// Mean negative log-likelihood of the step's targets, in nats per token, before the step.
    pub loss: f64,
    /// The gradient's global norm before it was clipped.
    pub grad_norm: f64,
    /// Tokens of the rows seen so far.
    pub tokens: u64,
    /// Seconds since the start.
    pub seconds: f64,
}

/// What a finished training did.
#[derive(Debug, Clone, PartialEq)]
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
    /// Wall time.
    pub seconds: f64,
}
