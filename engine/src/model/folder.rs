//! Models as Hugging Face publishes them: a folder of JSON files and safetensors.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use candle_core::safetensors::Load;
use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use tokenizers::Tokenizer;

use super::weights::{Weight, WeightSource};
use super::{LoadError, ModelConfig};
use crate::linear::FrozenLinear;

/// A model folder whose JSON files have been read and whose weights are found.
pub(super) struct ModelFolder {
    path: PathBuf,
    /// File by tensor name.
    files: BTreeMap<String, PathBuf>,
    /// The file whose bytes are held, so that neighbouring tensors cost one read.
    open: Option<(PathBuf, Vec<u8>)>,
}

/// What `tokenizer_config.json` (and `chat_template.jinja` beside it) say about the chat format.
#[derive(Debug, Default)]
pub(super) struct ChatFiles {
    pub(super) template: Option<String>,
    pub(super) bos: Option<String>,
    pub(super) eos: Option<String>,
}

impl ModelFolder {
    pub(super) fn open(path: &Path) -> Result<Self, LoadError> {
        let index = path.join("model.safetensors.index.json");
        let files = if index.is_file() { sharded(path, &index)? } else { whole(path)? };
        Ok(Self { path: path.to_owned(), files, open: None })
    }

    pub(super) fn config(&self) -> Result<ModelConfig, LoadError> {
        let path = self.path.join("config.json");
        let mut config = ModelConfig::from_hugging_face(&read_text(&path)?, &path)?;
        let output = Weight::Output.hugging_face_name();
        config.tie_embeddings |= !self.files.contains_key(&output);
        let generation = self.path.join("generation_config.json");
        if generation.is_file() {
            for id in end_tokens(&read_text(&generation)?, &generation)? {
                if !config.eos.contains(&id) {
                    config.eos.push(id);
                }
            }
        }
        Ok(config)
    }

    pub(super) fn tokenizer(&self) -> Result<Tokenizer, LoadError> {
        let path = self.path.join("tokenizer.json");
        let failed = |e: tokenizers::Error| LoadError::Tokenizer { path: path.clone(), reason: e.to_string() };
        Tokenizer::from_bytes(read_text(&path)?).map_err(failed)
    }

    pub(super) fn chat_files(&self) -> Result<ChatFiles, LoadError> {
        let path = self.path.join("tokenizer_config.json");
        let raw: RawTokenizerConfig = parse(&read_text(&path)?, &path)?;
        let beside = self.path.join("chat_template.jinja");
        let template = if beside.is_file() {
            Some(read_text(&beside)?)
        } else {
            raw.chat_template.and_then(RawTemplate::default_one)
        };
        Ok(ChatFiles { template, bos: raw.bos_token.map(RawToken::text), eos: raw.eos_token.map(RawToken::text) })
    }
}

impl ModelFolder {
    /// The tensor as its file has it, of the configured shape.
    fn stored(&mut self, weight: Weight, config: &ModelConfig) -> Result<Tensor, LoadError> {
        let name = weight.hugging_face_name();
        let Some(path) = self.files.get(&name).cloned() else {
            return Err(LoadError::MissingTensor { path: self.path.clone(), tensor: name });
        };
        if self.open.as_ref().is_none_or(|(open, _)| *open != path) {
            self.open = Some((path.clone(), read_bytes(&path)?));
        }
        let bytes = self.open.as_ref().map_or(&[][..], |(_, bytes)| bytes);
        let tensors = deserialize(bytes, &path)?;
        let Ok(view) = tensors.tensor(&name) else {
            return Err(LoadError::MissingTensor { path, tensor: name });
        };
        let expected = weight.shape(config);
        if view.shape() != expected {
            return Err(LoadError::WrongShape { path, tensor: name, found: view.shape().to_vec(), expected });
        }
        view.load(&Device::Cpu).map_err(|source| self.failed(weight, source))
    }

    fn failed(&self, weight: Weight, source: candle_core::Error) -> LoadError {
        let tensor = weight.hugging_face_name();
        let path = self.files.get(&tensor).unwrap_or(&self.path).clone();
        LoadError::Tensor { path, tensor, source: Box::new(source) }
    }
}

impl WeightSource for ModelFolder {
    fn path(&self) -> &Path {
        &self.path
    }

