//! One token's attention over one group of heads.

use super::Scores;
use super::cache::{BLOCK, Part};
use super::vector::{LANES, exp, softcap_body};
use crate::instruction_sets::for_each_instruction_set;

/// What a token sees of one key/value head.
#[derive(Debug)]
pub(super) struct Past<'a> {
    pub(super) keys: Part<'a>,
    pub(super) values: Part<'a>,
    /// Width of a head.
    pub(super) width: usize,
    /// The first position that the token sees, and one past the last, its own; at least one position.
    pub(super) from: usize,
    pub(super) seen: usize,
}

for_each_instruction_set! {
    /// Softmax attention of a group of query heads (`query` and `out`: `[heads, width]`) over one key/value head.
    /// `scores` is scratch space.
    pub(super) fn attend(
        query: &[f32],
        past: &Past<'_>,
        scoring: Scores,
        scores: &mut Vec<f32>,
        out: &mut [f32],
    ) = attend_body
}

#[inline(always)]
fn attend_body(query: &[f32], past: &Past<'_>, scoring: Scores, scores: &mut Vec<f32>, out: &mut [f32]) {
    let heads = query.chunks_exact(past.width);
    for (query, out) in heads.zip(out.chunks_exact_mut(past.width)) {
        score(query, past, scoring.scale, scores);
        if let Some(cap) = scoring.softcap {
            softcap_body(scores, cap);
        }
        let total = weigh_scores(scores, past.from, past.seen);
        mix(&scores[..past.seen], past, total, out);
    }
}

/// `scores[p] = scale * (query . key[p])`, each a sum over the width in order; whole blocks, so the last may hold
/// positions beyond `seen`.
#[inline(always)]
fn score(query: &[f32], past: &Past<'_>, scale: f32, scores: &mut Vec<f32>) {
    scores.clear();
    scores.resize(past.seen.next_multiple_of(BLOCK), 0.0);
    for (sums, block) in scores.chunks_exact_mut(BLOCK).zip(past.keys.iter()) {
        let (fours, rest) = query.as_chunks::<4>();
        let (rows, last_rows) = block.split_at(fours.len() * 4 * BLOCK);
        for (q, rows) in fours.iter().zip(rows.chunks_exact(4 * BLOCK)) {
            add_four_products(sums, q, rows);
        }
        for (q, row) in rest.iter().zip(last_rows.chunks_exact(BLOCK)) {
            for (sum, key) in sums.iter_mut().zip(row) {
                *sum += q * key;
            }
        }
        for sum in sums {
            *sum *= scale;
        }
    }
}

/// Four steps of every position's sum at once: the sums go through memory, four steps share a load and a store.
#[inline(always)]
fn add_four_products(sums: &mut [f32], q: &[f32; 4], rows: &[f32]) {
    let (first, rest) = rows.split_at(BLOCK);
    let (second, rest) = rest.split_at(BLOCK);
    let (third, fourth) = rest.split_at(BLOCK);
    let keys = first.iter().zip(second).zip(third.iter().zip(fourth));
    for (sum, ((a, b), (c, d))) in sums.iter_mut().zip(keys) {
        *sum = *sum + q[0] * a + q[1] * b + q[2] * c + q[3] * d;
    }
}

