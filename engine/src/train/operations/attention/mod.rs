//! Causal attention with grouped key and value heads, whole or within a window, in memory linear in the number of tokens: the weights of
//! a few rows at a time are made, used, and made again in the backward pass (the idea of arXiv 2205.14135).

mod heads;

use self::heads::{Block, ByToken, Head, Mixing, Span, Weights};
use super::tape::Tape;
use super::{held, vector};
use crate::attention::{Scores, cap_values};
use crate::linear::{PANEL, TILE_ROWS};
use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

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

/// Softmax attention of each token over itself and those before it in its row, or the last of them in a window:
/// `q [tokens, heads * width]`, `k` and `v` `[tokens, kv_heads * width]`; the result is of the shape of `q`. Differentiable in
/// all three. `lengths`: of the rows, which stand one after the other.
pub(super) fn attention(
    [q, k, v]: [&Tensor; 3],
    heads: HeadLayout,
    scores: Scores,
    lengths: &Arc<[usize]>,
    tape: &Tape,
) -> Result<Tensor> {
    let (tokens, q_width) = q.dims2()?;
    let kv_shape = [tokens, heads.kv_heads * heads.width];
    if q_width != heads.heads * heads.width || k.dims() != kv_shape || v.dims() != kv_shape {
        bail!("{heads:?} do not fit {:?}, {:?}, {:?}", q.dims(), k.dims(), v.dims());
    }
    if lengths.iter().sum::<usize>() != tokens || lengths.contains(&0) {
        bail!("rows of {lengths:?} tokens are not {tokens} together");
    }
    let packed = PackedAttention { attention: Attention { heads, scores }, lengths: lengths.clone() };
    let inputs = [q.contiguous()?, k.contiguous()?, v.contiguous()?];
    let output = packed.forward(&inputs)?;
    let kept = output.clone();
    Ok(tape.record([q, k, v], output, move |grad| packed.backward(&inputs, &kept, grad)))
}

/// Clears what is not `seen`, and lends what is.
fn only(row: &mut [f32], seen: Range<usize>) -> &mut [f32] {
    row[..seen.start].fill(0.0);
    row[seen.end..].fill(0.0);
    &mut row[seen]
}

/// The operation over all rows.
#[derive(Debug)]
struct PackedAttention {
    attention: Attention,
    lengths: Arc<[usize]>,
}

/// Of one row: which heads there are, and how their scores are made.
#[derive(Debug, Clone, Copy)]
struct Attention {
    heads: HeadLayout,
    scores: Scores,
}

impl HeadLayout {
    pub(super) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
}

impl PackedAttention {
    /// The rows' parts of lists with `width` numbers a token.
    fn rows<'v, const N: usize>(&self, lists: [(&'v [f32], usize); N]) -> impl Iterator<Item = [&'v [f32]; N]> {
        let mut rest = lists.map(|(list, _)| list);
        self.lengths.iter().map(move |tokens| {
            std::array::from_fn(|index| {
                let (row, after) = rest[index].split_at(tokens * lists[index].1);
                rest[index] = after;
                row
            })
        })
    }

    fn widths(&self) -> (usize, usize) {
        let HeadLayout { heads, kv_heads, width } = self.attention.heads;
        (heads * width, kv_heads * width)
    }

    fn forward(&self, [q, k, v]: &[Tensor; 3]) -> Result<Tensor> {
        let (width, kv_width) = self.widths();
        let (queries, keys, values) = (held(q)?, held(k)?, held(v)?);
        let rows = self.rows([(&*queries, width), (&*keys, kv_width), (&*values, kv_width)]);
        let outputs = rows.map(|[q, k, v]| self.attention.forward(q, k, v)).collect::<Result<_>>()?;
        Tensor::from_vec(joined(outputs), q.shape(), q.device())
    }

    /// The gradients of queries, keys and values.
    fn backward(&self, [q, k, v]: &[Tensor; 3], output: &Tensor, grad: &Tensor) -> Result<[Tensor; 3]> {
        let grad = grad.contiguous()?;
        let (queries, keys, values) = (held(q)?, held(k)?, held(v)?);
        let (output, grad) = (held(output)?, held(&grad)?);
        let (width, kv_width) = self.widths();
        let lists: [&[f32]; 5] = [&queries, &keys, &values, &output, &grad];
        let widths = [width, kv_width, kv_width, width, width];
        let mut gradients: [Vec<Vec<f32>>; 3] = Default::default();
        for [q, k, v, output, grad] in self.rows(std::array::from_fn(|index| (lists[index], widths[index]))) {
            let found = self.attention.backward([q, k, v], output, grad)?;
            gradients.iter_mut().zip(found).for_each(|(all, gradient)| all.push(gradient));
        }
        let [q_gradient, k_gradient, v_gradient] = gradients.map(joined);
        Ok([
            Tensor::from_vec(q_gradient, q.shape(), q.device())?,
            Tensor::from_vec(k_gradient, k.shape(), k.device())?,
            Tensor::from_vec(v_gradient, v.shape(), v.device())?,
        ])
    }
}

