//! Durable truth: what was planned, rolled out, judged and trained.
//!
//! [`Store`] is a few verbs with preconditions. Every writing verb may be repeated: a call that was
//! stored answers a repeat with success, so a caller that does not know whether its call arrived
//! simply calls again. What a verb acknowledges is on disk. Implementations pass one behaviour
//! suite (`behaviour`).

#[cfg(test)]
mod behaviour;
mod error;
mod lock;
mod record;
mod sqlite;

use std::time::Duration;

use async_trait::async_trait;
use influence_proto::{EpisodeId, EpisodeSpec, RunId, TrainingReport, TrainingSpec, Turn, WorkId};

use crate::planning::Phase;

pub use error::StoreError;
pub use lock::{LockError, RunLock};
pub use record::{
    EpisodeRecord, EpisodeStatus, IterationRecord, NewRun, RunRecord, RunStatus, Selected, TrainingRecord, Verdict,
};
pub use sqlite::SqliteStore;

/// Durable truth of all runs of a data folder or cluster.
#[async_trait]
pub trait Store: std::fmt::Debug + Send + Sync {
    /// Writes a new run down, with [`RunStatus::Running`]. Precondition: its id is new, else
    /// [`StoreError::RunExists`].
    async fn create_run(&self, run: NewRun) -> Result<(), StoreError>;

    /// All runs, oldest first.
    async fn runs(&self) -> Result<Vec<RunRecord>, StoreError>;

    /// One run; [`StoreError::NoSuchRun`] if there is none of that id.
    async fn run(&self, run: &RunId) -> Result<RunRecord, StoreError>;

    /// Says how a run stands.
    async fn set_run_status(&self, run: &RunId, status: RunStatus) -> Result<(), StoreError>;

    /// Writes down the episodes of one iteration's phase, in this order. Precondition: nothing is
    /// planned there yet, or exactly the same specs ([`StoreError::Conflict`] otherwise): a plan is
    /// never changed.
    async fn plan(&self, run: &RunId, phase: Phase, iteration: u32, specs: Vec<EpisodeSpec>) -> Result<(), StoreError>;

    /// The planned iterations of a run, in order of iteration, evaluation before training.
    async fn iterations(&self, run: &RunId) -> Result<Vec<IterationRecord>, StoreError>;

    /// How long an iteration's phase has been worked on in all. Never makes it less.
    async fn set_active(&self, run: &RunId, phase: Phase, iteration: u32, active: Duration) -> Result<(), StoreError>;

    /// The episodes of an iteration's phase in plan order; none if it is not planned.
    async fn episodes(&self, run: &RunId, phase: Phase, iteration: u32) -> Result<Vec<EpisodeRecord>, StoreError>;

    /// The stored turns of an episode, in order from 0.
    async fn journal(&self, run: &RunId, episode: &EpisodeId) -> Result<Vec<Turn>, StoreError>;

    /// Makes `attempt` the current one of an episode or a training job, which fences all earlier
    /// ones off, and returns the journal that it goes on from (none for a training job).
    /// Preconditions: the work is not finished ([`StoreError::AlreadyFinished`]) and no higher
    /// attempt is current ([`StoreError::Fenced`]).
    async fn start_attempt(&self, run: &RunId, work: &WorkId, attempt: u32) -> Result<Vec<Turn>, StoreError>;

    /// Journals a turn. Preconditions: the attempt is current ([`StoreError::Fenced`]); the turn's
    /// index is the journal's length, or the turn stored there is the same ([`StoreError::Conflict`]).
    async fn record_turn(&self, run: &RunId, work: &WorkId, attempt: u32, turn: Turn) -> Result<(), StoreError>;

    /// Ends an episode. Preconditions: the attempt is current; the journal holds `turns` turns.
    async fn finish_episode(&self, run: &RunId, work: &WorkId, attempt: u32, turns: u32) -> Result<(), StoreError>;

    /// Gives an episode or a training job up. Preconditions: the attempt is current; the work is
    /// not finished.
    async fn fail(&self, run: &RunId, work: &WorkId, attempt: u32, error: &str) -> Result<(), StoreError>;

    /// Opens the failed episodes of a phase for further attempts. Precondition: it is not judged.
    async fn reopen(&self, run: &RunId, phase: Phase, iteration: u32) -> Result<(), StoreError>;

    /// Writes down rewards and selection of an iteration's phase, and what people should know about
    /// them. Precondition: it is not judged yet, or was judged the same.
    async fn judge(
        &self,
        run: &RunId,
        phase: Phase,
        iteration: u32,
        verdicts: Vec<Verdict>,
        notes: Vec<String>,
    ) -> Result<(), StoreError>;

    /// Writes an iteration's training job down. Precondition: there is none yet, or the same.
    async fn plan_training(
        &self,
        run: &RunId,
        iteration: u32,
        work: &WorkId,
        spec: TrainingSpec,
    ) -> Result<(), StoreError>;

    /// The training jobs of a run, by iteration.
    async fn trainings(&self, run: &RunId) -> Result<Vec<TrainingRecord>, StoreError>;

    /// Ends a training job: its adapter is the iteration's. Precondition: the attempt is current.
    async fn finish_training(
        &self,
        run: &RunId,
        work: &WorkId,
        attempt: u32,
        report: TrainingReport,
    ) -> Result<(), StoreError>;
}
