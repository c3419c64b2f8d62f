//! Values that were computed outside of any graph, put into one with a backward pass of their own.

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp3, Layout, MetalStorage, Result, Shape, Storage, Tensor, bail,
};
use std::sync::{Mutex, PoisonError};

/// Where a backward pass begins that gives `output` this gradient.
pub(in crate::train) fn begin(output: &Tensor, gradient: Tensor) -> Result<Tensor> {
    // Its own value is wanted by nobody.
    let end = Tensor::zeros((), output.dtype(), output.device())?;
    fused(output, end, "gradient", move |_, _| Ok(gradient.clone()))
}

/// `output`, as an operation on `x`. `backward` makes the gradient of `x` from `x` and the gradient of the output.
pub(super) fn fused<B>(x: &Tensor, output: Tensor, name: &'static str, backward: B) -> Result<Tensor>
where
    B: Fn(&Tensor, &Tensor) -> Result<Tensor> + Send + Sync + 'static,
{
    match x.track_op() {
        true => x.apply_op1(Fused::new(output, name, backward)),
        false => Ok(output),
    }
}

/// The same of two inputs.
#[cfg(feature = "cuda")]
pub(super) fn fused2<B>(inputs: [&Tensor; 2], output: Tensor, name: &'static str, backward: B) -> Result<Tensor>
where
    B: Fn([&Tensor; 2], &Tensor) -> Result<[Tensor; 2]> + Send + Sync + 'static,
{
    let [x, y] = inputs;
    match inputs.iter().any(|input| input.track_op()) {
        true => x.apply_op2(y, Fused::new(output, name, backward)),
        false => Ok(output),
    }
}

/// The same of three inputs.
pub(super) fn fused3<B>(inputs: [&Tensor; 3], output: Tensor, name: &'static str, backward: B) -> Result<Tensor>
where
    B: Fn([&Tensor; 3], &Tensor) -> Result<[Tensor; 3]> + Send + Sync + 'static,
{
    let [x, y, z] = inputs;
    match inputs.iter().any(|input| input.track_op()) {
        true => x.apply_op3(y, z, Fused::new(output, name, backward)),
        false => Ok(output),
    }
}

struct Fused<B> {
    name: &'static str,
    /// Until it is in the graph.
    output: Mutex<Option<Tensor>>,
    backward: B,
}

impl<B> Fused<B> {
    fn new(output: Tensor, name: &'static str, backward: B) -> Self {
        Self { name, output: Mutex::new(Some(output)), backward }
    }

    /// A storage of its own is what candle asks for.
    fn copy<S: BackendStorage>(&self, storage: impl Fn(&Storage) -> Option<&S>) -> Result<(S, Shape)> {
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(output) = output else { bail!("{} is in a graph already", self.name) };
        let output = output.contiguous()?;
        let (held, layout) = output.storage_and_layout();
        match storage(&held) {
            Some(storage) if layout.start_offset() == 0 => Ok((storage.try_clone(layout)?, layout.shape().clone())),
            _ => bail!("{} was computed elsewhere than its input", self.name),
        }
    }

    fn cpu(&self) -> Result<(CpuStorage, Shape)> {
        self.copy(|storage| match storage {
            Storage::Cpu(storage) => Some(storage),
            _ => None,
        })
    }

    fn cuda(&self) -> Result<(CudaStorage, Shape)> {
        self.copy(|storage| match storage {
            Storage::Cuda(storage) => Some(storage),
            _ => None,
        })
    }

    fn metal(&self) -> Result<(MetalStorage, Shape)> {
        self.copy(|storage| match storage {
            Storage::Metal(storage) => Some(storage),
            _ => None,
        })
    }
}

impl<B: Fn(&Tensor, &Tensor) -> Result<Tensor>> CustomOp1 for Fused<B> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.cuda()
    }

    fn metal_fwd(&self, _: &MetalStorage, _: &Layout) -> Result<(MetalStorage, Shape)> {
        self.metal()
    }

    fn bwd(&self, x: &Tensor, _output: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        // Not part of any graph, whatever the input is.
        (self.backward)(&x.detach(), grad).map(Some)
    }
}

#[cfg(feature = "cuda")]
impl<B: Fn([&Tensor; 2], &Tensor) -> Result<[Tensor; 2]>> candle_core::CustomOp2 for Fused<B> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.cuda()
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [x, y] = (self.backward)([&x.detach(), &y.detach()], grad)?;
        Ok((Some(x), Some(y)))
    }
}

impl<B: Fn([&Tensor; 3], &Tensor) -> Result<[Tensor; 3]>> CustomOp3 for Fused<B> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.cuda()
    }

    fn metal_fwd(
        &self,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        self.metal()
    }

    fn bwd(
        &self,
        x: &Tensor,
        y: &Tensor,
        z: &Tensor,
        _output: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [x, y, z] = (self.backward)([&x.detach(), &y.detach(), &z.detach()], &grad.contiguous()?)?;
        Ok((Some(x), Some(y), Some(z)))
    }
}
