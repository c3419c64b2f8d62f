//! The two products of attention, once per instruction set: queries with keys, weights with values.
//!
//! Every element is one chain of fused multiply-adds in a fixed order (over the width, over the positions), whatever the
//! instruction set and however many heads go through together. Heads that share keys and values go in groups, so that
//! each vector of those is loaded once for all of them.

use half::f16;

use super::cache::{BLOCK, Part};
use super::kept::Element;
use crate::instruction_sets::Instructions;

/// Heads that go through together, at most: their sums fill the registers.
pub(super) const TOGETHER: usize = 4;

/// `scores[h][p] = scale * (queries[h] . keys[p])`; `scores` holds the positions of whole blocks for each head.
pub(super) fn score<E: Products>(
    instructions: Instructions,
    queries: &[f32],
    keys: Part<'_, E>,
    scale: f32,
    scores: &mut [f32],
) {
    match queries.len() / keys.width() {
        1 => E::score::<1>(instructions, queries, keys, scale, scores),
        2 => E::score::<2>(instructions, queries, keys, scale, scores),
        3 => E::score::<3>(instructions, queries, keys, scale, scores),
        _ => E::score::<TOGETHER>(instructions, queries, keys, scale, scores),
    }
}

/// What a group of heads sees.
#[derive(Clone, Copy)]
pub(super) struct Mixed<'a, E> {
    pub(super) values: Part<'a, E>,
    /// Per head and position: `stride` of them a head.
    pub(super) weights: &'a [f32],
    pub(super) stride: usize,
    /// The first position whose weight may be other than 0, and one past the last.
    pub(super) from: usize,
    pub(super) seen: usize,
}

/// `out[h] = factors[h] * sum over p of weights[h][p] * values[p]`.
pub(super) fn mix<E: Products>(instructions: Instructions, mixed: Mixed<'_, E>, factors: &[f32], out: &mut [f32]) {
    match factors.len() {
        1 => E::mix::<1>(instructions, mixed, factors, out),
        2 => E::mix::<2>(instructions, mixed, factors, out),
        3 => E::mix::<3>(instructions, mixed, factors, out),
        _ => E::mix::<TOGETHER>(instructions, mixed, factors, out),
    }
}

/// The products with keys and values of one type, for `H` heads.
pub(super) trait Products: Element {
    fn score<const H: usize>(
        instructions: Instructions,
        queries: &[f32],
        keys: Part<'_, Self>,
        scale: f32,
        scores: &mut [f32],
    );

