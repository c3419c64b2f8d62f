//! A frozen projection with its adapter, by products that add to what is there: `y = W x + scale * B A (f * x)`, `f` being the
//! dropout's factors.

use std::ffi::c_void;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::cublas::result::gemm_ex;
use candle_core::cuda_backend::cudarc::cublas::sys::{
    cublasComputeType_t, cublasGemmAlgo_t, cublasOperation_t, cudaDataType_t,
};
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaView, DevicePtr, DevicePtrMut, DeviceRepr};
use candle_core::cuda_backend::{CudaDType, CudaDevice, CudaStorage, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{Result, Storage, Tensor, bail};

use super::training::{DropoutStream, add_dropped, drop_out};
use super::{lend, room, tensor, typed};

/// The operation on `x [rows, in]`, and A and B in f32.
#[derive(Debug)]
pub(crate) struct Adapted {
    /// `[out, in]`.
    weight: Tensor,
    /// `[out]`.
    bias: Option<Tensor>,
    /// `[rank, in]` and `[out, rank]`, in the type of the weight.
    a: Tensor,
    b: Tensor,
    scale: f32,
    /// Of the adapter's input, if it is dropped out.
    drop: Option<DropoutStream>,
    /// `A (f * x)`, once it is known: the backward pass needs it, too.
    inner: Option<Tensor>,
}

/// The projection of `x [rows, in]`, and the operation for its backward pass; `a [rank, in]` and `b [out, rank]` are in f32.
pub(crate) fn adapted(
    x: &Tensor,
    a: &Tensor,
    b: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    scale: f32,
    drop: Option<DropoutStream>,
) -> Result<(Tensor, Adapted)> {
    let ((outputs, inputs), rank) = (weight.dims2()?, a.dim(0)?);
    if x.dim(1)? != inputs || a.dims() != [rank, inputs] || b.dims() != [outputs, rank] {
        bail!(
            "an adapter of shapes {:?} and {:?} does not fit a weight [{outputs}, {inputs}] and {x:?}",
            a.dims(),
            b.dims()
        );
    }
    let rounded = |tensor: &Tensor| tensor.detach().to_dtype(x.dtype());
    let mut operation = Adapted {
        weight: weight.clone(),
        bias: bias.cloned(),
        a: rounded(a)?,
        b: rounded(b)?,
        scale,
        drop,
        inner: None,
    };
    let (y, inner) = typed!(operation.weight, operation.forward(x))?;
    operation.inner = Some(inner);
    Ok((y, operation))
}

/// How a product reads a matrix, as cuBLAS has it: columns first.
const AS_IT_IS: cublasOperation_t = cublasOperation_t::CUBLAS_OP_N;
const TRANSPOSED: cublasOperation_t = cublasOperation_t::CUBLAS_OP_T;

/// `out = alpha * left right + (out if it is kept)`, `[m, n]` over `k`, columns first; each side with its rows' stride.
struct Product<'a, 'b, T> {
    left: (&'a CudaView<'b, T>, cublasOperation_t, usize),
    right: (&'a CudaView<'b, T>, cublasOperation_t, usize),
    size: (usize, usize, usize),
    alpha: f32,
    kept: bool,
}

impl<T: Numbers> Product<'_, '_, T> {
    fn into<O: Numbers>(self, device: &CudaDevice, out: &mut CudaSlice<O>) -> Result<()> {
        let Self { left, right, size: (m, n, k), alpha, kept } = self;
        let (blas, stream) = (device.cublas_handle(), device.cuda_stream());
        let beta = if kept { 1.0f32 } else { 0.0 };
        let (from_left, _left) = left.0.device_ptr(&stream);
        let (from_right, _right) = right.0.device_ptr(&stream);
        let (to, _to) = out.device_ptr_mut(&stream);
        // SAFETY: the sizes are those of the tensors, and everything is on the handle's own stream.
        let done = unsafe {
            gemm_ex(
                *blas.handle(),
                left.1,
                right.1,
                m as i32,
                n as i32,
                k as i32,
                std::ptr::from_ref(&alpha).cast(),
                from_left as *const c_void,
                T::KIND,
                left.2 as i32,
                from_right as *const c_void,
                T::KIND,
                right.2 as i32,
                std::ptr::from_ref(&beta).cast(),
                to as *mut c_void,
                O::KIND,
                m as i32,
                cublasComputeType_t::CUBLAS_COMPUTE_32F,
                cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT_TENSOR_OP,
            )
        };
        done.w()
    }
}

/// Numbers that cuBLAS multiplies.
trait Numbers: CudaDType + DeviceRepr {
    const KIND: cudaDataType_t;
}

impl Numbers for f32 {
    const KIND: cudaDataType_t = cudaDataType_t::CUDA_R_32F;
}

impl Numbers for half::f16 {
    const KIND: cudaDataType_t = cudaDataType_t::CUDA_R_16F;
}

impl Numbers for half::bf16 {
    const KIND: cudaDataType_t = cudaDataType_t::CUDA_R_16BF;
}

impl Adapted {
    /// The gradients of `x [rows, in]`, A and B from the one of the projection, both contiguous.
    pub(crate) fn gradients(&self, x: &Tensor, grad: &Tensor) -> Result<[Tensor; 3]> {
        typed!(self.weight, self.backward(x, grad))
    }

    /// Of contiguous `x [rows, in]`: the projection and `A (f * x)`.
    fn forward<T: Numbers>(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let rows = x.dim(0)?;
        let dropped = self.drop.map_or_else(|| Ok(x.clone()), |drop| drop_out(x, drop))?;
        let (outputs, inputs) = self.weight.dims2()?;
        let rank = self.a.dim(0)?;
        let device = self.weight.device().as_cuda_device()?;
        let mut inner = room::<T>(device, rows * rank)?;
        let mut filled = CudaStorage::wrap_cuda_slice(room::<T>(device, rows * outputs)?, device.clone());
        if let Some(bias) = &self.bias {
            let (storage, _) = bias.storage_and_layout();
            let Storage::Cuda(storage) = &*storage else { bail!("the bias is not on the GPU") };
            storage.copy_strided_src(&mut filled, 0, bias.broadcast_as((rows, outputs))?.layout())?;
        }
        let out = T::as_cuda_slice_mut(&mut filled)?;
        {
            lend!(weight: T = self.weight, a: T = self.a, b: T = self.b, x: T = x, dropped: T = dropped);
            let frozen = Product {
                left: (&weight, TRANSPOSED, inputs),
                right: (&x, AS_IT_IS, inputs),
                size: (outputs, rows, inputs),
                alpha: 1.0,
                kept: self.bias.is_some(),
            };
            frozen.into(device, out)?;
            let down = Product {
                left: (&a, TRANSPOSED, inputs),
                right: (&dropped, AS_IT_IS, inputs),
                size: (rank, rows, inputs),
                alpha: 1.0,
                kept: false,
            };
            down.into(device, &mut inner)?;
            let from = inner.slice(..);
            let up = Product {
                left: (&b, TRANSPOSED, rank),
                right: (&from, AS_IT_IS, rank),
                size: (outputs, rows, rank),
                alpha: self.scale,
                kept: true,
            };
            up.into(device, out)?;
        }
        let filled = Tensor::from_storage(Storage::Cuda(filled), (rows, outputs), BackpropOp::none(), false);
        Ok((filled, tensor(device, inner, (rows, rank))))
    }

    /// With `h = A (f * x)` and `u = scale * Bᵀ grad`: `B` gets `scale * grad hᵀ`, `A` gets `u (f * x)ᵀ`, and `x` gets
    /// `Wᵀ grad + f * Aᵀ u`.
    fn backward<T: Numbers>(&self, x: &Tensor, grad: &Tensor) -> Result<[Tensor; 3]> {
        let (outputs, inputs) = self.weight.dims2()?;
        let (rows, rank) = (x.dim(0)?, self.a.dim(0)?);
        let device = self.weight.device().as_cuda_device()?;
        let Some(inner) = &self.inner else { bail!("a backward pass before any forward pass") };
        let (mut outer, mut x_gradient) = (room::<T>(device, rows * rank)?, room::<T>(device, rows * inputs)?);
        let (mut a_gradient, mut b_gradient) =
            (room::<f32>(device, rank * inputs)?, room::<f32>(device, outputs * rank)?);
        let dropped = self.drop.map_or_else(|| Ok(x.clone()), |drop| drop_out(x, drop))?;
        let mut through_adapter = None;
        {
            lend!(weight: T = self.weight, a: T = self.a, b: T = self.b, x: T = dropped, grad: T = grad, h: T = inner);
            let scale = self.scale;
            let product = |left, right, size, alpha, kept| Product { left, right, size, alpha, kept };
            let through =
                product((&b, AS_IT_IS, rank), (&grad, AS_IT_IS, outputs), (rank, rows, outputs), scale, false);
            through.into(device, &mut outer)?;
            let of_b = product((&h, AS_IT_IS, rank), (&grad, TRANSPOSED, outputs), (rank, outputs, rows), scale, false);
            of_b.into(device, &mut b_gradient)?;
            let u = outer.slice(..);
            let of_a = product((&x, AS_IT_IS, inputs), (&u, TRANSPOSED, rank), (inputs, rank, rows), 1.0, false);
            of_a.into(device, &mut a_gradient)?;
            let frozen =
                product((&weight, AS_IT_IS, inputs), (&grad, AS_IT_IS, outputs), (inputs, rows, outputs), 1.0, false);
            frozen.into(device, &mut x_gradient)?;
            let adapter = |kept| product((&a, AS_IT_IS, inputs), (&u, AS_IT_IS, rank), (inputs, rows, rank), 1.0, kept);
            if self.drop.is_some() {
                let mut through = room::<T>(device, rows * inputs)?;
                adapter(false).into(device, &mut through)?;
                through_adapter = Some(tensor(device, through, (rows, inputs)));
            } else {
                adapter(true).into(device, &mut x_gradient)?;
            }
        }
        let x_gradient = tensor(device, x_gradient, (rows, inputs));
        if let Some((through, drop)) = through_adapter.zip(self.drop) {
            add_dropped(&through, &x_gradient, drop)?;
        }
        Ok([x_gradient, tensor(device, a_gradient, (rank, inputs)), tensor(device, b_gradient, (outputs, rank))])
    }
}
