//! Randomness by counters: what is drawn depends on the seed and on what it is for, never on what was drawn before.

use crate::lora::Projection;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

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

/// 24 random bits as a number from 0 to below 1.
fn unit(random: &mut ChaCha8Rng) -> f32 {
    (random.next_u32() >> 8) as f32 / (1u32 << 24) as f32
}

fn place(layer: usize, projection: Projection) -> u64 {
    (layer as u64) << 8 | projection as u64
}

/// Initial A `[rank, inputs]` of a projection: uniform between the bounds `±1/sqrt(inputs)`, which is what
/// Kaiming's uniform draw with `a = sqrt(5)` comes to (arXiv 1502.01852; the choice of PEFT).
pub(super) fn initial_a(seed: u64, layer: usize, projection: Projection, rank: usize, inputs: usize) -> Vec<f32> {
    let mut random = stream(seed, Purpose::Initial, [0, 0, place(layer, projection)]);
    let bound = 1.0 / (inputs as f32).sqrt();
    (0..rank * inputs).map(|_| (2.0 * unit(&mut random) - 1.0) * bound).collect()
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

    /// `count` factors, 0 with probability `rate`, else `1 / (1 - rate)`.
    pub(super) fn factors(&self, layer: usize, projection: Projection, count: usize) -> Vec<f32> {
        let mut random = self.stream(layer, projection);
        let (rate, kept) = (self.rate as f32, (1.0 / (1.0 - self.rate)) as f32);
        (0..count).map(|_| if unit(&mut random) < rate { 0.0 } else { kept }).collect()
    }
}