    fn mix<const H: usize>(instructions: Instructions, mixed: Mixed<'_, Self>, factors: &[f32], out: &mut [f32]);
}

macro_rules! products {
    ($element:ty, $avx512:ident, $avx2:ident) => {
        impl Products for $element {
            fn score<const H: usize>(
                instructions: Instructions,
                queries: &[f32],
                keys: Part<'_, Self>,
                scale: f32,
                scores: &mut [f32],
            ) {
                let blocks = scores.len() / H / BLOCK;
                match instructions {
                    // SAFETY: the variant exists only where the instructions were detected.
                    #[cfg(target_arch = "x86_64")]
                    Instructions::Avx512 => unsafe { $avx512::score::<H>(queries, keys, blocks, scale, scores) },
                    // SAFETY: as above.
                    #[cfg(target_arch = "x86_64")]
                    Instructions::Avx2 => unsafe { $avx2::score::<H>(queries, keys, blocks, scale, scores) },
                    Instructions::Portable => score_plain::<H, _>(queries, keys, blocks, scale, scores),
                }
            }

            fn mix<const H: usize>(
                instructions: Instructions,
                mixed: Mixed<'_, Self>,
                factors: &[f32],
                out: &mut [f32],
            ) {
                match instructions {
                    // SAFETY: the variant exists only where the instructions were detected.
                    #[cfg(target_arch = "x86_64")]
                    Instructions::Avx512 => unsafe { $avx512::mix::<H>(mixed, factors, out) },
                    // SAFETY: as above.
                    #[cfg(target_arch = "x86_64")]
                    Instructions::Avx2 => unsafe { $avx2::mix::<H>(mixed, factors, out) },
                    Instructions::Portable => mix_rest::<H, _>(mixed, factors, 0, out),
                }
            }
        }
    };
}

products!(f32, avx512, avx2);
products!(f16, avx512_half, avx2_half);

impl<'a, E: Element> Mixed<'a, E> {
    /// Blocks with something to see: their positions among all, and their values.
    #[inline(always)]
    fn blocks(self) -> impl Iterator<Item = (usize, &'a [E])> {
        let width = self.values.width();
        self.values.iter().enumerate().filter_map(move |(block, values)| {
            let first = block * BLOCK;
            let count = BLOCK.min(self.seen.saturating_sub(first));
            (first + BLOCK > self.from && count > 0).then(|| (first, &values[..count * width]))
        })
    }
}

fn score_plain<const H: usize, E: Element>(
    queries: &[f32],
    keys: Part<'_, E>,
    blocks: usize,
    scale: f32,
    scores: &mut [f32],
) {
    let (width, stride) = (queries.len() / H, scores.len() / H);
    for (block, keys) in keys.iter().enumerate().take(blocks) {
        for head in 0..H {
            let scores = &mut scores[head * stride + block * BLOCK..][..BLOCK];
            scores.fill(0.0);
            for (query, keys) in queries[head * width..][..width].iter().zip(keys.chunks_exact(BLOCK)) {
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
fn mix_rest<const H: usize, E: Element>(mixed: Mixed<'_, E>, factors: &[f32], first: usize, out: &mut [f32]) {
    let width = mixed.values.width();
    for head in 0..H {
        let out = &mut out[head * width + first..(head + 1) * width];
        out.fill(0.0);
        for (position, values) in mixed.blocks() {
            let weights = &mixed.weights[head * mixed.stride + position..];
            for (weight, values) in weights.iter().zip(values.chunks_exact(width)) {
                for (sum, value) in out.iter_mut().zip(&values[first..]) {
                    *sum = weight.mul_add((*value).into(), *sum);
                }
            }
        }
        for sum in out {
            *sum *= factors[head];
        }
    }
}

/// The products on vectors of `$lanes` floats; `$wide` of them beside each other make independent chains. `$spread` makes a
/// vector of as many elements.
#[cfg(target_arch = "x86_64")]
macro_rules! on_vectors {
    (
        $name:ident, $element:ty, $features:literal, $vector:ident, $lanes:literal, $wide:literal,
        |$from:ident| $spread:expr,
        $store:ident, $broadcast:ident, $zero:ident, $multiply:ident, $fuse:ident
    ) => {
        mod $name {
            use std::arch::x86_64::*;

            use super::{BLOCK, Mixed, Part, mix_rest};

            const LANES: usize = $lanes;
            const WIDE: usize = $wide;

            #[target_feature(enable = $features)]
            fn load($from: &[$element; LANES]) -> $vector {
                // SAFETY: that many elements are readable; the load needs no alignment.
                unsafe { $spread }
            }

            #[target_feature(enable = $features)]
            fn store(values: $vector, target: &mut [f32; LANES]) {
                // SAFETY: that many floats are writable; the store needs no alignment.
                unsafe { $store(target.as_mut_ptr(), values) }
            }

            /// Vectors of a block's positions.
            const PER_BLOCK: usize = BLOCK / LANES;

            #[target_feature(enable = $features)]
            pub(super) fn score<const H: usize>(
                queries: &[f32],
                keys: Part<'_, $element>,
                blocks: usize,
                scale: f32,
                scores: &mut [f32],
            ) {
                let mut block = 0;
                while block + WIDE / PER_BLOCK <= blocks {
                    score_blocks::<H, { WIDE / PER_BLOCK }>(queries, keys, block, scale, scores);
                    block += WIDE / PER_BLOCK;
                }
                while block < blocks {
                    score_blocks::<H, 1>(queries, keys, block, scale, scores);
                    block += 1;
                }
            }

            /// The keys of `B` blocks from `first` on, each `[width][BLOCK]`.
            #[target_feature(enable = $features)]
            fn score_blocks<const H: usize, const B: usize>(
                queries: &[f32],
                keys: Part<'_, $element>,
                first: usize,
                scale: f32,
                scores: &mut [f32],
            ) {
                let (width, stride) = (queries.len() / H, scores.len() / H);
                let queries: [&[f32]; H] = std::array::from_fn(|head| &queries[head * width..][..width]);
                let keys: [&[[$element; BLOCK]]; B] =
                    std::array::from_fn(|block| &keys.block(first + block).as_chunks::<BLOCK>().0[..width]);
                let mut sums = [[[$zero(); PER_BLOCK]; B]; H];
                for d in 0..width {
                    let keys: [[$vector; PER_BLOCK]; B] = std::array::from_fn(|block| {
                        let keys = keys[block][d].as_chunks::<LANES>().0;
                        std::array::from_fn(|i| load(&keys[i]))
                    });
                    for head in 0..H {
                        let query = $broadcast(queries[head][d]);
                        for block in 0..B {
                            for i in 0..PER_BLOCK {
                                sums[head][block][i] = $fuse(query, keys[block][i], sums[head][block][i]);
                            }
                        }
                    }
                }
                let scale = $broadcast(scale);
                for head in 0..H {
                    let scores = scores[head * stride + first * BLOCK..].as_chunks_mut::<LANES>().0;
                    for block in 0..B {
                        for i in 0..PER_BLOCK {
                            store($multiply(sums[head][block][i], scale), &mut scores[block * PER_BLOCK + i]);
                        }
                    }
                }
            }

            #[target_feature(enable = $features)]
            pub(super) fn mix<const H: usize>(mixed: Mixed<'_, $element>, factors: &[f32], out: &mut [f32]) {
                let width = mixed.values.width();
                let mut column = 0;
                while column + WIDE * LANES <= width {
                    columns::<H, WIDE>(mixed, factors, column, out);
                    column += WIDE * LANES;
                }
                while column + LANES <= width {
                    columns::<H, 1>(mixed, factors, column, out);
                    column += LANES;
                }
                if column < width {
                    mix_rest::<H, _>(mixed, factors, column, out);
                }
            }

            #[target_feature(enable = $features)]
            fn columns<const H: usize, const W: usize>(
                mixed: Mixed<'_, $element>,
                factors: &[f32],
                column: usize,
                out: &mut [f32],
            ) {
                let width = mixed.values.width();
                let mut sums = [[$zero(); W]; H];
                for (position, values) in mixed.blocks() {
                    let count = values.len() / width;
                    let weights: [&[f32]; H] =
                        std::array::from_fn(|head| &mixed.weights[head * mixed.stride + position..][..count]);
                    for p in 0..count {
                        let values = values[p * width + column..][..W * LANES].as_chunks::<LANES>().0;
                        let values: [$vector; W] = std::array::from_fn(|i| load(&values[i]));
                        for head in 0..H {
                            let weight = $broadcast(weights[head][p]);
                            for i in 0..W {
                                sums[head][i] = $fuse(weight, values[i], sums[head][i]);
                            }
                        }
                    }
                }
                for head in 0..H {
                    let factor = $broadcast(factors[head]);
                    let out = out[head * width + column..][..W * LANES].as_chunks_mut::<LANES>().0;
                    for i in 0..W {
                        store($multiply(sums[head][i], factor), &mut out[i]);
                    }
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
on_vectors!(
    avx512,
    f32,
    "avx512f",
    __m512,
    16,
    4,
    |from| _mm512_loadu_ps(from.as_ptr()),
    _mm512_storeu_ps,
    _mm512_set1_ps,
    _mm512_setzero_ps,
    _mm512_mul_ps,
    _mm512_fmadd_ps
);
#[cfg(target_arch = "x86_64")]
on_vectors!(
    avx512_half,
    half::f16,
    "avx512f",
    __m512,
    16,
    4,
    |from| _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())),
    _mm512_storeu_ps,
    _mm512_set1_ps,
    _mm512_setzero_ps,
    _mm512_mul_ps,
    _mm512_fmadd_ps
);
#[cfg(target_arch = "x86_64")]
on_vectors!(
    avx2,
    f32,
    "avx2,fma",
    __m256,
    8,
    2,
    |from| _mm256_loadu_ps(from.as_ptr()),
    _mm256_storeu_ps,
    _mm256_set1_ps,
    _mm256_setzero_ps,
    _mm256_mul_ps,
    _mm256_fmadd_ps
);
#[cfg(target_arch = "x86_64")]
on_vectors!(
    avx2_half,
    half::f16,
    "avx2,fma,f16c",
    __m256,
    8,
    2,
    |from| _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast())),
    _mm256_storeu_ps,
    _mm256_set1_ps,
    _mm256_setzero_ps,
    _mm256_mul_ps,
    _mm256_fmadd_ps
);
