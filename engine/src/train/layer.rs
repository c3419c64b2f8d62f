//! The differentiable forward pass of one decoder layer.

use super::draws::DropoutDraw;
use super::operations::{BaseWeight, Dropout, HeadLayout, Mask, Rotation, Tape};
use super::parameters::Parameters;
use super::rows::ReadyRow;
use crate::lora::Projection;
use crate::model::{DecoderWeights, LayerWeights, ModelConfig};
use candle_core::{Result, Tensor};

/// A model's frozen weights, where they are.
#[derive(Debug)]
pub(super) struct Base<'a, B> {
    pub(super) config: &'a ModelConfig,
    pub(super) weights: &'a DecoderWeights<B>,
}

impl<B> Clone for Base<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B> Copy for Base<'_, B> {}

impl<B: BaseWeight> Base<'_, B> {
    /// Bytes that a layer's graph keeps of a token.
    pub(super) fn graph_bytes(&self, dropout: bool) -> usize {
        let config = self.config;
        let (hidden, query, kv) = (config.hidden_size, config.query_width(), config.kv_width());
        let dtype = self.weights.norm.dtype();
        let mut floats = B::kept_floats(config);
        let layers = &self.weights.layers;
        if layers.iter().any(|layer| layer.post_norms.is_some()) {
            floats += 2 * hidden;
        }
        if layers.iter().any(|layer| layer.head_norms.is_some()) {
            floats += query + kv;
        }
        // Of all projections' inputs.
        let droppable = if dropout { 5 * hidden + query + config.intermediate_size } else { 0 };
        dtype.size_in_bytes() * floats + B::mask_bytes(dtype) * droppable
    }
}

/// Rows on their way through the model, one after the other.
#[derive(Debug)]
pub(super) struct Pass<'a, B: BaseWeight> {
    pub(super) base: Base<'a, B>,
    parameters: &'a Parameters,
    /// Tokens of each row: the last target is predicted, never read.
    lengths: Vec<usize>,
    rows: B::Rows,
    /// Of each row; none without dropout.
    dropout: Vec<DropoutDraw>,
    rotation: Rotation,
    /// Of layers with a window, where it is another.
    sliding_rotation: Option<Rotation>,
}

impl<'a, B: BaseWeight> Pass<'a, B> {
    /// Each row starts at position 0. `dropout`: of each row, or none.
    pub(super) fn new(
        base: Base<'a, B>,
        parameters: &'a Parameters,
        rows: &[&ReadyRow],
        dropout: Vec<DropoutDraw>,
    ) -> Result<Self> {
        let weights = base.weights;
        let device = weights.norm.device();
        let lengths: Vec<usize> = rows.iter().map(|row| row.ids.len() - 1).collect();
        let positions: Vec<u32> = lengths.iter().flat_map(|tokens| 0..*tokens as u32).collect();
        let positions = Tensor::new(positions, device)?;
        let sliding = weights.sliding_rope.as_ref().map(|table| Rotation::new(table, &positions)).transpose()?;
        let rotation = Rotation::new(&weights.rope, &positions)?;
        let rows = B::arrange(&lengths, device)?;
        Ok(Self { base, parameters, lengths, rows, dropout, rotation, sliding_rotation: sliding })
    }

    /// Bytes that a layer's graph keeps.
    pub(super) fn graph_bytes(&self) -> usize {
        self.base.graph_bytes(!self.dropout.is_empty()) * self.tokens()
    }

    fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// The embedded tokens of the rows, `[tokens, hidden]`.
    pub(super) fn embed(&self, rows: &[&ReadyRow]) -> Result<Tensor> {
        let ids: Vec<u32> = rows.iter().flat_map(|row| &row.ids[..row.ids.len() - 1]).copied().collect();
        let weights = self.base.weights;
        weights.embed(self.base.config, &Tensor::new(ids, weights.norm.device())?)
    }

    /// Layer `index` of `x [tokens, hidden]`.
    pub(super) fn layer(&self, index: usize, x: &Tensor, tape: &Tape) -> Result<Tensor> {
        let Base { config, weights } = self.base;
        let weights = &weights.layers[index];
        let eps = config.rms_norm_eps;
        let layer = Layer { pass: self, index, tape };
        let normed = B::rms_norm(x, &weights.attn_norm, eps, tape)?;
        let post = weights.post_norms.as_ref();
        let post_norm = |x: Tensor, norm: Option<&Tensor>| match norm {
            Some(norm) => B::rms_norm(&x, norm, eps, tape),
            None => Ok(x),
        };
        let attended = layer.attend(weights, &normed)?;
        let x = tape.add(x, &post_norm(attended, post.map(|norms| &norms.attn))?)?;
        let normed = B::rms_norm(&x, &weights.ffn_norm, eps, tape)?;
        let gate = layer.project(Projection::Gate, &weights.gate, &normed)?;
        let up = layer.project(Projection::Up, &weights.up, &normed)?;
        let inner = B::gated(&gate, &up, config.architecture.activation(), tape)?;
        let down = layer.project(Projection::Down, &weights.down, &inner)?;
        tape.add(&x, &post_norm(down, post.map(|norms| &norms.ffn))?)
    }
}

struct Layer<'a, 'p, B: BaseWeight> {
    pass: &'a Pass<'p, B>,
    index: usize,
    tape: &'a Tape,
}

impl<B: BaseWeight> Layer<'_, '_, B> {
    fn attend(&self, weights: &LayerWeights<B>, x: &Tensor) -> Result<Tensor> {
        let config = self.pass.base.config;
        let q = self.project(Projection::Q, &weights.q, x)?;
        let k = self.project(Projection::K, &weights.k, x)?;
        let v = self.project(Projection::V, &weights.v, x)?;
        let head_normed = |x: &Tensor, norm: &Tensor| B::rms_norm(x, norm, config.rms_norm_eps, self.tape);
        let (q, k) = match &weights.head_norms {
            Some(norms) => (head_normed(&q, &norms.q)?, head_normed(&k, &norms.k)?),
            None => (q, k),
        };
        let heads = HeadLayout { heads: config.heads, kv_heads: config.kv_heads, width: config.head_dim };
        let scores = config.scores(self.index);
        let sliding = self.pass.sliding_rotation.as_ref().filter(|_| scores.window.is_some());
        let rotation = sliding.unwrap_or(&self.pass.rotation);
        let (q, k) = (B::rotate(&q, rotation, self.tape)?, B::rotate(&k, rotation, self.tape)?);
        let mixed = B::attention([&q, &k, &v], heads, scores, &self.pass.rows, self.tape)?;
        self.project(Projection::O, &weights.o, &mixed)
    }

    /// The projection, with the adapter's update where it has one.
    fn project(&self, projection: Projection, frozen: &B, x: &Tensor) -> Result<Tensor> {
        let Pass { parameters, dropout, lengths, .. } = self.pass;
        let Some(pair) = parameters.pair(self.index, projection) else {
            return frozen.frozen(x, self.tape);
        };
        let width = x.dim(1)?;
        let mask = || {
            let mut draws =
                dropout.iter().zip(lengths).map(|(d, tokens)| d.mask(self.index, projection, tokens * width));
            let first = draws.next().unwrap_or(Mask { kept: Vec::new(), factor: 0.0 });
            draws.fold(first, |mut all, next| {
                all.kept.extend(next.kept);
                all
            })
        };
        let dropout = dropout.first().map(|first| Dropout {
            mask: &mask,
            key: first.key(self.index, projection),
            rate: first.rate as f32,
        });
        frozen.adapted([x, &pair.a, &pair.b], parameters.config().scale() as f32, dropout, self.tape)
    }
}
