//! Attention over keys and values that are on a device: by candle's own operations, on an NVIDIA GPU also by a kernel of ours.
//!
//! Rows of sequences that go on by one token are batched, padded to the longest among neighbours in length; a sequence
//! with more tokens is a batch of its own. Each layer gathers what a batch sees from the pages; the kernel reads it there, and
//! takes sequences with some more tokens, too.

use candle_core::{DType, Device, Result, Tensor};

use super::cache::KvCache;
use super::pages::Pages;
use super::{Heads, Scores};
#[cfg(feature = "cuda")]
use crate::cuda::attention as kernels;

/// Positions that one batch gathers, at most: a bound on what a step takes beside the pages.
const GATHERED: usize = 1 << 17;
/// Pairs of tokens and positions of a sequence that a kernel of ours may see.
const SHORT: usize = 1 << 15;

/// What a step reads and writes, the same in every layer.
#[derive(Debug)]
pub(crate) struct Paging {
    /// Where each row's keys and values go: `[rows, 1]`, u32; where candle's own operation writes them, once for each of their
    /// elements, `[rows, kv_heads * width]`.
    written: Tensor,
    /// The rows in the order of the batches, and each row's place in it, if that is another order.
    order: Option<(Tensor, Tensor)>,
    batches: Vec<Batch>,
}

/// Sequences that are attended at once.
#[derive(Debug)]
enum Batch {
    /// By candle's operations.
    Gathered(Gathered),
    /// By a kernel of ours: how many tokens, and what they see.
    #[cfg(feature = "cuda")]
    Kernel(usize, kernels::Seen),
}

/// Sequences with as many new tokens each.
#[derive(Debug)]
struct Gathered {
    sequences: usize,
    /// New tokens of each.
    tokens: usize,
    /// Positions that the longest sees.
    len: usize,
    /// Of every sequence in turn: `[sequences * len]`, u32.
    slots: Tensor,
    /// What each token sees, `[sequences, 1, 1, tokens, len]`, u8: all before it, and its window.
    seen: Tensor,
    windowed: Option<Tensor>,
}

impl Paging {
    /// For a step over `sequences`, given with the number of their new tokens; their blocks are there, their lengths still
    /// stand at the first new token. `window`: of layers that have one.
    pub(super) fn new(
        sequences: &[(&KvCache, usize)],
        pages: &Pages,
        window: Option<usize>,
        device: &Device,
    ) -> Result<Self> {
        let row = pages.shape().kv_heads * pages.shape().width;
        let written: Vec<u32> = sequences.iter().flat_map(|(cache, n)| cache.slots(cache.len()).take(*n)).collect();
        let rows = written.len();
        let written = Tensor::from_vec(written, (rows, 1), device)?;
        let written = if has_kernels(pages) { written } else { written.broadcast_as((rows, row))?.contiguous()? };
        let mut firsts = Vec::with_capacity(sequences.len());
        let mut first = 0;
        for (_, tokens) in sequences {
            firsts.push(first);
            first += tokens;
        }
        let mut order = Vec::with_capacity(rows);
        let mut batches = Vec::new();
        for members in batched(sequences, has_kernels(pages)) {
            order.extend(members.iter().flat_map(|member| firsts[*member]..firsts[*member] + sequences[*member].1));
            let members: Vec<_> = members.iter().map(|member| sequences[*member]).collect();
            batches.push(Batch::new(&members, pages, window, device)?);
        }
        let order = if order.is_sorted() { None } else { Some(both_ways(&order, device)?) };
        Ok(Self { written, order, batches })
    }

    /// Writes a step's keys and values, `[rows, kv_heads * width]`.
    pub(super) fn remember(&self, pages: &Pages, layer: usize, keys: &Tensor, values: &Tensor) -> Result<()> {
        let (all_keys, all_values) = pages.layer(layer);
        #[cfg(feature = "cuda")]
        if has_kernels(pages) {
            return kernels::remember(keys, values, &self.written, (all_keys, all_values));
        }
        all_keys.scatter_set(&self.written, &keys.contiguous()?, 0)?;
        all_values.scatter_set(&self.written, &values.contiguous()?, 0)
    }

