//! A weight on a device, for candle's own product.

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, DType, Device, Layout, MetalStorage, Result, Shape, Storage, Tensor, bail,
};

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
    /// Differentiable in `x`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = x.apply_op1(PlacedProduct(self.weight.clone()))?;
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }

    fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        self.weight.index_select(ids, 0)
    }
}

/// candle's product as an operation of its own: in candle's graph, the frozen weight would get a gradient, too.
struct PlacedProduct(Tensor);

impl PlacedProduct {
    fn multiply<S: BackendStorage>(&self, x: &S, x_layout: &Layout, weight: &S, layout: &Layout) -> Result<(S, Shape)> {
        let (rows, inputs) = x_layout.shape().dims2()?;
        let (outputs, width) = self.0.dims2()?;
        if width != inputs {
            bail!("a weight with rows of {width} cannot take a tensor of shape {:?}", x_layout.dims());
        }
        let product = x.matmul(weight, (1, rows, outputs, inputs), x_layout, &layout.transpose(0, 1)?)?;
        Ok((product, Shape::from((rows, outputs))))
    }
}

impl CustomOp1 for PlacedProduct {
    fn name(&self) -> &'static str {
        "placed-linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        match &*self.0.storage_and_layout().0 {
            Storage::Cpu(weight) => self.multiply(x, layout, weight, self.0.layout()),
            _ => elsewhere(),
        }
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        match &*self.0.storage_and_layout().0 {
            Storage::Cuda(weight) => self.multiply(x, layout, weight, self.0.layout()),
            _ => elsewhere(),
        }
    }

    fn metal_fwd(&self, x: &MetalStorage, layout: &Layout) -> Result<(MetalStorage, Shape)> {
        match &*self.0.storage_and_layout().0 {
            Storage::Metal(weight) => self.multiply(x, layout, weight, self.0.layout()),
            _ => elsewhere(),
        }
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        grad.matmul(&self.0).map(Some)
    }
}

fn elsewhere<T>() -> Result<T> {
    bail!("the weight and what it multiplies are on different devices")
}
