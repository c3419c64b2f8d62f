//! Gated feed-forward units (arXiv 2002.05202): `activation(gate) * up`.

use super::vector::{self, GatedGradients};
use super::{held, values};
use crate::attention::{Activation, activate};
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
        let mut output = gate.to_vec();
        output.par_chunks_mut(CHUNK).zip(up.par_chunks(CHUNK)).for_each(|(gate, up)| activate(gate, up, self.0));
        Ok((CpuStorage::F32(output), gate_layout.shape().clone()))
    }

    fn bwd(&self, gate: &Tensor, up: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (gates, ups, grads) = (held(gate)?, held(up)?, held(&grad)?);
        let [gate_gradient, up_gradient] = backward([&gates, &ups, &grads], self.0);
        Ok((
            Some(Tensor::from_vec(gate_gradient, gate.shape(), gate.device())?),
            Some(Tensor::from_vec(up_gradient, up.shape(), up.device())?),
        ))
    }
}
