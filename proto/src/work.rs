//! What coordinator and worker say to each other about work.

use serde::{Deserialize, Serialize};

use crate::{
    Digest, EpisodeSpec, ModelAnswer, ModelCall, ModelSpec, RunId, TraceParent, TrainingReport, TrainingSpec, Turn,
    WorkId, WorkerId,
};

/// A worker asks to be let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    /// Lowest and highest protocol that the worker speaks.
    pub protocol: (u32, u32),
    /// For people to read.
    pub name: String,
    /// Drawn anew by every worker process.
    pub incarnation: u64,
    /// The worker's release.
    pub version: String,
    /// As in `cpu` or `cuda:0`.
    pub device: String,
    /// Takes training jobs.
    pub can_train: bool,
}

/// The coordinator's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The highest protocol that both speak.
    pub protocol: u32,
    /// The worker's name from now on.
    pub worker: WorkerId,
    /// What is being run.
    pub run: RunId,
    /// Every model that a role needs.
    pub models: Vec<ModelSpec>,
    /// How long a lease lives without being renewed, in milliseconds.
    pub lease_ms: u32,
    /// How often to renew, in milliseconds.
    pub renew_ms: u32,
}

/// The right to do one piece of work, until it expires.
#[derive(Debug, Clone, PartialEq)]
pub struct Lease {
    /// What the lease is for.
    pub work: WorkId,
    /// Fences off the holders of earlier attempts; 1 for the first.
    pub attempt: u32,
    /// What to do.
    pub payload: Work,
    /// A training's state that an earlier attempt has uploaded.
    pub checkpoint: Option<Digest>,
    /// The span of the grant, under which the work is traced.
    pub trace: Option<TraceParent>,
}

/// A piece of work.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// Roll out an episode, from the end of `journal`.
    Episode {
        /// What to roll out.
        spec: Box<EpisodeSpec>,
        /// Turns already finished by an earlier holder, in order from 0.
        journal: Vec<Turn>,
    },
    /// Train an adapter.
    Training(Box<TrainingSpec>),
    /// Ask models, all at once. Nobody stores these: they end with the coordinator that wants them.
    Calls(Vec<ModelCall>),
}

/// A lease as its holder reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldLease {
    /// What the lease is for.
    pub work: WorkId,
    /// Its attempt.
    pub attempt: u32,
    /// Grows whenever the work moves on.
    pub progress: u64,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The episode is complete; this many turns were recorded.
    Episode {
        /// All of the episode's turns, journalled ones included.
        turns: u32,
    },
    /// The adapter is trained and uploaded.
    Training(TrainingReport),
    /// An answer to each call, in their order.
    Calls(Vec<ModelAnswer>),
    /// It cannot be done.
    Failed(Failure),
    /// Handed back unfinished.
    Returned,
}

impl Outcome {
    /// In a word, as traces name it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Episode { .. } => "episode",
            Self::Training(_) => "training",
            Self::Calls(_) => "calls",
            Self::Failed(_) => "failed",
            Self::Returned => "returned",
        }
    }
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Whether another attempt may succeed.
    pub retryable: bool,
    /// What went wrong, for people.
    pub message: String,
}

/// How far a training job has come.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingProgress {
    /// Which job.
    pub work: WorkId,
    /// Whose attempt.
    pub attempt: u32,
    /// Optimiser steps done.
    pub step: u32,
    /// Optimiser steps in all.
    pub steps: u32,
    /// Loss of the last step.
    pub loss: f64,
}
