//! Weights kept as their file keeps them: in 16 bits, or as codes of 8 or 4 bits with a factor for each block.
//!
//! The products read a panel in f32: it is spread out into scratch memory that stays in a cache while the rows pass. The
//! values are those that dequantising the whole weight gives, so results are too, bit for bit; what is read from main
//! memory is a half to a sixth of it.

use std::ops::Range;

use candle_core::Result;
use half::{bf16, f16};

use super::panels::{PANEL, PanelRow, check_shape};
use crate::instruction_sets::for_each_instruction_set;

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
    Bits4(Vec<[u8; PANEL / 2]>, Scales),
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
                let shift = if lane < PANEL / 2 { 0 } else { 4 };
                for (target, code) in nibbles[panel * inputs..].iter_mut().zip(&row.codes) {
                    target[lane % (PANEL / 2)] |= code.cast_unsigned() << shift;
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
            Codes::Bf16(all) => expand_bf16(&all[rows], target),
            Codes::F16(all) => expand_f16(&all[rows], target),
            Codes::Bits8(all, scales) => {
                for (at, count, factors, offsets) in scales.stretches(panel, self.inputs, inputs.clone()) {
                    let codes = &all[first + at..first + at + count];
                    expand_bytes(codes, factors, offsets, &mut target[at - inputs.start..][..count]);
                }
            }
            Codes::Bits4(all, scales) => {
                for (at, count, factors, offsets) in scales.stretches(panel, self.inputs, inputs.clone()) {
                    let codes = &all[first + at..first + at + count];
                    expand_nibbles(codes, factors, offsets, &mut target[at - inputs.start..][..count]);
                }
            }
        }
    }
}

impl Scales {
    /// The stretches of `inputs` that share scales: first input, count, factors, offsets.
    fn stretches(
        &self,
        panel: usize,
        all: usize,
        inputs: Range<usize>,
    ) -> impl Iterator<Item = (usize, usize, &PanelRow, &PanelRow)> {
        let first = panel * all.div_ceil(self.step);
        let mut at = inputs.start;
        std::iter::from_fn(move || {
            let start = at;
            (start < inputs.end).then(|| {
                at = inputs.end.min((start / self.step + 1) * self.step);
                let block = first + start / self.step;
                (start, at - start, &self.factors[block], self.offsets.get(block).unwrap_or(&PanelRow::ZERO))
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

for_each_instruction_set! {
    fn expand_bf16(rows: &[[bf16; PANEL]], target: &mut [PanelRow]) = expand_bf16_body
}

#[inline(always)]
fn expand_bf16_body(rows: &[[bf16; PANEL]], target: &mut [PanelRow]) {
    for (row, target) in rows.iter().zip(target) {
        for (value, target) in row.iter().zip(&mut target.0) {
            *target = f32::from_bits(u32::from(value.to_bits()) << 16);
        }
    }
}

for_each_instruction_set! {
    fn expand_f16(rows: &[[f16; PANEL]], target: &mut [PanelRow]) = expand_f16_body
}

#[inline(always)]
fn expand_f16_body(rows: &[[f16; PANEL]], target: &mut [PanelRow]) {
    for (row, target) in rows.iter().zip(target) {
        for (value, target) in row.iter().zip(&mut target.0) {
            *target = from_f16(value.to_bits());
        }
    }
}

/// Without branches, so that loops over it become vectors: the exponent is moved by a product, which is exact and mends
/// subnormal values too; infinities and NaN get the highest exponent.
#[inline(always)]
fn from_f16(bits: u16) -> f32 {
    const UP: f32 = f32::from_bits((127 + 112) << 23);
    let magnitude = (u32::from(bits) & 0x7fff) << 13;
    let moved = (f32::from_bits(magnitude) * UP).to_bits();
    let special = u32::from(bits & 0x7c00 == 0x7c00).wrapping_neg() & 0x7f80_0000;
    f32::from_bits(moved | special | (u32::from(bits) & 0x8000) << 16)
}

for_each_instruction_set! {
    fn expand_bytes(rows: &[[i8; PANEL]], factors: &PanelRow, offsets: &PanelRow, target: &mut [PanelRow])
        = expand_bytes_body
}

#[inline(always)]
fn expand_bytes_body(rows: &[[i8; PANEL]], factors: &PanelRow, offsets: &PanelRow, target: &mut [PanelRow]) {
    for (row, target) in rows.iter().zip(target) {
        scale(row.iter().map(|code| f32::from(*code)), &factors.0, &offsets.0, &mut target.0);
    }
}

#[inline(always)]
fn scale(codes: impl Iterator<Item = f32>, factors: &[f32], offsets: &[f32], target: &mut [f32]) {
    for (((target, code), factor), offset) in target.iter_mut().zip(codes).zip(factors).zip(offsets) {
        *target = code * factor + offset;
    }
}

for_each_instruction_set! {
    fn expand_nibbles(rows: &[[u8; PANEL / 2]], factors: &PanelRow, offsets: &PanelRow, target: &mut [PanelRow])
        = expand_nibbles_body
}

#[inline(always)]
fn expand_nibbles_body(rows: &[[u8; PANEL / 2]], factors: &PanelRow, offsets: &PanelRow, target: &mut [PanelRow]) {
    const HALF: usize = PANEL / 2;
    let ((low_factors, high_factors), (low_offsets, high_offsets)) =
        (factors.0.split_at(HALF), offsets.0.split_at(HALF));
    for (row, target) in rows.iter().zip(target) {
        let (low, high) = target.0.split_at_mut(HALF);
        scale(row.iter().map(|codes| f32::from(codes & 15)), low_factors, low_offsets, low);
        scale(row.iter().map(|codes| f32::from(codes >> 4)), high_factors, high_offsets, high);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects: every f16 becomes the f32 that it is, subnormal and special ones too.
    #[test]
    fn halves_are_read_as_they_are() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (from_f16(bits), f16::from_bits(bits).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()), "{bits:#x}");
        }
    }
}
