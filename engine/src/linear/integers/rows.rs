//! Rows of inputs in 8 bits.

use rayon::prelude::*;

use super::{BLOCK, QUAD, TILE_ROWS};
use crate::instruction_sets::for_each_instruction_set;

/// Numbers of this size in f32 are 1 apart.
const WHOLE: f32 = 1.5 * (1 << 23) as f32;
/// Quads of inputs in a block.
const QUADS: usize = BLOCK / QUAD;

/// Rows in codes from -127 to 127 with a factor for every [`BLOCK`] of inputs, in the order in which kernels read them:
/// [`TILE_ROWS`] at a time, quad by quad. The last tile holds the rows that are left.
pub(super) struct RoundedRows {
    tiles: Vec<RoundedTile>,
    rows: usize,
}

/// Up to [`TILE_ROWS`] rows; whatever there is of each, row by row.
struct RoundedTile {
    /// Of each quad of inputs.
    quads: Vec<[i8; QUAD]>,
    /// Of each block.
    factors: Vec<f32>,
    /// The sums of the codes, of each block and of each half of one.
    whole: Vec<Sum>,
    halves: Vec<Sum>,
}

/// A sum of codes, as kernels need it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sum {
    /// What begins a sum over weights whose codes are stored with 128 added.
    pub(super) start: i32,
    /// Times the block's factor: what an offset of the weights counts.
    pub(super) value: f32,
}

/// What a kernel reads of some rows.
#[derive(Clone, Copy)]
pub(super) struct RowsTile<'a> {
    pub(super) quads: &'a [[i8; QUAD]],
    pub(super) factors: &'a [f32],
    /// Of each step of the weights.
    pub(super) sums: &'a [Sum],
}

impl RoundedRows {
    /// Of row-major `x [rows, width]`.
    pub(super) fn new(x: &[f32], width: usize) -> Self {
        let tiles = x.par_chunks(TILE_ROWS * width).map(|x| RoundedTile::new(x, width)).collect();
        Self { tiles, rows: x.len() / width }
    }

    pub(super) const fn rows(&self) -> usize {
        self.rows
    }

    /// The tile that begins with row `first`, a multiple of [`TILE_ROWS`], for weights whose factors are of `step` inputs.
    pub(super) fn tile(&self, first: usize, step: usize) -> RowsTile<'_> {
        let tile = &self.tiles[first / TILE_ROWS];
        let sums = if step == BLOCK { &tile.whole } else { &tile.halves };
        RowsTile { quads: &tile.quads, factors: &tile.factors, sums }
    }
}

impl RoundedTile {
    fn new(x: &[f32], width: usize) -> Self {
        let (count, blocks) = (x.len() / width, width.div_ceil(BLOCK));
        let mut tile = Self {
            quads: vec![[0; QUAD]; blocks * QUADS * count],
            factors: vec![0.0; blocks * count],
            whole: vec![Sum::default(); blocks * count],
            halves: vec![Sum::default(); 2 * blocks * count],
        };
        let mut row = vec![Rounded::ZERO; blocks];
        for (index, x) in x.chunks_exact(width).enumerate() {
            round(x, &mut row);
            for (block, rounded) in row.iter().enumerate() {
                for (quad, codes) in rounded.codes.as_chunks::<QUAD>().0.iter().enumerate() {
                    tile.quads[(block * QUADS + quad) * count + index] = *codes;
                }
                tile.factors[block * count + index] = rounded.factor;
                let sum = |sum: i32| Sum { start: -128 * sum, value: rounded.factor * sum as f32 };
                let [first, second] = rounded.sums;
                tile.whole[block * count + index] = sum(first + second);
                tile.halves[2 * block * count + index] = sum(first);
                tile.halves[(2 * block + 1) * count + index] = sum(second);
            }
        }
        tile
    }
}

/// A block of one row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rounded {
    pub(super) codes: [i8; BLOCK],
    pub(super) factor: f32,
    /// Of the codes of each half.
    sums: [i32; 2],
}

impl Rounded {
    pub(super) const ZERO: Self = Self { codes: [0; BLOCK], factor: 0.0, sums: [0; 2] };
}

for_each_instruction_set! {
    /// Rounds a row's blocks; the last is filled up with zeros. A block with something that is no finite number has a factor
    /// that is none, either, so that this is seen in what is computed.
    pub(super) fn round(x: &[f32], blocks: &mut [Rounded]) = round_plain
}

#[inline(always)]
pub(super) fn round_plain(x: &[f32], blocks: &mut [Rounded]) {
    let (whole, rest) = x.as_chunks::<BLOCK>();
    for (x, block) in whole.iter().zip(&mut *blocks) {
        *block = round_block(x);
    }
    if !rest.is_empty() {
        let mut last = [0.0; BLOCK];
        last[..rest.len()].copy_from_slice(rest);
        blocks[whole.len()] = round_block(&last);
    }
}

#[inline(always)]
fn round_block(x: &[f32; BLOCK]) -> Rounded {
    // As whole numbers, magnitudes have the same order, and what is not finite comes last.
    let most = x.iter().fold(0, |most, x| most.max(x.to_bits() & (u32::MAX >> 1)));
    let most = f32::from_bits(most);
    if !most.is_finite() {
        return Rounded { factor: f32::NAN, ..Rounded::ZERO };
    }
    // Below, the inverse would not be finite.
    if most < 1e-35 {
        return Rounded::ZERO;
    }
    let inverse = 127.0 / most;
    let (mut codes, mut sums) = ([0; BLOCK], [0; 2]);
    for (half, (x, codes)) in x.chunks_exact(BLOCK / 2).zip(codes.chunks_exact_mut(BLOCK / 2)).enumerate() {
        for (x, code) in x.iter().zip(codes) {
            // The sum has no room for fractions: it is rounded to a whole number, which its lowest bits show.
            let whole = (x * inverse + WHOLE).to_bits().cast_signed() - WHOLE.to_bits().cast_signed();
            *code = whole as i8;
            sums[half] += whole;
        }
    }
    Rounded { codes, factor: most / 127.0, sums }
}
