//! Measuring agents by something other than their own reward: questions about stored conversations, and
//! conversations of an agent that was trained elsewhere, and published benchmarks. What to ask and what to roll out is decided here;
//! models are asked by whoever has them.

pub mod benchmark;
mod fresh;
mod questions;
pub mod reproduction;

pub use fresh::{FreshError, fresh, start};
pub use questions::{Question, questions, source};
