//! The products on the vectors of a processor.

use super::{BLOCK, Mixed, Query, common, mix_rest};
use crate::attention::cache::Part;

/// The products on vectors of `$lanes` floats; `$wide` of them beside each other make independent chains. `$spread` makes a
/// vector of as many elements.
macro_rules! on_vectors {
    (
        $name:ident, $element:ty, $features:literal, $vector:ident, $lanes:literal, $wide:literal,
        |$from:ident| $spread:expr,
        $store:ident, $broadcast:ident, $zero:ident, $multiply:ident, $fuse:ident
    ) => {
        pub(super) mod $name {
            use std::arch::x86_64::*;

            use super::{BLOCK, Mixed, Part, Query, common, mix_rest};

            const LANES: usize = $lanes;
            const WIDE: usize = $wide;

            /// # Safety
            /// `LANES` elements must be readable.
            #[target_feature(enable = $features)]
            unsafe fn load($from: *const $element) -> $vector {
                // SAFETY: the caller's promise; the load needs no alignment.
                unsafe { $spread }
            }

            /// Asks for memory that is needed next: blocks lie apart, so the processor does not foresee it.
            #[target_feature(enable = $features)]
            fn fetch(place: *const $element) {
                _mm_prefetch::<_MM_HINT_T0>(place.cast());
            }

            #[target_feature(enable = $features)]
            fn store(values: $vector, target: &mut [f32; LANES]) {
                // SAFETY: that many floats are writable; the store needs no alignment.
                unsafe { $store(target.as_mut_ptr(), values) }
            }

            /// Vectors of a block's positions.
            const PER_BLOCK: usize = BLOCK / LANES;

            #[target_feature(enable = $features)]
            pub(in super::super) fn score<const Q: usize>(
                queries: [&[f32]; Q],
                keys: Part<'_, $element>,
                blocks: usize,
                scale: f32,
                scores: &mut [f32],
            ) {
                let mut block = 0;
                while block + WIDE / PER_BLOCK <= blocks {
                    score_blocks::<Q, { WIDE / PER_BLOCK }>(queries, keys, block, scale, scores);
                    block += WIDE / PER_BLOCK;
                }
                while block < blocks {
                    score_blocks::<Q, 1>(queries, keys, block, scale, scores);
                    block += 1;
                }
            }

            /// The keys of `B` blocks from `first` on, each `[width][BLOCK]`.
            #[target_feature(enable = $features)]
            fn score_blocks<const Q: usize, const B: usize>(
                queries: [&[f32]; Q],
                keys: Part<'_, $element>,
                first: usize,
                scale: f32,
                scores: &mut [f32],
            ) {
                let (width, stride) = (keys.width(), scores.len() / Q);
                let last = stride / BLOCK - 1;
                let queries: [*const f32; Q] = queries.map(|query| query[..width].as_ptr());
                let place = |block: usize| keys.block(block)[..width * BLOCK].as_ptr();
                let blocks: [*const $element; B] = std::array::from_fn(|block| place(first + block));
                let next: [*const $element; B] = std::array::from_fn(|block| place(last.min(first + B + block)));
                let mut sums = [[[$zero(); PER_BLOCK]; B]; Q];
                for d in 0..width {
                    let mut keys = [[$zero(); PER_BLOCK]; B];
                    for block in 0..B {
                        fetch(next[block].wrapping_add(d * BLOCK));
                        for i in 0..PER_BLOCK {
                            // SAFETY: a block has `width` rows of `BLOCK` elements, which is checked above.
                            keys[block][i] = unsafe { load(blocks[block].add(d * BLOCK + i * LANES)) };
                        }
                    }
                    for query in 0..Q {
                        // SAFETY: a query has `width` elements, which is checked above.
                        let factor = $broadcast(unsafe { *queries[query].add(d) });
                        for block in 0..B {
                            for i in 0..PER_BLOCK {
                                sums[query][block][i] = $fuse(factor, keys[block][i], sums[query][block][i]);
                            }
                        }
                    }
                }
                let scale = $broadcast(scale);
                for query in 0..Q {
                    let scores = scores[query * stride + first * BLOCK..].as_chunks_mut::<LANES>().0;
                    for block in 0..B {
                        for i in 0..PER_BLOCK {
                            store($multiply(sums[query][block][i], scale), &mut scores[block * PER_BLOCK + i]);
                        }
                    }
                }
            }

            #[target_feature(enable = $features)]
            pub(in super::super) fn mix<const Q: usize>(mixed: Mixed<'_, $element>, queries: &mut [Query<'_>]) {
                let width = mixed.values.width();
                let mut column = 0;
                while column + WIDE * LANES <= width {
                    columns::<Q, WIDE>(mixed, queries, column);
                    column += WIDE * LANES;
                }
                while column + LANES <= width {
                    columns::<Q, 1>(mixed, queries, column);
                    column += LANES;
                }
                if column < width {
                    mix_rest(mixed, queries, column);
                }
            }

            #[target_feature(enable = $features)]
            fn columns<const Q: usize, const W: usize>(
                mixed: Mixed<'_, $element>,
                queries: &mut [Query<'_>],
                column: usize,
            ) {
                let width = mixed.values.width();
                let mut sums = [[$zero(); W]; Q];
                let common = common(queries);
                let last = common.end.div_ceil(BLOCK).saturating_sub(1);
                for (position, values) in mixed.blocks(common.clone()) {
                    let count = values.len() / width;
                    let values = values[column..].as_ptr();
                    let next = mixed.values.block(last.min(position / BLOCK + 1))[column..].as_ptr();
                    let weights: [*const f32; Q] =
                        std::array::from_fn(|query| mixed.weights[query * mixed.stride + position..][..count].as_ptr());
                    for p in 0..count {
                        let mut row = [$zero(); W];
                        for i in 0..W {
                            fetch(next.wrapping_add(p * width + i * LANES));
                            // SAFETY: `count` rows of `width` elements, of which this reads those of `W` vectors from
                            // `column` on.
                            row[i] = unsafe { load(values.add(p * width + i * LANES)) };
                        }
                        for query in 0..Q {
                            // SAFETY: `count` weights a query, which is checked above.
                            let weight = $broadcast(unsafe { *weights[query].add(p) });
                            for i in 0..W {
                                sums[query][i] = $fuse(weight, row[i], sums[query][i]);
                            }
                        }
                    }
                }
                for query in 0..Q {
                    // What it sees alone.
                    for (position, values) in mixed.blocks(common.end..queries[query].seen) {
                        let weights = &mixed.weights[query * mixed.stride + position..];
                        for (weight, values) in weights.iter().zip(values.chunks_exact(width)) {
                            let values = values[column..][..W * LANES].as_chunks::<LANES>().0;
                            for i in 0..W {
                                // SAFETY: of `LANES` elements.
                                let value = unsafe { load(values[i].as_ptr()) };
                                sums[query][i] = $fuse($broadcast(*weight), value, sums[query][i]);
                            }
                        }
                    }
                    let factor = $broadcast(mixed.factors[query]);
                    let out = queries[query].out[column..][..W * LANES].as_chunks_mut::<LANES>().0;
                    for i in 0..W {
                        store($multiply(sums[query][i], factor), &mut out[i]);
                    }
                }
            }
        }
    };
}

