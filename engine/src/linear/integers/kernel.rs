//! The innermost loops of products in integers, for processors that multiply bytes and for others.
//!
//! Sums of codes are whole numbers, whatever their order; what follows is the same chain of roundings everywhere. So all
//! versions give equal bits.

#![expect(
    clippy::needless_range_loop,
    reason = "counted loops over registers: the compiler unrolls them, and they read as the formula does"
)]

use super::super::panels::{PANEL, PanelRow};
use super::rows::RowsTile;
use super::{BLOCK, HALF, Line, QUAD, TILE_ROWS};

/// The sums of up to [`TILE_ROWS`] rows by one panel of outputs.
pub(super) type Tile = [[f32; PANEL]; TILE_ROWS];

/// How many bits codes have, and how many inputs share a factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Codes of 4 bits, steps of 32.
    Nibbles,
    /// Codes of 8 bits, steps of 32.
    Bytes,
    /// Codes of 8 bits, steps of 16.
    BytesBy16,
}

/// One panel's codes, factors and offsets.
#[derive(Clone, Copy)]
pub(super) struct PanelCodes<'a> {
    pub(super) kind: Kind,
    pub(super) lines: &'a [Line],
    pub(super) factors: &'a [PanelRow],
    /// As many as factors, or none if all are zero.
    pub(super) offsets: &'a [PanelRow],
}

impl Kind {
    pub(super) const fn step(self) -> usize {
        match self {
            Self::Nibbles | Self::Bytes => BLOCK,
            Self::BytesBy16 => BLOCK / 2,
        }
    }

    /// Lines of a quad of inputs.
    pub(super) const fn lines(self) -> usize {
        match self {
            Self::Nibbles => 1,
            Self::Bytes | Self::BytesBy16 => 2,
        }
    }
}

impl PanelCodes<'_> {
    /// The sums of `rows` (1 to [`TILE_ROWS`]) rows over all inputs.
    pub(super) fn tile(self, x: RowsTile<'_>, rows: usize, vnni: Option<Vnni>, tile: &mut Tile) {
        match rows {
            1 => self.tile_of::<1>(x, vnni, tile),
            2 => self.tile_of::<2>(x, vnni, tile),
            3 => self.tile_of::<3>(x, vnni, tile),
            4 => self.tile_of::<4>(x, vnni, tile),
            5 => self.tile_of::<5>(x, vnni, tile),
            6 => self.tile_of::<6>(x, vnni, tile),
            7 => self.tile_of::<7>(x, vnni, tile),
            _ => self.tile_of::<TILE_ROWS>(x, vnni, tile),
        }
    }

    fn tile_of<const R: usize>(self, x: RowsTile<'_>, vnni: Option<Vnni>, tile: &mut Tile) {
        match self.kind {
            Kind::Nibbles => self.tile_by::<R, 1, 8>(x, vnni, tile),
            Kind::Bytes => self.tile_by::<R, 2, 8>(x, vnni, tile),
            Kind::BytesBy16 => self.tile_by::<R, 2, 4>(x, vnni, tile),
        }
    }

    /// `L` lines of a quad, `Q` quads of a step.
    fn tile_by<const R: usize, const L: usize, const Q: usize>(
        self,
        x: RowsTile<'_>,
        vnni: Option<Vnni>,
        tile: &mut Tile,
    ) {
        // The kernels read no further than this.
        let steps = self.factors.len();
        assert!(self.lines.len() == steps * Q * L && (self.offsets.is_empty() || self.offsets.len() == steps));
        assert!(x.quads.len() == steps * Q * R && x.sums.len() == steps * R);
        assert!(x.factors.len() == steps * Q * QUAD / BLOCK * R);
        match vnni {
            // SAFETY: the instructions were detected, and the lengths are as above.
            #[cfg(target_arch = "x86_64")]
            Some(Vnni(())) => unsafe { x86::tile::<R, L, Q>(self, x, tile) },
            _ => tile_portable::<R, L, Q>(self, x, tile),
        }
    }
}

/// There where the processor multiplies bytes and adds them up to 32 bits, in registers of 512.
#[derive(Debug, Clone, Copy)]
pub(super) struct Vnni(());

impl Vnni {
    pub(super) fn detected() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        let found = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni");
        #[cfg(not(target_arch = "x86_64"))]
        let found = false;
        found.then_some(Self(()))
    }
}

