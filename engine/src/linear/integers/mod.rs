//! Products in integers: weights as codes of 4 or 8 bits, inputs rounded to 8.
//!
//! Each row of inputs has a factor for every [`BLOCK`] of them, the greatest magnitude in it over 127. A product is a sum of
//! whole numbers for each step of the weights, times both factors. Of one row alone, it has the same bits in any batch and
//! on every processor. It is as exact as its inputs, some thousandths; a processor that multiplies bytes (AVX-512 VNNI)
//! makes it several times as fast as one in f32.

mod kernel;
mod rows;
#[cfg(test)]
mod tests;

use std::ops::Range;

use rayon::prelude::*;

use super::panels::{PANEL, PanelRow};
use super::product;
use crate::instruction_sets::for_each_instruction_set;
use kernel::{Kind, PanelCodes, Tile, Vnni};
use rows::{Rounded, RoundedRows, round};

/// Inputs that are rounded with one factor.
const BLOCK: usize = 32;
/// Neighbouring inputs that are multiplied at once.
const QUAD: usize = 4;
/// Rows that one run of a kernel takes.
const TILE_ROWS: usize = 8;
// A task begins where a tile does.
const _: () = assert!(product::CHUNK_ROWS.is_multiple_of(TILE_ROWS));
/// Half of a panel: the outputs that one register of sums holds.
const HALF: usize = PANEL / 2;

/// Codes of 16 outputs for a quad of inputs, or of twice as many with 4 bits each.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A weight `[outputs, inputs]` in panels. Inputs are filled up to whole blocks, with whatever codes: there, rows have zeros.
#[derive(Debug)]
pub(super) struct Integers {
    kind: Kind,
    /// Per panel and quad. Of codes of 4 bits, the low halves are those of the panel's first 16 outputs; to codes of 8 bits,
    /// 128 is added.
    lines: Vec<Line>,
    /// Per panel and step.
    factors: Vec<PanelRow>,
    /// As many, or none if all are zero.
    offsets: Vec<PanelRow>,
    inputs: usize,
    outputs: usize,
}

impl Integers {
    /// Codes of 4 bits. `code` is that of an output's input; a factor is of [`BLOCK`] inputs.
    pub(super) fn nibbles(
        code: impl Fn(usize, usize) -> u8 + Sync,
        (factors, offsets): (Vec<PanelRow>, Vec<PanelRow>),
        outputs: usize,
        inputs: usize,
    ) -> Self {
        let line = |panel: usize, quad: usize, _| {
            Line(std::array::from_fn(|at| {
                let (output, input) = (panel * PANEL + at / QUAD, quad * QUAD + at % QUAD);
                code(output, input) | code(output + HALF, input) << 4
            }))
        };
        let lines = lines(Kind::Nibbles, line, outputs, inputs);
        Self { kind: Kind::Nibbles, lines, factors, offsets, inputs, outputs }
    }

    /// Codes of 8 bits, as [`Self::nibbles`]. A factor is of `step` inputs: 32 or 16.
    pub(super) fn bytes(
        code: impl Fn(usize, usize) -> i8 + Sync,
        step: usize,
        (factors, offsets): (Vec<PanelRow>, Vec<PanelRow>),
        outputs: usize,
        inputs: usize,
    ) -> Self {
        let kind = if step == BLOCK { Kind::Bytes } else { Kind::BytesBy16 };
        let line = |panel: usize, quad: usize, half: usize| {
            Line(std::array::from_fn(|at| {
                let (output, input) = (panel * PANEL + half * HALF + at / QUAD, quad * QUAD + at % QUAD);
                code(output, input).cast_unsigned() ^ 128
            }))
        };
        let lines = lines(kind, line, outputs, inputs);
        Self { kind, lines, factors, offsets, inputs, outputs }
    }

    /// Rounds a weight to 8 bits, each output with a factor for every [`BLOCK`] of inputs. `copy` gives a panel in f32.
    pub(super) fn rounded(copy: impl Fn(usize, &mut [PanelRow]) + Sync, outputs: usize, inputs: usize) -> Self {
        let (panels, blocks) = (outputs.div_ceil(PANEL), inputs.div_ceil(BLOCK));
        let mut rounded = vec![Rounded::ZERO; panels * PANEL * blocks];
        rounded.par_chunks_mut(PANEL * blocks).enumerate().for_each(|(panel, rounded)| {
            let mut values = vec![PanelRow::ZERO; inputs];
            copy(panel, &mut values);
            for (lane, blocks) in rounded.chunks_exact_mut(blocks).enumerate() {
                let row: Vec<f32> = values.iter().map(|value| value.0[lane]).collect();
                round(&row, blocks);
            }
        });
        let factors = (0..panels * blocks).map(|at| {
            let (panel, block) = (at / blocks, at % blocks);
            PanelRow(std::array::from_fn(|lane| rounded[(panel * PANEL + lane) * blocks + block].factor))
        });
        let code = |output: usize, input: usize| rounded[output * blocks + input / BLOCK].codes[input % BLOCK];
        Self::bytes(code, BLOCK, (factors.collect(), Vec::new()), outputs, inputs)
    }

