//! Blocking and threading around the kernels.

use std::cell::RefCell;
use std::ops::Range;

use super::compact::Compact;
use super::kernel::{BACK_TILE, BackTile, SharedOutput, TILE_ROWS, Tile};
use super::panels::{PANEL, PanelRow, Panels};
use crate::instruction_sets::Instructions;
use rayon::prelude::*;

/// Rows that one task takes at a time: the panel stays in the second-level cache while they pass.
const CHUNK_ROWS: usize = 6 * TILE_ROWS;
/// Panels whose share of a backward sum is taken in one go. Part of the order of summation.
const BACK_PANELS: usize = 64;
/// Inputs that one backward task takes.
const BACK_INPUTS: usize = 32;
/// Products with fewer multiply-adds than this run on the calling thread: waking others costs more.
const SERIAL_WORK: usize = 1 << 17;

/// A weight `[outputs, inputs]`, however it is kept.
#[derive(Clone, Copy)]
pub(super) enum Weights<'a> {
    Plain(&'a Panels),
    Compact(&'a Compact),
    Transposed(Transposed<'a>),
}

/// A weight that is given as `[inputs, outputs]`, row-major, for a product that sums over many rows and is made once.
#[derive(Clone, Copy)]
pub(super) struct Transposed<'a> {
    pub(super) values: &'a [f32],
    pub(super) inputs: usize,
    pub(super) outputs: usize,
}

impl Transposed<'_> {
    fn copy(self, panel: usize, inputs: Range<usize>, target: &mut [PanelRow]) {
        let columns = panel * PANEL..self.outputs.min((panel + 1) * PANEL);
        let rows = self.values.chunks_exact(self.outputs).skip(inputs.start).take(inputs.len());
        for (target, row) in target.iter_mut().zip(rows) {
            target.0[..columns.len()].copy_from_slice(&row[columns.clone()]);
            target.0[columns.len()..].fill(0.0);
        }
    }
}

impl<'a> Weights<'a> {
    pub(super) fn inputs(self) -> usize {
        match self {
            Self::Plain(panels) => panels.inputs(),
            Self::Compact(compact) => compact.inputs(),
            Self::Transposed(given) => given.inputs,
        }
    }

    pub(super) fn outputs(self) -> usize {
        match self {
            Self::Plain(panels) => panels.outputs(),
            Self::Compact(compact) => compact.outputs(),
            Self::Transposed(given) => given.outputs,
        }
    }

    /// Lends a panel in f32.
    fn with_panel<R>(self, index: usize, read: impl FnOnce(&[PanelRow]) -> R) -> R {
        thread_local! {
            static SPREAD_OUT: RefCell<Vec<PanelRow>> = const { RefCell::new(Vec::new()) };
        }
        match self {
            Self::Plain(panels) => read(panels.panel(index)),
            Self::Compact(_) | Self::Transposed(_) => SPREAD_OUT.with_borrow_mut(|scratch| {
                scratch.resize(self.inputs(), PanelRow::ZERO);
                self.copy(index, 0..self.inputs(), scratch);
                read(scratch)
            }),
        }
    }

    /// Copies a panel's rows of `inputs` in f32.
    pub(super) fn copy(self, index: usize, inputs: Range<usize>, target: &mut [PanelRow]) {
        match self {
            Self::Plain(panels) => target.copy_from_slice(&panels.panel(index)[inputs]),
            Self::Compact(compact) => compact.expand(index, inputs, target),
            Self::Transposed(given) => given.copy(index, inputs, target),
        }
    }

    fn plain(self) -> Option<&'a Panels> {
        match self {
            Self::Plain(panels) => Some(panels),
            Self::Compact(_) | Self::Transposed(_) => None,
        }
    }
}

fn run_tasks(count: usize, work: usize, task: impl Fn(usize) + Send + Sync) {
    if work < SERIAL_WORK {
        (0..count).for_each(task);
    } else {
        (0..count).into_par_iter().for_each(task);
    }
}

