//! A coordinator for tests: real gRPC on a loopback port, with faults to order.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, VecDeque};
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use influence_proto::wire::admin_server::AdminServer;
use influence_proto::wire::coordinator_server::{Coordinator, CoordinatorServer};
use influence_proto::{Lease, ModelSource, ModelSpec, Outcome, PROTOCOL, Turn, wire};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::{Server, ServerTlsConfig};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::client::{ClientOptions, Credentials};

mod transfers;

type Reply<T> = Result<Response<T>, Status>;
type Outgoing = mpsc::Sender<Result<wire::CoordinatorEvent, Status>>;

/// What the coordinator knows and what it will do.
#[derive(Debug, Default)]
pub(crate) struct Script {
    pub(crate) protocol: Option<u32>,
    /// What the header `authorization` of every call must be.
    pub(crate) authorization: Option<String>,
    pub(crate) lease_ms: Option<u32>,
    /// Granted as credits allow.
    pub(crate) leases: VecDeque<Lease>,
    /// Answers of the next calls that deliver something; a call without one succeeds.
    pub(crate) faults: VecDeque<Fault>,
    /// Turns by (work, attempt) and their order.
    pub(crate) turns: Vec<(String, u32, Turn)>,
    pub(crate) finished: Vec<(String, u32, Outcome)>,
    pub(crate) joins: Vec<wire::JoinRequest>,
    pub(crate) renewals: Vec<Vec<wire::HeldLease>>,
    /// Memory and requests that are made again, as the last renewal says.
    pub(crate) load: (u64, u32),
    /// Reported as lost by the next renewal.
    pub(crate) lost: Vec<wire::Cancel>,
    pub(crate) artifacts: BTreeMap<String, Vec<u8>>,
    /// What came of uploads that broke off.
    pub(crate) spooled: BTreeMap<String, Vec<u8>>,
    /// From which byte on artifacts were asked for, and sent.
    pub(crate) downloads: Vec<u64>,
    pub(crate) uploads: Vec<u64>,
    /// Files of models, by name.
    pub(crate) pushed: BTreeMap<String, Vec<wire::PushedFile>>,
    /// The models that the first worker said it has loaded.
    pub(crate) pinned: Vec<wire::LoadedModel>,
    pub(crate) credits: Vec<u32>,
    pub(crate) draining: bool,
    pub(crate) sessions: u32,
    /// The first and the latest that was heard of a training.
    pub(crate) first_step: Option<u32>,
    pub(crate) step: u32,
    /// States of trainings that were named.
    pub(crate) states: Vec<String>,
    /// Names given at joining; calls of others are unknown.
    known: Vec<String>,
    stream: Option<Outgoing>,
    /// Goodbye was said.
    over: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// Refused before anything is stored.
    Before(Code),
    /// Stored, but the answer is lost.
    After(Code),
    /// A transfer's connection breaks after so many chunks.
    Break(usize),
}

#[derive(Debug, Clone, Default)]
struct Shared(Arc<Mutex<Script>>);

/// A running coordinator. It has a runtime of its own: only that makes its death take its connections along.
#[derive(Debug)]
pub(crate) struct Rehearsal {
    shared: Shared,
    address: SocketAddr,
    tls: Option<ServerTlsConfig>,
    runtime: Option<Runtime>,
}

fn farewell() -> wire::CoordinatorEvent {
    let event = wire::coordinator_event::Event::Goodbye(wire::Goodbye { reason: "done".into() });
    wire::CoordinatorEvent { event: Some(event) }
}

impl Rehearsal {
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    /// As `start`, over TLS if it is given.
    pub(crate) async fn start_with(tls: Option<ServerTlsConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Shared::default();
        let runtime = Some(serve(listener, shared.clone(), tls.clone()));
        Self { shared, address, tls, runtime }
    }

    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// For a client without credentials.
    pub(crate) fn options(&self) -> ClientOptions {
        ClientOptions { addresses: vec![self.url()], credentials: Credentials::default() }
    }

