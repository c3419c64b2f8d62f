//! Leases as running tasks: episodes and trainings, their slots, and their ends.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use influence_engine::batch::device_memory;
use influence_engine::train::Progress;
use influence_proto::{
    Digest, EpisodeSpec, Failure, Lease, LoadedModel, ModelCall, Outcome, TrainedAgent, TrainingBackend,
    TrainingProgress, TrainingSpec, Turn, Work, WorkId,
};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, Span, field::Empty};

use super::identity::Identity;
use super::leases::{Holding, Leases};
use super::models::Serving;
use crate::artifacts::{ArtifactCache, ArtifactError};
use crate::backend::{LoadedAdapter, Variant};
use crate::calls;
use crate::client::{CallError, Client};
use crate::episode::Episode;
use crate::metrics;
use crate::outbox::{Delivery, Lane};
use crate::training::{self, Handover, Job};

/// How often engines are measured.
const MEASURE: Duration = Duration::from_secs(1);

/// Everything that this worker is working on. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Tasks {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    identity: Identity,
    leases: Leases,
    artifacts: ArtifactCache,
    serving: RwLock<Serving>,
    scratch: PathBuf,
    share_every: Duration,
    /// A lease beyond the slots waits: credits and leases may cross on their way.
    slots: Semaphore,
    tracker: TaskTracker,
    /// Nothing new, and episodes end after their turn.
    draining: CancellationToken,
    /// Everything ends now.
    handing_back: CancellationToken,
    training: watch::Sender<Option<TrainingProgress>>,
}