/// `x [rows, inputs]` times each weight, transposed, plus its bias: row-major `[rows, outputs]` each. All weights have the
/// same inputs. Together they wake the threads once, and share what is made of `x`.
pub(super) fn forward(
    instructions: Instructions,
    layers: &[(Weights<'_>, Option<&[f32]>)],
    x: &[f32],
    rows: usize,
) -> Vec<Vec<f32>> {
    let Some(inputs) = layers.first().map(|(weights, _)| weights.inputs()) else { return Vec::new() };
    let interleaved = interleave(x, inputs, rows);
    // Filled with zeros they would be written twice, the first time by one thread.
    let mut outputs: Vec<Vec<f32>> =
        layers.iter().map(|(weights, _)| Vec::with_capacity(rows * weights.outputs())).collect();
    let panels: Vec<(usize, usize)> = layers
        .iter()
        .enumerate()
        .flat_map(|(layer, (weights, _))| (0..weights.outputs().div_ceil(PANEL)).map(move |panel| (layer, panel)))
        .collect();
    // What is spread out is so once for all rows, where panels alone keep every thread busy.
    let compact = layers.iter().any(|(weights, _)| weights.plain().is_none());
    let all_rows = compact && panels.len() >= 8 * rayon::current_num_threads();
    let chunk_rows = if all_rows { rows.max(1) } else { CHUNK_ROWS };
    let row_chunks = rows.div_ceil(chunk_rows);
    // A product that would not wake the threads alone does not in company.
    let work = layers.iter().map(|(weights, _)| rows * inputs * weights.outputs()).max().unwrap_or(0);
    let targets: Vec<_> = outputs
        .iter_mut()
        .zip(layers)
        .map(|(output, (weights, _))| {
            SharedOutput::unwritten(&mut output.spare_capacity_mut()[..rows * weights.outputs()])
        })
        .collect();
    run_tasks(panels.len() * row_chunks, work, |index| {
        let (layer, panel) = panels[index / row_chunks];
        let first = index % row_chunks * chunk_rows;
        let part =
            Part { weights: layers[layer].0, bias: layers[layer].1, panel, rows: first..rows.min(first + chunk_rows) };
        // SAFETY: each (row, panel) of an output is written by exactly one task, once.
        part.compute(instructions, &interleaved, |place, sums| unsafe { targets[layer].write(place, sums) });
    });
    drop(targets);
    for (output, (weights, _)) in outputs.iter_mut().zip(layers) {
        // SAFETY: the tasks have written every panel's columns of every row.
        unsafe { output.set_len(rows * weights.outputs()) };
    }
    outputs
}

/// Adds `scale` times `x [rows, inputs]` times the weight, transposed, to `sum [rows, outputs]`.
pub(super) fn add(
    instructions: Instructions,
    weights: Weights<'_>,
    x: &[f32],
    rows: usize,
    scale: f32,
    sum: &mut [f32],
) {
    let (inputs, outputs) = (weights.inputs(), weights.outputs());
    let interleaved = interleave(x, inputs, rows);
    let target = SharedOutput::new(sum);
    let row_chunks = rows.div_ceil(CHUNK_ROWS);
    run_tasks(outputs.div_ceil(PANEL) * row_chunks, rows * inputs * outputs, |index| {
        let first = index % row_chunks * CHUNK_ROWS;
        let rows = first..rows.min(first + CHUNK_ROWS);
        Part { weights, bias: None, panel: index / row_chunks, rows }.compute(
            instructions,
            &interleaved,
            |place, values| {
                // SAFETY: each (row, panel) belongs to exactly one task.
                let target = unsafe { target.part(place, values.len()) };
                for (element, value) in target.iter_mut().zip(values) {
                    *element += scale * *value;
                }
            },
        );
    });
}

/// One panel's share of some rows of a product.
struct Part<'a> {
    weights: Weights<'a>,
    bias: Option<&'a [f32]>,
    panel: usize,
    rows: Range<usize>,
}

impl Part<'_> {
    /// Hands each row's share to `take`, with its place in the output.
    fn compute(&self, instructions: Instructions, interleaved: &[f32], take: impl Fn(usize, &[f32])) {
        let (inputs, outputs) = (self.weights.inputs(), self.weights.outputs());
        let column = self.panel * PANEL;
        let width = PANEL.min(outputs - column);
        let mut tile: Tile = [[0.0; PANEL]; TILE_ROWS];
        self.weights.with_panel(self.panel, |panel| {
            for first in self.rows.clone().step_by(TILE_ROWS) {
                let count = TILE_ROWS.min(self.rows.end - first);
                let x = &interleaved[first * inputs..(first + count) * inputs];
                instructions.tile(panel, x, count, &mut tile);
                for (row, sums) in tile[..count].iter_mut().enumerate() {
                    let sums = &mut sums[..width];
                    if let Some(bias) = self.bias {
                        for (element, bias) in sums.iter_mut().zip(&bias[column..]) {
                            *element += bias;
                        }
                    }
                    take((first + row) * outputs + column, sums);
                }
            }
        });
    }
}

/// Interleaves [`TILE_ROWS`] rows at a time, input by input, so that a kernel reads straight on. The last
/// block holds the rows that are left.
fn interleave(x: &[f32], inputs: usize, rows: usize) -> Vec<f32> {
    if rows == 1 {
        return x.to_vec();
    }
    let mut packed = Vec::with_capacity(rows * inputs);
    let block = TILE_ROWS * inputs;
    packed.spare_capacity_mut()[..rows * inputs].par_chunks_mut(block).zip(x.par_chunks(block)).for_each(
        |(target, source)| {
            let count = source.len() / inputs;
            for (row, values) in source.chunks_exact(inputs).enumerate() {
                for (place, value) in target[row..].iter_mut().step_by(count).zip(values) {
                    place.write(*value);
                }
            }
        },
    );
    // SAFETY: each block's rows have been written in full.
    unsafe { packed.set_len(rows * inputs) };
    packed
}

