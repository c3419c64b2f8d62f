//! The read side: episodes for people and machines. Nothing decides by it.

mod comparison;
mod episodes;
mod filter;
mod measures;
mod pairs;
mod rows;
mod usage;

pub(crate) use comparison::corrected;
pub use comparison::{CompareError, Comparison, Figure, RunIteration, Side, compare};
pub use episodes::{EpisodeView, MetricView, episodes};
pub(crate) use filter::metric_named;
pub use filter::{Filter, FilterError};
pub use measures::{Measure, Measured, measured, measures};
pub use pairs::{Opening, Pair, pairs};
pub(crate) use rows::kind;
pub use rows::{EpisodeRow, Rows, with_metrics};
pub use usage::{Usage, Usages};
