//! What figures are computed by: pure functions of numbers, with the formula and its source at each.
//! Values of one cluster (siblings of one opening, in a run) are not independent of each other, and
//! every error here takes that into account. What is missing is none, never 0.

mod agreement;
mod bootstrap;
mod estimate;
mod flips;
mod front;
mod paired;

pub use agreement::Confusion;
pub use bootstrap::bootstrap;
pub use estimate::Estimate;
pub use flips::{Flips, flips};
pub use front::front;
pub use paired::{Paired, holm, paired};

use serde::Serialize;

/// Bounds that hold the true value with a probability of 95%.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// The lower bound.
    pub low: f64,
    /// The upper bound.
    pub high: f64,
}

#[cfg(test)]
mod tests;
