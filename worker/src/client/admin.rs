//! Calls that need an admin's rights.

use std::future::Future;
use std::time::Duration;

use influence_proto::{ClusterStatus, PushedFile, WorkerId, wire};
use tonic::{Response, Status};

use super::{AdminStub, CALL, CallError, Client};

impl Client {
    /// As [`Client::call`], with an admin's rights.
    async fn call_admin<T, F>(&self, limit: Duration, call: impl FnOnce(AdminStub) -> F) -> Result<T, CallError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.at_current(limit, |place| call(place.admin.clone())).await
    }

    /// How the run and its workers stand.
    pub(crate) async fn status(&self) -> Result<ClusterStatus, CallError> {
        let reply =
            self.call_admin(CALL, |mut admin| async move { admin.status(wire::StatusRequest {}).await }).await?;
        Ok(ClusterStatus::try_from(reply)?)
    }

    /// Asks a worker to hand back what it holds and leave.
    pub(crate) async fn drain_worker(&self, worker: String) -> Result<WorkerId, CallError> {
        let request = wire::DrainWorkerRequest { worker };
        let reply = self.call_admin(CALL, |mut admin| async move { admin.drain_worker(request).await }).await?;
        Ok(WorkerId::new(reply.worker_id)?)
    }

    /// Lets nothing be handed out.
    pub(crate) async fn pause(&self) -> Result<(), CallError> {
        self.call_admin(CALL, |mut admin| async move { admin.pause(wire::PauseRequest {}).await }).await.map(drop)
    }

    /// Lets work be handed out again.
    pub(crate) async fn resume(&self) -> Result<(), CallError> {
        self.call_admin(CALL, |mut admin| async move { admin.resume(wire::ResumeRequest {}).await }).await.map(drop)
    }

    /// Offers uploaded files to workers that cannot have the model elsewhere. Repeating it is harmless.
    pub(crate) async fn push_model(&self, model: &str, files: &[PushedFile]) -> Result<(), CallError> {
        let files = files.iter().cloned().map(Into::into).collect();
        let request = wire::PushModelRequest { model: model.to_owned(), files };
        self.call_admin(CALL, |mut admin| async move { admin.push_model(request).await }).await.map(drop)
    }
}
