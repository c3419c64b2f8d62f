//! Causal attention with grouped key and value heads, in memory linear in the number of tokens: the weights of
//! a few rows at a time are made, used, and made again in the backward pass (the idea of arXiv 2205.14135).

use super::{list, values};
use crate::attention::exp;
use crate::linear::{PANEL, Panels, TILE_ROWS, Tile};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// How the rows of queries, keys and values fall into heads.
#[derive(Debug, Clone, Copy)]
pub(in crate::train) struct HeadLayout {
    /// Query heads.
    pub(in crate::train) heads: usize,
    /// Key and value heads; a divisor of the query heads.
    pub(in crate::train) kv_heads: usize,
    /// Width of each head.
    pub(in crate::train) width: usize,
}

/// Softmax attention of each token over itself and those before it: `q [tokens, heads * width]`, `k` and `v`
/// `[tokens, kv_heads * width]`; the result is of the shape of `q`. Differentiable in all three.
pub(in crate::train) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: HeadLayout) -> Result<Tensor> {
    let (tokens, q_width) = q.dims2()?;
    let kv_shape = [tokens, heads.kv_heads * heads.width];
    if q_width != heads.heads * heads.width || k.dims() != kv_shape || v.dims() != kv_shape {
        bail!("{heads:?} do not fit {:?}, {:?}, {:?}", q.dims(), k.dims(), v.dims());
    }
    q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, heads)
}

/// One head's rows `[tokens, width]`, packed both ways.
struct Head {
    rows: Vec<f32>,
    /// Products of a row with every token's row.
    by_token: Panels,
    /// Sums of the tokens' rows.
    mixing: Panels,
    width: usize,
}

impl Head {
    fn all(x: &[f32], count: usize, width: usize) -> Result<Vec<Self>> {
        let pack = |head: usize| {
            let rows: Vec<f32> = x
                .chunks_exact(count * width)
                .flat_map(|token| &token[head * width..(head + 1) * width])
                .copied()
                .collect();
            let tokens = rows.len() / width;
            Ok(Self {
                by_token: Panels::pack(&rows, tokens, width)?,
                mixing: Panels::pack_transposed(&rows, tokens, width)?,
                rows,
                width,
            })
        };
        (0..count).map(pack).collect()
    }

    fn row(&self, token: usize) -> &[f32] {
        &self.rows[token * self.width..(token + 1) * self.width]
    }

    /// The rows of a block times `scale`, input by input as a kernel reads them.
    fn interleaved(&self, block: Block, scale: f32) -> Vec<f32> {
        let mut x = vec![0.0f32; block.rows * self.width];
        for row in 0..block.rows {
            let places = x[row..].iter_mut().step_by(block.rows);
            for (place, value) in places.zip(self.row(block.first + row)) {
                *place = value * scale;
            }
        }
        x
    }

    /// The products of the block's rows (`x`, interleaved) with the rows of the tokens of `span`.
    fn products(&self, x: &[f32], block: Block, span: Span) -> Weights {
        let mut weights = Weights::new(block, span);
        let mut tile: Tile = [[0.0; PANEL]; TILE_ROWS];
        for panel in span.panels() {
            self.by_token.tile(panel, 0..self.width, x, block.rows, &mut tile);
            let place = panel * PANEL - span.start;
            for (row, sums) in tile[..block.rows].iter().enumerate() {
                weights.row_mut(row)[place..place + PANEL].copy_from_slice(sums);
            }
        }
        weights
    }

    /// Adds to `out` (rows of `stride`) the block's weighted sums of the rows of the tokens of `span`.
    fn mix(&self, weights: &Weights, out: &mut [f32], stride: usize) {
        let Weights { block, span, .. } = *weights;
        let x = weights.interleaved();
        let mut tile: Tile = [[0.0; PANEL]; TILE_ROWS];
        for column in (0..self.width).step_by(PANEL) {
            let lanes = PANEL.min(self.width - column);
            let tokens = span.start..span.end;
            self.mixing.tile(column / PANEL, tokens, &x, block.rows, &mut tile);
            for (row, sums) in tile[..block.rows].iter().enumerate() {
                let start = row * stride + column;
                for (out, sum) in out[start..start + lanes].iter_mut().zip(sums) {
                    *out += sum;
                }
            }
        }
    }
}

/// Neighbouring tokens that are dealt with together.
#[derive(Debug, Clone, Copy)]
struct Block {
    first: usize,
    rows: usize,
}

impl Block {
    fn of(index: usize, tokens: usize) -> Self {
        let first = index * TILE_ROWS;
        Self { first, rows: TILE_ROWS.min(tokens - first) }
    }
}

