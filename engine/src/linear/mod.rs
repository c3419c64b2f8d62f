//! The frozen linear layer: `y = x Wᵀ + b` with our own matrix product.
//!
//! A library's product picks its blocking, and with it the order of each sum, by the shape of the whole
//! product: a row's result then depends on how many neighbours it has. Here every element is one chain of
//! fused multiply-adds over the inputs, in order, whatever the number of rows, the threads and the
//! instruction set (AVX-512, AVX2, or portable code). So a row's bits depend on that row alone.
//!
//! For inference there are also [products in integers](integers), which are rounded, by the same promise.
//!
//! The backward pass gives the input's gradient and no other: candle's own product would also compute and keep the gradient of
//! the frozen weight. It reads the same packed weight as the forward pass, so training needs no second copy.

mod compact;
mod ggml;
mod integers;
mod kernel;
mod panels;
mod placed;
mod product;
mod spread;

use std::sync::Arc;

use candle_core::quantized::QTensor;
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Storage, Tensor, WithDType, bail};
use rayon::prelude::*;

use crate::instruction_sets::Instructions;
use compact::Compact;
use integers::Integers;
use panels::PanelRow;
use product::{Layer, Transposed, Weights};

pub(crate) use kernel::{TILE_ROWS, Tile};
pub(crate) use panels::{PANEL, Panels};
pub use placed::PlacedLinear;
pub(crate) use product::{Interleaved, Plus, interleaved};

/// A linear layer, wherever its weight is.
pub trait Linear {
    /// Whether the CPU's own kernels compute what stands around it; if not, candle's operations do.
    const KERNELS: bool;

    /// `x Wᵀ + b` for `x` of shape `[rows, in]`: `[rows, out]`.
    ///
    /// # Errors
    /// When `x` is of another width, type or place.
    fn forward(&self, x: &Tensor) -> Result<Tensor>;

    /// The gradient of `x` from the one of the output, `grad [rows, out]`: `[rows, in]`. The weight gets none.
    ///
    /// # Errors
    /// As [`Self::forward`].
    fn backward(&self, grad: &Tensor) -> Result<Tensor>;

    /// The products of each of `layers`, which have the same inputs, with the same `x`, as inference makes them: those of
    /// [`Self::forward`], or rounded where a layer is for that.
    ///
    /// # Errors
    /// As [`Self::forward`].
    fn infer(layers: &[&Self], x: &Tensor) -> Result<Vec<Tensor>> {
        layers.iter().map(|layer| layer.forward(x)).collect()
    }

    /// Rows `ids` of the weight, `[ids, in]`: of an embedding, the tokens'. `ids` is of u32, on the weight's device.
    ///
    /// # Errors
    /// When an id is not below the number of rows.
    fn rows(&self, ids: &Tensor) -> Result<Tensor>;
}

/// A weight `[out, in]` that never changes, packed once; cloning shares it.
#[derive(Debug, Clone)]
pub struct FrozenLinear {
    packed: Arc<Packed>,
}

#[derive(Debug)]
struct Packed {
    weight: Kept,
    bias: Option<Vec<f32>>,
    instructions: Instructions,
}

#[derive(Debug)]
enum Kept {
    Plain(Panels),
    Compact(Compact),
    Integers(Integers),
}

impl FrozenLinear {
    /// Packs `weight` (`[out, in]`; bf16 and f16 are kept as they are, other types as f32) and `bias` (`[out]`).
    ///
    /// # Errors
    /// When a shape is not as above or has no elements.
    pub fn new(weight: &Tensor, bias: Option<Tensor>) -> Result<Self> {
        Self::with_instructions(weight, bias, Instructions::best())
    }

