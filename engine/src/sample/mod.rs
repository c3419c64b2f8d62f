//! From logits to tokens and to probabilities of answers.

mod answers;
mod distribution;
mod placed;
mod sampler;
mod stream;

pub use answers::{AnswerDistribution, AnswerError, AnswerTree, ScoreWalk, Step, surface_forms};
pub use distribution::{NotANumber, Warp};
pub(crate) use placed::draw;
pub(crate) use sampler::Uncut;
pub use sampler::{Sampled, Sampler, SamplingError, SamplingOptions, most_probable};
pub use stream::uniform;