    pub(super) const fn inputs(&self) -> usize {
        self.inputs
    }

    pub(super) const fn outputs(&self) -> usize {
        self.outputs
    }

    /// Bytes that it holds.
    pub(super) fn bytes_held(&self) -> usize {
        size_of_val(&*self.lines) + size_of_val(&*self.factors) + size_of_val(&*self.offsets)
    }

    /// Spreads a panel's rows of `inputs` out in f32.
    pub(super) fn expand(&self, panel: usize, inputs: Range<usize>, target: &mut [PanelRow]) {
        expand(self.panel(panel), inputs, target);
    }

    fn panel(&self, index: usize) -> PanelCodes<'_> {
        let blocks = self.inputs.div_ceil(BLOCK);
        let lines = blocks * BLOCK / QUAD * self.kind.lines();
        let steps = blocks * BLOCK / self.kind.step();
        let part = |rows: &'_ [PanelRow]| -> Range<usize> {
            if rows.is_empty() { 0..0 } else { index * steps..(index + 1) * steps }
        };
        PanelCodes {
            kind: self.kind,
            lines: &self.lines[index * lines..(index + 1) * lines],
            factors: &self.factors[part(&self.factors)],
            offsets: &self.offsets[part(&self.offsets)],
        }
    }
}

for_each_instruction_set! {
    fn expand(panel: PanelCodes<'_>, inputs: Range<usize>, target: &mut [PanelRow]) = expand_plain
}

#[inline(always)]
fn expand_plain(panel: PanelCodes<'_>, inputs: Range<usize>, target: &mut [PanelRow]) {
    let step = panel.kind.step();
    for (input, target) in inputs.zip(target) {
        let (quad, shift) = (input / QUAD, 8 * (input % QUAD) as u32);
        let factors = panel.factors[input / step].0.as_chunks::<HALF>().0;
        let offsets = panel.offsets.get(input / step).unwrap_or(&PanelRow::ZERO).0.as_chunks::<HALF>().0;
        for (half, target) in target.0.as_chunks_mut::<HALF>().0.iter_mut().enumerate() {
            // A line's words are of neighbouring outputs, each with a quad's bytes, the first one lowest.
            let (line, shift, mask, added) = match panel.kind {
                Kind::Nibbles => (quad, shift + 4 * half as u32, 15, 0),
                Kind::Bytes | Kind::BytesBy16 => (2 * quad + half, shift, 255, 128),
            };
            for (lane, word) in panel.lines[line].0.as_chunks::<QUAD>().0.iter().enumerate() {
                let code = (u32::from_le_bytes(*word) >> shift & mask).cast_signed() - added;
                target[lane] = code as f32 * factors[half][lane] + offsets[half][lane];
            }
        }
    }
}

/// The lines of all panels; `line` is given panel, quad and half.
fn lines(kind: Kind, line: impl Fn(usize, usize, usize) -> Line + Sync, outputs: usize, inputs: usize) -> Vec<Line> {
    let in_panel = inputs.next_multiple_of(BLOCK) / QUAD * kind.lines();
    let all = (0..outputs.div_ceil(PANEL) * in_panel).into_par_iter();
    all.map(|at| line(at / in_panel, at % in_panel / kind.lines(), at % kind.lines())).collect()
}

/// `x [rows, inputs]`, rounded, times each weight, transposed, plus its bias: row-major `[rows, outputs]` each. All weights
/// have the same inputs.
pub(super) fn forward(weights: &[(&Integers, Option<&[f32]>)], x: &[f32]) -> Vec<Vec<f32>> {
    multiply(weights, x, Vnni::detected())
}

fn multiply(weights: &[(&Integers, Option<&[f32]>)], x: &[f32], vnni: Option<Vnni>) -> Vec<Vec<f32>> {
    let Some((first, _)) = weights.first() else { return Vec::new() };
    let x = RoundedRows::new(x, first.inputs);
    let outputs: Vec<usize> = weights.iter().map(|(weight, _)| weight.outputs).collect();
    product::by_panels([x.rows(), first.inputs], &outputs, true, |part| {
        let (weight, bias) = weights[part.layer];
        let (codes, step) = (weight.panel(part.panel), weight.kind.step());
        let mut tile: Tile = [[0.0; PANEL]; TILE_ROWS];
        for first in part.rows.clone().step_by(TILE_ROWS) {
            let count = TILE_ROWS.min(part.rows.end - first);
            codes.tile(x.tile(first, step), count, vnni, &mut tile);
            part.write(&mut tile[..count], bias);
        }
    })
}
