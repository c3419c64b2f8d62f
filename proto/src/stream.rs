//! Random seeds by derivation. Every (episode, turn, role) has a stream of its own, so a draw does
//! not depend on what was drawn elsewhere, on which worker, or before a restart.

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::{Digest as _, Sha256};

/// A seed derived from a parent seed and a path of names: the first eight bytes of the sha256 over
/// the length-prefixed parts, so that `["a", "bc"]` and `["ab", "c"]` differ.
pub fn derive(seed: u64, path: &[&str]) -> u64 {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    for part in path {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    let digest: [u8; 32] = hash.finalize().into();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(first)
}

/// The seed of one purpose within one turn of an episode, as in `agent` or `transition`.
pub fn of_turn(episode_seed: u64, turn: u32, purpose: &str) -> u64 {
    derive(episode_seed, &["turn", &turn.to_string(), purpose])
}

/// A uniform draw from [0, 1), the first of the stream with this seed.
pub fn uniform(seed: u64) -> f64 {
    let bits = ChaCha12Rng::seed_from_u64(seed).next_u64() >> 11;
    bits as f64 / (1_u64 << 53) as f64
}

/// Draws an index with the given probabilities, by inversion of their running sum. The last index
/// with any probability takes what rounding leaves over; none if there is no such index.
pub fn choose(seed: u64, probabilities: impl IntoIterator<Item = f64>) -> Option<usize> {
    let mut left = uniform(seed);
    let mut last = None;
    for (index, p) in probabilities.into_iter().enumerate() {
        if p > 0.0 {
            last = Some(index);
            if left < p {
                return last;
            }
            left -= p;
        }
    }
    last
}

/// A permutation of `0..n` (Fisher and Yates), the same for the same seed.
pub fn permutation(seed: u64, n: usize) -> Vec<usize> {
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    let mut order: Vec<usize> = (0..n).collect();
    for last in (1..n).rev() {
        order.swap(last, below(&mut rng, last as u64 + 1) as usize);
    }
    order
}

/// A uniform draw from `0..bound` without modulo bias: draws beyond the last full multiple are
/// thrown away.
pub fn below(rng: &mut ChaCha12Rng, bound: u64) -> u64 {
    let limit = u64::MAX - u64::MAX % bound.max(1);
    loop {
        let draw = rng.next_u64();
        if draw < limit {
            return draw % bound.max(1);
        }
    }
}

/// A generator for a stream of draws, where one is not enough.
pub fn generator(seed: u64) -> ChaCha12Rng {
    ChaCha12Rng::seed_from_u64(seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_do_not_run_into_each_other() {
        assert_ne!(derive(1, &["a", "bc"]), derive(1, &["ab", "c"]));
        assert_ne!(derive(1, &["a"]), derive(2, &["a"]));
        assert_eq!(derive(1, &["a"]), derive(1, &["a"]));
    }

    #[test]
    fn choice_follows_the_probabilities() {
        let mut counts = [0; 3];
        for seed in 0..6000 {
            counts[choose(seed, [0.5, 0.0, 0.5]).unwrap_or(1)] += 1;
        }
        assert_eq!(counts[1], 0);
        assert!((counts[0] - 3000_i32).abs() < 200, "{counts:?}");
        assert_eq!(choose(3, [0.0, 0.0]), None);
        assert_eq!(choose(3, [0.0, 1e-9]), Some(1), "rounding leaves nothing undrawn");
    }

    #[test]
    fn a_permutation_holds_every_index_once() {
        let mut order = permutation(9, 100);
        assert_ne!(order, (0..100).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
        assert_eq!(permutation(9, 0), Vec::<usize>::new());
    }
}
