//! The coordinator as a worker sees it: calls in domain types, each with a deadline and an error that says what to do.

mod error;
mod events;
mod options;

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use influence_proto::wire::coordinator_client::CoordinatorClient;
use influence_proto::{
    ARTIFACT_CHUNK, Digest, HeldLease, Join, Joined, MAX_MESSAGE, Outcome, Turn, WorkId, WorkerId, wire,
};
use tokio::io::AsyncReadExt as _;
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
/// Between two chunks of an artifact.
const CHUNK: Duration = Duration::from_secs(30);

/// A connection to the coordinator, made when it is first needed and again when it was lost. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    stub: CoordinatorClient<InterceptedService<Channel, Bearer>>,
    options: Arc<ClientOptions>,
}

impl Client {
    /// A client of the coordinator that these options name. Call it inside a runtime: its connection lives there.
    pub(crate) fn new(options: ClientOptions) -> Result<Self, ConnectError> {
        let channel = options.endpoint()?.connect_lazy();
        let stub = CoordinatorClient::with_interceptor(channel, options.bearer())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        Ok(Self { stub, options: Arc::new(options) })
    }

    /// Where the coordinator is.
    pub(crate) fn address(&self) -> &str {
        &self.options.address
    }

    /// For another client of the same coordinator.
    pub(crate) fn options(&self) -> ClientOptions {
        self.options.as_ref().clone()
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

    /// Uploads a file and returns the digest under which it is kept.
    pub(crate) async fn put_artifact(&self, path: &Path) -> Result<Digest, CallError> {
        let unreadable = |e: std::io::Error| CallError::Local(format!("{}: {e}", path.display()));
        let mut file = tokio::fs::File::open(path).await.map_err(unreadable)?;
        let bytes = file.metadata().await.map_err(unreadable)?.len();
        let (sender, chunks) = mpsc::channel(2);
        let read = async move {
            loop {
                let mut data = Vec::with_capacity(ARTIFACT_CHUNK);
                (&mut file).take(ARTIFACT_CHUNK as u64).read_to_end(&mut data).await?;
                // An empty file is one empty chunk.
                let last = data.len() < ARTIFACT_CHUNK;
                if sender.send(wire::ArtifactChunk { data, upload: None }).await.is_err() || last {
                    return Ok::<_, std::io::Error>(());
                }
            }
        };
        // A slow link moves 64 KiB a second.
        let limit = CALL + Duration::from_secs(bytes >> 16);
        let mut stub = self.stub.clone();
        let (read, reply) = tokio::join!(read, within(limit, stub.put_artifact(ReceiverStream::new(chunks))));
        // What was not read was not sent: the digest of what was is of no use.
        read.map_err(unreadable)?;
        Ok(Digest::parse(&reply?.sha256)?)
    }

    /// Downloads an artifact, chunk by chunk, into `sink`. The caller verifies what arrived.
    pub(crate) async fn get_artifact(
        &self,
        digest: Digest,
        mut sink: impl FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<(), CallError> {
        let request = wire::GetArtifactRequest { sha256: digest.to_string(), offset: 0 };
        let mut chunks = within(CALL, self.stub.clone().get_artifact(request)).await?;
        loop {
            let chunk = tokio::time::timeout(CHUNK, chunks.message()).await.map_err(|_| silent(CHUNK))??;
            let Some(chunk) = chunk else { return Ok(()) };
            sink(&chunk.data).map_err(|e| CallError::Local(e.to_string()))?;
        }
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
