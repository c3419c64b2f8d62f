//! Training jobs: rows out of a dataset, the engine's training, and the adapter's way back.

mod error;
mod job;
mod rows;

pub use error::{RowError, TrainingError};
pub(crate) use job::{Job, run};
pub use rows::rows_from_jsonl;

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod tiny;
