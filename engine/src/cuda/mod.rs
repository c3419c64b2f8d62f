//! What candle leaves to its callers on an NVIDIA GPU: one stream for all threads, memory that is kept, contexts; and kernels
//! and products of ours.

use candle_core::cuda_backend::cudarc::driver::result::{device, mem_get_info, mem_pool};
use candle_core::cuda_backend::cudarc::driver::sys::{CUmemPool_attribute, CUmemoryPool};
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaSlice, CudaStream, CudaView, DeviceRepr, LaunchArgs, LaunchConfig,
};
use candle_core::cuda_backend::{CudaDType, CudaDevice, CudaStorage, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{DType, Device, Layout, Result, Shape, Storage, Tensor, bail};

use std::sync::Arc;

use crate::batch::DeviceMemory;

pub(crate) mod adapted;
pub(crate) mod attention;
pub(crate) mod training;

/// The compiled kernels, one constant for each file of `kernels/`.
mod compiled {
    #![allow(unreachable_pub, reason = "written by the build script")]
    include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
}
use compiled::{ATTENTION, TRAINING};

/// Threads of a block, in all kernels, and of a warp.
const THREADS: u32 = 256;
const LANES: usize = 32;

/// The GPU with this number.
pub(crate) fn open(ordinal: usize) -> Result<Device> {
    // candle's usual stream is another one on every thread, and nothing would order a step behind the one before it.
    let opened = Device::new_cuda_with_stream(ordinal)?;
    let cuda = opened.as_cuda_device()?;
    // SAFETY: all tensors of this device are used on its one stream alone.
    unsafe { cuda.disable_event_tracking() };
    // Without it, whatever a step frees goes back to the driver when the step ends. A GPU without pools frees it at once anyway.
    if let Ok(pool) = pool(cuda) {
        let mut kept = u64::MAX;
        let threshold = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: the pool is the device's, and the attribute is a u64.
        let set = unsafe { mem_pool::set_attribute(pool, threshold, std::ptr::from_mut(&mut kept).cast()) };
        if let Err(error) = set {
            tracing::debug!(%error, "what a step frees goes back to the driver");
        }
    }
    Ok(opened)
}

/// What the device says of its memory now; what is kept and not in use counts as free.
pub(crate) fn memory(device: &Device) -> Option<DeviceMemory> {
    let cuda = device.as_cuda_device().ok()?;
    // The answer is about the device whose context is current on this thread.
    bind(device);
    let (free, total) = mem_get_info().ok()?;
    let held = |attribute| {
        let mut bytes = 0u64;
        // SAFETY: the pool is the device's, and the attribute is a u64.
        unsafe { mem_pool::get_attribute(pool(cuda).ok()?, attribute, std::ptr::from_mut(&mut bytes).cast()) }.ok()?;
        Some(bytes)
    };
    let reserved = held(CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT).unwrap_or(0);
    let used = held(CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT).unwrap_or(reserved);
    Some(DeviceMemory { free: free as u64 + reserved.saturating_sub(used), total: total as u64 })
}

/// Makes the device's context current on this thread: a tensor that is dropped on a thread without it is not freed, and the
/// next operation fails.
pub(crate) fn bind(device: &Device) {
    let Ok(cuda) = device.as_cuda_device() else { return };
    let stream = cuda.cuda_stream();
    // The first call may only report what went wrong before.
    for _ in 0..2 {
        match stream.context().bind_to_thread() {
            Ok(()) => return,
            Err(error) => tracing::warn!(%error, "the GPU reports an error"),
        }
    }
}

fn pool(cuda: &CudaDevice) -> Result<CUmemoryPool> {
    let ordinal = cuda.cuda_stream().context().ordinal();
    // SAFETY: a device of this number is open.
    unsafe { device::get(i32::try_from(ordinal).unwrap_or(0)).and_then(|device| device::get_default_mem_pool(device)) }
        .w()
}

/// Whether the kernels know the tensor's type, on a GPU.
pub(crate) fn has_kernels(tensor: &Tensor) -> bool {
    tensor.device().is_cuda() && name_of(tensor).is_ok()
}

/// A type, as the kernels' names have it.
fn name_of(tensor: &Tensor) -> Result<&'static str> {
    match tensor.dtype() {
        DType::F32 => Ok("f32"),
        DType::F16 => Ok("f16"),
        DType::BF16 => Ok("bf16"),
        other => bail!("there are no kernels for {other:?}"),
    }
}

