//! The packed form of a frozen weight.

use candle_core::{Result, bail};
use rayon::prelude::*;

/// Outputs that one panel holds: two AVX-512 registers wide.
pub(super) const PANEL: usize = 32;

/// One row of a panel: the weights of [`PANEL`] neighbouring outputs for one input, on its own cache lines.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct PanelRow(pub(super) [f32; PANEL]);

impl PanelRow {
    pub(super) const ZERO: Self = Self([0.0; PANEL]);
}

/// A weight `[outputs, inputs]` cut into panels of [`PANEL`] outputs; panel `p`, row `k` holds
/// `weight[p * PANEL ..][k]`. The last panel is filled up with zeros.
pub(super) struct Panels {
    rows: Vec<PanelRow>,
    inputs: usize,
    outputs: usize,
}

impl Panels {
    /// Packs a row-major weight `[outputs, inputs]`.
    pub(super) fn pack(weight: &[f32], outputs: usize, inputs: usize) -> Result<Self> {
        if inputs == 0 || outputs == 0 || weight.len() != outputs * inputs {
            bail!(
                "a linear weight of shape [{outputs}, {inputs}] cannot be packed from {} values",
                weight.len()
            );
        }
        let mut rows = vec![PanelRow::ZERO; outputs.div_ceil(PANEL) * inputs];
        rows.par_chunks_mut(inputs)
            .zip(weight.par_chunks(PANEL * inputs))
            .for_each(|(panel, source)| {
                for (lane, output) in source.chunks_exact(inputs).enumerate() {
                    for (row, value) in panel.iter_mut().zip(output) {
                        row.0[lane] = *value;
                    }
                }
            });
        Ok(Self {
            rows,
            inputs,
            outputs,
        })
    }

    /// The row-major weight `[outputs, inputs]` again.
    pub(super) fn unpack(&self) -> Vec<f32> {
        let mut weight = vec![0.0; self.outputs * self.inputs];
        weight
            .par_chunks_mut(PANEL * self.inputs)
            .zip(self.rows.par_chunks(self.inputs))
            .for_each(|(target, panel)| {
                for (lane, output) in target.chunks_exact_mut(self.inputs).enumerate() {
                    for (row, value) in panel.iter().zip(output) {
                        *value = row.0[lane];
                    }
                }
            });
        weight
    }

    pub(super) fn inputs(&self) -> usize {
        self.inputs
    }

    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    /// How many panels there are.
    pub(super) fn count(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    /// Panel `index`: one [`PanelRow`] per input.
    pub(super) fn panel(&self, index: usize) -> &[PanelRow] {
        &self.rows[index * self.inputs..(index + 1) * self.inputs]
    }
}

impl std::fmt::Debug for Panels {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Panels[{}, {}]", self.outputs, self.inputs)
    }
}
