//! Causal attention for inference, over ragged rows: our own on the CPU, candle's operations on other devices.
//!
//! On the CPU, the order in which anything is summed depends on a token's own position alone. So a token's output has the
//! same bits whatever the batch, the chunking of the prompt and the instruction set. Training has a differentiable
//! attention of its own.

mod cache;
mod kept;
mod kernel;
mod paged;
mod pages;
mod products;
mod vector;

pub use cache::KvCache;
pub(crate) use cache::{BLOCK, KvBlock, KvPool, KvShape};
pub use kept::KvType;
pub(crate) use paged::Paging;
pub(crate) use pages::Pages;
pub(crate) use vector::{exp, softcap as cap_values, sum_of_exp};

use crate::instruction_sets::Instructions;
use crate::threads::SERIAL;
use candle_core::{CpuStorage, DType, Device, InplaceOp2, Layout, Result, Storage, Tensor};
use half::f16;
use kernel::Query;
use products::Products;
use rayon::prelude::*;
use std::sync::Arc;

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

/// The keys and values of a step's sequences, each given with the number of its new tokens. A cache's length stays at the
/// first of them until the step is through.
#[derive(Debug)]
pub(crate) struct Sequences<'a, 'c> {
    sequences: &'a mut [(&'c mut KvCache, usize)],
    paging: Option<Paging>,
}

impl<'a, 'c> Sequences<'a, 'c> {
    /// Makes room for the new tokens. `window`: of layers that have one.
    pub(crate) fn new(
        sequences: &'a mut [(&'c mut KvCache, usize)],
        window: Option<usize>,
        device: &Device,
    ) -> Result<Self> {
        for (cache, tokens) in &mut *sequences {
            cache.make_room(*tokens)?;
        }
        let views: Vec<(&KvCache, usize)> = sequences.iter().map(|(cache, tokens)| (&**cache, *tokens)).collect();
        let pages = views.first().and_then(|(cache, _)| cache.pages());
        let strangers = |(cache, _): &&(&KvCache, usize)| cache.pages().map(Arc::as_ptr) != pages.map(Arc::as_ptr);
        if views.iter().any(|view| strangers(&view)) {
            candle_core::bail!("sequences of one step must have their keys and values in the same place");
        }
        let paging = pages.map(|pages| Paging::new(&views, pages, window, device)).transpose()?;
        Ok(Self { sequences, paging })
    }

    /// Writes the new keys and values (`[tokens, kv_heads * width]`) of one layer.
    pub(crate) fn remember(&mut self, layer: usize, keys: &Tensor, values: &Tensor) -> Result<()> {
        if let Some((paging, pages)) = self.paged() {
            return paging.remember(pages, layer, keys, values);
        }
        remember(keys, values, self.sequences, layer)
    }

    /// Attends every token of `queries` (`[tokens, heads * width]`, contiguous) to its own sequence, in the order of the
    /// sequences. Returns the shape of `queries`.
    pub(crate) fn attend(&self, layer: usize, queries: &Tensor, heads: Heads, scoring: Scores) -> Result<Tensor> {
        if let Some((paging, pages)) = self.paged() {
            return paging.attend(pages, layer, queries, heads, scoring);
        }
        match self.sequences.first().map(|(cache, _)| cache.kept()).unwrap_or_default() {
            KvType::F32 => attend::<f32>(queries, self.sequences, layer, heads, scoring),
            KvType::F16 => attend::<f16>(queries, self.sequences, layer, heads, scoring),
        }
    }

    /// Counts the new tokens as filled, once every layer has written them.
    pub(crate) fn advance(self) {
        for (cache, tokens) in self.sequences {
            cache.advance(*tokens);
        }
    }

    fn paged(&self) -> Option<(&Paging, &Pages)> {
        let pages = self.sequences.first().and_then(|(cache, _)| cache.pages());
        self.paging.as_ref().zip(pages.map(|pages| &**pages))
    }
}

fn attend<E: Products>(
    queries: &Tensor,
    sequences: &[(&mut KvCache, usize)],
    layer: usize,
    heads: Heads,
    scoring: Scores,
) -> Result<Tensor> {
    let instructions = Instructions::best();
    let attended = with_slice(queries, |queries| {
        let mut attended = vec![0f32; queries.len()];
        let tasks = tasks(queries, &mut attended, sequences, heads, scoring.window);
        tasks.into_par_iter().for_each_init(Vec::new, |scores, Task { cache, head, mut queries }| {
            let (keys, values) = (cache.keys::<E>(layer, head), cache.values(layer, head));
            kernel::attend(instructions, &mut queries, keys, values, scoring, scores);
        });
        attended
    })?;
    Tensor::from_vec(attended, queries.shape(), queries.device())
}

/// Neighbouring tokens' queries to one head's keys and values.
struct Task<'a> {
    cache: &'a KvCache,
    head: usize,
    queries: Vec<Query<'a>>,
}

