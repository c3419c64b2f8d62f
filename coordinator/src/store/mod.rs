//! Durable truth: what was planned, rolled out, judged and trained.
//!
//! [`Store`] is a few verbs with preconditions. Every writing verb may be repeated: a call that was
//! stored answers a repeat with success, so a caller that does not know whether its call arrived
//! simply calls again. What a verb acknowledges is on disk. Implementations pass one behaviour
//! suite (`behaviour`).
//!
//! A run has one leader: the handle that took the lead with [`Store::lead`]. All other writing verbs
//! are refused from any other handle ([`StoreError::NotLeader`]), however late they arrive; but what people say of
//! conversations ([`Store::mark`]) takes no part in the run, and every handle may write it.

mod address;
#[cfg(test)]
pub(crate) mod behaviour;
mod error;
mod lock;
mod measured;
#[cfg(test)]
pub(crate) mod memory;
mod open;
mod record;
mod redis;
mod sqlite;

use std::time::Duration;

use async_trait::async_trait;
use influence_proto::{EpisodeId, EpisodeSpec, RunId, TrainingReport, TrainingSpec, Turn, Work, WorkId};

use crate::planning::Phase;

pub use self::redis::RedisStore;
pub use address::{InvalidStoreAddress, RedisAddress, StoreAddress};
pub use error::StoreError;
use lock::{LockError, RunLock};
use measured::measured;
pub use open::{OpenStoreError, OpenedStore, open};
pub use record::{
    EpisodeRecord, EpisodeStatus, IterationRecord, Mark, MetricResult, MetricSource, MetricValue, NewRun, RunRecord,
    RunStatus, Selected, TrainingRecord, Verdict,
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

    /// Takes the lead of a run for this handle, or keeps it; `leader` says for people who that is.
    /// It lasts for `ttl` unless it is kept, or for as long as the process lives where the system
    /// tells. Precondition: no other handle has it ([`StoreError::Led`]).
    async fn lead(&self, run: &RunId, leader: &str, ttl: Duration) -> Result<(), StoreError>;

    /// Gives the lead of a run up, if this handle has it.
    async fn resign(&self, run: &RunId) -> Result<(), StoreError>;

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

    /// What is rolled out in an episode.
    async fn spec(&self, run: &RunId, episode: &EpisodeId) -> Result<EpisodeSpec, StoreError>;

    /// The stored turns of an episode, in order from 0. With two live attempts, those of the older.
    async fn journal(&self, run: &RunId, episode: &EpisodeId) -> Result<Vec<Turn>, StoreError>;

    /// Makes `attempt` live and returns all that its holder needs; an episode goes on from the
    /// journal in it.
    ///
    /// Alone, it fences all earlier attempts off and goes on from the longest of their journals.
    /// `beside` a live attempt, both live on, each with a journal of its own that begins with what
    /// `beside` has recorded, and any third attempt is fenced off; a training job has no journal and
    /// no second live attempt.
    ///
    /// Preconditions: the work is not finished ([`StoreError::AlreadyFinished`]); no higher attempt
    /// was started, and `beside` is live ([`StoreError::Fenced`]).
    async fn start_attempt(
        &self,
        run: &RunId,
        work: &WorkId,
        attempt: u32,
        beside: Option<u32>,
    ) -> Result<Work, StoreError>;

    /// Journals a turn. Preconditions: the attempt is live ([`StoreError::Fenced`]); the turn's index
    /// is the length of its journal, or the turn stored there is the same ([`StoreError::Conflict`]).
    async fn record_turn(&self, run: &RunId, work: &WorkId, attempt: u32, turn: Turn) -> Result<(), StoreError>;

    /// Ends an episode: the attempt's journal becomes the episode's, and another live attempt is
    /// fenced off. Preconditions: the attempt is live; its journal holds `turns` turns.
    async fn finish_episode(&self, run: &RunId, work: &WorkId, attempt: u32, turns: u32) -> Result<(), StoreError>;

    /// Gives an episode or a training job up. Preconditions: the attempt is live; the work is not
    /// finished.
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

    /// Writes down what a person says; a mark of the same episode, turn and label is replaced. Any handle may.
    /// Precondition: the run has the episode.
    async fn mark(&self, run: &RunId, mark: Mark) -> Result<(), StoreError>;

    /// Takes a mark back, if it is there. Any handle may.
    async fn unmark(&self, run: &RunId, episode: &EpisodeId, turn: Option<u32>, label: &str) -> Result<(), StoreError>;

    /// What people said, by episode, turn (the whole first) and label.
    async fn marks(&self, run: &RunId) -> Result<Vec<Mark>, StoreError>;

    /// Ends a training job: its adapter is the iteration's. Precondition: the attempt is current.
    async fn finish_training(
        &self,
        run: &RunId,
        work: &WorkId,
        attempt: u32,
        report: TrainingReport,
    ) -> Result<(), StoreError>;

    /// Adds what a judge said about an episode, whoever leads the run: nothing decides by it. What is stored
    /// under the same [`MetricSource`] stays as it is. Precondition: the episode is planned.
    async fn add_metric(&self, run: &RunId, episode: &EpisodeId, result: MetricResult) -> Result<(), StoreError>;

    /// What judges said about an episode, by source.
    async fn metrics(&self, run: &RunId, episode: &EpisodeId) -> Result<Vec<MetricResult>, StoreError>;

    /// What judges' answers about the episodes of a planned phase come to, in plan order and by source.
    async fn metric_values(&self, run: &RunId, phase: Phase, iteration: u32) -> Result<Vec<MetricValue>, StoreError> {
        let mut all = Vec::new();
        for EpisodeRecord { id, .. } in self.episodes(run, phase, iteration).await? {
            for said in self.metrics(run, &id).await? {
                let (episode, value, nanodollars) = (id.clone(), said.value(), said.nanodollars);
                all.push(MetricValue { episode, source: said.source, value, nanodollars });
            }
        }
        Ok(all)
    }
}
