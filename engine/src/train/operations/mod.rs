//! The operations of a decoder layer, each of which leaves its backward pass on a [`Tape`], on the CPU and on a device.
//!
//! candle's fused norm, rotation and softmax have no backward pass and cut the gradient without a word; chains
//! of its plain operations have one, but are slow on a CPU (single-threaded, with a copy per operation, and a
//! gradient for every constant too). Those of the CPU run on all threads, sum in a fixed order, and keep little between
//! forward and backward but their inputs. The tests hold both kinds against chains of plain operations.

mod adapted;
mod attention;
mod cross_entropy;
mod gated;
mod norm;
mod packed;
mod placed;
mod rotation;
mod tape;
mod vector;

pub(super) use attention::HeadLayout;
pub(super) use rotation::Rotation;
pub(super) use tape::{Tape, TapeGradients};

use std::ops::{Deref, Range};

use crate::attention::{Activation, Scores};
use crate::linear::Linear;
use crate::model::ModelConfig;
use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor, bail};

/// A frozen weight that is trained through, and with it how the operations around it are computed. All are differentiable
/// in the tensors that are not weights, by what they leave on the tape.
pub(super) trait BaseWeight: Linear + Clone + Sized + 'static {
    /// Rows that go through the model together, one after the other.
    type Rows: std::fmt::Debug;

    /// Rows of these lengths.
    fn arrange(lengths: &[usize], device: &Device) -> Result<Self::Rows>;

    /// Numbers that a layer's graph keeps of each token, but for what dropout and further norms need.
    fn kept_floats(config: &ModelConfig) -> usize;

    /// Bytes that a layer's graph keeps of a number that may be dropped, itself of type `dtype`.
    fn mask_bytes(dtype: DType) -> usize;

    /// Positions whose logits may exist at once.
    fn loss_positions(vocabulary: usize) -> usize;

    /// The projection of `x [rows, in]`: `W x`.
    fn frozen(&self, x: &Tensor, tape: &Tape) -> Result<Tensor> {
        let weight = self.clone();
        Ok(tape.record([x], self.forward(x)?, move |grad| Ok([weight.backward(grad)?])))
    }

    /// The projection of `x [rows, in]` with the adapter's `a [rank, in]` and `b [out, rank]`: `W x + scale * B A (f * x)`.
    /// `f`, the factors of dropout, are 1 without it.
    fn adapted(&self, xab: [&Tensor; 3], scale: f32, dropout: Option<Dropout<'_>>, tape: &Tape) -> Result<Tensor>;

    /// Norm of each stretch of `x [rows, stretches * width]` with `weight [width]`.
    fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64, tape: &Tape) -> Result<Tensor>;

    /// Rotates every head of `x [tokens, heads * width]`, each token by its own angles.
    fn rotate(x: &Tensor, rotation: &Rotation, tape: &Tape) -> Result<Tensor>;

    /// Softmax attention of each token over itself and those before it in its row, or the last of them in a window: queries
    /// `[tokens, heads * width]`, keys and values `[tokens, kv_heads * width]`; the result is of the shape of the queries.
    fn attention(
        qkv: [&Tensor; 3],
        heads: HeadLayout,
        scores: Scores,
        rows: &Self::Rows,
        tape: &Tape,
    ) -> Result<Tensor>;

    /// `activation(gate) * up`, elementwise.
    fn gated(gate: &Tensor, up: &Tensor, activation: Activation, tape: &Tape) -> Result<Tensor>;

    /// `-log softmax(logits)[target]` of each row, in nats: `[rows, vocab]` to `[rows]` in f32.
    fn losses(logits: &Tensor, targets: &[u32], tape: &Tape) -> Result<Tensor>;

    /// Rows whose target has the highest logit, if others have it, too.
    fn correct(logits: &Tensor, targets: &[u32]) -> Result<usize>;
}

/// What dropout leaves of a projection's input: each number times `factor` if it is kept, or times 0.
#[derive(Debug)]
pub(super) struct Mask {
    pub(super) kept: Vec<bool>,
    pub(super) factor: f32,
}

impl Mask {
    /// What one number is multiplied by.
    fn factor(&self, kept: bool) -> f32 {
        f32::from(kept) * self.factor
    }
}

/// How a projection's input is dropped out, which is the same in every pass over the same rows in the same step.
#[derive(Clone, Copy)]
pub(super) struct Dropout<'a> {
    pub(super) mask: &'a dyn Fn() -> Mask,
    /// Where a device draws factors of its own: from this stream.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "candle's operations take the mask"))]
    pub(super) key: u64,
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "candle's operations take the mask"))]
    pub(super) rate: f32,
}

/// Lends the values of a contiguous f32 tensor on the CPU.
fn held(tensor: &Tensor) -> Result<Held<impl Deref<Target = Storage> + '_>> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(_)), Some((start, end))) => Ok(Held { storage, range: start..end }),
        _ => bail!("contiguous f32 values on the CPU are needed, not {layout:?} of {:?}", tensor.dtype()),
    }
}

/// A part of a storage of f32 on the CPU.
struct Held<S> {
    storage: S,
    range: Range<usize>,
}

impl<S: Deref<Target = Storage>> Deref for Held<S> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.clone()],
            // Checked when it was made.
            _ => &[],
        }
    }
}

/// The values of a tensor as a list.
fn list(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}
