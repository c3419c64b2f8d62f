//! Where inference runs.

use candle_core::{DType, Device};

use crate::attention::KvType;

/// Where a model's inference runs, and in which type.
#[derive(Debug, Clone)]
pub enum Placement {
    /// On the CPU, by our own kernels, in f32.
    Cpu {
        /// In which type keys and values are kept.
        kv: KvType,
        /// Whether linear layers round their inputs to 8 bits and multiply codes of weights in integers.
        int8: bool,
    },
    /// On a device, by candle's operations, with keys and values in the same type. A CPU is one too: for tests of those
    /// operations.
    Device {
        /// Which.
        device: Device,
        /// f32, bf16 or f16.
        dtype: DType,
    },
}

/// A device that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PlacementError {
    /// Not a device's name.
    #[error("`{0}` is no device; devices are cpu, cuda:N (N counts from 0) and metal")]
    Unknown(String),
    /// Of a kind that this build cannot use.
    #[error("this build cannot use `{device}`; build influence with `--features {feature}`, or pass --device cpu")]
    NotBuilt {
        /// As it was asked for.
        device: String,
        /// What the build lacks.
        feature: &'static str,
    },
    /// It is not there.
    #[error("the device `{device}` cannot be used: {reason}")]
    Device {
        /// As it was asked for.
        device: String,
        /// The driver's words.
        reason: String,
    },
    /// A type that the place does not compute in.
    #[error("models in `{dtype}` cannot run on `{device}`, which computes in {supported}")]
    Type {
        /// As it was asked for.
        device: String,
        /// As it was asked for.
        dtype: String,
        /// What it could be.
        supported: &'static str,
    },
    /// A type that the place does not keep keys and values in.
    #[error("keys and values cannot be kept in `{kv_dtype}` on `{device}`, which keeps them in {supported}")]
    KvType {
        /// As it was asked for.
        device: String,
        /// As it was asked for.
        kv_dtype: String,
        /// What it could be.
        supported: String,
    },
}

impl Placement {
    /// The CPU, with everything in f32.
    pub const CPU: Self = Self::Cpu { kv: KvType::F32, int8: false };

    /// The device of this name (`cpu`, `cuda:N`, `metal`), computing in `dtype` (`f32`, `bf16`, `f16`, on a CPU `f32` or
    /// `int8`). Keys and values are kept in `kv_dtype`, by default in `dtype`, or in f32.
    ///
    /// # Errors
    /// [`PlacementError`], which says what would do.
    pub fn new(device: &str, dtype: &str, kv_dtype: Option<&str>) -> Result<Self, PlacementError> {
        let place = Self::device(device)?;
        let kept = |supported: String| {
            let kv_dtype = kv_dtype.unwrap_or(dtype).to_owned();
            PlacementError::KvType { device: device.into(), kv_dtype, supported }
        };
        let unsupported = |supported| PlacementError::Type { device: device.into(), dtype: dtype.into(), supported };
        match (place, dtype) {
            (None, "f32" | "int8") => {
                let int8 = dtype == "int8";
                match kv_dtype {
                    None | Some("f32") => Ok(Self::Cpu { kv: KvType::F32, int8 }),
                    Some("f16") => Ok(Self::Cpu { kv: KvType::F16, int8 }),
                    Some(_) => Err(kept("f32 or f16".to_owned())),
                }
            }
            // Weights keep the type that their file has; the type is of what is computed.
            (None, _) => Err(unsupported("f32 or int8, whatever the type of the weights")),
            (Some(_), _) if kv_dtype.is_some_and(|kv_dtype| kv_dtype != dtype) => {
                Err(kept(format!("the type that it computes in, `{dtype}`")))
            }
            (Some(device), "f32") => Ok(Self::Device { device, dtype: DType::F32 }),
            (Some(device), "bf16") => Ok(Self::Device { device, dtype: DType::BF16 }),
            (Some(device), "f16") => Ok(Self::Device { device, dtype: DType::F16 }),
            (Some(_), _) => Err(unsupported("f32, bf16 or f16")),
        }
    }

    /// The device of this name, if it is there; None for `cpu`.
    ///
    /// # Errors
    /// [`PlacementError`].
    pub fn device(name: &str) -> Result<Option<Device>, PlacementError> {
        let built = |built: bool, feature| match built {
            true => Ok(()),
            false => Err(PlacementError::NotBuilt { device: name.to_owned(), feature }),
        };
        let opened = match name {
            "cpu" => return Ok(None),
            "metal" => {
                built(cfg!(feature = "metal"), "metal")?;
                Device::new_metal(0)
            }
            _ => {
                let number = if name == "cuda" { Some("0") } else { name.strip_prefix("cuda:") };
                let Some(number) = number.and_then(|number| number.parse().ok()) else {
                    return Err(PlacementError::Unknown(name.to_owned()));
                };
                built(cfg!(feature = "cuda"), "cuda")?;
                open_cuda(number)
            }
        };
        opened.map(Some).map_err(|e| PlacementError::Device { device: name.to_owned(), reason: e.to_string() })
    }
}

#[cfg(feature = "cuda")]
fn open_cuda(number: usize) -> candle_core::Result<Device> {
    crate::cuda::open(number)
}

/// Says that it is not built.
#[cfg(not(feature = "cuda"))]
fn open_cuda(number: usize) -> candle_core::Result<Device> {
    Device::new_cuda(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects: what cannot be had is said with the way out, and never replaced by the CPU in silence.
    #[test]
    fn devices_and_types_that_cannot_be_had_are_refused() {
        assert!(matches!(Placement::new("cpu", "f32", None), Ok(Placement::Cpu { kv: KvType::F32, int8: false })));
        let refused = |device: &str, dtype: &str| {
            Placement::new(device, dtype, None).map_or_else(|e| e.to_string(), |place| format!("{place:?}"))
        };
        assert!(refused("tpu", "f32").contains("cuda:N"));
        assert!(refused("cuda:x", "f32").contains("`cuda:x`"));
        assert!(refused("cpu", "bf16").contains("computes in f32"));
        let half = Placement::new("cpu", "f32", Some("f16"));
        assert!(matches!(half, Ok(Placement::Cpu { kv: KvType::F16, int8: false })));
        let unkept = Placement::new("cpu", "f32", Some("bf16")).map_or_else(|e| e.to_string(), |_| String::new());
        assert!(unkept.contains("keeps them in f32 or f16"), "{unkept}");
        if cfg!(not(feature = "cuda")) {
            assert!(refused("cuda:1", "bf16").contains("--features cuda"));
        }
        if cfg!(not(feature = "metal")) {
            assert!(refused("metal", "bf16").contains("--features metal"));
        }
    }
}
