//! The service's calls.

use std::sync::Arc;

use futures::stream::BoxStream;
use influence_proto::wire::coordinator_server::Coordinator;
use influence_proto::{
    Digest, HeldLease, Join, Joined, ModelSpec, Outcome, PROTOCOL, RunId, TrainingReport, Turn, WorkId, WorkerId,
    WorkerLoad, wire,
};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use super::{artifacts, session, status};
use crate::artifacts::Artifacts;
use crate::cluster::Cluster;
use crate::dispatch::{DispatchHandle, SessionEvent};
use crate::progress::ProgressHandle;
use crate::store::{Store, StoreError};

/// What the calls work with; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) run: RunId,
    pub(crate) models: Arc<[ModelSpec]>,
    pub(crate) lease_ms: u32,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) artifacts: Artifacts,
    pub(crate) dispatch: DispatchHandle,
    pub(crate) progress: ProgressHandle,
    /// Owns the readers of sessions' streams; whoever serves waits for them.
    pub(crate) readers: TaskTracker,
    /// Ends them.
    pub(crate) stop: CancellationToken,
    pub(crate) cluster: Cluster,
}

/// A stream of replies.
type Replies<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl Coordinator for Service {
    type SessionStream = Replies<wire::CoordinatorEvent>;
    type GetArtifactStream = Replies<wire::ArtifactChunk>;

    async fn join(&self, request: Request<wire::JoinRequest>) -> Result<Response<wire::JoinReply>, Status> {
        let join = Join::from(request.into_inner());
        let protocol = negotiate(&join)?;
        let models = self.artifacts.with_pushed(&self.models).await.map_err(status::artifact)?;
        let worker = self.dispatch.join(join).await.map_err(status::dispatch)?;
        let joined = Joined {
            protocol,
            worker,
            run: self.run.clone(),
            models,
            lease_ms: self.lease_ms,
            // Two renewals may get lost before a lease does.
            renew_ms: (self.lease_ms / 3).max(1),
        };
        Ok(Response::new(joined.into()))
    }

    async fn session(
        &self,
        request: Request<Streaming<wire::WorkerEvent>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        session::open(self, request.into_inner()).await.map(Response::new)
    }

    async fn renew(&self, request: Request<wire::RenewRequest>) -> Result<Response<wire::RenewReply>, Status> {
        let request = request.into_inner();
        let worker = WorkerId::new(request.worker_id).map_err(status::invalid)?;
        let load = WorkerLoad { memory_bytes: request.memory_bytes, backing_off: request.backing_off };
        let held: Vec<HeldLease> =
            request.held.into_iter().map(HeldLease::try_from).collect::<Result<_, _>>().map_err(status::invalid)?;
        let lost = self.dispatch.renew(worker, held, load).await.map_err(status::dispatch)?;
        let lost = lost
            .into_iter()
            .filter_map(|event| match event {
                SessionEvent::Cancel { work, attempt, reason } => {
                    Some(wire::Cancel { work: work.into(), attempt, reason })
                }
                SessionEvent::Lease(_) | SessionEvent::Drain(_) | SessionEvent::Goodbye(_) => None,
            })
            .collect();
        Ok(Response::new(wire::RenewReply { lost }))
    }

    async fn record_turn(
        &self,
        request: Request<wire::RecordTurnRequest>,
    ) -> Result<Response<wire::RecordTurnReply>, Status> {
        let request = request.into_inner();
        let worker = WorkerId::new(request.worker_id).map_err(status::invalid)?;
        let work = WorkId::new(request.work).map_err(status::invalid)?;
        let turn = request.turn.ok_or_else(|| Status::invalid_argument("field `turn` is missing"))?;
        let mut turn = Turn::try_from(turn).map_err(|e| status::invalid(e.inside("turn")))?;
        turn.worker = Some(worker.clone());
        let attempt = request.attempt;
        let calls = turn.calls.clone();
        let stored = self.store.record_turn(&self.run, &work, attempt, turn).await;
        self.watch(&stored);
        stored.map_err(status::store)?;
        self.progress.turn(&calls);
        let tokens = calls.iter().map(|call| u64::from(call.prompt_tokens) + u64::from(call.generated_tokens)).sum();
        self.dispatch.turn_recorded(worker, work, attempt, tokens).await.map_err(status::dispatch)?;
        Ok(Response::new(wire::RecordTurnReply {}))
    }

    async fn record_checkpoint(
        &self,
        request: Request<wire::RecordCheckpointRequest>,
    ) -> Result<Response<wire::RecordCheckpointReply>, Status> {
        let request = request.into_inner();
        let worker = WorkerId::new(request.worker_id).map_err(status::invalid)?;
        let work = WorkId::new(request.work).map_err(status::invalid)?;
        let state = Digest::parse(&request.sha256).map_err(status::invalid)?;
        if !self.artifacts.contains(state).await.map_err(status::artifact)? {
            return Err(Status::invalid_argument(format!("the state {state} was not uploaded; upload it first")));
        }
        let needless = self.dispatch.checkpoint(worker, work, request.attempt, state).await;
        self.drop_state(needless.map_err(status::dispatch)?).await;
        Ok(Response::new(wire::RecordCheckpointReply {}))
    }

    async fn finish(&self, request: Request<wire::FinishRequest>) -> Result<Response<wire::FinishReply>, Status> {
        let request = request.into_inner();
        let work = WorkId::new(request.work).map_err(status::invalid)?;
        let outcome = request.outcome.ok_or_else(|| Status::invalid_argument("field `outcome` is missing"))?;
        let outcome = Outcome::try_from(outcome).map_err(|e| status::invalid(e.inside("outcome")))?;
        self.end_attempt(work, request.attempt, outcome).await?;
        Ok(Response::new(wire::FinishReply {}))
    }

    async fn stat_artifact(
        &self,
        request: Request<wire::StatArtifactRequest>,
    ) -> Result<Response<wire::StatArtifactReply>, Status> {
        artifacts::stat(&self.artifacts, &request.into_inner().sha256).await.map(Response::new)
    }

    async fn put_artifact(
        &self,
        request: Request<Streaming<wire::ArtifactChunk>>,
    ) -> Result<Response<wire::PutArtifactReply>, Status> {
        let digest = artifacts::put(&self.artifacts, request.into_inner()).await?;
        Ok(Response::new(wire::PutArtifactReply { sha256: digest.into() }))
    }

    async fn get_artifact(
        &self,
        request: Request<wire::GetArtifactRequest>,
    ) -> Result<Response<Self::GetArtifactStream>, Status> {
        artifacts::get(&self.artifacts, request.into_inner()).await.map(Response::new)
    }
}