    /// Packs a quantised `weight` (`[out, in]`), whose codes are kept where they can be: kinds of 4, 5, 6 and 8 bits. Output
    /// `o` is the weight's row `row_of(o)`.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn quantised(weight: &QTensor, row_of: impl Fn(usize) -> usize + Sync, bias: Option<Tensor>) -> Result<Self> {
        if let Some(compact) = ggml::compact(weight, &row_of)? {
            return Self::packed(Kept::Compact(compact), bias, Instructions::best());
        }
        let rows: Vec<u32> = (0..weight.shape().dims2()?.0).map(|output| row_of(output) as u32).collect();
        let order = Tensor::new(rows, &Device::Cpu)?;
        Self::new(&weight.dequantize(&Device::Cpu)?.index_select(&order, 0)?, bias)
    }

    fn with_instructions(weight: &Tensor, bias: Option<Tensor>, instructions: Instructions) -> Result<Self> {
        let (outputs, inputs) = weight.dims2()?;
        let flat = weight.flatten_all()?;
        let kept = match weight.dtype() {
            DType::BF16 => Kept::Compact(Compact::bf16(&flat.to_vec1()?, outputs, inputs)?),
            DType::F16 => Kept::Compact(Compact::f16(&flat.to_vec1()?, outputs, inputs)?),
            _ => Kept::Plain(Panels::pack(&flat.to_dtype(DType::F32)?.to_vec1()?, outputs, inputs)?),
        };
        Self::packed(kept, bias, instructions)
    }

    fn packed(weight: Kept, bias: Option<Tensor>, instructions: Instructions) -> Result<Self> {
        let mut packed = Packed { weight, bias: None, instructions };
        if let Some(bias) = bias {
            let outputs = packed.weights().outputs();
            if bias.dims() != [outputs] {
                bail!("a linear bias has shape {:?}, and the weight has {outputs} outputs", bias.dims());
            }
            packed.bias = Some(bias.to_dtype(DType::F32)?.to_vec1()?);
        }
        Ok(Self { packed: Arc::new(packed) })
    }

    /// The same layer for inference in integers: where the weight is no code of 4 to 8 bits, it is rounded to one of 8. What
    /// is not inference goes on in f32, with the values of these codes.
    #[must_use]
    pub fn in_integers(&self) -> Self {
        let weights = self.packed.weights();
        let coded = if let Kept::Compact(compact) = &self.packed.weight { compact.integers() } else { None };
        let integers = coded.unwrap_or_else(|| {
            let copy = |panel: usize, rows: &mut [PanelRow]| weights.copy(panel, 0..rows.len(), rows);
            Integers::rounded(copy, weights.outputs(), weights.inputs())
        });
        let Packed { bias, instructions, .. } = &*self.packed;
        let packed = Packed { weight: Kept::Integers(integers), bias: bias.clone(), instructions: *instructions };
        Self { packed: Arc::new(packed) }
    }

    /// `x Wᵀ + b` for `x` of shape `[.., in]` (f32, on the CPU): `[.., out]`.
    ///
    /// # Errors
    /// When the last dimension is not [`Self::in_features`], or `x` is not f32 on the CPU.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.contiguous()?.apply_op1_no_bwd(&FrozenProduct(self))
    }

    /// The length of an input row.
    #[must_use]
    pub fn in_features(&self) -> usize {
        self.packed.weights().inputs()
    }

    /// The length of an output row.
    #[must_use]
    pub fn out_features(&self) -> usize {
        self.packed.weights().outputs()
    }

    /// Bytes that the weight takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match &self.packed.weight {
            Kept::Plain(panels) => panels.bytes(),
            Kept::Compact(compact) => compact.bytes(),
            Kept::Integers(integers) => integers.bytes_held(),
        }
    }

    /// The weight `[out, in]` in f32, unpacked into a new tensor.
    ///
    /// # Errors
    /// When candle cannot build the tensor.
    pub fn weight(&self) -> Result<Tensor> {
        let (inputs, outputs) = (self.in_features(), self.out_features());
        let weights = self.packed.weights();
        let mut unpacked = vec![0.0; outputs * inputs];
        unpacked.par_chunks_mut(PANEL * inputs).enumerate().for_each(|(index, target)| {
            let mut panel = vec![PanelRow::ZERO; inputs];
            weights.copy(index, 0..inputs, &mut panel);
            for (lane, output) in target.chunks_exact_mut(inputs).enumerate() {
                for (value, row) in output.iter_mut().zip(&panel) {
                    *value = row.0[lane];
                }
            }
        });
        Tensor::from_vec(unpacked, (outputs, inputs), &Device::Cpu)
    }

    /// The bias `[out]` in f32.
    ///
    /// # Errors
    /// When candle cannot build the tensor.
    pub fn bias(&self) -> Result<Option<Tensor>> {
        self.packed.bias.as_ref().map(|bias| Tensor::new(bias.as_slice(), &Device::Cpu)).transpose()
    }
}

impl Linear for FrozenLinear {
    const KERNELS: bool = true;

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Self::forward(self, x)
    }

    fn backward(&self, grad: &Tensor) -> Result<Tensor> {
        grad.contiguous()?.apply_op1_no_bwd(&FrozenGradient(self))
    }

    fn infer(layers: &[&Self], x: &Tensor) -> Result<Vec<Tensor>> {
        let Some(first) = layers.first() else { return Ok(Vec::new()) };
        let x = x.contiguous()?;
        let (storage, layout) = x.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { bail!("frozen-linear reads tensors on the CPU only") };
        let (values, rows, _) = rows_of(storage, layout, first.in_features(), 0, "frozen-linear")?;
        if let Some(other) = layers.iter().find(|layer| layer.in_features() != first.in_features()) {
            bail!("weights with rows of {} and of {} take no common input", first.in_features(), other.in_features());
        }
        let integers: Option<Vec<_>> = layers.iter().map(|layer| layer.packed.integers()).collect();
        let products = match integers {
            Some(integers) => integers::forward(&integers, values),
            None => {
                let parts: Vec<_> = layers.iter().map(|layer| layer.packed.layer()).collect();
                product::forward(first.packed.instructions, &parts, &Interleaved::new(values, first.in_features()))
            }
        };
        let tensor = |(product, layer): (Vec<f32>, &&Self)| {
            Tensor::from_vec(product, (rows, layer.out_features()), &Device::Cpu)
        };
        products.into_iter().zip(layers).map(tensor).collect()
    }

    fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        let (ids, inputs) = (ids.to_vec1::<u32>()?, self.in_features());
        if let Some(id) = ids.iter().find(|id| **id as usize >= self.out_features()) {
            bail!("there is no row {id} in a weight of {}", self.out_features());
        }
        let weights = self.packed.weights();
        let mut rows = vec![0.0; ids.len() * inputs];
        rows.par_chunks_mut(inputs).zip(&ids).for_each(|(target, id)| {
            let (panel, lane) = (*id as usize / PANEL, *id as usize % PANEL);
            // In pieces, so that little is spread out that is not wanted.
            let mut piece = [PanelRow::ZERO; PANEL];
            for (index, target) in target.chunks_mut(PANEL).enumerate() {
                let piece = &mut piece[..target.len()];
                weights.copy(panel, index * PANEL..index * PANEL + target.len(), piece);
                for (value, row) in target.iter_mut().zip(piece) {
                    *value = row.0[lane];
                }
            }
        });
        Tensor::from_vec(rows, (ids.len(), inputs), &Device::Cpu)
    }
}