impl Attention {
    /// The first token that this one sees.
    fn first_seen(&self, token: usize) -> usize {
        self.scores.window.map_or(0, |window| (token + 1).saturating_sub(window))
    }

    /// One past the last token that sees this one.
    fn last_seeing(&self, token: usize, tokens: usize) -> usize {
        self.scores.window.map_or(tokens, |window| tokens.min(token + window))
    }

    /// Bounds the scores, where the family does.
    fn cap(&self, scores: &mut [f32]) {
        if let Some(cap) = self.scores.softcap {
            cap_values(scores, cap);
        }
    }

    /// What a change of a score's product changes of the score, by the score: `scale`, where the bound lets it pass.
    fn slope(&self, score: f32) -> f32 {
        let passes = self.scores.softcap.map_or(1.0, |cap| 1.0 - (score / cap) * (score / cap));
        passes * self.scores.scale
    }

    /// The bounded scores of a block of queries with the keys that they see, and some around those.
    fn block_scores(&self, q: &Head, k: &ByToken, block: Block) -> Weights {
        let start = self.first_seen(block.first) / PANEL * PANEL;
        let span = Span { start, end: block.first + block.rows };
        let mut scores = k.products(&q.interleaved(block, self.scores.scale), block, span);
        (0..block.rows).for_each(|row| self.cap(scores.row_mut(row)));
        scores
    }

    /// Turns them into softmax weights; the logarithms of their sums.
    fn softmax(&self, scores: &mut Weights, block: Block) -> [f32; TILE_ROWS] {
        let (start, mut logs) = (scores.span.start, [0.0; TILE_ROWS]);
        for (row, log) in logs[..block.rows].iter_mut().enumerate() {
            let token = block.first + row;
            *log = vector::softmax(only(scores.row_mut(row), self.first_seen(token) - start..token + 1 - start));
        }
        logs
    }

    fn forward(&self, q: &[f32], k: &[f32], v: &[f32]) -> Result<Vec<f32>> {
        let HeadLayout { heads, kv_heads, width } = self.heads;
        let q_heads = Head::all(q, heads, width);
        let k_heads = ByToken::pack(&Head::all(k, kv_heads, width))?;
        let v_heads = Mixing::pack(&Head::all(v, kv_heads, width))?;
        let row = heads * width;
        let tokens = q.len() / row;
        let mut output = vec![0.0f32; q.len()];
        output.par_chunks_mut(TILE_ROWS * row).enumerate().for_each(|(index, output)| {
            let block = Block::of(index, tokens);
            for (head, q) in q_heads.iter().enumerate() {
                let kv = head / self.heads.group();
                let mut weights = self.block_scores(q, &k_heads[kv], block);
                self.softmax(&mut weights, block);
                v_heads[kv].mix(&weights, &mut output[head * width..], row);
            }
        });
        Ok(output)
    }

    /// The gradients of queries, keys and values.
    fn backward(&self, inputs: [&[f32]; 3], output: &[f32], grad: &[f32]) -> Result<[Vec<f32>; 3]> {
        let [q, k, v] = inputs;
        let HeadLayout { heads, kv_heads, width } = self.heads;
        let pass = Backward {
            attention: *self,
            q: Head::all(q, heads, width),
            k: Head::all(k, kv_heads, width),
            v: Head::all(v, kv_heads, width),
            grad: Head::all(grad, heads, width),
            tokens: q.len() / (heads * width),
        };
        let (q_gradient, sums) = pass.queries(output, grad)?;
        let (k_gradient, v_gradient) = pass.keys_and_values(&sums)?;
        Ok([q_gradient, k_gradient, v_gradient])
    }
}

/// What the backward pass of keys needs to know of each query of a head.
#[derive(Debug, Clone)]
struct QuerySums {
    /// The logarithms of the softmax's sums.
    logs: Vec<f32>,
    /// The output times its gradient, summed over the head: what the softmax takes off each weight's gradient.
    alongs: Vec<f32>,
}

struct Backward {
    attention: Attention,
    q: Vec<Head>,
    k: Vec<Head>,
    v: Vec<Head>,
    grad: Vec<Head>,
    tokens: usize,
}

