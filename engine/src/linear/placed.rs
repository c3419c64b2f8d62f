//! A weight on a device, for candle's own product.

use candle_core::{DType, Device, Result, Tensor};

use super::{FrozenLinear, Linear};

/// A weight `[out, in]` and a bias `[out]`, of one type on one device.
#[derive(Debug, Clone)]
pub struct PlacedLinear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl PlacedLinear {
    /// Copies a packed weight to a device.
    ///
    /// # Errors
    /// What candle reports: no memory, a type that the device lacks.
    pub fn new(packed: &FrozenLinear, device: &Device, dtype: DType) -> Result<Self> {
        // Converted before it travels: the smaller of the two types goes over the bus.
        let place = |tensor: &Tensor| tensor.to_dtype(dtype)?.to_device(device);
        Ok(Self { weight: place(&packed.weight()?)?, bias: packed.bias()?.as_ref().map(place).transpose()? })
    }

    /// The weight and the bias.
    #[cfg(feature = "cuda")]
    pub(crate) fn parts(&self) -> (&Tensor, Option<&Tensor>) {
        (&self.weight, self.bias.as_ref())
    }
}

impl Linear for PlacedLinear {
    const KERNELS: bool = false;

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = x.matmul(&self.weight.t()?)?;
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }

    fn backward(&self, grad: &Tensor) -> Result<Tensor> {
        grad.matmul(&self.weight)
    }

    fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        self.weight.index_select(ids, 0)
    }
}