fn tile_portable<const R: usize, const L: usize, const Q: usize>(
    panel: PanelCodes<'_>,
    x: RowsTile<'_>,
    tile: &mut Tile,
) {
    for row in 0..R {
        let mut sums = [0.0f32; PANEL];
        for step in 0..panel.factors.len() {
            let sum = x.sums[step * R + row];
            let mut codes = [if L == 1 { 0 } else { sum.start }; PANEL];
            for quad in step * Q..(step + 1) * Q {
                let values = x.quads[quad * R + row].map(i32::from);
                for lane in 0..PANEL {
                    let byte = lane % HALF * QUAD;
                    let weights: [u8; QUAD] = std::array::from_fn(|input| match (L, lane < HALF) {
                        (1, true) => panel.lines[quad].0[byte + input] & 15,
                        (1, false) => panel.lines[quad].0[byte + input] >> 4,
                        _ => panel.lines[quad * L + lane / HALF].0[byte + input],
                    });
                    codes[lane] += weights.iter().zip(values).map(|(w, x)| i32::from(*w) * x).sum::<i32>();
                }
            }
            let factor = x.factors[step * Q * QUAD / BLOCK * R + row];
            for lane in 0..PANEL {
                sums[lane] = (codes[lane] as f32 * factor).mul_add(panel.factors[step].0[lane], sums[lane]);
            }
            if let Some(offsets) = panel.offsets.get(step) {
                for lane in 0..PANEL {
                    sums[lane] = offsets.0[lane].mul_add(sum.value, sums[lane]);
                }
            }
        }
        tile[row] = sums;
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m512, __m512i, _MM_HINT_T0, _mm_prefetch, _mm512_and_si512, _mm512_cvtepi32_ps, _mm512_dpbusd_epi32,
        _mm512_fmadd_ps, _mm512_load_ps, _mm512_load_si512, _mm512_loadu_ps, _mm512_mul_ps, _mm512_set1_epi32,
        _mm512_set1_ps, _mm512_setzero_si512, _mm512_srli_epi32, _mm512_storeu_ps,
    };

    use super::{BLOCK, Line, PanelCodes, PanelRow, QUAD, RowsTile, Tile};

    /// Lines from `first` on that hold one quad: codes of the panel's halves.
    ///
    /// # Safety
    /// There are `L` lines.
    #[target_feature(enable = "avx512f")]
    unsafe fn codes<const L: usize>(first: *const Line) -> [__m512i; 2] {
        // SAFETY: by the caller; a line is aligned to its 64 bytes.
        let line = unsafe { _mm512_load_si512(first.cast()) };
        if L == 1 {
            let mask = _mm512_set1_epi32(0x0f0f_0f0f);
            [_mm512_and_si512(line, mask), _mm512_and_si512(_mm512_srli_epi32::<4>(line), mask)]
        } else {
            // SAFETY: as above.
            [line, unsafe { _mm512_load_si512(first.add(1).cast()) }]
        }
    }

    /// Both halves of a panel's row.
    #[target_feature(enable = "avx512f")]
    fn halves(row: &PanelRow) -> [__m512; 2] {
        let start = row.0.as_ptr();
        // SAFETY: a row has 32 numbers and is aligned to 64 bytes.
        unsafe { [_mm512_load_ps(start), _mm512_load_ps(start.add(16))] }
    }

    /// # Safety
    /// As `tile_by` has checked: there are as many lines, quads, factors and sums as the panel has steps.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) unsafe fn tile<const R: usize, const L: usize, const Q: usize>(
        panel: PanelCodes<'_>,
        x: RowsTile<'_>,
        tile: &mut Tile,
    ) {
        for sums in &mut tile[..R] {
            *sums = [0.0; super::PANEL];
        }
        for (step, factors) in panel.factors.iter().enumerate() {
            let mut sums = [[_mm512_setzero_si512(); 2]; R];
            if L == 2 {
                for row in 0..R {
                    // SAFETY: there are `R` sums of every step.
                    let start = unsafe { x.sums.get_unchecked(step * R + row).start };
                    sums[row] = [_mm512_set1_epi32(start); 2];
                }
            }
            for quad in step * Q..(step + 1) * Q {
                // SAFETY: every step has `Q` quads of `L` lines, and of `R` inputs.
                let (codes, values) = unsafe {
                    let line = panel.lines.as_ptr().add(quad * L);
                    _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(16 * L).cast());
                    (codes::<L>(line), x.quads.as_ptr().add(quad * R).cast::<i32>())
                };
                for row in 0..R {
                    // SAFETY: as above; a quad is as large as an i32.
                    let value = _mm512_set1_epi32(unsafe { values.add(row).read_unaligned() });
                    sums[row][0] = _mm512_dpbusd_epi32(sums[row][0], codes[0], value);
                    sums[row][1] = _mm512_dpbusd_epi32(sums[row][1], codes[1], value);
                }
            }
            let scale = halves(factors);
            for row in 0..R {
                // SAFETY: every block has `R` factors.
                let factor = unsafe { *x.factors.get_unchecked(step * Q * QUAD / BLOCK * R + row) };
                let factor = _mm512_set1_ps(factor);
                for half in 0..2 {
                    let place = tile[row][half * 16..].as_mut_ptr();
                    let value = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[row][half]), factor);
                    // SAFETY: `place` is followed by 16 numbers.
                    unsafe { _mm512_storeu_ps(place, _mm512_fmadd_ps(value, scale[half], _mm512_loadu_ps(place))) };
                }
            }
            if let Some(offsets) = panel.offsets.get(step) {
                let offsets = halves(offsets);
                for row in 0..R {
                    // SAFETY: there are `R` sums of every step.
                    let value = _mm512_set1_ps(unsafe { x.sums.get_unchecked(step * R + row).value });
                    for half in 0..2 {
                        let place = tile[row][half * 16..].as_mut_ptr();
                        // SAFETY: `place` is followed by 16 numbers.
                        unsafe {
                            _mm512_storeu_ps(place, _mm512_fmadd_ps(offsets[half], value, _mm512_loadu_ps(place)))
                        };
                    }
                }
            }
        }
    }
}
