//! Randomness that is looked up instead of consumed.

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// The draw for step `index` of the request with this seed: uniform in `[0, 1)`, with 53 random bits.
///
/// It depends on its two arguments alone (ChaCha12, RFC 8439's construction with 12 rounds, keyed by the seed, at counter
/// `index`), so a request that is resumed, retried or batched differently draws the same numbers.
pub fn uniform(seed: u64, index: u64) -> f64 {
    let mut key = *b"influence-engine sampling stream";
    for (slot, byte) in key.iter_mut().zip(seed.to_le_bytes()) {
        *slot = byte;
    }
    let mut random = ChaCha12Rng::from_seed(key);
    // One block of sixteen words per step: a step may one day need more than one draw.
    random.set_word_pos(u128::from(index) * 16);
    (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects: a resumed run draws the numbers that the undisturbed one drew.
    #[test]
    fn a_draw_depends_on_seed_and_index_alone() {
        let forward: Vec<f64> = (0..100).map(|i| uniform(7, i)).collect();
        let backward: Vec<f64> = (0..100).rev().map(|i| uniform(7, i)).collect();
        assert!(forward.iter().eq(backward.iter().rev()));
        assert!(forward.iter().all(|u| (0.0..1.0).contains(u)));
        assert_ne!(uniform(7, 0), uniform(8, 0));
        let mean = (0..2000).map(|i| uniform(i, 3)).sum::<f64>() / 2000.0;
        assert!((mean - 0.5).abs() < 0.03, "mean over seeds is {mean}");
    }
}
