//! Weights by what they are for, whatever a file calls them.

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::{LoadError, ModelConfig, RopeTable};
use crate::linear::{FrozenLinear, PlacedLinear};

/// A weight of a decoder. Layers count from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    Embedding,
    OutputNorm,
    Output,
    AttentionNorm(usize),
    Query(usize),
    Key(usize),
    Value(usize),
    QueryBias(usize),
    KeyBias(usize),
    ValueBias(usize),
    QueryNorm(usize),
    KeyNorm(usize),
    AttentionOutput(usize),
    FeedForwardNorm(usize),
    /// Gemma's: after attention, before the feed-forward block and after it.
    PostAttentionNorm(usize),
    PreFeedForwardNorm(usize),
    PostFeedForwardNorm(usize),
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
            Self::QueryBias(l) => format!("model.layers.{l}.self_attn.q_proj.bias"),
            Self::KeyBias(l) => format!("model.layers.{l}.self_attn.k_proj.bias"),
            Self::ValueBias(l) => format!("model.layers.{l}.self_attn.v_proj.bias"),
            Self::QueryNorm(l) => in_layer(l, "self_attn.q_norm"),
            Self::KeyNorm(l) => in_layer(l, "self_attn.k_norm"),
            Self::AttentionOutput(l) => in_layer(l, "self_attn.o_proj"),
            Self::FeedForwardNorm(l) | Self::PostAttentionNorm(l) => in_layer(l, "post_attention_layernorm"),
            Self::PreFeedForwardNorm(l) => in_layer(l, "pre_feedforward_layernorm"),
            Self::PostFeedForwardNorm(l) => in_layer(l, "post_feedforward_layernorm"),
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
            Self::QueryBias(l) => format!("blk.{l}.attn_q.bias"),
            Self::KeyBias(l) => format!("blk.{l}.attn_k.bias"),
            Self::ValueBias(l) => format!("blk.{l}.attn_v.bias"),
            Self::QueryNorm(l) => in_layer(l, "attn_q_norm"),
            Self::KeyNorm(l) => in_layer(l, "attn_k_norm"),
            Self::AttentionOutput(l) => in_layer(l, "attn_output"),
            Self::FeedForwardNorm(l) | Self::PreFeedForwardNorm(l) => in_layer(l, "ffn_norm"),
            Self::PostAttentionNorm(l) => in_layer(l, "post_attention_norm"),
            Self::PostFeedForwardNorm(l) => in_layer(l, "post_ffw_norm"),
            Self::Gate(l) => in_layer(l, "ffn_gate"),
            Self::Up(l) => in_layer(l, "ffn_up"),
            Self::Down(l) => in_layer(l, "ffn_down"),
        }
    }

    /// It is the factor of a norm.
    pub(super) fn is_norm(self) -> bool {
        matches!(
            self,
            Self::OutputNorm
                | Self::AttentionNorm(_)
                | Self::QueryNorm(_)
                | Self::KeyNorm(_)
                | Self::FeedForwardNorm(_)
                | Self::PostAttentionNorm(_)
                | Self::PreFeedForwardNorm(_)
                | Self::PostFeedForwardNorm(_)
        )
    }

    /// The shape that the configuration implies: `[out, in]`, or `[width]` for a norm or a bias.
    pub(super) fn shape(self, config: &ModelConfig) -> Vec<usize> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        match self {
            Self::Embedding | Self::Output => vec![config.vocab_size, hidden],
            Self::OutputNorm
            | Self::AttentionNorm(_)
            | Self::FeedForwardNorm(_)
            | Self::PostAttentionNorm(_)
            | Self::PreFeedForwardNorm(_)
            | Self::PostFeedForwardNorm(_) => vec![hidden],
            Self::Query(_) => vec![config.query_width(), hidden],
            Self::Key(_) | Self::Value(_) => vec![config.kv_width(), hidden],
            Self::QueryBias(_) => vec![config.query_width()],
            Self::KeyBias(_) | Self::ValueBias(_) => vec![config.kv_width()],
            Self::QueryNorm(_) | Self::KeyNorm(_) => vec![config.head_dim],
            Self::AttentionOutput(_) => vec![hidden, config.query_width()],
            Self::Gate(_) | Self::Up(_) => vec![inner, hidden],
            Self::Down(_) => vec![hidden, inner],
        }
    }
}

