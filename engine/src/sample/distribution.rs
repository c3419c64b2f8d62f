//! Logits as a probability distribution, tempered and cut.

use crate::attention::{exp, sum_of_exp};

/// Logits of which at least one is not a number: the forward pass broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the logit of token {token} is not a number, or all logits are minus infinity")]
pub struct NotANumber {
    /// The first such token.
    pub token: u32,
}

/// How a distribution is reshaped before it is used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Warp {
    /// Logits are divided by it; above 0.
    pub temperature: f32,
    /// Only the most probable tokens that together reach this mass are kept (nucleus, arXiv 1904.09751); in (0, 1].
    pub top_p: f32,
    /// Only so many most probable tokens are kept, if set.
    pub top_k: Option<usize>,
    /// Only tokens that are at least this share as probable as the most probable one are kept (arXiv 2407.01082); in [0, 1].
    pub min_p: f32,
}

impl Default for Warp {
    fn default() -> Self {
        Self { temperature: 1.0, top_p: 1.0, top_k: None, min_p: 0.0 }
    }
}

/// The highest logit, after a check that every logit can be used. Minus infinity is fine: it is a token that never comes.
pub(super) fn highest(logits: &[f32]) -> Result<f32, NotANumber> {
    let mut highest = f32::NEG_INFINITY;
    for (token, logit) in logits.iter().enumerate() {
        if logit.is_nan() || *logit == f32::INFINITY {
            return Err(NotANumber { token: token as u32 });
        }
        highest = if *logit > highest { *logit } else { highest };
    }
    if highest == f32::NEG_INFINITY {
        return Err(NotANumber { token: 0 });
    }
    Ok(highest)
}

/// Tokens that may be drawn, with weights `e^((logit - max) / temperature)`.
#[derive(Debug)]
pub(super) struct Distribution<'a> {
    logits: &'a [f32],
    highest: f32,
    factor: f32,
    /// Sum of the weights that are kept.
    total: f64,
    /// The kept tokens, most probable first (ties: lowest id); `None` if all are kept.
    kept: Option<Vec<u32>>,
}

impl<'a> Distribution<'a> {
    pub(super) fn new(logits: &'a [f32], warp: &Warp) -> Result<Self, NotANumber> {
        let highest = highest(logits)?;
        let factor = 1.0 / warp.temperature;
        let mut all = Self { logits, highest, factor, total: sum_of_exp(logits, highest, factor), kept: None };
        let most = warp.top_k.unwrap_or(logits.len()).clamp(1, logits.len().max(1));
        if most < logits.len() {
            let kept = all.most_probable(most);
            all.total = kept.iter().map(|id| all.weight(*id)).sum();
            all.kept = Some(kept);
        }
        if warp.top_p < 1.0 {
            all.cut_to_nucleus(f64::from(warp.top_p));
        }
        if warp.min_p > 0.0 {
            all.cut_improbable(f64::from(warp.min_p));
        }
        Ok(all)
    }

    /// The probability of a token after warping; 0 if it was cut or does not exist.
    pub(super) fn probability(&self, token: u32) -> f64 {
        let cut = self.kept.as_ref().is_some_and(|kept| !kept.contains(&token));
        if cut || token as usize >= self.logits.len() {
            return 0.0;
        }
        self.weight(token) / self.total
    }

    /// The token at which the cumulated probability passes `u` in `[0, 1)`.
    pub(super) fn pick(&self, u: f64) -> u32 {
        let target = u * self.total;
        let mut cumulated = 0.0;
        let mut last = 0;
        let everyone = 0..self.logits.len() as u32;
        let tokens: &mut dyn Iterator<Item = u32> = match &self.kept {
            Some(kept) => &mut kept.iter().copied(),
            None => &mut everyone.into_iter(),
        };
        for token in tokens {
            let weight = self.weight(token);
            if weight > 0.0 {
                cumulated += weight;
                last = token;
                if cumulated > target {
                    break;
                }
            }
        }
        // Rounding may leave the sum a hair short of the target: then it is the last possible token.
        last
    }

    fn weight(&self, token: u32) -> f64 {
        f64::from(exp((self.logits[token as usize] - self.highest) * self.factor))
    }

    fn cut_to_nucleus(&mut self, top_p: f64) {
        let target = top_p * self.total;
        let available = self.kept.as_ref().map_or(self.logits.len(), Vec::len);
        // The nucleus is nearly always small: sort a few tokens first, more only if they do not suffice.
        let mut candidates = 64;
        loop {
            let mut kept = match &self.kept {
                Some(kept) => kept.clone(),
                None => self.most_probable(candidates),
            };
            let mut cumulated = 0.0;
            let enough = kept.iter().position(|id| {
                cumulated += self.weight(*id);
                cumulated >= target
            });
            if enough.is_some() || kept.len() >= available {
                kept.truncate(enough.map_or(available, |last| last + 1));
                self.total = kept.iter().map(|id| self.weight(*id)).sum();
                self.kept = Some(kept);
                return;
            }
            candidates *= 8;
        }
    }

    /// The most probable token has the weight 1, whatever was cut before.
    fn cut_improbable(&mut self, least: f64) {
        let mut kept = self.kept.take().unwrap_or_else(|| (0..self.logits.len() as u32).collect());
        kept.retain(|id| self.weight(*id) >= least);
        kept.sort_unstable_by(|a, b| self.order(*a, *b));
        self.total = kept.iter().map(|id| self.weight(*id)).sum();
        self.kept = Some(kept);
    }

    /// Most probable first; equal ones by id.
    fn order(&self, a: u32, b: u32) -> std::cmp::Ordering {
        self.logits[b as usize].total_cmp(&self.logits[a as usize]).then(a.cmp(&b))
    }

    /// The `count` most probable tokens in order; equal ones by id.
    pub(super) fn most_probable(&self, count: usize) -> Vec<u32> {
        let order = |a: &u32, b: &u32| self.order(*a, *b);
        let mut ids: Vec<u32> = (0..self.logits.len() as u32).collect();
        if count < ids.len() {
            ids.select_nth_unstable_by(count, order);
            ids.truncate(count);
        }
        ids.sort_unstable_by(order);
        ids
    }
}
