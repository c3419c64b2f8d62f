//! Training jobs: rows out of a dataset, the engine's training, and the adapter's way back; or a server's fine-tuning.

mod error;
mod handover;
mod job;
mod rows;
mod served;
mod text;

pub use error::{FineTuningError, RowError, TrainingError};
pub(crate) use handover::Handover;
pub use job::train_options;
pub(crate) use job::{Job, run};
pub use rows::training_data;
pub(crate) use served::{ServedJob, run_at_server};

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod tiny;
