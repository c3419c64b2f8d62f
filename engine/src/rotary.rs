//! Rotary position embedding on the CPU (arXiv 2104.09864), pairing element `i` with `i + width/2` as Hugging Face does.

use crate::instruction_sets::for_each_instruction_set;
use crate::threads::SERIAL;
use candle_core::{Result, bail};
use rayon::prelude::*;

/// The angles of some tokens: cosines and sines, `half` of each for a token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Angles<'a> {
    pub(crate) cos: &'a [f32],
    pub(crate) sin: &'a [f32],
    pub(crate) half: usize,
}

impl Angles<'_> {
    /// Every head of `x`, rows of `width` numbers, each row by its own angles times `direction`: 1, or -1 to turn back.
    pub(crate) fn turn(self, x: &[f32], width: usize, direction: f32) -> Result<Vec<f32>> {
        let Angles { cos, sin, half } = self;
        if !width.is_multiple_of(2 * half) || x.len() * half != cos.len() * width || sin.len() != cos.len() {
            bail!("{} angles of heads of {} do not fit {} numbers in rows of {width}", cos.len(), 2 * half, x.len());
        }
        let mut output = vec![0.0f32; x.len()];
        let rows = output.par_chunks_exact_mut(width).zip(x.par_chunks_exact(width));
        let rows = rows.zip(cos.par_chunks_exact(half).zip(sin.par_chunks_exact(half)));
        rows.with_min_len(SERIAL.div_ceil(width)).for_each(|((output, x), (cos, sin))| {
            turn_row(x, cos, sin, direction, output);
        });
        Ok(output)
    }
}

for_each_instruction_set! {
    /// One row's heads.
    fn turn_row(x: &[f32], cos: &[f32], sin: &[f32], direction: f32, output: &mut [f32]) = turn_row_body
}

#[inline(always)]
fn turn_row_body(x: &[f32], cos: &[f32], sin: &[f32], direction: f32, output: &mut [f32]) {
    let half = cos.len();
    for (output, x) in output.chunks_exact_mut(2 * half).zip(x.chunks_exact(2 * half)) {
        let ((left, right), (a, b)) = (output.split_at_mut(half), x.split_at(half));
        let pairs = left.iter_mut().zip(right).zip(a.iter().zip(b));
        for (((left, right), (a, b)), (cos, sin)) in pairs.zip(cos.iter().zip(sin)) {
            let sin = sin * direction;
            *left = a * cos - b * sin;
            *right = b * cos + a * sin;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Protects: the same bits on every processor, for halves that fill vectors and that do not; turned back it is what it was;
    /// angles that do not fit are refused.
    #[test]
    fn heads_turn_alike_everywhere_and_back() {
        for half in [1, 7, 16, 40] {
            let (rows, width) = (3, 4 * half);
            let x: Vec<f32> = (0..rows * width).map(|i| (i as f32 * 0.37).sin()).collect();
            let (cos, sin): (Vec<f32>, Vec<f32>) =
                (0..rows * half).map(|i| ((i as f32).cos(), (i as f32).sin())).unzip();
            let angles = Angles { cos: &cos, sin: &sin, half };
            let turned = angles.turn(&x, width, 1.0).unwrap();
            let mut plain = vec![0f32; x.len()];
            let row = |all: &[f32], row: usize| all[row * half..(row + 1) * half].to_vec();
            for (index, (plain, x)) in plain.chunks_mut(width).zip(x.chunks(width)).enumerate() {
                turn_row_body(x, &row(&cos, index), &row(&sin, index), 1.0, plain);
            }
            assert_eq!(turned, plain);
            let back = angles.turn(&turned, width, -1.0).unwrap();
            assert!(back.iter().zip(&x).all(|(back, x)| (back - x).abs() < 1e-6));
            assert!(angles.turn(&x[width..], width, 1.0).is_err());
        }
    }
}
