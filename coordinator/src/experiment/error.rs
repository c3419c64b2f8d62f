use std::path::PathBuf;

use crate::artifacts::ArtifactError;
use crate::dispatch::DispatchError;
use crate::planning::{Phase, PlanError};
use crate::store::StoreError;

/// Why a run stopped before its end. The same command tries again from where it stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The store refuses, or has been away for too long.
    #[error(transparent)]
    Store(StoreError),
    /// The store has refused every write for too long.
    #[error("the store could not be written for {seconds} s: {problem}")]
    StoreAway {
        /// How long.
        seconds: u64,
        /// What it says.
        problem: String,
    },
    /// An artifact cannot be read or written.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The dispatcher has ended.
    #[error(transparent)]
    Dispatch(#[from] DispatchError),
    /// An iteration cannot be planned.
    #[error("iteration {iteration} ({phase}) cannot be planned: {source}")]
    Plan {
        /// Training or evaluation.
        phase: Phase,
        /// Which.
        iteration: u32,
        /// Why.
        source: PlanError,
    },
    /// More episodes failed than the experiment allows.
    #[error(
        "{failed} of {total} episodes of iteration {iteration} ({phase}) failed, and `max_failed` allows {allowed}; the last one: {last_error}. Mend the cause and give the same command again: the failed episodes are tried once more"
    )]
    TooManyFailed {
        /// Training or evaluation.
        phase: Phase,
        /// Which.
        iteration: u32,
        /// Failed episodes.
        failed: usize,
        /// Planned episodes.
        total: usize,
        /// How many may fail.
        allowed: usize,
        /// Why the last one did.
        last_error: String,
    },
    /// The run has cost what it may.
    #[error(
        "the budget of ${budget} is spent (${spent:.4}): the run pauses here, and goes on by the same command with a larger --budget"
    )]
    Budget {
        /// In dollars.
        spent: f64,
        /// In dollars.
        budget: f64,
    },
    /// There is nothing to train on.
    #[error(
        "nothing can be selected from the {finished} finished episodes of iteration {iteration}: {unscored} are unscored, {vetoed} are vetoed for their influence and {unknown} because it is unscored{reasons}. Lower `scoring.min_mass`, use a model that answers with the allowed answers, or change `selection`"
    )]
    NothingSelected {
        /// Which.
        iteration: u32,
        /// Episodes that could have been selected.
        finished: usize,
        /// Without a reward.
        unscored: usize,
        /// Harmful.
        vetoed: usize,
        /// Vetoed for lack of an influence score.
        unknown: usize,
        /// What the scores say, as in `; 12 scores: the allowed answers hold ...`.
        reasons: String,
    },
    /// An algorithm that learns from both ends has one only.
    #[error(
        "iteration {iteration} has {best} best episodes and no worst one, and {algorithm} learns from both: groups were too small, or their rest is vetoed or unscored. Raise `selection.worst` or `environments.siblings`, or allow `selection.veto.negatives_on_vetoed`"
    )]
    NoWorst {
        /// Which.
        iteration: u32,
        /// By its name in experiments.
        algorithm: &'static str,
        /// Selected best episodes.
        best: usize,
    },
    /// The selected episodes hold no token to train on.
    #[error(
        "the {episodes} selected episodes of iteration {iteration} hold nothing to train on: every reply is empty, or no two siblings can be compared"
    )]
    EmptyDataset {
        /// Which.
        iteration: u32,
        /// Selected episodes.
        episodes: usize,
    },
    /// The file of preferences cannot be used any more.
    #[error("`training.static` cannot be used: {0}. Mend the file and give the same command again")]
    Static(String),
    /// The training job was given up.
    #[error("the training of iteration {iteration} failed: {error}. Mend the cause and give the same command again")]
    Training {
        /// Which.
        iteration: u32,
        /// The last attempt's error.
        error: String,
    },
    /// A file of the run's folder cannot be written.
    #[error(
        "{path} cannot be written: {source}; check the disk's space and the folder's permissions, and give the same command again"
    )]
    Folder {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The process was asked to stop.
    #[error("stopped; the same command goes on from here")]
    Stopped,
    /// Another process leads the run now, or may.
    #[error("the lead of the run is lost: another coordinator may have it now")]
    Deposed,
    /// A task of the coordinator panicked.
    #[error("the coordinator failed inside: {0}; please report this")]
    Panicked(String),
}

impl From<StoreError> for RunError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotLeader { .. } => Self::Deposed,
            error => Self::Store(error),
        }
    }
}
