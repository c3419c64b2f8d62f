//! Keys and values as they are kept in the memory of this process.

use half::f16;
use half::slice::HalfFloatSliceExt;
use half::vec::HalfBitsVecExt;

/// The type that keys and values are kept in, on the CPU. All arithmetic is in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvType {
    /// As they were computed.
    #[default]
    F32,
    /// Rounded to 16 bits: half the memory, and other results than with f32, though the same ones in every batch.
    F16,
}

impl KvType {
    pub(crate) const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }
}

/// One stretch of memory.
#[derive(Debug, Clone)]
pub(super) enum Kept {
    F32(Box<[f32]>),
    F16(Box<[f16]>),
}

impl Kept {
    /// Memory that the system gives zeroed is not written here.
    pub(super) fn zeros(kind: KvType, count: usize) -> Self {
        match kind {
            KvType::F32 => Self::F32(vec![0f32; count].into()),
            KvType::F16 => Self::F16(vec![0u16; count].reinterpret_into().into()),
        }
    }
}

/// What keys and values can be kept as.
pub(super) trait Element: Copy + Into<f32> + Send + Sync + 'static {
    /// None if they are kept as another type.
    fn of(kept: &Kept) -> Option<&[Self]>;

    /// None if they are kept as another type.
    fn of_mut(kept: &mut Kept) -> Option<&mut [Self]>;
}

impl Element for f32 {
    fn of(kept: &Kept) -> Option<&[Self]> {
        if let Kept::F32(values) = kept { Some(values) } else { None }
    }

    fn of_mut(kept: &mut Kept) -> Option<&mut [Self]> {
        if let Kept::F32(values) = kept { Some(values) } else { None }
    }
}

impl Element for f16 {
    fn of(kept: &Kept) -> Option<&[Self]> {
        if let Kept::F16(values) = kept { Some(values) } else { None }
    }

    fn of_mut(kept: &mut Kept) -> Option<&mut [Self]> {
        if let Kept::F16(values) = kept { Some(values) } else { None }
    }
}

/// Rounds to the nearest; what is out of range becomes the largest there is.
pub(super) fn rounded(values: &[f32]) -> Vec<f16> {
    let largest = f16::MAX.to_f32();
    let within: Vec<f32> = values.iter().map(|value| value.clamp(-largest, largest)).collect();
    let mut rounded = vec![0u16; values.len()].reinterpret_into();
    rounded.convert_from_f32_slice(&within);
    rounded
}
