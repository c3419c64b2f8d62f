//! One worker: a connection of its own, a session, renewals, and a task for each episode that it holds.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use influence_proto::wire::coordinator_client::CoordinatorClient;
use influence_proto::wire::{coordinator_event, finish_request, lease, worker_event};
use influence_proto::{MAX_MESSAGE, PROTOCOL, stream, wire};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::Simulation;
use super::figures::{Counters, FreeSlot};
use super::training::train;

pub(super) type Client = CoordinatorClient<Channel>;

/// A real worker's deadline for a call.
const DEADLINE: Duration = Duration::from_secs(30);
/// Before a call or connection that failed is tried again.
const AGAIN: Duration = Duration::from_millis(200);
/// Between the first connections of two workers.
const APART: Duration = Duration::from_millis(1);

#[derive(Clone)]
pub(super) struct Worker {
    simulation: Arc<Simulation>,
    index: u32,
    held: Arc<Mutex<Held>>,
    /// Free slots, as the coordinator is told.
    free: watch::Sender<u32>,
}

/// What it holds, by work and attempt.
#[derive(Default)]
struct Held {
    leases: HashMap<(String, u32), (JoinHandle<()>, u64)>,
    /// The slots that wait, oldest first.
    slots: VecDeque<FreeSlot>,
}

impl Worker {
    pub(super) fn new(simulation: Arc<Simulation>, index: u32) -> Self {
        let free = watch::Sender::new(simulation.options.slots);
        Self { simulation, index, held: Arc::default(), free }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().expect("nobody panics with it")
    }

