//! Rotary position embedding (arXiv 2104.09864), pairing element `i` with `i + width/2` as Hugging Face does.

use super::{held, values};
use crate::model::RopeTable;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// The angles of each token.
#[derive(Debug, Clone)]
pub(in crate::train) struct Rotation {
    /// `[tokens, width / 2]` each.
    pub(super) cos: Tensor,
    pub(super) sin: Tensor,
}

impl Rotation {
    /// Of tokens at these positions, `[tokens]` in u32 where the table is.
    pub(in crate::train) fn new(table: &RopeTable, positions: &Tensor) -> Result<Self> {
        let (cos, sin) = table.gather(positions)?;
        Ok(Self { cos, sin })
    }
}

/// Rotates every head of `x [tokens, heads * width]`, each token by its own angles. Differentiable.
pub(super) fn rotate(x: &Tensor, rotation: &Rotation) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Rotate { rotation: rotation.clone(), direction: 1.0 })
}

struct Rotate {
    rotation: Rotation,
    /// 1, or -1 to turn back.
    direction: f32,
}

impl CustomOp1 for Rotate {
    fn name(&self) -> &'static str {
        "rotate"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(storage, layout, self.name())?;
        let (tokens, half) = self.rotation.cos.dims2()?;
        let (cos, sin) = (held(&self.rotation.cos)?, held(&self.rotation.sin)?);
        let (rows, row) = layout.shape().dims2()?;
        if rows != tokens || row % (2 * half) != 0 {
            bail!("angles of {tokens} tokens and heads of {} do not fit shape [{rows}, {row}]", 2 * half);
        }
        let mut output = vec![0.0f32; x.len()];
        output
            .par_chunks_exact_mut(row)
            .zip(x.par_chunks_exact(row))
            .zip(cos.par_chunks_exact(half).zip(sin.par_chunks_exact(half)))
            .for_each(|((output, x), (cos, sin))| {
                let heads = output.chunks_exact_mut(2 * half).zip(x.chunks_exact(2 * half));
                for (output, x) in heads {
                    let (left, right) = output.split_at_mut(half);
                    for pair in 0..half {
                        let (a, b) = (x[pair], x[half + pair]);
                        let (cos, sin) = (cos[pair], sin[pair] * self.direction);
                        left[pair] = a * cos - b * sin;
                        right[pair] = b * cos + a * sin;
                    }
                }
            });
        Ok((CpuStorage::F32(output), layout.shape().clone()))
    }

    /// A rotation's transpose is the rotation back.
    fn bwd(&self, _x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let back = Rotate { rotation: self.rotation.clone(), direction: -self.direction };
        Ok(Some(grad.contiguous()?.apply_op1_no_bwd(&back)?))
    }
}
