//! Models in one GGUF file: weights, configuration, tokenizer and chat template together.

use std::fs::File;
use std::io::BufReader;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use candle_core::quantized::QTensor;
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{Device, Tensor};

use super::weights::{Weight, WeightSource};
use super::{Architecture, LoadError, ModelConfig, RopeScaling, gguf_gemma};
use crate::linear::FrozenLinear;

/// Families by the name that GGUF has for them. Mistral's files call themselves Llama's.
const FAMILIES: [(&str, Architecture); 5] = [
    ("llama", Architecture::Llama),
    ("qwen2", Architecture::Qwen2),
    ("qwen3", Architecture::Qwen3),
    ("gemma2", Architecture::Gemma2),
    ("gemma3", Architecture::Gemma3),
];

/// By what each pair's rotary frequency is divided.
const ROPE_DIVISORS: &str = "rope_freqs.weight";

/// An opened GGUF file.
pub(super) struct GgufFile {
    path: PathBuf,
    reader: BufReader<File>,
    content: Content,
}

impl GgufFile {
    pub(super) fn open(path: &Path) -> Result<Self, LoadError> {
        let file = File::open(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
        let mut reader = BufReader::new(file);
        // The reader divides by the file's own alignment value, so a damaged header can panic inside it.
        let content = catch_unwind(AssertUnwindSafe(|| Content::read(&mut reader)));
        let malformed = |reason: String| LoadError::Malformed { path: path.to_owned(), reason };
        let content = content
            .map_err(|_| malformed("the header contradicts itself".to_owned()))?
            .map_err(|e| malformed(e.to_string()))?;
        Ok(Self { path: path.to_owned(), reader, content })
    }

    pub(super) fn config(&mut self) -> Result<ModelConfig, LoadError> {
        let family = self.text("general.architecture")?.to_owned();
        let known = FAMILIES.iter().find(|(name, _)| *name == family);
        let Some((_, architecture)) = known else {
            return Err(self.unsupported("general.architecture", &family, &FAMILIES.map(|(name, _)| name).join(", ")));
        };
        let key = |rest: &str| format!("{family}.{rest}");
        let heads = self.number(&key("attention.head_count"))?;
        let hidden_size = self.number(&key("embedding_length"))?;
        let head_dim = match self.optional_number(&key("attention.key_length"))? {
            Some(width) => width,
            None => hidden_size.checked_div(heads).unwrap_or(0),
        };
        let vocab_size = match self.optional_number(&key("vocab_size"))? {
            Some(size) => size,
            None => self.array("tokenizer.ggml.tokens")?.len(),
        };
        let layers = self.number(&key("block_count"))?;
        let mut config = ModelConfig {
            architecture: *architecture,
            vocab_size,
            hidden_size,
            intermediate_size: self.number(&key("feed_forward_length"))?,
            layers,
            heads,
            kv_heads: self.optional_number(&key("attention.head_count_kv"))?.unwrap_or(heads),
            head_dim,
            rms_norm_eps: f64::from(self.float(&key("attention.layer_norm_rms_epsilon"))?),
            rope_theta: self.optional_float(&key("rope.freq_base"))?.unwrap_or(10_000.0),
            rope_scaling: self.rope_scaling(&family, head_dim)?,
            gemma: None,
            tie_embeddings: !self.has_tensor(Weight::Output),
            context_length: self.number(&key("context_length"))?,
            bos: self.token_id("tokenizer.ggml.bos_token_id")?,
            eos: self.end_tokens()?,
        };
        // Before anything is made as large as they say.
        config.check(&self.path)?;
        if architecture.is_gemma() {
            config.gemma = Some(gguf_gemma::read(self, &family, &config)?);
        }
        Ok(config)
    }

    /// Llama 3.1 files carry their scaled frequencies as a tensor, others name a scaling.
    fn rope_scaling(&mut self, family: &str, head_dim: usize) -> Result<Option<RopeScaling>, LoadError> {
        let key = format!("{family}.rope.dimension_count");
        if let Some(turned) = self.optional_number(&key)?.filter(|turned| *turned != head_dim) {
            return Err(self.unsupported(&key, &turned.to_string(), &format!("the head width, {head_dim}")));
        }
        if let Some(info) = self.content.tensor_infos.get(ROPE_DIVISORS) {
            if info.shape.dims() != [head_dim / 2] {
                return Err(LoadError::WrongShape {
                    path: self.path.clone(),
                    tensor: ROPE_DIVISORS.to_owned(),
                    found: info.shape.dims().to_vec(),
                    expected: vec![head_dim / 2],
                });
            }
            let divisors = self.content.tensor(&mut self.reader, ROPE_DIVISORS, &Device::Cpu);
            let divisors = divisors.and_then(|tensor| tensor.dequantize(&Device::Cpu)?.to_vec1::<f32>());
            let divisors = divisors.map_err(|source| self.failed(ROPE_DIVISORS.to_owned(), source))?;
            return match divisors.iter().find(|divisor| !(divisor.is_finite() && **divisor > 0.0)) {
                Some(wrong) => Err(self.invalid(ROPE_DIVISORS, &wrong.to_string(), "positive numbers")),
                None => Ok(Some(RopeScaling::Divisors(divisors))),
            };
        }
        let key = format!("{family}.rope.scaling.type");
        match self.optional_text(&key)? {
            None | Some("none") => Ok(None),
            Some("linear") => {
                let key = format!("{family}.rope.scaling.factor");
                match self.float(&key)? {
                    factor if factor.is_finite() && factor > 0.0 => Ok(Some(RopeScaling::Linear(factor))),
                    other => Err(self.invalid(&key, &other.to_string(), "a positive number")),
                }
            }
            Some(kind) => Err(self.unsupported(&key, kind, "none, linear")),
        }
    }

    /// End of text, of turn and of message: llama.cpp's converters use all three keys.
    fn end_tokens(&self) -> Result<Vec<u32>, LoadError> {
        let mut ids = Vec::new();
        for key in ["eos", "eot", "eom"] {
            let id = self.token_id(&format!("tokenizer.ggml.{key}_token_id"))?;
            ids.extend(id.filter(|id| !ids.contains(id)));
        }
        Ok(ids)
    }

    pub(super) fn token_id(&self, key: &str) -> Result<Option<u32>, LoadError> {
        let Some(id) = self.optional_number(key)? else {
            return Ok(None);
        };
        u32::try_from(id).map(Some).map_err(|_| self.invalid(key, &id.to_string(), "a token id"))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn text(&self, key: &str) -> Result<&str, LoadError> {
        match self.get(key)? {
            Value::String(text) => Ok(text),
            other => Err(self.invalid(key, &shorten(other), "a text")),
        }
    }

    pub(super) fn optional_text(&self, key: &str) -> Result<Option<&str>, LoadError> {
        match self.content.metadata.get(key) {
            None => Ok(None),
            Some(_) => self.text(key).map(Some),
        }
    }

    pub(super) fn array(&self, key: &str) -> Result<&[Value], LoadError> {
        match self.get(key)? {
            Value::Array(values) => Ok(values),
            other => Err(self.invalid(key, &shorten(other), "an array")),
        }
    }

    pub(super) fn invalid(&self, key: &str, value: &str, expected: &str) -> LoadError {
        LoadError::InvalidValue {
            path: self.path.clone(),
            key: key.to_owned(),
            value: value.to_owned(),
            expected: expected.to_owned(),
        }
    }

    pub(super) fn unsupported(&self, key: &str, value: &str, supported: &str) -> LoadError {
        LoadError::Unsupported {
            path: self.path.clone(),
            key: key.to_owned(),
            value: value.to_owned(),
            supported: supported.to_owned(),
        }
    }

    fn get(&self, key: &str) -> Result<&Value, LoadError> {
        let value = self.content.metadata.get(key);
        value.ok_or_else(|| LoadError::MissingKey { path: self.path.clone(), key: key.to_owned(), for_what: "model" })
    }

    pub(super) fn number(&self, key: &str) -> Result<usize, LoadError> {
        let value = self.get(key)?;
        as_count(value).ok_or_else(|| self.invalid(key, &shorten(value), "a whole number"))
    }

    pub(super) fn optional_number(&self, key: &str) -> Result<Option<usize>, LoadError> {
        match self.content.metadata.get(key) {
            None => Ok(None),
            Some(_) => self.number(key).map(Some),
        }
    }

    fn float(&self, key: &str) -> Result<f32, LoadError> {
        match self.get(key)? {
            Value::F32(v) => Ok(*v),
            Value::F64(v) => Ok(*v as f32),
            other => Err(self.invalid(key, &shorten(other), "a floating-point number")),
        }
    }

    pub(super) fn optional_flag(&self, key: &str) -> Result<Option<bool>, LoadError> {
        match self.content.metadata.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.invalid(key, &shorten(other), "true or false")),
        }
    }

