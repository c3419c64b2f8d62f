//! The packed form of a frozen weight.

use super::kernel::{TILE_ROWS, Tile};
use super::product::{self, Interleaved, Weights};
use crate::instruction_sets::Instructions;
use candle_core::{Result, bail};
use rayon::prelude::*;
use std::ops::Range;

/// Outputs that one panel holds: two AVX-512 registers wide.
pub(crate) const PANEL: usize = 32;

/// One row of a panel: the weights of [`PANEL`] neighbouring outputs for one input, on its own cache lines.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct PanelRow(pub(crate) [f32; PANEL]);

impl PanelRow {
    pub(crate) const ZERO: Self = Self([0.0; PANEL]);

    /// Up to [`PANEL`] values, and zeros.
    pub(crate) fn filled(values: &[f32]) -> Self {
        let mut row = Self::ZERO;
        row.0[..values.len()].copy_from_slice(values);
        row
    }
}

/// A weight `[outputs, inputs]` cut into panels of [`PANEL`] outputs; panel `p`, row `k` holds
/// `weight[p * PANEL ..][k]`. The last panel is filled up with zeros.
pub(crate) struct Panels {
    rows: Vec<PanelRow>,
    inputs: usize,
    outputs: usize,
}

impl Panels {
    /// Packs a row-major weight `[outputs, inputs]`.
    pub(crate) fn pack(weight: &[f32], outputs: usize, inputs: usize) -> Result<Self> {
        check_shape(weight.len(), outputs, inputs)?;
        let mut rows = vec![PanelRow::ZERO; outputs.div_ceil(PANEL) * inputs];
        rows.par_chunks_mut(inputs).zip(weight.par_chunks(PANEL * inputs)).for_each(|(panel, source)| {
            for (lane, output) in source.chunks_exact(inputs).enumerate() {
                for (row, value) in panel.iter_mut().zip(output) {
                    row.0[lane] = *value;
                }
            }
        });
        Ok(Self { rows, inputs, outputs })
    }

    /// Packs the transpose of a row-major weight: `transposed [inputs, outputs]`, for products that sum over rows.
    pub(crate) fn pack_transposed(transposed: &[f32], inputs: usize, outputs: usize) -> Result<Self> {
        if inputs == 0 || outputs == 0 || transposed.len() != outputs * inputs {
            bail!(
                "a transposed weight of shape [{inputs}, {outputs}] cannot be packed from {} values",
                transposed.len()
            );
        }
        let row = |index: usize| {
            let (panel, input) = (index / inputs, index % inputs);
            let first = panel * PANEL;
            PanelRow::filled(&transposed[input * outputs..][first..outputs.min(first + PANEL)])
        };
        let rows = (0..outputs.div_ceil(PANEL) * inputs).into_par_iter().map(row).collect();
        Ok(Self { rows, inputs, outputs })
    }

    /// `x [rows, inputs]` times the weight, transposed: row-major `[rows, outputs]`.
    pub(crate) fn multiply(&self, x: &Interleaved) -> Vec<f32> {
        product::forward(Instructions::best(), &[Weights::Plain(self).into()], x).remove(0)
    }

    /// The sums of one panel over a range of inputs, for up to [`TILE_ROWS`] rows: `x` holds `rows` interleaved
    /// values for each input of the range.
    pub(crate) fn tile(&self, panel: usize, inputs: Range<usize>, x: &[f32], rows: usize, tile: &mut Tile) {
        assert!(rows <= TILE_ROWS && x.len() == inputs.len() * rows);
        Instructions::best().tile(&self.panel(panel)[inputs], x, rows, tile);
    }

    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Bytes that it holds.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.rows)
    }

    /// Panel `index`: one [`PanelRow`] per input.
    pub(crate) fn panel(&self, index: usize) -> &[PanelRow] {
        &self.rows[index * self.inputs..(index + 1) * self.inputs]
    }
}

pub(super) fn check_shape(values: usize, outputs: usize, inputs: usize) -> Result<()> {
    if inputs == 0 || outputs == 0 || values != outputs * inputs {
        bail!("a linear weight of shape [{outputs}, {inputs}] cannot be packed from {values} values");
    }
    Ok(())
}

impl std::fmt::Debug for Panels {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Panels[{}, {}]", self.outputs, self.inputs)
    }
}
