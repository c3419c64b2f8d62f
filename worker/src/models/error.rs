//! Why a model cannot be had.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

use influence_proto::Digest;

/// A model that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No source answered.
    #[error(
        "no source of the model `{model}` answered:{}\nTo use files that you have, pass --model {model}=PATH, where PATH is a .gguf file or a folder with config.json, tokenizer.json and safetensors. Files that another machine has reach every worker with `influence model push {model}` there.",
        list(tried)
    )]
    NoSource {
        /// Name of the model.
        model: String,
        /// Every source in words, and why it did not do.
        tried: Vec<(String, SourceError)>,
    },
    /// The user's own path does not exist.
    #[error("--model {model}={}: there is no such file or folder", path.display())]
    Override {
        /// Name of the model.
        model: String,
        /// The path that was given.
        path: PathBuf,
    },
    /// The cache folder cannot be used.
    #[error("the cache folder {} cannot be used: {source}; choose another with --cache", path.display())]
    Cache {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no user cache folder.
    #[error("there is no home folder to keep models in: set HOME, or choose a folder with --cache")]
    NoHome,
}

/// Why one source did not do.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A local path that is not there.
    #[error("there is no {}", path.display())]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// The bytes are not those that were named.
    #[error("{} has the sha256 {found}, but {expected} is expected: the file is damaged or is another one", path.display())]
    Digest {
        /// The file.
        path: PathBuf,
        /// Digest of what is there.
        found: Digest,
        /// Digest of what should be.
        expected: Digest,
    },
    /// Reading or writing failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No pip, or pip failed.
    #[error("{0}")]
    Pip(String),
    /// The wheel does not hold what it should.
    #[error("{0}")]
    Wheel(String),
    /// The coordinator did not give the files that were pushed to it.
    #[error("{0}")]
    Pushed(String),
    /// A path that holds no model.
    #[error("{} is no model: {problem}", path.display())]
    NoModel {
        /// The file or folder.
        path: PathBuf,
        /// What it lacks.
        problem: String,
    },
    /// A model without files.
    #[error("`{model}` is served by {url}: it has no files here; name a model with `sources`")]
    Api {
        /// What the server calls it.
        model: String,
        /// Where the server is.
        url: String,
    },
    /// The hub did not answer, or refused.
    #[error("{0}")]
    Hub(String),
}

impl SourceError {
    pub(super) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

fn list(tried: &[(String, SourceError)]) -> String {
    let mut text = String::new();
    for (source, reason) in tried {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n  - {source}: {reason}");
    }
    text
}
