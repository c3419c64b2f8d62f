//! What training does beside matrix products, each as one kernel: `kernels/training.cu`.

use candle_core::cuda_backend::cudarc::driver::{DeviceRepr, LaunchConfig, PushKernelArg};
use candle_core::cuda_backend::{CudaDType, WrapErr};
use candle_core::{Result, Tensor};

use super::{Kernel, LANES, THREADS, TRAINING, blocks, lend, room, tensor, typed};
use crate::attention::{Activation, Scores};

/// Numbers that a thread of an elementwise kernel takes.
const ELEMENTS: usize = 4;

/// Whether an elementwise kernel can take the tensor, in whole packs.
pub(crate) fn is_whole(tensor: &Tensor) -> bool {
    let (count, start) = (tensor.elem_count(), tensor.layout().start_offset());
    count > 0 && count.is_multiple_of(ELEMENTS) && start.is_multiple_of(ELEMENTS)
}

/// Of each row of `logits [rows, vocab]` with its target `[rows, 1]` in u32: `-log softmax(logits)[target]`, and the logarithm of
/// the softmax's sum, both `[rows]` in f32.
pub(crate) fn losses(logits: &Tensor, targets: &Tensor) -> Result<(Tensor, Tensor)> {
    typed!(logits, losses_in(logits, targets))
}

/// The rows of `logits [rows, vocab]` whose target, `[rows, 1]` in u32, has the highest logit: 1, else 0, in f32.
pub(crate) fn hits(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    typed!(logits, hits_in(logits, targets))
}

/// The logits' gradient from that of the losses, `factors [rows]`.
pub(crate) fn losses_back(logits: &Tensor, targets: &Tensor, logs: &Tensor, factors: &Tensor) -> Result<Tensor> {
    typed!(logits, losses_back_in(logits, targets, logs, factors))
}

/// Causal softmax weights of products `[.., len]`, whose rows are the tokens of sequences of `len`.
pub(crate) fn softmax(products: &Tensor, scores: Scores) -> Result<Tensor> {
    typed!(products, softmax_in(products, scores))
}

/// The weights again, and in the place of `through`, the weights' gradient, that of the products.
pub(crate) fn softmax_back(products: &Tensor, through: &Tensor, scores: Scores) -> Result<Tensor> {
    typed!(products, softmax_back_in(products, through, scores))
}

/// The gradient of `x [rows, width]` from that of its norm.
pub(crate) fn rms_norm_back(x: &Tensor, weight: &Tensor, grad: &Tensor, eps: f64) -> Result<Tensor> {
    typed!(x, rms_norm_back_in(x, weight, grad, eps as f32))
}

/// `activation(gate) * up`, elementwise.
pub(crate) fn gated(gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor> {
    typed!(gate, gated_in(gate, up, activation))
}

/// The gradients of gate and up.
pub(crate) fn gated_back(gate: &Tensor, up: &Tensor, grad: &Tensor, activation: Activation) -> Result<[Tensor; 2]> {
    typed!(gate, gated_back_in(gate, up, grad, activation))
}

/// Which factors dropout draws.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DropoutStream {
    /// Of the stream of numbers: each element takes its own.
    pub(crate) key: u64,
    pub(crate) rate: f32,
}

/// `x` with each number times its factor, 0 or `1 / (1 - rate)`.
pub(crate) fn drop_out(x: &Tensor, drop: DropoutStream) -> Result<Tensor> {
    typed!(x, drop_out_in(x, drop))
}

/// Adds that to `sum`, in its place.
pub(crate) fn add_dropped(x: &Tensor, sum: &Tensor, drop: DropoutStream) -> Result<()> {
    typed!(x, add_dropped_in(x, sum, drop))
}

fn kernel<'d>(name: &str, of: &'d Tensor) -> Result<Kernel<'d>> {
    Kernel::load(("training", TRAINING), name, of, "")
}

