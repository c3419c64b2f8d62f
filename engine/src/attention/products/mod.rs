//! The two products of attention, once per instruction set: queries with keys, weights with values.
//!
//! Every element is one chain of fused multiply-adds in a fixed order (over the width, over the positions), whatever the
//! instruction set and however many queries go through together. Those that share keys and values, of the heads of
//! neighbouring tokens, go in groups, so that each vector of those is loaded once for all of them. The innermost loops read by
//! pointers: checks of every index took nearly half of their time.

#[cfg(target_arch = "x86_64")]
mod wide;

use std::ops::Range;

use half::f16;

use super::cache::{BLOCK, Part};
use super::kept::Element;
use super::kernel::Query;
use crate::instruction_sets::Instructions;
#[cfg(target_arch = "x86_64")]
use wide::{avx2, avx2_half, avx512, avx512_half};

/// Queries that go through together, at most: their sums fill the registers.
pub(super) const TOGETHER: usize = 6;

/// `scores[q][p] = scale * (queries[q] . keys[p])`; `scores` holds the positions of whole blocks for each query.
pub(super) fn score<E: Products>(
    instructions: Instructions,
    queries: &[Query<'_>],
    keys: Part<'_, E>,
    scale: f32,
    scores: &mut [f32],
) {
    match queries.len() {
        1 => E::score::<1>(instructions, queries, keys, scale, scores),
        2 => E::score::<2>(instructions, queries, keys, scale, scores),
        3 => E::score::<3>(instructions, queries, keys, scale, scores),
        4 => E::score::<4>(instructions, queries, keys, scale, scores),
        5 => E::score::<5>(instructions, queries, keys, scale, scores),
        _ => E::score::<TOGETHER>(instructions, queries, keys, scale, scores),
    }
}

/// What the queries of a group have found.
#[derive(Clone, Copy)]
pub(super) struct Mixed<'a, E> {
    pub(super) values: Part<'a, E>,
    /// Per query and position, 0 where it sees nothing: `stride` of them a query.
    pub(super) weights: &'a [f32],
    pub(super) stride: usize,
    /// Per query.
    pub(super) factors: &'a [f32; TOGETHER],
}

/// `out[q] = factors[q] * sum over p of weights[q][p] * values[p]`.
pub(super) fn mix<E: Products>(instructions: Instructions, mixed: Mixed<'_, E>, queries: &mut [Query<'_>]) {
    match queries.len() {
        1 => E::mix::<1>(instructions, mixed, queries),
        2 => E::mix::<2>(instructions, mixed, queries),
        3 => E::mix::<3>(instructions, mixed, queries),
        4 => E::mix::<4>(instructions, mixed, queries),
        5 => E::mix::<5>(instructions, mixed, queries),
        _ => E::mix::<TOGETHER>(instructions, mixed, queries),
    }
}

/// The products with keys and values of one type, for `Q` queries.
pub(super) trait Products: Element {
    fn score<const Q: usize>(
        instructions: Instructions,
        queries: &[Query<'_>],
        keys: Part<'_, Self>,
        scale: f32,
        scores: &mut [f32],
    );

    fn mix<const Q: usize>(instructions: Instructions, mixed: Mixed<'_, Self>, queries: &mut [Query<'_>]);
}

/// The queries alone.
#[inline(always)]
fn vectors<'q, const Q: usize>(queries: &'q [Query<'_>]) -> [&'q [f32]; Q] {
    std::array::from_fn(|index| queries[index].query)
}