    pub(super) fn optional_float(&self, key: &str) -> Result<Option<f32>, LoadError> {
        match self.content.metadata.get(key) {
            None => Ok(None),
            Some(_) => self.float(key).map(Some),
        }
    }

    fn has_tensor(&self, weight: Weight) -> bool {
        self.content.tensor_infos.contains_key(&weight.gguf_name())
    }
}

impl GgufFile {
    /// The tensor as the file has it, of the configured shape.
    fn stored(&mut self, weight: Weight, config: &ModelConfig) -> Result<QTensor, LoadError> {
        let name = weight.gguf_name();
        let Some(info) = self.content.tensor_infos.get(&name) else {
            return Err(LoadError::MissingTensor { path: self.path.clone(), tensor: name });
        };
        // Before the bytes are read: a damaged shape must not decide how much is allocated.
        let expected = weight.shape(config);
        if info.shape.dims() != expected {
            return Err(LoadError::WrongShape {
                path: self.path.clone(),
                tensor: name,
                found: info.shape.dims().to_vec(),
                expected,
            });
        }
        let tensor = self.content.tensor(&mut self.reader, &name, &Device::Cpu);
        tensor.map_err(|source| self.failed(name, source))
    }

    fn failed(&self, tensor: String, source: candle_core::Error) -> LoadError {
        LoadError::Tensor { path: self.path.clone(), tensor, source: Box::new(source) }
    }
}

