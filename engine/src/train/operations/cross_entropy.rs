//! Negative log-likelihood of targets.

use super::vector;
use crate::attention::{sum_of_exp, with_slice};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, WithDType, bail};
use rayon::prelude::*;

/// `-log softmax(logits)[target]` of each row, in nats: `[rows, vocab] -> [rows]`. Differentiable.
pub(super) fn losses(logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
    logits.contiguous()?.apply_op1(CrossEntropy { targets: targets.to_vec() })
}

/// Rows whose target has the highest logit.
pub(super) fn correct(logits: &Tensor, targets: &[u32]) -> Result<usize> {
    let width = logits.dim(1)?;
    with_slice(logits, |logits| {
        let rows = logits.par_chunks_exact(width).zip(targets);
        rows.filter(|(row, target)| row.iter().all(|logit| *logit <= row[**target as usize])).count()
    })
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
                vector::weights_times(logits, total, *factor, gradient);
                gradient[*target as usize] -= factor;
            });
        Ok((CpuStorage::F32(gradient), layout.shape().clone()))
    }
}

fn log_sum_exp(row: &[f32]) -> f64 {
    let highest = vector::highest(row);
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
