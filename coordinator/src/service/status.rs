//! Errors to gRPC statuses, once.

use influence_proto::InvalidMessage;
use tonic::Status;

use crate::artifacts::ArtifactError;
use crate::dispatch::DispatchError;
use crate::store::StoreError;

pub(super) fn invalid(error: InvalidMessage) -> Status {
    Status::invalid_argument(error.to_string())
}

pub(super) fn store(error: StoreError) -> Status {
    let message = error.to_string();
    match error {
        error if error.retryable() => Status::unavailable(message),
        StoreError::Conflict { .. } => Status::invalid_argument(message),
        StoreError::Fenced { .. }
        | StoreError::AlreadyFinished { .. }
        | StoreError::GivenUp { .. }
        | StoreError::NoSuchWork { .. } => Status::failed_precondition(message),
        StoreError::Closed { .. } | StoreError::NotLeader { .. } => Status::unavailable(message),
        _ => Status::internal(message),
    }
}

pub(super) fn dispatch(error: DispatchError) -> Status {
    let message = error.to_string();
    match error {
        DispatchError::UnknownWorker(_) => Status::aborted(message),
        DispatchError::NoSuchWorker { .. } => Status::not_found(message),
        DispatchError::SeveralWorkers { .. } => Status::invalid_argument(message),
        DispatchError::Closed => Status::unavailable(message),
        DispatchError::Unanswered(_) => Status::internal(message),
    }
}

pub(super) fn artifact(error: ArtifactError) -> Status {
    let message = error.to_string();
    match error {
        ArtifactError::Missing { .. } => Status::not_found(message),
        ArtifactError::Damaged { .. } | ArtifactError::Mismatch { .. } => Status::data_loss(message),
        ArtifactError::Beyond { .. }
        | ArtifactError::Offset { .. }
        | ArtifactError::TooLarge { .. }
        | ArtifactError::UnknownModel { .. }
        | ArtifactError::PushedFiles { .. }
        | ArtifactError::Place { .. } => Status::invalid_argument(message),
        ArtifactError::Busy { .. }
        | ArtifactError::Spool { .. }
        | ArtifactError::Io { .. }
        | ArtifactError::Note { .. } => Status::unavailable(message),
    }
}