/// The gradient of the input: `grad [rows, outputs]` times the weight: row-major `[rows, inputs]`.
pub(super) fn backward(instructions: Instructions, weights: Weights<'_>, grad: &[f32], rows: usize) -> Vec<f32> {
    let (inputs, outputs) = (weights.inputs(), weights.outputs());
    let mut output = vec![0.0f32; rows * inputs];
    let padded = pad_to_panels(grad, outputs, rows);
    let shared = SharedOutput::new(&mut output);
    let row_chunks = rows.div_ceil(CHUNK_ROWS);
    let task = |index: usize| {
        let (range, chunk) = (index / row_chunks, index % row_chunks);
        let end = rows.min((chunk + 1) * CHUNK_ROWS);
        let last_input = inputs.min((range + 1) * BACK_INPUTS);
        for first_panel in (0..outputs.div_ceil(PANEL)).step_by(BACK_PANELS) {
            for input in (range * BACK_INPUTS..last_input).step_by(BACK_TILE) {
                let strip = Strip::new(weights, first_panel, input);
                for row in (chunk * CHUNK_ROWS..end).step_by(BACK_TILE) {
                    let tile = strip.times(instructions, &padded, row, rows);
                    for (offset, sums) in tile[..BACK_TILE.min(rows - row)].iter().enumerate() {
                        // SAFETY: each (row, input) belongs to exactly one task.
                        let target = unsafe { shared.part((row + offset) * inputs + input, strip.width) };
                        for (element, sum) in target.iter_mut().zip(sums) {
                            *element += sum;
                        }
                    }
                }
            }
        }
    };
    let ranges = inputs.div_ceil(BACK_INPUTS);
    run_tasks(ranges * row_chunks, rows * inputs * outputs, task);
    output
}

fn pad_to_panels(grad: &[f32], outputs: usize, rows: usize) -> Vec<PanelRow> {
    let per_row = outputs.div_ceil(PANEL);
    let row = |index: usize| {
        let first = index % per_row * PANEL;
        PanelRow::filled(&grad[index / per_row * outputs..][first..outputs.min(first + PANEL)])
    };
    (0..rows * per_row).into_par_iter().map(row).collect()
}

/// [`BACK_TILE`] neighbouring inputs of a block of panels.
struct Strip<'a> {
    /// Of all panels.
    per_row: usize,
    first_panel: usize,
    count: usize,
    input: usize,
    width: usize,
    rows: StripRows<'a>,
}

enum StripRows<'a> {
    Lent(&'a Panels),
    /// Copies, for weights that are kept otherwise and where the inputs do not fill a tile: the rest is zeros.
    Copied(Vec<[PanelRow; BACK_TILE]>),
}

impl<'a> Strip<'a> {
    fn new(weights: Weights<'a>, first_panel: usize, input: usize) -> Self {
        let per_row = weights.outputs().div_ceil(PANEL);
        let count = BACK_PANELS.min(per_row - first_panel);
        let width = BACK_TILE.min(weights.inputs() - input);
        let rows = match weights.plain() {
            Some(panels) if width == BACK_TILE => StripRows::Lent(panels),
            _ => {
                let mut copied = vec![[PanelRow::ZERO; BACK_TILE]; count];
                for (panel, target) in copied.iter_mut().enumerate() {
                    weights.copy(first_panel + panel, input..input + width, &mut target[..width]);
                }
                StripRows::Copied(copied)
            }
        };
        Self { per_row, first_panel, count, input, width, rows }
    }

    /// This strip's share of the gradient of up to [`BACK_TILE`] rows from `row` on. Rows beyond the last
    /// one repeat it; the caller drops them.
    fn times(&self, instructions: Instructions, grad: &[PanelRow], row: usize, rows: usize) -> BackTile {
        let grad = std::array::from_fn(|offset| {
            let start = (row + offset).min(rows - 1) * self.per_row + self.first_panel;
            &grad[start..start + self.count]
        });
        let mut tile = [[0.0; BACK_TILE]; BACK_TILE];
        match &self.rows {
            StripRows::Lent(panels) => {
                let weight = |panel| &panels.panel(self.first_panel + panel)[self.input..];
                instructions.back_tile(grad, weight, self.count, &mut tile);
            }
            StripRows::Copied(copied) => {
                let weight = |panel: usize| &copied[panel][..];
                instructions.back_tile(grad, weight, self.count, &mut tile);
            }
        }
        tile
    }
}