fn losses_in<T: CudaDType>(logits: &Tensor, targets: &Tensor) -> Result<(Tensor, Tensor)> {
    let kernel = kernel("losses", logits)?;
    let (rows, width) = logits.dims2()?;
    let (out, logs, wide) = (room::<f32>(kernel.device, rows)?, room::<f32>(kernel.device, rows)?, width as i32);
    {
        lend!(x: T = logits, targets: u32 = targets);
        let mut call = kernel.call();
        call.arg(&x).arg(&targets).arg(&out).arg(&logs).arg(&wide);
        // SAFETY: the types are those of the kernel, and targets are tokens of the vocabulary.
        unsafe { call.launch(blocks(rows, 1)) }.w()?;
    }
    Ok((tensor(kernel.device, out, rows), tensor(kernel.device, logs, rows)))
}

fn hits_in<T: CudaDType>(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let kernel = kernel("hits", logits)?;
    let (rows, width) = logits.dims2()?;
    let (out, wide) = (room::<f32>(kernel.device, rows)?, width as i32);
    {
        lend!(x: T = logits, targets: u32 = targets);
        let mut call = kernel.call();
        call.arg(&x).arg(&targets).arg(&out).arg(&wide);
        // SAFETY: the types are those of the kernel, and targets are tokens of the vocabulary.
        unsafe { call.launch(blocks(rows, 1)) }.w()?;
    }
    Ok(tensor(kernel.device, out, rows))
}

fn losses_back_in<T: CudaDType + DeviceRepr>(
    logits: &Tensor,
    targets: &Tensor,
    logs: &Tensor,
    factors: &Tensor,
) -> Result<Tensor> {
    let kernel = kernel("losses_back", logits)?;
    let (rows, width) = logits.dims2()?;
    let (out, wide, factors) = (room::<T>(kernel.device, rows * width)?, width as i32, factors.contiguous()?);
    {
        lend!(x: T = logits, targets: u32 = targets, logs: f32 = logs, factors: f32 = factors);
        let mut call = kernel.call();
        call.arg(&x).arg(&targets).arg(&logs).arg(&factors).arg(&out).arg(&wide);
        // SAFETY: the types are those of the kernel.
        unsafe { call.launch(blocks(rows, 1)) }.w()?;
    }
    Ok(tensor(kernel.device, out, (rows, width)))
}

/// Tokens, of each of which a warp takes care, and the numbers of [`Scores`] as the kernels take them.
fn scored(products: &Tensor, scores: Scores) -> Result<(u64, i32, f32, i32)> {
    let len = products.dim(candle_core::D::Minus1)?;
    let (softcap, window) = (scores.softcap.unwrap_or(0.0), scores.window.unwrap_or(0) as i32);
    Ok(((products.elem_count() / len) as u64, len as i32, softcap, window))
}

fn warps(tokens: u64) -> LaunchConfig {
    blocks((tokens as usize).div_ceil(THREADS as usize / LANES), 1)
}

fn softmax_in<T: CudaDType + DeviceRepr>(products: &Tensor, scores: Scores) -> Result<Tensor> {
    let kernel = kernel("softmax", products)?;
    let (tokens, len, softcap, window) = scored(products, scores)?;
    let out = room::<T>(kernel.device, products.elem_count())?;
    {
        lend!(x: T = products);
        let mut call = kernel.call();
        call.arg(&x).arg(&out).arg(&tokens).arg(&len).arg(&scores.scale).arg(&softcap).arg(&window);
        // SAFETY: the types are those of the kernel.
        unsafe { call.launch(warps(tokens)) }.w()?;
    }
    Ok(tensor(kernel.device, out, products.shape()))
}

fn softmax_back_in<T: CudaDType + DeviceRepr>(products: &Tensor, through: &Tensor, scores: Scores) -> Result<Tensor> {
    let kernel = kernel("softmax_back", products)?;
    let (tokens, len, softcap, window) = scored(products, scores)?;
    let out = room::<T>(kernel.device, products.elem_count())?;
    {
        lend!(x: T = products, changes: T = through);
        let mut call = kernel.call();
        call.arg(&x).arg(&out).arg(&changes).arg(&tokens).arg(&len).arg(&scores.scale).arg(&softcap).arg(&window);
        // SAFETY: the types are those of the kernel; nobody else reads what it overwrites.
        unsafe { call.launch(warps(tokens)) }.w()?;
    }
    Ok(tensor(kernel.device, out, products.shape()))
}

