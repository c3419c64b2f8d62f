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
    /// Episodes that it takes at once.
    pub slots: u32,
    /// The longest that a lease of its has stood still.
    pub still_ms: u64,
    /// Of its stored turns, prompts and replies of all roles.
    pub tokens_per_second: u32,
    /// What it says itself.
    #[serde(flatten)]
    pub load: WorkerLoad,
}

/// What a worker says about itself whenever it renews its leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WorkerLoad {
    /// Memory of its process; 0 where it does not know.
    pub memory_bytes: u64,
    /// Requests to servers that are away or have too much to do, which are made again and again.
    pub backing_off: u32,
}

/// A lease that has stood still for so long, in milliseconds, makes its worker look stalled. It moves with every reply and every
/// step of a training, which on a slow machine take minutes; the coordinator takes it back much later.
const STALLED_MS: u64 = 300_000;

impl WorkerStanding {
    /// What it is doing, in a word. One that waits for somebody else's server backs off; one that is heard of, has work and
    /// moves on with none of it for no such reason is stalled.
    pub const fn state(&self) -> &'static str {
        if !self.connected {
            "away"
        } else if self.load.backing_off > 0 {
            "backing off"
        } else if self.still_ms >= STALLED_MS {
            "stalled"
        } else if self.held > 0 {
            "working"
        } else {
            "idle"
        }
    }
}
