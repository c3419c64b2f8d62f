//! Blocking and threading around the kernels.

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::compact::Compact;
use super::integers::Integers;
use super::kernel::{SharedOutput, TILE_ROWS, Tile};
use super::panels::{PANEL, PanelRow, Panels};
use crate::instruction_sets::Instructions;
use rayon::prelude::*;

/// Rows that one task takes at a time: the panel stays in the second-level cache while they pass.
pub(super) const CHUNK_ROWS: usize = 6 * TILE_ROWS;
/// Outputs whose share of a backward sum is taken in one go, so that what is turned stays in a cache. Part of the order of
/// summation.
const BACK_OUTPUTS: usize = 64 * PANEL;
/// Products with fewer multiply-adds than this run on the calling thread: waking others costs more.
const SERIAL_WORK: usize = 1 << 17;

/// A weight `[outputs, inputs]`, however it is kept.
#[derive(Clone, Copy)]
pub(super) enum Weights<'a> {
    Plain(&'a Panels),
    Compact(&'a Compact),
    Integers(&'a Integers),
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
            Self::Integers(integers) => integers.inputs(),
            Self::Transposed(given) => given.inputs,
        }
    }

    pub(super) fn outputs(self) -> usize {
        match self {
            Self::Plain(panels) => panels.outputs(),
            Self::Compact(compact) => compact.outputs(),
            Self::Integers(integers) => integers.outputs(),
            Self::Transposed(given) => given.outputs,
        }
    }

    /// Lends a panel in f32.
    fn with_panel<R>(self, index: usize, read: impl FnOnce(&[PanelRow]) -> R) -> R {
        match self {
            Self::Plain(panels) => read(panels.panel(index)),
            Self::Compact(_) | Self::Integers(_) | Self::Transposed(_) => with_scratch(self.inputs(), |scratch| {
                self.copy(index, 0..self.inputs(), scratch);
                read(scratch)
            }),
        }
    }

    /// Copies a part of a panel of the transposed weight in f32: for each of `outputs`, the first of which begins a panel,
    /// the weights of panel `index` of the inputs.
    fn turn(self, index: usize, outputs: Range<usize>, target: &mut [PanelRow]) {
        let inputs = index * PANEL..self.inputs().min((index + 1) * PANEL);
        let mut block = [PanelRow::ZERO; PANEL];
        for (panel, target) in (outputs.start / PANEL..).zip(target[..outputs.len()].chunks_mut(PANEL)) {
            self.copy(panel, inputs.clone(), &mut block[..inputs.len()]);
            for (lane, row) in target.iter_mut().enumerate() {
                row.0 = std::array::from_fn(|input| block[input].0[lane]);
            }
        }
    }

    /// Copies a panel's rows of `inputs` in f32.
    pub(super) fn copy(self, index: usize, inputs: Range<usize>, target: &mut [PanelRow]) {
        match self {
            Self::Plain(panels) => target.copy_from_slice(&panels.panel(index)[inputs]),
            Self::Compact(compact) => compact.expand(index, inputs, target),
            Self::Integers(integers) => integers.expand(index, inputs, target),
            Self::Transposed(given) => given.copy(index, inputs, target),
        }
    }
}

/// A weight with its bias, and what else is added to its product.
#[derive(Clone, Copy)]
pub(super) struct Layer<'a> {
    pub(super) weights: Weights<'a>,
    pub(super) bias: Option<&'a [f32]>,
    pub(super) plus: Option<Plus<'a>>,
}

impl<'a> From<Weights<'a>> for Layer<'a> {
    fn from(weights: Weights<'a>) -> Self {
        Self { weights, bias: None, plus: None }
    }
}

/// `scale` times `x` times a weight, transposed: another product of as many rows, and as wide.
#[derive(Clone, Copy)]
pub(crate) struct Plus<'a> {
    pub(crate) panels: &'a Panels,
    pub(crate) x: &'a Interleaved,
    pub(crate) scale: f32,
}

impl Plus<'_> {
    /// Adds one panel's share of the rows from `first` on.
    fn add(self, instructions: Instructions, panel: usize, first: usize, sums: &mut [[f32; PANEL]]) {
        let mut tile: Tile = [[0.0; PANEL]; TILE_ROWS];
        let (count, inputs) = (sums.len(), 0..self.panels.inputs());
        instructions.tile(self.panels.panel(panel), self.x.tile(first, count, inputs), count, &mut tile);
        for (sums, values) in sums.iter_mut().zip(&tile) {
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum += self.scale * value;
            }
        }
    }
}

/// Lends this thread's scratch memory; what is in it is left over from earlier.
fn with_scratch<R>(rows: usize, use_it: impl FnOnce(&mut [PanelRow]) -> R) -> R {
    thread_local! {
        static SCRATCH: RefCell<Vec<PanelRow>> = const { RefCell::new(Vec::new()) };
    }
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.len() < rows {
            scratch.resize(rows, PanelRow::ZERO);
        }
        use_it(&mut scratch[..rows])
    })
}

