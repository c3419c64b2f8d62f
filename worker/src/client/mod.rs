//! The coordinator as a worker sees it: calls in domain types, each with a deadline and an error that says what to do.

mod error;
mod events;
mod transfers;

use std::future::Future;
use std::time::Duration;

use influence_proto::wire::admin_client::AdminClient;
use influence_proto::wire::coordinator_client::CoordinatorClient;
use influence_proto::{HeldLease, Join, Joined, MAX_MESSAGE, Outcome, Turn, WorkId, WorkerId, wire};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

pub(crate) use error::{CallError, InvalidAddress};
pub(crate) use events::{Ended, Event, Events, Lost};

/// For a connection to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// For a call whose answer is small.
const CALL: Duration = Duration::from_secs(20);
/// A connection on which nothing comes back is asked for a sign of life, and given up without one.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// A connection to the coordinator, made when it is first needed and again when it was lost. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    stub: CoordinatorClient<Channel>,
    admin: AdminClient<Channel>,
    address: String,
}

impl Client {
    /// A client of `address`, as in `http://127.0.0.1:50051`. Call it inside a runtime: its connection lives there.
    pub(crate) fn new(address: &str) -> Result<Self, InvalidAddress> {
        let refuse = |problem: String| InvalidAddress { address: address.to_owned(), problem };
        let endpoint = Endpoint::from_shared(address.to_owned()).map_err(|e| refuse(e.to_string()))?;
        if endpoint.uri().scheme_str() != Some("http") || endpoint.uri().host().is_none() {
            return Err(refuse("it must look like http://HOST:PORT".to_owned()));
        }
        let endpoint = endpoint
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true);
        let channel = endpoint.connect_lazy();
        let stub = CoordinatorClient::new(channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        Ok(Self { stub, admin: AdminClient::new(channel), address: address.to_owned() })
    }

    /// Where the coordinator is.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The handshake.
    pub(crate) async fn join(&self, join: Join) -> Result<Joined, CallError> {
        let mut stub = self.stub.clone();
        let reply = within(CALL, stub.join(wire::JoinRequest::from(join))).await?;
        Ok(Joined::try_from(reply)?)
    }

    /// Opens the session's stream; what goes into `events` is sent.
    pub(crate) async fn session(&self, events: mpsc::Receiver<wire::WorkerEvent>) -> Result<Events, CallError> {
        let mut stub = self.stub.clone();
        let stream = within(CALL, stub.session(ReceiverStream::new(events))).await?;
        Ok(Events::new(stream))
    }

    /// Extends leases and returns those that are lost.
    pub(crate) async fn renew(
        &self,
        worker: &WorkerId,
        held: Vec<HeldLease>,
        limit: Duration,
    ) -> Result<Vec<Lost>, CallError> {
        let held = held.into_iter().map(Into::into).collect();
        let request = wire::RenewRequest { worker_id: worker.to_string(), held };
        let reply = within(limit, self.stub.clone().renew(request)).await?;
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
        within(CALL, self.stub.clone().record_turn(request)).await.map(|_| ())
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
        within(CALL, self.stub.clone().finish(request)).await.map(|_| ())
    }
}

/// A call with a deadline.
async fn within<T>(limit: Duration, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, CallError> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(CallError::from(status)),
        Err(_) => Err(silent(limit)),
    }
}

fn silent(limit: Duration) -> CallError {
    CallError::Away(format!("no answer within {:.0} s", limit.as_secs_f64()))
}
