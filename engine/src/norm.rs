//! RMSNorm on the CPU (arXiv 1910.07467): `y = x / sqrt(mean(x²) + eps) * weight`.

use crate::instruction_sets::for_each_instruction_set;
use crate::lanes::{LANES, fold};
use crate::threads::SERIAL;
use rayon::prelude::*;

/// Of each stretch of `x`, as long as `weight`.
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], eps: f64) -> Vec<f32> {
    let mut output = vec![0.0f32; x.len()];
    let width = weight.len();
    let rows = output.par_chunks_exact_mut(width).zip(x.par_chunks_exact(width));
    rows.with_min_len(SERIAL.div_ceil(width)).for_each(|(output, x)| scaled(x, scale(x, eps) as f32, weight, output));
    output
}

/// `1 / sqrt(mean(x²) + eps)`.
pub(crate) fn scale(x: &[f32], eps: f64) -> f64 {
    1.0 / (squares(x) / x.len() as f64 + eps).sqrt()
}

for_each_instruction_set! {
    /// `output = x * scale * weight`.
    fn scaled(x: &[f32], scale: f32, weight: &[f32], output: &mut [f32]) = scaled_body
}

#[inline(always)]
fn scaled_body(x: &[f32], scale: f32, weight: &[f32], output: &mut [f32]) {
    for ((y, x), weight) in output.iter_mut().zip(x).zip(weight) {
        *y = x * scale * weight;
    }
}

for_each_instruction_set! {
    /// The sum of the squares, in f64.
    fn squares(x: &[f32]) -> f64 = squares_body
}

#[inline(always)]
fn squares_body(x: &[f32]) -> f64 {
    let mut lanes = [0f64; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] += f64::from(chunk[lane]) * f64::from(chunk[lane]);
        }
    }
    for (lane, x) in rest.iter().enumerate() {
        lanes[lane] += f64::from(*x) * f64::from(*x);
    }
    fold(lanes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects: the same bits on every processor, of rows that fill the lanes and of those that do not.
    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        for length in [1, 15, 16, 1003] {
            let x: Vec<f32> = (0..length).map(|i| (i as f32 * 0.37).sin() * 20.0).collect();
            let weight: Vec<f32> = (0..length).map(|i| (i as f32 * 0.53).cos()).collect();
            assert_eq!(squares(&x).to_bits(), squares_body(&x).to_bits());
            let [mut fast, mut plain] = std::array::from_fn(|_| vec![0f32; length]);
            scaled(&x, 0.7, &weight, &mut fast);
            scaled_body(&x, 0.7, &weight, &mut plain);
            assert_eq!(fast, plain);
        }
    }
}
