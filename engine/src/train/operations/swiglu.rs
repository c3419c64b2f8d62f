//! SwiGLU (arXiv 2002.05202): `silu(gate) * up` with `silu(x) = x / (1 + e^-x)`.

use super::{list, values};
use crate::attention::exp;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// Elements that one task takes.
const CHUNK: usize = 4096;

/// `silu(gate) * up`, elementwise. Differentiable in both.
pub(in crate::train) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.dims() != up.dims() {
        bail!("a gate of shape {:?} does not fit {:?}", gate.dims(), up.dims());
    }
    gate.contiguous()?.apply_op2(&up.contiguous()?, SwiGlu)
}

struct SwiGlu;

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
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
        output.par_chunks_mut(CHUNK).zip(gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK))).for_each(
            |(output, (gate, up))| {
                for ((y, gate), up) in output.iter_mut().zip(gate).zip(up) {
                    *y = gate / (1.0 + exp(-gate)) * up;
                }
            },
        );
        Ok((CpuStorage::F32(output), gate_layout.shape().clone()))
    }

    /// With `s = 1 / (1 + e^-gate)`: `grad * up * s * (1 + gate * (1 - s))` and `grad * gate * s`.
    fn bwd(&self, gate: &Tensor, up: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (gates, ups, grads) = (list(gate)?, list(up)?, list(grad)?);
        let mut gate_gradient = vec![0.0f32; gates.len()];
        let mut up_gradient = vec![0.0f32; gates.len()];
        let inputs = gates.par_chunks(CHUNK).zip(ups.par_chunks(CHUNK)).zip(grads.par_chunks(CHUNK));
        gate_gradient.par_chunks_mut(CHUNK).zip(up_gradient.par_chunks_mut(CHUNK)).zip(inputs).for_each(
            |((gate_gradient, up_gradient), ((gates, ups), grads))| {
                for place in 0..gates.len() {
                    let (gate, up, grad) = (gates[place], ups[place], grads[place]);
                    let sigmoid = 1.0 / (1.0 + exp(-gate));
                    gate_gradient[place] = grad * up * sigmoid * (1.0 + gate * (1.0 - sigmoid));
                    up_gradient[place] = grad * gate * sigmoid;
                }
            },
        );
        Ok((
            Some(Tensor::from_vec(gate_gradient, gate.shape(), gate.device())?),
            Some(Tensor::from_vec(up_gradient, up.shape(), up.device())?),
        ))
    }
}
