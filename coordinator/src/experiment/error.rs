use std::path::PathBuf;

use crate::artifacts::ArtifactError;
use crate::dispatch::DispatchError;
use crate::store::StoreError;

/// Why a run cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The run of this name was started from something else.
    #[error(
        "run `{run}` was started with other settings; these keys changed: {}. Undo the change to go on with it, give --fresh to start over under a new run id, or --name NAME for a run of another name",
        keys.join(", ")
    )]
    Changed {
        /// The run that exists.
        run: String,
        /// Dotted keys, never empty.
        keys: Vec<String>,
    },
    /// A name that makes no run id.
    #[error("the name `{name}` cannot be a run's: {problem}")]
    Name {
        /// What was asked for.
        name: String,
        /// Why not.
        problem: String,
    },
    /// Too many episodes could not be rolled out.
    #[error(
        "{failed} of {episodes} episodes of {what} failed, more than `max_failed` allows; the first: {example}. The same command tries them again"
    )]
    TooManyFailed {
        /// As in `iteration 2's rollout`.
        what: String,
        /// Episodes that failed.
        failed: usize,
        /// Episodes in all.
        episodes: usize,
        /// One of the errors.
        example: String,
    },
    /// There is nothing to train on.
    #[error("no episode of iteration {iteration} can be selected for training: {causes}")]
    NothingSelected {
        /// The iteration.
        iteration: u32,
        /// What kept the episodes out.
        causes: String,
    },
    /// Training failed for good.
    #[error("training adapter {iteration} failed: {message}. The same command tries again")]
    Training {
        /// The iteration that it would have ended.
        iteration: u32,
        /// The worker's words.
        message: String,
    },
    /// The planned episodes cannot be made.
    #[error("iteration {iteration} cannot be planned: {problem}")]
    Plan {
        /// The iteration.
        iteration: u32,
        /// Why not.
        problem: String,
    },
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The artifact store failed.
    #[error(transparent)]
    Artifacts(#[from] ArtifactError),
    /// The dispatcher is gone.
    #[error(transparent)]
    Dispatch(#[from] DispatchError),
    /// A file of the run's folder cannot be written.
    #[error("{} cannot be written: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The dataset cannot be written down.
    #[error("the dataset of iteration {iteration} cannot be made: {problem}")]
    Dataset {
        /// The iteration.
        iteration: u32,
        /// Why not.
        problem: String,
    },
    /// Asked to stop.
    #[error("stopped; the same command goes on from here")]
    Cancelled,
}
