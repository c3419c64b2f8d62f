//! RMSNorm, differentiable.

use super::tape::Tape;
use super::{held, list, vector};
use crate::norm::scale;
use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

/// Norm of each stretch of `x [rows, stretches * width]` with a frozen `weight [width]`. Differentiable in `x`.
pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64, tape: &Tape) -> Result<Tensor> {
    let norm = RmsNorm { weight: list(weight)?, eps };
    if !x.dims().last().is_some_and(|width| width.is_multiple_of(norm.weight.len())) {
        bail!("a norm of width {} cannot take a tensor of shape {:?}", norm.weight.len(), x.dims());
    }
    let values = x.contiguous()?;
    let normed = crate::norm::rms_norm(&held(&values)?, &norm.weight, eps);
    let y = Tensor::from_vec(normed, x.shape(), x.device())?;
    Ok(tape.record([x], y, move |grad| {
        let grad = grad.contiguous()?;
        let gradient = norm.backward(&held(&values)?, &held(&grad)?);
        Ok([Tensor::from_vec(gradient, grad.shape(), grad.device())?])
    }))
}

struct RmsNorm {
    weight: Vec<f32>,
    eps: f64,
}

impl RmsNorm {
    /// With `s` the scale and `h = grad * weight`: `s * h - x * s³ * sum(h * x) / width`.
    fn backward(&self, x: &[f32], grad: &[f32]) -> Vec<f32> {
        let weight = &self.weight;
        let width = weight.len();
        let mut output = vec![0.0f32; x.len()];
        output.par_chunks_exact_mut(width).zip(x.par_chunks_exact(width).zip(grad.par_chunks_exact(width))).for_each(
            |(output, (x, grad))| {
                let scale = scale(x, self.eps);
                let back = (vector::along(grad, weight, x) * scale.powi(3) / width as f64) as f32;
                let scale = scale as f32;
                for (((y, grad), weight), x) in output.iter_mut().zip(grad).zip(weight).zip(x) {
                    *y = grad * weight * scale - x * back;
                }
            },
        );
        output
    }
}
