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
use super::gradients::{Backward, Gradients, Ran};
use super::layer::{Base, Pass};
use super::operations::BaseWeight;
use super::parameters::Parameters;
use super::rows::ReadyRow;
use super::{TrainError, TrainOptions};
use crate::model::Model;

/// What a pass over rows needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trained<'a> {
    pub(super) model: &'a Model,
    pub(super) parameters: &'a Parameters,
    pub(super) options: &'a TrainOptions,
    /// Bytes that the graphs of the rows that are run at once may take.
    pub(super) graph_memory: usize,
    /// Tokens that go through the model at once, if that is not a single example with more.
    pub(super) pack_tokens: usize,
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
    /// A batch in stretches of examples that go through the model together.
    fn packs<'b>(self, objective: &dyn Objective, batch: &'b [usize]) -> Vec<&'b [usize]> {
        let tokens = |example: &usize| objective.rows(*example).iter().map(|row| row.ids.len()).sum();
        packs(batch, tokens, self.pack_tokens)
    }

    /// Runs `rows` as training does, with dropout if there is any, and keeps what their backward pass needs.
    fn run(self, rows: &[&ReadyRow], step: usize) -> Result<Box<dyn Backward + 'a>, TrainError> {
        let Self { model, parameters, options, graph_memory, .. } = self;
        let (rate, seed) = (options.lora.dropout, options.seed);
        let draw = |row: &&ReadyRow| DropoutDraw { seed, rate, step, row: row.index | usize::from(row.second) << 32 };
        let dropout = if rate > 0.0 { rows.iter().map(draw).collect() } else { Vec::new() };
        Ok(match model.placed_weights() {
            None => {
                let base = Base { config: &model.config, weights: &model.weights };
                let pass = Pass::new(base, parameters, rows, dropout)?;
                Box::new(Ran::new(parameters, pass, rows, graph_memory)?)
            }
            Some(weights) => {
                let pass = Pass::new(Base { config: &model.config, weights }, parameters, rows, dropout)?;
                Box::new(Ran::new(parameters, pass, rows, graph_memory)?)
            }
        })
    }

    /// The log-probabilities of the targets of each of `rows`, in nats. Without dropout. `heard` hears how many are known.
    fn log_probabilities(self, rows: &[&ReadyRow], heard: Heard<'_>) -> Result<Vec<f64>, TrainError> {
        let mut found = Vec::with_capacity(rows.len());
        for pack in packs(rows, |row| row.ids.len(), self.pack_tokens) {
            let losses = match self.model.placed_weights() {
                None => self.losses(Base { config: &self.model.config, weights: &self.model.weights }, pack)?,
                Some(weights) => self.losses(Base { config: &self.model.config, weights }, pack)?,
            };
            found.extend(losses.into_iter().map(|loss| -loss));
            if heard(found.len(), rows.len()).is_break() {
                return Err(TrainError::Stopped { step: 0, total: 0 });
            }
        }
        Ok(found)
    }

    fn losses<B: BaseWeight>(self, base: Base<'_, B>, rows: &[&ReadyRow]) -> Result<Vec<f64>, TrainError> {
        Pass::new(base, self.parameters, rows, Vec::new())?.losses(rows)
    }
}

/// Cuts a list into stretches of at most `most` tokens, or of one element with more.
fn packs<T>(all: &[T], tokens: impl Fn(&T) -> usize, most: usize) -> Vec<&[T]> {
    let mut packs = Vec::new();
    let (mut first, mut held) = (0, 0);
    for (place, element) in all.iter().enumerate() {
        let tokens = tokens(element);
        if place > first && held + tokens > most {
            packs.push(&all[first..place]);
            (first, held) = (place, 0);
        }
        held += tokens;
    }
    if first < all.len() {
        packs.push(&all[first..]);
    }
    packs
}

/// `1 / (1 + e^-x)`.
fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The mean; none of nothing.
fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}
