//! Gemma's own numbers, as GGUF files have them. What they leave out is what llama.cpp's readers take then.

use super::gguf::GgufFile;
use super::{Architecture, Gemma, LoadError};

/// Layers of the models of 27B parameters, whose queries are scaled as if their heads shared the hidden size.
const LARGEST_GEMMA2: usize = 46;
const LARGEST_GEMMA3: usize = 62;

/// A model's shape, as far as it decides Gemma's numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) hidden_size: usize,
    pub(super) heads: usize,
    pub(super) head_dim: usize,
    pub(super) layers: usize,
}

/// Reads the keys of `family`.
pub(super) fn read(
    file: &GgufFile,
    family: &str,
    architecture: Architecture,
    shape: Shape,
) -> Result<Gemma, LoadError> {
    let second = architecture == Architecture::Gemma2;
    let (largest, pattern) = if second { (LARGEST_GEMMA2, 2) } else { (LARGEST_GEMMA3, 6) };
    let key = |rest: &str| format!("{family}.{rest}");
    let positive = |key: String, otherwise: Option<f32>| match file.optional_float(&key)?.or(otherwise) {
        Some(value) if !(value.is_finite() && value > 0.0) => {
            Err(file.invalid(&key, &value.to_string(), "a positive number"))
        }
        value => Ok(value),
    };
    let window = key("attention.sliding_window");
    if file.number(&window)? == 0 {
        return Err(file.invalid(&window, "0", "1 or more"));
    }
    let query_width = if shape.layers == largest { shape.hidden_size / shape.heads.max(1) } else { shape.head_dim };
    Ok(Gemma {
        attention_scale: (query_width as f32).powf(-0.5),
        attention_softcap: positive(key("attn_logit_softcapping"), second.then_some(50.0))?,
        logit_softcap: positive(key("final_logit_softcapping"), second.then_some(30.0))?,
        window: file.number(&window)?,
        // Every so many layers, the last of them sees everything.
        sliding: (1..=shape.layers).map(|layer| !layer.is_multiple_of(pattern)).collect(),
        sliding_rope_theta: match second {
            true => None,
            false => positive(key("rope.freq_base_swa"), Some(10_000.0))?,
        },
    })
}