fn rms_norm_back_in<T: CudaDType + DeviceRepr>(x: &Tensor, weight: &Tensor, grad: &Tensor, eps: f32) -> Result<Tensor> {
    let kernel = kernel("rms_norm_back", x)?;
    let (rows, width) = x.dims2()?;
    let (out, wide) = (room::<T>(kernel.device, rows * width)?, width as i32);
    {
        lend!(x: T = x, weight: T = weight, grad: T = grad);
        let mut call = kernel.call();
        call.arg(&x).arg(&weight).arg(&grad).arg(&out).arg(&eps).arg(&wide);
        // SAFETY: the types are those of the kernel.
        unsafe { call.launch(blocks(rows, 1)) }.w()?;
    }
    Ok(tensor(kernel.device, out, (rows, width)))
}

fn gated_in<T: CudaDType + DeviceRepr>(gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor> {
    let kernel = kernel("gated", gate)?;
    let count = gate.elem_count();
    let (out, gelu, numbers) = (room::<T>(kernel.device, count)?, is_gelu(activation), count as u64);
    {
        lend!(gate: T = gate, up: T = up);
        let mut call = kernel.call();
        call.arg(&gate).arg(&up).arg(&out).arg(&numbers).arg(&gelu);
        // SAFETY: the types are those of the kernel, which takes whole packs.
        unsafe { call.launch(blocks(count.div_ceil(ELEMENTS * THREADS as usize), 1)) }.w()?;
    }
    Ok(tensor(kernel.device, out, gate.shape()))
}

fn gated_back_in<T: CudaDType + DeviceRepr>(
    gate: &Tensor,
    up: &Tensor,
    grad: &Tensor,
    activation: Activation,
) -> Result<[Tensor; 2]> {
    let kernel = kernel("gated_back", gate)?;
    let count = gate.elem_count();
    let (gelu, numbers) = (is_gelu(activation), count as u64);
    let (gate_gradient, up_gradient) = (room::<T>(kernel.device, count)?, room::<T>(kernel.device, count)?);
    {
        lend!(x: T = gate, up: T = up, grad: T = grad);
        let mut call = kernel.call();
        call.arg(&x).arg(&up).arg(&grad).arg(&gate_gradient).arg(&up_gradient).arg(&numbers).arg(&gelu);
        // SAFETY: the types are those of the kernel, which takes whole packs.
        unsafe { call.launch(blocks(count.div_ceil(ELEMENTS * THREADS as usize), 1)) }.w()?;
    }
    Ok([tensor(kernel.device, gate_gradient, gate.shape()), tensor(kernel.device, up_gradient, gate.shape())])
}

fn is_gelu(activation: Activation) -> i32 {
    i32::from(activation == Activation::GeluTanh)
}

fn drop_out_in<T: CudaDType + DeviceRepr>(x: &Tensor, drop: DropoutStream) -> Result<Tensor> {
    let kernel = kernel("drop", x)?;
    let count = x.elem_count();
    let (out, numbers) = (room::<T>(kernel.device, count)?, count as u64);
    {
        lend!(from: T = x);
        let mut call = kernel.call();
        call.arg(&from).arg(&out).arg(&numbers).arg(&drop.key).arg(&drop.rate);
        // SAFETY: the types are those of the kernel.
        unsafe { call.launch(blocks(count.div_ceil(THREADS as usize), 1)) }.w()?;
    }
    Ok(tensor(kernel.device, out, x.shape()))
}

fn add_dropped_in<T: CudaDType>(x: &Tensor, sum: &Tensor, drop: DropoutStream) -> Result<()> {
    let kernel = kernel("add_dropped", x)?;
    let numbers = x.elem_count() as u64;
    lend!(from: T = x, to: T = sum);
    let mut call = kernel.call();
    call.arg(&from).arg(&to).arg(&numbers).arg(&drop.key).arg(&drop.rate);
    // SAFETY: the types are those of the kernel; nobody else reads the sum yet.
    unsafe { call.launch(blocks(x.elem_count().div_ceil(THREADS as usize), 1)) }.w()?;
    Ok(())
}
