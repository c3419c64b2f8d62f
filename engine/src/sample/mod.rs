//! From logits to tokens and to probabilities of answers.

mod answers;
mod distribution;
mod sampler;
mod stream;

pub use answers::{AnswerDistribution, AnswerError, AnswerTree, ScoreWalk, Step, surface_forms};
pub use distribution::{NotANumber, Warp};
pub use sampler::{Sampled, Sampler, SamplingError, SamplingOptions, most_probable};
pub use stream::uniform;
