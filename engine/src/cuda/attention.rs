//! Attention of tokens over pages, and writing those, each as one kernel: `kernels/attention.cu`.

use candle_core::cuda_backend::cudarc::driver::{DeviceRepr, PushKernelArg};
use candle_core::cuda_backend::{CudaDType, WrapErr};
use candle_core::{Result, Tensor};

use super::{ATTENTION, Kernel, LANES, blocks, lend, room, tensor, typed};
use crate::attention::{Heads, Scores};

/// The most query heads that share what one block reads.
const GROUP: usize = 8;

/// What each token of a step sees: the first `ends [tokens]` of the positions of sequence `owners [tokens]`, whose rows in the
/// pages are `slots [sequences * len]`. All in u32.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) slots: Tensor,
    pub(crate) owners: Tensor,
    pub(crate) ends: Tensor,
    pub(crate) len: usize,
}

/// Whether there is a kernel for heads of this width, in the type and place of `pages`.
pub(crate) fn has_kernels(pages: &Tensor, width: usize) -> bool {
    super::has_kernels(pages) && [2, 4, 8].map(|elements| elements * LANES).contains(&width)
}

/// Attends each row of `queries [tokens, heads * width]` to its sequence's keys and values `[rows, kv_heads * width]`.
pub(crate) fn attend(
    queries: &Tensor,
    pages: (&Tensor, &Tensor),
    seen: &Seen,
    heads: Heads,
    scoring: Scores,
) -> Result<Tensor> {
    typed!(queries, attend_in(queries, pages, seen, heads, scoring))
}

/// Writes `keys` and `values [tokens, kv_heads * width]` into the rows `slots [tokens, 1]` of the pages.
pub(crate) fn remember(keys: &Tensor, values: &Tensor, slots: &Tensor, pages: (&Tensor, &Tensor)) -> Result<()> {
    typed!(keys, remember_in(keys, values, slots, pages))
}

fn attend_in<T: CudaDType + DeviceRepr>(
    queries: &Tensor,
    pages: (&Tensor, &Tensor),
    seen: &Seen,
    heads: Heads,
    scoring: Scores,
) -> Result<Tensor> {
    let queries = queries.contiguous()?;
    let (tokens, row) = queries.dims2()?;
    let group = heads.query / heads.kv;
    let shared = group.next_power_of_two().min(GROUP);
    let rest = format!("_{}_{shared}", heads.width / LANES);
    let kernel = Kernel::load(("attention", ATTENTION), "attend", &queries, &rest)?;
    let out = room::<T>(kernel.device, tokens * row)?;
    let (len, kv, each) = (seen.len as i32, heads.kv as i32, group as i32);
    let (softcap, window) = (scoring.softcap.unwrap_or(0.0), scoring.window.unwrap_or(0) as i32);
    {
        lend!(q: T = queries, keys: T = pages.0, values: T = pages.1);
        lend!(slots: u32 = seen.slots, owners: u32 = seen.owners, ends: u32 = seen.ends);
        let mut call = kernel.call();
        call.arg(&q).arg(&keys).arg(&values).arg(&slots).arg(&owners).arg(&ends).arg(&out);
        call.arg(&len).arg(&kv).arg(&each).arg(&scoring.scale).arg(&softcap).arg(&window);
        // SAFETY: the types are those of the kernel; slots, owners and ends were made for these pages.
        unsafe { call.launch(blocks(tokens, heads.kv * group.div_ceil(shared))) }.w()?;
    }
    Ok(tensor(kernel.device, out, (tokens, row)))
}

fn remember_in<T: CudaDType>(keys: &Tensor, values: &Tensor, slots: &Tensor, pages: (&Tensor, &Tensor)) -> Result<()> {
    let (keys, values) = (keys.contiguous()?, values.contiguous()?);
    let (rows, width) = keys.dims2()?;
    let kernel = Kernel::load(("attention", ATTENTION), "remember", &keys, "")?;
    let width = width as i32;
    lend!(k: T = keys, v: T = values, slots: u32 = slots, all_keys: T = pages.0, all_values: T = pages.1);
    let mut call = kernel.call();
    call.arg(&k).arg(&v).arg(&slots).arg(&all_keys).arg(&all_values).arg(&width);
    // SAFETY: the types are those of the kernel. It writes rows that belong to the sequences of this step alone, in the order
    // of the one stream.
    unsafe { call.launch(blocks(rows, 1)) }.w().map(drop)
}
