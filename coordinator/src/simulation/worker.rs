//! A worker without a model. Each of its turns says which turns it had seen before, so that a journal
//! shows whether it was written by one mind at a time.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use influence_proto::wire::coordinator_client::CoordinatorClient;
use influence_proto::wire::{coordinator_event, worker_event};
use influence_proto::{
    AdapterRef, AgentReply, Digest, EnvironmentReply, EpisodeSpec, HeldLease, Join, Joined, Lease, Outcome, PROTOCOL,
    Score, TrainedAgent, TrainingReport, TransitionOutcome, Turn, Work, WorkId, WorkerId, stream, wire,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use super::faults::COORDINATORS;
use super::network::connect;

type Client = CoordinatorClient<Channel>;
/// What it is doing, by work and attempt.
type Held = BTreeMap<(WorkId, u32), JoinHandle<()>>;

const SLOTS: usize = 2;
/// For every call.
const DEADLINE: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(super) struct Worker {
    name: &'static str,
    incarnation: u64,
    client: Arc<Mutex<Option<(Client, WorkerId)>>>,
    held: Arc<Mutex<Held>>,
    complaints: Arc<Mutex<Vec<String>>>,
}

impl Worker {
    pub(super) fn new(name: &'static str, incarnation: u64, complaints: Arc<Mutex<Vec<String>>>) -> Self {
        Self { name, incarnation, client: Arc::default(), held: Arc::default(), complaints }
    }

    /// Works for whichever coordinator answers, until one says goodbye.
    pub(super) async fn work(self) -> turmoil::Result {
        for turn in 0.. {
            if let Some(client) = connect(COORDINATORS[turn % COORDINATORS.len()]).await
                && self.serve(client).await.is_ok()
            {
                return Ok(());
            }
            *self.client.lock().unwrap() = None;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Ok at goodbye.
    async fn serve(&self, mut client: Client) -> Result<(), Status> {
        let join = Join {
            protocol: (*PROTOCOL.start(), *PROTOCOL.end()),
            name: self.name.to_owned(),
            incarnation: self.incarnation,
            version: "0".into(),
            device: "cpu".into(),
            can_train: true,
        };
        let joined = within(client.join(wire::JoinRequest::from(join))).await?;
        let worker = Joined::try_from(joined).unwrap().worker;
        let (events, outgoing) = mpsc::channel(16);
        let hello = wire::Hello { worker_id: worker.to_string(), models: Vec::new() };
        say(&events, worker_event::Event::Hello(hello)).await?;
        say(&events, self.credits()).await?;
        let mut stream = within(client.session(ReceiverStream::new(outgoing))).await?;
        *self.client.lock().unwrap() = Some((client.clone(), worker.clone()));
        let mut beat = tokio::time::interval(Duration::from_millis(250));
        loop {
            tokio::select! {
                event = stream.message() => match event?.and_then(|e| e.event) {
                    Some(coordinator_event::Event::Lease(lease)) => self.take(Lease::try_from(lease).unwrap()),
                    Some(coordinator_event::Event::Cancel(cancel)) => self.lose(cancel),
                    Some(coordinator_event::Event::Goodbye(_)) => return Ok(()),
                    Some(coordinator_event::Event::Drain(_)) => {}
                    None => return Err(Status::unavailable("the stream ended")),
                },
                _ = beat.tick() => {
                    say(&events, self.credits()).await?;
                    let held: Vec<_> = self.held.lock().unwrap().keys().cloned().collect();
                    let now = turmoil::elapsed().as_millis() as u64;
                    let held = held.into_iter().map(|(work, attempt)| HeldLease { work, attempt, progress: now }.into());
                    let request = wire::RenewRequest { worker_id: worker.to_string(), held: held.collect(), ..Default::default() };
                    within(client.renew(request)).await?.lost.into_iter().for_each(|cancel| self.lose(cancel));
                }
            }
        }
    }

    fn credits(&self) -> worker_event::Event {
        let mut held = self.held.lock().unwrap();
        held.retain(|_, task| !task.is_finished());
        worker_event::Event::Credits(wire::Credits { episodes: SLOTS.saturating_sub(held.len()) as u32 })
    }

    fn lose(&self, cancel: wire::Cancel) {
        let key = (WorkId::new(cancel.work).unwrap(), cancel.attempt);
        if let Some(task) = self.held.lock().unwrap().remove(&key) {
            task.abort();
        }
    }

    fn take(&self, lease: Lease) {
        let key = (lease.work.clone(), lease.attempt);
        let this = self.clone();
        let task = tokio::spawn(async move {
            let outcome = match lease.payload {
                Work::Episode { spec, journal } => this.play(&lease.work, lease.attempt, &spec, journal).await,
                Work::Training(_) => this.train().await,
                Work::Calls(_) => panic!("nobody asks for calls here"),
            };
            if let Some(outcome) = outcome {
                let outcome = wire::finish_request::Outcome::from(outcome);
                let (work, attempt) = (lease.work.to_string(), lease.attempt);
                let request = |worker: WorkerId| wire::FinishRequest {
                    worker_id: worker.to_string(),
                    work: work.clone(),
                    attempt,
                    outcome: Some(outcome.clone()),
                };
                this.until_stored(|mut client, worker| {
                    let request = request(worker);
                    async move { within(client.finish(request)).await.map(drop) }
                })
                .await;
            }
        });
        self.held.lock().unwrap().insert(key, task);
    }

    /// None if the attempt was fenced off.
    async fn play(&self, work: &WorkId, attempt: u32, spec: &EpisodeSpec, mut turns: Vec<Turn>) -> Option<Outcome> {
        while turns.last().is_none_or(|turn| turn.environment.is_some()) {
            let index = turns.len() as u32;
            let think = stream::uniform(stream::derive(spec.seed, &[self.name, &index.to_string()]));
            tokio::time::sleep(Duration::from_millis(20 + (think * 400.0) as u64)).await;
            let turn = turn_of(spec, &turns, &format!("{}-{attempt}", self.name));
            self.until_stored(|mut client, worker| {
                let request = wire::RecordTurnRequest {
                    worker_id: worker.to_string(),
                    work: work.to_string(),
                    attempt,
                    turn: Some(turn.clone().into()),
                };
                async move { within(client.record_turn(request)).await.map(drop) }
            })
            .await?;
            turns.push(turn);
        }
        Some(Outcome::Episode { turns: turns.len() as u32 })
    }

    async fn train(&self) -> Option<Outcome> {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut files = Vec::new();
        for file in ["config", "weights"] {
            let digest = self
                .until_stored(|mut client, _| async move {
                    let upload =
                        Some(wire::Upload { sha256: Digest::of(file).into(), offset: 0, bytes: file.len() as u64 });
                    let chunk = wire::ArtifactChunk { data: file.into(), upload };
                    within(client.put_artifact(tokio_stream::iter([chunk]))).await
                })
                .await?;
            files.push(Digest::parse(&digest.sha256).unwrap());
        }
        let agent = TrainedAgent::Adapter(AdapterRef { config: files[0], weights: files[1] });
        let (first_loss, last_loss) = (Some(2.0), Some(1.0));
        let report = TrainingReport {
            agent,
            steps: 1,
            rows: 1,
            dropped_rows: 0,
            tokens: 1,
            first_loss,
            last_loss,
            losses: Vec::new(),
            nanodollars: 0,
        };
        Some(Outcome::Training(report))
    }

    /// Repeats a call until a coordinator has answered it. None if the attempt was fenced off.
    async fn until_stored<T, F>(&self, mut call: impl FnMut(Client, WorkerId) -> F) -> Option<T>
    where
        F: Future<Output = Result<T, Status>>,
    {
        loop {
            let client = self.client.lock().unwrap().clone();
            if let Some((client, worker)) = client {
                match call(client, worker).await {
                    Ok(reply) => return Some(reply),
                    Err(status) if status.code() == Code::FailedPrecondition => return None,
                    Err(status) if status.code() == Code::InvalidArgument => {
                        self.complaints.lock().unwrap().push(format!("{}: {status}", self.name));
                        return None;
                    }
                    Err(_) => {}
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn say(events: &mpsc::Sender<wire::WorkerEvent>, event: worker_event::Event) -> Result<(), Status> {
    let gone = |_| Status::unavailable("the stream is stuck");
    let event = wire::WorkerEvent { event: Some(event) };
    events.send_timeout(event, DEADLINE).await.map_err(gone)
}

async fn within<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
    let late = |_| Status::deadline_exceeded("no answer");
    Ok(tokio::time::timeout(DEADLINE, call).await.map_err(late)??.into_inner())
}

/// What a turn says of the turns before it, whoever recorded them.
pub(super) fn seen(turns: &[Turn]) -> String {
    let turns: Vec<Turn> = turns.iter().map(|turn| Turn { worker: None, ..turn.clone() }).collect();
    Digest::of(serde_json::to_string(&turns).unwrap()).to_string()
}

fn turn_of(spec: &EpisodeSpec, before: &[Turn], author: &str) -> Turn {
    let index = before.len() as u32;
    let last = index + 1 == spec.max_turns;
    let good = stream::uniform(stream::of_turn(spec.seed, index, "preference"));
    Turn {
        index,
        reply: AgentReply {
            text: format!("{author} {}", seen(before)),
            prompt_ids: vec![1],
            restarts: false,
            token_ids: vec![2],
            cut_off: false,
        },
        state: spec.machine.start().to_owned(),
        transition: TransitionOutcome {
            score: Score::from_masses(vec![("yes".into(), 0.3), ("no".into(), 0.7)], 0.01),
            answer: "no".into(),
            defaulted: false,
            next_state: "initial_state".into(),
            entered: Vec::new(),
        },
        preference: Score::from_masses(vec![("1".into(), 1.0 - good), ("10".into(), good)], 0.01),
        influence: None,
        environment: (!last).then(|| EnvironmentReply { text: "and then?".into(), cut_off: false }),
        calls: Vec::new(),
        choice: None,
        worker: None,
    }
}
