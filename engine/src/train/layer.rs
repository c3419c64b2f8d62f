//! The differentiable forward pass of one decoder layer.

use super::draws::DropoutDraw;
use super::operations::{self, Adapted, HeadLayout, Rotation};
use super::parameters::Parameters;
use crate::linear::FrozenLinear;
use crate::lora::Projection;
use crate::model::{LayerWeights, Model};
use candle_core::{Device, Result, Tensor};

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
}

impl<'a> Pass<'a> {
    /// For a row of `tokens` tokens, which start at position 0.
    pub(super) fn new(
        model: &'a Model,
        parameters: &'a Parameters,
        dropout: Option<DropoutDraw>,
        tokens: usize,
    ) -> Result<Self> {
        Ok(Self { model, parameters, dropout, rotation: Rotation::new(&model.weights.rope, tokens)? })
    }

    pub(super) fn model(&self) -> &'a Model {
        self.model
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
        let x = (x + layer.attend(weights, &normed)?)?;
        let normed = operations::rms_norm(&x, &weights.ffn_norm, eps)?;
        let gate = layer.project(Projection::Gate, &weights.gate, &normed)?;
        let up = layer.project(Projection::Up, &weights.up, &normed)?;
        let inner = operations::swiglu(&gate, &up)?;
        x + layer.project(Projection::Down, &weights.down, &inner)?
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
        let q = operations::rotate(&q, &self.pass.rotation)?;
        let k = operations::rotate(&k, &self.pass.rotation)?;
        let mixed = operations::attention(&q, &k, &v, heads)?;
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
        };
        operations::adapted_linear(x, &a, &b, adapted)
    }
}
