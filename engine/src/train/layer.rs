//! The differentiable forward pass of one decoder layer.

use super::draws::DropoutDraw;
use super::operations;
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
    cos: Tensor,
    sin: Tensor,
    mask: Tensor,
    tokens: usize,
}

impl<'a> Pass<'a> {
    /// For a row of `tokens` tokens, which start at position 0.
    pub(super) fn new(
        model: &'a Model,
        parameters: &'a Parameters,
        dropout: Option<DropoutDraw>,
        tokens: usize,
    ) -> Result<Self> {
        let mask = (0..tokens * tokens).map(|place| {
            if place % tokens > place / tokens {
                f32::NEG_INFINITY
            } else {
                0.0
            }
        });
        Ok(Self {
            model,
            parameters,
            dropout,
            cos: model.rope.cos.narrow(0, 0, tokens)?,
            sin: model.rope.sin.narrow(0, 0, tokens)?,
            mask: Tensor::from_iter(mask, &Device::Cpu)?.reshape((tokens, tokens))?,
            tokens,
        })
    }

    /// The embedded tokens `[tokens, hidden]`.
    pub(super) fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        let ids = Tensor::new(ids, &Device::Cpu)?;
        self.model.embedding.index_select(&ids, 0)
    }

    /// Layer `index` of `x [tokens, hidden]`.
    pub(super) fn layer(&self, index: usize, x: &Tensor, graph: Graph) -> Result<Tensor> {
        let weights = &self.model.layers[index];
        let eps = self.model.config.rms_norm_eps;
        let layer = Layer {
            pass: self,
            index,
            graph,
        };
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
        let (pass, config) = (self.pass, &self.pass.model.config);
        let heads = |x: Tensor, count| {
            x.reshape((pass.tokens, count, config.head_dim))?
                .transpose(0, 1)?
                .contiguous()
        };
        let q = heads(self.project(Projection::Q, &weights.q, x)?, config.heads)?;
        let k = heads(self.project(Projection::K, &weights.k, x)?, config.kv_heads)?;
        let v = heads(self.project(Projection::V, &weights.v, x)?, config.kv_heads)?;
        let q = operations::rotate(&q, &pass.cos, &pass.sin)?;
        let k = operations::rotate(&k, &pass.cos, &pass.sin)?;
        let mixed = operations::attention(&q, &k, &v, &pass.mask, config)?
            .transpose(0, 1)?
            .reshape((pass.tokens, config.query_width()))?;
        self.project(Projection::O, &weights.o, &mixed)
    }

    /// The frozen projection plus the adapter's update: `W x + scale * B A dropout(x)`.
    fn project(&self, projection: Projection, frozen: &FrozenLinear, x: &Tensor) -> Result<Tensor> {
        let y = frozen.forward(x)?;
        let Some(pair) = self.pass.parameters.pair(self.index, projection) else {
            return Ok(y);
        };
        let (a, b) = match self.graph {
            Graph::On => (pair.a.as_tensor().clone(), pair.b.as_tensor().clone()),
            Graph::Off => (pair.a.as_detached_tensor(), pair.b.as_detached_tensor()),
        };
        let x = match self.pass.dropout {
            None => x.clone(),
            Some(draw) => {
                let factors = draw.factors(self.index, projection, x.elem_count());
                (x * Tensor::from_vec(factors, x.shape(), x.device())?)?
            }
        };
        let update = x.matmul(&a.t()?)?.matmul(&b.t()?)?;
        y + (update * self.pass.parameters.config().scale())?
    }
}
