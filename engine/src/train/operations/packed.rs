//! The operations on the CPU, over packed weights in f32.

use super::adapted::{Adapted, adapted_linear};
use super::attention::attention;
use super::{BaseWeight, Dropout, HeadLayout, Rotation, cross_entropy, gated, norm, rotation};
use crate::attention::{Activation, Scores};
use crate::linear::FrozenLinear;
use crate::model::ModelConfig;
use candle_core::{Device, Result, Tensor};
use std::sync::{Arc, OnceLock};

/// Positions whose logits exist at once: with a vocabulary of 49,152, 12 MB.
const LOSS_POSITIONS: usize = 64;

impl BaseWeight for FrozenLinear {
    /// Their lengths.
    type Rows = Arc<[usize]>;

    fn arrange(lengths: &[usize], _device: &Device) -> Result<Arc<[usize]>> {
        Ok(lengths.into())
    }

    /// What every operation was given, once.
    fn kept_floats(config: &ModelConfig) -> usize {
        let (hidden, query, kv) = (config.hidden_size, config.query_width(), config.kv_width());
        6 * hidden + 3 * query + 3 * kv + 3 * config.intermediate_size
    }

    fn loss_positions(_vocabulary: usize) -> usize {
        LOSS_POSITIONS
    }

    fn adapted(&self, x: &Tensor, a: &Tensor, b: &Tensor, scale: f32, dropout: Option<Dropout<'_>>) -> Result<Tensor> {
        let factors = dropout.map(|dropout| (dropout.factors)());
        adapted_linear(x, a, b, Adapted { frozen: self.clone(), scale, factors, inner: OnceLock::new() })
    }

    fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
        norm::rms_norm(x, weight, eps)
    }

    fn rotate(x: &Tensor, rotation: &Rotation) -> Result<Tensor> {
        rotation::rotate(x, rotation)
    }

    fn attention(qkv: [&Tensor; 3], heads: HeadLayout, scores: Scores, rows: &Arc<[usize]>) -> Result<Tensor> {
        attention(qkv, heads, scores, rows)
    }

    fn gated(gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor> {
        gated::gated(gate, up, activation)
    }

    fn losses(logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
        cross_entropy::losses(logits, targets)
    }

    fn correct(logits: &Tensor, targets: &[u32]) -> Result<usize> {
        cross_entropy::correct(logits, targets)
    }
}
