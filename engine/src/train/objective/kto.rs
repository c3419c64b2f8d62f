use super::super::KtoOptions;
use super::super::TrainError;
use super::super::gradients::Gradients;
use super::super::rows::{ReadyKto, ReadyRow};
use super::{Heard, Measures, Objective, Trained, mean, sigmoid};
use std::ops::ControlFlow;

/// How rows of both kinds count.
#[derive(Debug, Clone, Copy)]
pub(in crate::train) struct KtoWeights {
    pub(in crate::train) beta: f64,
    pub(in crate::train) desirable: f64,
    pub(in crate::train) undesirable: f64,
}

impl KtoWeights {
    /// With the weight of undesirable rows that makes the rows count as `target_ratio` desirable ones for each of them:
    /// `positives * desirable_weight / (negatives * target_ratio)`.
    pub(in crate::train) fn balanced(options: KtoOptions, examples: &[ReadyKto]) -> Result<Self, TrainError> {
        let positives = examples.iter().filter(|example| example.desirable).count();
        let negatives = examples.len() - positives;
        if positives == 0 || negatives == 0 {
            return Err(TrainError::OneSided { positives, negatives });
        }
        let KtoOptions { beta, desirable_weight, target_ratio } = options;
        let undesirable = positives as f64 * desirable_weight / (negatives as f64 * target_ratio);
        Ok(Self { beta, desirable: desirable_weight, undesirable })
    }
}

/// Kahneman-Tversky optimisation (arXiv 2402.01306, equations 7 and 8), as TRL computes it.
///
/// With `r` the log-probability of a reply less its log-probability by the reference, and `z` the mean of that over
/// mismatched pairs of the batch (each prompt with the reply of the one before it), at least 0: a desirable reply costs
/// `1 - sigmoid(beta (r - z))`, an undesirable one `1 - sigmoid(beta (z - r))`, each times its weight. `z` has no gradient.
#[derive(Debug)]
pub(in crate::train) struct Kto {
    examples: Vec<ReadyKto>,
    weights: KtoWeights,
    /// Tokens that a mismatched pair may have.
    max_length: usize,
    /// The reference's log-probabilities: of each example, then of the mismatched pairs of every step.
    reference: Vec<f64>,
    /// Where the pairs of each step begin in it.
    begins: Vec<usize>,
}

impl Kto {
    pub(in crate::train) fn new(examples: Vec<ReadyKto>, weights: KtoWeights, max_length: usize) -> Self {
        Self { examples, weights, max_length, reference: Vec::new(), begins: Vec::new() }
    }

    /// Each prompt of the batch with the reply of the example before it, the first with that of the last.
    fn mismatched_pairs(&self, batch: &[usize]) -> Vec<ReadyRow> {
        let before = batch.iter().cycle().skip(batch.len() - 1);
        batch.iter().zip(before).map(|(prompt, reply)| self.mismatched_pair(*prompt, *reply)).collect()
    }

    fn mismatched_pair(&self, prompt: usize, reply: usize) -> ReadyRow {
        let (prompt, reply) = (&self.examples[prompt].row, &self.examples[reply].row);
        let (prompt, reply) = (prompt.before_targets(), &reply.ids[reply.targets[0]..]);
        // A prompt is shorter than the limit, or its own reply had no token.
        let reply = &reply[..reply.len().min(self.max_length - prompt.len())];
        ReadyRow {
            index: usize::MAX,
            second: false,
            ids: [prompt, reply].concat(),
            targets: (prompt.len()..prompt.len() + reply.len()).collect(),
            weight: 1.0,
            tokens: prompt.len() + reply.len(),
        }
    }

    /// How far the model is from the reference.
    fn distance(&self, trained: Trained<'_>, step: usize, batch: &[usize]) -> Result<f64, TrainError> {
        let pairs = self.mismatched_pairs(batch);
        let pairs: Vec<&ReadyRow> = pairs.iter().collect();
        let now = trained.log_probabilities(&pairs, &mut |_, _| ControlFlow::Continue(()))?;
        let then = &self.reference[self.begins[step - 1]..];
        let ratios: Vec<f64> = now.iter().zip(then).map(|(now, then)| now - then).collect();
        // A mean that is not a number must not become 0.
        let mean = mean(&ratios).unwrap_or(0.0);
        Ok(if mean < 0.0 { 0.0 } else { mean })
    }
}

impl Objective for Kto {
    fn examples(&self) -> usize {
        self.examples.len()
    }

    fn rows(&self, example: usize) -> Vec<&ReadyRow> {
        vec![&self.examples[example].row]
    }

    fn least_batch(&self) -> usize {
        2
    }

    fn references(&self, start: Trained<'_>, batches: &[Vec<usize>], heard: Heard<'_>) -> Result<Vec<f64>, TrainError> {
        let mismatched: Vec<ReadyRow> = batches.iter().flat_map(|batch| self.mismatched_pairs(batch)).collect();
        let rows: Vec<&ReadyRow> = self.examples.iter().map(|example| &example.row).chain(&mismatched).collect();
        start.log_probabilities(&rows, heard)
    }

    fn refer(&mut self, references: Vec<f64>, batches: &[Vec<usize>]) {
        let mut end = self.examples.len();
        let begin_of = |batch: &Vec<usize>| {
            end += batch.len();
            end - batch.len()
        };
        self.begins = batches.iter().map(begin_of).collect();
        self.reference = references;
    }

    fn batch(
        &self,
        trained: Trained<'_>,
        step: usize,
        batch: &[usize],
        gradients: &mut Gradients,
    ) -> Result<Measures, TrainError> {
        let KtoWeights { beta, desirable: desirable_weight, undesirable: undesirable_weight } = self.weights;
        let kl = self.distance(trained, step, batch)?;
        let mut loss = 0.0;
        let (mut chosen, mut rejected) = (Vec::new(), Vec::new());
        for pack in trained.packs(self, batch) {
            let rows: Vec<&ReadyRow> = pack.iter().map(|example| &self.examples[*example].row).collect();
            let ran = trained.run(&rows, step)?;
            let mut factors = Vec::with_capacity(rows.len());
            for (example, row_loss) in pack.iter().zip(ran.losses()) {
                let ReadyKto { row, desirable } = &self.examples[*example];
                let ratio = -row_loss - self.reference[*example];
                let (side, weight, rewards) = match desirable {
                    true => (1.0, desirable_weight, &mut chosen),
                    false => (-1.0, undesirable_weight, &mut rejected),
                };
                rewards.push(beta * ratio);
                let value = sigmoid(side * beta * (ratio - kl));
                let share = weight * row.weight / batch.len() as f64;
                loss += share * (1.0 - value);
                // Of the loss by the row's negative log-likelihood.
                factors.push(share * side * beta * value * (1.0 - value));
            }
            ran.add_gradients(&factors, gradients)?;
        }
        let (chosen_reward, rejected_reward) = (mean(&chosen), mean(&rejected));
        Ok(Measures { loss, accuracy: None, kl: Some(kl), chosen_reward, rejected_reward })
    }
}
