use influence_proto::{EpisodeId, Failure, Role};

use crate::backend::BackendError;

/// An episode that cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EpisodeError {
    /// A role's model did not answer.
    #[error("episode {episode}, turn {turn}, role {}: {source}", role.name())]
    Call {
        /// Which episode.
        episode: EpisodeId,
        /// Which turn, from 0.
        turn: u32,
        /// Which role.
        role: Role,
        /// Why.
        source: BackendError,
    },
    /// The journal does not belong to the spec.
    #[error("episode {episode}: its journal cannot be continued: turn {turn} {problem}")]
    Journal {
        /// Which episode.
        episode: EpisodeId,
        /// Place in the journal, from 0.
        turn: usize,
        /// What is wrong with it.
        problem: String,
    },
}

impl From<EpisodeError> for Failure {
    fn from(error: EpisodeError) -> Self {
        let retryable = match &error {
            EpisodeError::Call { source, .. } => source.retryable(),
            EpisodeError::Journal { .. } => false,
        };
        Self { retryable, message: error.to_string() }
    }
}
