//! The operations of a decoder layer as chains of candle's plain operations: the oracle of ours.

use crate::attention::Scores;
use candle_core::{D, Device, Result, Tensor};

/// `[tokens, tokens]`: 0 where a token may look, itself and those before it in the window; -inf elsewhere.
pub(super) fn causal_mask(tokens: usize, window: usize) -> Result<Tensor> {
    let seen = |token: usize, other: usize| other <= token && token < other + window;
    let mask = (0..tokens * tokens).map(|i| if seen(i / tokens, i % tokens) { 0.0 } else { f32::NEG_INFINITY });
    Tensor::from_iter(mask, &Device::Cpu)?.reshape((tokens, tokens))
}

/// RMSNorm (arXiv 1910.07467) over the last dimension: `x / sqrt(mean(x²) + eps) * weight`.
pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    let scale = (mean + eps)?.sqrt()?.recip()?;
    x.broadcast_mul(&scale)?.broadcast_mul(weight)
}

/// Rotary embedding (arXiv 2104.09864), pairing element `i` with `i + width/2` as Hugging Face does.
/// `x [heads, tokens, width]`, `cos` and `sin` `[tokens, width / 2]`.
pub(super) fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let half = x.dim(D::Minus1)? / 2;
    let (first, second) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
    let left = (first.broadcast_mul(cos)? - second.broadcast_mul(sin)?)?;
    let right = (second.broadcast_mul(cos)? + first.broadcast_mul(sin)?)?;
    Tensor::cat(&[left, right], D::Minus1)
}

/// Causal attention with grouped key and value heads: `q [heads, tokens, width]`, `k`, `v`
/// `[kv_heads, tokens, width]`, `mask [tokens, tokens]` with 0 where a token may look and -inf elsewhere.
pub(super) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scores: Scores, mask: &Tensor) -> Result<Tensor> {
    let (heads, tokens, width) = q.dims3()?;
    let kv_heads = k.dim(0)?;
    let groups = heads / kv_heads;
    let q = q.reshape((kv_heads, groups * tokens, width))?;
    let Scores { scale, softcap, .. } = scores;
    let scores = (q.matmul(&k.transpose(1, 2)?)? * f64::from(scale))?;
    let scores = match softcap {
        Some(cap) => ((scores / f64::from(cap))?.tanh()? * f64::from(cap))?,
        None => scores,
    };
    let scores = scores.reshape((heads, tokens, tokens))?.broadcast_add(mask)?;
    let highest = scores.detach().max_keepdim(D::Minus1)?;
    let powers = scores.broadcast_sub(&highest)?.exp()?;
    let weights = powers.broadcast_div(&powers.sum_keepdim(D::Minus1)?)?;
    weights.reshape((kv_heads, groups * tokens, tokens))?.matmul(v)?.reshape((heads, tokens, width))
}
