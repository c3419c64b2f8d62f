//! Drawing the next token.

use super::distribution::{Distribution, NotANumber, Warp, highest};
use super::stream::uniform;
use crate::attention::sum_of_exp;

/// How tokens are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplingOptions {
    /// 0 takes the most probable token (the lowest id among equals); above 0, logits are divided by it.
    pub temperature: f32,
    /// Nucleus mass in (0, 1]; 1 keeps everything.
    pub top_p: f32,
    /// Keep only so many most probable tokens, if set; at least 1.
    pub top_k: Option<usize>,
    /// Keep only tokens that are at least this share as probable as the most probable one; in [0, 1].
    pub min_p: f32,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self { temperature: 1.0, top_p: 1.0, top_k: None, min_p: 0.0 }
    }
}

impl SamplingOptions {
    /// The most probable token, always.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }
}

/// Options outside their range.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SamplingError {
    /// A temperature that is negative or not a number.
    #[error("the temperature is {0}; give 0 (greedy) or a positive number")]
    Temperature(f32),
    /// A nucleus mass outside (0, 1].
    #[error("top_p is {0}; give a number above 0 and at most 1")]
    TopP(f32),
    /// No token would be left.
    #[error("top_k is 0; give 1 or more, or leave it out")]
    TopK,
    /// A share outside [0, 1].
    #[error("min_p is {0}; give a number from 0 to 1")]
    MinP(f32),
}

/// One drawn token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampled {
    /// Its id.
    pub token: u32,
    /// Natural logarithm of its probability in the *untempered, uncut* distribution (temperature 1), summed in f64.
    pub logprob: f32,
}

/// Draws the tokens of one request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampler {
    /// `None` is greedy.
    warp: Option<Warp>,
    seed: u64,
}

impl Sampler {
    /// A sampler whose draw number `i` depends on `(seed, i)` alone.
    ///
    /// # Errors
    /// Options outside their range.
    pub fn new(options: &SamplingOptions, seed: u64) -> Result<Self, SamplingError> {
        let SamplingOptions { temperature, top_p, top_k, min_p } = *options;
        if !(temperature.is_finite() && temperature >= 0.0) {
            return Err(SamplingError::Temperature(temperature));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(SamplingError::TopP(top_p));
        }
        if top_k == Some(0) {
            return Err(SamplingError::TopK);
        }
        if !(0.0..=1.0).contains(&min_p) {
            return Err(SamplingError::MinP(min_p));
        }
        // Below this the reciprocal overflows; the distribution is a single token long before.
        let greedy = temperature < 1e-6;
        Ok(Self { warp: (!greedy).then_some(Warp { temperature, top_p, top_k, min_p }), seed })
    }

    /// Draws token number `index` of the reply from the logits `[vocab]`.
    ///
    /// # Errors
    /// Logits that are not numbers.
    pub fn sample(&self, logits: &[f32], index: u64) -> Result<Sampled, NotANumber> {
        let highest = highest(logits)?;
        let token = match &self.warp {
            None => logits.iter().position(|logit| *logit == highest).unwrap_or(0) as u32,
            Some(warp) => Distribution::new(logits, warp)?.pick(uniform(self.seed, index)),
        };
        Ok(Sampled { token, logprob: Plain::new(logits, highest).logprob(token) })
    }

    /// Draw number `index` from a distribution that nothing is cut from, if that is what this sampler draws from.
    pub(crate) fn uncut(&self, index: u64) -> Option<Uncut> {
        let Some(Warp { temperature, top_p, top_k, min_p }) = self.warp else {
            return Some(Uncut { factor: None, uniform: 0.0 });
        };
        let uncut = top_p >= 1.0 && top_k.is_none() && min_p <= 0.0;
        uncut.then(|| Uncut { factor: Some(1.0 / temperature), uniform: uniform(self.seed, index) })
    }
}

/// One draw from a whole distribution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Uncut {
    /// What logits are multiplied by; `None` takes the highest.
    pub(super) factor: Option<f32>,
    /// In [0, 1).
    pub(super) uniform: f64,
}

/// The `count` most probable tokens of the untempered, uncut distribution of the logits `[vocab]`, in order; equal ones by
/// id.
///
/// # Errors
/// Logits that are not numbers.
pub fn most_probable(logits: &[f32], count: usize) -> Result<Vec<Sampled>, NotANumber> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let plain = Plain::new(logits, highest(logits)?);
    let tokens = Distribution::new(logits, &Warp::default())?.most_probable(count);
    Ok(tokens.into_iter().map(|token| Sampled { token, logprob: plain.logprob(token) }).collect())
}

/// The untempered, uncut distribution.
struct Plain<'a> {
    logits: &'a [f32],
    highest: f32,
    /// Natural logarithm of the sum of `e^(logit - highest)`.
    log_total: f64,
}

impl<'a> Plain<'a> {
    fn new(logits: &'a [f32], highest: f32) -> Self {
        Self { logits, highest, log_total: sum_of_exp(logits, highest, 1.0).ln() }
    }

