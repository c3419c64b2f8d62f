//! Rotary position embedding (arXiv 2104.09864), pairing element `i` with `i + width/2` as Hugging Face does.

use super::held;
use super::tape::Tape;
use crate::model::RopeTable;
use candle_core::{Result, Tensor, bail};
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

    /// Every head of `x [tokens, heads * width]`, each token by its own angles times `direction`: 1, or -1 to turn back.
    fn turn(&self, x: &Tensor, direction: f32) -> Result<Tensor> {
        let (tokens, half) = self.cos.dims2()?;
        let (rows, row) = x.dims2()?;
        if rows != tokens || row % (2 * half) != 0 {
            bail!("angles of {tokens} tokens and heads of {} do not fit shape [{rows}, {row}]", 2 * half);
        }
        let x = x.contiguous()?;
        let (values, cos, sin) = (held(&x)?, held(&self.cos)?, held(&self.sin)?);
        let mut output = vec![0.0f32; values.len()];
        output
            .par_chunks_exact_mut(row)
            .zip(values.par_chunks_exact(row))
            .zip(cos.par_chunks_exact(half).zip(sin.par_chunks_exact(half)))
            .for_each(|((output, x), (cos, sin))| {
                let heads = output.chunks_exact_mut(2 * half).zip(x.chunks_exact(2 * half));
                for (output, x) in heads {
                    let (left, right) = output.split_at_mut(half);
                    for pair in 0..half {
                        let (a, b) = (x[pair], x[half + pair]);
                        let (cos, sin) = (cos[pair], sin[pair] * direction);
                        left[pair] = a * cos - b * sin;
                        right[pair] = b * cos + a * sin;
                    }
                }
            });
        Tensor::from_vec(output, x.shape(), x.device())
    }
}

/// Rotates every head of `x [tokens, heads * width]`, each token by its own angles. Differentiable.
pub(super) fn rotate(x: &Tensor, rotation: &Rotation, tape: &Tape) -> Result<Tensor> {
    let y = rotation.turn(x, 1.0)?;
    let rotation = rotation.clone();
    // A rotation's transpose is the rotation back.
    Ok(tape.record([x], y, move |grad| Ok([rotation.turn(grad, -1.0)?])))
}
