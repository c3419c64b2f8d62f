//! What sets Gemma 2 (arXiv 2408.00118) and Gemma 3 (arXiv 2503.19786) apart from Llama's graph: bounded logits, layers
//! that see a window only, norms on both sides of each block, a scaled embedding.

use std::path::Path;

use serde::Deserialize;

use super::{Architecture, LoadError};

/// Gemma's own numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Gemma {
    /// Scores of attention are `attention_scale * (q . k)`.
    pub attention_scale: f32,
    /// Scores of attention stay within plus and minus this, by a hyperbolic tangent.
    pub attention_softcap: Option<f32>,
    /// Logits stay within plus and minus this.
    pub logit_softcap: Option<f32>,
    /// Tokens that a layer with a window sees, the token itself included.
    pub window: usize,
    /// Per layer, whether it sees its window only.
    pub sliding: Vec<bool>,
    /// Base of the rotary frequencies in layers with a window, where it is another (Gemma 3).
    pub sliding_rope_theta: Option<f32>,
}

/// The keys of `config.json` that only Gemma has.
#[derive(Debug, Deserialize)]
struct Raw {
    query_pre_attn_scalar: f32,
    sliding_window: usize,
    attn_logit_softcapping: Option<f32>,
    final_logit_softcapping: Option<f32>,
    layer_types: Option<Vec<String>>,
    #[serde(alias = "_sliding_window_pattern")]
    sliding_window_pattern: Option<usize>,
    rope_local_base_freq: Option<f32>,
}

impl Gemma {
    /// From a `config.json` whose rotary settings are those of the layers without a window.
    pub(super) fn read(
        config: &serde_json::Value,
        architecture: Architecture,
        layers: usize,
        path: &Path,
    ) -> Result<Self, LoadError> {
        let raw: Raw = serde_json::from_value(config.clone())
            .map_err(|e| LoadError::Malformed { path: path.to_owned(), reason: e.to_string() })?;
        let invalid = |key: &str, value: String, expected: &str| LoadError::InvalidValue {
            path: path.to_owned(),
            key: key.to_owned(),
            value,
            expected: expected.to_owned(),
        };
        if architecture == Architecture::Gemma2 {
            // Without them transformers takes bounds of its own; null is how a file says that there is none.
            for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
                if config.get(key).is_none() {
                    let key = key.to_owned();
                    return Err(LoadError::MissingKey { path: path.to_owned(), key, for_what: "model" });
                }
            }
        }
        // Every so many layers, the last of them sees everything.
        let pattern = raw.sliding_window_pattern.unwrap_or(if architecture == Architecture::Gemma3 { 6 } else { 2 });
        let sliding: Vec<bool> = match &raw.layer_types {
            Some(types) => types
                .iter()
                .map(|kind| match kind.as_str() {
                    "sliding_attention" => Ok(true),
                    "full_attention" => Ok(false),
                    other => Err(invalid("layer_types", other.to_owned(), "sliding_attention or full_attention")),
                })
                .collect::<Result<_, _>>()?,
            None => (1..=layers).map(|layer| !layer.is_multiple_of(pattern.max(1))).collect(),
        };
        if sliding.len() != layers {
            return Err(invalid(
                "layer_types",
                format!("{} entries", sliding.len()),
                &format!("{layers}, one a layer"),
            ));
        }
        if raw.sliding_window == 0 {
            return Err(invalid("sliding_window", "0".to_owned(), "1 or more"));
        }
        let positive = |key: &str, value: f32| match value.is_finite() && value > 0.0 {
            true => Ok(value),
            false => Err(invalid(key, value.to_string(), "a positive number")),
        };
        let cap = |key: &str, value: Option<f32>| value.map(|value| positive(key, value)).transpose();
        Ok(Self {
            attention_scale: positive("query_pre_attn_scalar", raw.query_pre_attn_scalar)?.powf(-0.5),
            attention_softcap: cap("attn_logit_softcapping", raw.attn_logit_softcapping)?,
            logit_softcap: cap("final_logit_softcapping", raw.final_logit_softcapping)?,
            window: raw.sliding_window,
            sliding,
            sliding_rope_theta: match architecture {
                Architecture::Gemma3 => {
                    Some(positive("rope_local_base_freq", raw.rope_local_base_freq.unwrap_or(10_000.0))?)
                }
                _ => None,
            },
        })
    }
}
