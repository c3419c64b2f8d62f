//! Heads, blocks of neighbouring tokens, and products between them.

use crate::linear::{PANEL, Panels, TILE_ROWS, Tile, interleaved};
use candle_core::Result;
use rayon::prelude::*;

/// One head's rows `[tokens, width]`.
pub(super) struct Head {
    rows: Vec<f32>,
    width: usize,
}

/// A head for products of a row with every token's row.
pub(super) struct ByToken(Panels);

/// A head for sums of the tokens' rows.
pub(super) struct Mixing(Panels);

impl Head {
    /// Of `x [tokens, count * width]`.
    pub(super) fn all(x: &[f32], count: usize, width: usize) -> Vec<Self> {
        let head = |head: usize| {
            let mut rows = Vec::with_capacity(x.len() / count);
            x.chunks_exact(count * width)
                .for_each(|token| rows.extend_from_slice(&token[head * width..(head + 1) * width]));
            Self { rows, width }
        };
        (0..count).into_par_iter().map(head).collect()
    }

    fn row(&self, token: usize) -> &[f32] {
        &self.rows[token * self.width..(token + 1) * self.width]
    }

    /// The rows of a block times `scale`, input by input as a kernel reads them.
    pub(super) fn interleaved(&self, block: Block, scale: f32) -> Vec<f32> {
        let mut x = interleaved(block.rows, |row| self.row(block.first + row));
        x.iter_mut().for_each(|value| *value *= scale);
        x
    }
}

impl ByToken {
    pub(super) fn pack(heads: &[Head]) -> Result<Vec<Self>> {
        let pack = |head: &Head| Panels::pack(&head.rows, head.rows.len() / head.width, head.width).map(Self);
        heads.par_iter().map(pack).collect()
    }

    /// The products of the block's rows (`x`, interleaved) with the rows of the tokens of `span`.
    pub(super) fn products(&self, x: &[f32], block: Block, span: Span) -> Weights {
        let mut weights = Weights::new(block, span);
        let mut tile: Tile = [[0.0; PANEL]; TILE_ROWS];
        for panel in span.panels() {
            self.0.tile(panel, 0..self.0.inputs(), x, block.rows, &mut tile);
            let place = panel * PANEL - span.start;
            for (row, sums) in tile[..block.rows].iter().enumerate() {
                weights.row_mut(row)[place..place + PANEL].copy_from_slice(sums);
            }
        }
        weights
    }
}

impl Mixing {
    pub(super) fn pack(heads: &[Head]) -> Result<Vec<Self>> {
        let pack =
            |head: &Head| Panels::pack_transposed(&head.rows, head.rows.len() / head.width, head.width).map(Self);
        heads.par_iter().map(pack).collect()
    }

    /// Adds to `out` (rows of `stride`) the block's weighted sums of the rows of the tokens of `span`.
    pub(super) fn mix(&self, weights: &Weights, out: &mut [f32], stride: usize) {
        let Weights { block, span, .. } = *weights;
        let (x, width) = (weights.interleaved(), self.0.outputs());
        let mut tile: Tile = [[0.0; PANEL]; TILE_ROWS];
        for column in (0..width).step_by(PANEL) {
            let lanes = PANEL.min(width - column);
            self.0.tile(column / PANEL, span.start..span.end, &x, block.rows, &mut tile);
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
pub(super) struct Block {
    pub(super) first: usize,
    pub(super) rows: usize,
}

impl Block {
    pub(super) fn of(index: usize, tokens: usize) -> Self {
        let first = index * TILE_ROWS;
        Self { first, rows: TILE_ROWS.min(tokens - first) }
    }
}

/// The tokens that a block has to do with; it starts where a panel does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Span {
    fn panels(self) -> std::ops::Range<usize> {
        self.start / PANEL..self.end.div_ceil(PANEL)
    }
}

/// A number for each (row of a block, token of a span).
#[derive(Clone)]
pub(super) struct Weights {
    values: Vec<f32>,
    stride: usize,
    block: Block,
    pub(super) span: Span,
}

impl Weights {
    pub(super) fn new(block: Block, span: Span) -> Self {
        let stride = span.panels().len() * PANEL;
        Self { values: vec![0.0; block.rows * stride], stride, block, span }
    }

    pub(super) fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.values[row * self.stride..(row + 1) * self.stride]
    }

    pub(super) fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.stride..(row + 1) * self.stride]
    }

    fn interleaved(&self) -> Vec<f32> {
        let count = self.span.end - self.span.start;
        interleaved(self.block.rows, |row| &self.row(row)[..count])
    }
}
