use std::time::Duration;

use influence_proto::{EpisodeId, RunId, TrainingReport, TrainingSpec, WorkId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::planning::Phase;

/// A run to be written down.
#[derive(Debug, Clone, PartialEq)]
pub struct NewRun {
    /// The id, as in `quickstart-2`.
    pub id: RunId,
    /// The experiment's name, as in `quickstart`.
    pub name: String,
    /// Of the resolved experiment, its environments and models.
    pub digest: String,
    /// The resolved experiment.
    pub experiment: Value,
}

/// A run as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct RunRecord {
    /// The id.
    pub id: RunId,
    /// The experiment's name.
    pub name: String,
    /// Of the resolved experiment, its environments and models.
    pub digest: String,
    /// The resolved experiment.
    pub experiment: Value,
    /// How it stands.
    pub status: RunStatus,
    /// When it was created, in milliseconds since 1970.
    pub created_ms: u64,
}

/// How a run stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunStatus {
    /// Not finished. Whether a process is at it, the run's lock tells.
    Running,
    /// All iterations are done.
    Finished,
    /// It stopped with this error; the same command tries again.
    Failed(String),
}

/// An iteration's phase as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct IterationRecord {
    /// Training or evaluation.
    pub phase: Phase,
    /// 0 rolls out the untrained agent.
    pub iteration: u32,
    /// Rewards and selection are written down.
    pub judged: bool,
    /// What people should know about the selection.
    pub notes: Vec<String>,
    /// Time that processes have spent on it.
    pub active: Duration,
}

/// An episode as stored, without its spec and its turns: a large iteration's records fit into memory.
#[derive(Debug, Clone, PartialEq)]
pub struct EpisodeRecord {
    /// Its id.
    pub id: EpisodeId,
    /// Its class's name.
    pub environment_class: String,
    /// Its environment's name.
    pub environment: String,
    /// Its initial state's id.
    pub initial_state: String,
    /// How it stands.
    pub status: EpisodeStatus,
    /// The highest attempt so far; 0 before the first. Once it is finished, the one that finished it.
    pub attempt: u32,
    /// Turns in its journal.
    pub turns: u32,
    /// Its reward and selection, once the phase is judged.
    pub verdict: Option<Verdict>,
}

/// How an episode stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EpisodeStatus {
    /// Planned or under way.
    Pending,
    /// Complete.
    Finished,
    /// Given up, with the last attempt's error.
    Failed(String),
}

/// What selection says about one episode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Which.
    pub episode: EpisodeId,
    /// None if it is unscored.
    pub reward: Option<f64>,
    /// Mean influence score; none if not configured or unscored.
    pub influence: Option<f64>,
    /// Its influence reaches the threshold, or could not be read though a veto is configured.
    pub vetoed: bool,
    /// A turn that the reward needs has no score.
    pub unscored: bool,
    /// Chosen for training.
    pub selected: Option<Selected>,
}

/// Which end of its group an episode stands at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selected {
    /// Among the best.
    Best,
    /// Among the worst.
    Worst,
}

/// A training job as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingRecord {
    /// The iteration that it ends.
    pub iteration: u32,
    /// Its name as work.
    pub work: WorkId,
    /// What is trained.
    pub spec: TrainingSpec,
    /// The current attempt; 0 before the first.
    pub attempt: u32,
    /// The result, once there is one.
    pub report: Option<TrainingReport>,
    /// The last attempt's error, if it was given up.
    pub error: Option<String>,
}
