//! Local language models for Influence Benchmark, on candle: batched generation, exact scoring, LoRA training. No network.
//!
//! - [`model`]: files, configuration, weights, and the forward pass of inference.
//! - [`chat`]: from messages to tokens, by the model's own template.
//! - [`sample`]: from logits to tokens, and to exact probabilities of allowed answers.
//! - [`batch`]: the engine that serves generations and scores, batched continuously.
//! - [`linear`]: the frozen projections' own matrix product.
//! - [`lora`]: LoRA adapters as PEFT folders.
//! - [`train`]: LoRA training.
//!
//! On the CPU everything is f32 and *batch-invariant*: a row's bits depend neither on the batch size, nor on its
//! neighbours, nor on how its prompt is cut into chunks, nor on the instruction set.

mod attention;
pub mod batch;
pub mod chat;
#[cfg(feature = "cuda")]
mod cuda;
mod instruction_sets;
mod lanes;
pub mod linear;
pub mod lora;
pub mod model;
mod norm;
mod rotary;
pub mod sample;
mod threads;
pub mod train;

pub use attention::{KvCache, KvType};
pub use threads::leave_threads_to_rayon;
