//! Rotary position embedding, differentiable.

use super::held;
use super::tape::Tape;
use crate::model::RopeTable;
use crate::rotary::Angles;
use candle_core::{Result, Tensor};

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
        let (_, width) = x.dims2()?;
        let x = x.contiguous()?;
        let (cos, sin) = (held(&self.cos)?, held(&self.sin)?);
        let angles = Angles { cos: &cos, sin: &sin, half: self.cos.dim(1)? };
        Tensor::from_vec(angles.turn(&held(&x)?, width, direction)?, x.shape(), x.device())
    }
}

/// Rotates every head of `x [tokens, heads * width]`, each token by its own angles. Differentiable.
pub(super) fn rotate(x: &Tensor, rotation: &Rotation, tape: &Tape) -> Result<Tensor> {
    let y = rotation.turn(x, 1.0)?;
    let rotation = rotation.clone();
    // A rotation's transpose is the rotation back.
    Ok(tape.record([x], y, move |grad| Ok([rotation.turn(grad, -1.0)?])))
}
