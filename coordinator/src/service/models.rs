//! The run's models: what workers have loaded of them, and what admins push.

use influence_proto::{LoadedModel, PushedFile, wire};
use tonic::Status;

use super::calls::Service;
use super::status;
use crate::artifacts::check_pin;

/// Pins the run's models to what the first worker has loaded, and refuses a worker that has other files.
pub(super) async fn pin(service: &Service, loaded: Vec<wire::LoadedModel>) -> Result<(), Status> {
    for model in loaded {
        let LoadedModel { name, sha256 } = LoadedModel::try_from(model).map_err(status::invalid)?;
        if !service.models.iter().any(|spec| spec.name == name) {
            return Err(Status::invalid_argument(format!(
                "field `hello.models` names the model `{}`, which the run does not use",
                name.escape_debug()
            )));
        }
        let pinned = service.artifacts.pin_model(&service.run, &name, sha256).await.map_err(status::artifact)?;
        check_pin(&service.run, &name, pinned, sha256).map_err(|e| Status::failed_precondition(e.to_string()))?;
    }
    Ok(())
}

/// Offers files that were uploaded as the last source of a model of the run.
pub(super) async fn push(service: &Service, request: wire::PushModelRequest) -> Result<(), Status> {
    let files: Vec<PushedFile> =
        request.files.into_iter().map(PushedFile::try_from).collect::<Result<_, _>>().map_err(status::invalid)?;
    service.artifacts.push_model(&service.models, &request.model, files).await.map_err(status::artifact)
}