    /// Attends every row of `queries`, `[rows, heads * width]`, to its own sequence.
    pub(super) fn attend(
        &self,
        pages: &Pages,
        layer: usize,
        queries: &Tensor,
        heads: Heads,
        scoring: Scores,
    ) -> Result<Tensor> {
        let ordered = match &self.order {
            Some((order, _)) => queries.index_select(order, 0)?,
            None => queries.clone(),
        };
        let mut first = 0;
        let mut attended = Vec::with_capacity(self.batches.len());
        for batch in &self.batches {
            let rows = batch.rows();
            attended.push(batch.attend(pages, layer, &ordered.narrow(0, first, rows)?, heads, scoring)?);
            first += rows;
        }
        let attended = Tensor::cat(&attended, 0)?;
        match &self.order {
            Some((_, back)) => attended.index_select(back, 0),
            None => Ok(attended),
        }
    }
}

impl Batch {
    fn new(members: &[(&KvCache, usize)], pages: &Pages, window: Option<usize>, device: &Device) -> Result<Self> {
        let len = members.iter().map(|(cache, tokens)| cache.len() + tokens).max().unwrap_or(0);
        let mut slots = Vec::with_capacity(members.len() * len);
        for (cache, tokens) in members {
            let end = cache.len() + tokens;
            slots.extend(cache.slots(0).take(end));
            // Padding reads its own sequence's last position: what another holds, NaN among it, must not come near.
            let last = slots.last().copied().unwrap_or(0);
            slots.resize(slots.len() + len - end, last);
        }
        let slots = Tensor::from_vec(slots, members.len() * len, device)?;
        #[cfg(feature = "cuda")]
        if has_kernels(pages) && members.iter().all(|(cache, tokens)| is_short(cache, *tokens, true)) {
            let (mut owners, mut ends) = (Vec::new(), Vec::new());
            for (owner, (cache, tokens)) in (0u32..).zip(members) {
                owners.extend(std::iter::repeat_n(owner, *tokens));
                ends.extend((1..=*tokens).map(|token| (cache.len() + token) as u32));
            }
            let (owners, ends) = (Tensor::new(owners, device)?, Tensor::new(ends, device)?);
            return Ok(Self::Kernel(owners.dim(0)?, kernels::Seen { slots, owners, ends, len }));
        }
        let _ = pages;
        Gathered::new(members, len, slots, window, device).map(Self::Gathered)
    }

    fn rows(&self) -> usize {
        match self {
            Self::Gathered(batch) => batch.sequences * batch.tokens,
            #[cfg(feature = "cuda")]
            Self::Kernel(rows, _) => *rows,
        }
    }

    fn attend(&self, pages: &Pages, layer: usize, queries: &Tensor, heads: Heads, scoring: Scores) -> Result<Tensor> {
        match self {
            Self::Gathered(batch) => batch.attend(pages, layer, queries, heads, scoring),
            #[cfg(feature = "cuda")]
            Self::Kernel(_, seen) => kernels::attend(queries, pages.layer(layer), seen, heads, scoring),
        }
    }
}

impl Gathered {
    /// `len`: positions that the longest of `members` sees.
    fn new(
        members: &[(&KvCache, usize)],
        len: usize,
        slots: Tensor,
        window: Option<usize>,
        device: &Device,
    ) -> Result<Self> {
        let (sequences, tokens) = (members.len(), members.first().map_or(0, |(_, tokens)| *tokens));
        let mut seen = Vec::with_capacity(sequences * tokens * len);
        let mut windowed = Vec::new();
        for position in members.iter().flat_map(|(cache, _)| cache.len()..cache.len() + tokens) {
            seen.extend((0..len).map(|p| u8::from(p <= position)));
            if let Some(window) = window {
                windowed.extend((0..len).map(|p| u8::from(p <= position && p + window > position)));
            }
        }
        let mask = |seen: Vec<u8>| Tensor::from_vec(seen, (sequences, 1, 1, tokens, len), device);
        let (seen, windowed) = (mask(seen)?, window.map(|_| mask(windowed)).transpose()?);
        Ok(Self { sequences, tokens, len, slots, seen, windowed })
    }

