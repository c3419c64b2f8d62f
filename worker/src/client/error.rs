use std::error::Error;
use std::io;

use influence_proto::InvalidMessage;
use tonic::{Code, Status};

use super::options::chain;

/// A call that failed, by what its caller should do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
    /// The coordinator, or its store, is away: try again.
    #[error("the coordinator does not answer: {0}")]
    Away(String),
    /// The attempt is no longer this worker's: drop the work. Of a handshake: the protocols do not overlap.
    #[error("{0}")]
    Fenced(String),
    /// The coordinator does not know this worker: join again.
    #[error("{0}")]
    Unknown(String),
    /// The coordinator does not accept this worker's credential, or this worker the coordinator's: leave.
    #[error("{0}")]
    Denied(String),
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
            Code::Aborted => Self::Unknown(said),
            Code::Unauthenticated | Code::PermissionDenied => Self::Denied(said),
            Code::NotFound
            | Code::InvalidArgument
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::AlreadyExists
            | Code::DataLoss => Self::Refused(said),
            code => match (distrust(&status), status.source()) {
                (Some(reason), _) => Self::Denied(reason),
                (None, Some(source)) => Self::Away(format!("{said}: {}", chain(source))),
                (None, None) if said.is_empty() => Self::Away(code.description().to_owned()),
                (None, None) => Self::Away(said),
            },
        }
    }
}

/// Why one side does not trust the other's certificate, if that is what ended the call.
fn distrust(status: &Status) -> Option<String> {
    let mut below = status.source();
    while let Some(error) = below {
        match tls_error(error) {
            Some(error @ rustls::Error::InvalidCertificate(_)) => {
                return Some(format!("the coordinator cannot be trusted: {error}; see --tls-ca"));
            }
            Some(error @ rustls::Error::AlertReceived(_)) => {
                return Some(format!(
                    "the coordinator does not trust this worker: {error}; see --tls-cert and --tls-key"
                ));
            }
            _ => below = error.source(),
        }
    }
    None
}

/// The TLS error that this is, or that an error of input and output wraps.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let wrapped = || error.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref();
    error.downcast_ref().or_else(wrapped)
}
