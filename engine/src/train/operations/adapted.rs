//! A frozen projection with its adapter: `y = W x + scale * B A (f * x)`, `f` being the dropout's factors.

use super::tape::{CHUNK, Tape};
use super::{Mask, held};
use crate::linear::{FrozenLinear, Interleaved, Panels, Plus, sum_of_outer_products, transpose};
use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;
use std::borrow::Cow;

/// What of an adapted projection does not change in training.
#[derive(Debug)]
pub(super) struct Adapted {
    /// `W`.
    pub(super) frozen: FrozenLinear,
    /// The adapter's scale.
    pub(super) scale: f32,
    /// Of `x`, where the adapter's input is dropped out.
    pub(super) mask: Option<Mask>,
}

impl Adapted {
    /// The projection of `x [rows, in]` with the adapter's `a [rank, in]` and `b [out, rank]`. Differentiable in all three.
    pub(super) fn apply(self, [x, a, b]: [&Tensor; 3], tape: &Tape) -> Result<Tensor> {
        let (inputs, outputs) = (self.frozen.in_features(), self.frozen.out_features());
        let (rows, width) = x.dims2()?;
        let (rank, a_width) = a.dims2()?;
        let mask = self.mask.as_ref();
        if width != inputs
            || a_width != inputs
            || b.dims() != [outputs, rank]
            || mask.is_some_and(|mask| mask.kept.len() != rows * inputs)
        {
            bail!(
                "an adapter of shapes {:?} and {:?} does not fit a weight [{outputs}, {inputs}] and rows {:?}",
                a.dims(),
                b.dims(),
                x.dims()
            );
        }
        let (x_values, a_values, b_values) = (x.contiguous()?, a.detach().contiguous()?, b.detach().contiguous()?);
        let (y, inner) = self.forward(&held(&x_values)?, &held(&a_values)?, &held(&b_values)?)?;
        let y = Tensor::from_vec(y, (rows, outputs), x.device())?;
        Ok(tape.record([x, a, b], y, move |grad| {
            let grad = grad.contiguous()?;
            let (x, a, b) = (held(&x_values)?, held(&a_values)?, held(&b_values)?);
            let [x, a, b] = self.backward([&x, &a, &b], &inner, &held(&grad)?)?;
            let device = grad.device();
            Ok([
                Tensor::from_vec(x, (rows, inputs), device)?,
                Tensor::from_vec(a, (rank, inputs), device)?,
                Tensor::from_vec(b, (outputs, rank), device)?,
            ])
        }))
    }

    /// The adapter's input.
    fn dropped<'x>(&self, x: &'x [f32]) -> Cow<'x, [f32]> {
        let Some(mask) = &self.mask else { return Cow::Borrowed(x) };
        let mut dropped = vec![0.0; x.len()];
        add_masked(&mut dropped, mask, x);
        Cow::Owned(dropped)
    }

    /// The projection, and `A (f * x)`, which the backward pass needs, too.
    fn forward(&self, x: &[f32], a: &[f32], b: &[f32]) -> Result<(Vec<f32>, Vec<f32>)> {
        let (inputs, outputs) = (self.frozen.in_features(), self.frozen.out_features());
        let rank = a.len() / inputs;
        let a = Panels::pack(a, rank, inputs)?;
        let b = Panels::pack(b, outputs, rank)?;
        let interleaved = Interleaved::new(x, inputs);
        let inner = match &self.mask {
            None => a.multiply(&interleaved),
            Some(_) => a.multiply(&Interleaved::new(&self.dropped(x), inputs)),
        };
        let plus = Plus { panels: &b, x: &Interleaved::new(&inner, rank), scale: self.scale };
        Ok((self.frozen.multiply(&interleaved, Some(plus)), inner))
    }

    /// The gradients of `x`, A and B. With `h = A (f * x)` and `u = scale * Bᵀ grad`: `B` gets `scale * grad hᵀ`, `A` gets
    /// `u (f * x)ᵀ`, and `x` gets `Wᵀ grad + f * Aᵀ u`.
    fn backward(&self, [x, a, b]: [&[f32]; 3], inner: &[f32], grad: &[f32]) -> Result<[Vec<f32>; 3]> {
        let (inputs, outputs) = (self.frozen.in_features(), self.frozen.out_features());
        let (rows, rank) = (x.len() / inputs, a.len() / inputs);
        let dropped = self.dropped(x);
        let interleaved = Interleaved::new(grad, outputs);
        let mut outer = Panels::pack_transposed(b, outputs, rank)?.multiply(&interleaved);
        outer.iter_mut().for_each(|value| *value *= self.scale);
        let mut b_gradient = sum_of_outer_products(inner, grad, rows);
        b_gradient.iter_mut().for_each(|value| *value *= self.scale);
        let a_gradient = sum_of_outer_products(&outer, &dropped, rows);
        let a_transposed = Panels::pack_transposed(a, rank, inputs)?;
        let outer = Interleaved::new(&outer, rank);
        let x_gradient = match &self.mask {
            None => {
                let plus = Plus { panels: &a_transposed, x: &outer, scale: 1.0 };
                self.frozen.multiply_back(&interleaved, Some(plus))
            }
            Some(mask) => {
                let mut gradient = self.frozen.multiply_back(&interleaved, None);
                add_masked(&mut gradient, mask, &a_transposed.multiply(&outer));
                gradient
            }
        };
        Ok([x_gradient, a_gradient, transpose(&b_gradient, outputs)])
    }
}

/// Adds `f * x`.
fn add_masked(sum: &mut [f32], mask: &Mask, x: &[f32]) {
    sum.par_chunks_mut(CHUNK).zip(mask.kept.par_chunks(CHUNK).zip(x.par_chunks(CHUNK))).for_each(|(sum, (kept, x))| {
        for (sum, (kept, x)) in sum.iter_mut().zip(kept.iter().zip(x)) {
            *sum += mask.factor(*kept) * x;
        }
    });
}
