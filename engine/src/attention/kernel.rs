//! The attention of neighbouring tokens over one key/value head.

use super::Scores;
use super::cache::{BLOCK, Part};
use super::products::{self, Mixed, Products, TOGETHER};
use super::vector::{exp_below_zero, softcap_body};
use crate::instruction_sets::{Instructions, for_each_instruction_set};
use crate::lanes::{LANES, fold};

/// One head of one token.
#[derive(Debug)]
pub(super) struct Query<'a> {
    pub(super) query: &'a [f32],
    /// The first position that it sees, and one past the last, its own; at least one position.
    pub(super) from: usize,
    pub(super) seen: usize,
    /// Where the result goes, as wide as the query.
    pub(super) out: &'a mut [f32],
}

/// Neighbouring tokens that fill groups of [`TOGETHER`] queries, where `heads` of a token share keys and values.
pub(super) fn tokens_together(heads: usize) -> usize {
    (1..TOGETHER).find(|tokens| (tokens * heads).is_multiple_of(TOGETHER)).unwrap_or(TOGETHER)
}

/// Softmax attention over one head's keys and values. `scores` is scratch space.
pub(super) fn attend<E: Products>(
    instructions: Instructions,
    queries: &mut [Query<'_>],
    keys: Part<'_, E>,
    values: Part<'_, E>,
    scoring: Scores,
    scores: &mut Vec<f32>,
) {
    for group in queries.chunks_mut(TOGETHER) {
        let most = group.iter().map(|query| query.seen).max().unwrap_or(0);
        let stride = most.next_multiple_of(BLOCK);
        // Whole blocks: every score is written before it is read.
        if scores.len() < group.len() * stride {
            scores.resize(group.len() * stride, 0.0);
        }
        let scores = &mut scores[..group.len() * stride];
        products::score(instructions, group, keys, scoring.scale, scores);
        let mut factors = [0f32; TOGETHER];
        for ((scores, query), factor) in scores.chunks_exact_mut(stride).zip(&*group).zip(&mut factors) {
            *factor = 1.0 / weigh(scores, scoring.softcap, query.from, query.seen);
        }
        let mixed = Mixed { values, weights: scores, stride, factors: &factors };
        products::mix(instructions, mixed, group);
    }
}

for_each_instruction_set! {
    /// Turns scores into weights, 0 outside of `from..seen`, and returns their sum.
    fn weigh(scores: &mut [f32], softcap: Option<f32>, from: usize, seen: usize) -> f32 = weigh_body
}

#[inline(always)]
fn weigh_body(scores: &mut [f32], softcap: Option<f32>, from: usize, seen: usize) -> f32 {
    if let Some(cap) = softcap {
        softcap_body(scores, cap);
    }
    weigh_scores(scores, from, seen)
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
        *score = exp_below_zero(*score - highest);
    }
    let mut lanes = [0f32; LANES];
    for chunk in scores.as_chunks::<LANES>().0 {
        for (lane, score) in lanes.iter_mut().zip(chunk) {
            *lane += *score;
        }
    }
    fold(lanes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::ops::Range;
    use std::sync::Arc;

    use half::f16;

    use super::super::cache::{KvCache, KvPool, KvShape};
    use super::super::kept::KvType;
    use super::*;

    fn wave(n: usize, speed: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * speed).sin()).collect()
    }

    /// Protects: attention against the textbook formula in f64, and equal bits from every instruction set and for every
    /// number of queries together, of one token and of several, for head widths that fill tiles, lanes and neither, with
    /// and without a window and a softcap.
    #[test]
    fn equals_plain_softmax_attention() {
        equals_the_textbook::<f32>(KvType::F32);
    }

    /// Protects: the same of keys and values in 16 bits, once those are rounded.
    #[test]
    fn equals_plain_softmax_attention_over_halves() {
        equals_the_textbook::<f16>(KvType::F16);
    }

    fn equals_the_textbook<E: Products>(kept: KvType) {
        let shapes = [(8, 1), (16, 63), (24, 64), (64, 65), (80, 130), (128, 200)];
        for ((width, seen), window) in shapes.into_iter().flat_map(|shape| [(shape, None), (shape, Some(40))]) {
            let scoring = Scores { scale: 0.25, softcap: window.map(|_| 1.5), window };
            let keep = |values: Vec<f32>| match kept {
                KvType::F32 => values,
                KvType::F16 => values.into_iter().map(|value| f16::from_f32(value).into()).collect(),
            };
            let (by_position, values) = (keep(wave(seen * width, 0.13)), keep(wave(seen * width, 0.29)));
            let pool = Arc::new(KvPool::new(KvShape { layers: 1, kv_heads: 1, width }, kept));
            let mut cache = KvCache::new(pool, seen);
            cache.make_room(seen).unwrap();
            cache.write(0, &by_position, &values).unwrap();
            // More than go through together: of three tokens, if there are as many.
            let count = TOGETHER + 5;
            let query = wave(count * width, 0.71);
            let sees = |index: usize| {
                let seen = seen - (2 - index / 4).min(seen - 1);
                window.map_or(0, |window: usize| seen.saturating_sub(window))..seen
            };
            let attended = |instructions: Instructions, which: Range<usize>| {
                let mut out = vec![0f32; which.len() * width];
                let mut queries: Vec<Query<'_>> = which
                    .zip(out.chunks_mut(width))
                    .map(|(index, out)| {
                        let Range { start: from, end: seen } = sees(index);
                        Query { query: &query[index * width..][..width], from, seen, out }
                    })
                    .collect();
                let (keys, values) = (cache.keys::<E>(0, 0), cache.values::<E>(0, 0));
                // What is left from others must not matter.
                attend(instructions, &mut queries, keys, values, scoring, &mut vec![f32::NAN; 7 * BLOCK]);
                out
            };
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            let fast = attended(Instructions::best(), 0..count);
            for instructions in Instructions::available() {
                let other = attended(instructions, 0..count);
                assert_eq!(
                    bits(&fast),
                    bits(&other),
                    "width {width}, seen {seen}, window {window:?}, {instructions:?}"
                );
            }
            for index in 0..count {
                let alone = attended(Instructions::best(), index..index + 1);
                assert_eq!(bits(&alone), bits(&fast[index * width..][..width]));
                let query = &query[index * width..][..width];
                let exact = textbook(query, &by_position, &values, width, sees(index), scoring.softcap);
                for (got, want) in alone.iter().zip(&exact) {
                    assert!((f64::from(*got) - want).abs() < 1e-5, "{got} is not {want}");
                }
            }
        }
    }

    /// Protects: tokens that go together do not get what is wrong with one that they do not see.
    #[test]
    fn a_later_token_does_not_reach_an_earlier_one() {
        let (width, seen) = (72, 37);
        let (mut keys, mut values) = (wave(seen * width, 0.13), wave(seen * width, 0.29));
        let query = wave(width, 0.71);
        let attended = |keys: &[f32], values: &[f32], instructions: Instructions| {
            let pool = Arc::new(KvPool::new(KvShape { layers: 1, kv_heads: 1, width }, KvType::F32));
            let mut cache = KvCache::new(pool, seen);
            cache.make_room(seen).unwrap();
            cache.write(0, keys, values).unwrap();
            let mut out = vec![0f32; 2 * width];
            let mut queries: Vec<Query<'_>> = out
                .chunks_mut(width)
                .zip([seen - 1, seen])
                .map(|(out, seen)| Query { query: &query, from: 0, seen, out })
                .collect();
            let scoring = Scores { scale: 0.25, softcap: None, window: None };
            let (keys, values) = (cache.keys::<f32>(0, 0), cache.values::<f32>(0, 0));
            attend(instructions, &mut queries, keys, values, scoring, &mut Vec::new());
            out
        };
        let sound = attended(&keys, &values, Instructions::best());
        keys[(seen - 1) * width..].fill(f32::NAN);
        values[(seen - 1) * width..].fill(f32::NAN);
        for instructions in Instructions::available() {
            let out = attended(&keys, &values, instructions);
            assert_eq!(out[..width], sound[..width], "{instructions:?}");
            assert!(out[width..].iter().all(|value| value.is_nan()), "{instructions:?}");
        }
    }

    fn textbook(
        query: &[f32],
        keys: &[f32],
        values: &[f32],
        width: usize,
        seen: Range<usize>,
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
