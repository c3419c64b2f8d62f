//! Models in one GGUF file: weights, configuration, tokenizer and chat template together.

use std::fs::File;
use std::io::BufReader;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{Device, Tensor};

use super::weights::{Weight, WeightSource};
use super::{Architecture, LoadError, ModelConfig};

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

    pub(super) fn config(&self) -> Result<ModelConfig, LoadError> {
        let family = self.text("general.architecture")?;
        if family != "llama" {
            return Err(self.unsupported("general.architecture", family, "llama"));
        }
        let heads = self.number("llama.attention.head_count")?;
        let hidden_size = self.number("llama.embedding_length")?;
        let head_dim = match self.optional_number("llama.attention.key_length")? {
            Some(width) => width,
            None => hidden_size.checked_div(heads).unwrap_or(0),
        };
        self.check_rope(head_dim)?;
        let vocab_size = match self.optional_number("llama.vocab_size")? {
            Some(size) => size,
            None => self.array("tokenizer.ggml.tokens")?.len(),
        };
        let config = ModelConfig {
            architecture: Architecture::Llama,
            vocab_size,
            hidden_size,
            intermediate_size: self.number("llama.feed_forward_length")?,
            layers: self.number("llama.block_count")?,
            heads,
            kv_heads: self.optional_number("llama.attention.head_count_kv")?.unwrap_or(heads),
            head_dim,
            rms_norm_eps: f64::from(self.float("llama.attention.layer_norm_rms_epsilon")?),
            rope_theta: match self.content.metadata.get("llama.rope.freq_base") {
                None => 10_000.0,
                Some(_) => self.float("llama.rope.freq_base")?,
            },
            rope_scaling: None,
            gemma: None,
            tie_embeddings: !self.has_tensor(Weight::Output),
            context_length: self.number("llama.context_length")?,
            bos: self.token_id("tokenizer.ggml.bos_token_id")?,
            eos: self.end_tokens()?,
        };
        config.check(&self.path)?;
        Ok(config)
    }

    /// Llama 3.1 files carry their scaled frequencies as a tensor, others name a scaling: running either without
    /// it would be silently wrong.
    fn check_rope(&self, head_dim: usize) -> Result<(), LoadError> {
        if self.content.tensor_infos.contains_key("rope_freqs.weight") {
            return Err(self.unsupported(
                "rope_freqs.weight",
                "a tensor of scaled rotary frequencies",
                "GGUF files without it; load this model from its safetensors folder",
            ));
        }
        if let Some(Value::String(kind)) = self.content.metadata.get("llama.rope.scaling.type")
            && kind != "none"
        {
            return Err(self.unsupported("llama.rope.scaling.type", kind, "none"));
        }
        match self.optional_number("llama.rope.dimension_count")? {
            Some(turned) if turned != head_dim => Err(self.unsupported(
                "llama.rope.dimension_count",
                &turned.to_string(),
                &format!("the head width, {head_dim}"),
            )),
            _ => Ok(()),
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

    fn number(&self, key: &str) -> Result<usize, LoadError> {
        let value = self.get(key)?;
        as_count(value).ok_or_else(|| self.invalid(key, &shorten(value), "a whole number"))
    }

    fn optional_number(&self, key: &str) -> Result<Option<usize>, LoadError> {
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

    fn has_tensor(&self, weight: Weight) -> bool {
        self.content.tensor_infos.contains_key(&weight.gguf_name())
    }
}

impl WeightSource for GgufFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read(&mut self, weight: Weight, config: &ModelConfig) -> Result<Tensor, LoadError> {
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
        let tensor = self
            .content
            .tensor(&mut self.reader, &name, &Device::Cpu)
            .and_then(|quantised| quantised.dequantize(&Device::Cpu))
            .and_then(|tensor| match weight {
                Weight::Query(_) => to_half_split(&tensor, config.heads),
                Weight::Key(_) => to_half_split(&tensor, config.kv_heads),
                _ => Ok(tensor),
            });
        tensor.map_err(|source| LoadError::Tensor { path: self.path.clone(), tensor: name, source: Box::new(source) })
    }
}

/// GGUF keeps query and key rows with the two members of a rotary pair side by side; Hugging Face (and so every
/// PEFT adapter) keeps all first members of a head, then all second ones. `[heads * head_dim, in]` to the same shape.
pub(super) fn to_half_split(weight: &Tensor, heads: usize) -> candle_core::Result<Tensor> {
    let (rows, columns) = weight.dims2()?;
    weight.reshape((heads, rows / heads / 2, 2, columns))?.transpose(1, 2)?.contiguous()?.reshape((rows, columns))
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
