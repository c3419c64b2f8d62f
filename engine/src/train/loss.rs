//! Negative log-likelihood of the targets, with logits for a few positions at a time.

use super::layer::{Base, Pass};
use super::operations::{BaseWeight, Tape};
use super::rows::ReadyRow;
use candle_core::{Result, Tensor, bail};

/// The rows' losses at the output, and what their backward pass begins with.
#[derive(Debug)]
pub(super) struct HeadLoss {
    /// Of each row, the sum over its targets of the negative log-likelihood, in nats.
    pub(super) sums: Vec<f64>,
    /// Targets of all rows that have the highest logit.
    pub(super) correct: usize,
    /// Of each row's sum by the last layer's outputs, of their shape.
    pub(super) gradient: Tensor,
}

/// Norm, logits and loss for the targets of `rows`, of which `hidden [tokens, width]` are the last layer's outputs.
pub(super) fn head_loss<B: BaseWeight>(pass: &Pass<'_, B>, hidden: &Tensor, rows: &[&ReadyRow]) -> Result<HeadLoss> {
    let all = targets(rows);
    let (mut sums, mut correct) = (vec![0.0; rows.len()], 0);
    let mut gradients = Vec::new();
    for targets in all.chunks(B::loss_positions(pass.base.config.vocab_size)) {
        let tape = Tape::on();
        let chunk = Chunk::new(pass, hidden, targets, &tape)?;
        chunk.add_to(&mut sums)?;
        correct += B::correct(&chunk.logits, &chunk.wanted)?;
        let slopes = tape.backward(&chunk.losses, chunk.losses.ones_like()?)?;
        let Some(rows) = slopes.of(&chunk.rows) else {
            bail!("the output projection cut the gradient");
        };
        gradients.push(rows.clone());
    }
    // Where nothing is predicted, the row of zeros behind them.
    let mut places = vec![all.len() as u32; hidden.dim(0)?];
    (0..).zip(&all).for_each(|(place, target)| places[target.position as usize] = place);
    let gradients = Tensor::cat(&gradients, 0)?.pad_with_zeros(0, 0, 1)?;
    let gradient = gradients.index_select(&Tensor::new(places, hidden.device())?, 0)?;
    Ok(HeadLoss { sums, correct, gradient })
}

/// The sums of [`head_loss`] alone.
pub(super) fn head_sums<B: BaseWeight>(pass: &Pass<'_, B>, hidden: &Tensor, rows: &[&ReadyRow]) -> Result<Vec<f64>> {
    let mut sums = vec![0.0; rows.len()];
    for targets in targets(rows).chunks(B::loss_positions(pass.base.config.vocab_size)) {
        Chunk::new(pass, hidden, targets, &Tape::off())?.add_to(&mut sums)?;
    }
    Ok(sums)
}

/// Of some of the last layer's outputs `[rows, width]`: `[rows, vocab]`. Differentiable.
pub(super) fn logits<B: BaseWeight>(
    Base { config, weights }: Base<'_, B>,
    rows: &Tensor,
    tape: &Tape,
) -> Result<Tensor> {
    let normed = B::rms_norm(rows, &weights.norm, config.rms_norm_eps, tape)?;
    let logits = weights.lm_head.frozen(&normed, tape)?;
    match config.gemma.as_ref().and_then(|gemma| gemma.logit_softcap) {
        Some(cap) => tape.bounded(&logits, f64::from(cap)),
        None => Ok(logits),
    }
}

/// One target.
#[derive(Debug, Clone, Copy)]
struct Target {
    row: usize,
    /// Where it is predicted, among the tokens of all rows.
    position: u32,
    token: u32,
}

/// Token `t` of a row is predicted at its position `t - 1`.
fn targets(rows: &[&ReadyRow]) -> Vec<Target> {
    let mut first = 0;
    let mut all = Vec::new();
    for (row, ReadyRow { ids, targets, .. }) in rows.iter().enumerate() {
        let of = |target: &usize| Target { row, position: (first + target - 1) as u32, token: ids[*target] };
        all.extend(targets.iter().map(of));
        first += ids.len() - 1;
    }
    all
}

/// Some of the targets.
struct Chunk<'a> {
    targets: &'a [Target],
    /// The last layer's outputs there.
    rows: Tensor,
    logits: Tensor,
    wanted: Vec<u32>,
    losses: Tensor,
}

impl<'a> Chunk<'a> {
    fn new<B: BaseWeight>(pass: &Pass<'_, B>, hidden: &Tensor, targets: &'a [Target], tape: &Tape) -> Result<Self> {
        let positions: Vec<u32> = targets.iter().map(|target| target.position).collect();
        let positions = Tensor::new(positions, hidden.device())?;
        let wanted: Vec<u32> = targets.iter().map(|target| target.token).collect();
        let rows = hidden.index_select(&positions, 0)?;
        let logits = logits(pass.base, &rows, tape)?;
        let losses = B::losses(&logits, &wanted, tape)?;
        Ok(Self { targets, rows, logits, wanted, losses })
    }

    fn add_to(&self, sums: &mut [f64]) -> Result<()> {
        for (target, loss) in self.targets.iter().zip(self.losses.to_vec1::<f32>()?) {
            sums[target.row] += f64::from(loss);
        }
        Ok(())
    }
}