/// All of a step, which write to `attended`.
fn tasks<'a>(
    queries: &'a [f32],
    attended: &'a mut [f32],
    sequences: &'a [(&mut KvCache, usize)],
    heads: Heads,
    window: Option<usize>,
) -> Vec<Task<'a>> {
    let sharing = heads.query / heads.kv;
    let together = kernel::tokens_together(sharing);
    let row = heads.query * heads.width;
    let mut rows = queries.chunks(row).zip(attended.chunks_mut(row));
    let mut tasks: Vec<Task<'a>> = Vec::new();
    for (cache, count) in sequences {
        for token in 0..*count {
            if token % together == 0 {
                let room = sharing * together.min(count - token);
                tasks.extend((0..heads.kv).map(|head| Task { cache, head, queries: Vec::with_capacity(room) }));
            }
            let seen = cache.len() + token + 1;
            let from = window.map_or(0, |window| seen.saturating_sub(window));
            let first = tasks.len() - heads.kv;
            let Some((query, out)) = rows.next() else { break };
            let of_heads = query.chunks(heads.width).zip(out.chunks_mut(heads.width));
            for (index, (query, out)) in of_heads.enumerate() {
                tasks[first + index / sharing].queries.push(Query { query, from, seen, out });
            }
        }
    }
    tasks
}

fn remember(keys: &Tensor, values: &Tensor, sequences: &mut [(&mut KvCache, usize)], layer: usize) -> Result<()> {
    let width = keys.dim(1)?;
    with_slices([keys, values], |[keys, values]| {
        let mut first = 0;
        for (cache, count) in sequences {
            let rows = first * width..(first + *count) * width;
            cache.write(layer, &keys[rows.clone()], &values[rows])?;
            first += *count;
        }
        Ok(())
    })
}

/// `cap * tanh(x / cap)`, elementwise.
pub(crate) fn softcap(x: &Tensor, cap: f32) -> Result<Tensor> {
    if !has_kernels(x) {
        return paged::capped(x, cap);
    }
    let capped = with_slice(x, |x| {
        let mut x = x.to_vec();
        vector::softcap(&mut x, cap);
        x
    })?;
    Tensor::from_vec(capped, x.shape(), x.device())
}

/// `activation(gate) * up` for `[rows, width]`, elementwise; where we have a kernel for it, in the place of `gate`.
pub(crate) fn gated(gate: Tensor, up: &Tensor, activation: Activation) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if crate::cuda::has_kernels(&gate) && crate::cuda::training::is_whole(&gate) && crate::cuda::training::is_whole(up)
    {
        return crate::cuda::training::gated(&gate.contiguous()?, &up.contiguous()?, activation);
    }
    if !has_kernels(&gate) {
        let gate = match activation {
            Activation::Silu => gate.silu()?,
            // candle's `gelu` is the approximation.
            Activation::GeluTanh => gate.gelu()?,
        };
        return gate * up;
    }
    gate.inplace_op2(up, &Gated(activation))?;
    Ok(gate)
}

fn has_kernels(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

struct Gated(Activation);

impl InplaceOp2 for Gated {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn cpu_fwd(&self, gate: &mut CpuStorage, gate_layout: &Layout, up: &CpuStorage, up_layout: &Layout) -> Result<()> {
        let CpuStorage::F32(gate) = gate else { candle_core::bail!("a gate in f32 is needed") };
        let Some((start, end)) = gate_layout.contiguous_offsets() else {
            candle_core::bail!("a contiguous gate is needed, not {gate_layout:?}");
        };
        let width = gate_layout.dims().last().copied().unwrap_or(1).max(1);
        let up = contiguous(up, up_layout)?;
        gate[start..end]
            .par_chunks_mut(width)
            .zip(up.par_chunks(width))
            .with_min_len(SERIAL.div_ceil(width))
            .for_each(|(gate, up)| activate(gate, up, self.0));
        Ok(())
    }
}

/// `gate = activation(gate) * up`, elementwise.
pub(crate) fn activate(gate: &mut [f32], up: &[f32], activation: Activation) {
    match activation {
        Activation::Silu => vector::silu_times(gate, up),
        Activation::GeluTanh => vector::gelu_times(gate, up),
    }
}

/// Lends a contiguous f32 CPU tensor's values.
pub(crate) fn with_slice<R>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> R) -> Result<R> {
    with_slices([tensor], |[values]| Ok(read(values)))
}

/// Lends the values of some of them.
pub(crate) fn with_slices<const N: usize, R>(
    tensors: [&Tensor; N],
    read: impl FnOnce([&[f32]; N]) -> Result<R>,
) -> Result<R> {
    let held = tensors.map(Tensor::storage_and_layout);
    let mut slices: [&[f32]; N] = [&[]; N];
    for (slice, (storage, layout)) in slices.iter_mut().zip(&held) {
        *slice = match &**storage {
            Storage::Cpu(storage) => contiguous(storage, layout)?,
            _ => candle_core::bail!("the kernels of the CPU read its own tensors only"),
        };
    }
    read(slices)
}

fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let values = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => candle_core::bail!("a contiguous tensor is needed, not {layout:?}"),
    }
}