    fn logprob(&self, token: u32) -> f32 {
        let logit = f64::from(self.logits[token as usize]);
        (logit - f64::from(self.highest) - self.log_total) as f32
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn draws(options: &SamplingOptions, logits: &[f32], n: u64) -> Vec<u32> {
        let sampler = Sampler::new(options, 11).unwrap();
        (0..n).map(|i| sampler.sample(logits, i).unwrap().token).collect()
    }

    /// Protects: greedy decoding is deterministic down to ties, and the log-probability is that of the plain softmax.
    #[test]
    fn greedy_takes_the_lowest_of_equal_tokens() {
        let logits = [0.5, 2.0, -1.0, 2.0];
        let sampler = Sampler::new(&SamplingOptions::greedy(), 0).unwrap();
        let sampled = sampler.sample(&logits, 0).unwrap();
        assert_eq!(sampled.token, 1);
        let total: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
        assert!((f64::from(sampled.logprob) - (2.0 - total.ln())).abs() < 1e-6);
    }

    /// Protects: what is shown beside a drawn token is the same distribution that its own log-probability is of.
    #[test]
    fn the_most_probable_tokens_come_in_order_with_plain_log_probabilities() {
        let logits = [0.5, 2.0, f32::NEG_INFINITY, 2.0, 1.0];
        let top = most_probable(&logits, 3).unwrap();
        assert_eq!(top.iter().map(|t| t.token).collect::<Vec<_>>(), [1, 3, 4]);
        let greedy = Sampler::new(&SamplingOptions::greedy(), 0).unwrap().sample(&logits, 0).unwrap();
        assert_eq!(top[0], greedy);
        let all = most_probable(&logits, 9).unwrap();
        let sum: f64 = all.iter().map(|t| f64::from(t.logprob).exp()).sum();
        assert!(all.len() == 5 && (sum - 1.0).abs() < 1e-6, "{all:?}");
        assert!(most_probable(&logits, 0).unwrap().is_empty());
        assert!(most_probable(&[f32::NAN], 1).is_err());
    }

    /// Protects: sampled frequencies follow the tempered softmax.
    #[test]
    fn frequencies_follow_the_distribution() {
        let logits = [0.0, 1.0, 2.0, f32::NEG_INFINITY];
        let options = SamplingOptions { temperature: 2.0, ..Default::default() };
        let drawn = draws(&options, &logits, 20_000);
        let total: f64 = (0..3).map(|i| (f64::from(i) / 2.0).exp()).sum();
        for token in 0..3u32 {
            let share = drawn.iter().filter(|t| **t == token).count() as f64 / 20_000.0;
            let expected = (f64::from(token) / 2.0).exp() / total;
            assert!((share - expected).abs() < 0.012, "token {token}: {share} is not {expected}");
        }
        assert!(!drawn.contains(&3), "an impossible token was drawn");
    }

    /// Protects: top-k and top-p cut exactly the tokens that they must, also when the nucleus is larger than the first
    /// handful that is sorted.
    #[test]
    fn cuts_keep_the_most_probable_tokens() {
        let logits = [1.0, 4.0, 3.0, 2.0];
        let top_k = SamplingOptions { top_k: Some(2), ..Default::default() };
        assert!(draws(&top_k, &logits, 500).iter().all(|t| [1, 2].contains(t)));
        // e^4 / (e^1 + .. + e^4) = 0.64: a nucleus of 0.6 is one token, of 0.65 two.
        let one = SamplingOptions { top_p: 0.6, ..Default::default() };
        assert!(draws(&one, &logits, 500).iter().all(|t| *t == 1));
        let two = SamplingOptions { top_p: 0.65, ..Default::default() };
        let drawn = draws(&two, &logits, 500);
        assert!(drawn.iter().all(|t| [1, 2].contains(t)) && drawn.contains(&2));
        // e^3 is 0.37 of e^4, e^2 is 0.14 of it.
        let near = SamplingOptions { min_p: 0.3, ..Default::default() };
        let drawn = draws(&near, &logits, 500);
        assert!(drawn.iter().all(|t| [1, 2].contains(t)) && drawn.contains(&2));
        let nearest = SamplingOptions { min_p: 1.0, temperature: 5.0, ..Default::default() };
        assert!(draws(&nearest, &logits, 500).iter().all(|t| *t == 1));
        let flat = vec![0f32; 1000];
        let half = SamplingOptions { top_p: 0.5, ..Default::default() };
        let drawn = draws(&half, &flat, 2000);
        assert!(drawn.iter().all(|t| *t < 500), "equal tokens are kept by id");
        assert!(drawn.iter().any(|t| *t > 450));
    }

    /// Protects: a broken forward pass is an error of the request, never a random token.
    #[test]
    fn refuses_logits_and_options_that_mean_nothing() {
        let sampler = Sampler::new(&SamplingOptions::default(), 1).unwrap();
        assert_eq!(sampler.sample(&[0.0, f32::NAN], 0), Err(NotANumber { token: 1 }));
        assert!(sampler.sample(&[f32::NEG_INFINITY; 3], 0).is_err());
        for options in [
            SamplingOptions { temperature: -1.0, ..Default::default() },
            SamplingOptions { temperature: f32::NAN, ..Default::default() },
            SamplingOptions { top_p: 0.0, ..Default::default() },
            SamplingOptions { top_p: 1.5, ..Default::default() },
            SamplingOptions { top_k: Some(0), ..Default::default() },
            SamplingOptions { min_p: -0.1, ..Default::default() },
            SamplingOptions { min_p: f32::NAN, ..Default::default() },
        ] {
            assert!(Sampler::new(&options, 1).is_err(), "{options:?}");
        }
    }
}