macro_rules! products {
    ($element:ty, $avx512:ident, $avx2:ident) => {
        impl Products for $element {
            fn score<const Q: usize>(
                instructions: Instructions,
                queries: &[Query<'_>],
                keys: Part<'_, Self>,
                scale: f32,
                scores: &mut [f32],
            ) {
                let blocks = scores.len() / Q / BLOCK;
                let queries = vectors::<Q>(queries);
                match instructions {
                    // SAFETY: the variant exists only where the instructions were detected.
                    #[cfg(target_arch = "x86_64")]
                    Instructions::Avx512 => unsafe { $avx512::score(queries, keys, blocks, scale, scores) },
                    // SAFETY: as above.
                    #[cfg(target_arch = "x86_64")]
                    Instructions::Avx2 => unsafe { $avx2::score(queries, keys, blocks, scale, scores) },
                    Instructions::Portable => score_plain(queries, keys, blocks, scale, scores),
                }
            }

            fn mix<const Q: usize>(instructions: Instructions, mixed: Mixed<'_, Self>, queries: &mut [Query<'_>]) {
                match instructions {
                    // SAFETY: the variant exists only where the instructions were detected.
                    #[cfg(target_arch = "x86_64")]
                    Instructions::Avx512 => unsafe { $avx512::mix::<Q>(mixed, queries) },
                    // SAFETY: as above.
                    #[cfg(target_arch = "x86_64")]
                    Instructions::Avx2 => unsafe { $avx2::mix::<Q>(mixed, queries) },
                    Instructions::Portable => mix_rest(mixed, queries, 0),
                }
            }
        }
    };
}

products!(f32, avx512, avx2);
products!(f16, avx512_half, avx2_half);

impl<'a, E: Element> Mixed<'a, E> {
    /// The values of the positions of `seen`, block by block, each with its first position.
    #[inline(always)]
    fn blocks(self, seen: Range<usize>) -> impl Iterator<Item = (usize, &'a [E])> {
        let width = self.values.width();
        (seen.start / BLOCK..seen.end.div_ceil(BLOCK)).map(move |block| {
            let first = (block * BLOCK).max(seen.start);
            let values = &self.values.block(block)[(first - block * BLOCK) * width..];
            (first, &values[..(BLOCK * (block + 1)).min(seen.end).saturating_sub(first) * width])
        })
    }
}

/// The positions that all queries have in front of them, though not every one may see the first of them.
#[inline(always)]
fn common(queries: &[Query<'_>]) -> Range<usize> {
    let from = queries.iter().map(|query| query.from).min().unwrap_or(0);
    let seen = queries.iter().map(|query| query.seen).min().unwrap_or(0);
    from..seen
}

fn score_plain<const Q: usize, E: Element>(
    queries: [&[f32]; Q],
    keys: Part<'_, E>,
    blocks: usize,
    scale: f32,
    scores: &mut [f32],
) {
    let stride = scores.len() / Q;
    for block in 0..blocks {
        for (query, scores) in queries.iter().zip(scores.chunks_exact_mut(stride)) {
            let scores = &mut scores[block * BLOCK..][..BLOCK];
            scores.fill(0.0);
            for (query, keys) in query.iter().zip(keys.block(block).chunks_exact(BLOCK)) {
                for (score, key) in scores.iter_mut().zip(keys) {
                    *score = query.mul_add((*key).into(), *score);
                }
            }
            for score in scores {
                *score *= scale;
            }
        }
    }
}

/// The columns from `first` on. Inlined, so that it is compiled for the instruction set of its caller.
#[inline(always)]
fn mix_rest<E: Element>(mixed: Mixed<'_, E>, queries: &mut [Query<'_>], first: usize) {
    let width = mixed.values.width();
    for ((query, weights), factor) in
        queries.iter_mut().zip(mixed.weights.chunks_exact(mixed.stride)).zip(mixed.factors)
    {
        let out = &mut query.out[first..];
        out.fill(0.0);
        for (position, values) in mixed.blocks(query.from..query.seen) {
            for (weight, values) in weights[position..].iter().zip(values.chunks_exact(width)) {
                for (sum, value) in out.iter_mut().zip(&values[first..]) {
                    *sum = weight.mul_add((*value).into(), *sum);
                }
            }
        }
        for sum in out {
            *sum *= factor;
        }
    }
}