impl Service {
    /// Ends an attempt: what must be remembered is stored before the dispatcher hears of it.
    async fn end_attempt(&self, work: WorkId, attempt: u32, outcome: Outcome) -> Result<(), Status> {
        let told = match outcome {
            Outcome::Episode { turns } => {
                let stored = self.store.finish_episode(&self.run, &work, attempt, turns).await;
                self.watch(&stored);
                stored.map_err(status::store)?;
                self.dispatch.finished(work, attempt).await
            }
            Outcome::Training(report) => {
                self.adapter_must_be_here(&report).await?;
                let stored = self.store.finish_training(&self.run, &work, attempt, report).await;
                self.watch(&stored);
                stored.map_err(status::store)?;
                let last = self.dispatch.forget_checkpoint(work.clone()).await.map_err(status::dispatch)?;
                self.drop_state(last).await;
                self.dispatch.finished(work, attempt).await
            }
            Outcome::Calls(answers) => self.dispatch.answered(work, attempt, answers).await,
            Outcome::Failed(failure) => self.dispatch.failed(work, attempt, failure).await,
            Outcome::Returned => self.dispatch.returned(work, attempt).await,
        };
        told.map_err(status::dispatch)
    }

    /// A training's state that nobody takes up any more. One that stays costs room, and no more.
    async fn drop_state(&self, state: Option<Digest>) {
        if let Some(state) = state
            && let Err(error) = self.artifacts.remove(state).await
        {
            tracing::warn!(%state, %error, "a training's old state stays");
        }
    }

    async fn adapter_must_be_here(&self, report: &TrainingReport) -> Result<(), Status> {
        let Some(adapter) = report.agent.adapter() else { return Ok(()) };
        for digest in [adapter.config, adapter.weights] {
            if !self.artifacts.contains(digest).await.map_err(status::artifact)? {
                return Err(Status::invalid_argument(format!(
                    "the adapter's file {digest} was not uploaded; upload both files before finishing"
                )));
            }
        }
        Ok(())
    }

    /// Shows people that the store is away, and when it is back.
    fn watch(&self, stored: &Result<(), StoreError>) {
        let message = match stored {
            Err(error) if error.retryable() => Some(error.to_string()),
            _ => None,
        };
        self.progress.store_says(message);
    }
}

/// The highest protocol that both sides speak.
fn negotiate(join: &Join) -> Result<u32, Status> {
    let (ours_low, ours_high) = (*PROTOCOL.start(), *PROTOCOL.end());
    let (low, high) = join.protocol;
    let protocol = high.min(ours_high);
    if protocol < low.max(ours_low) {
        let ours = env!("CARGO_PKG_VERSION");
        return Err(Status::failed_precondition(format!(
            "worker `{}` (release {}) speaks protocol {low} to {high}, this coordinator (release {ours}) speaks \
             {ours_low} to {ours_high}; use the same release for both",
            join.name, join.version
        )));
    }
    Ok(protocol)
}
