//! Training of LoRA adapters by candle's automatic differentiation.
//!
//! - [`sft`]: supervised fine-tuning on tokenised rows with a mask of the tokens to learn.
//!
//! One row is one micro-batch; a step adds up the gradients of `batch_size` rows. Each layer's forward pass
//! is run again in the backward pass, so memory holds one layer's graph at a time. Everything is drawn from
//! the options' seed, by counters and not by order, and CPU sums have a fixed order: the same rows, options
//! and start give the same adapter, bit for bit, whatever the number of threads.

mod draws;
mod error;
mod gradients;
mod layer;
mod loss;
mod operations;
mod optimizer;
mod options;
mod parameters;
mod rows;
mod supervised;

pub use error::TrainError;
pub use options::{LongRows, SftOptions, Step, TrainReport, TrainRow};
pub use supervised::sft;

#[cfg(test)]
mod tests;
