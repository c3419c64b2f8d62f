//! The operations on a device: candle's own, and on NVIDIA GPUs kernels of ours where those are chains. Where candle's backward
//! pass would be a long chain of small kernels, or its fused forward pass has none, it is written out.

use super::{BaseWeight, Dropout, HeadLayout, Rotation, Tape};
use crate::attention::{Activation, Scores};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::linear::{Linear, PlacedLinear};
use crate::model::ModelConfig;
use attention::Groups;
use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::ops::softmax_last_dim;

mod attention;

/// `2 sqrt(2 / pi)`, and that times 0.044715: the bend of GELU's approximation.
const GELU: (f64, f64) = (1.595_769_121_605_730_7, 0.071_354_816_282_391_34);
/// Logits of one piece of the targets. There are a few copies of them at a time, of 2 or 4 bytes each.
const LOGITS: usize = 1 << 27;

impl BaseWeight for PlacedLinear {
    type Rows = Groups;

    fn arrange(lengths: &[usize], device: &Device) -> Result<Groups> {
        Groups::new(lengths, device)
    }

    /// As on the CPU, and the activated gate.
    fn kept_floats(config: &ModelConfig) -> usize {
        let (hidden, query, kv) = (config.hidden_size, config.query_width(), config.kv_width());
        4 * hidden + 2 * query + 2 * kv + 4 * config.intermediate_size
    }

    /// Of the factors, where there is no kernel that draws them anew.
    fn mask_bytes(dtype: DType) -> usize {
        dtype.size_in_bytes()
    }

    fn loss_positions(vocabulary: usize) -> usize {
        (LOGITS / vocabulary).max(64)
    }

