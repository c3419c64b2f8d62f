//! What people ask of a running coordinator.

use influence_proto::wire::admin_server::Admin;
use influence_proto::{ClusterStatus, wire};
use tonic::{Request, Response, Status};

use super::calls::Service;
use super::{models, status};
use crate::progress::RunPhase;

#[tonic::async_trait]
impl Admin for Service {
    async fn status(&self, _: Request<wire::StatusRequest>) -> Result<Response<wire::StatusReply>, Status> {
        let standing = self.dispatch.standing().await.map_err(status::dispatch)?;
        let progress = self.progress.watch().borrow().clone();
        let status = ClusterStatus {
            run: self.run.clone(),
            phase: phase(progress.phase),
            episodes_total: progress.episodes_total,
            episodes_done: progress.episodes_done,
            episodes_failed: progress.episodes_failed,
            turns: progress.turns,
            uptime_ms: self.since.elapsed().as_millis() as u64,
            store_problem: progress.store_problem.map(|(_, problem)| problem),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            standing,
        };
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

fn phase(phase: RunPhase) -> String {
    match phase {
        RunPhase::Starting => "starting".to_owned(),
        RunPhase::Rollout(k) => format!("rollout {k}"),
        RunPhase::Evaluation(k) => format!("evaluation {k}"),
        RunPhase::Training(k) => format!("training {k}"),
        RunPhase::Done => "done".to_owned(),
    }
}
