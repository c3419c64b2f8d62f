//! The operations on a device: candle's own, and on NVIDIA GPUs kernels of ours where those are chains. Where candle's backward
//! pass would be a long chain of small kernels, or its fused forward pass has none, it is written out.

#[cfg(feature = "cuda")]
use super::fused::fused2;
use super::fused::{fused, fused3};
use super::{BaseWeight, Dropout, HeadLayout, Rotation};
use crate::attention::{Activation, Scores};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::linear::{Linear, PlacedLinear};
use crate::model::ModelConfig;
use attention::Groups;
use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::ops::softmax_last_dim;

mod attention;

/// Logits of one piece of the targets. There are a few copies of them at a time, of 2 or 4 bytes each.
const LOGITS: usize = 1 << 27;

impl BaseWeight for PlacedLinear {
    type Rows = Groups;

    fn arrange(lengths: &[usize], device: &Device) -> Result<Groups> {
        Groups::new(lengths, device)
    }

    /// The graph holds every result between two operations.
    fn kept_floats(config: &ModelConfig) -> usize {
        let (hidden, query, kv) = (config.hidden_size, config.query_width(), config.kv_width());
        11 * hidden + 5 * query + 7 * kv + 8 * config.intermediate_size
    }

    fn loss_positions(vocabulary: usize) -> usize {
        (LOGITS / vocabulary).max(64)
    }

    fn adapted(&self, x: &Tensor, a: &Tensor, b: &Tensor, scale: f32, dropout: Option<Dropout<'_>>) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if cuda::has_kernels(x) {
            let (weight, bias) = self.parts();
            let drop = dropout.map(|Dropout { key, rate, .. }| cuda::training::DropoutStream { key, rate });
            return cuda::adapted::adapted(x, a, b, weight, bias, scale, drop);
        }
        let input = match dropout.map(|dropout| (dropout.factors)()) {
            Some(factors) => x.mul(&Tensor::from_vec(factors, x.shape(), x.device())?.to_dtype(x.dtype())?)?,
            None => x.clone(),
        };
        // Rounded as inference rounds them.
        let (a, b) = (a.to_dtype(x.dtype())?, b.to_dtype(x.dtype())?);
        self.forward(x)? + input.matmul(&a.t()?)?.matmul(&b.t()?)?.affine(f64::from(scale), 0.0)?
    }

    fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
        let x = x.contiguous()?;
        let y = candle_nn::ops::rms_norm(&x.detach(), weight, eps as f32)?;
        let weight = weight.clone();
        // With `s` the scale and `h = grad * weight`: `s * h - x * s³ * mean(h * x)`.
        fused(&x, y, "rms-norm", move |x, grad| {
            #[cfg(feature = "cuda")]
            if cuda::has_kernels(x) {
                return cuda::training::rms_norm_back(x, &weight, &grad.contiguous()?, eps);
            }
            let dtype = x.dtype();
            let (x, weight) = (x.to_dtype(DType::F32)?, weight.to_dtype(DType::F32)?);
            let grad = grad.to_dtype(DType::F32)?.broadcast_mul(&weight)?;
            let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?;
            let along = (&grad * &x)?.mean_keepdim(D::Minus1)?;
            let back = (along * scale.powf(3.0)?)?;
            (grad.broadcast_mul(&scale)? - x.broadcast_mul(&back)?)?.to_dtype(dtype)
        })
    }

    fn rotate(x: &Tensor, rotation: &Rotation) -> Result<Tensor> {
        let x = x.contiguous()?;
        let y = rotated(&x.detach(), &rotation.cos, &rotation.sin)?;
        let (cos, back) = (rotation.cos.clone(), rotation.sin.neg()?);
        fused(&x, y, "rotate", move |_, grad| rotated(&grad.contiguous()?, &cos, &back))
    }

    fn attention(qkv: [&Tensor; 3], heads: HeadLayout, scores: Scores, rows: &Groups) -> Result<Tensor> {
        let output = rows.attend(qkv.map(Tensor::detach).each_ref(), heads, scores)?;
        let rows = rows.clone();
        fused3(qkv, output, "causal-attention", move |qkv, grad| rows.attend_back(qkv, grad, heads, scores))
    }

    fn gated(gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if cuda::has_kernels(gate) && cuda::training::is_whole(gate) && cuda::training::is_whole(up) {
            let (gate, up) = (gate.contiguous()?, up.contiguous()?);
            let y = cuda::training::gated(&gate.detach(), &up.detach(), activation)?;
            return fused2([&gate, &up], y, "gated", move |[gate, up], grad| {
                cuda::training::gated_back(gate, up, &grad.contiguous()?, activation)
            });
        }
        match activation {
            Activation::Silu => gate.silu()? * up,
            // candle's `gelu` is the approximation.
            Activation::GeluTanh => gate.gelu()? * up,
        }
    }

    fn losses(logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
        let targets = Tensor::new(targets, logits.device())?.unsqueeze(1)?;
        #[cfg(feature = "cuda")]
        if cuda::has_kernels(logits) {
            let logits = logits.contiguous()?;
            let (losses, logs) = cuda::training::losses(&logits.detach(), &targets)?;
            return fused(&logits, losses, "cross-entropy", move |logits, grad| {
                cuda::training::losses_back(logits, &targets, &logs, grad)
            });
        }
        let values = logits.detach().to_dtype(DType::F32)?;
        let highest = values.max_keepdim(1)?;
        let total = values.broadcast_sub(&highest)?.exp()?.sum_keepdim(1)?.log()?;
        let losses = ((total + highest)? - values.gather(&targets, 1)?)?.squeeze(1)?;
        // `softmax - one_hot(target)`, times the loss's gradient.
        fused(logits, losses, "cross-entropy", move |logits, grad| {
            let weights = softmax_last_dim(&logits.to_dtype(DType::F32)?)?;
            let minus = Tensor::ones(targets.shape(), DType::F32, targets.device())?.neg()?;
            let slopes = weights.scatter_add(&targets, &minus, 1)?;
            slopes.broadcast_mul(&grad.unsqueeze(1)?)?.to_dtype(logits.dtype())
        })
    }

    fn correct(logits: &Tensor, targets: &[u32]) -> Result<usize> {
        let targets = Tensor::new(targets, logits.device())?.unsqueeze(1)?;
        let logits = logits.detach();
        #[cfg(feature = "cuda")]
        if cuda::has_kernels(&logits) {
            let hits = cuda::training::hits(&logits.contiguous()?, &targets)?;
            return Ok(hits.sum_all()?.to_scalar::<f32>()? as usize);
        }
        let found = logits.gather(&targets, 1)?.ge(&logits.max_keepdim(1)?)?;
        Ok(found.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()? as usize)
    }
}

/// Every head of `x [tokens, heads * width]` by angles `[tokens, width / 2]`.
fn rotated(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (tokens, row) = x.dims2()?;
    let width = 2 * cos.dim(1)?;
    // Every token is a batch of its own, so each brings its own angles.
    let x = x.reshape((tokens, 1, row / width, width))?;
    candle_nn::rotary_emb::rope_thd(&x, &cos.unsqueeze(1)?, &sin.unsqueeze(1)?)?.reshape((tokens, row))
}