    pub(crate) fn script(&self) -> MutexGuard<'_, Script> {
        self.shared.0.lock().unwrap()
    }

    /// The process dies, with every connection.
    pub(crate) fn kill(&mut self) {
        self.script().stream = None;
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// It starts again on the same port, with its store; workers must join again if it `forgets`.
    pub(crate) async fn restart(&mut self, forgets: bool) {
        if forgets {
            self.script().known.clear();
        }
        let listener = loop {
            match TcpListener::bind(self.address) {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        self.runtime = Some(serve(listener, self.shared.clone(), self.tls.clone()));
    }

    pub(crate) fn say(&self, event: wire::coordinator_event::Event) {
        let event = wire::CoordinatorEvent { event: Some(event) };
        self.script().stream.as_ref().unwrap().try_send(Ok(event)).unwrap();
    }

    /// The run is over. As the real one does, it tells the open stream and every later one: a worker
    /// may just be on its way to a new stream.
    pub(crate) fn goodbye(&self) {
        let mut script = self.script();
        script.over = true;
        if let Some(stream) = &script.stream {
            // A stream that breaks at this moment is followed by another.
            let _ = stream.try_send(Ok(farewell()));
        }
    }

    /// The stream breaks; everything else goes on.
    pub(crate) fn break_stream(&self) {
        self.script().stream = None;
    }

    /// Waits until the script is as it should be.
    pub(crate) async fn until(&self, what: &str, done: impl Fn(&Script) -> bool) {
        let started = Instant::now();
        while !done(&self.script()) {
            assert!(started.elapsed() < Duration::from_secs(20), "waited in vain for {what}: {:?}", self.script());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Rehearsal {
    fn drop(&mut self) {
        self.kill();
    }
}

fn serve(listener: TcpListener, shared: Shared, tls: Option<ServerTlsConfig>) -> Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.spawn(async move {
        listener.set_nonblocking(true).unwrap();
        let incoming = TcpListenerStream::new(tokio::net::TcpListener::from_std(listener).unwrap());
        let mut server = match tls {
            Some(tls) => Server::builder().tls_config(tls).unwrap(),
            None => Server::builder(),
        };
        let checked = shared.clone();
        let check = move |request: Request<()>| checked.authorise(request);
        let admin = AdminServer::with_interceptor(shared.clone(), check.clone());
        let service = CoordinatorServer::with_interceptor(shared, check);
        server.add_service(service).add_service(admin).serve_with_incoming(incoming).await.unwrap();
    });
    runtime
}

impl Shared {
    fn authorise(&self, request: Request<()>) -> Result<Request<()>, Status> {
        let shown = request.metadata().get("authorization").map(|header| header.to_str().unwrap().to_owned());
        match &self.0.lock().unwrap().authorization {
            Some(expected) if shown.as_ref() != Some(expected) => {
                Err(Status::unauthenticated("the token is none of this coordinator's"))
            }
            _ => Ok(request),
        }
    }

    /// A call that delivers something: its fault first, then `store`, which must be idempotent.
    fn deliver(&self, worker: &str, store: impl FnOnce(&mut Script)) -> Result<(), Status> {
        let mut script = self.0.lock().unwrap();
        if !script.known.iter().any(|known| known == worker) {
            return Err(Status::aborted("unknown worker"));
        }
        match script.faults.pop_front() {
            Some(Fault::Before(code)) => Err(Status::new(code, "ordered")),
            Some(Fault::After(code)) => {
                store(&mut script);
                Err(Status::new(code, "ordered"))
            }
            Some(Fault::Break(_)) | None => {
                store(&mut script);
                Ok(())
            }
        }
    }

    fn heard(&self, event: wire::worker_event::Event) {
        use wire::worker_event::Event;
        let mut script = self.0.lock().unwrap();
        match event {
            Event::Credits(credits) => {
                script.credits.push(credits.episodes);
                for _ in 0..credits.episodes {
                    let Some(lease) = script.leases.pop_front() else { break };
                    let event = wire::coordinator_event::Event::Lease(lease.into());
                    let event = wire::CoordinatorEvent { event: Some(event) };
                    if let Some(stream) = &script.stream {
                        stream.try_send(Ok(event)).unwrap();
                    }
                }
            }
            Event::Draining(_) => script.draining = true,
            Event::Training(progress) => {
                script.first_step.get_or_insert(progress.step);
                script.step = progress.step;
            }
            Event::Hello(_) => {}
        }
    }
}

#[tonic::async_trait]
impl Coordinator for Shared {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<wire::CoordinatorEvent, Status>> + Send>>;
    type GetArtifactStream = ReceiverStream<Result<wire::ArtifactChunk, Status>>;

    async fn join(&self, request: Request<wire::JoinRequest>) -> Reply<wire::JoinReply> {
        let request = request.into_inner();
        let mut script = self.0.lock().unwrap();
        if script.protocol == Some(0) {
            return Err(Status::failed_precondition("this coordinator speaks protocol 7 to 9"));
        }
        let worker_id = format!("worker-{}", script.joins.len());
        script.joins.push(request);
        script.known.push(worker_id.clone());
        let source = ModelSource::Path { path: "tiny.gguf".into(), sha256: None };
        let mut sources = vec![source];
        if let Some(files) = script.pushed.get("tiny") {
            let files = files.iter().cloned().map(|file| file.try_into().unwrap()).collect();
            sources.push(ModelSource::Pushed { files });
        }
        let model = ModelSpec { name: "tiny".into(), dtype: "f32".into(), kv_dtype: None, sources };
        Ok(Response::new(wire::JoinReply {
            protocol: script.protocol.unwrap_or(*PROTOCOL.end()),
            worker_id,
            run_id: "run".into(),
            models: vec![model.into()],
            lease_ms: script.lease_ms.unwrap_or(5000),
            renew_ms: 50,
        }))
    }

    async fn session(&self, request: Request<Streaming<wire::WorkerEvent>>) -> Reply<Self::SessionStream> {
        let mut incoming = request.into_inner();
        let hello = incoming.message().await?.and_then(|e| e.event);
        let Some(wire::worker_event::Event::Hello(hello)) = hello else {
            return Err(Status::invalid_argument("the first event must be Hello"));
        };
        let (sender, receiver) = mpsc::channel(64);
        {
            let mut script = self.0.lock().unwrap();
            if !script.known.contains(&hello.worker_id) {
                return Err(Status::aborted("unknown worker"));
            }
            if script.pinned.is_empty() {
                script.pinned.clone_from(&hello.models);
            } else if script.pinned != hello.models {
                return Err(Status::failed_precondition("the run has other files of `tiny`"));
            }
            script.sessions += 1;
            if script.over {
                sender.try_send(Ok(farewell())).unwrap();
            }
            script.stream = Some(sender);
        }
        let shared = self.clone();
        tokio::spawn(async move {
            while let Some(Ok(event)) = incoming.next().await {
                event.event.into_iter().for_each(|event| shared.heard(event));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn renew(&self, request: Request<wire::RenewRequest>) -> Reply<wire::RenewReply> {
        let request = request.into_inner();
        let mut script = self.0.lock().unwrap();
        if !script.known.contains(&request.worker_id) {
            return Err(Status::aborted("unknown worker"));
        }
        script.renewals.push(request.held);
        script.load = (request.memory_bytes, request.backing_off);
        Ok(Response::new(wire::RenewReply { lost: std::mem::take(&mut script.lost) }))
    }

    async fn record_turn(&self, request: Request<wire::RecordTurnRequest>) -> Reply<wire::RecordTurnReply> {
        let wire::RecordTurnRequest { worker_id, work, attempt, turn } = request.into_inner();
        let turn = Turn::try_from(turn.unwrap()).unwrap();
        self.deliver(&worker_id, |script| {
            let same = |(w, a, t): &(String, u32, Turn)| *w == work && *a == attempt && t.index == turn.index;
            if !script.turns.iter().any(same) {
                script.turns.push((work, attempt, turn));
            }
        })?;
        Ok(Response::new(wire::RecordTurnReply {}))
    }

    async fn record_checkpoint(
        &self,
        request: Request<wire::RecordCheckpointRequest>,
    ) -> Reply<wire::RecordCheckpointReply> {
        let mut script = self.0.lock().unwrap();
        let state = request.into_inner().sha256;
        assert!(script.artifacts.contains_key(&state), "it is uploaded before it is named");
        script.states.push(state);
        Ok(Response::new(wire::RecordCheckpointReply {}))
    }

    async fn finish(&self, request: Request<wire::FinishRequest>) -> Reply<wire::FinishReply> {
        let wire::FinishRequest { worker_id, work, attempt, outcome } = request.into_inner();
        let outcome = Outcome::try_from(outcome.unwrap()).unwrap();
        self.deliver(&worker_id, |script| {
            if !script.finished.iter().any(|(w, a, _)| *w == work && *a == attempt) {
                script.finished.push((work, attempt, outcome));
            }
        })?;
        Ok(Response::new(wire::FinishReply {}))
    }

    async fn stat_artifact(&self, request: Request<wire::StatArtifactRequest>) -> Reply<wire::StatArtifactReply> {
        self.stat(&request.into_inner().sha256)
    }

    async fn put_artifact(&self, request: Request<Streaming<wire::ArtifactChunk>>) -> Reply<wire::PutArtifactReply> {
        self.take(request.into_inner()).await
    }

    async fn get_artifact(&self, request: Request<wire::GetArtifactRequest>) -> Reply<Self::GetArtifactStream> {
        self.give(&request.into_inner())
    }
}
