//! How kept weights are spread out in f32, once per instruction set.
//!
//! For every kind of code that is kept, the product of a code and its factor is exact in f32 (codes of up to 5 bits, factors
//! of up to 17), or nothing is added to it: so it makes no difference whether the addition is fused, and all versions give
//! equal bits.

use half::{bf16, f16};

use super::panels::{PANEL, PanelRow};
use crate::instruction_sets::Instructions;

/// Half of a panel: the outputs whose 4-bit codes are the low halves of bytes.
pub(super) const HALF: usize = PANEL / 2;

/// A factor and an offset for each output of a panel.
#[derive(Clone, Copy)]
pub(super) struct Scale<'a> {
    pub(super) factors: &'a PanelRow,
    pub(super) offsets: &'a PanelRow,
}

macro_rules! spread {
    ($(#[$doc:meta])* $name:ident($row:ty $(, $scale:ident)?) = $wide:ident, $narrow:ident, $plain:ident) => {
        $(#[$doc])*
        pub(super) fn $name(rows: &[$row] $(, $scale: Scale<'_>)?, target: &mut [PanelRow]) {
            match Instructions::best() {
                // SAFETY: the variant exists only where the instructions were detected.
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx512 => unsafe { x86::$wide(rows $(, $scale)?, target) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx2 => unsafe { x86::$narrow(rows $(, $scale)?, target) },
                Instructions::Portable => $plain(rows $(, $scale)?, target),
            }
        }
    };
}

spread! {
    /// bf16: the upper halves of f32.
    brain([bf16; PANEL]) = brain_avx512, brain_avx2, brain_plain
}
spread! {
    /// f16.
    half([f16; PANEL]) = half_avx512, half_avx2, half_plain
}
spread! {
    /// Signed codes of 8 bits.
    bytes([i8; PANEL], scale) = bytes_avx512, bytes_avx2, bytes_plain
}
spread! {
    /// Codes of 4 bits: the low half of byte `j` is output `j`'s, the high half output `j + HALF`'s.
    nibbles([u8; HALF], scale) = nibbles_avx512, nibbles_avx2, nibbles_plain
}

fn brain_plain(rows: &[[bf16; PANEL]], target: &mut [PanelRow]) {
    for (row, target) in rows.iter().zip(target) {
        target.0 = row.map(bf16::to_f32);
    }
}

fn half_plain(rows: &[[f16; PANEL]], target: &mut [PanelRow]) {
    for (row, target) in rows.iter().zip(target) {
        target.0 = row.map(f16::to_f32);
    }
}

fn bytes_plain(rows: &[[i8; PANEL]], scale: Scale<'_>, target: &mut [PanelRow]) {
    for (row, target) in rows.iter().zip(target) {
        for (lane, code) in row.iter().enumerate() {
            target.0[lane] = f32::from(*code) * scale.factors.0[lane] + scale.offsets.0[lane];
        }
    }
}

fn nibbles_plain(rows: &[[u8; HALF]], scale: Scale<'_>, target: &mut [PanelRow]) {
    for (row, target) in rows.iter().zip(target) {
        for (lane, codes) in row.iter().enumerate() {
            for (lane, code) in [(lane, codes & 15), (lane + HALF, codes >> 4)] {
                target.0[lane] = f32::from(code) * scale.factors.0[lane] + scale.offsets.0[lane];
            }
        }
    }
}

/// Explicit vectors: left to itself the compiler makes vectors across rows, which is slower than none.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128i, __m256, __m256i, __m512, __m512i, _MM_HINT_T0, _mm_loadl_epi64, _mm_loadu_si128, _mm_prefetch,
        _mm256_and_si256, _mm256_castsi256_ps, _mm256_cvtepi8_epi32, _mm256_cvtepi32_ps, _mm256_cvtepu8_epi32,
        _mm256_cvtepu16_epi32, _mm256_cvtph_ps, _mm256_fmadd_ps, _mm256_load_ps, _mm256_loadu_si256, _mm256_set1_epi32,
        _mm256_slli_epi32, _mm256_srli_epi32, _mm256_store_ps, _mm512_and_si512, _mm512_castsi512_ps,
        _mm512_cvtepi8_epi32, _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32, _mm512_cvtepu16_epi32, _mm512_cvtph_ps,
        _mm512_fmadd_ps, _mm512_load_ps, _mm512_set1_epi32, _mm512_slli_epi32, _mm512_srli_epi32, _mm512_store_ps,
    };

    use super::{HALF, PANEL, PanelRow, Scale, bf16, f16};

    /// Loads 16 lanes of a row, from `16 * part` on.
    #[target_feature(enable = "avx512f")]
    fn load16(row: &PanelRow, part: usize) -> __m512 {
        // SAFETY: 16 floats are readable; a row is aligned to 64 bytes, so each half is.
        unsafe { _mm512_load_ps(row.0.as_chunks::<16>().0[part].as_ptr()) }
    }

    #[target_feature(enable = "avx512f")]
    fn store16(row: &mut PanelRow, part: usize, values: __m512) {
        // SAFETY: 16 floats are writable, aligned as above.
        unsafe { _mm512_store_ps(row.0.as_chunks_mut::<16>().0[part].as_mut_ptr(), values) };
    }

    #[target_feature(enable = "avx2")]
    fn load8(row: &PanelRow, part: usize) -> __m256 {
        // SAFETY: 8 floats are readable; a row is aligned to 64 bytes, so each quarter is to 32.
        unsafe { _mm256_load_ps(row.0.as_chunks::<8>().0[part].as_ptr()) }
    }

    #[target_feature(enable = "avx2")]
    fn store8(row: &mut PanelRow, part: usize, values: __m256) {
        // SAFETY: 8 floats are writable, aligned as above.
        unsafe { _mm256_store_ps(row.0.as_chunks_mut::<8>().0[part].as_mut_ptr(), values) };
    }

    /// 16 bytes from the beginning of `values`.
    #[target_feature(enable = "sse2")]
    fn bytes16<T>(values: &[T]) -> __m128i {
        assert!(size_of_val(values) >= 16);
        // SAFETY: 16 bytes are readable by the line above; the load needs no alignment.
        unsafe { _mm_loadu_si128(values.as_ptr().cast()) }
    }

    /// 8 bytes from the beginning of `values`.
    #[target_feature(enable = "sse2")]
    fn bytes8<T>(values: &[T]) -> __m128i {
        assert!(size_of_val(values) >= 8);
        // SAFETY: 8 bytes are readable by the line above; the load needs no alignment.
        unsafe { _mm_loadl_epi64(values.as_ptr().cast()) }
    }

    /// 32 bytes from the beginning of `values`.
    #[target_feature(enable = "avx")]
    fn bytes32<T>(values: &[T]) -> __m256i {
        assert!(size_of_val(values) >= 32);
        // SAFETY: 32 bytes are readable by the line above; the load needs no alignment.
        unsafe { _mm256_loadu_si256(values.as_ptr().cast()) }
    }

    /// What is spread out comes from memory, and the processor alone fetches it too late.
    #[target_feature(enable = "sse")]
    fn fetch<T>(place: *const T) {
        _mm_prefetch::<_MM_HINT_T0>(place.cast());
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn brain_avx512(rows: &[[bf16; PANEL]], target: &mut [PanelRow]) {
        for (row, target) in rows.iter().zip(target) {
            for part in 0..PANEL / 16 {
                let upper = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bytes32(&row[part * 16..])));
                store16(target, part, _mm512_castsi512_ps(upper));
            }
        }
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn brain_avx2(rows: &[[bf16; PANEL]], target: &mut [PanelRow]) {
        for (row, target) in rows.iter().zip(target) {
            for part in 0..PANEL / 8 {
                let upper = _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bytes16(&row[part * 8..])));
                store8(target, part, _mm256_castsi256_ps(upper));
            }
        }
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn half_avx512(rows: &[[f16; PANEL]], target: &mut [PanelRow]) {
        for (row, target) in rows.iter().zip(target) {
            for part in 0..PANEL / 16 {
                store16(target, part, _mm512_cvtph_ps(bytes32(&row[part * 16..])));
            }
        }
    }

    #[target_feature(enable = "avx2,f16c")]
    pub(super) fn half_avx2(rows: &[[f16; PANEL]], target: &mut [PanelRow]) {
        for (row, target) in rows.iter().zip(target) {
            for part in 0..PANEL / 8 {
                store8(target, part, _mm256_cvtph_ps(bytes16(&row[part * 8..])));
            }
        }
    }

    #[target_feature(enable = "avx512f")]
    fn scaled16(codes: __m512i, factors: __m512, offsets: __m512) -> __m512 {
        _mm512_fmadd_ps(_mm512_cvtepi32_ps(codes), factors, offsets)
    }

    #[target_feature(enable = "avx2,fma")]
    fn scaled8(codes: __m256i, factors: __m256, offsets: __m256) -> __m256 {
        _mm256_fmadd_ps(_mm256_cvtepi32_ps(codes), factors, offsets)
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn bytes_avx512(rows: &[[i8; PANEL]], scale: Scale<'_>, target: &mut [PanelRow]) {
        for part in 0..PANEL / 16 {
            let (factors, offsets) = (load16(scale.factors, part), load16(scale.offsets, part));
            for (row, target) in rows.iter().zip(&mut *target) {
                fetch(std::ptr::from_ref(row).wrapping_add(32));
                let codes = _mm512_cvtepi8_epi32(bytes16(&row[part * 16..]));
                store16(target, part, scaled16(codes, factors, offsets));
            }
        }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn bytes_avx2(rows: &[[i8; PANEL]], scale: Scale<'_>, target: &mut [PanelRow]) {
        for part in 0..PANEL / 8 {
            let (factors, offsets) = (load8(scale.factors, part), load8(scale.offsets, part));
            for (row, target) in rows.iter().zip(&mut *target) {
                let codes = _mm256_cvtepi8_epi32(bytes8(&row[part * 8..]));
                store8(target, part, scaled8(codes, factors, offsets));
            }
        }
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn nibbles_avx512(rows: &[[u8; HALF]], scale: Scale<'_>, target: &mut [PanelRow]) {
        let mask = _mm512_set1_epi32(15);
        let factors = [load16(scale.factors, 0), load16(scale.factors, 1)];
        let offsets = [load16(scale.offsets, 0), load16(scale.offsets, 1)];
        for (row, target) in rows.iter().zip(target) {
            fetch(std::ptr::from_ref(row).wrapping_add(64));
            let codes = _mm512_cvtepu8_epi32(bytes16(row));
            store16(target, 0, scaled16(_mm512_and_si512(codes, mask), factors[0], offsets[0]));
            store16(target, 1, scaled16(_mm512_srli_epi32::<4>(codes), factors[1], offsets[1]));
        }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn nibbles_avx2(rows: &[[u8; HALF]], scale: Scale<'_>, target: &mut [PanelRow]) {
        let mask = _mm256_set1_epi32(15);
        for part in 0..HALF / 8 {
            let factors = [load8(scale.factors, part), load8(scale.factors, part + 2)];
            let offsets = [load8(scale.offsets, part), load8(scale.offsets, part + 2)];
            for (row, target) in rows.iter().zip(&mut *target) {
                let codes = _mm256_cvtepu8_epi32(bytes8(&row[part * 8..]));
                store8(target, part, scaled8(_mm256_and_si256(codes, mask), factors[0], offsets[0]));
                store8(target, part + 2, scaled8(_mm256_srli_epi32::<4>(codes), factors[1], offsets[1]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(rows: &[PanelRow]) -> Vec<u32> {
        rows.iter().flat_map(|row| row.0.map(f32::to_bits)).collect()
    }

    /// Protects: every instruction set spreads out alike, codes at their bounds and special halves too.
    #[test]
    fn every_instruction_set_spreads_out_alike() {
        let mut noise = 1u32;
        let mut next = || {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            noise >> 16
        };
        let mut factors = PanelRow::ZERO;
        let mut offsets = PanelRow::ZERO;
        for lane in 0..PANEL {
            // As files have them: no more bits than f16 and a 6-bit factor.
            factors.0[lane] = f16::from_f32(next() as f32 / 1e6 - 0.03).to_f32() * 37.0;
            offsets.0[lane] = f16::from_f32(next() as f32 / 1e5 - 0.3).to_f32();
        }
        let scale = Scale { factors: &factors, offsets: &offsets };
        let nothing = Scale { factors: &factors, offsets: &PanelRow::ZERO };
        let mut pair = [vec![PanelRow::ZERO; 5], vec![PanelRow::ZERO; 5]];
        let [fast, plain] = &mut pair;
        for _ in 0..200 {
            let low: [[u8; HALF]; 5] = std::array::from_fn(|_| std::array::from_fn(|_| next() as u8));
            nibbles(&low, scale, fast);
            nibbles_plain(&low, scale, plain);
            assert_eq!(bits(fast), bits(plain));
            let codes: [[i8; PANEL]; 5] = std::array::from_fn(|_| std::array::from_fn(|_| next() as i8));
            // With an offset, codes of 8 bits have 5 that count.
            for (codes, scale) in [(codes.map(|row| row.map(|code| code & 31)), scale), (codes, nothing)] {
                bytes(&codes, scale, fast);
                bytes_plain(&codes, scale, plain);
                assert_eq!(bits(fast), bits(plain));
            }
            let halves: [[u16; PANEL]; 5] = std::array::from_fn(|_| std::array::from_fn(|_| next() as u16));
            // Without NaN, which may come with other bits.
            let brains =
                halves.map(|row| row.map(bf16::from_bits).map(|b| if b.is_nan() { bf16::INFINITY } else { b }));
            brain(&brains, fast);
            brain_plain(&brains, plain);
            assert_eq!(bits(fast), bits(plain));
            let halves = halves.map(|row| row.map(f16::from_bits).map(|h| if h.is_nan() { f16::INFINITY } else { h }));
            half(&halves, fast);
            half_plain(&halves, plain);
            assert_eq!(bits(fast), bits(plain));
        }
    }
}