/// An opened model file (or set of files) that hands out weights in the Hugging Face layout (half-split rotary pairs), of
/// exactly the configured shapes.
pub(super) trait WeightSource {
    /// Where the weights come from, for messages.
    fn path(&self) -> &Path;

    /// A norm's factor or a bias, in f32 on the CPU.
    fn vector(&mut self, weight: Weight, config: &ModelConfig) -> Result<Tensor, LoadError>;

    /// A projection or an embedding, packed as the file keeps it.
    fn matrix(&mut self, weight: Weight, bias: Option<Tensor>, config: &ModelConfig)
    -> Result<FrozenLinear, LoadError>;
}

/// A decoder's weights in one place: packed on the CPU for the engine's own product, or on a device.
#[derive(Debug, Clone)]
pub struct DecoderWeights<L = FrozenLinear> {
    /// Token embeddings, `[vocab, hidden]`.
    pub embedding: L,
    /// The layers, first to last.
    pub layers: Vec<LayerWeights<L>>,
    /// The last norm, `[hidden]`.
    pub norm: Tensor,
    /// From the last norm's output to logits, `[vocab, hidden]`; often the embedding itself.
    pub lm_head: L,
    /// Rotary tables for the whole context.
    pub rope: RopeTable,
    /// Those of layers that see a window only, where they differ.
    pub sliding_rope: Option<RopeTable>,
}

/// One decoder layer's weights.
#[derive(Debug, Clone)]
pub struct LayerWeights<L = FrozenLinear> {
    /// Norm before attention, `[hidden]`.
    pub attn_norm: Tensor,
    /// Query projection, `[heads * head_dim, hidden]`.
    pub q: L,
    /// Key projection, `[kv_heads * head_dim, hidden]`.
    pub k: L,
    /// Value projection, `[kv_heads * head_dim, hidden]`.
    pub v: L,
    /// Norm of each query head, `[head_dim]`, and of each key head, where the family has them.
    pub head_norms: Option<HeadNorms>,
    /// Attention output projection, `[hidden, heads * head_dim]`.
    pub o: L,
    /// Norm before the feed-forward block, `[hidden]`.
    pub ffn_norm: Tensor,
    /// Norms of what attention and the feed-forward block return, where the family has them.
    pub post_norms: Option<PostNorms>,
    /// Gate projection, `[intermediate, hidden]`.
    pub gate: L,
    /// Up projection, `[intermediate, hidden]`.
    pub up: L,
    /// Down projection, `[hidden, intermediate]`.
    pub down: L,
}

/// What the heads of queries and keys are normed with.
#[derive(Debug, Clone)]
pub struct HeadNorms {
    /// `[head_dim]`.
    pub q: Tensor,
    /// `[head_dim]`.
    pub k: Tensor,
}

/// What blocks' outputs are normed with.
#[derive(Debug, Clone)]
pub struct PostNorms {
    /// `[hidden]`.
    pub attn: Tensor,
    /// `[hidden]`.
    pub ffn: Tensor,
}

