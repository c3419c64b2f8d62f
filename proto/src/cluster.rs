//! How a cluster stands, for people.

use serde::{Deserialize, Serialize};

use crate::{RunId, WorkerId};

/// What a coordinator says about itself and its workers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// What is being run.
    pub run: RunId,
    /// As in `rollout 3`.
    pub phase: String,
    /// Planned episodes of the phase.
    pub episodes_total: u32,
    /// Of these, finished.
    pub episodes_done: u32,
    /// Of these, given up.
    pub episodes_failed: u32,
    /// Turns stored since the coordinator's start.
    pub turns: u64,
    /// Time since then.
    pub uptime_ms: u64,
    /// Why the store cannot be written, while it cannot.
    pub store_problem: Option<String>,
    /// The coordinator's release.
    pub version: String,
    /// Who holds what.
    #[serde(flatten)]
    pub standing: Standing,
}

/// How the handing out of work stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Nothing is handed out.
    pub paused: bool,
    /// Work without a lease.
    pub pending: u32,
    /// Work with one, or with two.
    pub leased: u32,
    /// All workers that are known, by id.
    pub workers: Vec<WorkerStanding>,
}

/// How a worker stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStanding {
    /// Its name in the coordinator's books.
    pub id: WorkerId,
    /// As in `cpu` or `cuda:0`.
    pub device: String,
    /// Its release.
    pub version: String,
    /// Its stream is open.
    pub connected: bool,
    /// It gets no more work.
    pub draining: bool,
    /// It takes training jobs.
    pub can_train: bool,
    /// Episodes that it would take now.
    pub credits: u32,
    /// Leases that it holds.
    pub held: u32,
    /// Of these, duplicates of another worker's.
    pub duplicates: u32,
    /// Leases that it lost for standing still.
    pub stalled: u32,
    /// Turns of its that were stored.
    pub turns: u64,
    /// Since it was last heard of.
    pub silent_ms: u64,
}
