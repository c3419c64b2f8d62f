//! The frozen linear layer: `y = x Wᵀ + b` with our own matrix product.
//!
//! A library's product picks its blocking, and with it the order of each sum, by the shape of the whole
//! product: a row's result then depends on how many neighbours it has. Here every element is one chain of
//! fused multiply-adds over the inputs, in order, whatever the number of rows, the threads and the
//! instruction set (AVX-512, AVX2, or portable code). So a row's bits depend on that row alone.
//!
//! It is a candle operation whose backward pass gives the input's gradient and no other: candle's own
//! product would also compute and keep the gradient of the frozen weight. The backward pass reads the same
//! packed weight as the forward pass, so training needs no second copy.

mod kernel;
mod panels;
mod product;

use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor, WithDType, bail};
use kernel::Instructions;
use std::sync::Arc;

pub(crate) use kernel::{TILE_ROWS, Tile};
pub(crate) use panels::{PANEL, Panels};

/// A weight `[out, in]` that never changes, packed once; cloning shares it.
#[derive(Debug, Clone)]
pub struct FrozenLinear {
    packed: Arc<Packed>,
}

#[derive(Debug)]
struct Packed {
    panels: Panels,
    bias: Option<Vec<f32>>,
    instructions: Instructions,
}

impl FrozenLinear {
    /// Packs `weight` (`[out, in]`, any float type; kept as f32) and `bias` (`[out]`).
    ///
    /// # Errors
    /// When a shape is not as above or has no elements.
    pub fn new(weight: &Tensor, bias: Option<Tensor>) -> Result<Self> {
        Self::with_instructions(weight, bias, Instructions::best())
    }

    fn with_instructions(weight: &Tensor, bias: Option<Tensor>, instructions: Instructions) -> Result<Self> {
        let (outputs, inputs) = weight.dims2()?;
        let values = weight.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        let panels = Panels::pack(&values, outputs, inputs)?;
        let bias = match bias {
            None => None,
            Some(bias) => {
                if bias.dims() != [outputs] {
                    bail!("a linear bias has shape {:?}, and the weight has {outputs} outputs", bias.dims());
                }
                Some(bias.to_dtype(DType::F32)?.to_vec1()?)
            }
        };
        Ok(Self { packed: Arc::new(Packed { panels, bias, instructions }) })
    }

    /// `x Wᵀ + b` for `x` of shape `[.., in]` (f32, on the CPU): `[.., out]`. Differentiable in `x`.
    ///
    /// # Errors
    /// When the last dimension is not [`Self::in_features`], or `x` is not f32 on the CPU.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.contiguous()?.apply_op1(FrozenProduct(self.clone()))
    }

    /// The length of an input row.
    #[must_use]
    pub fn in_features(&self) -> usize {
        self.packed.panels.inputs()
    }

    /// The length of an output row.
    #[must_use]
    pub fn out_features(&self) -> usize {
        self.packed.panels.outputs()
    }

    /// The weight `[out, in]` in f32, unpacked into a new tensor.
    ///
    /// # Errors
    /// When candle cannot build the tensor.
    pub fn weight(&self) -> Result<Tensor> {
        Tensor::from_vec(self.packed.panels.unpack(), (self.out_features(), self.in_features()), &Device::Cpu)
    }
}

impl FrozenLinear {
    /// [`Self::forward`] on plain rows, outside of any graph.
    pub(crate) fn multiply(&self, x: &[f32], rows: usize) -> Vec<f32> {
        let packed = &*self.packed;
        let bias = packed.bias.as_deref();
        product::forward(packed.instructions, &packed.panels, bias, x, rows)
    }

    /// The input's gradient from the output's, on plain rows.
    pub(crate) fn multiply_back(&self, grad: &[f32], rows: usize) -> Vec<f32> {
        let packed = &*self.packed;
        product::backward(packed.instructions, &packed.panels, grad, rows)
    }
}

/// The forward product as a candle operation.
struct FrozenProduct(FrozenLinear);

/// The product with the transposed weight, which turns the output's gradient into the input's.
struct FrozenGradient(FrozenLinear);

impl CustomOp1 for FrozenProduct {
    fn name(&self) -> &'static str {
        "frozen-linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (from, to) = (self.0.in_features(), self.0.out_features());
        let (x, rows, shape) = rows_of(storage, layout, from, to, self.name())?;
        Ok((CpuStorage::F32(self.0.multiply(x, rows)), shape))
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let gradient = FrozenGradient(self.0.clone());
        Ok(Some(grad.contiguous()?.apply_op1_no_bwd(&gradient)?))
    }
}

impl CustomOp1 for FrozenGradient {
    fn name(&self) -> &'static str {
        "frozen-linear-gradient"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (from, to) = (self.0.out_features(), self.0.in_features());
        let (grad, rows, shape) = rows_of(storage, layout, from, to, self.name())?;
        Ok((CpuStorage::F32(self.0.multiply_back(grad, rows)), shape))
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
