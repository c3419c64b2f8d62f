//! Rotary position embedding (arXiv 2104.09864), pairing element `i` with `i + width/2` as Hugging Face does.

use super::{list, values};
use crate::model::RopeTable;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use std::sync::Arc;

/// The angles of the first positions of a sequence.
#[derive(Debug, Clone)]
pub(in crate::train) struct Rotation {
    /// `[tokens, width / 2]` each.
    cos: Arc<Vec<f32>>,
    sin: Arc<Vec<f32>>,
    tokens: usize,
}

impl Rotation {
    pub(in crate::train) fn new(table: &RopeTable, tokens: usize) -> Result<Self> {
        Ok(Self {
            cos: Arc::new(list(&table.cos.narrow(0, 0, tokens)?)?),
            sin: Arc::new(list(&table.sin.narrow(0, 0, tokens)?)?),
            tokens,
        })
    }
}

/// Rotates every head of `x [tokens, heads * width]`, token `t` by the angles of position `t`. Differentiable.
pub(in crate::train) fn rotate(x: &Tensor, rotation: &Rotation) -> Result<Tensor> {
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
        let Rotation { cos, sin, tokens } = &self.rotation;
        let half = cos.len() / tokens;
        let (rows, row) = layout.shape().dims2()?;
        if rows != *tokens || row % (2 * half) != 0 {
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