    /// Works until the run is over.
    pub(super) async fn work(self) {
        tokio::time::sleep(APART * self.index).await;
        let fresh = (0..self.simulation.options.slots).map(|_| Counters::slot(None));
        self.held().slots.extend(fresh);
        loop {
            let ended = tokio::select! {
                () = self.simulation.stop.cancelled() => return,
                ended = self.session() => ended,
            };
            match ended {
                Ok(()) => return,
                Err(error) => self.simulation.counters.error("a session ended", &error),
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// One connection and its session, until goodbye.
    async fn session(&self) -> Result<(), Status> {
        let address = format!("http://{}", self.simulation.address);
        let endpoint = Endpoint::from_shared(address).expect("an address").tcp_nodelay(true);
        let channel = endpoint.connect().await.map_err(|e| Status::unavailable(e.to_string()))?;
        let client = CoordinatorClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        let mut client: Client = client.max_encoding_message_size(MAX_MESSAGE);
        let join = wire::JoinRequest {
            protocol_min: *PROTOCOL.start(),
            protocol_max: *PROTOCOL.end(),
            name: format!("w{}", self.index),
            incarnation: u64::from(self.index) + 1,
            version: "0".into(),
            device: "none".into(),
            can_train: true,
        };
        let joined = client.join(join).await?.into_inner();
        let renewing = tokio::spawn(self.clone().renew(client.clone(), joined.worker_id.clone(), joined.renew_ms));
        let ended = self.listen(client, joined.worker_id).await;
        renewing.abort();
        ended
    }

    async fn listen(&self, mut client: Client, worker: String) -> Result<(), Status> {
        let (events, outgoing) = mpsc::channel(4);
        let hello = wire::Hello { worker_id: worker.clone(), models: Vec::new() };
        let closed = |_| Status::unavailable("the stream is closed");
        let say = |event| wire::WorkerEvent { event: Some(event) };
        events.send(say(worker_event::Event::Hello(hello))).await.map_err(closed)?;
        let mut stream = client.session(ReceiverStream::new(outgoing)).await?.into_inner();
        let mut free = self.free.subscribe();
        free.mark_changed();
        loop {
            tokio::select! {
                biased;
                Ok(()) = free.changed() => {
                    let episodes = *free.borrow_and_update();
                    events.send(say(worker_event::Event::Credits(wire::Credits { episodes }))).await.map_err(closed)?;
                }
                event = stream.message() => {
                    let event = event?.and_then(|e| e.event).ok_or_else(|| Status::unavailable("the stream ended"))?;
                    match event {
                        coordinator_event::Event::Lease(lease) => self.take(lease, &client, &worker),
                        coordinator_event::Event::Cancel(lost) => self.lose(lost),
                        coordinator_event::Event::Goodbye(_) => return Ok(()),
                        coordinator_event::Event::Drain(_) => {}
                    }
                }
            }
        }
    }

    async fn renew(self, mut client: Client, worker: String, every_ms: u32) {
        let every = Duration::from_millis(every_ms.into());
        tokio::time::sleep(every.mul_f64(stream::uniform(u64::from(self.index)))).await;
        loop {
            let held: Vec<_> = {
                let held = self.held();
                let one = |((work, attempt), (_, progress)): (&(String, u32), &(_, u64))| wire::HeldLease {
                    work: work.clone(),
                    attempt: *attempt,
                    progress: *progress,
                };
                held.leases.iter().map(one).collect()
            };
            match timely(client.renew(wire::RenewRequest { worker_id: worker.clone(), held, ..Default::default() }))
                .await
            {
                Ok(reply) => reply.into_inner().lost.into_iter().for_each(|lost| self.lose(lost)),
                Err(error) => self.simulation.counters.error("a renewal failed", &error),
            }
            tokio::time::sleep(every).await;
        }
    }

    fn lose(&self, lost: wire::Cancel) {
        let mut held = self.held();
        // One that is over already was lost by a renewal that crossed its end.
        if let Some((task, _)) = held.leases.remove(&(lost.work, lost.attempt)) {
            task.abort();
            held.slots.push_back(Counters::slot(None));
            self.simulation.counters.lost(&lost.reason);
            self.free.send_modify(|free| *free += 1);
        }
    }

    fn take(&self, lease: wire::Lease, client: &Client, worker: &str) {
        let Some(payload) = lease.payload else { return };
        let key = (lease.work, lease.attempt);
        let (this, client, worker, of_task) = (self.clone(), client.clone(), worker.to_owned(), key.clone());
        let mut held = self.held();
        let task = match payload {
            lease::Payload::Training(job) => tokio::spawn(this.train(client, worker, of_task, job)),
            lease::Payload::Episode(episode) => {
                let slot = held.slots.pop_front().unwrap_or_else(|| Counters::slot(None));
                let (iteration, first) = self.simulation.counters.leased(slot);
                self.free.send_if_modified(|free| {
                    *free = free.saturating_sub(1);
                    false
                });
                tokio::spawn(this.play(client, worker, of_task, (iteration, first), episode))
            }
            lease::Payload::Calls(_) => return,
        };
        held.leases.insert(key, (task, 0));
    }

    async fn train(self, client: Client, worker: String, key: (String, u32), job: wire::TrainingWork) {
        let outcome = match train(client.clone(), job).await {
            Ok(done) => finish_request::Outcome::Training(done),
            Err(status) => {
                self.simulation.counters.error("a training job failed", &status);
                finish_request::Outcome::Failure(wire::Failure { retryable: true, message: status.to_string() })
            }
        };
        self.finish(client, &worker, &key, outcome).await;
        self.held().leases.remove(&key);
    }

    async fn play(
        self,
        mut client: Client,
        worker: String,
        key: (String, u32),
        (iteration, first): (u32, bool),
        work: wire::EpisodeWork,
    ) {
        let seed = work.spec.as_ref().map_or(0, |spec| spec.seed);
        let turns = self.simulation.options.turns;
        let turn_seconds = self.simulation.options.turn_seconds();
        if first {
            // Or all slots would go on in step, as no cluster does.
            let late = stream::uniform(stream::of_turn(seed, 0, "late"));
            tokio::time::sleep(Duration::from_secs_f64(turn_seconds * f64::from(turns) * late)).await;
        }
        for index in work.journal.len() as u32..turns {
            let pace = 0.5 + stream::uniform(stream::of_turn(seed, index, "pace"));
            tokio::time::sleep(Duration::from_secs_f64(turn_seconds * pace)).await;
            let request = wire::RecordTurnRequest {
                worker_id: worker.clone(),
                work: key.0.clone(),
                attempt: key.1,
                turn: Some(self.simulation.turns.turn(seed, index)),
            };
            let start = Instant::now();
            while let Err(status) = timely(client.record_turn(request.clone())).await {
                self.simulation.counters.error("a turn was not stored", &status);
                if status.code() == Code::FailedPrecondition {
                    break;
                }
                tokio::time::sleep(AGAIN).await;
            }
            self.simulation.counters.recorded(start.elapsed());
            if let Some((_, progress)) = self.held().leases.get_mut(&key) {
                *progress += 1;
            }
        }
        self.finish(client, &worker, &key, finish_request::Outcome::Episode(wire::EpisodeDone { turns })).await;
        self.simulation.counters.episode();
        let mut held = self.held();
        held.leases.remove(&key);
        held.slots.push_back(Counters::slot(Some(iteration)));
        self.free.send_modify(|free| *free += 1);
    }

    async fn finish(&self, mut client: Client, worker: &str, key: &(String, u32), outcome: finish_request::Outcome) {
        let (worker_id, work) = (worker.to_owned(), key.0.clone());
        let request = wire::FinishRequest { worker_id, work, attempt: key.1, outcome: Some(outcome) };
        while let Err(status) = timely(client.finish(request.clone())).await {
            self.simulation.counters.error("a result was not stored", &status);
            if status.code() == Code::FailedPrecondition {
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

async fn timely<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let late = |_| Err(Status::deadline_exceeded("no answer in time"));
    tokio::time::timeout(DEADLINE, call).await.unwrap_or_else(late)
}
