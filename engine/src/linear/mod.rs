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

use candle_core::{
    CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor, WithDType, bail,
};
use kernel::Instructions;
use panels::Panels;
use std::sync::Arc;

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

    fn with_instructions(
        weight: &Tensor,
        bias: Option<Tensor>,
        instructions: Instructions,
    ) -> Result<Self> {
        let (outputs, inputs) = weight.dims2()?;
        let values = weight.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        let panels = Panels::pack(&values, outputs, inputs)?;
        let bias = match bias {
            None => None,
            Some(bias) => {
                if bias.dims() != [outputs] {
                    bail!(
                        "a linear bias has shape {:?}, and the weight has {outputs} outputs",
                        bias.dims()
                    );
                }
                Some(bias.to_dtype(DType::F32)?.to_vec1()?)
            }
        };
        Ok(Self {
            packed: Arc::new(Packed {
                panels,
                bias,
                instructions,
            }),
        })
    }

    /// `x Wᵀ + b` for `x` of shape `[.., in]` (f32, on the CPU): `[.., out]`. Differentiable in `x`.
    ///
    /// # Errors
    /// When the last dimension is not [`Self::in_features`], or `x` is not f32 on the CPU.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.contiguous()?
            .apply_op1(FrozenProduct(self.packed.clone()))
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
        Tensor::from_vec(
            self.packed.panels.unpack(),
            (self.out_features(), self.in_features()),
            &Device::Cpu,
        )
    }
}

/// The forward product as a candle operation.
struct FrozenProduct(Arc<Packed>);

/// The product with the transposed weight, which turns the output's gradient into the input's.
struct FrozenGradient(Arc<Packed>);

impl CustomOp1 for FrozenProduct {
    fn name(&self) -> &'static str {
        "frozen-linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Packed {
            panels,
            bias,
            instructions,
        } = &*self.0;
        let (x, rows, shape) = rows_of(
            storage,
            layout,
            panels.inputs(),
            panels.outputs(),
            self.name(),
        )?;
        let output = product::forward(*instructions, panels, bias.as_deref(), x, rows);
        Ok((CpuStorage::F32(output), shape))
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
        let Packed {
            panels,
            instructions,
            ..
        } = &*self.0;
        let (grad, rows, shape) = rows_of(
            storage,
            layout,
            panels.outputs(),
            panels.inputs(),
            self.name(),
        )?;
        let output = product::backward(*instructions, panels, grad, rows);
        Ok((CpuStorage::F32(output), shape))
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
        bail!(
            "{operation} needs a contiguous tensor, not strides {:?}",
            layout.stride()
        );
    };
    let mut dims = layout.dims().to_vec();
    match dims.last_mut() {
        Some(last) if *last == from => *last = to,
        _ => bail!(
            "{operation} of a weight with rows of {from} cannot take a tensor of shape {:?}",
            layout.dims()
        ),
    }
    let values = &f32::cpu_storage_as_slice(storage)?[start..end];
    Ok((values, values.len() / from, Shape::from_dims(&dims)))
}

#[cfg(test)]
mod tests;
