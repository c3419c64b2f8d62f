//! The innermost loops, once per instruction set. The only unsafe code of the crate's arithmetic.
//!
//! The order in which a sum is taken is fixed, so the three versions give equal bits: a fused
//! multiply-add rounds once wherever it is computed.

#![expect(
    clippy::needless_range_loop,
    reason = "counted loops over registers: the compiler unrolls them, and they read as the formula does"
)]

use std::mem::MaybeUninit;

use super::panels::{PANEL, PanelRow};
use crate::instruction_sets::Instructions;

/// Rows of one forward tile.
pub(crate) const TILE_ROWS: usize = 12;

/// A forward tile: up to [`TILE_ROWS`] rows by one panel of outputs.
pub(crate) type Tile = [[f32; PANEL]; TILE_ROWS];

impl Instructions {
    /// `tile[r][j] = sum over k of x[k][r] * panel[k][j]`, one sequential chain of fused multiply-adds
    /// per element. `x` holds `rows` (1 to [`TILE_ROWS`]) interleaved values per input.
    pub(super) fn tile(self, panel: &[PanelRow], x: &[f32], rows: usize, tile: &mut Tile) {
        match rows {
            1 => self.tile_of::<1>(panel, x, tile),
            2 => self.tile_of::<2>(panel, x, tile),
            3 => self.tile_of::<3>(panel, x, tile),
            4 => self.tile_of::<4>(panel, x, tile),
            5 => self.tile_of::<5>(panel, x, tile),
            6 => self.tile_of::<6>(panel, x, tile),
            7 => self.tile_of::<7>(panel, x, tile),
            8 => self.tile_of::<8>(panel, x, tile),
            9 => self.tile_of::<9>(panel, x, tile),
            10 => self.tile_of::<10>(panel, x, tile),
            11 => self.tile_of::<11>(panel, x, tile),
            _ => self.tile_of::<TILE_ROWS>(panel, x, tile),
        }
    }

    fn tile_of<const R: usize>(self, panel: &[PanelRow], x: &[f32], tile: &mut Tile) {
        match self {
            // SAFETY: the variant exists only where `available` detected the instructions.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { x86::tile_avx512::<R>(panel, x, tile) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { x86::tile_avx2::<R>(panel, x, tile) },
            Self::Portable => tile_portable::<R>(panel, x, tile),
        }
    }
}

