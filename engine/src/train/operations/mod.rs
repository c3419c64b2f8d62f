//! The operations of a decoder layer, each with its own backward pass.
//!
//! candle's fused norm, rotation and softmax have no backward pass and cut the gradient without a word; chains
//! of its plain operations have one, but are slow on a CPU (single-threaded, with a copy per operation, and a
//! gradient for every constant too). These run on all threads, sum in a fixed order, and keep nothing between
//! forward and backward but their inputs. The tests hold them against chains of plain operations.

mod adapted;
mod attention;
mod gated;
mod norm;
mod rotation;

pub(super) use adapted::{Adapted, adapted_linear};
pub(super) use attention::{HeadLayout, attention};
pub(super) use gated::gated;
pub(super) use norm::rms_norm;
pub(super) use rotation::{Rotation, rotate};

use std::ops::{Deref, Range};

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, WithDType, bail};

/// The values of a contiguous f32 tensor on the CPU.
fn values<'a>(storage: &'a CpuStorage, layout: &Layout, operation: &'static str) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&f32::cpu_storage_as_slice(storage)?[start..end]),
        None => bail!("{operation} needs a contiguous tensor, not strides {:?}", layout.stride()),
    }
}

/// The values of a contiguous f32 tensor on the CPU, lent.
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