fn run_tasks(count: usize, work: usize, task: impl Fn(usize) + Send + Sync) {
    if work < SERIAL_WORK {
        (0..count).for_each(task);
    } else {
        (0..count).into_par_iter().for_each(task);
    }
}

/// `x [rows, inputs]` times each weight, transposed, plus its bias: row-major `[rows, outputs]` each. All weights have the
/// same inputs. Together they wake the threads once.
pub(super) fn forward(instructions: Instructions, layers: &[Layer<'_>], x: &Interleaved) -> Vec<Vec<f32>> {
    let Interleaved { rows, width: inputs, .. } = *x;
    let outputs: Vec<usize> = layers.iter().map(|layer| layer.weights.outputs()).collect();
    let compact = layers.iter().any(|layer| !matches!(layer.weights, Weights::Plain(_)));
    by_panels([rows, inputs], &outputs, compact, |part| {
        let Layer { weights, bias, plus } = layers[part.layer];
        let mut tile: Tile = [[0.0; PANEL]; TILE_ROWS];
        weights.with_panel(part.panel, |panel| {
            for first in part.rows.clone().step_by(TILE_ROWS) {
                let count = TILE_ROWS.min(part.rows.end - first);
                instructions.tile(panel, x.tile(first, count, 0..inputs), count, &mut tile);
                if let Some(plus) = plus {
                    plus.add(instructions, part.panel, first, &mut tile[..count]);
                }
                part.write(&mut tile[..count], bias);
            }
        });
    })
}

/// One panel's share of some rows of one of several products.
pub(super) struct Part<'a> {
    /// Which product.
    pub(super) layer: usize,
    pub(super) panel: usize,
    pub(super) rows: Range<usize>,
    output: &'a SharedOutput<'a>,
    outputs: usize,
    written: usize,
}

impl Part<'_> {
    /// Writes the sums of the next rows, and adds the bias to them.
    pub(super) fn write(&mut self, sums: &mut [[f32; PANEL]], bias: Option<&[f32]>) {
        let column = self.panel * PANEL;
        let width = PANEL.min(self.outputs - column);
        for sums in sums {
            let sums = &mut sums[..width];
            if let Some(bias) = bias {
                for (element, bias) in sums.iter_mut().zip(&bias[column..]) {
                    *element += bias;
                }
            }
            let row = self.rows.start + self.written;
            assert!(row < self.rows.end, "a row outside the part");
            // SAFETY: each (row, panel) of an output belongs to one part, and is written by it once.
            unsafe { self.output.write(row * self.outputs + column, sums) };
            self.written += 1;
        }
    }
}

/// The products of some rows with weights of `outputs` each, in parts that `compute` writes in full. `once`: preparing a
/// panel costs something, so all rows take it in one go where panels alone keep every thread busy.
pub(super) fn by_panels(
    [rows, inputs]: [usize; 2],
    outputs: &[usize],
    once: bool,
    compute: impl Fn(&mut Part<'_>) + Send + Sync,
) -> Vec<Vec<f32>> {
    // Filled with zeros they would be written twice, the first time by one thread.
    let mut products: Vec<Vec<f32>> = outputs.iter().map(|outputs| Vec::with_capacity(rows * outputs)).collect();
    let panels: Vec<(usize, usize)> = outputs
        .iter()
        .enumerate()
        .flat_map(|(layer, outputs)| (0..outputs.div_ceil(PANEL)).map(move |panel| (layer, panel)))
        .collect();
    let all_rows = once && panels.len() >= 8 * rayon::current_num_threads();
    let chunk_rows = if all_rows { rows.max(1) } else { CHUNK_ROWS };
    let row_chunks = rows.div_ceil(chunk_rows);
    // A product that would not wake the threads alone does not in company.
    let work = rows * inputs * outputs.iter().max().copied().unwrap_or(0);
    let targets: Vec<_> = products
        .iter_mut()
        .zip(outputs)
        .map(|(product, outputs)| SharedOutput::unwritten(&mut product.spare_capacity_mut()[..rows * outputs]))
        .collect();
    run_tasks(panels.len() * row_chunks, work, |index| {
        let (layer, panel) = panels[index / row_chunks];
        let first = index % row_chunks * chunk_rows;
        let rows = first..rows.min(first + chunk_rows);
        let mut part = Part { layer, panel, rows, output: &targets[layer], outputs: outputs[layer], written: 0 };
        compute(&mut part);
        assert_eq!(part.written, part.rows.len(), "a part that was not written in full");
    });
    drop(targets);
    for (product, outputs) in products.iter_mut().zip(outputs) {
        // SAFETY: the parts are all rows of all panels, and each was written in full.
        unsafe { product.set_len(rows * outputs) };
    }
    products
}

/// Rows in the order in which kernels read them: [`TILE_ROWS`] at a time, input by input. The last block holds the rows that
/// are left.
pub(crate) struct Interleaved {
    values: Vec<f32>,
    rows: usize,
    width: usize,
}

impl Interleaved {
    /// Of row-major `x [rows, width]`.
    pub(crate) fn new(x: &[f32], width: usize) -> Self {
        let mut values = Vec::with_capacity(x.len());
        let block = TILE_ROWS * width;
        values.spare_capacity_mut()[..x.len()]
            .par_chunks_mut(block)
            .zip(x.par_chunks(block))
            .for_each(|(target, x)| interleave(x.len() / width, |row| &x[row * width..(row + 1) * width], target));
        // SAFETY: each block's rows have been written in full.
        unsafe { values.set_len(x.len()) };
        Self { values, rows: x.len() / width, width }
    }

    /// What a kernel reads of `count` rows from `first` on, a multiple of [`TILE_ROWS`].
    fn tile(&self, first: usize, count: usize, inputs: Range<usize>) -> &[f32] {
        &self.values[first * self.width..][inputs.start * count..inputs.end * count]
    }
}

/// Up to [`TILE_ROWS`] rows of one length, input by input.
pub(crate) fn interleaved<'a>(rows: usize, row: impl Fn(usize) -> &'a [f32]) -> Vec<f32> {
    let count = rows * row(0).len();
    let mut values = Vec::with_capacity(count);
    interleave(rows, row, &mut values.spare_capacity_mut()[..count]);
    // SAFETY: they have been written in full.
    unsafe { values.set_len(count) };
    values
}