/// Turns scores into `e^(score - max)`, 0 before `from` and from `seen` on, and returns their sum.
#[inline(always)]
fn weigh_scores(scores: &mut [f32], from: usize, seen: usize) -> f32 {
    scores[..from].fill(f32::NEG_INFINITY);
    scores[seen..].fill(f32::NEG_INFINITY);
    let mut highest = [f32::NEG_INFINITY; LANES];
    for chunk in scores.as_chunks::<LANES>().0 {
        for (highest, score) in highest.iter_mut().zip(chunk) {
            *highest = if *score > *highest { *score } else { *highest };
        }
    }
    let highest = highest.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    // A plain loop of its own: the compiler makes vectors of it only so.
    for score in scores.iter_mut() {
        *score = exp(*score - highest);
    }
    let mut lanes = [0f32; LANES];
    for chunk in scores.as_chunks::<LANES>().0 {
        for (lane, score) in lanes.iter_mut().zip(chunk) {
            *lane += *score;
        }
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// `out = sum of weight[p] * value[p] / total`, position by position; columns go through in tiles that fit registers.
#[inline(always)]
fn mix(weights: &[f32], past: &Past<'_>, total: f32, out: &mut [f32]) {
    const TILE: usize = 4;
    let inverse = 1.0 / total;
    let mut column = 0;
    while column + TILE * LANES <= out.len() {
        mix_columns::<TILE>(weights, past, inverse, column, out);
        column += TILE * LANES;
    }
    while column + LANES <= out.len() {
        mix_columns::<1>(weights, past, inverse, column, out);
        column += LANES;
    }
    for column in column..out.len() {
        let mut sum = 0f32;
        for (weights, values) in weights.chunks(BLOCK).zip(past.values.iter()) {
            for (weight, value) in weights.iter().zip(values.chunks_exact(past.width)) {
                sum += weight * value[column];
            }
        }
        out[column] = sum * inverse;
    }
}

#[inline(always)]
fn mix_columns<const TILE: usize>(weights: &[f32], past: &Past<'_>, inverse: f32, column: usize, out: &mut [f32]) {
    let end = column + TILE * LANES;
    let mut sums = [[0f32; LANES]; TILE];
    for (weights, values) in weights.chunks(BLOCK).zip(past.values.iter()) {
        for (weight, value) in weights.iter().zip(values.chunks_exact(past.width)) {
            let value = value[column..end].as_chunks::<LANES>().0;
            for (sums, value) in sums.iter_mut().zip(value) {
                add_product(sums, *weight, value);
            }
        }
    }
    let out = out[column..end].as_chunks_mut::<LANES>().0;
    for (out, sums) in out.iter_mut().zip(&sums) {
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = sum * inverse;
        }
    }
}

#[inline(always)]
fn add_product(sums: &mut [f32; LANES], factor: f32, values: &[f32; LANES]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += factor * value;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::cache::{KvCache, KvPool, KvShape};
    use super::*;

    fn wave(n: usize, speed: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * speed).sin()).collect()
    }

    /// Protects: attention against the textbook formula in f64, and equal bits from every instruction set, for head
    /// widths that fill tiles, lanes and neither, with and without a window and a softcap.
    #[test]
    fn equals_plain_softmax_attention() {
        let shapes = [(8, 1), (16, 63), (24, 64), (64, 65), (80, 130), (128, 200)];
        for ((width, seen), window) in shapes.into_iter().flat_map(|shape| [(shape, None), (shape, Some(40))]) {
            let scoring = Scores { scale: 0.25, softcap: window.map(|_| 1.5), window };
            let (by_position, values) = (wave(seen * width, 0.13), wave(seen * width, 0.29));
            let pool = Arc::new(KvPool::new(KvShape { layers: 1, kv_heads: 1, width }));
            let mut cache = KvCache::new(pool, seen);
            cache.make_room(seen);
            cache.write(0, &by_position, &values);
            let query = wave(2 * width, 0.71);
            let from = window.map_or(0, |window: usize| seen.saturating_sub(window));
            let past = Past { keys: cache.keys(0, 0), values: cache.values(0, 0), width, from, seen };
            let (mut fast, mut plain) = (vec![0f32; 2 * width], vec![0f32; 2 * width]);
            attend(&query, &past, scoring, &mut Vec::new(), &mut fast);
            attend_body(&query, &past, scoring, &mut Vec::new(), &mut plain);
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&fast), bits(&plain), "width {width}, seen {from}..{seen}");
            for head in 0..2 {
                let query = &query[head * width..(head + 1) * width];
                let exact = textbook(query, &by_position, &values, width, from..seen, scoring.softcap);
                for (got, want) in fast[head * width..].iter().zip(&exact) {
                    assert!((f64::from(*got) - want).abs() < 1e-5, "{got} is not {want}");
                }
            }
        }
    }

    fn textbook(
        query: &[f32],
        keys: &[f32],
        values: &[f32],
        width: usize,
        seen: std::ops::Range<usize>,
        cap: Option<f32>,
    ) -> Vec<f64> {
        let dot = |p: usize| -> f64 {
            let key = &keys[p * width..(p + 1) * width];
            query.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum()
        };
        let capped = |score: f64| cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh());
        let weights: Vec<f64> = seen.clone().map(|p| capped(0.25 * dot(p)).exp()).collect();
        let total: f64 = weights.iter().sum();
        (0..width)
            .map(|d| {
                let weighted = seen.clone().zip(&weights).map(|(p, weight)| weight * f64::from(values[p * width + d]));
                weighted.sum::<f64>() / total
            })
            .collect()
    }
}