impl Tasks {
    pub(super) fn new(
        client: Client,
        identity: Identity,
        leases: Leases,
        artifacts: ArtifactCache,
        serving: Serving,
        (scratch, share_every): (PathBuf, Duration),
    ) -> Self {
        let slots = Semaphore::new(leases.slots());
        let shared = Shared {
            client,
            identity,
            leases,
            artifacts,
            serving: RwLock::new(serving),
            scratch,
            share_every,
            slots,
            tracker: TaskTracker::new(),
            draining: CancellationToken::new(),
            handing_back: CancellationToken::new(),
            training: watch::Sender::new(None),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Uses other models for leases that come from now on.
    pub(super) fn serve(&self, serving: Serving) {
        *self.shared.serving.write().unwrap_or_else(PoisonError::into_inner) = serving;
    }

    /// Measures the engines, again and again.
    pub(super) async fn measure(&self) {
        loop {
            let serving = self.shared.serving.read().unwrap_or_else(PoisonError::into_inner).clone();
            for (model, trainable) in &serving.trainable {
                trainable.engine.iter().for_each(|engine| metrics::engine(model, engine));
            }
            if let Some(memory) = serving.placement.as_ref().and_then(device_memory) {
                metrics::device_memory(memory);
            }
            tokio::time::sleep(MEASURE).await;
        }
    }

    /// Which files the models are that leases are worked on with.
    pub(super) fn loaded(&self) -> Vec<LoadedModel> {
        self.shared.serving.read().unwrap_or_else(PoisonError::into_inner).loaded.clone()
    }

    /// Begins to work on a lease. One that is held already is ignored; one that comes while draining is handed back.
    pub(super) fn take(&self, lease: Lease) {
        let Lease { work, attempt, payload, checkpoint, trace } = lease;
        if self.shared.draining.is_cancelled() {
            return self.answer(work, attempt, Outcome::Returned);
        }
        let (slots, journal) = match &payload {
            Work::Episode { journal, .. } => (1, journal.len()),
            Work::Training(_) => (self.shared.leases.slots(), 0),
            Work::Calls(_) => (1, 0),
        };
        let Some(holding) = self.shared.leases.take(work, attempt, slots) else { return };
        tracing::debug!(work = %holding.work(), attempt, journal, "lease taken");
        let span = span(&payload, &holding, &self.shared.identity);
        if let Some(parent) = trace {
            parent.adopt(&span);
        }
        let shared = self.shared.clone();
        self.shared
            .tracker
            .spawn(async move { shared.run(holding, payload, checkpoint, slots).await }.instrument(span));
    }

    /// Answers a lease that is not worked on.
    pub(super) fn answer(&self, work: WorkId, attempt: u32, outcome: Outcome) {
        let lane = self.shared.lane(&work, attempt, self.shared.leases.ending().child_token());
        self.shared.tracker.spawn(async move { report(&work, attempt, lane.finish(outcome).await) });
    }

    /// The latest step of a training, whenever there is one.
    pub(super) fn training(&self) -> watch::Receiver<Option<TrainingProgress>> {
        self.shared.training.subscribe()
    }

    /// Cancelled when nothing new is taken any more.
    pub(super) fn draining(&self) -> CancellationToken {
        self.shared.draining.clone()
    }

    /// Takes nothing new; episodes are handed back after the turn that they are in.
    pub(super) fn drain(&self) {
        self.shared.draining.cancel();
    }

    /// Hands everything back at once.
    pub(super) fn hand_back(&self) {
        self.shared.draining.cancel();
        self.shared.handing_back.cancel();
    }

    /// Waits until nothing is being worked on and every result is stored, or not wanted.
    pub(super) async fn ended(&self) {
        self.shared.tracker.close();
        self.shared.tracker.wait().await;
    }

    /// Gives up what is left.
    pub(super) async fn stop(&self) {
        self.shared.leases.ending().cancel();
        self.ended().await;
    }
}

impl Shared {
    async fn run(&self, holding: Holding, payload: Work, checkpoint: Option<Digest>, slots: usize) {
        let lane = self.lane(holding.work(), holding.attempt(), holding.lost().clone());
        let outcome = tokio::select! {
            biased;
            () = holding.lost().cancelled() => None,
            () = self.handing_back.cancelled() => Some(Outcome::Returned),
            outcome = self.outcome(&holding, &lane, payload, checkpoint, slots) => Some(outcome),
        };
        // Without an outcome the lease is another's: nothing may be said about it.
        let Some(outcome) = outcome else { return };
        Span::current().record("outcome", outcome.name());
        if let Outcome::Failed(failure) = &outcome {
            let Failure { retryable, message } = failure;
            tracing::error!(work = %holding.work(), attempt = holding.attempt(), retryable, %message, "work failed");
        }
        report(holding.work(), holding.attempt(), lane.finish(outcome).await);
    }

    async fn outcome(
        &self,
        holding: &Holding,
        lane: &Lane,
        payload: Work,
        checkpoint: Option<Digest>,
        slots: usize,
    ) -> Outcome {
        // Closed never, and no more is asked for than there is.
        let Ok(_slots) = self.slots.acquire_many(u32::try_from(slots).unwrap_or(u32::MAX)).await else {
            return Outcome::Returned;
        };
        let serving = self.serving.read().unwrap_or_else(PoisonError::into_inner).clone();
        let result = match payload {
            Work::Episode { spec, journal } => self.episode(&serving, holding, lane, spec, journal).await,
            Work::Training(spec) => self.training_of(&serving, holding, &spec, checkpoint).await,
            Work::Calls(calls) => self.calls(&serving, holding, calls).await,
        };
        result.unwrap_or_else(Outcome::Failed)
    }

    /// Plays an episode to its end, or to the end of a turn if the worker drains.
    async fn episode(
        &self,
        serving: &Serving,
        holding: &Holding,
        lane: &Lane,
        spec: Box<EpisodeSpec>,
        journal: Vec<Turn>,
    ) -> Result<Outcome, Failure> {
        let (variant, _adapter) = match &spec.trained {
            Some(trained) => Some(self.variant(serving, &spec.agent.model, trained).await?).unzip(),
            None => (None, None),
        };
        let progress = holding.progress().clone();
        let moved = move || {
            progress.fetch_add(1, Ordering::Relaxed);
        };
        moved();
        let mut episode = Episode::resume(spec, journal, variant)?;
        while !episode.is_over() {
            tokio::select! {
                biased;
                () = self.draining.cancelled() => return Ok(Outcome::Returned),
                () = self.leases.alive() => {}
            }
            let turn = episode.turn(&serving.models, &moved).await?.clone();
            lane.turn(turn).await;
        }
        Ok(Outcome::Episode { turns: u32::try_from(episode.turns().len()).unwrap_or(u32::MAX) })
    }

    /// Makes calls that are no part of an episode.
    async fn calls(&self, serving: &Serving, holding: &Holding, calls: Vec<ModelCall>) -> Result<Outcome, Failure> {
        self.leases.alive().await;
        let moved = || {
            holding.progress().fetch_add(1, Ordering::Relaxed);
        };
        let variant = |model: String, trained| async move { self.variant(serving, &model, &trained).await };
        calls::answer(calls, &serving.models, variant, &moved).await.map(Outcome::Calls)
    }

    /// What a backend calls what training has made of its model, with what must be held for as long as it is asked.
    async fn variant(
        &self,
        serving: &Serving,
        model: &str,
        trained: &TrainedAgent,
    ) -> Result<(Variant, Option<Arc<LoadedAdapter>>), Failure> {
        let adapter = match trained {
            TrainedAgent::Served { model } => return Ok((Variant::Served(model.to_string()), None)),
            TrainedAgent::Adapter(adapter) => *adapter,
        };
        let Some(table) = serving.adapters.get(model) else {
            return Err(Failure {
                retryable: true,
                message: format!("this worker has no adapters for the model `{model}`"),
            });
        };
        let folder = self
            .artifacts
            .adapter(adapter)
            .await
            .map_err(|e| Failure { retryable: again(&e), message: e.to_string() })?;
        let loaded = table.load(adapter, &folder).await;
        // Another worker of this machine makes room in the cache by its own use of it.
        let gone = || !folder.exists();
        let held = |loaded: Arc<LoadedAdapter>| (Variant::Adapter(loaded.name().to_owned()), Some(loaded));
        loaded.map(held).map_err(|e| Failure { retryable: e.retryable() || gone(), message: e.to_string() })
    }

    async fn training_of(
        &self,
        serving: &Serving,
        holding: &Holding,
        spec: &TrainingSpec,
        earlier: Option<Digest>,
    ) -> Result<Outcome, Failure> {
        let handover = Handover {
            client: self.client.clone(),
            identity: self.identity.clone(),
            work: holding.work().clone(),
            attempt: holding.attempt(),
            earlier,
            every: self.share_every,
        };
        match &spec.backend {
            TrainingBackend::Local { .. } => self.train(serving, holding, spec, handover).await,
            TrainingBackend::Api(_) => {
                tokio::select! {
                    biased;
                    // The server goes on, and whoever gets the lease next goes on waiting for it.
                    () = self.draining.cancelled() => Ok(Outcome::Returned),
                    outcome = self.fine_tune(serving, holding, spec, handover) => outcome,
                }
            }
        }
    }

    /// Has the server that answers for a model train it.
    async fn fine_tune(
        &self,
        serving: &Serving,
        holding: &Holding,
        spec: &TrainingSpec,
        handover: Handover,
    ) -> Result<Outcome, Failure> {
        let model = &spec.model;
        let Some(server) = serving.fine_tuning.get(model) else {
            let message = format!("this worker knows no server that could fine-tune the model `{model}`");
            return Err(Failure { retryable: true, message });
        };
        let (progress, news) = (holding.progress().clone(), self.training.clone());
        let (work, attempt) = (holding.work().clone(), holding.attempt());
        let moved = move |latest: Option<(u32, u32, f64)>| {
            progress.fetch_add(1, Ordering::Relaxed);
            if let Some((step, steps, loss)) = latest {
                news.send_replace(Some(TrainingProgress { work: work.clone(), attempt, step, steps, loss }));
            }
        };
        let (artifacts, scratch, leases) = (&self.artifacts, &*self.scratch, &self.leases);
        let job = training::ServedJob { server, artifacts, scratch, leases, moved: &moved };
        Ok(Outcome::Training(training::run_at_server(job, spec, &handover).await?))
    }

    async fn train(
        &self,
        serving: &Serving,
        holding: &Holding,
        spec: &TrainingSpec,
        handover: Handover,
    ) -> Result<Outcome, Failure> {
        let model = &spec.model;
        let Some(trainable) = serving.trainable.get(model) else {
            return Err(Failure { retryable: true, message: format!("this worker cannot train the model `{model}`") });
        };
        if let Some(engine) = &trainable.engine
            && engine.clear_prefix_cache().await.is_err()
        {
            tracing::debug!("an engine that has stopped had no prefix cache to clear");
        }
        let job = Job {
            model: trainable.model.clone(),
            base_name: trainable.base_name.clone(),
            artifacts: self.artifacts.clone(),
            scratch: self.scratch.clone(),
        };
        let (work, attempt) = (holding.work().clone(), holding.attempt());
        let (progress, lost) = (holding.progress().clone(), holding.lost().clone());
        let (news, handing_back) = (self.training.clone(), self.handing_back.clone());
        let result = training::run(job, spec, handover, move |heard| {
            progress.fetch_add(1, Ordering::Relaxed);
            if let Progress::Step(step) = heard {
                metrics::training_step();
                news.send_replace(Some(TrainingProgress {
                    work: work.clone(),
                    attempt,
                    step: u32::try_from(step.step).unwrap_or(u32::MAX),
                    steps: u32::try_from(step.total).unwrap_or(u32::MAX),
                    loss: step.measures.loss,
                }));
            }
            if lost.is_cancelled() || handing_back.is_cancelled() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        match result.await {
            Ok(report) => Ok(Outcome::Training(report)),
            Err(error) if error.stopped() => Ok(Outcome::Returned),
            Err(error) => Err(error.into()),
        }
    }

    fn lane(&self, work: &WorkId, attempt: u32, lost: CancellationToken) -> Lane {
        Lane::open(self.client.clone(), self.identity.clone(), work.clone(), attempt, lost)
    }
}

/// Everything that is done, and logged, for a lease.
fn span(payload: &Work, holding: &Holding, identity: &Identity) -> Span {
    let (work, attempt, worker) = (holding.work(), holding.attempt(), identity.id());
    match payload {
        Work::Episode { spec, journal } => tracing::error_span!(
            "episode", %work, attempt, %worker, otel.kind = "consumer",
            environment = %spec.environment, turns_before = journal.len(), outcome = Empty
        ),
        Work::Training(spec) => tracing::error_span!(
            "training", %work, attempt, %worker, otel.kind = "consumer", model = %spec.model, outcome = Empty
        ),
        Work::Calls(calls) => tracing::error_span!(
            "calls", %work, attempt, %worker, otel.kind = "consumer", calls = calls.len(), outcome = Empty
        ),
    }
}

/// Whether a transfer may succeed elsewhere or later.
fn again(error: &ArtifactError) -> bool {
    match error {
        ArtifactError::Fetch { source, .. } | ArtifactError::Store { source, .. } => {
            matches!(source, CallError::Away(_) | CallError::Local(_))
        }
        ArtifactError::Damaged { .. } => false,
        ArtifactError::Disk { .. } => true,
    }
}

fn report(work: &WorkId, attempt: u32, delivery: Delivery) {
    match delivery {
        Delivery::Stored => tracing::debug!(%work, attempt, "finished"),
        Delivery::Dropped(reason) => tracing::info!(%work, attempt, %reason, "a result was not wanted"),
    }
}