/// Writes every element of `target`.
fn interleave<'a>(count: usize, row: impl Fn(usize) -> &'a [f32], target: &mut [MaybeUninit<f32>]) {
    if count == TILE_ROWS {
        let width = target.len() / TILE_ROWS;
        let rows: [&[f32]; TILE_ROWS] = std::array::from_fn(|index| &row(index)[..width]);
        for (input, places) in target.as_chunks_mut::<TILE_ROWS>().0.iter_mut().enumerate() {
            for (place, row) in places.iter_mut().zip(&rows) {
                place.write(row[input]);
            }
        }
        return;
    }
    for index in 0..count {
        for (place, value) in target[index..].iter_mut().step_by(count).zip(row(index)) {
            place.write(*value);
        }
    }
}

/// The gradient of the input: `grad [rows, outputs]` times the weight, plus what else there is: row-major `[rows, inputs]`.
///
/// The kernel of the forward pass makes it, of panels that are turned for it: for many rows that costs little.
pub(super) fn backward(
    instructions: Instructions,
    weights: Weights<'_>,
    plus: Option<Plus<'_>>,
    grad: &Interleaved,
) -> Vec<f32> {
    let (rows, inputs, outputs) = (grad.rows, weights.inputs(), weights.outputs());
    let mut output = vec![0.0f32; rows * inputs];
    let shared = SharedOutput::new(&mut output);
    let panels = inputs.div_ceil(PANEL);
    // As few chunks as keep the threads busy: each turns the panels that it reads.
    let chunks = (8 * rayon::current_num_threads()).div_ceil(panels);
    let chunk_rows = rows.div_ceil(chunks).next_multiple_of(TILE_ROWS).max(TILE_ROWS);
    let row_chunks = rows.div_ceil(chunk_rows);
    run_tasks(panels * row_chunks, rows * inputs * outputs, |index| {
        let (panel, first) = (index / row_chunks, index % row_chunks * chunk_rows);
        let (column, end) = (panel * PANEL, rows.min(first + chunk_rows));
        let width = PANEL.min(inputs - column);
        let mut tile: Tile = [[0.0; PANEL]; TILE_ROWS];
        for start in (0..outputs).step_by(BACK_OUTPUTS) {
            let range = start..outputs.min(start + BACK_OUTPUTS);
            with_scratch(range.len(), |turned| {
                weights.turn(panel, range.clone(), turned);
                for row in (first..end).step_by(TILE_ROWS) {
                    let count = TILE_ROWS.min(end - row);
                    instructions.tile(turned, grad.tile(row, count, range.clone()), count, &mut tile);
                    if let Some(plus) = plus.filter(|_| start == 0) {
                        plus.add(instructions, panel, row, &mut tile[..count]);
                    }
                    for (offset, sums) in tile[..count].iter().enumerate() {
                        // SAFETY: each (row, panel) belongs to exactly one task.
                        let target = unsafe { shared.part((row + offset) * inputs + column, width) };
                        for (element, sum) in target.iter_mut().zip(sums) {
                            *element += sum;
                        }
                    }
                }
            });
        }
    });
    output
}
