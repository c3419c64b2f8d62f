use std::path::PathBuf;

use influence_proto::{Digest, RunId};

/// Why an artifact could not be read or written, or a model not be offered.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// A place that artifacts cannot be kept in.
    #[error("artifacts cannot be kept in `{place}`: {problem}; give a folder or s3://BUCKET/PREFIX")]
    Place {
        /// As it was given.
        place: String,
        /// What is wrong with it.
        problem: String,
    },
    /// There is none of this digest.
    #[error("there is no artifact {digest} in {place}")]
    Missing {
        /// The address.
        digest: Digest,
        /// Where the artifacts are.
        place: String,
    },
    /// What is stored is not what was put there.
    #[error(
        "artifact {digest} in {place} is damaged: its content has the digest {found}; delete it and repeat what made it"
    )]
    Damaged {
        /// The address.
        digest: Digest,
        /// What the content gives.
        found: Digest,
        /// Where the artifacts are.
        place: String,
    },
    /// Reading was to begin after the end.
    #[error("artifact {digest} has {bytes} bytes: there is nothing from byte {offset} on")]
    Beyond {
        /// The address.
        digest: Digest,
        /// Where reading was to begin.
        offset: u64,
        /// The artifact's size.
        bytes: u64,
    },
    /// An upload is not what it said it would be. What was spooled of it is gone.
    #[error("the upload of artifact {digest} has the digest {found}; upload it again from its first byte")]
    Mismatch {
        /// As the upload named it.
        digest: Digest,
        /// What came.
        found: Digest,
    },
    /// An upload goes on from another byte than the last one that came.
    #[error(
        "{spooled} bytes of artifact {digest} are here, but the upload goes on from byte {offset}; go on from {spooled}"
    )]
    Offset {
        /// The address.
        digest: Digest,
        /// Where the upload wants to go on.
        offset: u64,
        /// Where it must.
        spooled: u64,
    },
    /// Somebody else uploads the same artifact.
    #[error("artifact {digest} is being uploaded already; ask again when that has ended")]
    Busy {
        /// The address.
        digest: Digest,
    },
    /// An upload does not end. What was spooled of it is gone.
    #[error("artifact {digest} is larger than the {limit} bytes that an artifact may have")]
    TooLarge {
        /// The address.
        digest: Digest,
        /// The largest size.
        limit: u64,
    },
    /// The folder of unfinished uploads fails.
    #[error("{} cannot be used for uploads: {source}; check the disk's space and the folder's permissions", path.display())]
    Spool {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Reading or writing failed.
    #[error("artifacts in {place} cannot be read or written: {source}; {}", advice(place))]
    Io {
        /// Where the artifacts are.
        place: String,
        /// Why.
        source: Box<object_store::Error>,
    },
    /// A note beside the artifacts is none of ours.
    #[error("{object} in {place} cannot be read: {problem}; delete it")]
    Note {
        /// The note.
        object: String,
        /// Where the artifacts are.
        place: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A model was pushed that the run does not use.
    #[error("the run uses no model `{model}`; it uses {}", known.join(", "))]
    UnknownModel {
        /// The name given.
        model: String,
        /// Those of the run.
        known: Vec<String>,
    },
    /// A pushed model's list of files cannot be right.
    #[error("the files of the model `{model}` cannot be offered: {problem}")]
    PushedFiles {
        /// The model.
        model: String,
        /// What is wrong.
        problem: String,
    },
}

/// A worker's model is another than the run's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "run `{run}` uses the model `{model}` with files of the digest {pinned}, but this worker has loaded files of the \
     digest {found}; give this worker the same files (leave out --model {model}=PATH, or offer the right ones with \
     `influence model push {model}`), or begin another run with --fresh"
)]
pub struct OtherModel {
    /// The run.
    pub run: RunId,
    /// The model's name.
    pub model: String,
    /// What the run uses.
    pub pinned: Digest,
    /// What the worker has.
    pub found: Digest,
}

fn advice(place: &str) -> &'static str {
    if place.starts_with("s3://") {
        "check the bucket, its permissions and the AWS_* environment variables"
    } else {
        "check the disk's space and the folder's permissions"
    }
}
