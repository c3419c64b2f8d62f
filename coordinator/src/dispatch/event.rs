use std::sync::Arc;

use influence_proto::{Failure, HeldLease, WorkId, WorkerId};

/// What happens to the dispatcher. Times come with the call, in milliseconds on any steady clock.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A piece of work to be done, after all that was submitted before.
    Submit(Task),
    /// A worker was let in, or a known one asked again.
    Joined {
        /// Its id, the same for the same incarnation.
        worker: WorkerId,
        /// Its release.
        version: String,
        /// What it computes on.
        device: String,
        /// Takes training jobs.
        can_train: bool,
    },
    /// The worker's stream is open.
    Connected(WorkerId),
    /// The worker's stream has ended. Its leases live on for the grace period, or for as long as
    /// they are renewed.
    Disconnected(WorkerId),
    /// How many more episodes the worker takes now.
    Credits(WorkerId, u32),
    /// The worker wants no more, or shall get no more.
    Draining(WorkerId),
    /// From now on nothing is granted, or it is again.
    Paused(bool),
    /// The worker is alive and holds these.
    Renewed(WorkerId, Vec<HeldLease>),
    /// A turn of this attempt was stored.
    TurnRecorded {
        /// Who sent it.
        worker: WorkerId,
        /// Of which work.
        work: WorkId,
        /// By which attempt.
        attempt: u32,
    },
    /// The store accepted this attempt's result as the work's.
    Finished {
        /// Which work.
        work: WorkId,
        /// By which attempt.
        attempt: u32,
    },
    /// The holder reports that this attempt failed.
    Failed {
        /// Which work.
        work: WorkId,
        /// Which attempt.
        attempt: u32,
        /// Why.
        failure: Failure,
    },
    /// The holder hands the work back.
    Returned {
        /// Which work.
        work: WorkId,
        /// Which attempt.
        attempt: u32,
    },
    /// A grant could not be written down, or did not reach the worker: it never started.
    GrantLost {
        /// Which work.
        work: WorkId,
        /// Which attempt.
        attempt: u32,
        /// The highest attempt that the store knows of.
        stored: u32,
    },
    /// The store knows that the work is done.
    AlreadyFinished(WorkId),
    /// Nobody wants the work any more; no effect tells of its end.
    Withdrawn(WorkId),
    /// Time has passed.
    Tick,
}

/// A piece of work as it is submitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Its name.
    pub work: WorkId,
    /// The highest attempt that the store knows of; 0 if there was none.
    pub attempt: u32,
    /// Who can do it, and with what it likes to be.
    pub kind: Kind,
}

/// Who can do a piece of work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Any worker with a credit.
    Episode {
        /// Class and environment: episodes that share prompts.
        environment: Arc<str>,
        /// The initial state within it: siblings, which share the opening too.
        initial_state: Arc<str>,
    },
    /// A worker that trains, one job at a time. It costs no credit.
    Training,
    /// Any worker with a credit, before any episode. It never gets a second one beside it.
    Calls,
}

/// What the dispatcher wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Write the attempt down, then send the lease.
    Grant {
        /// To whom.
        worker: WorkerId,
        /// Which work.
        work: WorkId,
        /// Its new attempt.
        attempt: u32,
        /// The live attempt that it does not replace but runs beside.
        beside: Option<u32>,
    },
    /// Tell the worker that it no longer holds this.
    Revoke {
        /// Whom.
        worker: WorkerId,
        /// Which work.
        work: WorkId,
        /// Which attempt.
        attempt: u32,
        /// Why, for people.
        reason: String,
    },
    /// The work is done. Exactly one of this and `Exhausted` comes for each work that was
    /// submitted and not withdrawn.
    Finished(WorkId),
    /// The work is given up.
    Exhausted {
        /// Which work.
        work: WorkId,
        /// The attempt that was lost last.
        attempt: u32,
        /// What went wrong with it.
        error: String,
    },
}

/// Times in milliseconds, and the budget of attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A lease lives this long without being renewed.
    pub lease_ms: u64,
    /// It lives this long after its worker's stream has ended, unless renewed.
    pub grace_ms: u64,
    /// It is revoked when its progress stands still for this long.
    pub stall_ms: u64,
    /// Work that had an attempt before the coordinator started waits this long for that attempt's
    /// holder to come back.
    pub reclaim_ms: u64,
    /// A failed attempt is followed by the next one after this long.
    pub retry_ms: u64,
    /// An episode that is held for so long, and for twice as long as others took, may be given to a
    /// second worker too, once nothing else is left to give.
    pub straggler_ms: u64,
    /// Started attempts that may be lost or fail, 1 or more.
    pub attempts: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            lease_ms: 30_000,
            grace_ms: 15_000,
            stall_ms: 30 * 60_000,
            reclaim_ms: 15_000,
            retry_ms: 500,
            straggler_ms: 60_000,
            attempts: 3,
        }
    }
}
