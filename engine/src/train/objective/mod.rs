//! Losses over batches of examples. Each is a function of the examples' log-probabilities, so that a backward pass needs
//! one factor for each.

mod dpo;
mod kto;
mod supervised;

pub(super) use dpo::Dpo;
pub(super) use kto::{Kto, KtoWeights};
pub(super) use supervised::Supervised;

use std::ops::ControlFlow;

use super::draws::DropoutDraw;
use super::gradients::{Gradients, Ran};
use super::layer::Pass;
use super::parameters::Parameters;
use super::rows::ReadyRow;
use super::{TrainError, TrainOptions};
use crate::model::Model;

/// What a pass over a row needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trained<'a> {
    pub(super) model: &'a Model,
    pub(super) parameters: &'a Parameters,
    pub(super) options: &'a TrainOptions,
    /// Bytes that the graphs of the rows that are run at once may take.
    pub(super) graph_memory: usize,
}

/// What a step measures before it changes the adapter.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
pub struct Measures {
    /// The batch's loss: of supervised training in nats per target.
    pub loss: f64,
    /// Share of the targets that the model would have chosen, or of the pairs whose chosen reply it favours more than
    /// the reference does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// KTO's estimate of how far the model is from the reference, in nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
    /// Mean implicit reward of the desirable or chosen replies, if the batch has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen_reward: Option<f64>,
    /// Mean implicit reward of the undesirable or rejected replies, if the batch has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejected_reward: Option<f64>,
}

/// Hears how many log-probabilities by the reference are known, and of how many; may end the training.
pub(super) type Heard<'a> = &'a mut dyn FnMut(usize, usize) -> ControlFlow<()>;

/// A loss, and what it is computed on.
pub(super) trait Objective {
    /// Examples to train on.
    fn examples(&self) -> usize;

    /// The rows that an example is made of.
    fn rows(&self, example: usize) -> Vec<&ReadyRow>;

    /// The fewest examples that a batch can have.
    fn least_batch(&self) -> usize {
        1
    }

    /// Before the first step: the log-probabilities that have to be known by the adapter that training starts from.
    fn references(&self, start: Trained<'_>, batches: &[Vec<usize>], heard: Heard<'_>) -> Result<Vec<f64>, TrainError>;

    /// Takes them, those of this process or of an earlier one.
    fn refer(&mut self, references: Vec<f64>, batches: &[Vec<usize>]);

    /// Adds the gradients of the loss of `batch`, the one of this step.
    fn batch(
        &self,
        trained: Trained<'_>,
        step: usize,
        batch: &[usize],
        gradients: &mut Gradients,
    ) -> Result<Measures, TrainError>;
}

impl<'a> Trained<'a> {
    /// A pass over `row` in training: with dropout, if there is any.
    fn pass(self, row: &ReadyRow, step: usize) -> Result<Pass<'a>, TrainError> {
        let rate = self.options.lora.dropout;
        let draw = DropoutDraw { seed: self.options.seed, rate, step, row: row.index | usize::from(row.second) << 32 };
        Ok(Pass::new(self.model, self.parameters, (rate > 0.0).then_some(draw), row.ids.len() - 1)?)
    }

    /// A pass over `row` with what its backward pass needs.
    fn run(self, pass: &'a Pass<'a>, row: &ReadyRow) -> Result<Ran<'a>, TrainError> {
        Ran::new(self.model, self.parameters, pass, row, self.graph_memory)
    }

    /// The log-probability of a row's targets, in nats. Without dropout.
    fn log_probability(self, row: &ReadyRow) -> Result<f64, TrainError> {
        let pass = Pass::new(self.model, self.parameters, None, row.ids.len() - 1)?;
        Ok(-pass.loss(row)?)
    }

    /// As [`Self::log_probability`], of each of `rows`; `heard` hears of every one.
    fn references(self, rows: &[&ReadyRow], heard: Heard<'_>) -> Result<Vec<f64>, TrainError> {
        let mut found = Vec::with_capacity(rows.len());
        for row in rows {
            found.push(self.log_probability(row)?);
            if heard(found.len(), rows.len()).is_break() {
                return Err(TrainError::Stopped { step: 0, total: 0 });
            }
        }
        Ok(found)
    }
}

/// `1 / (1 + e^-x)`.
fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The mean; none of nothing.
fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}
