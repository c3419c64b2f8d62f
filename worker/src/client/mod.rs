//! The coordinator as a worker sees it: calls in domain types, each with a deadline and an error that says what to do.

mod admin;
mod error;
mod events;
mod options;
mod transfers;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use influence_proto::wire::admin_client::AdminClient;
use influence_proto::wire::coordinator_client::CoordinatorClient;
use influence_proto::{
    Digest, HeldLease, Join, Joined, MAX_MESSAGE, Outcome, Turn, WorkId, WorkerId, WorkerLoad, wire,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Response, Status};

pub(crate) use error::CallError;
pub(crate) use events::{Ended, Event, Events, Lost};
pub(crate) use options::ClientOptions;
pub use options::{ConnectError, Credentials, IdentityPem};

use options::Bearer;

/// For a call whose answer is small.
const CALL: Duration = Duration::from_secs(20);

/// Connections to the coordinator and its standbys, made when they are first needed and again when they were lost. One
/// of them is the current one, for all calls; a call that finds nobody there moves on to the next. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    places: Arc<[Place]>,
    current: Arc<AtomicUsize>,
    options: Arc<ClientOptions>,
}

type Stub = CoordinatorClient<InterceptedService<Channel, Bearer>>;
type AdminStub = AdminClient<InterceptedService<Channel, Bearer>>;

#[derive(Debug)]
struct Place {
    admin: AdminStub,
    address: String,
    stub: Stub,
}

impl Client {
    /// A client of the coordinators that these options name. Call it inside a runtime: its connections live there.
    pub(crate) fn new(options: ClientOptions) -> Result<Self, ConnectError> {
        let place = |address: &String| {
            let channel = options.endpoint(address)?.connect_lazy();
            let stub = CoordinatorClient::with_interceptor(channel.clone(), options.bearer())
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE);
            let admin = AdminClient::with_interceptor(channel, options.bearer());
            Ok(Place { address: address.clone(), stub, admin })
        };
        let places: Arc<[Place]> = options.addresses.iter().map(place).collect::<Result<_, _>>()?;
        if places.is_empty() {
            let problem = "there is none; give one or more, as in http://HOST:PORT".to_owned();
            return Err(ConnectError::Address { address: String::new(), problem });
        }
        Ok(Self { places, current: Arc::default(), options: Arc::new(options) })
    }

    /// Where the coordinator is, or is next looked for.
    pub(crate) fn address(&self) -> &str {
        &self.places[self.current.load(Ordering::Relaxed) % self.places.len()].address
    }

    /// For another client of the same coordinators.
    pub(crate) fn options(&self) -> ClientOptions {
        self.options.as_ref().clone()
    }

    /// A call with a deadline, to the current coordinator.
    async fn call<T, F>(&self, limit: Duration, call: impl FnOnce(Stub) -> F) -> Result<T, CallError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.at_current(limit, |place| call(place.stub.clone())).await
    }

    async fn at_current<T, F>(&self, limit: Duration, call: impl FnOnce(&Place) -> F) -> Result<T, CallError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let at = self.current.load(Ordering::Relaxed);
        let result = match tokio::time::timeout(limit, call(&self.places[at % self.places.len()])).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(CallError::from(status)),
            Err(_) => Err(silent(limit)),
        };
        if matches!(result, Err(CallError::Away(_))) {
            // Of several calls that found nobody there, one moves on.
            let next = at.wrapping_add(1);
            let _ = self.current.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
        }
        result
    }

    /// The handshake.
    pub(crate) async fn join(&self, join: Join) -> Result<Joined, CallError> {
        let request = wire::JoinRequest::from(join);
        let reply = self.call(CALL, |mut stub| async move { stub.join(request).await }).await?;
        Ok(Joined::try_from(reply)?)
    }

    /// Opens the session's stream; what goes into `events` is sent.
    pub(crate) async fn session(&self, events: mpsc::Receiver<wire::WorkerEvent>) -> Result<Events, CallError> {
        let events = ReceiverStream::new(events);
        let stream = self.call(CALL, |mut stub| async move { stub.session(events).await }).await?;
        Ok(Events::new(stream))
    }

    /// Extends leases and returns those that are lost.
    pub(crate) async fn renew(
        &self,
        worker: &WorkerId,
        held: Vec<HeldLease>,
        load: WorkerLoad,
        limit: Duration,
    ) -> Result<Vec<Lost>, CallError> {
        let held = held.into_iter().map(Into::into).collect();
        let request = wire::RenewRequest {
            worker_id: worker.to_string(),
            held,
            memory_bytes: load.memory_bytes,
            backing_off: load.backing_off,
        };
        let reply = self.call(limit, |mut stub| async move { stub.renew(request).await }).await?;
        Ok(reply.lost.into_iter().map(Lost::try_from).collect::<Result<_, _>>()?)
    }

    /// Journals a turn. Repeating it is harmless.
    pub(crate) async fn record_turn(
        &self,
        worker: &WorkerId,
        work: &WorkId,
        attempt: u32,
        turn: Turn,
    ) -> Result<(), CallError> {
        let (worker_id, work) = (worker.to_string(), work.to_string());
        let request = wire::RecordTurnRequest { worker_id, work, attempt, turn: Some(turn.into()) };
        self.call(CALL, |mut stub| async move { stub.record_turn(request).await }).await.map(|_| ())
    }

    /// Names the artifact that a training may be taken up from. Repeating it is harmless.
    pub(crate) async fn record_checkpoint(
        &self,
        worker: &WorkerId,
        work: &WorkId,
        attempt: u32,
        checkpoint: Digest,
    ) -> Result<(), CallError> {
        let (worker_id, work) = (worker.to_string(), work.to_string());
        let request = wire::RecordCheckpointRequest { worker_id, work, attempt, sha256: checkpoint.into() };
        self.call(CALL, |mut stub| async move { stub.record_checkpoint(request).await }).await.map(|_| ())
    }

    /// Ends an attempt. Repeating it is harmless.
    pub(crate) async fn finish(
        &self,
        worker: &WorkerId,
        work: &WorkId,
        attempt: u32,
        outcome: Outcome,
    ) -> Result<(), CallError> {
        let (worker_id, work) = (worker.to_string(), work.to_string());
        let request = wire::FinishRequest { worker_id, work, attempt, outcome: Some(outcome.into()) };
        self.call(CALL, |mut stub| async move { stub.finish(request).await }).await.map(|_| ())
    }
}

fn silent(limit: Duration) -> CallError {
    CallError::Away(format!("no answer within {:.0} s", limit.as_secs_f64()))
}
