//! The operations on the CPU, over packed weights in f32.

use super::adapted::Adapted;
use super::attention::attention;
use super::{BaseWeight, Dropout, HeadLayout, Rotation, Tape, cross_entropy, gated, norm, rotation};
use crate::attention::{Activation, Scores};
use crate::linear::FrozenLinear;
use crate::model::ModelConfig;
use candle_core::{DType, Device, Result, Tensor};
use std::sync::Arc;

/// Positions whose logits exist at once: with a vocabulary of 49,152, 12 MB.
const LOSS_POSITIONS: usize = 64;

impl BaseWeight for FrozenLinear {
    /// Their lengths.
    type Rows = Arc<[usize]>;

    fn arrange(lengths: &[usize], _device: &Device) -> Result<Arc<[usize]>> {
        Ok(lengths.into())
    }

    /// What norms, projections, attention and the gate were given, and attention's output, once each.
    fn kept_floats(config: &ModelConfig) -> usize {
        let (hidden, query, kv) = (config.hidden_size, config.query_width(), config.kv_width());
        4 * hidden + 2 * query + 2 * kv + 3 * config.intermediate_size
    }

    fn mask_bytes(_dtype: DType) -> usize {
        size_of::<bool>()
    }

    fn loss_positions(_vocabulary: usize) -> usize {
        LOSS_POSITIONS
    }

    fn adapted(&self, inputs: [&Tensor; 3], scale: f32, dropout: Option<Dropout<'_>>, tape: &Tape) -> Result<Tensor> {
        let mask = dropout.map(|dropout| (dropout.mask)());
        Adapted { frozen: self.clone(), scale, mask }.apply(inputs, tape)
    }

    fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64, tape: &Tape) -> Result<Tensor> {
        norm::rms_norm(x, weight, eps, tape)
    }

    fn rotate(x: &Tensor, rotation: &Rotation, tape: &Tape) -> Result<Tensor> {
        rotation::rotate(x, rotation, tape)
    }

    fn attention(
        qkv: [&Tensor; 3],
        heads: HeadLayout,
        scores: Scores,
        rows: &Arc<[usize]>,
        tape: &Tape,
    ) -> Result<Tensor> {
        attention(qkv, heads, scores, rows, tape)
    }

    fn gated(gate: &Tensor, up: &Tensor, activation: Activation, tape: &Tape) -> Result<Tensor> {
        gated::gated(gate, up, activation, tape)
    }

    fn losses(logits: &Tensor, targets: &[u32], tape: &Tape) -> Result<Tensor> {
        cross_entropy::losses(logits, targets, tape)
    }

    fn correct(logits: &Tensor, targets: &[u32]) -> Result<usize> {
        cross_entropy::correct(logits, targets)
    }
}