/// The tokens that a block has to do with; it starts where a panel does.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: usize,
    end: usize,
}

impl Span {
    fn panels(self) -> std::ops::Range<usize> {
        self.start / PANEL..self.end.div_ceil(PANEL)
    }
}

/// A number for each (row of a block, token of a span).
struct Weights {
    values: Vec<f32>,
    stride: usize,
    block: Block,
    span: Span,
}

impl Weights {
    fn new(block: Block, span: Span) -> Self {
        let stride = span.panels().len() * PANEL;
        Self { values: vec![0.0; block.rows * stride], stride, block, span }
    }

    fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.values[row * self.stride..(row + 1) * self.stride]
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.stride..(row + 1) * self.stride]
    }

    fn interleaved(&self) -> Vec<f32> {
        let mut x = vec![0.0f32; (self.span.end - self.span.start) * self.block.rows];
        for row in 0..self.block.rows {
            let places = x[row..].iter_mut().step_by(self.block.rows);
            for (place, value) in places.zip(self.row(row)) {
                *place = *value;
            }
        }
        x
    }
}

/// Turns a row of scores into softmax weights; returns the logarithm of their sum before that.
fn softmax(scores: &mut [f32], seen: usize) -> f32 {
    let (seen, unseen) = scores.split_at_mut(seen);
    let highest = seen.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    for score in seen.iter_mut() {
        *score = exp(*score - highest);
    }
    let total: f32 = seen.iter().sum();
    for weight in seen.iter_mut() {
        *weight /= total;
    }
    unseen.fill(0.0);
    highest + total.ln()
}

impl HeadLayout {
    fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }

    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// The softmax weights of a block of queries over the keys before them, and the logarithms of their sums.
    fn weights(&self, q: &Head, k: &Head, block: Block) -> (Weights, [f32; TILE_ROWS]) {
        let span = Span { start: 0, end: block.first + block.rows };
        let mut weights = k.products(&q.interleaved(block, self.scale()), block, span);
        let mut logs = [0.0; TILE_ROWS];
        for (row, log) in logs[..block.rows].iter_mut().enumerate() {
            *log = softmax(weights.row_mut(row), block.first + row + 1);
        }
        (weights, logs)
    }

    fn forward(&self, q: &[f32], k: &[f32], v: &[f32]) -> Result<Vec<f32>> {
        let q_heads = Head::all(q, self.heads, self.width)?;
        let k_heads = Head::all(k, self.kv_heads, self.width)?;
        let v_heads = Head::all(v, self.kv_heads, self.width)?;
        let row = self.heads * self.width;
        let tokens = q.len() / row;
        let mut output = vec![0.0f32; q.len()];
        output.par_chunks_mut(TILE_ROWS * row).enumerate().for_each(|(index, output)| {
            let block = Block::of(index, tokens);
            for (head, q) in q_heads.iter().enumerate() {
                let kv = head / self.group();
                let (weights, _) = self.weights(q, &k_heads[kv], block);
                v_heads[kv].mix(&weights, &mut output[head * self.width..], row);
            }
        });
        Ok(output)
    }

    /// The gradients of queries, keys and values.
    fn backward(&self, inputs: [&[f32]; 3], output: &[f32], grad: &[f32]) -> Result<[Vec<f32>; 3]> {
        let [q, k, v] = inputs;
        let pass = Backward {
            layout: *self,
            q: Head::all(q, self.heads, self.width)?,
            k: Head::all(k, self.kv_heads, self.width)?,
            v: Head::all(v, self.kv_heads, self.width)?,
            grad: Head::all(grad, self.heads, self.width)?,
            tokens: q.len() / (self.heads * self.width),
        };
        let (q_gradient, sums) = pass.queries(output, grad);
        let (k_gradient, v_gradient) = pass.keys_and_values(&sums);
        Ok([q_gradient, k_gradient, v_gradient])
    }
}

/// What the backward pass of keys needs to know of a query and head.
#[derive(Debug, Clone, Copy, Default)]
struct QuerySums {
    /// The logarithm of the softmax's sum.
    log: f32,
    /// The output times its gradient, summed over the head: what the softmax takes off each weight's gradient.
    along: f32,
}

struct Backward {
    layout: HeadLayout,
    q: Vec<Head>,
    k: Vec<Head>,
    v: Vec<Head>,
    grad: Vec<Head>,
    tokens: usize,
}

