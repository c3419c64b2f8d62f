//! RMSNorm (arXiv 1910.07467): `y = x / sqrt(mean(x²) + eps) * weight`.

use super::{list, values, vector};
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// Norm of each row of `x [rows, width]` with a frozen `weight [width]`. Differentiable in `x`.
pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let weight = list(weight)?;
    if x.dims().last() != Some(&weight.len()) {
        bail!("a norm of width {} cannot take a tensor of shape {:?}", weight.len(), x.dims());
    }
    x.contiguous()?.apply_op1(RmsNorm { weight, eps })
}

struct RmsNorm {
    weight: Vec<f32>,
    eps: f64,
}

impl RmsNorm {
    /// `1 / sqrt(mean(x²) + eps)`.
    fn scale(&self, row: &[f32]) -> f64 {
        1.0 / (vector::squares(row) / row.len() as f64 + self.eps).sqrt()
    }
}

impl CustomOp1 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(storage, layout, self.name())?;
        let mut output = vec![0.0f32; x.len()];
        let width = self.weight.len();
        output.par_chunks_exact_mut(width).zip(x.par_chunks_exact(width)).for_each(|(output, x)| {
            let scale = self.scale(x) as f32;
            for ((y, x), weight) in output.iter_mut().zip(x).zip(&self.weight) {
                *y = x * scale * weight;
            }
        });
        Ok((CpuStorage::F32(output), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let gradient = x.apply_op2_no_bwd(&grad.contiguous()?, &RmsNormGradient(self))?;
        Ok(Some(gradient))
    }
}

/// With `s` the scale and `h = grad * weight`: `s * h - x * s³ * sum(h * x) / width`.
struct RmsNormGradient<'a>(&'a RmsNorm);

impl CustomOp2 for RmsNormGradient<'_> {
    fn name(&self) -> &'static str {
        "rms-norm-gradient"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = values(x, x_layout, self.name())?;
        let grad = values(grad, grad_layout, self.name())?;
        let weight = &self.0.weight;
        let mut output = vec![0.0f32; x.len()];
        output
            .par_chunks_exact_mut(weight.len())
            .zip(x.par_chunks_exact(weight.len()))
            .zip(grad.par_chunks_exact(weight.len()))
            .for_each(|((output, x), grad)| {
                let scale = self.0.scale(x);
                let back = (vector::along(grad, weight, x) * scale.powi(3) / weight.len() as f64) as f32;
                let scale = scale as f32;
                for (((y, grad), weight), x) in output.iter_mut().zip(grad).zip(weight).zip(x) {
                    *y = grad * weight * scale - x * back;
                }
            });
        Ok((CpuStorage::F32(output), x_layout.shape().clone()))
    }
}
