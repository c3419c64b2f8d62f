//! A worker without a model: what it says is a pure function of the spec, so that every order of
//! events must lead to the same run. It speaks real gRPC.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use influence_proto::wire::{coordinator_event, worker_event};
use influence_proto::{
    AdapterRef, AgentReply, Call, Digest, EnvironmentReply, EpisodeSpec, Failure, HeldLease, Join, Joined, Lease,
    Outcome, PROTOCOL, Role, Score, TrainedAgent, TrainingReport, TrainingSpec, TransitionOutcome, Turn, Work, WorkId,
    WorkerId, stream, wire,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::door::{Client, Door};

/// What it is doing, by work and attempt.
type Held = BTreeMap<(WorkId, u32), JoinHandle<()>>;

pub(crate) async fn client(address: SocketAddr) -> Result<Client, tonic::transport::Error> {
    Door::default().open(address).await
}

pub(crate) fn join(name: &str, incarnation: u64) -> Join {
    let (version, device) = ("0".into(), "cpu".into());
    Join {
        protocol: (*PROTOCOL.start(), *PROTOCOL.end()),
        name: name.into(),
        incarnation,
        version,
        device,
        can_train: true,
    }
}

/// An open stream.
pub(crate) struct Session {
    pub(crate) worker: WorkerId,
    pub(crate) events: mpsc::Sender<wire::WorkerEvent>,
    pub(crate) stream: Streaming<wire::CoordinatorEvent>,
}

impl Session {
    pub(crate) async fn open(client: &mut Client, join: Join, credits: u32) -> Result<Self, Status> {
        let joined = Joined::try_from(client.join(wire::JoinRequest::from(join)).await?.into_inner()).unwrap();
        let (events, outgoing) = mpsc::channel(16);
        let hello = wire::Hello { worker_id: joined.worker.to_string(), models: Vec::new() };
        for event in
            [worker_event::Event::Hello(hello), worker_event::Event::Credits(wire::Credits { episodes: credits })]
        {
            events.send(wire::WorkerEvent { event: Some(event) }).await.unwrap();
        }
        let stream = client.session(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Self { worker: joined.worker, events, stream })
    }

    /// The next lease; other events are passed over.
    pub(crate) async fn lease(&mut self) -> Lease {
        loop {
            if let coordinator_event::Event::Lease(lease) = self.next().await {
                return Lease::try_from(lease).unwrap();
            }
        }
    }

    pub(crate) async fn next(&mut self) -> coordinator_event::Event {
        let event = tokio::time::timeout(Duration::from_secs(10), self.stream.message()).await;
        event.expect("an event comes").unwrap().expect("the stream is open").event.unwrap()
    }

    pub(crate) async fn credits(&self, episodes: u32) {
        let credits = worker_event::Event::Credits(wire::Credits { episodes });
        self.events.send(wire::WorkerEvent { event: Some(credits) }).await.unwrap();
    }

    /// Renews a lease, with progress, until the task is aborted.
    pub(crate) fn keep(&self, mut client: Client, work: WorkId, attempt: u32) -> JoinHandle<()> {
        let worker_id = self.worker.to_string();
        tokio::spawn(async move {
            for progress in 1.. {
                let held = vec![HeldLease { work: work.clone(), attempt, progress }.into()];
                client
                    .renew(wire::RenewRequest { worker_id: worker_id.clone(), held, ..Default::default() })
                    .await
                    .unwrap();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
    }
}

/// What a worker does beyond the ordinary.
#[derive(Clone, Copy, Default)]
pub(crate) struct Temper {
    /// Every score it gives is unscored.
    pub(crate) mute: bool,
    /// It fails every episode of the environment `rain`.
    pub(crate) afraid_of_rain: bool,
    /// It thinks for so long before every turn.
    pub(crate) slow_ms: u64,
}

/// A worker that lives through restarts of the coordinator, until it is told goodbye or to drain.
#[derive(Clone)]
pub(crate) struct Worker {
    pub(crate) address: Arc<Mutex<SocketAddr>>,
    pub(crate) join: Join,
    pub(crate) slots: u32,
    pub(crate) temper: Temper,
    door: Door,
    held: Arc<Mutex<Held>>,
}

impl Worker {
    pub(crate) fn new(address: SocketAddr, name: &str, incarnation: u64) -> Self {
        let address = Arc::new(Mutex::new(address));
        let (join, door) = (join(name, incarnation), Door::default());
        Self { address, join, slots: 3, temper: Temper::default(), door, held: Arc::default() }
    }

    /// The same worker with these credentials.
    pub(crate) fn through(self, door: Door) -> Self {
        Self { door, ..self }
    }

    /// Works until goodbye, or until it has handed back what it held; returns the reason that it was told.
    pub(crate) async fn work(self) -> String {
        loop {
            if let Ok(mut client) = self.client().await
                && let Ok(session) = Session::open(&mut client, self.join.clone(), self.free()).await
                && let Some(goodbye) = self.serve(client, session).await
            {
                return goodbye;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn client(&self) -> Result<Client, tonic::transport::Error> {
        let address = *self.address.lock().unwrap();
        self.door.open(address).await
    }

    fn free(&self) -> u32 {
        let mut held = self.held.lock().unwrap();
        held.retain(|_, task| !task.is_finished());
        self.slots.saturating_sub(held.len() as u32)
    }

    async fn serve(&self, mut client: Client, mut session: Session) -> Option<String> {
        let mut beat = tokio::time::interval(Duration::from_millis(20));
        loop {
            tokio::select! {
                event = session.stream.message() => match event.ok()??.event? {
                    coordinator_event::Event::Goodbye(goodbye) => return Some(goodbye.reason),
                    coordinator_event::Event::Cancel(cancel) => self.lose(cancel),
                    coordinator_event::Event::Drain(drain) => {
                        let draining = worker_event::Event::Draining(wire::Draining {});
                        session.events.send(wire::WorkerEvent { event: Some(draining) }).await.ok()?;
                        self.hand_back(&session.worker).await;
                        return Some(drain.reason);
                    }
                    coordinator_event::Event::Lease(lease) => self.take(Lease::try_from(lease).unwrap(), &session.worker),
                },
                _ = beat.tick() => {
                    let credits = worker_event::Event::Credits(wire::Credits { episodes: self.free() });
                    session.events.send(wire::WorkerEvent { event: Some(credits) }).await.ok()?;
                    let held: Vec<_> = self.held.lock().unwrap().keys().cloned().collect();
                    let held = held.into_iter().map(|(work, attempt)| HeldLease { work, attempt, progress: 1 }.into());
                    let request = wire::RenewRequest { worker_id: session.worker.to_string(), held: held.collect(), ..Default::default() };
                    let reply = client.renew(request).await.ok()?;
                    reply.into_inner().lost.into_iter().for_each(|cancel| self.lose(cancel));
                }
            }
        }
    }

    async fn hand_back(&self, worker: &WorkerId) {
        let held = std::mem::take(&mut *self.held.lock().unwrap());
        for ((work, attempt), task) in held {
            task.abort();
            // What it delivered at the last moment is not handed back.
            if task.await.is_err() {
                let request = finish(worker, &work, attempt, Outcome::Returned);
                self.until_stored(|mut client| {
                    let request = request.clone();
                    async move { client.finish(request).await.map(drop) }
                })
                .await;
            }
        }
    }

    fn lose(&self, cancel: wire::Cancel) {
        let key = (WorkId::new(cancel.work).unwrap(), cancel.attempt);
        if let Some(task) = self.held.lock().unwrap().remove(&key) {
            task.abort();
        }
    }

    fn take(&self, lease: Lease, worker: &WorkerId) {
        let key = (lease.work.clone(), lease.attempt);
        let (this, worker) = (self.clone(), worker.clone());
        let task = tokio::spawn(async move {
            let (work, attempt) = (lease.work.clone(), lease.attempt);
            let outcome = match lease.payload {
                Work::Episode { spec, .. } if this.temper.afraid_of_rain && spec.environment == "rain" => {
                    Some(Outcome::Failed(Failure { retryable: true, message: "it rains".into() }))
                }
                Work::Episode { spec, journal } => this.play(&worker, &work, attempt, &spec, journal).await,
                Work::Training(spec) => Some(Outcome::Training(this.train(&spec).await)),
                Work::Calls(_) => panic!("nobody asks for calls here"),
            };
            if let Some(outcome) = outcome {
                let request = finish(&worker, &work, attempt, outcome);
                this.until_stored(|mut client| {
                    let request = request.clone();
                    async move { client.finish(request).await.map(drop) }
                })
                .await;
            }
        });
        self.held.lock().unwrap().insert(key, task);
    }

    /// None if the attempt was fenced off.
    async fn play(
        &self,
        worker: &WorkerId,
        work: &WorkId,
        attempt: u32,
        spec: &EpisodeSpec,
        mut turns: Vec<Turn>,
    ) -> Option<Outcome> {
        while turns.last().is_none_or(|turn| turn.environment.is_some()) {
            tokio::time::sleep(Duration::from_millis(2 + self.temper.slow_ms)).await;
            let turn = turn_of(spec, turns.len() as u32, self.temper.mute);
            let request = record(worker, work, attempt, &turn);
            self.until_stored(|mut client| {
                let request = request.clone();
                async move { client.record_turn(request).await.map(drop) }
            })
            .await?;
            turns.push(turn);
        }
        Some(Outcome::Episode { turns: turns.len() as u32 })
    }

    async fn train(&self, spec: &TrainingSpec) -> TrainingReport {
        let dataset = spec.dataset;
        let fetched = self.until_stored(|mut client| async move {
            let request = wire::GetArtifactRequest { sha256: dataset.to_string(), offset: 0 };
            let mut chunks = client.get_artifact(request).await?.into_inner();
            let mut rows = Vec::new();
            while let Some(chunk) = chunks.message().await? {
                rows.extend(chunk.data);
            }
            Ok(rows)
        });
        let rows = fetched.await.expect("reading is never fenced off");
        assert_eq!(Digest::of(&rows), spec.dataset);
        let weights = format!("{spec:?} trained on {}", spec.dataset).into_bytes();
        let config = b"{\"r\": 2}".to_vec();
        for file in [&config, &weights] {
            self.until_stored(|client| upload(client, file.clone())).await.expect("nor is writing");
        }
        let rows = rows.iter().filter(|b| **b == b'\n').count() as u32;
        // Long enough for a busy machine's observer to see the phase.
        tokio::time::sleep(Duration::from_millis(40)).await;
        let agent = TrainedAgent::Adapter(AdapterRef { config: Digest::of(config), weights: Digest::of(weights) });
        TrainingReport {
            agent,
            steps: 1,
            rows,
            dropped_rows: 0,
            tokens: 9,
            first_loss: Some(2.0),
            last_loss: Some(1.0),
            losses: Vec::new(),
            nanodollars: 0,
        }
    }

    /// Repeats a call while the coordinator is away. None if the attempt was fenced off.
    async fn until_stored<T, F>(&self, mut call: impl FnMut(Client) -> F) -> Option<T>
    where
        F: Future<Output = Result<T, Status>>,
    {
        loop {
            if let Ok(client) = self.client().await {
                match call(client).await {
                    Ok(reply) => return Some(reply),
                    Err(status) if status.code() == Code::FailedPrecondition => return None,
                    Err(status) if status.code() == Code::InvalidArgument => panic!("{status}"),
                    Err(_) => {}
                }
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }
}

/// Uploads what is not there yet, in small pieces.
pub(crate) async fn upload(mut client: Client, file: Vec<u8>) -> Result<(), Status> {
    let sha256 = Digest::of(&file).to_string();
    let stat = client.stat_artifact(wire::StatArtifactRequest { sha256: sha256.clone() }).await?.into_inner();
    if stat.complete {
        return Ok(());
    }
    let upload = Some(wire::Upload { sha256: sha256.clone(), offset: stat.bytes, bytes: file.len() as u64 });
    let mut chunks = vec![wire::ArtifactChunk { data: Vec::new(), upload }];
    let rest = file[stat.bytes as usize..].chunks(10);
    chunks.extend(rest.map(|c| wire::ArtifactChunk { data: c.to_vec(), upload: None }));
    let reply = client.put_artifact(tokio_stream::iter(chunks)).await?.into_inner();
    assert_eq!(reply.sha256, sha256);
    Ok(())
}

pub(crate) fn record(worker: &WorkerId, work: &WorkId, attempt: u32, turn: &Turn) -> wire::RecordTurnRequest {
    let (worker_id, work) = (worker.to_string(), work.to_string());
    wire::RecordTurnRequest { worker_id, work, attempt, turn: Some(turn.clone().into()) }
}

pub(crate) fn finish(worker: &WorkerId, work: &WorkId, attempt: u32, outcome: Outcome) -> wire::FinishRequest {
    let (worker_id, work) = (worker.to_string(), work.to_string());
    wire::FinishRequest { worker_id, work, attempt, outcome: Some(outcome.into()) }
}

/// A turn as this worker makes it up.
pub(crate) fn turn_of(spec: &EpisodeSpec, index: u32, mute: bool) -> Turn {
    let draw = |purpose| stream::uniform(stream::of_turn(spec.seed, index, purpose));
    let good = draw("preference");
    let preference = if mute {
        Score::unscored("it says nothing")
    } else {
        Score::from_masses(vec![("1".into(), 1.0 - good), ("10".into(), good)], 0.01)
    };
    let over = draw("transition") < 0.3;
    let (answer, next_state) = if over { ("yes", "over") } else { ("no", "initial_state") };
    let last = over || index + 1 == spec.max_turns;
    let token = |purpose| (draw(purpose) * 1000.0) as u32;
    Turn {
        index,
        reply: AgentReply {
            text: "word ".repeat(1 + (good * 9.0) as usize),
            prompt_ids: vec![token("a"), token("b")],
            restarts: false,
            token_ids: vec![token("c"), 2],
            cut_off: false,
        },
        state: spec.machine.start().to_owned(),
        transition: TransitionOutcome {
            score: Score::from_masses(vec![("yes".into(), 0.3), ("no".into(), 0.7)], 0.01),
            answer: answer.into(),
            defaulted: false,
            next_state: next_state.into(),
            entered: Vec::new(),
        },
        preference,
        influence: None,
        environment: (!last).then(|| EnvironmentReply { text: "and then?".into(), cut_off: false }),
        calls: vec![Call {
            role: Role::Agent,
            prompt_tokens: 10,
            reused_tokens: 4,
            generated_tokens: 2,
            prompt_sha256: Digest::of("prompt"),
            milliseconds: 1,
            nanodollars: 0,
        }],
        choice: None,
        worker: None,
    }
}
