//! Negative log-likelihood of the targets, with logits for a few positions at a time.

use super::operations;
use crate::attention::{exp, sum_of_exp, with_slice};
use crate::model::Model;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, Var, WithDType, bail};
use rayon::prelude::*;

/// Positions whose logits exist at once: with a vocabulary of 49,152, 12 MB.
const CHUNK: usize = 64;

/// `-log softmax(logits)[target]` of each row, in nats: `[rows, vocab] -> [rows]`. Differentiable.
pub(super) fn negative_log_likelihood(logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
    logits.contiguous()?.apply_op1(CrossEntropy { targets: targets.to_vec() })
}

/// A row's loss at the output, and what its backward pass begins with.
#[derive(Debug)]
pub(super) struct HeadLoss {
    /// The sum over the targets of the negative log-likelihood, in nats.
    pub(super) sum: f64,
    /// Targets that have the highest logit.
    pub(super) correct: usize,
    /// Of `sum` by the last layer's output, of its shape.
    pub(super) gradient: Tensor,
}

/// Norm, logits and loss for the targets of `ids`, of which `hidden [tokens, width]` are the last layer's
/// outputs; token `t` is predicted at position `t - 1`.
pub(super) fn head_loss(model: &Model, hidden: &Tensor, ids: &[u32], targets: &[usize]) -> Result<HeadLoss> {
    let mut gradient = hidden.zeros_like()?;
    let (mut sum, mut correct) = (0.0, 0);
    for targets in targets.chunks(CHUNK) {
        let chunk = Chunk::new(model, hidden, ids, targets)?;
        sum += chunk.sum()?;
        correct += chunk.correct()?;
        let store = chunk.losses.sum_all()?.backward()?;
        let Some(rows) = store.get(chunk.rows.as_tensor()) else {
            bail!("the output projection cut the gradient");
        };
        gradient = gradient.index_add(&chunk.positions, rows, 0)?;
    }
    Ok(HeadLoss { sum, correct, gradient })
}

/// The sum of [`head_loss`] alone.
pub(super) fn head_sum(model: &Model, hidden: &Tensor, ids: &[u32], targets: &[usize]) -> Result<f64> {
    targets.chunks(CHUNK).map(|targets| Chunk::new(model, hidden, ids, targets)?.sum()).sum()
}

/// Of some of the last layer's outputs `[rows, width]`: `[rows, vocab]`. Differentiable.
pub(super) fn logits(model: &Model, rows: &Tensor) -> Result<Tensor> {
    let normed = operations::rms_norm(rows, &model.weights.norm, model.config.rms_norm_eps)?;
    let logits = model.weights.lm_head.forward(&normed)?;
    match model.config.gemma.as_ref().and_then(|gemma| gemma.logit_softcap) {
        Some(cap) => logits.affine(1.0 / f64::from(cap), 0.0)?.tanh()? * f64::from(cap),
        None => Ok(logits),
    }
}

/// Some of a row's targets.
struct Chunk {
    /// Where they are predicted.
    positions: Tensor,
    /// The last layer's outputs there: a leaf.
    rows: Var,
    logits: Tensor,
    wanted: Vec<u32>,
    losses: Tensor,
}

impl Chunk {
    fn new(model: &Model, hidden: &Tensor, ids: &[u32], targets: &[usize]) -> Result<Self> {
        let positions: Vec<u32> = targets.iter().map(|target| *target as u32 - 1).collect();
        let positions = Tensor::new(positions, hidden.device())?;
        let wanted: Vec<u32> = targets.iter().map(|target| ids[*target]).collect();
        let rows = Var::from_tensor(&hidden.index_select(&positions, 0)?)?;
        let logits = logits(model, &rows)?;
        let losses = negative_log_likelihood(&logits, &wanted)?;
        Ok(Self { positions, rows, logits, wanted, losses })
    }

    fn sum(&self) -> Result<f64> {
        Ok(self.losses.to_vec1::<f32>()?.into_iter().map(f64::from).sum())
    }

    fn correct(&self) -> Result<usize> {
        let width = self.logits.dim(1)?;
        with_slice(&self.logits, |logits| {
            let rows = logits.par_chunks_exact(width).zip(&self.wanted);
            rows.filter(|(row, wanted)| row.iter().all(|logit| *logit <= row[**wanted as usize])).count()
        })
    }
}

/// Rows of logits to losses.
struct CrossEntropy {
    targets: Vec<u32>,
}

/// Rows of logits to `softmax - one_hot(target)`, each row times its loss's gradient.
struct CrossEntropyGradient<'a> {
    targets: &'a [u32],
    factors: Vec<f32>,
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (logits, width) = rows_of(storage, layout, &self.targets)?;
        let losses: Vec<f32> = logits
            .par_chunks_exact(width)
            .zip(&self.targets)
            .map(|(row, target)| (log_sum_exp(row) - f64::from(row[*target as usize])) as f32)
            .collect();
        let count = losses.len();
        Ok((CpuStorage::F32(losses), Shape::from(count)))
    }

    fn bwd(&self, logits: &Tensor, _losses: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let operation = CrossEntropyGradient { targets: &self.targets, factors: grad.to_vec1()? };
        Ok(Some(logits.apply_op1_no_bwd(&operation)?))
    }
}

impl CustomOp1 for CrossEntropyGradient<'_> {
    fn name(&self) -> &'static str {
        "cross-entropy-gradient"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (logits, width) = rows_of(storage, layout, self.targets)?;
        let mut gradient = vec![0.0f32; logits.len()];
        gradient
            .par_chunks_exact_mut(width)
            .zip(logits.par_chunks_exact(width))
            .zip(self.targets.par_iter().zip(&self.factors))
            .for_each(|((gradient, logits), (target, factor))| {
                let total = log_sum_exp(logits) as f32;
                for (gradient, logit) in gradient.iter_mut().zip(logits) {
                    *gradient = exp(logit - total) * factor;
                }
                gradient[*target as usize] -= factor;
            });
        Ok((CpuStorage::F32(gradient), layout.shape().clone()))
    }
}

fn log_sum_exp(row: &[f32]) -> f64 {
    let highest = row.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    f64::from(highest) + sum_of_exp(row, highest, 1.0).ln()
}

fn rows_of<'a>(storage: &'a CpuStorage, layout: &Layout, targets: &[u32]) -> Result<(&'a [f32], usize)> {
    let (rows, width) = layout.shape().dims2()?;
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("a cross-entropy needs contiguous logits");
    };
    if rows != targets.len() || targets.iter().any(|target| *target as usize >= width) {
        bail!("{} targets do not fit logits of shape [{rows}, {width}]", targets.len());
    }
    Ok((&f32::cpu_storage_as_slice(storage)?[start..end], width))
}