impl DecoderWeights {
    pub(super) fn read(source: &mut dyn WeightSource, config: &ModelConfig) -> Result<Self, LoadError> {
        let path = source.path().to_owned();
        let failed = |tensor: &'static str| {
            let path = path.clone();
            move |source| LoadError::Tensor { path, tensor: tensor.to_owned(), source: Box::new(source) }
        };
        let embedding = source.matrix(Weight::Embedding, None, config)?;
        let layers =
            (0..config.layers).map(|layer| LayerWeights::read(source, layer, config)).collect::<Result<_, _>>()?;
        let lm_head =
            if config.tie_embeddings { embedding.clone() } else { source.matrix(Weight::Output, None, config)? };
        Ok(Self {
            embedding,
            layers,
            norm: source.vector(Weight::OutputNorm, config)?,
            lm_head,
            rope: RopeTable::new(config).map_err(failed("the rotary tables"))?,
            sliding_rope: RopeTable::sliding(config).map_err(failed("the rotary tables"))?,
        })
    }

    /// Makes inference multiply in integers.
    pub(super) fn turn_into_integers(&mut self, config: &ModelConfig) {
        self.embedding = self.embedding.in_integers();
        self.lm_head = if config.tie_embeddings { self.embedding.clone() } else { self.lm_head.in_integers() };
        for LayerWeights { q, k, v, o, gate, up, down, .. } in &mut self.layers {
            for linear in [q, k, v, o, gate, up, down] {
                *linear = linear.in_integers();
            }
        }
    }

    /// Bytes that the matrices take.
    pub(super) fn bytes(&self, config: &ModelConfig) -> usize {
        let head = if config.tie_embeddings { 0 } else { self.lm_head.bytes() };
        self.embedding.bytes() + head + self.layers.iter().map(LayerWeights::bytes).sum::<usize>()
    }

    /// A copy on a device.
    pub(super) fn place(
        &self,
        config: &ModelConfig,
        device: &Device,
        dtype: DType,
    ) -> candle_core::Result<DecoderWeights<PlacedLinear>> {
        let linear = |layer: &FrozenLinear| PlacedLinear::new(layer, device, dtype);
        let vector = |tensor: &Tensor| tensor.to_dtype(dtype)?.to_device(device);
        let layer = |layer: &LayerWeights| {
            let head_norms = match &layer.head_norms {
                Some(norms) => Some(HeadNorms { q: vector(&norms.q)?, k: vector(&norms.k)? }),
                None => None,
            };
            let post_norms = match &layer.post_norms {
                Some(norms) => Some(PostNorms { attn: vector(&norms.attn)?, ffn: vector(&norms.ffn)? }),
                None => None,
            };
            Ok(LayerWeights {
                attn_norm: vector(&layer.attn_norm)?,
                q: linear(&layer.q)?,
                k: linear(&layer.k)?,
                v: linear(&layer.v)?,
                head_norms,
                o: linear(&layer.o)?,
                ffn_norm: vector(&layer.ffn_norm)?,
                post_norms,
                gate: linear(&layer.gate)?,
                up: linear(&layer.up)?,
                down: linear(&layer.down)?,
            })
        };
        let embedding = linear(&self.embedding)?;
        Ok(DecoderWeights {
            lm_head: if config.tie_embeddings { embedding.clone() } else { linear(&self.lm_head)? },
            embedding,
            layers: self.layers.iter().map(layer).collect::<candle_core::Result<_>>()?,
            norm: vector(&self.norm)?,
            rope: self.rope.place(device, dtype)?,
            sliding_rope: self.sliding_rope.as_ref().map(|table| table.place(device, dtype)).transpose()?,
        })
    }
}

impl LayerWeights {
    /// Bytes that the projections take.
    pub(super) fn bytes(&self) -> usize {
        let Self { q, k, v, o, gate, up, down, .. } = self;
        [q, k, v, o, gate, up, down].into_iter().map(FrozenLinear::bytes).sum()
    }

    pub(super) fn read(source: &mut dyn WeightSource, layer: usize, config: &ModelConfig) -> Result<Self, LoadError> {
        let mut biased = |weight: Weight, bias: Weight| -> Result<FrozenLinear, LoadError> {
            let bias = config.architecture.has_bias().then(|| source.vector(bias, config)).transpose()?;
            source.matrix(weight, bias, config)
        };
        let q = biased(Weight::Query(layer), Weight::QueryBias(layer))?;
        let k = biased(Weight::Key(layer), Weight::KeyBias(layer))?;
        let v = biased(Weight::Value(layer), Weight::ValueBias(layer))?;
        let head_norms = if config.architecture.norms_heads() {
            let q = source.vector(Weight::QueryNorm(layer), config)?;
            Some(HeadNorms { q, k: source.vector(Weight::KeyNorm(layer), config)? })
        } else {
            None
        };
        let (ffn_norm, post_norms) = if config.architecture.is_gemma() {
            let attn = source.vector(Weight::PostAttentionNorm(layer), config)?;
            let ffn = source.vector(Weight::PostFeedForwardNorm(layer), config)?;
            (Weight::PreFeedForwardNorm(layer), Some(PostNorms { attn, ffn }))
        } else {
            (Weight::FeedForwardNorm(layer), None)
        };
        Ok(Self {
            attn_norm: source.vector(Weight::AttentionNorm(layer), config)?,
            q,
            k,
            v,
            head_norms,
            o: source.matrix(Weight::AttentionOutput(layer), None, config)?,
            ffn_norm: source.vector(ffn_norm, config)?,
            post_norms,
            gate: source.matrix(Weight::Gate(layer), None, config)?,
            up: source.matrix(Weight::Up(layer), None, config)?,
            down: source.matrix(Weight::Down(layer), None, config)?,
        })
    }
}