    fn attend(&self, pages: &Pages, layer: usize, queries: &Tensor, heads: Heads, scoring: Scores) -> Result<Tensor> {
        let Self { sequences, tokens, len, .. } = *self;
        let Heads { query, kv, width } = heads;
        let group = query / kv;
        let (keys, values) = pages.layer(layer);
        let by_head = |all: &Tensor| {
            let gathered = all.index_select(&self.slots, 0)?;
            gathered.reshape((sequences, len, kv, width))?.transpose(1, 2)?.contiguous()
        };
        let (keys, values) = (by_head(keys)?, by_head(values)?);
        let queries = queries.reshape((sequences, tokens, kv, group, width))?.permute((0, 2, 3, 1, 4))?;
        let queries = queries.contiguous()?.reshape((sequences, kv, group * tokens, width))?;
        let scores = queries.matmul(&keys.t()?)?.to_dtype(DType::F32)?.affine(f64::from(scoring.scale), 0.0)?;
        let scores = match scoring.softcap {
            Some(cap) => capped(&scores, cap)?,
            None => scores,
        };
        let shape = (sequences, kv, group, tokens, len);
        let scores = scores.reshape(shape)?;
        let seen = self.windowed.as_ref().filter(|_| scoring.window.is_some()).unwrap_or(&self.seen);
        let nothing = Tensor::new(f32::NEG_INFINITY, queries.device())?.broadcast_as(shape)?;
        let weights = candle_nn::ops::softmax_last_dim(&seen.broadcast_as(shape)?.where_cond(&scores, &nothing)?)?;
        let weights = weights.to_dtype(queries.dtype())?.reshape((sequences, kv, group * tokens, len))?;
        let attended = weights.matmul(&values)?.reshape((sequences, kv, group, tokens, width))?;
        attended.permute((0, 3, 1, 2, 4))?.contiguous()?.reshape((sequences * tokens, query * width))
    }
}

/// Whether short sequences attend, and all are remembered, by kernels of ours.
fn has_kernels(pages: &Pages) -> bool {
    #[cfg(feature = "cuda")]
    return kernels::has_kernels(pages.layer(0).0, pages.shape().width);
    #[cfg(not(feature = "cuda"))]
    {
        let _ = pages;
        false
    }
}

/// `cap * tanh(x / cap)`, elementwise.
pub(super) fn capped(x: &Tensor, cap: f32) -> Result<Tensor> {
    (x.affine(1.0 / f64::from(cap), 0.0)?.tanh()? * f64::from(cap))?.contiguous()
}

/// Whether a sequence is attended together with others: it goes on by one token, or a kernel, which reads its keys anew for
/// every token, has little to read.
fn is_short(cache: &KvCache, tokens: usize, kernels: bool) -> bool {
    tokens == 1 || kernels && tokens * (cache.len() + tokens) <= SHORT
}

/// The sequences of each batch: the short ones by length, as many as may be gathered at once; others alone.
fn batched(sequences: &[(&KvCache, usize)], kernels: bool) -> Vec<Vec<usize>> {
    let (mut short, long): (Vec<usize>, Vec<usize>) =
        (0..sequences.len()).partition(|index| is_short(sequences[*index].0, sequences[*index].1, kernels));
    let seen = |index: usize| sequences[index].0.len() + sequences[index].1;
    short.sort_by_key(|index| std::cmp::Reverse(seen(*index)));
    let mut batches = Vec::new();
    while let Some(first) = short.first() {
        let count = (GATHERED / seen(*first)).clamp(1, short.len());
        batches.push(short.drain(..count).collect());
    }
    batches.extend(long.into_iter().map(|index| vec![index]));
    batches
}

/// An order as indices, and its inverse.
fn both_ways(order: &[usize], device: &Device) -> Result<(Tensor, Tensor)> {
    let mut back = vec![0u32; order.len()];
    for (place, row) in order.iter().enumerate() {
        back[*row] = place as u32;
    }
    let there: Vec<u32> = order.iter().map(|row| *row as u32).collect();
    Ok((Tensor::new(there, device)?, Tensor::new(back, device)?))
}
