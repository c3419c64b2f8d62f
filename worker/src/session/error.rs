use influence_engine::model::PlacementError;

use crate::client::ConnectError;
use crate::models::FetchError;

/// A worker that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A device that cannot be had.
    #[error(transparent)]
    Device(#[from] PlacementError),
    /// A worker that could take nothing.
    #[error("the number of slots is 0: give 1 or more")]
    NoSlots,
    /// The address cannot be used, or not with these credentials.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// One side does not accept who the other is.
    #[error("the coordinator at {address} and this worker do not trust each other: {reason}")]
    Denied {
        /// Where the coordinator is.
        address: String,
        /// Who does not, and why.
        reason: String,
    },
    /// The coordinator does not let this worker in.
    #[error(
        "the coordinator at {address} refuses this worker (protocol {lowest} to {highest}, release {release}): {reason}"
    )]
    Refused {
        /// Where the coordinator is.
        address: String,
        /// Lowest protocol of this worker.
        lowest: u32,
        /// Highest protocol of this worker.
        highest: u32,
        /// This worker's release.
        release: &'static str,
        /// What the coordinator said.
        reason: String,
    },
    /// The coordinator chose a protocol that this worker does not speak.
    #[error(
        "the coordinator at {address} speaks protocol {theirs}, this worker {lowest} to {highest}: use the same release for both"
    )]
    Protocol {
        /// Where the coordinator is.
        address: String,
        /// The coordinator's choice.
        theirs: u32,
        /// Lowest protocol of this worker.
        lowest: u32,
        /// Highest protocol of this worker.
        highest: u32,
    },
    /// The coordinator let this worker in and then does not accept what it says.
    #[error("the coordinator at {address} ended the session: {reason}")]
    Session {
        /// Where the coordinator is.
        address: String,
        /// What the coordinator said.
        reason: String,
    },
    /// A model's files cannot be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A model cannot be loaded.
    #[error("the model `{model}` cannot be loaded: {reason}")]
    Load {
        /// Its name.
        model: String,
        /// Why.
        reason: String,
    },
    /// The system gives no thread.
    #[error("a thread cannot be started: {0}")]
    Thread(#[from] std::io::Error),
}
