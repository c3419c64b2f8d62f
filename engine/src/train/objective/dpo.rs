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
        start.log_probabilities(&rows, heard)
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
        let share = 1.0 / batch.len() as f64;
        let (mut loss, mut favoured) = (0.0, 0);
        let (mut chosen, mut rejected) = (Vec::new(), Vec::new());
        for pack in trained.packs(self, batch) {
            let rows: Vec<&ReadyRow> = pack.iter().flat_map(|example| self.rows(*example)).collect();
            let ran = trained.run(&rows, step)?;
            let mut factors = Vec::with_capacity(rows.len());
            for (example, losses) in pack.iter().zip(ran.losses().as_chunks::<2>().0) {
                let reward = |side: usize| beta * (-losses[side] - self.reference[2 * example + side]);
                let margin = reward(0) - reward(1);
                favoured += usize::from(margin > 0.0);
                chosen.push(reward(0));
                rejected.push(reward(1));
                // log(1 + e^-margin), without overflow.
                loss += share * ((-margin).max(0.0) + (-margin.abs()).exp().ln_1p());
                // Of the loss by the negative log-likelihood of the chosen reply; of the rejected one, the opposite.
                let slope = share * beta * sigmoid(-margin);
                factors.extend([slope, -slope]);
            }
            ran.add_gradients(&factors, gradients)?;
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
