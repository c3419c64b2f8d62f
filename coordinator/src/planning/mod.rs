//! Placeholder until planning is merged.

/// Which episodes of an iteration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Rolled out to train on.
    Train,
    /// Rolled out to measure.
    Evaluate,
}
