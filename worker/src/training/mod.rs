//! Training jobs: rows out of a dataset, the engine's training, and the adapter's way back.

mod error;
mod handover;
mod job;
mod rows;
mod text;

pub use error::{RowError, TrainingError};
pub(crate) use handover::Handover;
pub use job::train_options;
pub(crate) use job::{Job, run};
pub use rows::training_data;

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod tiny;