impl WeightSource for GgufFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn vector(&mut self, weight: Weight, config: &ModelConfig) -> Result<Tensor, LoadError> {
        let stored = self.stored(weight, config)?;
        stored.dequantize(&Device::Cpu).map_err(|source| self.failed(weight.gguf_name(), source))
    }

    fn matrix(
        &mut self,
        weight: Weight,
        bias: Option<Tensor>,
        config: &ModelConfig,
    ) -> Result<FrozenLinear, LoadError> {
        let stored = self.stored(weight, config)?;
        let turned = config.architecture == Architecture::Llama && matches!(weight, Weight::Query(_) | Weight::Key(_));
        let row_of = |output| if turned { half_split_row(output, config.head_dim) } else { output };
        FrozenLinear::quantised(&stored, row_of, bias).map_err(|source| self.failed(weight.gguf_name(), source))
    }
}

/// GGUF keeps query and key rows of Llama with the two members of a rotary pair side by side; Hugging Face (and so every
/// PEFT adapter) keeps all first members of a head, then all second ones. The file's row of Hugging Face's row `output`.
fn half_split_row(output: usize, head_dim: usize) -> usize {
    let (head, row) = (output / head_dim, output % head_dim);
    let half = head_dim / 2;
    head * head_dim + row % half * 2 + row / half
}

fn as_count(value: &Value) -> Option<usize> {
    let number = match value {
        Value::I8(v) => u64::try_from(*v).ok(),
        Value::I16(v) => u64::try_from(*v).ok(),
        Value::I32(v) => u64::try_from(*v).ok(),
        Value::I64(v) => u64::try_from(*v).ok(),
        other => other.to_u64().ok(),
    };
    number.and_then(|n| usize::try_from(n).ok())
}

/// A value for a message: arrays can hold a whole vocabulary.
fn shorten(value: &Value) -> String {
    match value {
        Value::Array(values) => format!("an array of {} values", values.len()),
        other => format!("{other:?}").chars().take(80).collect(),
    }
}