impl Backward {
    /// The queries' gradient, and the sums `[tokens, heads]`. With `P` the weights: `dS = P * (dO Vᵀ - along)`,
    /// `dQ = scale * dS K`.
    fn queries(&self, output: &[f32], grad: &[f32]) -> (Vec<f32>, Vec<QuerySums>) {
        let HeadLayout { heads, width, .. } = self.layout;
        let row = heads * width;
        let mut gradient = vec![0.0f32; self.tokens * row];
        let mut sums = vec![QuerySums::default(); self.tokens * heads];
        gradient
            .par_chunks_mut(TILE_ROWS * row)
            .zip(sums.par_chunks_mut(TILE_ROWS * heads))
            .zip(output.par_chunks(TILE_ROWS * row).zip(grad.par_chunks(TILE_ROWS * row)))
            .enumerate()
            .for_each(|(index, ((gradient, sums), (output, grad)))| {
                let block = Block::of(index, self.tokens);
                for head in 0..heads {
                    let kv = head / self.layout.group();
                    let (mut weights, logs) = self.layout.weights(&self.q[head], &self.k[kv], block);
                    let x = self.grad[head].interleaved(block, 1.0);
                    let through = self.v[kv].products(&x, block, weights.span);
                    for row_index in 0..block.rows {
                        let place = row_index * row + head * width;
                        let pairs = output[place..place + width].iter().zip(&grad[place..]);
                        let along: f32 = pairs.map(|(output, grad)| output * grad).sum();
                        sums[row_index * heads + head] = QuerySums { log: logs[row_index], along };
                        let weights = weights.row_mut(row_index).iter_mut();
                        for (weight, through) in weights.zip(through.row(row_index)) {
                            *weight *= (through - along) * self.layout.scale();
                        }
                    }
                    self.k[kv].mix(&weights, &mut gradient[head * width..], row);
                }
            });
        (gradient, sums)
    }

    /// The gradients of keys and values: `dK = scale * dSᵀ Q`, `dV = Pᵀ dO`, over the queries after each key.
    fn keys_and_values(&self, sums: &[QuerySums]) -> (Vec<f32>, Vec<f32>) {
        let HeadLayout { kv_heads, width, .. } = self.layout;
        let row = kv_heads * width;
        let mut k_gradient = vec![0.0f32; self.tokens * row];
        let mut v_gradient = vec![0.0f32; self.tokens * row];
        k_gradient
            .par_chunks_mut(TILE_ROWS * row)
            .zip(v_gradient.par_chunks_mut(TILE_ROWS * row))
            .enumerate()
            .for_each(|(index, (k_gradient, v_gradient))| {
                let block = Block::of(index, self.tokens);
                for head in 0..self.layout.heads {
                    let kv = head / self.layout.group();
                    let (weights, changes) = self.keys_of_head(head, block, sums);
                    let place = kv * width;
                    self.grad[head].mix(&weights, &mut v_gradient[place..], row);
                    self.q[head].mix(&changes, &mut k_gradient[place..], row);
                }
            });
        (k_gradient, v_gradient)
    }

    /// `Pᵀ` and `scale * dSᵀ` of a block of keys and the queries from the block on.
    fn keys_of_head(&self, head: usize, block: Block, sums: &[QuerySums]) -> (Weights, Weights) {
        let heads = self.layout.heads;
        let (kv, scale) = (head / self.layout.group(), self.layout.scale());
        let span = Span { start: block.first / PANEL * PANEL, end: self.tokens };
        let keys = self.k[kv].interleaved(block, scale);
        let mut weights = self.q[head].products(&keys, block, span);
        let values = self.v[kv].interleaved(block, 1.0);
        let mut changes = self.grad[head].products(&values, block, span);
        for row in 0..block.rows {
            let first = block.first + row - span.start;
            let weights = weights.row_mut(row);
            let changes = changes.row_mut(row);
            weights[..first].fill(0.0);
            changes[..first].fill(0.0);
            for place in first..span.end - span.start {
                let of = sums[(span.start + place) * heads + head];
                weights[place] = exp(weights[place] - of.log);
                changes[place] = weights[place] * (changes[place] - of.along) * scale;
            }
        }
        (weights, changes)
    }
}

impl CustomOp3 for HeadLayout {
    fn name(&self) -> &'static str {
        "causal-attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let output = self.forward(
            values(q, q_layout, self.name())?,
            values(k, k_layout, self.name())?,
            values(v, v_layout, self.name())?,
        )?;
        Ok((CpuStorage::F32(output), q_layout.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        output: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let inputs = [&list(q)?[..], &list(k)?[..], &list(v)?[..]];
        let [q_gradient, k_gradient, v_gradient] = self.backward(inputs, &list(output)?, &list(grad)?)?;
        Ok((
            Some(Tensor::from_vec(q_gradient, q.shape(), q.device())?),
            Some(Tensor::from_vec(k_gradient, k.shape(), k.device())?),
            Some(Tensor::from_vec(v_gradient, v.shape(), v.device())?),
        ))
    }
}
