//! Planning a phase's episodes and having them rolled out.

use std::time::Duration;

use influence_proto::{TrainedAgent, WorkId};
use tokio::sync::watch;

use super::active::ActiveTime;
use super::error::RunError;
use super::run::Run;
use super::summary::NANO;
use crate::dispatch::{Batch, DispatchError, Kind, Task};
use crate::planning::{Phase, plan};
use crate::store::{EpisodeRecord, EpisodeStatus};

/// How often waiting looks at the clock and the store's health.
const LOOK: Duration = Duration::from_millis(500);

impl Run {
    /// Has all episodes of the phase rolled out, but for as many as may fail.
    pub(super) async fn roll_out(
        &self,
        phase: Phase,
        iteration: u32,
        agent: Option<&TrainedAgent>,
        active: &mut ActiveTime,
    ) -> Result<(), RunError> {
        let episodes = self.planned(phase, iteration, agent).await?;
        let count = |of: fn(&EpisodeStatus) -> bool| episodes.iter().filter(|e| of(&e.status)).count();
        let done = count(|s| *s == EpisodeStatus::Finished);
        let failed = count(|s| matches!(s, EpisodeStatus::Failed(_)));
        let failures = Failures { phase, iteration, total: episodes.len(), allowed: self.may_fail(episodes.len()) };
        let earlier = episodes.iter().rev().find_map(|e| match &e.status {
            EpisodeStatus::Failed(error) => Some(error.clone()),
            _ => None,
        });
        failures.check(failed, earlier.as_ref())?;
        let show = |batch: &Batch| {
            self.progress.change(|p| {
                p.episodes_done = (done + batch.finished) as u32;
                p.episodes_failed = (failed + batch.failed) as u32;
                p.episodes_total = episodes.len() as u32;
            });
        };
        show(&Batch::default());
        let batch = episodes.iter().filter(|e| e.status == EpisodeStatus::Pending).map(task).collect();
        let news = self.dispatch.submit(batch).await?;
        self.wait(news, active, |batch| {
            show(batch);
            self.budget_must_last()?;
            failures.check(failed + batch.failed, batch.last_error.as_ref())
        })
        .await
    }

    /// The phase's episodes, planned now if they are not yet.
    async fn planned(
        &self,
        phase: Phase,
        iteration: u32,
        agent: Option<&TrainedAgent>,
    ) -> Result<Vec<EpisodeRecord>, RunError> {
        let stored = self.store.episodes(&self.run, phase, iteration).await?;
        if stored.is_empty() {
            let specs = plan(&self.experiment, &self.run, phase, iteration, agent)
                .map_err(|source| RunError::Plan { phase, iteration, source })?;
            tracing::info!(run = %self.run, %phase, iteration, episodes = specs.len(), "planned");
            self.store.plan(&self.run, phase, iteration, specs).await?;
        } else if self.retry_failed {
            self.store.reopen(&self.run, phase, iteration).await?;
        } else {
            return Ok(stored);
        }
        Ok(self.store.episodes(&self.run, phase, iteration).await?)
    }

    /// The largest whole number of episodes that is at most the allowed share.
    fn may_fail(&self, total: usize) -> usize {
        self.experiment.max_failed.split(total).0
    }

    /// Waits until a batch is complete, or `look` at its news says that it is no use.
    pub(super) async fn wait(
        &self,
        mut news: watch::Receiver<Batch>,
        active: &mut ActiveTime,
        look: impl Fn(&Batch) -> Result<(), RunError>,
    ) -> Result<(), RunError> {
        loop {
            let batch = news.borrow_and_update().clone();
            look(&batch)?;
            if batch.complete() {
                return Ok(());
            }
            self.store_must_answer()?;
            match active.save_now_and_then().await {
                // The workers' own calls show it, and are given some time.
                Err(error) if error.retryable() => self.progress.store_says(Some(error.to_string())),
                Err(error) => return Err(error.into()),
                Ok(true) => self.progress.store_says(None),
                Ok(false) => {}
            }
            tokio::select! {
                changed = news.changed() => changed.map_err(|_| DispatchError::Closed)?,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    pub(super) fn budget_must_last(&self) -> Result<(), RunError> {
        let Some(budget) = self.budget else { return Ok(()) };
        let spent = budget.spent_before + self.progress.watch().borrow().nanodollars;
        if spent < budget.limit {
            return Ok(());
        }
        let dollars = |nanodollars: u64| nanodollars as f64 / NANO;
        Err(RunError::Budget { spent: dollars(spent), budget: dollars(budget.limit) })
    }

    fn store_must_answer(&self) -> Result<(), RunError> {
        let progress = self.progress.watch();
        let problem = progress.borrow().store_problem.clone();
        match problem {
            Some((since, problem)) if self.store_patience.is_some_and(|patience| since.elapsed() > patience) => {
                Err(RunError::StoreAway { seconds: since.elapsed().as_secs(), problem })
            }
            _ => Ok(()),
        }
    }
}

/// How many episodes of a phase may fail.
struct Failures {
    phase: Phase,
    iteration: u32,
    total: usize,
    allowed: usize,
}

impl Failures {
    fn check(&self, failed: usize, last_error: Option<&String>) -> Result<(), RunError> {
        if failed <= self.allowed {
            return Ok(());
        }
        Err(RunError::TooManyFailed {
            phase: self.phase,
            iteration: self.iteration,
            failed,
            total: self.total,
            allowed: self.allowed,
            last_error: last_error.cloned().unwrap_or_default(),
        })
    }
}

fn task(episode: &EpisodeRecord) -> Task {
    let environment = format!("{}/{}", episode.environment_class, episode.environment);
    let initial_state = episode.initial_state.as_str().into();
    let kind = Kind::Episode { environment: environment.into(), initial_state };
    Task { work: WorkId::from(&episode.id), attempt: episode.attempt, kind }
}
