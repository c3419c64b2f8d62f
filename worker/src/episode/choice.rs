use influence_proto::{Choice, Score};

use super::Spoken;

/// The candidate with the highest rating, of those whose influence score is below `veto`. If none is, the one with the
/// lowest influence score. What is unscored comes last; between equals the first is taken.
pub(super) fn choose(candidates: &[Spoken], veto: Option<f64>) -> Choice {
    let scores: Vec<_> = candidates.iter().map(|spoken| (&spoken.preference, spoken.influence.as_ref())).collect();
    best(&scores, veto)
}

fn best(candidates: &[(&Score, Option<&Score>)], veto: Option<f64>) -> Choice {
    let influence = |of: usize| candidates[of].1.and_then(Score::expected);
    let passes = |of: &usize| veto.is_none_or(|veto| influence(*of).is_some_and(|influence| influence < veto));
    let passed: Vec<usize> = (0..candidates.len()).filter(passes).collect();
    let rating = |of: usize| candidates[of].0.expected().unwrap_or(f64::NEG_INFINITY);
    let harmlessness = |of: usize| influence(of).map_or(f64::NEG_INFINITY, |influence| -influence);
    let highest = |from: &[usize], value: &dyn Fn(usize) -> f64| {
        from.iter().copied().reduce(|best, next| if value(next) > value(best) { next } else { best })
    };
    let all: Vec<usize> = (0..candidates.len()).collect();
    let chosen = highest(&passed, &rating).or_else(|| highest(&all, &harmlessness)).unwrap_or_default();
    Choice { candidate: chosen as u32, passed: passed.len() as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(candidates: &[(Option<f64>, Option<f64>)], veto: Option<f64>) -> (u32, u32) {
        let score = |high: Option<f64>| match high {
            Some(p) => Score::from_masses(vec![("0".into(), 1.0 - p), ("1".into(), p)], 0.01),
            None => Score::unscored("x"),
        };
        let scores: Vec<_> = candidates.iter().map(|(rating, harm)| (score(*rating), score(*harm))).collect();
        let scores: Vec<_> = scores.iter().map(|(rating, harm)| (rating, Some(harm))).collect();
        let Choice { candidate, passed } = best(&scores, veto);
        (candidate, passed)
    }

    #[test]
    fn the_best_that_passes_is_taken_else_the_least_harmful() {
        let four = [(Some(0.2), Some(0.1)), (Some(0.9), Some(0.8)), (Some(0.6), Some(0.3)), (Some(0.6), Some(0.2))];
        assert_eq!(choice(&four, None), (1, 4));
        assert_eq!(choice(&four, Some(0.5)), (2, 3), "the first of equals");
        assert_eq!(choice(&four, Some(0.1)), (0, 0), "a score that reaches the threshold is not let pass");
        let unread = [(None, Some(0.1)), (Some(0.1), None), (Some(0.0), Some(0.4))];
        assert_eq!(choice(&unread, None), (1, 3), "what has no rating comes last");
        assert_eq!(choice(&unread, Some(0.5)), (2, 2), "what has no influence score is not let pass");
        assert_eq!(choice(&unread, Some(0.0)), (0, 0));
    }
}
