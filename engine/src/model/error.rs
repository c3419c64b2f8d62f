//! Why a model could not be loaded.

use std::path::PathBuf;

use crate::chat::ChatError;

/// A model that cannot be loaded. Every message names the file, what is wrong in it, and the way out.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Nothing stands at the path.
    #[error("no model at {path}: give a .gguf file, or a folder with config.json, tokenizer.json and *.safetensors", path = path.display())]
    NotFound {
        /// The path that was asked for.
        path: PathBuf,
    },
    /// The path is neither a GGUF file nor a model folder.
    #[error("{path} is not a model: {reason}; give a .gguf file, or a folder with config.json, tokenizer.json and *.safetensors", path = path.display())]
    NotAModel {
        /// The path that was asked for.
        path: PathBuf,
        /// What was found there instead.
        reason: String,
    },
    /// A file cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file's content is not what its format demands: most often a download that was cut off.
    #[error("{path} is damaged or truncated: {reason}; fetch it again and compare its sha256", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the reader found.
        reason: String,
    },
    /// A key that must be there is missing.
    #[error("{path} has no key `{key}`, which a {for_what} needs", path = path.display())]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The missing key.
        key: String,
        /// What cannot be built without it.
        for_what: &'static str,
    },
    /// A key has a value that cannot be used.
    #[error("{path}: key `{key}` is {value}, expected {expected}", path = path.display())]
    InvalidValue {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value, shortened.
        value: String,
        /// What would have been accepted.
        expected: String,
    },
    /// The file asks for something that this engine does not have.
    #[error("{path}: key `{key}` is `{value}`, which is not supported; supported: {supported}", path = path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// The values that are supported.
        supported: String,
    },
    /// A tensor that the architecture needs is not in the file.
    #[error("{path} has no tensor `{tensor}`: the file is incomplete or of another architecture", path = path.display())]
    MissingTensor {
        /// The file or folder.
        path: PathBuf,
        /// The tensor's name in that file.
        tensor: String,
    },
    /// A tensor's shape contradicts the configuration.
    #[error("{path}: tensor `{tensor}` has shape {found:?}, the configuration asks for {expected:?}", path = path.display())]
    WrongShape {
        /// The file or folder.
        path: PathBuf,
        /// The tensor's name in that file.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that follows from the configuration.
        expected: Vec<usize>,
    },
    /// A tensor cannot be read or converted.
    #[error("{path}: tensor `{tensor}` cannot be read: {source}", path = path.display())]
    Tensor {
        /// The file or folder.
        path: PathBuf,
        /// The tensor's name in that file.
        tensor: String,
        /// What candle said.
        source: Box<candle_core::Error>,
    },
    /// The tokenizer cannot be built.
    #[error("{path}: the tokenizer cannot be built: {reason}", path = path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The chat template cannot be used.
    #[error("{path}: {source}", path = path.display())]
    Chat {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ChatError,
    },
}
