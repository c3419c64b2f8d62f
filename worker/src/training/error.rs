use influence_engine::chat::ChatError;
use influence_engine::lora::AdapterError;
use influence_engine::train::TrainError;
use influence_proto::Failure;

use crate::artifacts::ArtifactError;
use crate::backend::BackendError;

/// A line of a dataset that is no training row.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// The dataset cannot be read.
    #[error("line {line} of the dataset cannot be read: {source}")]
    Read {
        /// From 1.
        line: usize,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is no JSON.
    #[error("line {line} of the dataset is not JSON: {source}")]
    Json {
        /// From 1.
        line: usize,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A field is not what it should be.
    #[error("line {line} of the dataset: `{field}` {problem}")]
    Field {
        /// From 1.
        line: usize,
        /// As in `messages[2].weight`.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The model's chat format cannot mark what is trained on.
    #[error("line {line} of the dataset: {source}")]
    Chat {
        /// From 1.
        line: usize,
        /// Why.
        source: ChatError,
    },
}

impl RowError {
    pub(super) fn field(line: usize, field: &str, problem: impl Into<String>) -> Self {
        Self::Field { line, field: field.to_owned(), problem: problem.into() }
    }
}

/// A server's fine-tuning that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum FineTuningError {
    /// It came to another end.
    #[error("the fine-tuning job `{job}` at {url} is {status}: {reason}. Another attempt begins a new job")]
    Ended {
        /// By the server's name.
        job: String,
        /// Where.
        url: String,
        /// As in `failed`.
        status: String,
        /// In the server's words.
        reason: String,
    },
    /// The server refuses, does not answer, or answers what cannot be read.
    #[error("fine-tuning: {0}")]
    Server(#[from] BackendError),
}

/// A training job that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum TrainingError {
    /// The dataset is not what it should be.
    #[error(transparent)]
    Row(#[from] RowError),
    /// The engine refuses or fails.
    #[error(transparent)]
    Engine(#[from] TrainError),
    /// A server's fine-tuning.
    #[error(transparent)]
    FineTuning(#[from] FineTuningError),
    /// A setting that the engine does not know.
    #[error("{0}")]
    Setting(String),
    /// A file did not get here, or back.
    #[error("{0}")]
    Artifact(String, bool),
    /// The worker's disk or threads.
    #[error("{0}")]
    Local(String),
}

impl From<ArtifactError> for TrainingError {
    fn from(error: ArtifactError) -> Self {
        let again = match &error {
            ArtifactError::Fetch { source, .. } | ArtifactError::Store { source, .. } => source.retryable(),
            ArtifactError::Damaged { .. } => false,
            ArtifactError::Disk { .. } => true,
        };
        Self::Artifact(error.to_string(), again)
    }
}

impl TrainingError {
    /// Whether it was asked to stop.
    pub(crate) const fn stopped(&self) -> bool {
        matches!(self, Self::Engine(TrainError::Stopped { .. }))
    }
}

impl From<TrainingError> for Failure {
    fn from(error: TrainingError) -> Self {
        let retryable = match &error {
            TrainingError::Artifact(_, again) => *again,
            TrainingError::FineTuning(FineTuningError::Server(error)) => error.retryable(),
            // Another worker may have a healthy disk.
            TrainingError::Local(_) => true,
            TrainingError::Engine(TrainError::Disk { .. } | TrainError::Adapter(AdapterError::Io { .. })) => true,
            TrainingError::Row(_)
            | TrainingError::Engine(_)
            | TrainingError::Setting(_)
            | TrainingError::FineTuning(FineTuningError::Ended { .. }) => false,
        };
        Self { retryable, message: error.to_string() }
    }
}
