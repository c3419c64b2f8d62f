//! The task that owns the state machine.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use influence_proto::{Digest, Failure, HeldLease, Join, Lease, RunId, TraceParent, Work, WorkId, WorkerId};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use super::calls::Calls;
use super::event::{Effect, Event, Kind, Limits, Task};
use super::handle::{Batch, DispatchError, DispatchHandle, Request, Session, SessionEvent};
use super::loads::Loads;
use super::state::Dispatch;
use crate::TRACE;
use crate::metrics;
use crate::progress::{ProgressHandle, TrainingNow};
use crate::store::{Store, StoreError};

/// Requests that may wait for the task; more make their callers wait.
const QUEUE: usize = 1024;
/// Events that may wait for one worker's stream. Leases are bounded by credits; a stream that lags
/// this far behind is ended, and the worker connects again.
const SESSION_QUEUE: usize = 4096;
/// How often leases are looked at.
const TICK: Duration = Duration::from_millis(250);
/// Every so many ticks it is measured how things stand.
const MEASURE: u64 = 4;
/// How long to wait before a store that failed is asked again.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// What a worker is told that somebody wants to leave.
const DRAIN: &str = "an administrator asked for it";

/// The dispatcher of one run: made with its handle, carried by [`DispatchService::run`].
#[derive(Debug)]
pub struct DispatchService {
    machine: Dispatch,
    run: RunId,
    store: Arc<dyn Store>,
    progress: ProgressHandle,
    requests: mpsc::Receiver<Request>,
    /// Ends when `run` does; its clock.
    start: Instant,
    loads: Loads,
    sessions: HashMap<WorkerId, (u64, mpsc::Sender<SessionEvent>)>,
    generations: u64,
    /// The last states of trainings, as their workers have uploaded them. Of another coordinator's trainings nothing is
    /// known until their workers upload the next.
    checkpoints: HashMap<WorkId, Digest>,
    calls: Calls,
    batch: watch::Sender<Batch>,
    writes: Writes,
    /// Set once the run is over: what later streams are told.
    goodbye: Option<String>,
}

/// What has been asked of the store and is not answered yet.
type Writes = FuturesUnordered<BoxFuture<'static, Written>>;

/// An answer of the store.
enum Written {
    Attempt { worker: WorkerId, lease: Granted, stored: Result<Work, StoreError> },
    Failure { work: WorkId, attempt: u32, error: String, stored: Result<(), StoreError> },
}

/// A lease that is being written down.
struct Granted {
    work: WorkId,
    attempt: u32,
    beside: Option<u32>,
    /// From the decision to the worker's stream.
    span: Span,
}

impl DispatchService {
    /// A dispatcher of `run` and its handle.
    pub(crate) fn new(
        run: RunId,
        store: Arc<dyn Store>,
        limits: Limits,
        progress: ProgressHandle,
    ) -> (Self, DispatchHandle) {
        let (sender, requests) = mpsc::channel(QUEUE);
        let service = Self {
            machine: Dispatch::new(limits),
            run,
            store,
            progress,
            requests,
            start: Instant::now(),
            loads: Loads::default(),
            sessions: HashMap::new(),
            generations: 0,
            checkpoints: HashMap::new(),
            calls: Calls::new(),
            batch: watch::Sender::new(Batch::default()),
            writes: FuturesUnordered::new(),
            goodbye: None,
        };
        (service, DispatchHandle { requests: sender })
    }

