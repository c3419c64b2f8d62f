//! Causal attention for inference on the CPU, over ragged rows.
//!
//! The order in which anything is summed depends on a token's own position alone. So a token's output has the same bits
//! whatever the batch, the chunking of the prompt and the instruction set. Training has a differentiable attention of its own.

mod cache;
mod kernel;
mod vector;

pub use cache::KvCache;
pub(crate) use cache::{BLOCK, KvBlock, KvPool, KvShape};
pub(crate) use vector::{exp, sum_of_exp};

use candle_core::{CpuStorage, InplaceOp2, Layout, Storage, Tensor};
use rayon::prelude::*;

/// How heads share keys and values (grouped-query attention, arXiv 2305.13245).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heads {
    pub(crate) query: usize,
    pub(crate) kv: usize,
    pub(crate) width: usize,
}

/// How scores are made of products.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scores {
    /// Products are multiplied by it.
    pub(crate) scale: f32,
    /// Scores stay within plus and minus this, by a hyperbolic tangent.
    pub(crate) softcap: Option<f32>,
    /// Positions that a token sees, its own included, if it does not see all.
    pub(crate) window: Option<usize>,
}

/// The activation of a feed-forward block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    /// `x / (1 + e^-x)`.
    Silu,
    /// GELU (arXiv 1606.08415) by its approximation with a hyperbolic tangent.
    GeluTanh,
}

/// Attends every token of `queries` (`[tokens, heads * width]`, contiguous f32) to its own sequence. `sequences` gives, in
/// the order of the tokens, each sequence's cache and how many tokens it has here; their keys and values are in the
/// cache already, the cache's length still stands at the first of them. Returns the shape of `queries`.
pub(crate) fn attend(
    queries: &Tensor,
    sequences: &[(&KvCache, usize)],
    layer: usize,
    heads: Heads,
    scoring: Scores,
) -> candle_core::Result<Tensor> {
    let mut tokens = Vec::with_capacity(queries.dim(0)?);
    for (cache, count) in sequences {
        tokens.extend((0..*count).map(|i| (*cache, cache.len() + i + 1)));
    }
    let group = heads.query / heads.kv * heads.width;
    let attended = with_slice(queries, |queries| {
        let mut attended = vec![0f32; queries.len()];
        attended.par_chunks_mut(group).zip(queries.par_chunks(group)).enumerate().for_each_init(
            Vec::new,
            |scores, (task, (out, query))| {
                let (token, head) = (task / heads.kv, task % heads.kv);
                let (cache, seen) = tokens[token];
                let past = kernel::Past {
                    keys: cache.keys(layer, head),
                    values: cache.values(layer, head),
                    width: heads.width,
                    from: scoring.window.map_or(0, |window| seen.saturating_sub(window)),
                    seen,
                };
                kernel::attend(query, &past, scoring, scores, out);
            },
        );
        attended
    })?;
    Tensor::from_vec(attended, queries.shape(), queries.device())
}

/// Appends each sequence's new keys and values (`[tokens, kv_heads * width]`) to its cache for one layer. The caches'
/// lengths stay as they are until the step is through.
pub(crate) fn remember(
    keys: &Tensor,
    values: &Tensor,
    sequences: &mut [(&mut KvCache, usize)],
    layer: usize,
) -> candle_core::Result<()> {
    let width = keys.dim(1)?;
    with_slice(keys, |keys| {
        with_slice(values, |values| {
            let mut first = 0;
            for (cache, count) in sequences {
                let rows = first * width..(first + *count) * width;
                cache.write(layer, &keys[rows.clone()], &values[rows]);
                first += *count;
            }
        })
    })?
}

/// `cap * tanh(x / cap)`, elementwise.
pub(crate) fn softcap(x: &Tensor, cap: f32) -> candle_core::Result<Tensor> {
    let capped = with_slice(x, |x| {
        let mut x = x.to_vec();
        vector::softcap(&mut x, cap);
        x
    })?;
    Tensor::from_vec(capped, x.shape(), x.device())
}

/// `activation(gate) * up` for `[rows, width]` f32, elementwise, in the place of `gate`.
pub(crate) fn gated(gate: Tensor, up: &Tensor, activation: Activation) -> candle_core::Result<Tensor> {
    gate.inplace_op2(up, &Gated(activation))?;
    Ok(gate)
}

struct Gated(Activation);

impl InplaceOp2 for Gated {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn cpu_fwd(
        &self,
        gate: &mut CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> candle_core::Result<()> {
        let CpuStorage::F32(gate) = gate else { candle_core::bail!("a gate in f32 is needed") };
        let Some((start, end)) = gate_layout.contiguous_offsets() else {
            candle_core::bail!("a contiguous gate is needed, not {gate_layout:?}");
        };
        let width = gate_layout.dims().last().copied().unwrap_or(1).max(1);
        let up = contiguous(up, up_layout)?;
        gate[start..end].par_chunks_mut(width).zip(up.par_chunks(width)).for_each(|(gate, up)| match self.0 {
            Activation::Silu => vector::silu_times(gate, up),
            Activation::GeluTanh => vector::gelu_times(gate, up),
        });
        Ok(())
    }
}

/// Lends a contiguous f32 CPU tensor's values.
pub(crate) fn with_slice<R>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> R) -> candle_core::Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(read(contiguous(storage, layout)?)),
        _ => candle_core::bail!("attention reads tensors on the CPU only"),
    }
}

fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    let values = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => candle_core::bail!("a contiguous tensor is needed, not {layout:?}"),
    }
}
