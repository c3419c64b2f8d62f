//! The differentiable forward pass of one decoder layer.

use super::draws::DropoutDraw;
use super::operations::{self, Adapted, HeadLayout, Rotation};
use super::parameters::Parameters;
use crate::linear::FrozenLinear;
use crate::lora::Projection;
use crate::model::{LayerWeights, Model};
use candle_core::{Device, Result, Tensor};
use std::sync::OnceLock;

/// Whether a pass records what automatic differentiation needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Graph {
    /// Values only.
    Off,
    /// The adapter's variables are leaves of the graph.
    On,
}

/// What all layers of one row's pass share.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    model: &'a Model,
    parameters: &'a Parameters,
    dropout: Option<DropoutDraw>,
    rotation: Rotation,
    /// Of layers with a window, where it is another.
    sliding_rotation: Option<Rotation>,
}

impl<'a> Pass<'a> {
    /// For a row of `tokens` tokens, which start at position 0.
    pub(super) fn new(
        model: &'a Model,
        parameters: &'a Parameters,
        dropout: Option<DropoutDraw>,
        tokens: usize,
    ) -> Result<Self> {
        let weights = &model.weights;
        let sliding = weights.sliding_rope.as_ref().map(|table| Rotation::new(table, tokens)).transpose()?;
        let rotation = Rotation::new(&weights.rope, tokens)?;
        Ok(Self { model, parameters, dropout, rotation, sliding_rotation: sliding })
    }

    pub(super) fn model(&self) -> &'a Model {
        self.model
    }

    /// Bytes that a layer's graph keeps of a row of `tokens` tokens: what every operation of [`Self::layer`] was given, once.
    pub(super) fn graph_bytes(&self, tokens: usize) -> usize {
        let config = &self.model.config;
        let (hidden, query, kv) = (config.hidden_size, config.query_width(), config.kv_width());
        let mut floats = 6 * hidden + 3 * query + 3 * kv + 3 * config.intermediate_size;
        if self.dropout.is_some() {
            // Of all projections' inputs.
            floats += 5 * hidden + query + config.intermediate_size;
        }
        let weights = &self.model.weights.layers;
        if weights.iter().any(|layer| layer.post_norms.is_some()) {
            floats += 2 * hidden;
        }
        if weights.iter().any(|layer| layer.head_norms.is_some()) {
            floats += query + kv;
        }
        size_of::<f32>() * floats * tokens
    }

    /// The embedded tokens `[tokens, hidden]`.
    pub(super) fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        let ids = Tensor::new(ids, &Device::Cpu)?;
        self.model.weights.embed(&self.model.config, &ids)
    }

    /// Layer `index` of `x [tokens, hidden]`.
    pub(super) fn layer(&self, index: usize, x: &Tensor, graph: Graph) -> Result<Tensor> {
        let weights = &self.model.weights.layers[index];
        let eps = self.model.config.rms_norm_eps;
        let layer = Layer { pass: self, index, graph };
        let normed = operations::rms_norm(x, &weights.attn_norm, eps)?;
        let post = weights.post_norms.as_ref();
        let post_norm = |x: Tensor, norm: Option<&Tensor>| match norm {
            Some(norm) => operations::rms_norm(&x, norm, eps),
            None => Ok(x),
        };
        let attended = layer.attend(weights, &normed)?;
        let x = (x + post_norm(attended, post.map(|norms| &norms.attn))?)?;
        let normed = operations::rms_norm(&x, &weights.ffn_norm, eps)?;
        let gate = layer.project(Projection::Gate, &weights.gate, &normed)?;
        let up = layer.project(Projection::Up, &weights.up, &normed)?;
        let inner = operations::gated(&gate, &up, self.model.config.architecture.activation())?;
        let down = layer.project(Projection::Down, &weights.down, &inner)?;
        x + post_norm(down, post.map(|norms| &norms.ffn))?
    }
}

struct Layer<'a, 'p> {
    pass: &'a Pass<'p>,
    index: usize,
    graph: Graph,
}

impl Layer<'_, '_> {
    fn attend(&self, weights: &LayerWeights, x: &Tensor) -> Result<Tensor> {
        let config = &self.pass.model.config;
        let q = self.project(Projection::Q, &weights.q, x)?;
        let k = self.project(Projection::K, &weights.k, x)?;
        let v = self.project(Projection::V, &weights.v, x)?;
        let (q, k) = match &weights.head_norms {
            Some(norms) => (self.head_normed(&q, &norms.q)?, self.head_normed(&k, &norms.k)?),
            None => (q, k),
        };
        let heads = HeadLayout { heads: config.heads, kv_heads: config.kv_heads, width: config.head_dim };
        let scores = config.scores(self.index);
        let sliding = self.pass.sliding_rotation.as_ref().filter(|_| scores.window.is_some());
        let rotation = sliding.unwrap_or(&self.pass.rotation);
        let (q, k) = (operations::rotate(&q, rotation)?, operations::rotate(&k, rotation)?);
        let mixed = operations::attention(&q, &k, &v, heads, scores)?;
        self.project(Projection::O, &weights.o, &mixed)
    }

    fn head_normed(&self, x: &Tensor, norm: &Tensor) -> Result<Tensor> {
        let config = &self.pass.model.config;
        let (rows, width) = x.dims2()?;
        let heads = x.reshape((rows * (width / config.head_dim), config.head_dim))?;
        operations::rms_norm(&heads, norm, config.rms_norm_eps)?.reshape((rows, width))
    }

    /// The projection, with the adapter's update where it has one.
    fn project(&self, projection: Projection, frozen: &FrozenLinear, x: &Tensor) -> Result<Tensor> {
        let Pass { parameters, dropout, .. } = self.pass;
        let Some(pair) = parameters.pair(self.index, projection) else {
            return frozen.forward(x);
        };
        let (a, b) = match self.graph {
            Graph::On => (pair.a.as_tensor().clone(), pair.b.as_tensor().clone()),
            Graph::Off => (pair.a.as_detached_tensor(), pair.b.as_detached_tensor()),
        };
        let adapted = Adapted {
            frozen: frozen.clone(),
            scale: parameters.config().scale() as f32,
            factors: dropout.map(|draw| draw.factors(self.index, projection, x.elem_count())),
            inner: OnceLock::new(),
        };
        operations::adapted_linear(x, &a, &b, adapted)
    }
}
