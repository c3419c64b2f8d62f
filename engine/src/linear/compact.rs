//! Weights kept as their file keeps them: in 16 bits, or as codes of 8 or 4 bits with a factor for each block.
//!
//! The products read a panel in f32: it is spread out into scratch memory that stays in a cache while the rows pass. The
//! values are those that dequantising the whole weight gives, so results are too, bit for bit; what is read from main
//! memory is a half to a sixth of it.

use std::ops::Range;

use candle_core::Result;
use half::{bf16, f16};
use rayon::prelude::*;

use super::integers::Integers;
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

/// Where a panel's factors and offsets go.
type Places<'a> = (&'a mut [PanelRow], &'a mut [PanelRow]);

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

    /// Packs coded rows, `row_of` each output; blocks are of `step` inputs. Codes fit `bits`: 4 (0 to 15) or 8.
    pub(super) fn coded(
        row_of: impl Fn(usize) -> CodedRow + Sync,
        outputs: usize,
        inputs: usize,
        bits: u32,
        step: usize,
    ) -> Self {
        let (panels, blocks) = (outputs.div_ceil(PANEL), inputs.div_ceil(step));
        let mut factors = vec![PanelRow::ZERO; panels * blocks];
        let mut offsets = factors.clone();
        let scales = factors.par_chunks_mut(blocks).zip(offsets.par_chunks_mut(blocks)).enumerate();
        // A panel's scales are written here, its codes where each kind keeps them.
        let fill = |(panel, (factors, offsets)): (usize, Places<'_>), put: &mut dyn FnMut(usize, &[i8])| {
            for (lane, output) in (panel * PANEL..outputs.min((panel + 1) * PANEL)).enumerate() {
                let row = row_of(output);
                put(lane, &row.codes);
                for (target, values) in [(&mut *factors, &row.factors), (&mut *offsets, &row.offsets)] {
                    for (target, value) in target.iter_mut().zip(values) {
                        target.0[lane] = *value;
                    }
                }
            }
        };
        let (mut bytes, mut nibbles) = (Vec::new(), Vec::new());
        if bits == 8 {
            bytes.resize(panels * inputs, [0i8; PANEL]);
            bytes.par_chunks_mut(inputs).zip(scales).for_each(|(panel, scales)| {
                fill(scales, &mut |lane, codes| {
                    panel.iter_mut().zip(codes).for_each(|(target, code)| target[lane] = *code);
                });
            });
        } else {
            nibbles.resize(panels * inputs, [0u8; HALF]);
            nibbles.par_chunks_mut(inputs).zip(scales).for_each(|(panel, scales)| {
                fill(scales, &mut |lane, codes| {
                    let shift = if lane < HALF { 0 } else { 4 };
                    let bits = codes.iter().map(|code| code.cast_unsigned() << shift);
                    panel.iter_mut().zip(bits).for_each(|(target, bits)| target[lane % HALF] |= bits);
                });
            });
        }
        if offsets.iter().all(|row| row.0 == [0.0; PANEL]) {
            offsets = Vec::new();
        }
        let scales = Scales { factors, offsets, step };
        let codes = if bits == 8 { Codes::Bits8(bytes, scales) } else { Codes::Bits4(nibbles, scales) };
        Self { codes, inputs, outputs }
    }

    /// The same values for products in integers; none of weights in 16 bits.
    pub(super) fn integers(&self) -> Option<Integers> {
        let (inputs, outputs) = (self.inputs, self.outputs);
        // Beyond the last input there is nothing; rows have zeros there.
        let at =
            |output: usize, input: usize| (input < inputs).then(|| (output / PANEL * inputs + input, output % PANEL));
        match &self.codes {
            Codes::Bf16(_) | Codes::F16(_) => None,
            Codes::Bits8(rows, scales) => {
                let code = |output, input| at(output, input).map_or(0, |(row, lane)| rows[row][lane]);
                Some(Integers::bytes(code, scales.step, scales.both(), outputs, inputs))
            }
            Codes::Bits4(rows, scales) => {
                let code = |output, input| {
                    at(output, input).map_or(0, |(row, lane)| rows[row][lane % HALF] >> (lane / HALF * 4) & 15)
                };
                Some(Integers::nibbles(code, scales.both(), outputs, inputs))
            }
        }
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
        assert_eq!(inputs.len(), target.len());
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
    fn both(&self) -> (Vec<PanelRow>, Vec<PanelRow>) {
        (self.factors.clone(), self.offsets.clone())
    }

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

fn pack_halves<T: Copy + Default + Send + Sync>(
    weight: &[T],
    outputs: usize,
    inputs: usize,
) -> Result<Vec<[T; PANEL]>> {
    check_shape(weight.len(), outputs, inputs)?;
    let mut rows = vec![[T::default(); PANEL]; outputs.div_ceil(PANEL) * inputs];
    rows.par_chunks_mut(inputs).zip(weight.par_chunks(PANEL * inputs)).for_each(|(panel, source)| {
        for (lane, output) in source.chunks_exact(inputs).enumerate() {
            for (row, value) in panel.iter_mut().zip(output) {
                row[lane] = *value;
            }
        }
    });
    Ok(rows)
}