    /// Serves until `stop` is cancelled or every handle is gone.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticks = 0_u64;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                request = self.requests.recv() => match request {
                    Some(request) => self.request(request),
                    None => break,
                },
                Some(written) = self.writes.next() => self.written(written),
                _ = tick.tick() => {
                    for work in self.calls.abandoned() {
                        self.apply(Event::Withdrawn(work));
                    }
                    self.apply(Event::Tick);
                    ticks += 1;
                    if ticks.is_multiple_of(MEASURE) {
                        metrics::standing(&self.machine.standing(self.now()));
                    }
                }
            }
        }
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    fn apply(&mut self, event: Event) {
        for effect in self.machine.handle(event, self.now()) {
            self.carry_out(effect);
        }
        let workers = self.machine.connected() as u32;
        self.progress.change_if(|p| std::mem::replace(&mut p.workers, workers) != workers);
    }

    fn request(&mut self, request: Request) {
        // A caller that has gone away needs no reply: sends that fail are let go.
        match request {
            Request::Join { join, reply } => {
                let worker = self.join(&join);
                let _ = reply.send(worker);
            }
            Request::Connect { worker, reply } => {
                let session = self.connect(worker);
                let _ = reply.send(session);
            }
            Request::Disconnect { worker, generation } => {
                if self.sessions.get(&worker).is_some_and(|(current, _)| *current == generation) {
                    self.sessions.remove(&worker);
                    tracing::info!(%worker, "session ended");
                    self.apply(Event::Disconnected(worker));
                }
            }
            Request::Renew { worker, held, load, reply } => {
                if self.machine.knows(&worker) {
                    self.loads.say(&worker, load);
                }
                let _ = reply.send(self.renew(worker, held));
            }
            Request::Submit { batch, reply } => {
                self.batch = watch::Sender::new(Batch { total: batch.len(), ..Batch::default() });
                let _ = reply.send(self.batch.subscribe());
                for task in batch {
                    self.apply(Event::Submit(task));
                }
            }
            Request::Call { calls, reply } => {
                let work = self.calls.put(calls, reply);
                self.apply(Event::Submit(Task { work, attempt: 0, kind: Kind::Calls }));
            }
            Request::Answered { work, attempt, answers } => {
                let event = match self.calls.answered(&work, answers) {
                    Ok(()) => Event::Finished { work, attempt },
                    Err(message) => Event::Failed { work, attempt, failure: Failure { retryable: false, message } },
                };
                self.apply(event);
            }
            Request::Training { worker, progress } => {
                if self.machine.holds(&worker, &progress.work, progress.attempt) {
                    let (step, steps, loss) = (progress.step, progress.steps, progress.loss);
                    let now = TrainingNow { step, steps, loss };
                    metrics::training(now);
                    self.progress.change(|p| p.training = Some(now));
                }
            }
            Request::Checkpoint { worker, work, attempt, state, reply } => {
                let before = match self.machine.holds(&worker, &work, attempt) {
                    true => self.checkpoints.insert(work, state),
                    false => None,
                };
                let _ = reply.send(before.filter(|before| *before != state));
            }
            Request::ForgetCheckpoint { work, reply } => {
                let _ = reply.send(self.checkpoints.remove(&work));
            }
            Request::Standing { reply } => {
                let mut standing = self.machine.standing(self.now());
                self.loads.tell(&mut standing, self.now());
                let _ = reply.send(standing);
            }
            Request::Turn { worker, work, attempt, tokens } => {
                if self.machine.knows(&worker) {
                    self.loads.turn(&worker, tokens, self.now());
                }
                self.apply(Event::TurnRecorded { worker, work, attempt });
            }
            Request::Drain { worker, reply } => {
                let _ = reply.send(self.drain(&worker));
            }
            Request::Tell(event) => self.apply(event),
            Request::Goodbye(reason) => {
                for (_, (_, session)) in self.sessions.drain() {
                    let _ = session.try_send(SessionEvent::Goodbye(reason.clone()));
                }
                self.goodbye = Some(reason);
            }
        }
    }

    fn join(&mut self, join: &Join) -> WorkerId {
        let plain = |c: &char| c.is_ascii_alphanumeric() || "-_.".contains(*c);
        let name: String = join.name.chars().filter(plain).take(64).collect();
        let id = format!("{}-{:016x}", if name.is_empty() { "worker" } else { &name }, join.incarnation);
        #[expect(clippy::expect_used, reason = "at most 81 letters, digits, `-`, `_` and `.`, made the line above")]
        let worker = WorkerId::new(id).expect("a plain name");
        let (version, device) = (shown(&join.version), shown(&join.device));
        self.apply(Event::Joined { worker: worker.clone(), version, device, can_train: join.can_train });
        self.loads.retain(|worker| self.machine.knows(worker));
        tracing::info!(%worker, version = join.version, device = join.device, can_train = join.can_train, "worker joined");
        worker
    }

    fn connect(&mut self, worker: WorkerId) -> Result<Session, DispatchError> {
        if !self.machine.knows(&worker) {
            return Err(DispatchError::UnknownWorker(worker.to_string()));
        }
        self.generations += 1;
        let (sender, events) = mpsc::channel(SESSION_QUEUE);
        if let Some(reason) = &self.goodbye {
            let _ = sender.try_send(SessionEvent::Goodbye(reason.clone()));
            return Ok(Session { events, generation: self.generations });
        }
        if self.machine.is_draining(&worker) {
            // It may not have heard it.
            let _ = sender.try_send(SessionEvent::Drain(DRAIN.to_owned()));
        }
        self.sessions.insert(worker.clone(), (self.generations, sender));
        tracing::info!(%worker, "session open");
        self.apply(Event::Connected(worker));
        Ok(Session { events, generation: self.generations })
    }

    fn drain(&mut self, asked: &str) -> Result<WorkerId, DispatchError> {
        let worker = self.machine.find(asked)?;
        tracing::info!(%worker, "asked to drain");
        self.apply(Event::Draining(worker.clone()));
        // One that is away hears it when it comes back.
        self.tell(&worker, SessionEvent::Drain(DRAIN.to_owned()));
        Ok(worker)
    }

    fn renew(&mut self, worker: WorkerId, held: Vec<HeldLease>) -> Result<Vec<SessionEvent>, DispatchError> {
        if !self.machine.knows(&worker) {
            return Err(DispatchError::UnknownWorker(worker.to_string()));
        }
        let mut lost = Vec::new();
        for effect in self.machine.handle(Event::Renewed(worker.clone(), held), self.now()) {
            match effect {
                Effect::Revoke { worker: to, work, attempt, reason } if to == worker => {
                    lost.push(SessionEvent::Cancel { work, attempt, reason });
                }
                other => self.carry_out(other),
            }
        }
        Ok(lost)
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Grant { worker, work, attempt, beside } => {
                metrics::granted(attempt, beside.is_some());
                if let Some(other) = beside {
                    tracing::info!(%worker, %work, attempt, other, "a straggler gets a second worker");
                }
                let (store, run) = (self.store.clone(), self.run.clone());
                let span = tracing::info_span!(
                    target: TRACE, parent: None, "lease", otel.kind = "producer", %run, %work, attempt, %worker
                );
                if let Some(payload) = self.calls.payload(&work) {
                    return self.attempt_written(worker, Granted { work, attempt, beside, span }, Ok(payload));
                }
                self.writes.push(Box::pin(async move {
                    let stored = store.start_attempt(&run, &work, attempt, beside).instrument(span.clone()).await;
                    Written::Attempt { worker, lease: Granted { work, attempt, beside, span }, stored }
                }));
            }
            Effect::Revoke { worker, work, attempt, reason } => {
                metrics::revoked();
                tracing::warn!(%worker, %work, attempt, reason, "lease revoked");
                self.tell(&worker, SessionEvent::Cancel { work, attempt, reason });
            }
            Effect::Finished(work) => {
                metrics::finished();
                if self.calls.finished(&work) {
                    return;
                }
                self.batch.send_modify(|b| b.finished += 1);
            }
            Effect::Exhausted { work, attempt, error } => {
                metrics::failed();
                tracing::warn!(%work, attempt, error, "given up");
                if self.calls.given_up(&work, &error) {
                    return;
                }
                self.write_failure(work, attempt, error, Duration::ZERO);
            }
        }
    }

    fn write_failure(&self, work: WorkId, attempt: u32, error: String, after: Duration) {
        let (store, run) = (self.store.clone(), self.run.clone());
        self.writes.push(Box::pin(async move {
            tokio::time::sleep(after).await;
            let stored = store.fail(&run, &work, attempt, &error).await;
            Written::Failure { work, attempt, error, stored }
        }));
    }

    fn written(&mut self, written: Written) {
        match written {
            Written::Attempt { worker, lease, stored } => self.attempt_written(worker, lease, stored),
            Written::Failure { work, attempt, error, stored } => match stored {
                Ok(()) => self.batch.send_modify(|b| {
                    b.failed += 1;
                    b.last_error = Some(error);
                }),
                Err(StoreError::AlreadyFinished { .. }) => self.batch.send_modify(|b| b.finished += 1),
                Err(refused) if refused.is_no_answer() => self.write_failure(work, attempt, error, STORE_RETRY),
                Err(refused) => {
                    tracing::error!(%work, attempt, %refused, "a failure was not stored");
                    self.batch.send_modify(|b| {
                        b.failed += 1;
                        b.last_error = Some(format!("{error}; and it was not stored: {refused}"));
                    });
                }
            },
        }
    }

    fn attempt_written(&mut self, worker: WorkerId, lease: Granted, stored: Result<Work, StoreError>) {
        let Granted { work, attempt, beside, span } = lease;
        match stored {
            Ok(payload) => {
                let trace = TraceParent::of(&span);
                let checkpoint = self.checkpoints.get(&work).copied();
                self.send_lease(worker, Lease { work, attempt, payload, checkpoint, trace });
            }
            Err(StoreError::AlreadyFinished { .. }) => self.apply(Event::AlreadyFinished(work)),
            Err(StoreError::Fenced { current, .. }) => {
                self.apply(Event::GrantLost { work, attempt, stored: current });
            }
            // A second attempt that cannot be must not end the first.
            Err(error) if error.retryable() || beside.is_some() => {
                tracing::warn!(%work, attempt, %error, "the lease waits for the store");
                self.apply(Event::GrantLost { work, attempt, stored: attempt });
            }
            Err(error) => {
                let failure = Failure { retryable: false, message: error.to_string() };
                self.apply(Event::Failed { work, attempt, failure });
            }
        }
    }

    fn send_lease(&mut self, worker: WorkerId, lease: Lease) {
        let (work, attempt) = (lease.work.clone(), lease.attempt);
        // While the attempt was being written down the worker may have gone or lost it.
        if !self.machine.holds(&worker, &work, attempt) {
            return;
        }
        if !self.tell(&worker, SessionEvent::Lease(Box::new(lease))) {
            self.apply(Event::GrantLost { work, attempt, stored: attempt });
        }
    }

    /// False if the worker has no stream. A stream that lags behind is ended.
    fn tell(&mut self, worker: &WorkerId, event: SessionEvent) -> bool {
        let Some((_, session)) = self.sessions.get(worker) else { return false };
        if session.try_send(event).is_ok() {
            return true;
        }
        self.sessions.remove(worker);
        self.apply(Event::Disconnected(worker.clone()));
        false
    }
}

/// What a worker says about itself, short and without control characters: people read it.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}
