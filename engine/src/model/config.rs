//! What a model's files say about its shape.

use std::path::Path;

use candle_transformers::models::llama::{LlamaConfig, LlamaEosToks};

use super::{Gemma, LoadError, RopeScaling};
use crate::attention::Activation;

/// The model families that this engine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Llama and everything that shares its graph (SmolLM2 among them).
    Llama,
    /// Mistral: Llama's graph. A sliding window bounds the context.
    Mistral,
    /// Qwen2 and Qwen2.5: queries, keys and values have a bias.
    Qwen2,
    /// Qwen3: queries and keys are normed, head by head.
    Qwen3,
    /// Gemma 2: see [`Gemma`].
    Gemma2,
    /// Gemma 3, its text models: see [`Gemma`]; queries and keys are normed, head by head.
    Gemma3,
}

impl Architecture {
    /// By Hugging Face name.
    const NAMES: [(&str, Self); 6] = [
        ("llama", Self::Llama),
        ("mistral", Self::Mistral),
        ("qwen2", Self::Qwen2),
        ("qwen3", Self::Qwen3),
        ("gemma2", Self::Gemma2),
        ("gemma3_text", Self::Gemma3),
    ];

    /// Queries, keys and values have a bias.
    pub(super) fn has_bias(self) -> bool {
        self == Self::Qwen2
    }

    /// Each head of queries and keys is normed before it is turned.
    pub(super) fn norms_heads(self) -> bool {
        matches!(self, Self::Qwen3 | Self::Gemma3)
    }

    /// It is one of [`Gemma`].
    pub(super) fn is_gemma(self) -> bool {
        matches!(self, Self::Gemma2 | Self::Gemma3)
    }

    /// The activation inside the feed-forward block.
    pub(crate) fn activation(self) -> Activation {
        if self.is_gemma() { Activation::GeluTanh } else { Activation::Silu }
    }
}

/// A model's shape, the same whatever file it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The family.
    pub architecture: Architecture,
    /// Rows of the embedding, which is also the number of logits.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the feed-forward block.
    pub intermediate_size: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads per layer.
    pub heads: usize,
    /// Key and value heads per layer; `heads` is a multiple of it.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Added to the mean square inside the norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// Scaling of the rotary frequencies, if the model was extended that way.
    pub rope_scaling: Option<RopeScaling>,
    /// What only Gemma has.
    pub gemma: Option<Gemma>,
    /// The output projection is the embedding.
    pub tie_embeddings: bool,
    /// The most tokens that a sequence may have.
    pub context_length: usize,
    /// The token that begins a text, if the model declares one.
    pub bos: Option<u32>,
    /// The tokens that end a reply, as the model's files declare them.
    pub eos: Vec<u32>,
}

impl ModelConfig {
    /// Width of all query heads together.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// From the text of a Hugging Face `config.json`; `path` is for messages.
    pub(super) fn from_hugging_face(text: &str, path: &Path) -> Result<Self, LoadError> {
        let malformed = |e: serde_json::Error| LoadError::Malformed { path: path.to_owned(), reason: e.to_string() };
        let mut value: serde_json::Value = serde_json::from_str(text).map_err(malformed)?;
        lift_rope_parameters(&mut value);
        let architecture = check_family(&value, path)?;
        // Taken out: candle's reader knows one kind of scaling only.
        let rope_scaling = value.as_object_mut().and_then(|map| map.remove("rope_scaling"));
        let rope_scaling = rope_scaling.map(|scaling| RopeScaling::read(&scaling, path)).transpose()?;
        let raw: LlamaConfig = serde_json::from_value(value.clone()).map_err(malformed)?;
        let head_dim = value
            .get("head_dim")
            .and_then(serde_json::Value::as_u64)
            .map(|d| d as usize)
            .unwrap_or_else(|| raw.hidden_size.checked_div(raw.num_attention_heads).unwrap_or(0));
        let mut config = Self {
            architecture,
            vocab_size: raw.vocab_size,
            hidden_size: raw.hidden_size,
            intermediate_size: raw.intermediate_size,
            layers: raw.num_hidden_layers,
            heads: raw.num_attention_heads,
            kv_heads: raw.num_key_value_heads(),
            head_dim,
            rms_norm_eps: raw.rms_norm_eps,
            rope_theta: raw.rope_theta,
            rope_scaling,
            gemma: None,
            tie_embeddings: raw.tie_word_embeddings.unwrap_or(false),
            // Within its window a model that slides is the model that does not.
            context_length: sliding_window(&value, architecture)
                .map_or(raw.max_position_embeddings, |window| window.min(raw.max_position_embeddings)),
            bos: raw.bos_token_id,
            eos: match raw.eos_token_id {
                None => Vec::new(),
                Some(LlamaEosToks::Single(id)) => vec![id],
                Some(LlamaEosToks::Multiple(ids)) => ids,
            },
        };
        // Before anything is made as large as they say.
        config.check(path)?;
        if architecture.is_gemma() {
            config.gemma = Some(Gemma::read(&value, architecture, config.layers, path)?);
        }
        Ok(config)
    }