/// A contiguous tensor's numbers on the device.
fn view<'a, T: CudaDType>(storage: &'a Storage, layout: &Layout) -> Result<CudaView<'a, T>> {
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("a kernel needs a contiguous tensor") };
    match storage {
        Storage::Cuda(storage) => Ok(storage.as_cuda_slice::<T>()?.slice(start..end)),
        _ => bail!("a kernel needs a tensor on its GPU"),
    }
}

/// Room that a kernel fills in full.
fn room<T: DeviceRepr>(device: &CudaDevice, count: usize) -> Result<CudaSlice<T>> {
    // SAFETY: whoever asks hands it to a kernel that writes all of it, before anything reads it on the one stream.
    unsafe { device.alloc::<T>(count) }
}

fn tensor<T: CudaDType>(device: &CudaDevice, numbers: CudaSlice<T>, shape: impl Into<Shape>) -> Tensor {
    let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(numbers, device.clone()));
    Tensor::from_storage(storage, shape, BackpropOp::none(), false)
}

/// A kernel, and where it runs.
struct Kernel<'d> {
    device: &'d CudaDevice,
    function: CudaFunction,
    stream: Arc<CudaStream>,
}

impl<'d> Kernel<'d> {
    /// The one of this name in a file of kernels, for the type and on the device of `tensor`: `[name]_[type][rest]`.
    fn load(file: (&str, &str), name: &str, tensor: &'d Tensor, rest: &str) -> Result<Self> {
        let device = tensor.device().as_cuda_device()?;
        let name = format!("{name}_{}{rest}", name_of(tensor)?);
        let function = device.get_or_load_custom_func(&name, file.0, file.1)?.into_cuda_function();
        Ok(Self { device, function, stream: device.cuda_stream() })
    }

    fn call(&self) -> LaunchArgs<'_> {
        self.stream.launch_builder(&self.function)
    }
}

fn blocks(x: usize, y: usize) -> LaunchConfig {
    LaunchConfig { grid_dim: (x as u32, y as u32, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 }
}

/// Borrows tensors' numbers for a kernel: `lend!(x: T = tensor, ..)`.
macro_rules! lend {
    ($($name:ident: $numbers:ty = $tensor:expr),+ $(,)?) => {
        $(
            let (storage, layout) = $tensor.storage_and_layout();
            let $name = $crate::cuda::view::<$numbers>(&storage, layout)?;
        )+
    };
}

/// Runs the function, or the method of `self`, for a tensor's type: `typed!(tensor, function(arguments))`.
macro_rules! typed {
    ($tensor:expr, $this:ident.$method:ident($($argument:expr),* $(,)?)) => {
        match $tensor.dtype() {
            candle_core::DType::F32 => $this.$method::<f32>($($argument),*),
            candle_core::DType::F16 => $this.$method::<half::f16>($($argument),*),
            candle_core::DType::BF16 => $this.$method::<half::bf16>($($argument),*),
            other => candle_core::bail!("there are no kernels for {other:?}"),
        }
    };
    ($tensor:expr, $function:ident($($argument:expr),* $(,)?)) => {
        match $tensor.dtype() {
            candle_core::DType::F32 => $function::<f32>($($argument),*),
            candle_core::DType::F16 => $function::<half::f16>($($argument),*),
            candle_core::DType::BF16 => $function::<half::bf16>($($argument),*),
            other => candle_core::bail!("there are no kernels for {other:?}"),
        }
    };
}

pub(self) use {lend, typed};
