use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use influence_proto::{AdapterRef, EpisodeId, Turn};

use super::run::Run;
use super::{RunError, Step};
use crate::dispatch::{DispatchEvent, WorkItem};
use crate::planning::{self, Phase};
use crate::store::{EpisodeRecord, EpisodeStatus};

/// How often the time spent on a phase is written down: what a kill loses of it.
const ACTIVE_EVERY: Duration = Duration::from_secs(5);

impl Run {
    /// Plans, rolls out and judges the episodes of a phase, as far as that is not done.
    pub(super) async fn roll_out(
        &mut self,
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
        let mut clock = Clock { started: Instant::now(), earlier };
        self.await_episodes(phase, iteration, &mut clock).await?;
        let records = self.store.episodes(&self.id, phase, iteration).await?;
        self.refuse_too_many_failures(phase, iteration, &records)?;
        self.judge(phase, iteration, &records).await?;
        self.store.set_active(&self.id, phase, iteration, clock.active()).await?;
        Ok(())
    }

    async fn await_episodes(&mut self, phase: Phase, iteration: u32, clock: &mut Clock) -> Result<(), RunError> {
        let records = self.store.episodes(&self.id, phase, iteration).await?;
        let (open, done): (Vec<_>, Vec<_>) = records.into_iter().partition(|r| r.status == EpisodeStatus::Pending);
        self.progress.send_modify(|s| {
            s.step = match phase {
                Phase::Evaluate => Step::Evaluation(iteration),
                Phase::Train => Step::Rollout(iteration),
            };
            s.done = done.len();
            s.failed = 0;
            s.episodes = open.len() + done.len();
            s.training = None;
        });
        let mut waiting: BTreeSet<EpisodeId> = open.iter().map(|r| r.spec.id.clone()).collect();
        self.dispatch.submit(open.into_iter().map(|r| WorkItem::Episode(Box::new(r.spec))).collect()).await?;
        let mut tick = tokio::time::interval(ACTIVE_EVERY);
        tick.tick().await;
        while !waiting.is_empty() {
            tokio::select! {
                event = self.event() => self.note(event?, &mut waiting),
                _ = tick.tick() => {
                    self.store.set_active(&self.id, phase, iteration, clock.active()).await?;
                }
            }
        }
        Ok(())
    }

    fn note(&self, event: DispatchEvent, waiting: &mut BTreeSet<EpisodeId>) {
        match event {
            DispatchEvent::TurnRecorded { turn, .. } => self.progress.send_modify(|s| {
                let (prompt, generated) = tokens(&turn);
                s.turns += 1;
                s.prompt_tokens += prompt;
                s.generated_tokens += generated;
            }),
            DispatchEvent::EpisodeFinished { episode } if waiting.remove(&episode) => {
                self.progress.send_modify(|s| s.done += 1);
            }
            DispatchEvent::EpisodeFailed { episode, message } if waiting.remove(&episode) => {
                tracing::warn!(run = %self.id, %episode, %message, "an episode failed for good");
                self.progress.send_modify(|s| s.failed += 1);
            }
            // The late echo of work that is accounted for.
            _ => {}
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
        if self.experiment.tolerates(errors.len(), records.len()) {
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

/// Prompt and sampled tokens of a turn, all roles together.
fn tokens(turn: &Turn) -> (u64, u64) {
    turn.calls.iter().fold((0, 0), |(prompt, generated), call| {
        (prompt + u64::from(call.prompt_tokens), generated + u64::from(call.generated_tokens))
    })
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
