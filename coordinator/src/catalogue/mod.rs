//! The read side: runs, their episodes and their figures, for people and machines.

mod episodes;
mod figures;
mod summary;

pub use episodes::{EpisodeView, episodes};
pub use figures::{Mean, mean};
pub use summary::{IterationSummary, RunSummary, summary};
