use influence_proto::InvalidMessage;
use tonic::{Code, Status};

/// An address that no coordinator can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the coordinator's address `{address}` cannot be used: {problem}")]
pub struct InvalidAddress {
    pub(super) address: String,
    pub(super) problem: String,
}

/// A call that failed, by what its caller should do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
    /// The coordinator, or its store, is away: try again.
    #[error("the coordinator does not answer: {0}")]
    Away(String),
    /// The attempt is no longer this worker's: drop the work. Of a handshake: the protocols do not overlap.
    #[error("{0}")]
    Fenced(String),
    /// The coordinator does not know this worker, or the artifact.
    #[error("{0}")]
    Unknown(String),
    /// The coordinator refuses the message: sending it again changes nothing.
    #[error("the coordinator refuses: {0}")]
    Refused(String),
    /// The coordinator's answer cannot be understood.
    #[error("the coordinator's answer is invalid: {0}")]
    Invalid(#[from] InvalidMessage),
    /// This machine failed, as with a full disk.
    #[error("{0}")]
    Local(String),
}

impl CallError {
    /// Whether the same call may succeed later.
    pub(crate) const fn retryable(&self) -> bool {
        matches!(self, Self::Away(_))
    }
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        let said = status.message().to_owned();
        match status.code() {
            Code::FailedPrecondition => Self::Fenced(said),
            Code::NotFound | Code::Unauthenticated => Self::Unknown(said),
            Code::InvalidArgument
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::PermissionDenied
            | Code::AlreadyExists
            | Code::DataLoss => Self::Refused(said),
            code => Self::Away(if said.is_empty() { code.description().to_owned() } else { said }),
        }
    }
}
