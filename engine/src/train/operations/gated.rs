//! Gated feed-forward units (arXiv 2002.05202): `activation(gate) * up`.

use super::held;
use super::tape::Tape;
use super::vector::{self, GatedGradients};
use crate::attention::{Activation, activate};
use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

/// Elements that one task takes.
const CHUNK: usize = 4096;

/// `activation(gate) * up`, elementwise. Differentiable in both.
pub(super) fn gated(gate: &Tensor, up: &Tensor, activation: Activation, tape: &Tape) -> Result<Tensor> {
    if gate.dims() != up.dims() {
        bail!("a gate of shape {:?} does not fit {:?}", gate.dims(), up.dims());
    }
    let (gates, ups) = (gate.contiguous()?, up.contiguous()?);
    let y = Tensor::from_vec(forward(&held(&gates)?, &held(&ups)?, activation), gate.shape(), gate.device())?;
    Ok(tape.record([gate, up], y, move |grad| {
        let grad = grad.contiguous()?;
        let gradients = backward([&held(&gates)?, &held(&ups)?, &held(&grad)?], activation);
        let [gate, up] = gradients.map(|gradient| Tensor::from_vec(gradient, grad.shape(), grad.device()));
        Ok([gate?, up?])
    }))
}

fn forward(gate: &[f32], up: &[f32], activation: Activation) -> Vec<f32> {
    let mut output = vec![0.0f32; gate.len()];
    let inputs = gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK));
    output.par_chunks_mut(CHUNK).zip(inputs).for_each(|(output, (gate, up))| {
        output.copy_from_slice(gate);
        activate(output, up, activation);
    });
    output
}

/// The gradients of gate and up.
fn backward(inputs: [&[f32]; 3], activation: Activation) -> [Vec<f32>; 2] {
    let [gates, ups, grads] = inputs;
    let mut gate_gradient = vec![0.0f32; gates.len()];
    let mut up_gradient = vec![0.0f32; gates.len()];
    let inputs = gates.par_chunks(CHUNK).zip(ups.par_chunks(CHUNK)).zip(grads.par_chunks(CHUNK));
    let gradients = gate_gradient.par_chunks_mut(CHUNK).zip(up_gradient.par_chunks_mut(CHUNK));
    gradients.zip(inputs).for_each(|((gate_gradient, up_gradient), ((gate, up), grad))| {
        let found = GatedGradients { gate: gate_gradient, up: up_gradient };
        match activation {
            Activation::Silu => vector::silu_back(gate, up, grad, found),
            Activation::GeluTanh => vector::gelu_back(gate, up, grad, found),
        }
    });
    [gate_gradient, up_gradient]
}
