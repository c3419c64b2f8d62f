//! Why an adapter cannot be read, written or used.

use super::Projection;
use std::path::PathBuf;

/// A failure around an adapter folder. Every message names the file and what stands in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// A file or folder could not be read or written.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// `adapter_config.json` is not JSON of the expected form.
    #[error("{path} is not a PEFT adapter configuration: {reason}", path = path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The configuration asks for a feature that this engine does not have.
    #[error("{path} has {key} = {value}; supported: {supported}", path = path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The configuration key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What would be accepted.
        supported: &'static str,
    },
    /// The weights file is damaged, most often cut off.
    #[error("{path} is not a whole safetensors file ({reason}): fetch or train the adapter again", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the reader found.
        reason: String,
    },
    /// The weights file lacks a tensor that the configuration promises.
    #[error("{path} has no tensor {tensor}, which target_modules of its configuration ask for", path = path.display())]
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
    },
    /// The weights file has a tensor that no target of this model has.
    #[error("{path} has a tensor {tensor} that fits none of the targets ({targets}) in {layers} layers: it is of another model or kind", path = path.display())]
    UnknownTensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The targets of the configuration.
        targets: String,
        /// The model's layers.
        layers: usize,
    },
    /// A tensor's shape is not that of the model and rank.
    #[error("{path}: tensor {tensor} has shape {found:?}, and rank {rank} on this model needs {expected:?}", path = path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// The rank of the configuration.
        rank: usize,
        /// The shape that fits.
        expected: Vec<usize>,
    },
    /// A tensor holds infinite or undefined values.
    #[error("{path}: tensor {tensor} has a value that is not finite: the training that wrote it diverged", path = path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
    },
    /// Settings that no adapter can have.
    #[error("LoRA {setting} = {value}: {expected}")]
    Setting {
        /// The setting.
        setting: &'static str,
        /// Its value.
        value: String,
        /// What would be accepted.
        expected: &'static str,
    },
    /// The arithmetic library refused an operation on a projection.
    #[error("layer {layer}, {projection}: {source}")]
    Tensor {
        /// The layer.
        layer: usize,
        /// The projection.
        projection: Projection,
        /// The library's error.
        source: candle_core::Error,
    },
}