impl Backward {
    /// The queries' gradient, and the sums of each head. With `P` the weights: `dS = P * (dO Vᵀ - along) * slope`,
    /// `dQ = dS K`.
    fn queries(&self, output: &[f32], grad: &[f32]) -> Result<(Vec<f32>, Vec<QuerySums>)> {
        let HeadLayout { heads, width, .. } = self.attention.heads;
        let (keys, values, mixing) = (ByToken::pack(&self.k)?, ByToken::pack(&self.v)?, Mixing::pack(&self.k)?);
        let row = heads * width;
        let mut gradient = vec![0.0f32; self.tokens * row];
        let mut sums = vec![(0.0, 0.0); self.tokens * heads];
        gradient
            .par_chunks_mut(TILE_ROWS * row)
            .zip(sums.par_chunks_mut(TILE_ROWS * heads))
            .zip(output.par_chunks(TILE_ROWS * row).zip(grad.par_chunks(TILE_ROWS * row)))
            .enumerate()
            .for_each(|(index, ((gradient, sums), (output, grad)))| {
                let block = Block::of(index, self.tokens);
                for head in 0..heads {
                    let kv = head / self.attention.heads.group();
                    let mut weights = self.attention.block_scores(&self.q[head], &keys[kv], block);
                    // Only bounded scores change the slope from one to the next.
                    let bounded = self.attention.scores.softcap.map(|_| weights.clone());
                    let logs = self.attention.softmax(&mut weights, block);
                    let x = self.grad[head].interleaved(block, 1.0);
                    let through = values[kv].products(&x, block, weights.span);
                    for row_index in 0..block.rows {
                        let place = row_index * row + head * width;
                        let head_row = place..place + width;
                        let along = vector::dot(&output[head_row.clone()], &grad[head_row]);
                        sums[row_index * heads + head] = (logs[row_index], along);
                        let weights = weights.row_mut(row_index).iter_mut().zip(through.row(row_index));
                        match &bounded {
                            None => weights.for_each(|(weight, through)| {
                                *weight *= (through - along) * self.attention.scores.scale;
                            }),
                            Some(scores) => {
                                weights.zip(scores.row(row_index)).for_each(|((weight, through), score)| {
                                    *weight *= (through - along) * self.attention.slope(*score);
                                })
                            }
                        }
                    }
                    mixing[kv].mix(&weights, &mut gradient[head * width..], row);
                }
            });
        let of_head = |head: usize| {
            let (logs, alongs) = sums.iter().skip(head).step_by(heads).copied().unzip();
            QuerySums { logs, alongs }
        };
        Ok((gradient, (0..heads).map(of_head).collect()))
    }

    /// The gradients of keys and values: `dK = dSᵀ Q`, `dV = Pᵀ dO`, over the queries that see each key.
    fn keys_and_values(&self, sums: &[QuerySums]) -> Result<(Vec<f32>, Vec<f32>)> {
        let HeadLayout { heads, kv_heads, width } = self.attention.heads;
        let (queries, grads) = (ByToken::pack(&self.q)?, ByToken::pack(&self.grad)?);
        let (mixed_queries, mixed_grads) = (Mixing::pack(&self.q)?, Mixing::pack(&self.grad)?);
        let row = kv_heads * width;
        let mut k_gradient = vec![0.0f32; self.tokens * row];
        let mut v_gradient = vec![0.0f32; self.tokens * row];
        k_gradient
            .par_chunks_mut(TILE_ROWS * row)
            .zip(v_gradient.par_chunks_mut(TILE_ROWS * row))
            .enumerate()
            .for_each(|(index, (k_gradient, v_gradient))| {
                let block = Block::of(index, self.tokens);
                for head in 0..heads {
                    let kv = head / self.attention.heads.group();
                    let (weights, changes) = self.keys_of_head([&queries[head], &grads[head]], kv, block, &sums[head]);
                    let place = kv * width;
                    mixed_grads[head].mix(&weights, &mut v_gradient[place..], row);
                    mixed_queries[head].mix(&changes, &mut k_gradient[place..], row);
                }
            });
        Ok((k_gradient, v_gradient))
    }

    /// `Pᵀ` and `dSᵀ` of a block of keys and the queries of a head that see some of them.
    fn keys_of_head(
        &self,
        [queries, grads]: [&ByToken; 2],
        kv: usize,
        block: Block,
        QuerySums { logs, alongs }: &QuerySums,
    ) -> (Weights, Weights) {
        let scores = self.attention.scores;
        let end = self.attention.last_seeing(block.first + block.rows - 1, self.tokens);
        let span = Span { start: block.first / PANEL * PANEL, end };
        let keys = self.k[kv].interleaved(block, scores.scale);
        let mut weights = queries.products(&keys, block, span);
        let values = self.v[kv].interleaved(block, 1.0);
        let mut changes = grads.products(&values, block, span);
        for row in 0..block.rows {
            let key = block.first + row;
            let seeing = key - span.start..self.attention.last_seeing(key, self.tokens) - span.start;
            let sums = span.start + seeing.start..span.start + seeing.end;
            let (weights, changes) = (only(weights.row_mut(row), seeing.clone()), only(changes.row_mut(row), seeing));
            self.attention.cap(weights);
            for (change, along) in changes.iter_mut().zip(&alongs[sums.clone()]) {
                *change -= along;
            }
            for (change, score) in changes.iter_mut().zip(&*weights) {
                *change *= self.attention.slope(*score);
            }
            vector::weights(weights, &logs[sums]);
            for (change, weight) in changes.iter_mut().zip(&*weights) {
                *change *= weight;
            }
        }
        (weights, changes)
    }
}

/// Lists one after the other; a single one as it is.
fn joined(mut lists: Vec<Vec<f32>>) -> Vec<f32> {
    match lists.len() {
        1 => lists.remove(0),
        _ => lists.concat(),
    }
}
