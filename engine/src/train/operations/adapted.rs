//! A frozen projection with its adapter: `y = W x + scale * B A (f * x)`, `f` being the dropout's factors.

use super::{held, values};
use crate::linear::{FrozenLinear, Interleaved, Panels, sum_of_outer_products, transpose};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use std::borrow::Cow;
use std::sync::OnceLock;

/// What of an adapted projection does not change in training.
#[derive(Debug, Clone)]
pub(super) struct Adapted {
    /// `W`.
    pub(super) frozen: FrozenLinear,
    /// The adapter's scale.
    pub(super) scale: f32,
    /// A factor for each element of `x`, where the adapter's input is dropped out.
    pub(super) factors: Option<Vec<f32>>,
    /// `A (f * x)`, once it is known: the backward pass needs it, too.
    pub(super) inner: OnceLock<Vec<f32>>,
}

/// The projection of `x [rows, in]` with the adapter's `a [rank, in]` and `b [out, rank]`. Differentiable in all three.
pub(super) fn adapted_linear(x: &Tensor, a: &Tensor, b: &Tensor, adapted: Adapted) -> Result<Tensor> {
    let (inputs, outputs) = (adapted.frozen.in_features(), adapted.frozen.out_features());
    let (rows, width) = x.dims2()?;
    let (rank, a_width) = a.dims2()?;
    let factors = adapted.factors.as_ref();
    if width != inputs
        || a_width != inputs
        || b.dims() != [outputs, rank]
        || factors.is_some_and(|factors| factors.len() != rows * inputs)
    {
        bail!(
            "an adapter of shapes {:?} and {:?} does not fit a weight [{outputs}, {inputs}] and rows {:?}",
            a.dims(),
            b.dims(),
            x.dims()
        );
    }
    x.contiguous()?.apply_op3(&a.contiguous()?, &b.contiguous()?, adapted)
}

impl Adapted {
    /// The adapter's input.
    fn dropped<'x>(&self, x: &'x [f32]) -> Cow<'x, [f32]> {
        match &self.factors {
            None => Cow::Borrowed(x),
            Some(factors) => Cow::Owned(x.par_iter().zip(factors).map(|(x, factor)| x * factor).collect()),
        }
    }
}

impl CustomOp3 for Adapted {
    fn name(&self) -> &'static str {
        "adapted-linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = values(x, x_layout, self.name())?;
        let (rows, inputs) = x_layout.shape().dims2()?;
        let (outputs, rank) = b_layout.shape().dims2()?;
        let a = Panels::pack(values(a, a_layout, self.name())?, rank, inputs)?;
        let b = Panels::pack(values(b, b_layout, self.name())?, outputs, rank)?;
        let interleaved = Interleaved::new(x, inputs);
        let [mut output, inner] = match &self.factors {
            None => self.frozen.multiply_with(&a, &interleaved),
            Some(_) => [self.frozen.multiply(&interleaved), a.multiply(&Interleaved::new(&self.dropped(x), inputs))],
        };
        b.add_product(&Interleaved::new(&inner, rank), self.scale, &mut output);
        // Of a repeated pass it is the same.
        let _ = self.inner.set(inner);
        Ok((CpuStorage::F32(output), Shape::from((rows, outputs))))
    }

    /// With `h = A (f * x)` and `u = scale * Bᵀ grad`: `B` gets `scale * grad hᵀ`, `A` gets `u (f * x)ᵀ`, and `x` gets
    /// `Wᵀ grad + f * Aᵀ u`.
    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (rows, inputs) = x.dims2()?;
        let (outputs, rank) = b.dims2()?;
        let device = x.device();
        let grad = grad.contiguous()?;
        let (x_values, a_values, b_values) = (held(x)?, held(a)?, held(b)?);
        let grads = held(&grad)?;
        let dropped = self.dropped(&x_values);
        let inner = match self.inner.get() {
            Some(inner) => Cow::Borrowed(&inner[..]),
            None => {
                let a = Panels::pack(&a_values, rank, inputs)?;
                Cow::Owned(a.multiply(&Interleaved::new(&dropped, inputs)))
            }
        };
        let interleaved = Interleaved::new(&grads, outputs);
        let mut outer = Panels::pack_transposed(&b_values, outputs, rank)?.multiply(&interleaved);
        outer.iter_mut().for_each(|value| *value *= self.scale);

        let mut b_gradient = sum_of_outer_products(&inner, &grads, rows);
        b_gradient.iter_mut().for_each(|value| *value *= self.scale);
        let b_gradient = Tensor::from_vec(transpose(&b_gradient, outputs), (outputs, rank), device)?;
        let a_gradient = sum_of_outer_products(&outer, &dropped, rows);
        let a_gradient = Tensor::from_vec(a_gradient, (rank, inputs), device)?;

        let mut x_gradient = self.frozen.multiply_back(&interleaved);
        let outer = Interleaved::new(&outer, rank);
        let a_transposed = Panels::pack_transposed(&a_values, rank, inputs)?;
        match &self.factors {
            None => a_transposed.add_product(&outer, 1.0, &mut x_gradient),
            Some(_) => add(&mut x_gradient, &self.dropped(&a_transposed.multiply(&outer))),
        }
        let x_gradient = Tensor::from_vec(x_gradient, (rows, inputs), device)?;
        Ok((Some(x_gradient), Some(a_gradient), Some(b_gradient)))
    }
}

fn add(sum: &mut [f32], values: &[f32]) {
    const CHUNK: usize = 4096;
    sum.par_chunks_mut(CHUNK).zip(values.par_chunks(CHUNK)).for_each(|(sum, values)| {
        for (sum, value) in sum.iter_mut().zip(values) {
            *sum += value;
        }
    });
}