fn tile_portable<const R: usize>(panel: &[PanelRow], x: &[f32], tile: &mut Tile) {
    let mut sums = [[0.0f32; PANEL]; R];
    for (weights, values) in panel.iter().zip(x.as_chunks::<R>().0) {
        for (sum, value) in sums.iter_mut().zip(values) {
            for (element, weight) in sum.iter_mut().zip(&weights.0) {
                *element = value.mul_add(*weight, *element);
            }
        }
    }
    tile[..R].copy_from_slice(&sums);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{PanelRow, Tile};
    use std::arch::x86_64::{
        __m256, __m512, _MM_HINT_T0, _mm_prefetch, _mm256_fmadd_ps, _mm256_load_ps, _mm256_set1_ps, _mm256_setzero_ps,
        _mm256_storeu_ps, _mm512_fmadd_ps, _mm512_load_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    };

    #[target_feature(enable = "avx512f")]
    fn load16(row: &PanelRow, half: usize) -> __m512 {
        let lanes = &row.0.as_chunks::<16>().0[half];
        // SAFETY: 16 floats are readable, and a `PanelRow` is aligned to 64 bytes, so each half is too.
        unsafe { _mm512_load_ps(lanes.as_ptr()) }
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn tile_avx512<const R: usize>(panel: &[PanelRow], x: &[f32], tile: &mut Tile) {
        let mut sums = [[_mm512_setzero_ps(); 2]; R];
        for (weights, values) in panel.iter().zip(x.as_chunks::<R>().0) {
            // A panel is longer than the first-level cache, and the processor alone fetches it too late.
            let (next, next_x) =
                (std::ptr::from_ref(weights).wrapping_add(24), std::ptr::from_ref(values).wrapping_add(24));
            _mm_prefetch::<_MM_HINT_T0>(next.cast());
            _mm_prefetch::<_MM_HINT_T0>(next.cast::<i8>().wrapping_add(64));
            _mm_prefetch::<_MM_HINT_T0>(next_x.cast());
            let (low, high) = (load16(weights, 0), load16(weights, 1));
            for row in 0..R {
                let value = _mm512_set1_ps(values[row]);
                sums[row][0] = _mm512_fmadd_ps(value, low, sums[row][0]);
                sums[row][1] = _mm512_fmadd_ps(value, high, sums[row][1]);
            }
        }
        for row in 0..R {
            for half in 0..2 {
                let target = &mut tile[row].as_chunks_mut::<16>().0[half];
                // SAFETY: `target` is 16 writable floats; the store needs no alignment.
                unsafe { _mm512_storeu_ps(target.as_mut_ptr(), sums[row][half]) };
            }
        }
    }

    #[target_feature(enable = "avx2")]
    fn load8(row: &PanelRow, quarter: usize) -> __m256 {
        let lanes = &row.0.as_chunks::<8>().0[quarter];
        // SAFETY: 8 floats are readable, and a `PanelRow` is aligned to 64 bytes, so each quarter is to 32.
        unsafe { _mm256_load_ps(lanes.as_ptr()) }
    }

    /// 16 columns and at most 4 rows at a time: eight sums fit the 16 registers, a whole tile does not.
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn tile_avx2<const R: usize>(panel: &[PanelRow], x: &[f32], tile: &mut Tile) {
        for half in 0..2 {
            let mut row = 0;
            while row < R {
                match R - row {
                    1 => half_avx2::<R, 1>(panel, x, row, half, tile),
                    2 => half_avx2::<R, 2>(panel, x, row, half, tile),
                    3 => half_avx2::<R, 3>(panel, x, row, half, tile),
                    _ => half_avx2::<R, 4>(panel, x, row, half, tile),
                }
                row += 4;
            }
        }
    }

    #[target_feature(enable = "avx2,fma")]
    fn half_avx2<const R: usize, const N: usize>(
        panel: &[PanelRow],
        x: &[f32],
        first: usize,
        half: usize,
        tile: &mut Tile,
    ) {
        let mut sums = [[_mm256_setzero_ps(); 2]; N];
        for (weights, values) in panel.iter().zip(x.as_chunks::<R>().0) {
            let low = load8(weights, half * 2);
            let high = load8(weights, half * 2 + 1);
            let values = &values[first..first + N];
            for row in 0..N {
                let value = _mm256_set1_ps(values[row]);
                sums[row][0] = _mm256_fmadd_ps(value, low, sums[row][0]);
                sums[row][1] = _mm256_fmadd_ps(value, high, sums[row][1]);
            }
        }
        for row in 0..N {
            for quarter in 0..2 {
                let target = &mut tile[first + row].as_chunks_mut::<8>().0[half * 2 + quarter];
                // SAFETY: `target` is 8 writable floats; the store needs no alignment.
                unsafe { _mm256_storeu_ps(target.as_mut_ptr(), sums[row][quarter]) };
            }
        }
    }
}

/// A row-major output that several threads fill at once, each its own part.
pub(super) struct SharedOutput<'a> {
    start: *mut f32,
    length: usize,
    owner: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: it is a `&mut [f32]` that is only used through `write` and `part`, whose contracts forbid overlap.
unsafe impl Sync for SharedOutput<'_> {}

impl<'a> SharedOutput<'a> {
    pub(super) fn new(output: &'a mut [f32]) -> Self {
        Self { start: output.as_mut_ptr(), length: output.len(), owner: std::marker::PhantomData }
    }

    /// An output of which nothing has been written yet: only [`SharedOutput::write`] may be used.
    pub(super) fn unwritten(output: &'a mut [MaybeUninit<f32>]) -> Self {
        Self { start: output.as_mut_ptr().cast(), length: output.len(), owner: std::marker::PhantomData }
    }

    /// Writes `values` from `offset` on.
    ///
    /// # Safety
    /// Meanwhile no other call may write an overlapping part.
    pub(super) unsafe fn write(&self, offset: usize, values: &[f32]) {
        assert!(offset + values.len() <= self.length, "a tile outside the output");
        // SAFETY: inside the allocation by the line above, unaliased by the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.start.add(offset), values.len()) };
    }

    /// The part of the output from `offset` on, `length` elements.
    ///
    /// # Safety
    /// While the returned slice lives, no other call may give out an overlapping part.
    #[expect(clippy::mut_from_ref, reason = "parts are disjoint by contract")]
    pub(super) unsafe fn part(&self, offset: usize, length: usize) -> &mut [f32] {
        assert!(offset + length <= self.length, "a tile outside the output");
        // SAFETY: inside the allocation by the line above, unaliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(offset), length) }
    }
}
