//! What people ask of a running coordinator.

use influence_proto::wire;
use influence_proto::wire::admin_server::Admin;
use tonic::{Request, Response, Status};

use super::calls::Service;
use super::{models, status};

#[tonic::async_trait]
impl Admin for Service {
    async fn status(&self, _: Request<wire::StatusRequest>) -> Result<Response<wire::StatusReply>, Status> {
        let status = self.cluster.status().await.map_err(status::dispatch)?;
        Ok(Response::new(status.into()))
    }

    async fn drain_worker(
        &self,
        request: Request<wire::DrainWorkerRequest>,
    ) -> Result<Response<wire::DrainWorkerReply>, Status> {
        let drained = self.dispatch.drain_worker(request.into_inner().worker).await;
        let worker = drained.map_err(status::dispatch)?;
        Ok(Response::new(wire::DrainWorkerReply { worker_id: worker.into() }))
    }

    async fn pause(&self, _: Request<wire::PauseRequest>) -> Result<Response<wire::PauseReply>, Status> {
        self.dispatch.pause().await.map_err(status::dispatch)?;
        tracing::info!("paused by an administrator");
        Ok(Response::new(wire::PauseReply {}))
    }

    async fn resume(&self, _: Request<wire::ResumeRequest>) -> Result<Response<wire::ResumeReply>, Status> {
        self.dispatch.resume().await.map_err(status::dispatch)?;
        tracing::info!("resumed by an administrator");
        Ok(Response::new(wire::ResumeReply {}))
    }

    async fn push_model(
        &self,
        request: Request<wire::PushModelRequest>,
    ) -> Result<Response<wire::PushModelReply>, Status> {
        models::push(self, request.into_inner()).await.map(|()| Response::new(wire::PushModelReply {}))
    }
}
