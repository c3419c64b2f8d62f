//! Weights kept as their file keeps them: in 16 bits, or as codes of 8 or 4 bits with a factor for each block.
//!
//! The products read a panel in f32: it is spread out into scratch memory that stays in a cache while the rows pass. The
//! values are those that dequantising the whole weight gives, so results are too, bit for bit; what is read from main
//! memory is a half to a sixth of it.

use std::ops::Range;

use candle_core::Result;
use half::{bf16, f16};

use super::panels::{PANEL, PanelRow, check_shape};
use super::spread::{self, HALF, Scale};

/// A weight `[outputs, inputs]` in the order of [`super::Panels`], with the last panel filled up with zeros.
#[derive(Debug)]
pub(crate) struct Compact {
    codes: Codes,
    inputs: usize,
    outputs: usize,
}

/// [`PANEL`] neighbouring outputs' values for one input. Of 4-bit codes, the low half of byte `j` is output `j`'s, the
/// high half output `j + 16`'s.
#[derive(Debug)]
enum Codes {
    Bf16(Vec<[bf16; PANEL]>),
    F16(Vec<[f16; PANEL]>),
    Bits8(Vec<[i8; PANEL]>, Scales),
    Bits4(Vec<[u8; HALF]>, Scales),
}

/// A value is `code * factor + offset`.
#[derive(Debug)]
struct Scales {
    /// Per panel and block of `step` inputs.
    factors: Vec<PanelRow>,
    /// As many, or none if all are zero.
    offsets: Vec<PanelRow>,
    step: usize,
}

/// One output's weights as codes, as a file's blocks hold them.
#[derive(Debug, Default)]
pub(super) struct CodedRow {
    /// Per input.
    pub(super) codes: Vec<i8>,
    /// Per block of inputs.
    pub(super) factors: Vec<f32>,
    /// Per block of inputs.
    pub(super) offsets: Vec<f32>,
}

impl Compact {
    /// Packs a row-major weight in bf16.
    pub(super) fn bf16(weight: &[bf16], outputs: usize, inputs: usize) -> Result<Self> {
        Ok(Self { codes: Codes::Bf16(pack_halves(weight, outputs, inputs)?), inputs, outputs })
    }

    /// Packs a row-major weight in f16.
    pub(super) fn f16(weight: &[f16], outputs: usize, inputs: usize) -> Result<Self> {
        Ok(Self { codes: Codes::F16(pack_halves(weight, outputs, inputs)?), inputs, outputs })
    }

    /// Packs coded rows, one for each output; blocks are of `step` inputs. Codes fit `bits`: 4 (0 to 15) or 8.
    pub(super) fn coded(
        rows: impl Iterator<Item = CodedRow>,
        outputs: usize,
        inputs: usize,
        bits: u32,
        step: usize,
    ) -> Self {
        let panels = outputs.div_ceil(PANEL);
        let blocks = inputs.div_ceil(step);
        let mut bytes = vec![[0i8; PANEL]; if bits == 8 { panels * inputs } else { 0 }];
        let mut nibbles = vec![[0u8; PANEL / 2]; if bits == 4 { panels * inputs } else { 0 }];
        let mut factors = vec![PanelRow::ZERO; panels * blocks];
        let mut offsets = factors.clone();
        for (output, row) in rows.enumerate() {
            let (panel, lane) = (output / PANEL, output % PANEL);
            if bits == 8 {
                for (target, code) in bytes[panel * inputs..].iter_mut().zip(&row.codes) {
                    target[lane] = *code;
                }
            } else {
                let shift = if lane < HALF { 0 } else { 4 };
                for (target, code) in nibbles[panel * inputs..].iter_mut().zip(&row.codes) {
                    target[lane % HALF] |= code.cast_unsigned() << shift;
                }
            }
            for (target, values) in [(&mut factors, &row.factors), (&mut offsets, &row.offsets)] {
                for (target, value) in target[panel * blocks..].iter_mut().zip(values) {
                    target.0[lane] = *value;
                }
            }
        }
        if offsets.iter().all(|row| row.0 == [0.0; PANEL]) {
            offsets = Vec::new();
        }
        let scales = Scales { factors, offsets, step };
        let codes = if bits == 8 { Codes::Bits8(bytes, scales) } else { Codes::Bits4(nibbles, scales) };
        Self { codes, inputs, outputs }
    }

    pub(super) const fn inputs(&self) -> usize {
        self.inputs
    }

    pub(super) const fn outputs(&self) -> usize {
        self.outputs
    }

    /// Bytes that it holds.
    pub(super) fn bytes(&self) -> usize {
        let scales = |scales: &Scales| size_of_val(&*scales.factors) + size_of_val(&*scales.offsets);
        match &self.codes {
            Codes::Bf16(rows) => size_of_val(&**rows),
            Codes::F16(rows) => size_of_val(&**rows),
            Codes::Bits8(rows, s) => size_of_val(&**rows) + scales(s),
            Codes::Bits4(rows, s) => size_of_val(&**rows) + scales(s),
        }
    }

    /// Spreads a panel's rows of `inputs` out in f32.
    pub(super) fn expand(&self, panel: usize, inputs: Range<usize>, target: &mut [PanelRow]) {
        debug_assert_eq!(inputs.len(), target.len());
        let first = panel * self.inputs;
        let rows = first + inputs.start..first + inputs.end;
        match &self.codes {
            Codes::Bf16(all) => spread::brain(&all[rows], target),
            Codes::F16(all) => spread::half(&all[rows], target),
            Codes::Bits8(all, scales) => {
                for (at, count, scale) in scales.stretches(panel, self.inputs, inputs.clone()) {
                    let codes = &all[first + at..first + at + count];
                    spread::bytes(codes, scale, &mut target[at - inputs.start..][..count]);
                }
            }
            Codes::Bits4(all, scales) => {
                for (at, count, scale) in scales.stretches(panel, self.inputs, inputs.clone()) {
                    let codes = &all[first + at..first + at + count];
                    spread::nibbles(codes, scale, &mut target[at - inputs.start..][..count]);
                }
            }
        }
    }
}

impl Scales {
    /// The stretches of `inputs` that share a scale: first input, count, scale.
    fn stretches(
        &self,
        panel: usize,
        all: usize,
        inputs: Range<usize>,
    ) -> impl Iterator<Item = (usize, usize, Scale<'_>)> {
        let first = panel * all.div_ceil(self.step);
        let mut at = inputs.start;
        std::iter::from_fn(move || {
            let start = at;
            (start < inputs.end).then(|| {
                at = inputs.end.min((start / self.step + 1) * self.step);
                let block = first + start / self.step;
                let offsets = self.offsets.get(block).unwrap_or(&PanelRow::ZERO);
                (start, at - start, Scale { factors: &self.factors[block], offsets })
            })
        })
    }
}

fn pack_halves<T: Copy + Default>(weight: &[T], outputs: usize, inputs: usize) -> Result<Vec<[T; PANEL]>> {
    check_shape(weight.len(), outputs, inputs)?;
    let mut rows = vec![[T::default(); PANEL]; outputs.div_ceil(PANEL) * inputs];
    for (output, source) in weight.chunks_exact(inputs).enumerate() {
        for (row, value) in rows[output / PANEL * inputs..].iter_mut().zip(source) {
            row[output % PANEL] = *value;
        }
    }
    Ok(rows)
}
