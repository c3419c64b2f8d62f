//! What a run is doing right now, for progress bars. Nothing decides by it.

use std::sync::Arc;
use std::time::Instant;

use influence_proto::Call;
use tokio::sync::watch;

use crate::metrics;

/// A snapshot. `turns` and the token counts only grow, from 0 at this process's start, so a reader
/// computes rates from differences; the episode counts are those of the current phase.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Progress {
    /// What is being done.
    pub phase: RunPhase,
    /// Finished episodes of the phase, those of earlier processes included.
    pub episodes_done: u32,
    /// Episodes of the phase that were given up.
    pub episodes_failed: u32,
    /// Planned episodes of the phase.
    pub episodes_total: u32,
    /// Turns stored since the start.
    pub turns: u64,
    /// Prompt tokens of those turns, all roles.
    pub prompt_tokens: u64,
    /// Generated tokens of those turns, all roles.
    pub generated_tokens: u64,
    /// What those turns, and trainings that have ended since the start, cost, where models have a price.
    pub nanodollars: u64,
    /// How far the training job has come, while there is one.
    pub training: Option<TrainingNow>,
    /// Workers whose session is open.
    pub workers: u32,
    /// What people should know now.
    pub message: Option<String>,
    /// Since when the store has refused every write, and why; as with a full disk.
    pub store_problem: Option<(Instant, String)>,
}

/// What a run is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RunPhase {
    /// Nothing yet.
    #[default]
    Starting,
    /// Rolling out an iteration's episodes.
    Rollout(u32),
    /// Rolling out held-out episodes with the adapter that this iteration starts from.
    Evaluation(u32),
    /// Training an iteration's adapter.
    Training(u32),
    /// Nothing of its own: workers answer calls.
    Answering,
    /// Finished.
    Done,
}

/// How far a training job has come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrainingNow {
    /// Optimiser steps done.
    pub step: u32,
    /// Optimiser steps in all.
    pub steps: u32,
    /// Loss of the last step.
    pub loss: f64,
}

/// The writing side; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct ProgressHandle(Arc<watch::Sender<Progress>>);

impl ProgressHandle {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Progress::default())))
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Progress> {
        self.0.subscribe()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Progress)) {
        self.0.send_modify(change);
    }

    /// Wakes readers only if `change` says that there is something new.
    pub(crate) fn change_if(&self, change: impl FnOnce(&mut Progress) -> bool) {
        self.0.send_if_modified(change);
    }

    /// Shows what the store says while it cannot write, and takes it back when it can again.
    pub(crate) fn store_says(&self, problem: Option<String>) {
        metrics::store_away(problem.is_some());
        self.change_if(|p| match (&p.store_problem, problem) {
            (None, None) => false,
            (Some((_, old)), Some(new)) if *old == new => false,
            (Some((since, _)), Some(new)) => {
                p.store_problem = Some((*since, new));
                true
            }
            (_, new) => {
                p.store_problem = new.map(|message| (Instant::now(), message));
                true
            }
        });
    }

    /// A new phase begins; nobody knows yet how many episodes it has.
    pub(crate) fn enter(&self, phase: RunPhase) {
        metrics::phase(phase);
        self.change(|p| {
            p.phase = phase;
            (p.episodes_done, p.episodes_failed, p.episodes_total) = (0, 0, 0);
        });
    }

    /// Counts what a training has cost.
    pub(crate) fn training_cost(&self, nanodollars: u64) {
        self.change_if(|p| {
            p.nanodollars = p.nanodollars.saturating_add(nanodollars);
            nanodollars > 0
        });
    }

    /// Counts a stored turn and its calls.
    pub(crate) fn turn(&self, calls: &[Call]) {
        metrics::turn(calls);
        self.change(|p| {
            p.turns += 1;
            for call in calls {
                p.prompt_tokens += u64::from(call.prompt_tokens);
                p.generated_tokens += u64::from(call.generated_tokens);
                p.nanodollars = p.nanodollars.saturating_add(call.nanodollars);
            }
        });
    }
}