    /// Refuses shapes that no model can have, before any of them reaches an allocation.
    pub(super) fn check(&self, path: &Path) -> Result<(), LoadError> {
        // Far above every published model; a damaged file would otherwise ask for exabytes.
        const MOST: usize = 1 << 24;
        let invalid = |key: &str, value: String, expected: &str| {
            Err(LoadError::InvalidValue {
                path: path.to_owned(),
                key: key.to_owned(),
                value,
                expected: expected.to_owned(),
            })
        };
        let sizes = [
            ("vocabulary size", self.vocab_size),
            ("hidden size", self.hidden_size),
            ("feed-forward size", self.intermediate_size),
            ("layer count", self.layers),
            ("head count", self.heads),
            ("key/value head count", self.kv_heads),
            ("head width", self.head_dim),
            ("context length", self.context_length),
        ];
        for (key, value) in sizes {
            if value == 0 || value > MOST {
                return invalid(key, value.to_string(), "between 1 and 16,777,216");
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return invalid(
                "key/value head count",
                self.kv_heads.to_string(),
                &format!("a divisor of the head count {}", self.heads),
            );
        }
        if !self.head_dim.is_multiple_of(2) {
            return invalid("head width", self.head_dim.to_string(), "an even number (rotary embeddings turn pairs)");
        }
        if !(self.rms_norm_eps.is_finite() && self.rms_norm_eps > 0.0) {
            return invalid("norm epsilon", self.rms_norm_eps.to_string(), "a small positive number");
        }
        if !(self.rope_theta.is_finite() && self.rope_theta > 0.0) {
            return invalid("rope base", self.rope_theta.to_string(), "a positive number");
        }
        Ok(())
    }
}

/// Newer files keep all rotary settings under `rope_parameters`, Gemma 3's by kind of layer; older readers, candle's among
/// them, look for `rope_theta` and `rope_scaling` and would silently fall back to a default base.
fn lift_rope_parameters(config: &mut serde_json::Value) {
    let Some(map) = config.as_object_mut() else {
        return;
    };
    if let Some(mut parameters) = map.remove("rope_parameters") {
        if let Some(theta) = parameters.pointer("/sliding_attention/rope_theta") {
            map.insert("rope_local_base_freq".to_owned(), theta.clone());
        }
        if let Some(full) = parameters.get("full_attention") {
            parameters = full.clone();
        }
        if let Some(theta) = parameters.get("rope_theta") {
            map.insert("rope_theta".to_owned(), theta.clone());
        }
        map.insert("rope_scaling".to_owned(), parameters);
    }
    let plain = map.get("rope_scaling").is_some_and(|scaling| {
        let kind = scaling.get("rope_type").or_else(|| scaling.get("type"));
        matches!(kind.and_then(serde_json::Value::as_str), None | Some("default"))
    });
    if plain {
        map.remove("rope_scaling");
    }
}

/// Tokens that attention looks back, if the model says that it does not see all.
fn sliding_window(config: &serde_json::Value, architecture: Architecture) -> Option<usize> {
    let window = config.get("sliding_window").and_then(serde_json::Value::as_u64);
    let used = match architecture {
        // Gemma's layers slide by themselves.
        Architecture::Llama | Architecture::Gemma2 | Architecture::Gemma3 => false,
        Architecture::Mistral => true,
        Architecture::Qwen2 | Architecture::Qwen3 => {
            config.get("use_sliding_window").and_then(serde_json::Value::as_bool).unwrap_or(false)
        }
    };
    window.filter(|_| used).and_then(|window| usize::try_from(window).ok())
}

/// The family. Refuses what its graph cannot express here: other biases, another activation.
fn check_family(config: &serde_json::Value, path: &Path) -> Result<Architecture, LoadError> {
    let unsupported = |key: &str, value: &serde_json::Value, supported: &str| -> Result<Architecture, LoadError> {
        Err(LoadError::Unsupported {
            path: path.to_owned(),
            key: key.to_owned(),
            value: value.to_string().trim_matches('"').to_owned(),
            supported: supported.to_owned(),
        })
    };
    let Some(family) = config.get("model_type") else {
        let key = "model_type".to_owned();
        return Err(LoadError::MissingKey { path: path.to_owned(), key, for_what: "model" });
    };
    let known = Architecture::NAMES.iter().find(|(name, _)| family.as_str() == Some(name));
    let Some((_, architecture)) = known else {
        return unsupported("model_type", family, &Architecture::NAMES.map(|(name, _)| name).join(", "));
    };
    for key in ["attention_bias", "mlp_bias"] {
        if let Some(value @ serde_json::Value::Bool(true)) = config.get(key) {
            return unsupported(key, value, "false");
        }
    }
    // Gemma's first files said "gelu" and meant its approximation; the second key corrects the first.
    let activation = match architecture.activation() {
        Activation::Silu => "silu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
    };
    for key in ["hidden_activation", "hidden_act"] {
        match config.get(key) {
            None | Some(serde_json::Value::Null) => {}
            Some(serde_json::Value::String(name)) if name == activation => break,
            Some(other) => return unsupported(key, other, activation),
        }
    }
    Ok(*architecture)
}