impl Packed {
    fn layer(&self) -> Layer<'_> {
        Layer { bias: self.bias.as_deref(), ..self.weights().into() }
    }

    fn integers(&self) -> Option<(&Integers, Option<&[f32]>)> {
        let Kept::Integers(integers) = &self.weight else { return None };
        Some((integers, self.bias.as_deref()))
    }

    fn weights(&self) -> Weights<'_> {
        match &self.weight {
            Kept::Plain(panels) => Weights::Plain(panels),
            Kept::Compact(compact) => Weights::Compact(compact),
            Kept::Integers(integers) => Weights::Integers(integers),
        }
    }
}

impl FrozenLinear {
    /// [`Self::forward`] on plain rows, plus what else there is.
    pub(crate) fn multiply(&self, x: &Interleaved, plus: Option<Plus<'_>>) -> Vec<f32> {
        let packed = &*self.packed;
        product::forward(packed.instructions, &[Layer { plus, ..packed.layer() }], x).remove(0)
    }

    /// The input's gradient from the output's, on plain rows, plus what else there is.
    pub(crate) fn multiply_back(&self, grad: &Interleaved, plus: Option<Plus<'_>>) -> Vec<f32> {
        product::backward(self.packed.instructions, self.packed.weights(), plus, grad)
    }
}

/// `uᵀ x` of `u [rows, width of u]` and `x [rows, width]`, both row-major: a sum over rows, in their order.
pub(crate) fn sum_of_outer_products(u: &[f32], x: &[f32], rows: usize) -> Vec<f32> {
    let (height, outputs) = (u.len() / rows, x.len() / rows);
    let weights = Weights::Transposed(Transposed { values: x, inputs: rows, outputs });
    let u = Interleaved::new(&transpose(u, height), rows);
    product::forward(Instructions::best(), &[weights.into()], &u).remove(0)
}

/// A row-major matrix with `columns` columns, transposed.
pub(crate) fn transpose(matrix: &[f32], columns: usize) -> Vec<f32> {
    let rows = matrix.len() / columns;
    let mut transposed = vec![0.0f32; matrix.len()];
    for (row, values) in matrix.chunks_exact(columns).enumerate() {
        for (column, value) in values.iter().enumerate() {
            transposed[column * rows + row] = *value;
        }
    }
    transposed
}

/// The product as a candle operation.
struct FrozenProduct<'a>(&'a FrozenLinear);

/// The product with the transposed weight, which turns the output's gradient into the input's.
struct FrozenGradient<'a>(&'a FrozenLinear);

impl CustomOp1 for FrozenProduct<'_> {
    fn name(&self) -> &'static str {
        "frozen-linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (from, to) = (self.0.in_features(), self.0.out_features());
        let (x, _, shape) = rows_of(storage, layout, from, to, self.name())?;
        Ok((CpuStorage::F32(self.0.multiply(&Interleaved::new(x, from), None)), shape))
    }
}

impl CustomOp1 for FrozenGradient<'_> {
    fn name(&self) -> &'static str {
        "frozen-linear-gradient"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (from, to) = (self.0.out_features(), self.0.in_features());
        let (grad, _, shape) = rows_of(storage, layout, from, to, self.name())?;
        Ok((CpuStorage::F32(self.0.multiply_back(&Interleaved::new(grad, from), None)), shape))
    }
}

/// The rows of a contiguous tensor `[.., from]`, their number, and the shape `[.., to]` of the result.
fn rows_of<'a>(
    storage: &'a CpuStorage,
    layout: &Layout,
    from: usize,
    to: usize,
    operation: &'static str,
) -> Result<(&'a [f32], usize, Shape)> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("{operation} needs a contiguous tensor, not strides {:?}", layout.stride());
    };
    let mut dims = layout.dims().to_vec();
    match dims.last_mut() {
        Some(last) if *last == from => *last = to,
        _ => bail!("{operation} of a weight with rows of {from} cannot take a tensor of shape {:?}", layout.dims()),
    }
    let values = &f32::cpu_storage_as_slice(storage)?[start..end];
    Ok((values, values.len() / from, Shape::from_dims(&dims)))
}

#[cfg(test)]
mod tests;