    fn vector(&mut self, weight: Weight, config: &ModelConfig) -> Result<Tensor, LoadError> {
        let tensor = self.stored(weight, config)?.to_dtype(DType::F32);
        // Gemma keeps its norms' factors less 1.
        let shifted = config.architecture.is_gemma() && weight.is_norm();
        let tensor = tensor.and_then(|tensor| if shifted { tensor + 1.0 } else { Ok(tensor) });
        tensor.map_err(|source| self.failed(weight, source))
    }

    fn matrix(
        &mut self,
        weight: Weight,
        bias: Option<Tensor>,
        config: &ModelConfig,
    ) -> Result<FrozenLinear, LoadError> {
        let tensor = self.stored(weight, config)?;
        FrozenLinear::new(&tensor, bias).map_err(|source| self.failed(weight, source))
    }
}

/// File by tensor name, from the index of a sharded model. An index may name files outside the folder: refused.
fn sharded(folder: &Path, index: &Path) -> Result<BTreeMap<String, PathBuf>, LoadError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let parsed: Index = parse(&read_text(index)?, index)?;
    let names: BTreeSet<&String> = parsed.weight_map.values().collect();
    for name in names {
        if name.contains(['/', '\\']) || name == ".." {
            return Err(LoadError::InvalidValue {
                path: index.to_owned(),
                key: "weight_map".to_owned(),
                value: name.clone(),
                expected: "names of files in the same folder".to_owned(),
            });
        }
    }
    let entry = |(tensor, file): (String, String)| (tensor, folder.join(file));
    Ok(parsed.weight_map.into_iter().map(entry).collect())
}

/// File by tensor name, for a model in one safetensors file.
fn whole(folder: &Path) -> Result<BTreeMap<String, PathBuf>, LoadError> {
    let path = folder.join("model.safetensors");
    if !path.is_file() {
        return Err(LoadError::NotAModel {
            path: folder.to_owned(),
            reason: "it has neither model.safetensors nor model.safetensors.index.json".to_owned(),
        });
    }
    let bytes = read_bytes(&path)?;
    let names = deserialize(&bytes, &path)?;
    let names = names.names().into_iter();
    Ok(names.map(|name| (name.to_owned(), path.clone())).collect())
}

fn deserialize<'a>(bytes: &'a [u8], path: &Path) -> Result<safetensors::SafeTensors<'a>, LoadError> {
    safetensors::SafeTensors::deserialize(bytes)
        .map_err(|e| LoadError::Malformed { path: path.to_owned(), reason: e.to_string() })
}

fn end_tokens(text: &str, path: &Path) -> Result<Vec<u32>, LoadError> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Ids {
        One(u32),
        Many(Vec<u32>),
    }
    #[derive(Deserialize)]
    struct Generation {
        eos_token_id: Option<Ids>,
    }
    let generation: Generation = parse(text, path)?;
    Ok(match generation.eos_token_id {
        None => Vec::new(),
        Some(Ids::One(id)) => vec![id],
        Some(Ids::Many(ids)) => ids,
    })
}

#[derive(Deserialize)]
struct RawTokenizerConfig {
    chat_template: Option<RawTemplate>,
    bos_token: Option<RawToken>,
    eos_token: Option<RawToken>,
}

/// A template is one text, or several by name (`default`, `tool_use`, ...).
#[derive(Deserialize)]
#[serde(untagged)]
enum RawTemplate {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

impl RawTemplate {
    fn default_one(self) -> Option<String> {
        match self {
            Self::One(template) => Some(template),
            Self::Named(all) => all.into_iter().find(|named| named.name == "default").map(|named| named.template),
        }
    }
}

/// A special token is a text, or an object that holds it.
#[derive(Deserialize)]
#[serde(untagged)]
enum RawToken {
    Text(String),
    Object { content: String },
}

impl RawToken {
    fn text(self) -> String {
        match self {
            Self::Text(text) | Self::Object { content: text } => text,
        }
    }
}

fn parse<T: serde::de::DeserializeOwned>(text: &str, path: &Path) -> Result<T, LoadError> {
    serde_json::from_str(text).map_err(|e| LoadError::Malformed { path: path.to_owned(), reason: e.to_string() })
}

fn read_text(path: &Path) -> Result<String, LoadError> {
    std::fs::read_to_string(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, LoadError> {
    std::fs::read(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })
}
