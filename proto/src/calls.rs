//! Calls of models without an episode around them: judgements of what is stored, steps of a conversation that a person
//! plays.

use crate::prompts::ChatMessage;
use crate::{Call, Role, Sampling, Score, Scoring, TrainedAgent};

/// What a worker is asked to ask a model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelCall {
    /// On whose behalf.
    pub role: Role,
    /// The model's name.
    pub model: String,
    /// The prompt, one message or more.
    pub messages: Vec<ChatMessage>,
    /// Of the call's own random stream.
    pub seed: u64,
    /// What is wanted.
    pub ask: Ask,
}

/// What is wanted of a model.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// A sampled reply.
    Reply {
        /// How it samples.
        sampling: Sampling,
        /// None: the model itself.
        trained: Option<TrainedAgent>,
    },
    /// How probable each of some answers is.
    Score {
        /// One or more.
        answers: Vec<String>,
        /// How they are read.
        scoring: Scoring,
    },
}

/// What a model answered.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelAnswer {
    /// What it cost; none where the prompt was too long to be asked.
    pub call: Option<Call>,
    /// The answer, of the kind that was asked for.
    pub said: Said,
}

/// An answer to an [`Ask`].
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// As it was sampled.
    Reply {
        /// Decoded, without special tokens.
        text: String,
        /// Stopped by the limit or a stop text rather than by the model.
        cut_off: bool,
    },
    /// Unscored, among other reasons, where the prompt does not fit into the model's context.
    Score(Score),
}