on_vectors!(
    avx512,
    f32,
    "avx512f",
    __m512,
    16,
    4,
    |from| _mm512_loadu_ps(from),
    _mm512_storeu_ps,
    _mm512_set1_ps,
    _mm512_setzero_ps,
    _mm512_mul_ps,
    _mm512_fmadd_ps
);
on_vectors!(
    avx512_half,
    half::f16,
    "avx512f",
    __m512,
    16,
    4,
    |from| _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())),
    _mm512_storeu_ps,
    _mm512_set1_ps,
    _mm512_setzero_ps,
    _mm512_mul_ps,
    _mm512_fmadd_ps
);
on_vectors!(
    avx2,
    f32,
    "avx2,fma",
    __m256,
    8,
    2,
    |from| _mm256_loadu_ps(from),
    _mm256_storeu_ps,
    _mm256_set1_ps,
    _mm256_setzero_ps,
    _mm256_mul_ps,
    _mm256_fmadd_ps
);
on_vectors!(
    avx2_half,
    half::f16,
    "avx2,fma,f16c",
    __m256,
    8,
    2,
    |from| _mm256_cvtph_ps(_mm_loadu_si128(from.cast())),
    _mm256_storeu_ps,
    _mm256_set1_ps,
    _mm256_setzero_ps,
    _mm256_mul_ps,
    _mm256_fmadd_ps
);
