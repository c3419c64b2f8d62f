//! Randomness by counters: what is drawn depends on the seed and on what it is for, never on what was drawn before.

use super::operations::Mask;
use crate::lora::Projection;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;

/// What a stream of numbers is for.
#[derive(Debug, Clone, Copy)]
enum Purpose {
    Initial = 1,
    Order = 2,
    Dropout = 3,
}

fn stream(seed: u64, purpose: Purpose, counters: [u64; 3]) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    // The purpose shares the last counter's top byte: layers and projections fit far below it.
    let last = counters[2] | (purpose as u64) << 56;
    for (bytes, word) in key.chunks_exact_mut(8).zip([seed, counters[0], counters[1], last]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// The upper 24 of 32 random bits as a number from 0 to below 1.
fn unit(bits: u32) -> f32 {
    (bits >> 8) as f32 / (1u32 << 24) as f32
}

fn place(layer: usize, projection: Projection) -> u64 {
    (layer as u64) << 8 | projection as u64
}

/// Initial A `[rank, inputs]` of a projection: uniform between the bounds `±1/sqrt(inputs)`, which is what
/// Kaiming's uniform draw with `a = sqrt(5)` comes to (arXiv 1502.01852; the choice of PEFT).
pub(super) fn initial_a(seed: u64, layer: usize, projection: Projection, rank: usize, inputs: usize) -> Vec<f32> {
    let mut random = stream(seed, Purpose::Initial, [0, 0, place(layer, projection)]);
    let bound = 1.0 / (inputs as f32).sqrt();
    (0..rank * inputs).map(|_| (2.0 * unit(random.next_u32()) - 1.0) * bound).collect()
}

/// The order of `count` rows in an epoch: a Fisher-Yates shuffle.
pub(super) fn order(seed: u64, epoch: usize, count: usize) -> Vec<usize> {
    let mut random = stream(seed, Purpose::Order, [epoch as u64, 0, 0]);
    let mut rows: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        rows.swap(last, below(&mut random, last as u64 + 1) as usize);
    }
    rows
}

/// A number below `bound`, each equally likely: draws from the incomplete last stretch are thrown away.
fn below(random: &mut ChaCha8Rng, bound: u64) -> u64 {
    let limit = u64::MAX - u64::MAX % bound;
    loop {
        let draw = random.next_u64();
        if draw < limit {
            return draw % bound;
        }
    }
}

/// Where dropout draws for one row in one step.
#[derive(Debug, Clone, Copy)]
pub(super) struct DropoutDraw {
    pub(super) seed: u64,
    pub(super) rate: f64,
    pub(super) step: usize,
    pub(super) row: usize,
}

impl DropoutDraw {
    /// A stream for whoever draws factors of its own.
    pub(super) fn key(&self, layer: usize, projection: Projection) -> u64 {
        self.stream(layer, projection).next_u64()
    }

    fn stream(&self, layer: usize, projection: Projection) -> ChaCha8Rng {
        let counters = [self.step as u64, self.row as u64, place(layer, projection)];
        stream(self.seed, Purpose::Dropout, counters)
    }

    /// Of `count` numbers, each dropped with probability `rate`: the one at `index` by the stream's word at `index`.
    pub(super) fn mask(&self, layer: usize, projection: Projection, count: usize) -> Mask {
        const TASK: usize = 1 << 14;
        const WORDS: usize = 256;
        let rate = self.rate as f32;
        let mut kept = vec![false; count];
        kept.par_chunks_mut(TASK).enumerate().for_each(|(task, kept)| {
            let mut random = self.stream(layer, projection);
            random.set_word_pos((task * TASK) as u128);
            let mut words = [[0u8; 4]; WORDS];
            for kept in kept.chunks_mut(WORDS) {
                let words = &mut words[..kept.len()];
                random.fill_bytes(words.as_flattened_mut());
                for (kept, word) in kept.iter_mut().zip(words) {
                    *kept = unit(u32::from_le_bytes(*word)) >= rate;
                }
            }
        });
        Mask { kept, factor: (1.0 / (1.0 - self.rate)) as f32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects: what is dropped is fixed by seed, step, row and place, by whatever threads and in whatever parts it is drawn.
    #[test]
    fn a_mask_follows_its_stream_word_by_word() {
        let draw = DropoutDraw { seed: 9, rate: 0.1, step: 3, row: 2 };
        let mask = draw.mask(1, Projection::Down, 40_001);
        let mut random = draw.stream(1, Projection::Down);
        assert!(mask.kept.iter().all(|kept| *kept == (unit(random.next_u32()) >= 0.1)));
        let dropped = mask.kept.iter().filter(|kept| !**kept).count();
        assert!((3_800..4_200).contains(&dropped), "{dropped} of 40,001 are dropped");
        assert_eq!(mask.factor, 1.0 / 0.9);
    }
}
