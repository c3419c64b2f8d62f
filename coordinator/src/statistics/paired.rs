use serde::Serialize;
use statrs::distribution::{ContinuousCDF as _, StudentsT};

use super::{Estimate, Interval, bootstrap};

/// A spread below this share of the values is what rounding leaves of none.
const ROUNDING: f64 = 1e-12;

/// What two sides say about the same openings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Paired {
    /// Openings with a value on both sides.
    pub pairs: usize,
    /// The mean of one side.
    pub a: Estimate,
    /// The mean of the other.
    pub b: Estimate,
    /// The mean of the differences, B less A.
    pub difference: Estimate,
    /// Its interval by the t distribution with `pairs - 1` degrees of freedom.
    pub interval: Option<Interval>,
    /// Its interval by the bootstrap over openings.
    pub bootstrap: Option<Interval>,
    /// Of the paired t test, two-sided: how likely a difference at least as large is where there is none.
    pub p: Option<f64>,
}

/// Compares pairs (A, B), one for each opening: its siblings must be averaged before, so that every
/// opening counts once. Interval and p are of the paired t test (Student 1908); both are missing below
/// two pairs, and where all differences are equal. None of nothing.
pub fn paired(pairs: &[(f64, f64)], seed: u64) -> Option<Paired> {
    let side = |of: fn(&(f64, f64)) -> f64| pairs.iter().map(of).enumerate();
    let difference = Estimate::of(side(|(a, b)| b - a))?;
    let largest = pairs.iter().fold(0.0_f64, |largest, (a, b)| largest.max(a.abs()).max(b.abs()));
    let error = difference.standard_error.filter(|error| *error > ROUNDING * largest);
    let t = error.and_then(|error| Some((error, StudentsT::new(0.0, 1.0, (pairs.len() - 1) as f64).ok()?)));
    Some(Paired {
        pairs: pairs.len(),
        a: Estimate::of(side(|(a, _)| *a))?,
        b: Estimate::of(side(|(_, b)| *b))?,
        difference,
        interval: t.map(|(error, t)| {
            let reach = t.inverse_cdf(0.975) * error;
            Interval { low: difference.mean - reach, high: difference.mean + reach }
        }),
        bootstrap: bootstrap(side(|(a, b)| b - a), seed),
        p: t.map(|(error, t)| 2.0 * t.cdf(-(difference.mean / error).abs())),
    })
}

/// Corrects p values of several tests by Holm's step-down method (Holm 1979): with it, the chance that any
/// of them is below the level by accident is at most the level, however the tests depend on each other.
/// Each figure of a comparison is read as a claim of its own, and they depend on each other, being of the
/// same conversations; so this and not the false discovery rate. Missing ones are not counted.
pub fn holm(p: &[Option<f64>]) -> Vec<Option<f64>> {
    let mut order: Vec<(usize, f64)> = p.iter().enumerate().filter_map(|(index, p)| Some((index, (*p)?))).collect();
    order.sort_by(|a, b| a.1.total_cmp(&b.1));
    let tests = order.len();
    let mut corrected = vec![None; p.len()];
    let mut least = 0.0_f64;
    for (rank, (index, p)) in order.into_iter().enumerate() {
        least = least.max(p * (tests - rank) as f64).min(1.0);
        corrected[index] = Some(least);
    }
    corrected
}
