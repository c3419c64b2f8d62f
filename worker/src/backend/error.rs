/// A call that a model did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// The prompt and the longest reply do not fit into the context.
    #[error(
        "the prompt has {prompt} tokens and the reply up to {reply}, but the context holds {limit}: shorten the prompts, max_turns or max_tokens"
    )]
    TooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens of the longest reply; 0 for a score.
        reply: usize,
        /// Tokens of the model's context.
        limit: usize,
    },
    /// The same call would fail again anywhere.
    #[error("{0}")]
    Refused(String),
    /// Another attempt, or another worker, may succeed.
    #[error("{0}")]
    Unavailable(String),
}

impl BackendError {
    /// In a word, as traces and metrics name it.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "too_long",
            Self::Refused(_) => "refused",
            Self::Unavailable(_) => "unavailable",
        }
    }

    /// Whether another attempt may succeed.
    pub const fn retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}
