use std::sync::Arc;
use std::time::{Duration, Instant};

use influence_proto::{AdapterRef, WorkId};

use super::RunError;
use super::run::Run;
use crate::dispatch::{DispatchError, Kind, Payload, Submission, Task};
use crate::planning::{self, Phase};
use crate::progress::RunPhase;
use crate::store::{EpisodeRecord, EpisodeStatus};

/// How often the time spent on a phase is written down: what a kill loses of it.
const ACTIVE_EVERY: Duration = Duration::from_secs(5);

impl Run {
    /// Plans, rolls out and judges the episodes of a phase, as far as that is not done.
    pub(super) async fn roll_out(
        &self,
        phase: Phase,
        iteration: u32,
        adapter: Option<AdapterRef>,
    ) -> Result<(), RunError> {
        let stored = self.store.iterations(&self.id).await?;
        let planned = stored.into_iter().find(|i| i.phase == phase && i.iteration == iteration);
        if planned.as_ref().is_some_and(|i| i.judged) {
            return Ok(());
        }
        let earlier = match planned {
            Some(planned) => {
                // Whatever failed for a former process, this one tries anew.
                self.store.reopen(&self.id, phase, iteration).await?;
                planned.active
            }
            None => {
                let specs = planning::plan(&self.experiment, &self.id, phase, iteration, adapter);
                let specs = specs.map_err(|e| RunError::Plan { iteration, problem: e.to_string() })?;
                self.store.plan(&self.id, phase, iteration, specs).await?;
                Duration::ZERO
            }
        };
        let clock = Clock { started: Instant::now(), earlier };
        self.await_episodes(phase, iteration, &clock).await?;
        let records = self.store.episodes(&self.id, phase, iteration).await?;
        self.refuse_too_many_failures(phase, iteration, &records)?;
        self.judge(phase, iteration, &records).await?;
        self.store.set_active(&self.id, phase, iteration, clock.active()).await?;
        Ok(())
    }

    async fn await_episodes(&self, phase: Phase, iteration: u32, clock: &Clock) -> Result<(), RunError> {
        let records = self.store.episodes(&self.id, phase, iteration).await?;
        let (open, done): (Vec<_>, Vec<_>) = records.into_iter().partition(|r| r.status == EpisodeStatus::Pending);
        let done = done.len() as u32;
        self.progress.change(|p| {
            p.phase = match phase {
                Phase::Evaluate => RunPhase::Evaluation(iteration),
                Phase::Train => RunPhase::Rollout(iteration),
            };
            p.episodes_done = done;
            p.episodes_failed = 0;
            p.episodes_total = done + open.len() as u32;
            p.training = None;
        });
        if open.is_empty() {
            return Ok(());
        }
        let mut batch = self.dispatch.submit(open.into_iter().map(submission).collect()).await?;
        let mut tick = tokio::time::interval(ACTIVE_EVERY);
        tick.tick().await;
        loop {
            let now = batch.borrow_and_update().clone();
            self.progress.change(|p| {
                p.episodes_done = done + now.finished as u32;
                p.episodes_failed = now.failed as u32;
            });
            if now.complete() {
                return Ok(());
            }
            tokio::select! {
                () = self.cancel.cancelled() => return Err(RunError::Cancelled),
                changed = batch.changed() => changed.map_err(|_| DispatchError::Closed)?,
                _ = tick.tick() => {
                    self.store.set_active(&self.id, phase, iteration, clock.active()).await?;
                }
            }
        }
    }

    fn refuse_too_many_failures(
        &self,
        phase: Phase,
        iteration: u32,
        records: &[EpisodeRecord],
    ) -> Result<(), RunError> {
        let errors: Vec<&str> = records
            .iter()
            .filter_map(|r| match &r.status {
                EpisodeStatus::Failed(error) => Some(error.as_str()),
                _ => None,
            })
            .collect();
        if errors.len() <= self.experiment.max_failed.ceil_of(records.len()) {
            return Ok(());
        }
        Err(RunError::TooManyFailed {
            what: match phase {
                Phase::Evaluate => format!("iteration {iteration}'s evaluation"),
                Phase::Train => format!("iteration {iteration}'s rollout"),
            },
            failed: errors.len(),
            episodes: records.len(),
            example: errors.first().copied().unwrap_or_default().to_owned(),
        })
    }
}

fn submission(record: EpisodeRecord) -> Submission {
    let spec = record.spec;
    let kind = Kind::Episode {
        environment: format!("{}/{}", spec.environment_class, spec.environment),
        initial_state: spec.initial_state.clone(),
    };
    let task = Task { work: WorkId::from(&spec.id), attempt: record.attempt, kind };
    Submission { task, payload: Payload::Episode(Arc::new(spec)) }
}

/// Time spent on a phase, that of earlier processes included.
struct Clock {
    started: Instant,
    earlier: Duration,
}

impl Clock {
    fn active(&self) -> Duration {
        self.earlier + self.started.elapsed()
    }
}
