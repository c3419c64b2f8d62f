//! Weights by what they are for, whatever a file calls them.

use std::path::Path;

use candle_core::Tensor;

use super::{LoadError, ModelConfig};
use crate::linear::FrozenLinear;

/// A weight of the Llama graph. Layers count from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    Embedding,
    OutputNorm,
    Output,
    AttentionNorm(usize),
    Query(usize),
    Key(usize),
    Value(usize),
    AttentionOutput(usize),
    FeedForwardNorm(usize),
    Gate(usize),
    Up(usize),
    Down(usize),
}

impl Weight {
    /// The name in Hugging Face files.
    pub(super) fn hugging_face_name(self) -> String {
        let in_layer = |layer: usize, rest: &str| format!("model.layers.{layer}.{rest}.weight");
        match self {
            Self::Embedding => "model.embed_tokens.weight".to_owned(),
            Self::OutputNorm => "model.norm.weight".to_owned(),
            Self::Output => "lm_head.weight".to_owned(),
            Self::AttentionNorm(l) => in_layer(l, "input_layernorm"),
            Self::Query(l) => in_layer(l, "self_attn.q_proj"),
            Self::Key(l) => in_layer(l, "self_attn.k_proj"),
            Self::Value(l) => in_layer(l, "self_attn.v_proj"),
            Self::AttentionOutput(l) => in_layer(l, "self_attn.o_proj"),
            Self::FeedForwardNorm(l) => in_layer(l, "post_attention_layernorm"),
            Self::Gate(l) => in_layer(l, "mlp.gate_proj"),
            Self::Up(l) => in_layer(l, "mlp.up_proj"),
            Self::Down(l) => in_layer(l, "mlp.down_proj"),
        }
    }

    /// The name in GGUF files.
    pub(super) fn gguf_name(self) -> String {
        let in_layer = |layer: usize, rest: &str| format!("blk.{layer}.{rest}.weight");
        match self {
            Self::Embedding => "token_embd.weight".to_owned(),
            Self::OutputNorm => "output_norm.weight".to_owned(),
            Self::Output => "output.weight".to_owned(),
            Self::AttentionNorm(l) => in_layer(l, "attn_norm"),
            Self::Query(l) => in_layer(l, "attn_q"),
            Self::Key(l) => in_layer(l, "attn_k"),
            Self::Value(l) => in_layer(l, "attn_v"),
            Self::AttentionOutput(l) => in_layer(l, "attn_output"),
            Self::FeedForwardNorm(l) => in_layer(l, "ffn_norm"),
            Self::Gate(l) => in_layer(l, "ffn_gate"),
            Self::Up(l) => in_layer(l, "ffn_up"),
            Self::Down(l) => in_layer(l, "ffn_down"),
        }
    }

    /// The shape that the configuration implies: `[out, in]`, or `[width]` for a norm.
    pub(super) fn shape(self, config: &ModelConfig) -> Vec<usize> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        match self {
            Self::Embedding | Self::Output => vec![config.vocab_size, hidden],
            Self::OutputNorm | Self::AttentionNorm(_) | Self::FeedForwardNorm(_) => vec![hidden],
            Self::Query(_) => vec![config.query_width(), hidden],
            Self::Key(_) | Self::Value(_) => vec![config.kv_width(), hidden],
            Self::AttentionOutput(_) => vec![hidden, config.query_width()],
            Self::Gate(_) | Self::Up(_) => vec![inner, hidden],
            Self::Down(_) => vec![hidden, inner],
        }
    }
}

/// An opened model file (or set of files) that hands out weights in f32 on the CPU.
pub(super) trait WeightSource {
    /// Where the weights come from, for messages.
    fn path(&self) -> &Path;

    /// The weight in the Hugging Face layout (half-split rotary pairs), of exactly the configured shape.
    fn read(&mut self, weight: Weight, config: &ModelConfig) -> Result<Tensor, LoadError>;
}

/// One decoder layer's weights, projections packed for the engine's own product.
#[derive(Debug, Clone)]
pub struct LayerWeights {
    /// Norm before attention, `[hidden]`.
    pub attn_norm: Tensor,
    /// Query projection, `[heads * head_dim, hidden]`.
    pub q: FrozenLinear,
    /// Key projection, `[kv_heads * head_dim, hidden]`.
    pub k: FrozenLinear,
    /// Value projection, `[kv_heads * head_dim, hidden]`.
    pub v: FrozenLinear,
    /// Attention output projection, `[hidden, heads * head_dim]`.
    pub o: FrozenLinear,
    /// Norm before the feed-forward block, `[hidden]`.
    pub ffn_norm: Tensor,
    /// Gate projection, `[intermediate, hidden]`.
    pub gate: FrozenLinear,
    /// Up projection, `[intermediate, hidden]`.
    pub up: FrozenLinear,
    /// Down projection, `[hidden, intermediate]`.
    pub down: FrozenLinear,
}

impl LayerWeights {
    pub(super) fn read(source: &mut dyn WeightSource, layer: usize, config: &ModelConfig) -> Result<Self, LoadError> {
        Ok(Self {
            attn_norm: source.read(Weight::AttentionNorm(layer), config)?,
            q: packed(source, Weight::Query(layer), config)?,
            k: packed(source, Weight::Key(layer), config)?,
            v: packed(source, Weight::Value(layer), config)?,
            o: packed(source, Weight::AttentionOutput(layer), config)?,
            ffn_norm: source.read(Weight::FeedForwardNorm(layer), config)?,
            gate: packed(source, Weight::Gate(layer), config)?,
            up: packed(source, Weight::Up(layer), config)?,
            down: packed(source, Weight::Down(layer), config)?,
        })
    }
}

/// Reads and packs one projection; the unpacked copy is dropped at once.
pub(super) fn packed(
    source: &mut dyn WeightSource,
    weight: Weight,
    config: &ModelConfig,
) -> Result<FrozenLinear, LoadError> {
    let tensor = source.read(weight, config)?;
    pack(&tensor, source.path(), &weight.hugging_face_name())
}

/// Packs an already read weight; `name` is for messages.
pub(super) fn pack(tensor: &Tensor, path: &Path, name: &str) -> Result<FrozenLinear, LoadError> {
    FrozenLinear::new(tensor, None).map_err(|source| LoadError::Tensor {
        path: path.to_owned(),
        tensor: name.to_owned(),
        source: Box::new(source),
    })
}
