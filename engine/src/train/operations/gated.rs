//! Gated feed-forward units (arXiv 2002.05202): `activation(gate) * up`. Both activations are `x * s` with `s` the sigmoid of a
//! bend of x: x itself for SiLU; for GELU, by its approximation, `2 sqrt(2 / pi) (x + 0.044715 x^3)`.

use super::{held, values};
use crate::attention::{Activation, exp};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// Elements that one task takes.
const CHUNK: usize = 4096;

/// `activation(gate) * up`, elementwise. Differentiable in both.
pub(super) fn gated(gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor> {
    if gate.dims() != up.dims() {
        bail!("a gate of shape {:?} does not fit {:?}", gate.dims(), up.dims());
    }
    gate.contiguous()?.apply_op2(&up.contiguous()?, Gated(activation))
}

struct Gated(Activation);

/// `2 sqrt(2 / pi)`, and that times 0.044715.
const GELU: (f32, f32) = (1.595_769, 0.071_354_81);

/// The bend of x and its slope there.
fn silu_bend(x: f32) -> (f32, f32) {
    (x, 1.0)
}

fn gelu_bend(x: f32) -> (f32, f32) {
    (x * (GELU.0 + GELU.1 * x * x), GELU.0 + 3.0 * GELU.1 * x * x)
}

fn forward(gate: &[f32], up: &[f32], output: &mut [f32], bend: impl Fn(f32) -> (f32, f32) + Sync) {
    let inputs = gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK));
    output.par_chunks_mut(CHUNK).zip(inputs).for_each(|(output, (gate, up))| {
        for ((y, gate), up) in output.iter_mut().zip(gate).zip(up) {
            *y = gate / (1.0 + exp(-bend(*gate).0)) * up;
        }
    });
}

/// With `s` the sigmoid: `grad * up * s * (1 + gate * (1 - s) * slope)` and `grad * gate * s`.
fn backward(inputs: [&[f32]; 3], bend: impl Fn(f32) -> (f32, f32) + Sync) -> [Vec<f32>; 2] {
    let [gates, ups, grads] = inputs;
    let mut gate_gradient = vec![0.0f32; gates.len()];
    let mut up_gradient = vec![0.0f32; gates.len()];
    let inputs = gates.par_chunks(CHUNK).zip(ups.par_chunks(CHUNK)).zip(grads.par_chunks(CHUNK));
    gate_gradient.par_chunks_mut(CHUNK).zip(up_gradient.par_chunks_mut(CHUNK)).zip(inputs).for_each(
        |((gate_gradient, up_gradient), ((gates, ups), grads))| {
            for place in 0..gates.len() {
                let (gate, up, grad) = (gates[place], ups[place], grads[place]);
                let (bent, slope) = bend(gate);
                let sigmoid = 1.0 / (1.0 + exp(-bent));
                gate_gradient[place] = grad * up * sigmoid * (1.0 + gate * (1.0 - sigmoid) * slope);
                up_gradient[place] = grad * gate * sigmoid;
            }
        },
    );
    [gate_gradient, up_gradient]
}

impl CustomOp2 for Gated {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let gate = values(gate, gate_layout, self.name())?;
        let up = values(up, up_layout, self.name())?;
        let mut output = vec![0.0f32; gate.len()];
        match self.0 {
            Activation::Silu => forward(gate, up, &mut output, silu_bend),
            Activation::GeluTanh => forward(gate, up, &mut output, gelu_bend),
        }
        Ok((CpuStorage::F32(output), gate_layout.shape().clone()))
    }

    fn bwd(&self, gate: &Tensor, up: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (gates, ups, grads) = (held(gate)?, held(up)?, held(&grad)?);
        let inputs = [&*gates, &*ups, &*grads];
        let [gate_gradient, up_gradient] = match self.0 {
            Activation::Silu => backward(inputs, silu_bend),
            Activation::GeluTanh => backward(inputs, gelu_bend),
        };
        Ok((
            Some(Tensor::from_vec(gate_gradient, gate.shape(), gate.device())?),
            Some(Tensor::from_vec(up_gradient, up.shape(), up.device())?),
        ))
    }
}
