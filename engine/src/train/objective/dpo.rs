use super::super::TrainError;
use super::super::gradients::Gradients;
use super::super::options::DpoOptions;
use super::super::rows::{ReadyPair, ReadyRow};
use super::{Heard, Measures, Objective, Trained, mean, sigmoid};

/// Direct preference optimisation (arXiv 2305.18290, equation 7).
///
/// With `r` the log-probability of a reply less its log-probability by the reference: `-log sigmoid(beta (r of the chosen
/// reply - r of the rejected one))`, the mean over a batch.
#[derive(Debug)]
pub(in crate::train) struct Dpo {
    pairs: Vec<ReadyPair>,
    options: DpoOptions,
    /// The reference's log-probabilities: of each pair, the chosen one's and the rejected one's.
    reference: Vec<f64>,
}

impl Dpo {
    pub(in crate::train) fn new(pairs: Vec<ReadyPair>, options: DpoOptions) -> Self {
        Self { pairs, options, reference: Vec::new() }
    }
}

impl Objective for Dpo {
    fn examples(&self) -> usize {
        self.pairs.len()
    }

    fn rows(&self, example: usize) -> Vec<&ReadyRow> {
        let ReadyPair { chosen, rejected } = &self.pairs[example];
        vec![chosen, rejected]
    }

    fn references(&self, start: Trained<'_>, _: &[Vec<usize>], heard: Heard<'_>) -> Result<Vec<f64>, TrainError> {
        let rows: Vec<&ReadyRow> = self.pairs.iter().flat_map(|pair| [&pair.chosen, &pair.rejected]).collect();
        start.references(&rows, heard)
    }

    fn refer(&mut self, references: Vec<f64>, _: &[Vec<usize>]) {
        self.reference = references;
    }

    fn batch(
        &self,
        trained: Trained<'_>,
        step: usize,
        batch: &[usize],
        gradients: &mut Gradients,
    ) -> Result<Measures, TrainError> {
        let DpoOptions { beta } = self.options;
        let trained = Trained { graph_memory: trained.graph_memory / 2, ..trained };
        let share = 1.0 / batch.len() as f64;
        let (mut loss, mut favoured) = (0.0, 0);
        let (mut chosen, mut rejected) = (Vec::new(), Vec::new());
        for example in batch {
            let pair = &self.pairs[*example];
            let passes = (trained.pass(&pair.chosen, step)?, trained.pass(&pair.rejected, step)?);
            let ran = (trained.run(&passes.0, &pair.chosen)?, trained.run(&passes.1, &pair.rejected)?);
            let (chosen_then, rejected_then) = (self.reference[2 * example], self.reference[2 * example + 1]);
            let rewards = (beta * (-ran.0.loss() - chosen_then), beta * (-ran.1.loss() - rejected_then));
            let margin = rewards.0 - rewards.1;
            favoured += usize::from(margin > 0.0);
            chosen.push(rewards.0);
            rejected.push(rewards.1);
            // log(1 + e^-margin), without overflow.
            loss += share * ((-margin).max(0.0) + (-margin.abs()).exp().ln_1p());
            // Of the loss by the negative log-likelihood of the chosen reply; of the rejected one, the opposite.
            let slope = share * beta * sigmoid(-margin);
            ran.0.add_gradients(slope, gradients)?;
            ran.1.add_gradients(-slope, gradients)?;
        }
        Ok(Measures {
            loss,
            accuracy: Some(favoured as f64 * share),
            kl: None,
            chosen_reward: mean(&chosen),
            rejected_reward: mean(&rejected),
        })
    }
}
