use super::super::TrainError;
use super::super::gradients::Gradients;
use super::super::options::KtoOptions;
use super::super::rows::{ReadyKto, ReadyRow};
use super::{Measures, Objective, Trained, mean, sigmoid};

/// Kahneman-Tversky optimisation (arXiv 2402.01306, equations 7 and 8), as TRL computes it.
///
/// With `r` the log-probability of a reply less its log-probability by the reference, and `z` the mean of that over
/// mismatched pairs of the batch (each prompt with the reply of the one before it), at least 0: a desirable reply costs
/// `1 - sigmoid(beta (r - z))`, an undesirable one `1 - sigmoid(beta (z - r))`, each times its weight. `z` has no gradient.
#[derive(Debug)]
pub(in crate::train) struct Kto {
    examples: Vec<ReadyKto>,
    options: KtoOptions,
    /// Tokens that a mismatched pair may have.
    max_length: usize,
    /// The reference's log-probability of each example.
    reference: Vec<f64>,
    /// Per step, the reference's log-probabilities of the mismatched pairs.
    mismatched: Vec<Vec<f64>>,
}

impl Kto {
    pub(in crate::train) fn new(examples: Vec<ReadyKto>, options: KtoOptions, max_length: usize) -> Self {
        Self { examples, options, max_length, reference: Vec::new(), mismatched: Vec::new() }
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
        let now = trained.log_probabilities(self.mismatched_pairs(batch).iter())?;
        let ratios: Vec<f64> = now.iter().zip(&self.mismatched[step - 1]).map(|(now, then)| now - then).collect();
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

    fn prepare(&mut self, start: Trained<'_>, batches: &[Vec<usize>]) -> Result<(), TrainError> {
        self.reference = start.log_probabilities(self.examples.iter().map(|example| &example.row))?;
        let pairs = |batch: &Vec<usize>| start.log_probabilities(self.mismatched_pairs(batch).iter());
        self.mismatched = batches.iter().map(pairs).collect::<Result<_, _>>()?;
        Ok(())
    }

    fn batch(
        &self,
        trained: Trained<'_>,
        step: usize,
        batch: &[usize],
        gradients: &mut Gradients,
    ) -> Result<Measures, TrainError> {
        let KtoOptions { beta, desirable_weight, undesirable_weight } = self.options;
        let kl = self.distance(trained, step, batch)?;
        let mut loss = 0.0;
        let (mut chosen, mut rejected) = (Vec::new(), Vec::new());
        for example in batch {
            let ReadyKto { row, desirable } = &self.examples[*example];
            let pass = trained.pass(row, step)?;
            let ran = trained.run(&pass, row)?;
            let ratio = -ran.loss() - self.reference[*example];
            let (side, weight, rewards) = match desirable {
                true => (1.0, desirable_weight, &mut chosen),
                false => (-1.0, undesirable_weight, &mut rejected),
            };
            rewards.push(beta * ratio);
            let value = sigmoid(side * beta * (ratio - kl));
            let share = weight * row.weight / batch.len() as f64;
            loss += share * (1.0 - value);
            // Of the loss by the row's negative log-likelihood.
            ran.add_gradients(share * side * beta * value * (1.0 - value), gradients)?;
        }
        let (chosen_reward, rejected_reward) = (mean(&chosen), mean(&rejected));
        Ok(Measures { loss, accuracy: None, kl: Some(kl), chosen_reward, rejected_reward })
    }
}
