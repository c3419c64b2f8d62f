//! Elementwise mathematics in a fixed order, on whatever vectors the processor has.
//!
//! Multiplications and additions are kept apart (never fused), so every instruction set rounds alike, and the exponential is
//! our own, so that no system library's version changes a bit.

use crate::instruction_sets::for_each_instruction_set;
use crate::lanes::{LANES, fold};

/// Below it `e^x` is 0 for us.
const LOWEST: f32 = -87.336_54;

/// `e^x` in f32, within 2 units in the last place; 0 below the smallest normal result, the largest normal result above
/// it. Without branches, so that loops over it become vectors.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const HIGHEST: f32 = 88.722_83;
    let (power, n) = reduced(if x > HIGHEST { HIGHEST } else { x });
    // Halved so that neither factor leaves the range of normal numbers.
    let half = n >> 1;
    kept(power * power_of_two(half) * power_of_two(n.wrapping_sub(half)), x)
}

/// The bits of [`exp`] for an `x` that is not above 0, in fewer steps.
#[inline(always)]
pub(super) fn exp_below_zero(x: f32) -> f32 {
    let (power, n) = reduced(x);
    kept(power * power_of_two(n), x)
}

/// `e^x = power * 2^n`, where `x` is at least [`LOWEST`]. Argument reduction after Cody and Waite, polynomial from Cephes
/// (`expf`).
#[inline(always)]
fn reduced(x: f32) -> (f32, i32) {
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x < LOWEST { LOWEST } else { x };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * 0.693_359_4;
    let r = r - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    // The low bits of `shifted` are n. Wrapping arithmetic, here and below, for a check of overflow would be a branch.
    (p * (r * r) + r + 1.0, shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32)
}

#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) << 23) as u32)
}

/// `value`, or 0 where `x` is too low. A NaN is not below anything, so it is kept.
#[inline(always)]
fn kept(value: f32, x: f32) -> f32 {
    // All bits or none.
    f32::from_bits(value.to_bits() & u32::from(x < LOWEST).wrapping_sub(1))
}

for_each_instruction_set! {
    /// `gate = silu(gate) * up`, elementwise.
    pub(super) fn silu_times(gate: &mut [f32], up: &[f32]) = silu_times_body
}

#[inline(always)]
fn silu_times_body(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + exp(-*gate)) * up;
    }
}

for_each_instruction_set! {
    /// `gate = gelu(gate) * up`, elementwise, with `gelu(x) = x / 2 * (1 + tanh(u)) = x / (1 + e^(-2u))` and
    /// `u = sqrt(2 / pi) * (x + 0.044715 x^3)`.
    pub(super) fn gelu_times(gate: &mut [f32], up: &[f32]) = gelu_times_body
}

#[inline(always)]
fn gelu_times_body(gate: &mut [f32], up: &[f32]) {
    const TWICE: f32 = 2.0 * 0.797_884_6;
    for (gate, up) in gate.iter_mut().zip(up) {
        let x = *gate;
        let inner = x + 0.044_715 * x * x * x;
        *gate = x / (1.0 + exp(-TWICE * inner)) * up;
    }
}

for_each_instruction_set! {
    /// `x = cap * tanh(x / cap)`, elementwise.
    pub(crate) fn softcap(values: &mut [f32], cap: f32) = softcap_body
}

/// With `tanh(y) = 1 - 2 / (e^2y + 1)`.
#[inline(always)]
pub(super) fn softcap_body(values: &mut [f32], cap: f32) {
    for value in values {
        *value = cap * (1.0 - 2.0 / (exp(*value / cap * 2.0) + 1.0));
    }
}

for_each_instruction_set! {
    /// `sum of e^((x - shift) * factor)`, each term in f32, the sum in f64 lanes.
    pub(crate) fn sum_of_exp(values: &[f32], shift: f32, factor: f32) -> f64 = sum_of_exp_body
}

#[inline(always)]
fn sum_of_exp_body(values: &[f32], shift: f32, factor: f32) -> f64 {
    let mut lanes = [0f64; LANES];
    // In two plain loops per piece: the compiler makes vectors of them only so.
    let mut terms = [0f32; 16 * LANES];
    for piece in values.chunks(terms.len()) {
        let terms = &mut terms[..piece.len().next_multiple_of(LANES)];
        terms.fill(0.0);
        for (term, x) in terms.iter_mut().zip(piece) {
            *term = exp((x - shift) * factor);
        }
        for chunk in terms.as_chunks::<LANES>().0 {
            for (lane, term) in lanes.iter_mut().zip(chunk) {
                *lane += f64::from(*term);
            }
        }
    }
    fold(lanes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects: every probability and every attention weight rests on this exponential.
    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let mut worst = 0f64;
        for step in -8700..8870 {
            let x = step as f32 / 100.0 + 0.003;
            let exact = f64::from(x).exp();
            if x < 88.7 && x > -87.3 {
                worst = worst.max(((f64::from(exp(x)) - exact) / exact).abs());
            }
        }
        assert!(worst < 2.4e-7, "relative error {worst}");
        for x in (-9000..=0).map(|step| step as f32 / 100.0).chain([f32::NEG_INFINITY]) {
            assert_eq!(exp_below_zero(x).to_bits(), exp(x).to_bits(), "{x}");
        }
        assert!(exp_below_zero(f32::NAN).is_nan());
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(f32::INFINITY) > 3.3e38);
        assert!(exp(f32::NAN).is_nan(), "a NaN must not be hidden");
    }

    /// Protects: Gemma's activation and bounds, at their ends and between.
    #[test]
    fn gelu_and_softcap_follow_their_formulas() {
        let values = [-90.0f32, -3.0, -0.5, -1e-3, 0.0, 1e-3, 0.7, 4.0, 90.0];
        let (mut gelu, mut capped) = (values, values);
        gelu_times(&mut gelu, &[1.0; 9]);
        softcap(&mut capped, 2.0);
        for ((x, gelu), capped) in values.map(f64::from).into_iter().zip(gelu).zip(capped) {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            assert!((f64::from(gelu) - 0.5 * x * (1.0 + u.tanh())).abs() < 1e-6, "gelu({x}) is not {gelu}");
            assert!((f64::from(capped) - 2.0 * (x / 2.0).tanh()).abs() < 1e-6, "{x} is not capped to {capped}");
        }
    }

    /// Protects: the same bits on every processor.
    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let values: Vec<f32> = (0..1003).map(|i| (i as f32 * 0.37).sin() * 20.0).collect();
        let up: Vec<f32> = values.iter().rev().copied().collect();
        let (mut fast, mut plain) = (values.clone(), values.clone());
        silu_times(&mut fast, &up);
        silu_times_body(&mut plain, &up);
        assert_eq!(bits(&fast), bits(&plain));
        gelu_times(&mut fast, &up);
        gelu_times_body(&mut plain, &up);
        assert_eq!(bits(&fast), bits(&plain));
        softcap(&mut fast, 5.0);
        softcap_body(&mut plain, 5.0);
        assert_eq!(bits(&fast), bits(&plain));
        let fast = sum_of_exp(&values, 3.0, 0.7);
        assert_eq!(fast.to_bits(), sum_of_exp_body(&values, 3.0, 0.7).to_bits());
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|v| v.to_bits()).collect()
    }
}
