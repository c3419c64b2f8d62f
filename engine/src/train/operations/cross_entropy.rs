//! Negative log-likelihood of targets.

use super::tape::Tape;
use super::{held, vector};
use crate::attention::sum_of_exp;
use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

/// `-log softmax(logits)[target]` of each row, in nats: `[rows, vocab] -> [rows]`. Differentiable.
pub(super) fn losses(logits: &Tensor, targets: &[u32], tape: &Tape) -> Result<Tensor> {
    let (rows, width) = logits.dims2()?;
    if rows != targets.len() || targets.iter().any(|target| *target as usize >= width) {
        bail!("{} targets do not fit logits of shape [{rows}, {width}]", targets.len());
    }
    let values = logits.contiguous()?;
    let totals: Vec<f64> = held(&values)?.par_chunks_exact(width).map(log_sum_exp).collect();
    let of_targets =
        held(&values)?.chunks_exact(width).zip(targets).map(|(row, target)| row[*target as usize]).collect::<Vec<_>>();
    let losses = totals.iter().zip(of_targets).map(|(total, logit)| (total - f64::from(logit)) as f32);
    let losses = Tensor::from_iter(losses, logits.device())?;
    let targets = targets.to_vec();
    Ok(tape.record([logits], losses, move |grad| {
        let gradient = slopes(&held(&values)?, &targets, &totals, &grad.to_vec1()?);
        Ok([Tensor::from_vec(gradient, values.shape(), values.device())?])
    }))
}

/// Rows whose target has the highest logit.
pub(super) fn correct(logits: &Tensor, targets: &[u32]) -> Result<usize> {
    let width = logits.dim(1)?;
    let logits = logits.contiguous()?;
    let logits = held(&logits)?;
    let rows = logits.par_chunks_exact(width).zip(targets);
    Ok(rows.filter(|(row, target)| row.iter().all(|logit| *logit <= row[**target as usize])).count())
}

/// `softmax - one_hot(target)` of each row, times its loss's gradient. `totals` are the logarithms of the softmax's sums.
fn slopes(logits: &[f32], targets: &[u32], totals: &[f64], factors: &[f32]) -> Vec<f32> {
    let width = logits.len() / targets.len();
    let mut gradient = vec![0.0f32; logits.len()];
    gradient
        .par_chunks_exact_mut(width)
        .zip(logits.par_chunks_exact(width))
        .zip(targets.par_iter().zip(totals).zip(factors))
        .for_each(|((gradient, logits), ((target, total), factor))| {
            vector::weights_times(logits, *total as f32, *factor, gradient);
            gradient[*target as usize] -= factor;
        });
    gradient
}

fn log_sum_exp(row: &[f32]) -> f64 {
    let highest = vector::highest(row);
    f64::from(highest) + sum_of_exp(row, highest, 1.0).ln()
}