    fn adapted(
        &self,
        [x, a, b]: [&Tensor; 3],
        scale: f32,
        dropout: Option<Dropout<'_>>,
        tape: &Tape,
    ) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if cuda::has_kernels(x) {
            let (weight, bias) = self.parts();
            let drop = dropout.map(|Dropout { key, rate, .. }| cuda::training::DropoutStream { key, rate });
            let values = x.contiguous()?;
            let (y, projection) = cuda::adapted::adapted(&values, a, b, weight, bias, scale, drop)?;
            return Ok(tape.record([x, a, b], y, move |grad| projection.gradients(&values, &grad.contiguous()?)));
        }
        let factors = match dropout.map(|dropout| (dropout.mask)()) {
            Some(mask) => {
                let factors: Vec<f32> = mask.kept.iter().map(|kept| mask.factor(*kept)).collect();
                Some(Tensor::from_vec(factors, x.shape(), x.device())?.to_dtype(x.dtype())?)
            }
            None => None,
        };
        let dropped = move |x: &Tensor| factors.as_ref().map_or_else(|| Ok(x.clone()), |factors| x * factors);
        let input = dropped(x)?;
        // Rounded as inference rounds them.
        let rounded = |tensor: &Tensor| tensor.detach().to_dtype(x.dtype());
        let (a_rounded, b_rounded) = (rounded(a)?, rounded(b)?);
        let inner = input.matmul(&a_rounded.t()?)?;
        let scale = f64::from(scale);
        let y = (self.forward(x)? + inner.matmul(&b_rounded.t()?)?.affine(scale, 0.0)?)?;
        let weight = self.clone();
        // With `h` the inner and `u = scale * Bᵀ grad`: `Wᵀ grad + f * Aᵀ u`, `u (f * x)ᵀ` and `scale * grad hᵀ`.
        Ok(tape.record([x, a, b], y, move |grad| {
            let outer = grad.matmul(&b_rounded)?.affine(scale, 0.0)?;
            let of_x = (weight.backward(grad)? + dropped(&outer.matmul(&a_rounded)?)?)?;
            let of_a = outer.t()?.matmul(&input)?.to_dtype(DType::F32)?;
            let of_b = grad.t()?.matmul(&inner)?.affine(scale, 0.0)?.to_dtype(DType::F32)?;
            Ok([of_x, of_a, of_b])
        }))
    }

    fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64, tape: &Tape) -> Result<Tensor> {
        let width = weight.dim(0)?;
        let stretches = x.contiguous()?.reshape((x.elem_count() / width, width))?;
        let y = candle_nn::ops::rms_norm(&stretches, weight, eps as f32)?.reshape(x.shape())?;
        let weight = weight.clone();
        // With `s` the scale and `h = grad * weight`: `s * h - x * s³ * mean(h * x)`.
        Ok(tape.record([x], y, move |grad| {
            let shape = grad.shape().clone();
            let grad = grad.contiguous()?.reshape(stretches.shape())?;
            #[cfg(feature = "cuda")]
            if cuda::has_kernels(&stretches) {
                return Ok([cuda::training::rms_norm_back(&stretches, &weight, &grad, eps)?.reshape(shape)?]);
            }
            let (x, weight) = (stretches.to_dtype(DType::F32)?, weight.to_dtype(DType::F32)?);
            let grad = grad.to_dtype(DType::F32)?.broadcast_mul(&weight)?;
            let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?;
            let along = (&grad * &x)?.mean_keepdim(D::Minus1)?;
            let back = (along * scale.powf(3.0)?)?;
            let gradient = (grad.broadcast_mul(&scale)? - x.broadcast_mul(&back)?)?;
            Ok([gradient.to_dtype(stretches.dtype())?.reshape(shape)?])
        }))
    }

    fn rotate(x: &Tensor, rotation: &Rotation, tape: &Tape) -> Result<Tensor> {
        let y = rotated(&x.contiguous()?, &rotation.cos, &rotation.sin)?;
        let (cos, back) = (rotation.cos.clone(), rotation.sin.neg()?);
        Ok(tape.record([x], y, move |grad| Ok([rotated(&grad.contiguous()?, &cos, &back)?])))
    }

    fn attention(qkv: [&Tensor; 3], heads: HeadLayout, scores: Scores, rows: &Groups, tape: &Tape) -> Result<Tensor> {
        let output = rows.attend(qkv, heads, scores)?;
        let (rows, kept) = (rows.clone(), qkv.map(Tensor::clone));
        Ok(tape.record(qkv, output, move |grad| rows.attend_back(kept.each_ref(), &grad.contiguous()?, heads, scores)))
    }

    fn gated(gate: &Tensor, up: &Tensor, activation: Activation, tape: &Tape) -> Result<Tensor> {
        let (gates, ups) = (gate.contiguous()?, up.contiguous()?);
        #[cfg(feature = "cuda")]
        if cuda::has_kernels(gate) && cuda::training::is_whole(&gates) && cuda::training::is_whole(&ups) {
            let y = cuda::training::gated(&gates, &ups, activation)?;
            return Ok(tape.record([gate, up], y, move |grad| {
                cuda::training::gated_back(&gates, &ups, &grad.contiguous()?, activation)
            }));
        }
        let activated = match activation {
            Activation::Silu => gates.silu()?,
            // candle's `gelu` is the approximation.
            Activation::GeluTanh => gates.gelu()?,
        };
        let y = (&activated * &ups)?;
        Ok(tape.record([gate, up], y, move |grad| {
            let slope = activation_slope(&gates, activation)?;
            Ok([((grad * &ups)? * slope)?, (grad * &activated)?])
        }))
    }

    fn losses(logits: &Tensor, targets: &[u32], tape: &Tape) -> Result<Tensor> {
        let targets = Tensor::new(targets, logits.device())?.unsqueeze(1)?;
        #[cfg(feature = "cuda")]
        if cuda::has_kernels(logits) {
            let values = logits.contiguous()?;
            let (losses, logs) = cuda::training::losses(&values, &targets)?;
            return Ok(tape.record([logits], losses, move |grad| {
                Ok([cuda::training::losses_back(&values, &targets, &logs, grad)?])
            }));
        }
        let values = logits.to_dtype(DType::F32)?;
        let highest = values.max_keepdim(1)?;
        let total = values.broadcast_sub(&highest)?.exp()?.sum_keepdim(1)?.log()?;
        let losses = ((total + highest)? - values.gather(&targets, 1)?)?.squeeze(1)?;
        let dtype = logits.dtype();
        // `softmax - one_hot(target)`, times the loss's gradient.
        Ok(tape.record([logits], losses, move |grad| {
            let weights = softmax_last_dim(&values)?;
            let minus = Tensor::ones(targets.shape(), DType::F32, targets.device())?.neg()?;
            let slopes = weights.scatter_add(&targets, &minus, 1)?;
            Ok([slopes.broadcast_mul(&grad.unsqueeze(1)?)?.to_dtype(dtype)?])
        }))
    }

    fn correct(logits: &Tensor, targets: &[u32]) -> Result<usize> {
        let targets = Tensor::new(targets, logits.device())?.unsqueeze(1)?;
        #[cfg(feature = "cuda")]
        if cuda::has_kernels(logits) {
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

/// The slope of an activation at each of `x`, in its type. With `s` the sigmoid of a bend of x, of which the activation is `x * s`:
/// `s * (1 + x * (1 - s) * slope of the bend)`.
fn activation_slope(x: &Tensor, activation: Activation) -> Result<Tensor> {
    let dtype = x.dtype();
    let x = x.to_dtype(DType::F32)?;
    let (bent, slope) = match activation {
        Activation::Silu => (x.clone(), None),
        Activation::GeluTanh => {
            let (linear, cubic) = GELU;
            let squares = x.sqr()?;
            ((&x * squares.affine(cubic, linear)?)?, Some(squares.affine(3.0 * cubic, linear)?))
        }
    };
    let sigmoid = (bent.neg()?.exp()? + 1.0)?.recip()?;
    let rest = (&x * sigmoid.affine(-1.0, 1.0)?)?;
    let rest = match slope {
        Some(slope) => (rest * slope)?,
        None => rest,
    };
    (sigmoid * (rest + 1.0)?)?.to_dtype(dtype)
}
