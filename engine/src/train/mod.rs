//! Training of LoRA adapters by candle's automatic differentiation.
//!
//! One loop, [`train`], and three losses: [`TrainingData`] says which.
//!
//! Rows go through the model one by one, on a device several at once; a step adds up the gradients of its batch. The forward
//! pass of layers whose graphs memory does not hold is run again in the backward pass. Everything is drawn from
//! the options' seed, by counters and not by order, and CPU sums have a fixed order: there the same rows, options
//! and start give the same adapter, bit for bit, whatever the number of threads, and whether the training was broken off
//! and taken up again or not.

mod checkpoint;
mod draws;
mod error;
mod gradients;
mod layer;
mod loss;
mod objective;
mod operations;
mod optimizer;
mod options;
mod parameters;
mod rows;
mod training;

pub use checkpoint::steps_done;
pub use error::TrainError;
pub use objective::Measures;
pub use options::{
    DpoOptions, KtoOptions, KtoRow, LongRows, PreferenceRow, Progress, Schedule, Sequence, Step, TrainOptions,
    TrainReport, TrainRow, TrainingData,
};
pub use training::{Checkpoints, TrainingFiles, train};

#[cfg(test)]
mod tests;
