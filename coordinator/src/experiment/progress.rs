//! What people watch while a run goes on.

/// How a run stands now. Counters only grow within a process; rates are the reader's to compute.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// What is being done.
    pub step: Step,
    /// Complete episodes of the phase, those of earlier processes included.
    pub done: usize,
    /// Episodes of the phase that were given up.
    pub failed: usize,
    /// Episodes of the phase.
    pub episodes: usize,
    /// Turns recorded by this process.
    pub turns: u64,
    /// Prompt tokens of these turns.
    pub prompt_tokens: u64,
    /// Sampled tokens of these turns.
    pub generated_tokens: u64,
    /// The training job's last step.
    pub training: Option<TrainingStep>,
    /// Workers that are connected.
    pub workers: usize,
}

/// A part of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Step {
    /// Nothing yet.
    #[default]
    Starting,
    /// Held-out episodes of the agent that this iteration rolls out.
    Evaluation(u32),
    /// Episodes to train on.
    Rollout(u32),
    /// The adapter that ends this iteration.
    Training(u32),
    /// All is done.
    Finished,
}

/// How far a training job has come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrainingStep {
    /// Optimiser steps done.
    pub step: u32,
    /// Optimiser steps in all.
    pub steps: u32,
    /// Loss of the last one.
    pub loss: f64,
}
